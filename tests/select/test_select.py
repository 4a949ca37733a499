"""`difal-select` picks what the functions pick, and writes it."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from clouds import cloud
from difal_kernels import coverage_curve, kcenter_greedy, maxherding, probcover, uherding
from difal_kernels._words import counted
from difal_kernels.ops.maxherding.bandwidth import median_bandwidth
from difal_kernels.ops.maxherding.kernel_functions import OF_FEATURES, kernel_matrix
from difal_kernels.select import job, methods
from difal_kernels.testing import replay


def test_picks_and_summary_are_those_of_maxherding(pool, command):
    code, out, err = command("pool.npy", "--budget", 40, "--out", "picks.npy")
    assert (code, out) == (0, ""), err
    want = maxherding(pool, 40, return_info=True)
    picks = np.load("picks.npy")
    assert picks.dtype == np.int64
    assert picks.tolist() == want.indices.tolist()
    summary = json.loads(Path("picks.json").read_text())
    np.testing.assert_allclose(summary["gains"], want.gains, rtol=1e-10)
    assert summary["coverage"] == pytest.approx(float(want.coverage), rel=1e-10)
    assert summary["bandwidth"] == want.bandwidth
    assert summary["curve"]["picks"] == list(range(41))
    assert summary["samples"] == 300
    assert not list(Path().glob("*.progress*"))
    assert not list(Path().glob(".*"))


@pytest.mark.parametrize(
    ("options", "pick"),
    [
        (["--method", "kcenter"], lambda x, w: kcenter_greedy(x, 30)),
        (["--method", "probcover", "--radius", "2.5"], lambda x, w: probcover(x, 2.5, 30)),
        (["--method", "uherding", "--weights", "w.npy"], lambda x, w: uherding(x, w, 30)),
        (["--weights", "w.txt", "--kernel", "laplace"], lambda x, w: maxherding(x, 30, weights=w, kernel="laplace")),
        (["--kernel", "cosine"], lambda x, w: maxherding(x, 30, kernel="cosine")),
        (["--kernel", "tophat", "--bandwidth", "3"], lambda x, w: maxherding(x, 30, kernel="tophat", bandwidth=3.0)),
        (["--candidates", "some.txt"], lambda x, w: maxherding(x, 30, candidates=np.arange(50, 200))),
        (["--candidates", "mask.npy"], lambda x, w: maxherding(x, 30, candidates=np.arange(50, 200))),
        (["--labeled", "other.npy"], lambda x, w: maxherding(x, 30, labeled=cloud(20, seed=5))),
        (
            ["--labeled", "other.npy", "--method", "kcenter"],
            lambda x, w: kcenter_greedy(x, 30, labeled=cloud(20, seed=5)),
        ),
        (
            ["--labeled", "rows.npy"],
            lambda x, w: maxherding(x, 30, labeled=x[[7, 3]], candidates=sorted(set(range(300)) - {3, 7})),
        ),
        (["--bandwidth", "2.0", "--memory", "64MiB", "--threads", "1"], lambda x, w: maxherding(x, 30, bandwidth=2.0)),
    ],
)
def test_methods_and_options_are_those_of_the_functions(pool, command, options, pick, monkeypatch):
    weights = torch.rand(300, generator=torch.Generator().manual_seed(3)).double()
    np.save("w.npy", weights.numpy())
    Path("w.txt").write_text("".join(f"{w!r}\n" for w in weights.tolist()))
    Path("some.txt").write_text("".join(f"{i}\n" for i in range(50, 200)))
    np.save("mask.npy", (np.arange(300) >= 50) & (np.arange(300) < 200))
    np.save("other.npy", cloud(20, seed=5).numpy())
    np.save("rows.npy", np.array([7, 3]))
    monkeypatch.setattr(job, "FIRST_PORTION", 7)
    code, out, err = command("pool.npy", "--budget", 30, "--out", "-", *options)
    assert code == 0, err
    assert [int(line) for line in out.split()] == pick(pool, weights).tolist()


def test_rows_of_zeros_are_named_where_the_cosine_finds_them_like_nothing(pool, command):
    x = pool.clone()
    x[[5, 200]] = 0
    np.save("x.npy", x.numpy())
    Path("names.txt").write_text("".join(f"doc-{i}\n" for i in range(300)))
    told = "rows doc-5, doc-200 are all zeros, whose cosine with any row counts as 0: nothing covers them; drop them"
    code, out, err = command("x.npy", "--kernel", "cosine", "--budget", 9, "--ids", "names.txt", "--out", "-")
    assert code == 0
    assert out.split() == [f"doc-{row}" for row in maxherding(x, 9, kernel="cosine")]
    assert err.splitlines().count(told) == 1
    cosine = ["--kernel", "cosine", "--budget", 9, "--out", "-"]
    for options in (["--dedup", "0.99", "--method", "kcenter"], ["--dedup", "0.99"]):
        assert told.replace("doc-", "") in command("x.npy", *cosine, *options)[2]
    assert "zeros" not in command("x.npy", "--budget", 9, "--out", "-")[2]
    np.save("short.npy", x.double().numpy() * 1e-160)
    code, _, err = command("short.npy", *cosine)
    assert code == 1
    assert "error: the features must not be shorter than 1e-150 where kernel='cosine'" in err


def test_budget_may_be_a_share_and_the_rows_may_have_ids(pool, command):
    names = [f"doc-{i}.txt" for i in range(300)]
    Path("names.txt").write_text("\n".join(names) + "\n")
    Path("done.txt").write_text("doc-4.txt\ndoc-9.txt\n")
    code, _, err = command(
        "pool.npy", "--budget", "10%", "--ids", "names.txt", "--labeled", "done.txt", "--out", "p.csv"
    )
    assert code == 0, err
    with open("p.csv", newline="") as file:
        table = list(csv.DictReader(file))
    want = maxherding(pool, 30, labeled=pool[[4, 9]], candidates=sorted(set(range(300)) - {4, 9}), return_info=True)
    assert [int(line["row"]) for line in table] == want.indices.tolist()
    assert [line["id"] for line in table] == [names[i] for i in want.indices]
    assert [int(line["rank"]) for line in table] == list(range(1, 31))
    assert float(table[-1]["coverage"]) == pytest.approx(float(want.coverage), rel=1e-10)


def test_until_stops_at_the_smallest_budget(pool, command):
    full = maxherding(pool, 300, return_info=True, bandwidth=3.0)
    covered = np.cumsum(full.gains.numpy())
    want = int(np.argmax(covered >= 0.8)) + 1
    code, _, err = command("pool.npy", "--until", "80%", "--bandwidth", 3, "--out", "p.txt", "--plot", "p.png")
    assert code == 0, err
    assert [int(line) for line in Path("p.txt").read_text().split()] == full.indices[:want].tolist()
    assert Path("p.png").read_bytes().startswith(b"\x89PNG")
    code, _, err = command("pool.npy", "--until", "0.8", "--bandwidth", 3, "--budget", want - 1, "--out", "few.txt")
    assert code == 3
    assert "raise --budget" in err
    assert len(Path("few.txt").read_text().split()) == want - 1
    code, _, err = command("pool.npy", "--until-gain", "0.01", "--bandwidth", 3, "--out", "gain.txt")
    assert code == 0
    assert len(Path("gain.txt").read_text().split()) == int((full.gains >= 0.01).sum())


def test_a_budget_above_what_dedup_leaves_is_told_so(pool, command):
    np.save("twice.npy", np.concatenate([pool.numpy(), pool.numpy()]))
    code, _, err = command("twice.npy", "--dedup", "0.999", "--budget", 400, "--out", "p.txt")
    assert code == 1
    left = (
        "--budget is 400 and 300 samples to pick from are left of --dedup, which dropped 300; lower --budget or raise"
    )
    assert left in err.splitlines()[-1]
    assert command("twice.npy", "--dedup", "0.999", "--budget", 3, "--out", "p.txt")[0] == 0
    code, _, err = command("pool.npy", "--dedup", "1", "--bandwidth", 1, "--budget", 301, "--out", "q.txt")
    assert "--budget is 301 and there are 300 samples to pick from; lower it" in err.splitlines()[-1]  # none dropped


@pytest.mark.parametrize("kernel", [name for name in OF_FEATURES if name != "tophat"])
def test_dedup_drops_what_is_like_an_earlier_one(pool, command, kernel):
    k = kernel_matrix(pool, pool, kernel, median_bandwidth(pool))
    threshold = float(k.quantile(0.98))
    kept = []
    for i in [11, *(i for i in range(300) if i != 11)]:  # row 11 is labeled
        if not any(k[i, j] >= threshold for j in kept):
            kept.append(i)
    kept.sort()
    assert 20 < len(kept) < 280
    Path("labeled.txt").write_text("11\n")
    code, _, err = command(
        *(
            "pool.npy",
            "--budget",
            15,
            "--kernel",
            kernel,
            "--dedup",
            threshold,
            "--labeled",
            "labeled.txt",
            "--out",
            "p.npy",
        )
    )
    assert code == 0, err
    assert json.loads(Path("p.json").read_text())["kept_by_dedup"] == len(kept)
    at = kept.index(11)
    width = "median" if kernel == "cosine" else median_bandwidth(pool)
    left = [i for i in range(len(kept)) if i != at]
    want = maxherding(pool[kept], 15, labeled=pool[[11]], candidates=left, kernel=kernel, bandwidth=width)
    assert np.load("p.npy").tolist() == [kept[i] for i in want.tolist()]


KILLED = """
import os, signal, sys
from difal_kernels.ops.maxherding.bandwidth import median_bandwidth
from difal_kernels.ops.maxherding.kernel_functions import OF_FEATURES, kernel_matrix
from difal_kernels.select import job, methods
from difal_kernels.select.main import main
job.SAVE_EVERY, job.FIRST_PORTION = -1.0, 9
more, calls = getattr(methods, sys.argv[1]).more, []
def killed(self, count):
    calls.append(count)
    if len(calls) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return more(self, count)
getattr(methods, sys.argv[1]).more = killed
methods.Centers.next_portion = methods.Herding.next_portion = lambda *args: 5
main(sys.argv[2:])
"""


@pytest.mark.parametrize("method", ["maxherding", "kcenter"])
def test_goes_on_after_a_kill_with_the_same_picks(pool, command, method):
    argv = ["pool.npy", "--method", method, "--budget", "60", "--dedup", "0.99", "--out", "p.npy"]
    assert command(*argv[:-1], "whole.npy")[0] == 0
    name = "Centers" if method == "kcenter" else "Herding"
    done = subprocess.run([sys.executable, "-c", KILLED, name, *argv], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not Path("p.npy").exists()
    code, _, err = command(*argv)
    assert code == 0
    assert "going on after 19 picks" in err
    assert np.load("p.npy").tolist() == np.load("whole.npy").tolist()
    first, second = (json.loads(Path(name).read_text()) for name in ("whole.json", "p.json"))
    assert first["digest"] == second["digest"]
    for key in set(first) & {"gains", "distances", "coverage"}:
        np.testing.assert_allclose(
            second[key][1:] if key == "distances" else second[key],
            first[key][1:] if key == "distances" else first[key],
            rtol=1e-9,
            atol=1e-12,
        )
    assert not list(Path().glob("*.progress*"))


def test_ctrl_c_saves_and_says_how_to_go_on(pool, command, monkeypatch):
    more, calls = methods.Herding.more, []

    def interrupted(self, count):
        calls.append(count)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return more(self, count)

    monkeypatch.setattr(methods.Herding, "more", interrupted)
    monkeypatch.setattr(methods.Herding, "next_portion", lambda *args: 5)
    argv = ("pool.npy", "--budget", 90, "--out", "p.npy")
    code, _, err = command(*argv)
    assert code == 130
    assert "run the same command" in err
    assert Path("p.npy.progress.npz").exists()
    code, _, err = command(*argv, "--kernel", "laplace")
    assert code == 1
    assert "other files or options" in err
    code, _, err = command(*argv)
    assert code == 0, err
    assert np.load("p.npy").tolist() == maxherding(pool, 90).tolist()


def test_output_that_is_there_is_kept_unless_told(pool, command):
    argv = ("pool.npy", "--budget", 5, "--out", "p.npy")
    assert command(*argv)[0] == 0
    before = Path("p.npy").stat().st_mtime_ns
    code, _, err = command(*argv)
    assert code == 0
    assert "nothing to do" in err
    assert Path("p.npy").stat().st_mtime_ns == before
    code, _, err = command("pool.npy", "--budget", 6, "--out", "p.npy")
    assert code == 1
    assert "--overwrite" in err
    assert command("pool.npy", "--budget", 6, "--out", "p.npy", "--overwrite", "--quiet") == (0, "", "")
    assert len(np.load("p.npy")) == 6


def test_two_runs_and_any_number_of_threads_give_the_same_file(pool, command):
    for name, threads in (("a", 1), ("b", 2)):
        assert command("pool.npy", "--budget", 50, "--threads", threads, "--out", f"{name}.csv")[0] == 0
    assert Path("a.csv").read_bytes() == Path("b.csv").read_bytes()


def test_the_command_is_installed_and_helps():
    done = subprocess.run(
        [sys.executable, "-m", "difal_kernels.select", "--help"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0
    assert "exit codes" in done.stdout
    assert "--until COVERAGE" in done.stdout


class TestCoverageCurve:
    @pytest.mark.parametrize("options", [{}, {"weights": torch.arange(300.0)}, {"labeled": cloud(5, seed=2)}])
    def test_is_that_of_one_selection(self, options):
        x = cloud()
        curve = coverage_curve(x, 100, bandwidth=3.0, **options)
        want = maxherding(x, 100, bandwidth=3.0, return_info=True, **options)
        unit = float(options["weights"].double().mean()) if "weights" in options else 1.0
        assert torch.equal(curve.indices, want.indices)
        np.testing.assert_allclose(curve.coverage[-1], float(want.coverage) / unit, rtol=1e-12)
        np.testing.assert_allclose(np.diff(curve.coverage), want.gains.numpy() / unit, atol=1e-14)
        assert curve.reached
        budget = curve.budget_for(0.7)
        assert curve.coverage[budget] >= 0.7 > curve.coverage[budget - 1]

    def test_until_gives_the_smallest_budget(self):
        x = cloud().numpy()
        full = coverage_curve(x, bandwidth=3.0)
        assert len(full.indices) == 300
        assert full.coverage[-1] == pytest.approx(1.0, abs=1e-12)
        for share in (0.3, 0.9, 0.99, 1.0):
            curve = coverage_curve(x, bandwidth=3.0, until=share)
            assert curve.reached
            assert len(curve.indices) == full.budget_for(share)
            assert curve.indices.tolist() == full.indices[: len(curve.indices)].tolist()
            assert isinstance(curve.indices, np.ndarray)
        few = coverage_curve(x, 3, bandwidth=3.0, until=0.99)
        assert not few.reached
        assert len(few.indices) == 3
        assert full.budget_for(0.99) is not None
        assert few.budget_for(0.99) is None
        both = coverage_curve(x, bandwidth=3.0, until=0.99, until_gain=0.02)
        assert len(both.indices) == int((full.gains >= 0.02).sum())
        assert (replay(x, both.indices, bandwidth=3.0) < 1e-9).all()

    @pytest.mark.parametrize(
        ("options", "error", "says"),
        [
            ({"until": 1.2}, ValueError, "`until` must be above 0 and at most 1, got 1.2"),
            ({"until": "all"}, TypeError, "`until` must be a float"),
            ({"until_gain": 0.0}, ValueError, "`until_gain`"),
            ({"budget": 301}, ValueError, "`budget` must be at most"),
            ({"budget": 2.5}, TypeError, "`budget` must be an int"),
            ({"kernel": "linear"}, ValueError, "`kernel`"),
            ({"progress": 1}, TypeError, "`progress`"),
        ],
    )
    def test_wrong_arguments_are_named(self, options, error, says):
        with pytest.raises(error, match=says):
            coverage_curve(cloud(), **options)
        with pytest.raises(ValueError, match="`coverage`"):
            coverage_curve(cloud(), 2).budget_for(2.0)

    def test_plot(self, tmp_path):
        pytest.importorskip("matplotlib")
        coverage_curve(cloud(), 20).plot(tmp_path / "curve.svg")
        assert "<svg" in (tmp_path / "curve.svg").read_text()


@pytest.mark.parametrize(
    ("names", "warned"), [(["s-2", "s-10"], True), (["s-02", "s-10"], False), (["sa", "sb"], False)]
)
def test_files_that_do_not_come_in_the_order_of_their_numbers_are_named(pool, command, names, warned):
    for name, rows in zip(names, np.array_split(np.asarray(pool), 2), strict=True):
        np.save(f"{name}.npy", rows)
    code, _, err = command("s*.npy", "--budget", 5, "--out", "p.txt")
    assert code == 0
    assert ("s-10.npy comes before s-2.npy" in err) == warned
    assert ("comes before" in err) == warned


def test_the_last_line_counts_the_picks(pool, command):
    for budget, said in ((1, "1 pick, coverage 0."), (2, "2 picks, coverage 0.")):
        _, _, err = command("pool.npy", "--budget", budget, "--out", f"p{budget}.npy")
        assert err.splitlines()[-1].startswith(said)


def test_counts_agree_with_their_nouns():
    assert [counted(n, "pick") for n in (0, 1, 2, 1234)] == ["0 picks", "1 pick", "2 picks", "1,234 picks"]
    assert job.progress_line(1, 1, None, np.zeros(0), 0.0, 1) == "1 of 1 pick"
