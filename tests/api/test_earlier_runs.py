"""Runs that an earlier version left unfinished go on, and end as that version would have ended them.

`fixtures/earlier_runs` was written before the settings, files and fields of today had their names (`bank`, `draws`,
`asked`): a run killed in its second round, one that waits for a person's labels, one killed in the pass over the
encoder, and what the rounds of a finished one held.
"""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from api.fakes import FakeEncoder, outcome, tiny_config, tiny_data, use_fake_encoder
from difal import cli
from difal.config import Config
from difal.files import write_tensors
from difal.heads import load_head
from difal.report import write_report
from difal.run.directory import RunDirectory
from difal.run.loop import run as run_loop

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "earlier_runs"


@pytest.fixture
def resume(tmp_path, monkeypatch):
    """Resume a copy of one of the runs; its folder."""
    monkeypatch.chdir(tmp_path)
    use_fake_encoder(patch=monkeypatch.setattr)

    def resumed(name):
        if not (tmp_path / name).exists():
            shutil.copytree(FIXTURES / name, tmp_path / name)
        code = cli.main(["run", "--resume", name])
        return RunDirectory(tmp_path / name), code

    return resumed


def check(run):
    """The picks and labels are those of the earlier version; its metrics within what another processor may change."""
    finished = RunDirectory(FIXTURES / "finished")
    finished.facts = run.facts
    assert len(run.rounds()) == len(finished.rounds()) == 3
    for now, before in zip(run.rounds(), finished.rounds(), strict=True):
        assert [pick.place for pick in now.picks()] == [pick.place for pick in before.picks()]
        assert [label.class_id for label in now.labels()] == [label.class_id for label in before.labels()]
        found, wanted = now.metrics(), before.metrics()
        assert found.keys() - {"made_of", "unlabeled"} == wanted.keys()
        assert found["queried"] == wanted["queried"] == 3 * (now.index + 1)
        if found.get("unlabeled"):  # of which earlier versions predicted some all the same
            assert found["pixel_accuracy"] > wanted["pixel_accuracy"] - 0.02
        else:
            assert found["pixel_accuracy"] == pytest.approx(wanted["pixel_accuracy"], abs=0.02)


@pytest.mark.parametrize("name", ["killed", "encoding"])
def test_a_killed_run_goes_on(name, resume):
    run, code = resume(name)
    assert code == cli.DONE
    check(run)
    assert write_report(run.folder).stat().st_size > 10_000


def test_a_run_that_waits_for_labels_goes_on(resume):
    """Its picks are not chosen again, and its two later rounds wait, too."""
    finished = [path / "labels.jsonl" for path in sorted((FIXTURES / "finished/rounds").iterdir())]
    for labels in finished:
        run, code = resume("waiting")
        assert code == cli.WAITING
        truth = {(row["x"], row["y"]): row for row in map(json.loads, labels.read_text().splitlines())}
        question = run.folder / "to_label.jsonl"
        rows = [json.loads(line) for line in question.read_text().splitlines()]
        filled = [truth[row["x"], row["y"]] for row in rows]
        assert [row["id"] for row in rows] == [row["id"] for row in filled]
        question.write_text("".join(json.dumps(row) + "\n" for row in filled))
    run, code = resume("waiting")
    assert code == cli.DONE
    check(run)


def test_a_run_from_before_the_lift_goes_on_without_it(tmp_path):
    """Its settings do not name the lift, and its heads have no constant."""
    settings = {"head": "linear", "lift": 0.0}
    run_loop(tiny_config(tmp_path / "run", **settings), data=tiny_data(), encoder=FakeEncoder(), log=lambda line: None)
    wanted = decided(tmp_path / "run")
    for name in ("rounds/001/metrics.json", "rounds/002"):
        path = tmp_path / "run" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (tmp_path / "run").glob("rounds/*/head.safetensors"):
        head = load_head(path)
        assert not head.rest.constant.any()
        tensors = {key: value for key, value in head.state_dict().items() if key != "rest.constant"}
        write_tensors(path, tensors, {"head": f"linear {','.join(map(str, head.shape))}"})
    path = tmp_path / "run/config.yaml"
    values = yaml.safe_load(path.read_text())
    assert values.pop("lift") == 0
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    config = RunDirectory(tmp_path / "run").config()
    run_loop(Config(**config), resume=True, data=tiny_data(), encoder=FakeEncoder(), log=lambda line: None)
    assert decided(tmp_path / "run") == wanted


def decided(run):
    """Picks, labels and metrics, without the digest of the head's file in these."""
    files = {name: text for name, text in outcome(run).items() if name.endswith((".json", ".jsonl"))}
    rows = {name: [json.loads(line) for line in text.splitlines()] for name, text in files.items() if name[-1] == "l"}
    metrics = {name: json.loads(text) for name, text in files.items() if name.endswith("metrics.json")}
    return rows, {
        name: {key: value for key, value in found.items() if key != "made_of"} for name, found in metrics.items()
    }
