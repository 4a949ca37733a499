"""No operation gets tensors of the host and of the GPU together, and no kernel an address on the host: the backends run
with tensors that only say they are on a GPU (emulator/foreign.py), in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

START = """
import sys
import plugin, foreign
import torch
mode = foreign.install(sys.modules["difal_kernels._cuda"])
mode.__enter__()
"""

ALL = (
    START
    + """
from dataclasses import replace
from difal_kernels import disagreement, edald, hypercolumns, maxherding
from difal_kernels.ops.maxherding.backends import BACKENDS
from difal_kernels.ops.maxherding.backends.gpu import GpuTuning
from difal_kernels.ops.maxherding.problem import prepare

generator = torch.Generator().manual_seed(0)
host = torch.randn(50, 20, generator=generator)
x, labeled, weights = host.to("cuda"), torch.randn(4, 20, generator=generator).to("cuda"), torch.rand(50, device="cuda")
some = torch.arange(45, 5, -1)

def matrix_free(name, features, **options):
    own = BACKENDS[name]
    rules = replace(own.guessing, watched_points=40, sample_rows=20, tried=8, first_tried=8)
    tuning = GpuTuning(tile_points=64, max_entries=900, rows_at_once=32)
    own = replace(own, path="matrix-free", tuning=tuning, guessing=rules)
    return own.run(prepare(features, 3, **options))[0].indices

for name in ("cuda", "triton"):
    few = some[:9].to("cuda")
    for options in ({}, {"labeled": labeled, "weights": weights, "candidates": some}, {"candidates": few}):
        told = maxherding(x, 3, backend=name, return_info=True, **options)
        assert told.backend == name and told.indices.is_cuda and told.gains.is_cuda, told
        want = maxherding(x, 3, backend="reference", **options)
        assert told.indices.tolist() == want.tolist()
    assert matrix_free(name, x, labeled=labeled, candidates=some).is_cuda
    assert matrix_free(name, x.bfloat16(), kernel="cosine").is_cuda
    maxherding(torch.stack([x[:40], x[10:50]]), 2, lengths=torch.tensor([40, 7]), bandwidth=[3.0, 4.0], backend=name)
    maxherding((x @ x.T).abs() / 30, 2, kernel="precomputed", labeled=torch.rand(2, 50, device="cuda"), backend=name)
    logits = torch.randn(9, 3, 5, device="cuda")
    for scores in disagreement(logits, outputs=("entropy", "margin", "variation_ratio"), backend=name).values():
        assert scores.is_cuda
    assert edald(logits, torch.randn(9, 5, device="cuda").half(), backend=name).is_cuda
    maps = [torch.randn(2, 6, s, s, device="cuda") for s in (4, 9)]
    at = torch.tensor([[0, 0], [15, 3]])
    assert hypercolumns(maps, at, (16, 16), image_index=at[:, 0] // 15, backend=name).is_cuda
    for call in (lambda: disagreement(logits / 0, backend=name), lambda: hypercolumns([maps[0] / 0], at, (16, 16),
                 image_index=at[:, 0] // 15, backend=name)):
        try:
            call()
        except ValueError as error:
            assert "must" in str(error)
        else:
            raise AssertionError("infinite numbers were taken")
print("all on one device")
"""
)

# Each is an error on a GPU.
MIXED = {
    "operands": "torch.ones(3, device='cuda') + torch.ones(3)",
    "index": "torch.ones(3)[torch.zeros(2, dtype=torch.int64, device='cuda')]",
    "values": "x = torch.ones(3, device='cuda'); x[torch.tensor([0, 1])] = torch.ones(2)",
    "stack": "torch.stack([torch.ones((), device='cuda'), torch.ones(())])",
    "numpy": "torch.ones(3, device='cuda').numpy()",
    "address": "from difal_kernels.ops._maps import native_map; native_map(torch.ones(1, 2, 3, 4))",
    "Triton": "from difal_kernels.ops.maxherding.backends.gpu.operands import split, GpuOperands as G\n"
    "from difal_kernels.ops.maxherding.problem import prepare\n"
    "from difal_kernels.ops.maxherding.backends import BACKENDS\n"
    "p = prepare(torch.rand(9, 4, device='cuda'), 2).problems[0]\n"
    "own = G(p, BACKENDS['triton'].tuning)\n"
    "own.fill(torch.empty(9, 9), own.every, own.every)",
}


def run(script):
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(HERE / "emulator")])
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=HERE)


@pytest.fixture(autouse=True)
def _emulated(device):
    pytest.importorskip("triton", reason="triton is not installed, so there is no product")
    if device.type == "cuda" or torch.version.cuda:
        pytest.skip("the real device says so itself")


def test_all_is_on_one_device():
    done = run(ALL)
    assert "all on one device" in done.stdout, done.stdout + done.stderr


def test_what_a_gpu_refuses_is_refused():
    script = "import json\nsaid = {}\n"
    for name, lines in MIXED.items():
        script += "try:\n" + "".join(f"    {line}\n" for line in lines.splitlines())
        script += f"except (RuntimeError, TypeError, ValueError) as error:\n    said[{name!r}] = str(error)\n"
    done = run(START + script + "print(json.dumps(said))")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said.keys() == MIXED.keys()
    assert all(any(word in text for word in ("device", "numpy", "address", "cpu tensor")) for text in said.values()), (
        said
    )
