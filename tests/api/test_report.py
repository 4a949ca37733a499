"""The report of a run: whole, self-contained, and true to the run_dir."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from api.fakes import FakeEncoder, tiny_config, tiny_data
from difal.errors import ConfigError
from difal.report import figures, outlook, write_report
from difal.run import pictures
from difal.run.directory import RunDirectory
from difal.run.loop import run

VOID = {"meta", "img", "br"}


class Balance(HTMLParser):
    """Checks that every tag is closed in order, and gathers what is referred to."""

    def __init__(self):
        super().__init__()
        self.open, self.links = [], []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run(tiny_config(folder, pictures=2), data=tiny_data(), encoder=FakeEncoder(), log=len)
    return folder


def test_it_is_whole_and_needs_nothing_else(finished):
    text = write_report(finished).read_text()
    page = Balance()
    page.feed(text)
    assert page.open == []
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    assert len([link for link in page.links if link.startswith("data:")]) == 12  # two images, six pictures each
    assert not re.search(r"url\((?!#)", text)


def test_it_shows_what_the_run_directory_holds(finished):
    run_dir = RunDirectory(finished)
    text = write_report(finished).read_text()
    last = run_dir.round(2).metrics()
    for policy in ("standard", "released"):
        assert f"{100 * last['miou'][policy]:.2f}</td>" in text
    for name, iou in zip(run_dir.facts()["classes"], last["class_iou"], strict=True):
        value = "absent" if iou is None else "no label" if name in last["unlabeled"] else f"{100 * iou:.1f}"
        assert re.search(rf'</span>{name}</td>((?!</tr>)[\s\S])*<td class="n">{value}</td>', text)
    assert "local herding" in text
    assert "training" in text
    assert ">pictures<" in text


def test_it_can_be_written_midway_and_without_a_test_set(tmp_path):
    run(tiny_config(tmp_path, rounds=1, pictures=0), data=tiny_data(test=0), encoder=FakeEncoder(), log=len)
    text = write_report(tmp_path, tmp_path / "elsewhere.html").read_text()
    assert "no test set" in text
    assert "Where the clicks went" in text


def test_large_images_are_drawn_small(tmp_path, monkeypatch):
    """The logits of every pixel of a photograph would not fit; marks stay at their positions."""
    rows = {}
    for side in (64, 16):
        monkeypatch.setattr(pictures, "LONG_SIDE", side)
        folder = tmp_path / str(side)
        run(tiny_config(folder, rounds=2), data=tiny_data(size=64), encoder=FakeEncoder(), log=len)
        (path,) = (folder / "pictures").iterdir()
        maps, name, *_ = figures.read_picture(path)
        assert {kind: array.shape[:2] for kind, array in maps.items()} == dict.fromkeys(maps, (side, side))
        labels = [label for entry in RunDirectory(folder).rounds() for label in entry.labels() if label.image == name]
        rows[side] = figures.picture_row(maps, labels, RunDirectory(folder).facts()["colors"], 1)[0][1]
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(rows[side].partition(",")[2]))))
        for label in labels:
            y, x = (int((at + 0.5) / 64 * len(picture)) for at in (label.y, label.x))
            assert picture[y, x].tolist() == [0, 0, 0]  # the dot in the middle of a ring
    assert labels
    write_report(folder)
    assert (
        "Maps by the\nhead of round 0, the newest when the last picks were chosen; bright"
        in (folder / "report.html").read_text()
    )


def test_the_range_of_a_map_has_digits(finished):
    """DALD of an encoder without diffusion is a few thousandths."""
    maps = {kind: np.zeros((8, 8), np.float32) for kind in ("edald", "entropy", "dald")}
    maps |= {"image": np.zeros((8, 8, 3), np.uint8), "prediction": np.zeros((8, 8), np.uint8)}
    maps["edald"] += 1.814
    maps["dald"] += 0.0042
    captions = [caption for caption, _ in figures.picture_row(maps, [], [[0, 0, 0]], 0)]
    assert captions[2::2] == ["eDALD, 0 to 1.8 nats", "DALD, 0 to 0.0042 nats"]


@pytest.mark.parametrize("compat", ["none", "released"])
def test_the_edald_map_is_what_ranked_the_pixels(tmp_path, compat):
    """At the last picks the map has their scores, whichever of the two formulas `compat` names."""
    config = tiny_config(
        tmp_path,
        rounds=2,
        pictures=5,
        compat=compat,
        cache_dtype="float32",
        epochs=20,
        acquisition="two-stage-edald",
        head="mlp",
    )
    run(config, data=tiny_data(), encoder=FakeEncoder(), log=len)
    maps = {name: found for found, name, *_ in map(figures.read_picture, sorted((tmp_path / "pictures").iterdir()))}
    picks = RunDirectory(tmp_path).round(1).picks()
    scores = np.array([pick.score for pick in picks])
    shown = np.array([maps[pick.image]["edald"][pick.y, pick.x] for pick in picks], np.float64)
    assert np.allclose(shown, scores, rtol=2e-3, atol=2e-3)  # the maps are float16
    plain = np.array([maps[p.image]["entropy"][p.y, p.x] + maps[p.image]["dald"][p.y, p.x] for p in picks], np.float64)
    assert np.allclose(plain, scores, rtol=2e-3, atol=2e-3) == (compat == "none")


def test_names_are_no_markup(tmp_path):
    data = tiny_data()
    data.classes = ("<script>", "a&b", *data.classes[2:])
    run(tiny_config(tmp_path, rounds=1), data=data, encoder=FakeEncoder(), log=len)
    text = write_report(tmp_path).read_text()
    page = Balance()
    page.feed(text)
    assert page.open == []
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_it_goes_into_a_folder(finished, tmp_path):
    assert write_report(finished, tmp_path) == tmp_path / "report.html"


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is no run folder"):
        write_report(tmp_path)
    RunDirectory(tmp_path).begin(tiny_config(tmp_path))
    with pytest.raises(ConfigError, match="has no round yet"):
        write_report(tmp_path)


def test_the_outlook_is_the_line_through_the_last_rounds():
    def rounds(*miou):
        return [{"labeled": 10 * 2**i, "miou": {"standard": one}} for i, one in enumerate(miou)]

    found = outlook(rounds(0.1, 0.2, 0.3, 0.34, 0.38))
    assert "twice as many labels (320) would bring about 4 points" in found
    assert "brought nothing more" in outlook(rounds(0.1, 0.4, 0.41, 0.40, 0.40))
    assert outlook(rounds(0.1, 0.2)) == ""
