"""Runs on several processes: what one process gives, at any number of them; a rank that is lost, and what follows."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import process_group
from api import parallel_worker
from api.fakes import FakeEncoder, outcome, tiny_config, tiny_data, use_fake_encoder, write_folder
from api.parallel_worker import NOISED, RUNS, SMALL
from api.small_unets import make_unet
from difal import cli, parallel
from difal.encoders import DiffusionEncoder
from difal.encoders.lazy import LazyEncoder
from difal.errors import DataError
from difal.run.directory import RunDirectory
from difal.run.loop import Loop
from process_group import finish

WORKER = Path(parallel_worker.__file__)
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_folder(tmp_path_factory.mktemp("data") / "few", masks=True, test=True, count=4)
    (folder / "known.csv").write_text("image,x,y,class_id\np1.png,3,4,1\np2.png,20,9,2\np1.png,30,30,0\n")
    return folder


@pytest.fixture
def fake(monkeypatch):
    use_fake_encoder(patch=monkeypatch.setattr)


def start(world, *arguments, **environment):
    return process_group.start(world, [WORKER, *arguments], 300, **environment)


def torchrun(*arguments):
    paths = os.pathsep.join([*process_group.PATHS, *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*TORCHRUN, *map(str, arguments)], env=env, capture_output=True, text=True)


def arrays(folder):
    return {path.name: path.read_bytes() for path in Path(folder).glob("pool/*.npy")}


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same(tmp_path, data, fake):
    parallel_worker.all_runs(tmp_path / "1", data)
    for world in (2, 3):
        for error, code in finish(start(world, tmp_path / str(world), data, "all")):
            assert code == 0, error
        for cache in ("cache", "late-cache", "known/cache"):
            assert arrays(tmp_path / str(world) / cache) == arrays(tmp_path / "1" / cache)
        for name in RUNS:
            assert outcome(tmp_path / str(world) / name) == outcome(tmp_path / "1" / name), (world, name)
    assert len(outcome(tmp_path / "1/late")) == 8
    assert not (tmp_path / "3/late-cache/test/images").exists()  # so the ranks counted, from the encoder


def resumed_as_if_never_ended(tmp_path, data):
    assert cli.main(["run", "--resume", str(tmp_path / "run")]) == cli.DONE
    assert cli.main(f"run --data {data} --encoder fake --out {tmp_path / 'never'} {NOISED}".split()) == cli.DONE
    return outcome(tmp_path / "run") == outcome(tmp_path / "never")


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "lost", "timeout"), [("kill", 2, 300), ("stop", 1, 20)])
def test_a_lost_rank_is_named_and_the_run_goes_on(mode, lost, timeout, tmp_path, data, fake):
    processes = start(3, tmp_path / "run", data, mode, lost, DIFAL_BARRIER_TIMEOUT=str(timeout))
    (error, code), (other_error, other_code) = finish(processes, [rank for rank in range(3) if rank != lost])
    assert (code, other_code) == (1, 1)
    assert f"difal: error: rank 0 of 3: rank {lost} died or hangs; start all ranks again" in error
    assert "rank 0 has ended; see its message" in other_error
    assert list((tmp_path / "run/cache/pool/images").iterdir())
    assert resumed_as_if_never_ended(tmp_path, data)


@pytest.mark.slow
def test_torchrun_names_a_lost_rank(tmp_path, data, fake):
    ended = torchrun(WORKER, tmp_path / "run", data, "kill", 0)
    assert ended.returncode == 1
    assert "Signal 9 (SIGKILL) received" in ended.stderr
    assert "rank      : 0 (local_rank: 0)" in ended.stderr
    assert resumed_as_if_never_ended(tmp_path, data)


def test_a_rank_that_sees_other_images_or_another_folder_ends(tmp_path):
    config, data = tiny_config(tmp_path), tiny_data()
    loop = Loop(config, RunDirectory(tmp_path), data, LazyEncoder(config, FakeEncoder()), print)
    with pytest.raises(DataError, match=r"rank 0 has other pool than this rank, or writes to another"):
        loop.run()
    loop.begin(config, False)
    RunDirectory(tmp_path).note(classes=["a", "b"])
    with pytest.raises(DataError, match="rank 0 has other classes than this rank"):
        loop.run()


def test_each_rank_has_its_share(monkeypatch):
    monkeypatch.setattr(parallel, "world_size", lambda: 3)
    shares, blocks = [], []
    for rank in range(3):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        shares.append(parallel.shard(range(2, 7)))
        blocks.append(parallel.own_rows(7))
    assert [list(share) for share in shares] == [[2, 5], [3, 6], [4]]
    assert [one for block in blocks for one in range(7)[block]] == list(range(7))
    for name, value in {"RANK": 3, "LOCAL_RANK": 3, "WORLD_SIZE": 4, "MASTER_ADDR": "", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    assert [parallel.own_device(name) for name in ("cpu", "cuda", "cuda:1")] == ["cpu", "cuda:3", "cuda:1"]


def test_integers_are_added_up():
    counts = np.array([[1 << 40, 2], [3, 4]])
    assert np.array_equal(parallel.sum_over_ranks(counts), counts)
    assert parallel.on_first_rank(lambda: 1 << 50) == 1 << 50
    assert parallel.on_first_rank(lambda: None) == 0


def test_other_commands_are_for_one_process(monkeypatch, capsys):
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    assert cli.main(["acquisitions"]) == cli.FAILED
    assert "start this command without it" in capsys.readouterr().err
    monkeypatch.setenv("DIFAL_DISTRIBUTED_TIMEOUT", "soon")
    assert cli.main(["run", "--data", "scenes"]) == cli.FAILED
    assert (
        "difal: error: rank 1 of 2: `DIFAL_DISTRIBUTED_TIMEOUT` must be a positive number of seconds, got 'soon'"
        in capsys.readouterr().err
    )


@pytest.mark.slow
def test_a_sweep_under_torchrun(tmp_path, data):
    """With an encoder from disk, since its runs are processes of their own, and two of them on two ranks."""
    DiffusionEncoder(make_unet(), blocks=(0, 1), timesteps=(50,)).save_pretrained(tmp_path / "encoder")
    words = (
        f"sweep --data {data} --encoder {tmp_path / 'encoder'} --acquisitions coverage,random --seeds 0 "
        f"{SMALL.replace('--local', '--random 10 --local')} --herding sharded --jobs 1 --out"
    ).split()
    done = torchrun("-m", "--", "difal", *words, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert "[2/2]" in done.stdout
    assert cli.main([*words, str(tmp_path / "one")]) == cli.DONE
    for name in ("coverage-seed0", "random-seed0"):
        assert outcome(tmp_path / "two/runs" / name) == outcome(tmp_path / "one/runs" / name)
    assert (tmp_path / "two/table.md").read_text() == (tmp_path / "one/table.md").read_text()
