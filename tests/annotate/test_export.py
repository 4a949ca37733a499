"""What an annotated run gives away is read back, and the old ways of labeling go on beside the page."""

import csv
import io
import json
import shutil
from contextlib import ExitStack
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from annotate.sessions import answer, change, retract
from api.fakes import FakeEncoder, outcome, tiny_config, tiny_data, use_fake_encoder, write_folder
from difal import cli
from difal.annotate import live
from difal.annotate.answers import Answers
from difal.annotate.export import export
from difal.annotate.journal import Journal, of_type, read_journal
from difal.annotate.label_studio import read_export
from difal.annotate.live import LiveModel
from difal.annotate.oracle import JournalOracle, journal_path
from difal.annotate.start import label_config, open_session, take_filled_in
from difal.config import ConfigError
from difal.data import open_data
from difal.data.readers import mask_names, open_images
from difal.data.scenes import CLASSES
from difal.encoders.lazy import LazyEncoder
from difal.features import maps
from difal.features.cache import Pixel
from difal.report import write_report
from difal.run.directory import RunDirectory
from difal.run.labels import read_labels
from difal.run.loop import run


@pytest.fixture
def scenes(tmp_path, monkeypatch):
    use_fake_encoder(patch=monkeypatch.setattr)
    return write_folder(tmp_path / "scenes", masks=True, test=True, size=32)


@pytest.fixture
def journal_of():
    """Opens the journal of a run folder, closed after the test."""
    with ExitStack() as stack:
        yield lambda folder: stack.enter_context(Journal(journal_path(folder)))


def settings(scenes, out, **changes):
    return tiny_config(out, **{"data": str(scenes), "oracle": "person", **changes})


def by_masks(picks, scenes) -> list[dict]:
    """Journal lines that answer picks from the masks."""
    pool = open_data(str(scenes)).train
    found = []
    for pick in picks:
        value = int(pool.mask(pool.ids.index(pick.image))[pick.y, pick.x])
        found.append(answer(pick.image, pick.x, pick.y, None if value == 255 else value, round=pick.round))
    return found


def label_round(folder, scenes, journal) -> None:
    journal.append(by_masks(RunDirectory(folder).rounds()[-1].picks(), scenes))


def runs(counts: list[int], height: int, width: int) -> np.ndarray:
    """COCO's uncompressed run-length code as a mask."""
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T


def test_what_is_written_is_read_back(scenes, tmp_path, journal_of, capsys):
    folder, out = tmp_path / "run", tmp_path / "out"
    config, journal = settings(scenes, folder, rounds=1), journal_of(folder)
    data = open_data(str(scenes))
    oracle = JournalOracle(folder, data.classes)
    assert run(config, encoder=FakeEncoder(), log=len, oracle=oracle) == "waiting"
    label_round(folder, scenes, journal)
    wrong, other = answer("p0.png", 1, 1, 3, kind="volunteered"), answer("p1.png", 4, 4, 5, kind="spare")
    again = answer("p1.png", 4, 4, 2, kind="repeat")
    journal.append([wrong, retract(wrong), other, again, change("add", name="moon")])
    journal.append([change("rename", class_id=5, name="highway"), change("merge", class_id=4, into=3)])
    journal.append([answer("p2.png", 9, 9, 8, kind="volunteered"), answer("p2.png", 8, 9, None, reason="unsure")])
    assert run(config, resume=True, encoder=FakeEncoder(), log=len, oracle=oracle) == "done"

    assert cli.main(["label", "--out", str(folder), "--export", str(out), "--image-prefix", "/files/"]) == cli.DONE
    assert "no masks: no head is trained yet" in capsys.readouterr().out
    train_live_head(folder, config)
    assert cli.main(["label", "--out", str(folder), "--export", str(out), "--image-prefix", "/files/"]) == cli.DONE
    told = capsys.readouterr().out
    assert cli.main(["report", str(folder)]) == cli.DONE
    report = (folder / "report.html").read_text()
    assert all(text in report for text in ("moon added", "class 5 renamed to highway", "merged into"))
    names = [*CLASSES[:5], "highway", *CLASSES[6:], "moon"]

    labels = read_labels(out / "labels.jsonl", names)
    assert read_labels(out / "labels.csv", names) == labels
    said = {label.place: label.class_id for label in labels}
    assert len(labels) == len(said) == 4 + 3
    skipped = sum(class_id is None for class_id in said.values())
    assert skipped >= 1
    assert f"{7 - skipped} labels, {skipped} skipped pixels, {len(data.train)} masks" in told
    assert (said["p1.png", 4, 4], said["p2.png", 9, 9], said["p2.png", 9, 8]) == (5, 8, None)
    assert 4 not in said.values()  # merged into 3

    points = read_export(out / "label_studio.json", data.train.ids, names)
    assert {one.place: one.class_id for one in points} == {k: v for k, v in said.items() if v is not None}
    assert all(
        task["data"]["image"].startswith("/files/p") for task in json.loads((out / "label_studio.json").read_text())
    )
    shown = ElementTree.parse(out / "label_studio.xml").getroot()
    assert [one.get("value") for one in shown.iter("Label")] == [n for i, n in enumerate(names) if i != 4]

    with open(out / "answers.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [one["id"] for one in of_type(journal.entries, "answer")]
    assert [row["id"] for row in rows if row["retracted"] == "True"] == [wrong["id"]]
    assert {row["class_name"] for row in rows if row["class_id"] == "5"} == {"highway"}
    assert json.loads((out / "agreement.json").read_text())["repeats"] == 1
    classes = json.loads((out / "classes.json").read_text())
    assert (classes["names"], classes["merged"]) == (names, {"4": 3})

    coco = json.loads((out / "coco.json").read_text())
    assert [(one["id"], one["name"]) for one in coco["categories"]] == list(enumerate(names))
    for image in coco["images"]:
        mask = np.array(Image.open(out / "masks" / image["file_name"]))
        assert mask.shape == (image["height"], image["width"]) == (32, 32)
        drawn = np.full(mask.shape, 255)
        for one in (one for one in coco["annotations"] if one["image_id"] == image["id"]):
            inside = runs(one["segmentation"]["counts"], *one["segmentation"]["size"])
            drawn[inside] = one["category_id"]
            left, top, width, height = one["bbox"]
            assert inside[top : top + height, left : left + width].sum() == inside.sum() == one["area"]
            assert inside.any(0).nonzero()[0][[0, -1]].tolist() == [left, left + width - 1]
        assert (drawn == mask).all()
    assert {image["file_name"] for image in coco["images"]} == set(data.train.ids)


def train_live_head(folder, config) -> None:
    """As the child process does."""
    run_dir = RunDirectory(folder)
    data = open_data(config.data)
    model = LiveModel(config, data, LazyEncoder(config), run_dir, run_dir.feature_folder())
    answers = Answers(data.classes)
    answers.add(read_journal(journal_path(folder)))
    pixels = [
        [data.train.ids.index(one.image), one.y, one.x, one.class_id]
        for one in answers.labels()
        if one.class_id is not None
    ]
    model.live(pixels, len(answers.classes.names), answers.lines)


def test_the_first_questions_come_before_an_image_is_encoded(scenes, tmp_path):
    """They are pixels whose features the cache will have, and are not asked again."""
    config = settings(scenes, tmp_path / "run", oracle="masks", rounds=1)
    data, run_dir, encoder = open_data(str(scenes)), RunDirectory(tmp_path / "run"), LazyEncoder(config, FakeEncoder())
    model = LiveModel(config, data, encoder, run_dir, run_dir.feature_folder())
    first = model.spare([], 5)
    again = model.spare([one[:3] for one in first["questions"]], 7)
    pixels = [tuple(one[:3]) for one in first["questions"] + again["questions"]]
    assert (first["encoded"], len(set(pixels))) == (0, 12)
    assert {tuple(one[3:]) for one in first["questions"]} == {(32, 32)}
    assert encoder().passes == 0
    run(config, encoder=FakeEncoder(), log=len)
    assert model.spare([], 1)["encoded"] == len(data.train)
    assert all(model.cache.find(Pixel(*pixel)) is not None for pixel in pixels)


def test_images_are_made_ready_while_nothing_is_asked(scenes, tmp_path, monkeypatch):
    config = settings(scenes, tmp_path / "masks", oracle="masks", rounds=1)
    run(config, encoder=FakeEncoder(), log=len)
    data, run_dir = open_data(str(scenes)), RunDirectory(tmp_path / "masks")
    encoder = LazyEncoder(config, FakeEncoder())

    def make(**changes):
        return LiveModel(replace(config, **changes), data, encoder, run_dir, run_dir.feature_folder())

    model = make()
    model.live([[0, 1, 1, 0], [1, 9, 9, 1]], len(data.classes), 2)
    monkeypatch.setattr(live, "SKETCH_REACH", 1e-3)  # to itself
    fresh = make(maps_gb=0)
    assert fresh.sketch([2, 3]) == {"images": [2, 3], "version": 1, "exact": []}
    ids = drawn(fresh, "2.sketch")
    at = fresh.cache.arrays["local.points"][2]
    seen = fresh.head.logits(np.float32(fresh.cache.arrays["local.features"][2]), np.arange(len(at))).argmax(1)
    assert ids.shape == (32, 32)
    assert set(np.unique(ids)) <= {0, 1}  # the classes that the head was given
    assert [ids[row, column] for row, column in at] == seen.tolist()
    before = encoder().passes
    assert [model.prepare() for _ in range(4)] == [True] * 2 + [False] * 2  # two were encoded for their labels
    assert encoder().passes == before + 2
    assert model.sketch([2, 0]) == {"images": [2, 0], "version": 1, "exact": [2, 0]}
    assert [model.predict([index])["version"] for index in range(4)] == [1] * 4
    assert (drawn(model, "2.sketch") == drawn(model, "2.classes")).all()
    assert [make().prepare(), encoder().passes] == [False, before + 2]  # no image is encoded again, by the next process
    monkeypatch.setattr(maps, "IN_MEMORY", 2.5 * model.maps.of(0).nbytes)
    small = make(maps_gb=0)
    small.maps.folder = tmp_path / "elsewhere"
    assert [small.prepare() for _ in range(4)] == [True, True, False, False]


def drawn(model: LiveModel, name: str) -> np.ndarray:
    return np.array(Image.open(model.folder / f"views/{name}.png"))


def test_the_report_counts_the_answers_of_a_round_under_way(scenes, tmp_path, journal_of):
    folder = tmp_path / "run"
    assert run(settings(scenes, folder, rounds=1), encoder=FakeEncoder(), log=len) == "waiting"
    assert "</b> waits for the classes of its 4\npixels" in write_report(folder).read_text()
    picks = RunDirectory(folder).rounds()[-1].picks()
    journal = journal_of(folder)
    journal.append([change("add", name="moon"), *by_masks(picks[:2], scenes)])
    journal.append([answer(picks[2].image, picks[2].x, picks[2].y, len(CLASSES)), answer("p0.png", 1, 1, 3)])
    text = write_report(folder).read_text()
    assert "3 of its 4 pixels are answered" in text
    assert "<b>3</b><span>queried pixels" in text


def test_run_goes_on_with_what_was_labeled_in_the_page(scenes, tmp_path, journal_of, capsys):
    """`difal run --resume` on a run of `difal label` takes the journal's answers, and ends as the masks' run."""
    folder = tmp_path / "run"
    journal = journal_of(folder)
    settings_of_masks = settings(scenes, tmp_path / "masks", oracle="masks", rounds=2)
    run(settings_of_masks, encoder=FakeEncoder(), log=len)
    run(settings(scenes, folder, rounds=2), encoder=FakeEncoder(), log=len, oracle=JournalOracle(folder, CLASSES))
    for _ in range(2):
        assert cli.main(["run", "--resume", str(folder)]) == cli.WAITING
        assert f"difal label --out {folder}" in capsys.readouterr().out
        label_round(folder, scenes, journal)
    assert cli.main(["run", "--resume", str(folder)]) == cli.DONE
    assert ">Annotators</h2>" in (folder / "report.html").read_text()
    names = ("picks.jsonl", "head.safetensors", "metrics.json")
    found, wanted = (
        {k: v for k, v in outcome(one).items() if k.endswith(names)} for one in (folder, tmp_path / "masks")
    )
    assert found == wanted


def test_label_takes_over_what_was_filled_in_by_hand(scenes, tmp_path):
    folder = tmp_path / "run"
    assert run(settings(scenes, folder), encoder=FakeEncoder(), log=len) == "waiting"
    path = folder / "to_label.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["class_name"], lines[2]["skipped"] = "road", True
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for _ in range(2):  # the second time all of it is in the journal
        session = open_session(label_config({"out": str(folder)}), annotator="ann")
        session.background.read_rounds()
        take_filled_in(session)
        assert [(one["x"], one["y"]) for one in session.next([])] == [(lines[i]["x"], lines[i]["y"]) for i in (1, 3)]
        kinds = [(one["kind"], one["class_id"]) for one in session.journal.entries]
        assert kinds == [("known", CLASSES.index("road")), ("known", None)]
        assert session.answers.owner is None  # nobody has answered in the page yet
        session.close()


def test_classes_that_a_run_does_not_have_are_refused_before_anything_is_written(scenes, tmp_path):
    folder = tmp_path / "run"
    assert run(settings(scenes / "images", folder, classes="sky,road"), encoder=FakeEncoder(), log=len) == "waiting"
    open_session(label_config({"out": str(folder)}), annotator="ann").close()
    before = {path: path.read_bytes() for path in folder.rglob("*.json")}
    with pytest.raises(ConfigError, match="the classes were"):
        open_session(label_config({"out": str(folder), "classes": "sky,tree"}), annotator="ann")
    assert {path: path.read_bytes() for path in folder.rglob("*.json")} == before


def test_deep_images_are_shown_as_the_run_scales_them(tmp_path):
    """Two 16-bit images of different range: one range for both, as the encoder gets them."""
    rng, folder = np.random.default_rng(0), tmp_path / "deep"
    folder.mkdir()
    for name, top in (("a", 1000), ("b", 4000)):
        Image.fromarray(rng.integers(0, top, (40, 50)).astype(np.uint16)).save(folder / f"{name}.png")
    config = label_config({"data": str(folder), "classes": "cell,ground", "out": str(tmp_path / "run")})
    session = open_session(config, annotator="ann")
    pool = open_data(str(folder), classes=("cell", "ground")).train
    for index in range(2):
        for picture in (session.images.overview(index), session.images.window(index, 3, 3)):
            assert (np.array(Image.open(io.BytesIO(picture))) == pool.image(index)).all()
    assert pool.image(0).max() < 80 < 240 < pool.image(1).max()
    session.close()


class MadeUp:
    """A model that predicts one class for each image."""

    def __init__(self, data):
        self.ids = data.train.ids

    def masks(self):
        for at, name in enumerate(self.ids):
            yield name, np.full((4, 5), at, np.uint8)


def test_masks_are_named_as_predict_names_them(tmp_path):
    """Without the image's ending, but where that would give two images one mask; they are found as masks of a pool."""
    folder, out = tmp_path / "photos", tmp_path / "out"
    for name in ("a.jpg", "b.jpg", "b.png", "in/B.jpg", "in/c.tif"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 4)).save(folder / name)
    data = open_data(str(folder), classes=CLASSES)
    assert export(RunDirectory(tmp_path / "run"), data, MadeUp(data), str(out))["masks"] == 5
    masks = {path.relative_to(out / "masks").as_posix(): path for path in (out / "masks").rglob("*.png")}
    assert set(masks) == {"a.png", "b.jpg.png", "b.png.png", "in/B.png", "in/c.png"}
    assert set(masks) == {f"{name}.png" for name in open_images(folder)[0].ids}
    coco = json.loads((out / "coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == list(data.train.ids)
    folder.rename(tmp_path / "pool-images")
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool-images").rename(tmp_path / "pool/images")
    for masks in (out / "masks", old_names(tmp_path / "old", data.train.ids)):
        shutil.copytree(masks, tmp_path / "pool/masks")
        pool = open_data(str(tmp_path / "pool"), classes=CLASSES).train
        assert [int(pool.mask(at)[0, 0]) for at in range(5)] == list(range(5))
        shutil.rmtree(tmp_path / "pool/masks")


def old_names(folder, ids):
    for at, name in enumerate(ids):
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 5), at, np.uint8)).save(path)
    return folder


@pytest.mark.parametrize("names", [("a.jpg", "a.png", "a.jpg.png"), ("x.jpg.png", "x.jpg")])
def test_no_mask_name_is_another_image_s(tmp_path, names):
    """`a.jpg.png` less its ending is the name that `a.jpg` keeps beside `a.png`."""
    for name in names:
        Image.new("RGB", (5, 4)).save(tmp_path / name)
    assert len({one.lower() for one in open_images(tmp_path)[0].ids}) == len(names)


@pytest.mark.parametrize(("name", "given"), [("train/v1.0.png", "v1.0"), ("train/v1.png.png", "v1.png")])
def test_an_id_that_has_no_ending_loses_none(tmp_path, name, given):
    for path in (name, name.replace("train/", "trainannot/")):
        (tmp_path / path).parent.mkdir()
        Image.new("L", (5, 4)).save(tmp_path / path)
    split = open_data(tmp_path).train
    assert split.ids == (given,)
    assert mask_names(split) == [given] == list(open_images(tmp_path / "train")[0].ids)
    assert mask_names(tiny_data().train) == list(tiny_data().train.ids)
