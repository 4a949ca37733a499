"""The command line as a user meets it."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from api.fakes import write_folder
from difal import cli
from difal.cli._common import usable_devices
from difal.config import FIELDS

QUICK = (
    "--candidates 60 --local 6 --random 6 --noise-samples 1 --epochs 2 --context 8 --rounds 2 --budget 1 --pictures 1"
)


def test_a_run_and_its_report(difal, tmp_path):
    write_folder(tmp_path / "data", masks=True, test=True)
    code, out, err = difal(f"run --data data {QUICK} --threads 1")
    bars = ("checking the pool's images", "checking the test images", "feature cache", "test images", "pictures of")
    assert all(bar in err for bar in bars)  # nothing that takes long is silent
    assert code == cli.DONE
    assert "round 1: 8 pixels queried" in out
    assert "done: runs/data-bait-then-herding-seed0" in out
    assert "report: runs/data-bait-then-herding-seed0/report.html" in out
    code, out, _ = difal("predict runs/data-bait-then-herding-seed0 data/test/images --out classes")
    assert code == cli.DONE
    assert len(list((tmp_path / "classes/masks").iterdir())) == len(list((tmp_path / "data/test/images").iterdir()))
    code, out, _ = difal("report runs/data-bait-then-herding-seed0")
    assert code == cli.DONE
    assert (tmp_path / "runs/data-bait-then-herding-seed0/report.html").stat().st_size > 10_000
    code, out, _ = difal("run --resume --rounds 3")
    assert code == cli.DONE
    assert "round 2: 12 pixels queried" in out
    code, _, err = difal(f"run --data data {QUICK}")
    assert code == cli.FAILED
    assert "--resume" in err


def test_a_person_labels(difal, tmp_path):
    write_folder(tmp_path / "data", masks=False)
    code, out, _ = difal(f"run --data data {QUICK} --out r")
    assert code == cli.WAITING
    assert "difal run --resume r" in out
    question = tmp_path / "r/to_label.jsonl"
    lines = [json.loads(line) | {"class_name": "road"} for line in question.read_text().splitlines()]
    question.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert difal("run --resume r")[0] == cli.WAITING
    question.write_text(question.read_text().replace('"class_id": null', '"class_id": 77', 1))
    code, _, err = difal("run --resume r")
    assert code == cli.FAILED
    assert err.startswith("difal: error: r/to_label.jsonl line 1: class_id 77 is out of range")
    assert "Traceback" not in err


def test_shared_features(difal, tmp_path):
    write_folder(tmp_path / "data", masks=True, test=True)
    shared = QUICK[: QUICK.index("--epochs")] + "--cache b"
    code, out, _ = difal(f"encode --data data {shared}")
    assert (code, out.splitlines()[-1]) == (0, "b: 4 images, 20 numbers a pixel, test maps kept")
    assert out.startswith("pool: 4 images, 8-bit colour, 32 x 32 pixels\ntest: 4 images")
    for out in ("r", "again"):
        code, text, _ = difal(f"run --data data {QUICK} --cache b --out {out}")
        assert (code, text.count("queries:")) == (cli.DONE, 1)
    code, _, err = difal(f"run --data data {QUICK} --cache b --out s --feature-seed 3")
    assert code == cli.FAILED
    assert "feature_seed = 0, this run has 3; give it the old setting, or another --cache folder" in err
    assert "`--cache` must name the folder" in difal("encode --data data")[2]


def test_a_file_and_flags(difal, tmp_path):
    write_folder(tmp_path / "data", masks=True)
    (tmp_path / "c.yaml").write_text("data: data\nrounds: 1\nacquisition: random\n")
    code, _, _ = difal(f"run --config c.yaml {QUICK} --rounds 1 --out r")
    assert code == cli.DONE
    assert "acquisition: random" in (tmp_path / "r/config.yaml").read_text()
    assert difal("run --config r/config.yaml --out again")[0] == cli.DONE
    for name in ("picks.jsonl", "labels.jsonl", "head.safetensors"):
        assert (tmp_path / "r/rounds/000" / name).read_bytes() == (tmp_path / "again/rounds/000" / name).read_bytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run", "there is no data folder (none given)"),
        ("run --data nowhere", "there is no data folder nowhere; --data takes one of"),
        ("run --data scenes --acquisition best", "`acquisition` must be one of"),
        ("run --data scenes --keep 2", "`keep` must be above 0"),
        ("run --config nowhere.yaml", "there is no configuration file nowhere.yaml"),
        ("run --resume", "there is no run under runs/"),
        ("run --resume nowhere", "nowhere is no run folder"),
        ("report nowhere", "nowhere is no run folder"),
    ],
)
def test_errors_are_sentences(difal, tmp_path, text, message):
    code, _, err = difal(text)
    assert code == cli.FAILED
    assert message in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())  # a command that fails at once leaves nothing behind


@pytest.mark.parametrize("command", ["run", "label --no-browser"])
@pytest.mark.parametrize("listed", [True, False])
def test_one_class_is_refused_before_a_folder_is_made(difal, tmp_path, command, listed):
    write_folder(tmp_path / "data", masks=False)
    (tmp_path / "data/classes.txt").unlink(missing_ok=True)
    if listed:
        (tmp_path / "data/classes.txt").write_text("road\n")
    code, _, err = difal(f"{command} --data data {QUICK} --out r" + (" --classes road" if not listed else ""))
    assert code == cli.FAILED
    assert "a model tells classes apart, and 'road' is the only one; name what else there is, too" in err
    assert not (tmp_path / "r").exists()


def test_debug_shows_the_traceback(difal):
    with pytest.raises(ValueError, match="no data folder"):
        difal("run --data nowhere --debug")


def test_help_teaches(difal, capsys):
    for text in ("--help", "run --help", "encode --help", "report --help"):
        with pytest.raises(SystemExit, match="0"):
            cli.main(text.split())
    out = capsys.readouterr().out
    assert "trainannot" in out and "to_label.jsonl" in out and "Exit codes" in out  # noqa: PT018
    assert all(f"--{name.replace('_', '-')}" in out for name in FIELDS)
    _, out, _ = difal("acquisitions")
    assert "two-stage-edald  " in out


def test_label_names_its_own_defaults(capsys):
    shown = {}
    for command in ("run", "label"):
        with pytest.raises(SystemExit, match="0"):
            cli.main([command, "--help"])
        shown[command] = " ".join(capsys.readouterr().out.split())
    assert "pixels per image and round; a round queries round(budget x images) [0.1]" in shown["run"]
    assert "round(budget x images) [30 pixels a round]" in shown["label"]
    assert "local MaxHerding keeps per image [50]" in shown["run"]
    assert "local MaxHerding keeps per image [50; of few images more]" in shown["label"]


def test_a_command_imports_nothing_of_the_others(difal):
    code = "import sys; from difal.cli import make_parser; make_parser('label'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "difal.cli.label" in loaded
    assert {"difal.cli.report", "difal.report", "matplotlib"}.isdisjoint(loaded)


def installed_scripts():
    """What the scripts of pyproject.toml run, as `python` takes it."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    scripts = re.findall(r'^difal[\w-]* = "([\w.]+):(\w+)"$', text, re.MULTILINE)
    assert len(scripts) == 2
    return [f"-c import sys; from {module} import {name}; sys.exit({name}())" for module, name in scripts]


@pytest.mark.parametrize("start", ["-m difal", *installed_scripts()])
@pytest.mark.parametrize(("action", "code"), [(signal.SIG_DFL, 130), (signal.SIG_IGN, 7)])
def test_ctrl_c_while_torch_is_imported(tmp_path, start, action, code):
    """Also by the installed scripts; a command in the background, for which shells have it ignored, goes on."""
    (tmp_path / "torch.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nraise SystemExit(7)\n")
    done = subprocess.run(
        [sys.executable, *start.split(" ", 1), "run"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        preexec_fn=lambda: signal.signal(signal.SIGINT, action),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


def test_wrong_usage_has_its_own_code(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["run", "--rounds", "many"])
    assert "invalid int value: 'many'" in capsys.readouterr().err


def test_an_encoder_that_is_not_there_leaves_no_folder(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", "--data", "scenes:2,0,0", "--encoder", "no/such/folder", "--out", "r"]) == cli.FAILED
    err = capsys.readouterr().err
    assert err.startswith("difal: error: `--encoder`: there is no folder 'no/such/folder'")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("device", ["mps", "xpu", "meta", "cuda:99", "nonsense"])
@pytest.mark.parametrize("command", ["run --data d --out r", "encode --data d --cache r", "label --data d --out r"])
def test_a_device_that_is_not_there_gets_one_line(difal, tmp_path, command, device):
    if device in usable_devices():
        pytest.skip(f"this machine has {device}")
    code, _, err = difal(f"{command} --classes a,b --encoder tiny --device {device}")
    assert code == cli.FAILED
    assert err.count("\n") == 1
    assert len(err) < 120
    assert f"--device {device} here; it can use cpu" in err or "torch knows no --device nonsense; it can use cpu" in err
    assert not list(tmp_path.iterdir())


def test_encode_looks_before_it_makes_a_folder(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    folder = write_folder(tmp_path / "d", masks=False)
    (folder / "images/p1.png").write_bytes(b"no picture")
    command = ["encode", "--data", "d", "--encoder", "tiny", "--cache", "c", *["--candidates", "100", "--local", "8"]]
    assert cli.main(command) == cli.FAILED
    assert "p1.png is not a readable image" in capsys.readouterr().err
    (folder / "images/p1.png").unlink()
    Image.new("RGB", (7, 7)).save(folder / "images/p1.png")
    assert cli.main(command) == cli.FAILED
    assert "the smallest image has 7 x 7 = 49 pixels, fewer than the 64 that are kept" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()
