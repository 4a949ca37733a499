"""The comparison with other libraries is fair only if its judge is right and each library solves the same problem."""

import importlib.util
import json

import numpy as np
import pytest
import torch

from difal_kernels import maxherding
from difal_kernels.testing import replay
from peers.check import Replay
from peers.libraries import LIBRARIES
from peers.report import OTHER_OBJECTIVE, short_table, table, write_readme

MODULES = {
    "difal": "difal_kernels",
    "naive torch": "torch",
    "scikit-activeml": "skactiveml",
    "apricot lazy": "apricot",
    "apricot naive": "apricot",
    "submodlib lazy": "submodlib",
    "kmedoids BUILD": "kmedoids",
    "coreax herding": "coreax",
}
H = 3.0


@pytest.fixture(scope="module")
def pool():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(150, 8, generator=generator).numpy(), np.array([5, 60, 149])


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize("name", LIBRARIES)
def test_each_library_solves_the_same_problem(pool, name, conditioned):
    if importlib.util.find_spec(MODULES[name]) is None:
        pytest.skip(f"{MODULES[name]} is not installed")
    features, labeled = pool
    labeled = labeled if conditioned else labeled[:0]
    if conditioned and name in ("kmedoids BUILD", "coreax herding"):
        with pytest.raises(NotImplementedError):
            LIBRARIES[name][0](features, 20, H, labeled)
        return
    picks = np.asarray(LIBRARIES[name][0](features, 20, H, labeled), dtype=np.int64)
    verdict = Replay(features, H, labeled)(picks).verdict(picks)
    assert verdict.greedy == 20 or name in OTHER_OBJECTIVE
    assert verdict.repeated == 0


def test_the_judge_agrees_with_the_packages_replay(pool):
    features, labeled = pool
    rest = np.setdiff1d(np.arange(150), labeled)
    selection = maxherding(features, 30, labeled=features[labeled], candidates=rest, bandwidth=H, return_info=True)
    replayed = Replay(features, H, labeled)

    def judge(picks):
        return replayed(picks).verdict(picks)

    verdict = judge(selection.indices)
    assert verdict.greedy == 30
    assert verdict.coverage == pytest.approx(selection.coverage, rel=1e-12)
    wrong = selection.indices.copy()
    wrong[[10, 11]] = wrong[[11, 10]]
    regret = replay(features, wrong, labeled=features[labeled], candidates=rest, bandwidth=H)
    assert judge(wrong).greedy == int((regret > 1e-12).nonzero()[0]) == 10
    wrong[5] = wrong[2]
    assert judge(wrong).greedy == 5
    assert judge(wrong).repeated == 1
    trace = replayed(wrong)
    for count in (1, 5, 6, 30):
        assert trace.verdict(wrong[:count]) == judge(wrong[:count])
    assert trace.verdict(selection.indices) is trace.verdict(wrong[:0]) is None
    wrong[3] = labeled[0]
    assert judge(wrong).greedy == 3


def test_tables(tmp_path):
    base = {"n": 2000, "d": 8, "labeled": 0, "budget": 50}
    rows = {
        "a": {
            **base,
            "library": "difal",
            "status": "ok",
            "seconds": 0.5,
            "peak_bytes": 10**9,
            "greedy": 50,
            "coverage": 0.9,
        },
        "b": {
            **base,
            "library": "x",
            "status": "ok",
            "seconds": 2.0,
            "peak_bytes": 3 * 10**9,
            "greedy": 7,
            "coverage": 0.8,
        },
        "c": {**base, "library": "y", "status": "timeout", "why": "over 60 s"},
        "d": {**base, "library": "z", "status": "out of memory", "why": "an allocation"},
    }
    machine = {
        "cpu": "a processor",
        "threads": 2,
        "memory_limit_bytes": 2**30,
        "python": "3",
        "versions": {"torch": "2"},
    }
    data = json.loads(json.dumps({"machine": machine, "rows": rows}))
    long = table(data)
    assert "| x | 2 | 4 | 3 | 3 | 0.800000 | first 7 |" in long
    assert "timeout: over 60 s" in long
    assert "| 2,000, 50 | 0.5 s, 1 GB | 2 s\\*, 3 GB | > 30 s | out of memory |" in short_table(data)
    readme = tmp_path / "README.md"
    readme.write_text("above\n<!-- peers -->\nold\n<!-- end of peers -->\nbelow\n")
    write_readme(data, readme)
    write_readme(data, readme)
    text = readme.read_text()
    assert "old" not in text
    assert text.count("a processor") == 1
    assert text.startswith("above\n")
    assert text.endswith("<!-- end of peers -->\nbelow\n")
    readme.write_text("no marks")
    with pytest.raises(SystemExit, match="must have the marks"):
        write_readme(data, readme)


def test_what_cannot_end_in_time_is_not_run():
    from peers import __main__ as peers

    def told(name, budget, **earlier):
        return peers._hopeless({peers.key(10_000, 50, False, name): earlier}, 10_000, budget, False, name)

    gave_up = {"status": "timeout", "why": "over 30 s"}
    assert told("apricot lazy", 1_000, **gave_up)["status"] == "timeout"
    assert told("apricot lazy", 1_000, status="ok", seconds=20.0) is None  # its later picks cost less
    assert told("naive torch", 1_000, status="ok", seconds=20.0)["status"] == "timeout"
    assert told("naive torch", 1_000, status="ok", seconds=2.0) is None
    assert told("naive torch", 50, **gave_up) is None  # measured anew


def test_a_table_is_of_one_machine(tmp_path, monkeypatch):
    from peers import __main__ as peers

    results = tmp_path / "peers.json"
    monkeypatch.setattr(peers, "RESULTS", results)
    monkeypatch.setattr(peers, "CASES", [])
    monkeypatch.setattr(peers, "_version", lambda name: "1")
    peers.measure(1.0, [])
    machine = json.loads(results.read_text())["machine"]
    rows = {"N2000 b50 L0 x": {"seconds": 1.0}, "N2000 b50 L0 difal": {"seconds": 2.0}}
    results.write_text(json.dumps({"machine": machine, "rows": rows}))
    peers.measure(1.0, ["difal"])
    assert list(json.loads(results.read_text())["rows"]) == ["N2000 b50 L0 x"]
    results.write_text(json.dumps({"machine": {**machine, "cpu": "another"}, "rows": rows}))
    before = results.read_text()
    with pytest.raises(SystemExit, match=r"rows measured with cpu 'another'.*one table, one machine"):
        peers.measure(1.0, ["difal"])
    assert results.read_text() == before
    peers.measure(1.0, ["N"])
    assert json.loads(results.read_text())["rows"] == {}
