"""Runs on several processes: what one process gives, at any number of them; a rank that is lost, and what follows."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import process_group
from api import parallel_worker
from api.fakes import outcome, tiny_config, use_fake_encoder, write_folder
from api.parallel_worker import RUNS, SMALL
from api.small_unets import make_unet
from difal import cli, serve
from difal.data import open_config_data
from difal.encoders import DiffusionEncoder
from difal.encoders.lazy import LazyEncoder
from difal.errors import ConfigError, DataError
from difal.features.cache import Pixel, PoolImages
from difal.link import Message
from difal.sweep.runs import Key, Runs
from process_group import finish

WORKER = Path(parallel_worker.__file__)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_folder(tmp_path_factory.mktemp("data") / "few", masks=True, test=True, count=4)
    (folder / "known.csv").write_text("image,x,y,class_id\np1.png,3,4,1\np2.png,20,9,2\np1.png,30,30,0\n")
    return folder


@pytest.fixture
def fake(monkeypatch):
    use_fake_encoder(patch=monkeypatch.setattr)


def start(world, *arguments, timeout=300):
    return process_group.start(world, [WORKER, *arguments], timeout)


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


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "lost", "timeout"), [("kill", 2, 300), ("kill", 0, 300), ("stop", 1, 8)])
def test_a_lost_rank_is_named_by_all_others_and_the_run_goes_on(mode, lost, timeout, tmp_path, data, fake):
    others = [rank for rank in range(3) if rank != lost]
    processes = start(3, tmp_path / "run", data, mode, lost, timeout=timeout)
    for error, code in finish(processes, others):
        assert code == 1
        assert f"rank {lost} died or hangs" in error
        assert "start all ranks again with `difal run --resume`" in error
    if mode == "kill":
        assert processes[lost].returncode == -signal.SIGKILL
    again = ["run", "--resume", str(tmp_path / "run")]
    assert cli.main(again) == cli.DONE
    assert cli.main(f"run --data {data} --encoder fake --out {tmp_path / 'never'} {SMALL}".split()) == cli.DONE
    assert outcome(tmp_path / "run") == outcome(tmp_path / "never")


@pytest.fixture
def fresh_rank(fake):
    """`difal.serve` as in a process of its own: nothing open yet, and nothing left open."""
    for cached in (serve._data, serve._encoder):
        cached.cache_clear()
    yield
    for cached in (serve._data, serve._encoder):
        cached.cache_clear()


def test_an_order_makes_the_same_job_and_other_files_are_refused(tmp_path, data, fresh_rank):
    config = tiny_config(tmp_path, data=str(data), size=32)
    pool = open_config_data(config).train
    own = PoolImages(pool, LazyEncoder(config)(), config, [Pixel(1, 2, 3)])
    facts = json.loads(json.dumps(own.order()[0]))
    found = serve.JOBS["cache"](facts, {}).make(1)
    assert found["given.features"].shape == (1, 20)
    for name, array in own.make(1).items():
        assert np.array_equal(array, found[name]), name
    with pytest.raises(DataError, match="holds other images here than on rank 0"):
        serve.JOBS["cache"]({**facts, "pool": "0"}, {})
    with pytest.raises(DataError, match="has other weights here than on rank 0"):
        serve.JOBS["cache"]({**facts, "weights": "0"}, {})


def test_a_sweeps_folder_must_be_seen_by_all(tmp_path):
    facts, _ = Runs([(Key("", "random", 0), tiny_config(tmp_path / "a"))], 1, tmp_path).order()
    key, config = serve.JOBS["runs"](json.loads(json.dumps(facts)), {}).todo[0]
    assert (key, config) == (Key("", "random", 0), tiny_config(tmp_path / "a"))
    with pytest.raises(ConfigError, match="is not the folder that rank 0 sees"):
        serve.JOBS["runs"]({**facts, "folder": str(tmp_path / "other")}, {})
    Runs([], 1, tmp_path).order()  # another sweep
    with pytest.raises(ConfigError, match="is not the folder that rank 0 sees"):
        serve.JOBS["runs"](facts, {})


def test_each_rank_takes_its_own_gpu(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert [serve.own_device(name) for name in ("cpu", "cuda", "cuda:1")] == ["cpu", "cuda:3", "cuda:1"]


def test_messages_arrive_as_they_were():
    tensors = {"a": torch.arange(6.0).half().reshape(2, 3), "none": torch.empty(0, 4), "n": torch.tensor([1 << 40])}
    for sent in (Message({"kind": "ü", "x": [1, None]}, tensors), Message({}, {})):
        found = Message.unpacked(sent.packed())
        assert found.facts == sent.facts
        assert found.tensors.keys() == sent.tensors.keys()
        assert all(torch.equal(found.tensors[name], one) for name, one in sent.tensors.items())


def test_other_commands_are_for_one_process(monkeypatch, capsys):
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    assert cli.main(["acquisitions"]) == cli.FAILED
    assert "start this command without it" in capsys.readouterr().err
    monkeypatch.setenv("DIFAL_DISTRIBUTED_TIMEOUT", "soon")
    assert cli.main(["run", "--data", "scenes"]) == cli.FAILED
    assert "`DIFAL_DISTRIBUTED_TIMEOUT` must be a positive number of seconds, got 'soon'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_sweep_under_torchrun(tmp_path, data):
    """With an encoder from disk, since its runs are processes of their own, and two of them on two ranks."""
    DiffusionEncoder(make_unet(), blocks=(0, 1), timesteps=(50,)).save_pretrained(tmp_path / "encoder")
    words = (
        f"sweep --data {data} --encoder {tmp_path / 'encoder'} --acquisitions coverage,random --seeds 0 "
        f"{SMALL.replace('--local', '--random 10 --local')} --herding sharded --jobs 1 --out"
    ).split()
    paths = os.pathsep.join([*process_group.PATHS, *filter(None, [os.environ.get("PYTHONPATH")])])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "--", "difal"]
    done = subprocess.run(
        [*torchrun, *words, str(tmp_path / "two")],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "[2/2]" in done.stdout
    assert cli.main([*words, str(tmp_path / "one")]) == cli.DONE
    for name in ("coverage-seed0", "random-seed0"):
        assert outcome(tmp_path / "two/runs" / name) == outcome(tmp_path / "one/runs" / name)
    assert (tmp_path / "two/table.md").read_text() == (tmp_path / "one/table.md").read_text()
