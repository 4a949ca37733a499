"""Sweeps: what is run once, shared, skipped, taken up again, and reported."""

import json
import os
import signal
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from api.fakes import FakeEncoder, outcome, tiny_config, use_fake_encoder, write_folder
from difal import cli
from difal.errors import ConfigError, DataError, UserError
from difal.features.compute import make_features
from difal.features.test_set import TestSet
from difal.presets import make_config, presets, read_preset
from difal.run.directory import RunDirectory
from difal.run.labels import read_labels, write_label_file
from difal.run.loop import run
from difal.run.oracles import MaskOracle
from difal.sweep import Sweep, is_finished, sweep
from difal.sweep.table import _drawn, table, without_spread

TESTS = Path(__file__).resolve().parents[1]
SMALL = {
    "size": 32, "rounds": 2, "budget": 4.0, "candidates": 60, "local": 12, "random": 12, "noise_samples": 2,
    "epochs": 2, "context": 8, "threads": 1,
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def data(tmp_path_factory):
    """The data of every sweep here."""
    folder = write_folder(tmp_path_factory.mktemp("data") / "few", masks=True, test=True, count=2)
    SMALL["data"] = str(folder)
    yield folder
    del SMALL["data"]


@pytest.fixture
def encoder(monkeypatch):
    """A small encoder in place of every other; counts its passes."""
    one = FakeEncoder()
    use_fake_encoder(lambda: one, monkeypatch.setattr)
    return one


def plan(out, acquisitions=("two-stage-edald", "random"), seeds=(0, 1), **more):
    settings = {**SMALL, **more.pop("settings", {})}
    return Sweep(out, settings, acquisitions=acquisitions, seeds=seeds, jobs=1, **more)


def test_a_sweep_is_its_runs(tmp_path, encoder, monkeypatch):
    tested, evaluate = [], TestSet.evaluate
    monkeypatch.setattr(TestSet, "evaluate", lambda s, heads, *a: tested.append(len(heads)) or evaluate(s, heads, *a))
    found = sweep(plan(tmp_path / "s"), log=len)
    assert tested == [2] * 4  # each run reads the test set once, for the heads of all its rounds
    assert [(one["acquisition"], one["seed"]) for one in found] == [
        ("two-stage-edald", 0), ("random", 0), ("two-stage-edald", 1), ("random", 1),
    ]  # fmt: skip
    alone = tiny_config(tmp_path / "alone", **{**SMALL, "acquisition": "random", "seed": 1, "pictures": 0})
    run(alone, log=len)
    assert outcome(tmp_path / "alone") == outcome(tmp_path / "s/runs/random-seed1")
    kept = json.loads((tmp_path / "s/results.json").read_text())
    assert kept["runs"] == found
    assert kept["sweep"]["candidates"] == 60
    last = [one["miou"]["standard"][1] * 100 for one in found if one["acquisition"] == "random"]
    cell = f"{statistics.mean(last):.2f} ± {statistics.stdev(last):.2f}"
    row = next(line for line in (tmp_path / "s/table.md").read_text().splitlines() if line.startswith("| random"))
    assert row.split(" | ")[:4] == ["| random", "2", row.split(" | ")[2], cell]
    with Image.open(tmp_path / "s/curves.png") as picture:
        assert picture.width > 500
    assert sum(found[0]["class_clicks"].values()) == 16


def test_seeds_that_change_nothing_are_told(tmp_path, encoder):
    """The head of the defaults draws nothing, so coverage has one curve, and random another with each seed."""
    lines, settings = [], {"head": "linear", "epochs": 1}
    found = sweep(plan(tmp_path / "s", ("coverage", "random"), settings=settings), log=lines.append)
    assert without_spread(found) == ["coverage"]
    assert lines[-1] == "the same with every seed: coverage; --share 0.8 gives each seed candidates of its own"
    again = []
    sweep(plan(tmp_path / "s", ("coverage", "random"), settings=settings), log=again.append)
    assert again == ["4 of 4 runs are finished"]
    assert without_spread([{**one, "preset": "p"} for one in found if one["seed"] == 0]) == []


def test_the_plot_names_every_acquisition_of_a_long_list():
    """The legend is whole, and no two lines look alike."""
    names = [f"acquisition {n}" for n in range(23)]
    runs = [
        {"preset": "", "acquisition": name, "seed": 0, "queried": [8, 16], "miou": {"standard": [0.2, 0.3]}}
        for name in names
    ]
    figure = _drawn(runs)
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    legend = axes.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == names
    low, high = legend.get_window_extent().y0, legend.get_window_extent().y1
    assert low >= 0
    assert high <= figure.bbox.height
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == len(names)


def test_features_are_computed_once_and_nothing_twice(tmp_path, encoder):
    sweep(plan(tmp_path), log=len)
    passes = encoder.passes
    # Of each pool image, of the test images, to learn their size, and to see that the encoder works.
    assert passes == 2 * (1 + 2) + 2 + 1 + 1
    before, lines = outcome(tmp_path / "runs/random-seed0"), []
    (tmp_path / "table.md").unlink()
    sweep(plan(tmp_path), log=lines.append)
    assert lines == ["4 of 4 runs are finished"]
    assert (tmp_path / "table.md").is_file()
    sweep(plan(tmp_path, ("random", "coreset"), (0, 1)), log=lines.append)
    assert lines[1] == "2 of 4 runs are finished"
    assert encoder.passes == passes
    assert outcome(tmp_path / "runs/random-seed0") == before
    found = sweep(plan(tmp_path, ("random",), settings={"rounds": 3}), log=len)
    assert [len(one["queried"]) for one in found] == [3, 3]
    assert len(list((tmp_path / "caches").iterdir())) == 1
    sweep(plan(tmp_path, ("random",), (2,), features_per_seed=True), log=len)
    assert len(list((tmp_path / "caches").iterdir())) == 2


def test_other_settings_in_the_same_folder_are_refused(tmp_path, encoder):
    sweep(plan(tmp_path, ("random",), (0,)), log=len)
    with pytest.raises(ConfigError, match=r"random-seed0 was begun with keep = 0\.5, this sweep has 0\.25"):
        sweep(plan(tmp_path, ("random",), (0,), settings={"keep": 0.25}), log=len)


def test_rounds_whose_queries_are_all_skipped_are_finished_without_a_test(tmp_path, encoder, monkeypatch):
    """No head before the first label: nothing to test, and nothing to do again."""
    answer, skipped_rounds = MaskOracle.answer, [0]

    def skip(self, picks):
        skipped = {"class_id": None, "class_name": None, "skipped": True}
        return [replace(one, **skipped) if one.round in skipped_rounds else one for one in answer(self, picks)]

    monkeypatch.setattr(MaskOracle, "answer", skip)
    one = plan(tmp_path / "first", ("bait-then-herding", "random"), (0,))
    found = sweep(one, log=len)
    assert [done["queried"] for done in found] == [[16], [16]]
    for done in found:
        assert done["class_clicks"]["skipped"] >= 8
        assert sum(done["class_clicks"].values()) == 16
    lines = []
    assert sweep(one, log=lines.append) == found
    assert lines == ["2 of 2 runs are finished"]
    last = tmp_path / "first/runs/random-seed0/rounds/001"
    for name in ("metrics.json", "head.safetensors"):
        (last / name).unlink()
    assert not is_finished(one.config(one.runs()[1]))
    run_dir, labels = RunDirectory(last.parents[1]), last.parents[1] / "rounds/000/labels.jsonl"
    (last / "labels.jsonl").write_text(labels.read_text())  # now all of its queries were skipped
    assert is_finished(one.config(one.runs()[1]))
    before = replace(read_labels(labels, run_dir.round(0).classes)[0], class_id=1, skipped=False)
    write_label_file(run_dir.known_file, [before])
    assert [label.class_id for label in run_dir.known()] == [1]
    assert not is_finished(one.config(one.runs()[1]))  # a label from before the run is enough for a head
    skipped_rounds.append(1)
    never = sweep(plan(tmp_path / "never", ("random",), (0,)), log=len)
    assert (never[0]["queried"], never[0]["class_clicks"]["skipped"]) == ([], 16)


def test_a_run_that_fails_stops_no_other(tmp_path, encoder):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/random-seed0").write_text("in the way")
    with pytest.raises(UserError, match=r"1 of 2 runs failed(.|\n)*random seed 0: .*Error"):
        sweep(plan(tmp_path, ("random", "coverage"), (0,)), log=len)
    assert "| coverage | 1 |" in (tmp_path / "table.md").read_text()
    (tmp_path / "runs/random-seed0").unlink()
    assert len(sweep(plan(tmp_path, ("random", "coverage"), (0,)), log=len)) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"acquisitions": ("best",)}, "`acquisition` must be one of"),
        ({"acquisitions": ("random", "random")}, "`acquisitions` must differ"),
        ({"seeds": ()}, "at least one acquisition and one seed"),
        ({"settings": {"sede": 1}}, "unknown setting 'sede'"),
        ({"settings": {"seed": 1}}, "`seed` is what the sweep varies"),
        ({"presets": ("paper/camvit",)}, "did you mean paper/camvid"),
    ],
)
def test_what_is_refused(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        sweep(plan(tmp_path / "s", **changes), log=len)
    assert not list(tmp_path.iterdir())


def test_it_needs_a_test_set(tmp_path):
    folder = write_folder(tmp_path / "data", masks=True)
    with pytest.raises(DataError, match="needs masks, and a test set with masks"):
        sweep(plan(tmp_path / "s", settings={"data": str(folder)}), log=len)


# A life of a sweep; argv: its folder, the data's.
DRIVER = """
import sys
from pathlib import Path
from api.fakes import use_fake_encoder
from api.test_sweep import plan
from difal.sweep import sweep
use_fake_encoder()
sweep(plan(Path(sys.argv[1]), seeds=(0,), settings={"data": sys.argv[2]}), log=len)
"""


def test_killed_and_resumed(tmp_path, encoder):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "killed"), SMALL["data"]]
    done = subprocess.run(command, env={**env, "DIFAL_CRASH": "head:3"}, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "killed/runs/random-seed0/rounds/001").exists()
    found = sweep(plan(tmp_path / "killed", seeds=(0,)), log=len)
    never = sweep(plan(tmp_path / "never", seeds=(0,)), log=len)
    assert [{**one, "seconds": 0} for one in found] == [{**one, "seconds": 0} for one in never]
    for name in ("two-stage-edald-seed0", "random-seed0"):
        assert outcome(tmp_path / "killed/runs" / name) == outcome(tmp_path / "never/runs" / name)


@pytest.mark.parametrize("written", range(4))
def test_killed_as_a_run_begins(tmp_path, encoder, monkeypatch, written):
    """After no matter how many of its first files: the sweep can still tell that it is not finished."""
    one = plan(tmp_path, ("random",), (0,))
    make_features(one.config(one.runs()[0]))
    left, replace = [written], os.replace

    def last_breath(neighbour, path):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        replace(neighbour, path)

    with monkeypatch.context() as patched:
        patched.setattr("difal.files.os.replace", last_breath)
        with pytest.raises(KeyboardInterrupt):
            run(one.config(one.runs()[0]), log=len)
    (found,) = sweep(one, log=len)
    assert len(found["miou"]["standard"]) == 2


def test_several_processes_and_the_command_line(tmp_path, monkeypatch, capsys):
    """With the encoder of the package, and two presets, in two processes and in one."""
    monkeypatch.chdir(tmp_path)
    small = {**SMALL, "rounds": 1, "size": 32}
    flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in small.items())
    both = "--presets paper/camvid,released/camvid --encoder tiny --void ask --acquisitions edald --seeds 0"
    assert cli.main(f"sweep {both} {flags} --out two --jobs 2 --results shown".split()) == cli.DONE
    assert "done: shown/table.md" in capsys.readouterr().out
    assert "## released/camvid" in (tmp_path / "shown/table.md").read_text()
    assert cli.main(f"sweep {both} {flags} --out one --jobs 1".split()) == cli.DONE
    for name in presets():
        if "camvid" in name:
            run_of = Path("runs") / name / "edald-seed0"
            assert outcome(tmp_path / "two" / run_of) == outcome(tmp_path / "one" / run_of)
    assert len(list((tmp_path / "one/caches").iterdir())) == 1
    assert "compat: released" in (tmp_path / "one/runs/released/camvid/edald-seed0/config.yaml").read_text()
    capsys.readouterr()
    assert cli.main(["sweep", "--resume", "one", "--seeds", "0-1"]) == cli.DONE
    assert "[4/4] released/camvid edald seed 1" in capsys.readouterr().out
    assert cli.main(["sweep", "--resume", "nowhere"]) == cli.FAILED
    assert "nowhere is no folder of a sweep" in capsys.readouterr().err


def test_a_file_of_a_sweep(tmp_path, monkeypatch, encoder, capsys):
    monkeypatch.chdir(tmp_path)
    lines = [f"{name}: {value}" for name, value in SMALL.items()]
    Path("s.yaml").write_text("\n".join([*lines, "acquisitions: [random]", "seeds: [3]", "jobs: 1"]))
    assert cli.main(["sweep", "--config", "s.yaml", "--out", "s", "--rounds", "1"]) == cli.DONE
    assert [path.name for path in Path("s/runs").iterdir()] == ["random-seed3"]
    Path("s.yaml").write_text("seeds: 3\n")
    assert cli.main(["sweep", "--config", "s.yaml", "--out", "t"]) == cli.FAILED
    assert "`seeds` must be a list" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        cli.main(["sweep", "--seeds", "0-x"])
    assert "no range such as 0-4" in capsys.readouterr().err


def record(acquisition, seed, values, clicks=3, iou=0.5):
    return {
        "preset": "", "acquisition": acquisition, "seed": seed, "queried": [10, 20],
        "miou": {"standard": values, "released": [v / 2 for v in values]},
        "class_iou": {"sky": iou}, "class_clicks": {"sky": clicks, "skipped": 1},
    }  # fmt: skip


def test_the_table_pairs_seeds():
    runs = [
        record("edald", 0, [0.2, 0.4]), record("edald", 1, [0.4, 0.6], iou=None),
        record("random", 0, [0.1, 0.3]), record("random", 1, [0.1, 0.5], clicks=4),
    ]  # fmt: skip
    lines = table(runs).splitlines()
    first = lines.index(next(line for line in lines if line.startswith("| acquisition")))
    assert lines[first] == (
        "| acquisition | seeds | 10 pixels | 20 pixels | mean of the rounds | ahead of random "
        "| 20, released policy | mean, released policy |"
    )
    assert lines[first + 2].split(" | ")[1:] == [
        "2", "30.00 ± 14.14", "50.00 ± 14.14", "40.00 ± 14.14", "15.00 ± 7.07", "25.00 ± 7.07", "20.00 ± 7.07 |",
    ]  # fmt: skip
    assert "| sky | 50.00 (3) | 50.00 ± 0.00 (4) |" in lines
    late = {**record("margin", 0, [0.7]), "queried": [20]}  # its first round gave no class
    assert "| margin | 1 | 70.00 |" in table([*runs, late])


def test_presets_hold_the_papers_settings():
    assert set(presets()) == {
        f"{kind}/{name}"
        for kind in ("paper", "released")
        for name in ("camvid", "ade-bed", "cityscapes", "pascal-context")
    }
    for name in presets():
        values = read_preset(name)
        paper = (values["candidates"], values["local"], values["keep"], values["budget"], values["rounds"])
        assert paper == (10_000, 50, 0.5, 0.1, 10)
        assert (values["noise_samples"], values["epochs"], values["dropout"]) == (5, 50, 0.2)
        assert ("compat" in values) == ("void" in values) == name.startswith("released")
        config = make_config(None, {}, name)
        assert (config.size, config.acquisition, config.kernel, config.edald_weight) == (
            256,
            "two-stage-edald",
            "rbf",
            1,
        )
        assert (config.learning_rate, config.weight_decay, config.hidden) == (1e-3, 1e-5, "auto")
        assert (config.test_pixels, config.share, config.limit, config.labels, config.oracle) == (
            None,
            1,
            None,
            None,
            "auto",
        )
        quirks = ("released", "avoid") if name.startswith("released") else ("none", "ask")
        assert (config.compat, config.void) == quirks
        bedroom = "ade-bed" in name
        assert values["encoder"] == ("encoders/lsun_bedroom" if bedroom else "encoders/imagenet256")


def test_a_preset_is_overridden(tmp_path, monkeypatch, encoder, capsys):
    monkeypatch.chdir(tmp_path)
    flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in SMALL.items())
    for command in ("run --preset", "encode --cache b --preset", "sweep --seeds 0 --presets"):
        assert cli.main([*command.split(), "paper/ade-bed", "--data", SMALL["data"]]) == cli.FAILED
        assert "jul-2021/lsun_bedroom.pt (2.2 GB)" in capsys.readouterr().err
    Path("encoders/imagenet256").mkdir(parents=True)
    assert cli.main(f"run --preset released/cityscapes {flags} --pictures 0 --out r".split()) == cli.DONE
    text = Path("r/config.yaml").read_text()
    assert "compat: released" in text
    assert "candidates: 60" in text
    assert cli.main(["run", "--preset", "paper/none"]) == cli.FAILED
    assert "`preset` must be one of paper/ade-bed" in capsys.readouterr().err
    assert cli.main(["run", "--resume", "r", "--preset", "paper/camvid"]) == cli.FAILED
    assert cli.main(["presets"]) == cli.DONE
    assert capsys.readouterr().out.startswith("paper/ade-bed  ")
