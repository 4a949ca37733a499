"""What the compiler makes of the kernels, where there is no GPU: each compiles, few registers spill, and another N or
budget compiles nothing. In processes of their own, since the kernels of this one may be interpreted."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from difal_kernels.ops import _triton

ROOT = Path(__file__).parents[2]

ALL = """
import sys
from dataclasses import replace
from difal_kernels.ops import _triton
builds = _triton.builds()
assert {build.kernel.__name__ for build in builds} >= {"fill", "repair", "take", "score", "gather", "normalise"}
assert len(builds) >= len(_triton.ARCHS)
part, parts = int(sys.argv[1]), int(sys.argv[2])
for which, build in list(enumerate(builds))[part::parts]:
    arch = build.archs[which % len(build.archs)]  # all pairs take minutes: `make triton-compile`
    assert not {"i1", "i32"} & set(build.types.values())  # sizes and strides are int64, so that N * N may be too
    if "KIND" in build.constants:
        build = replace(build, constants={**build.constants, "KIND": which % 7})
    made = _triton.compile_ahead(build, arch)
    product = build.kernel.__name__ == "fill"
    assert 0 < made.registers <= 255 and (product or made.spilled <= 40), made
    assert bool(made.loop) == product and made.spills_in_loop <= 2, made
    # What tensor cores sum is added up by the threads of a tile of 128 x 128, 256 of them: never one long sum.
    assert not product or made.additions_in_loop >= 64, made
    # A thread has positions of its own where the classes are few, and exchanges nothing.
    assert build.kernel.__name__ != "score" or build.constants["FIRST"] > 32 or not made.shared, made
    assert made.shared <= {"80": 163, "90": 227, "100": 227}.get(arch, 99) * 1024, made  # what a block may have
print("compiled", len(builds))
"""

# A driver that names a device and has none; a launch compiles and goes no further.
COUNT = """
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction
class Driver:
    def get_current_device(self): return 0
    def get_current_stream(self, device=None): return 0
    def get_current_target(self): return GPUTarget("cuda", 90, 32)
    def get_device_interface(self): return torch.cpu
    def get_active_torch_device(self): return torch.device("cpu")
    def is_active(self): return True
triton.runtime.driver.set_active(Driver())
run = JITFunction.run
JITFunction.run = lambda self, *args, grid, warmup, **kwargs: run(self, *args, grid=grid, warmup=True, **kwargs)

from difal_kernels.ops.maxherding.backends.triton import aot_builds, dense as triton_dense
from difal_kernels.ops.maxherding.problem import prepare
from difal_kernels.ops.maxherding.backends.gpu import GpuTuning

def counts():
    found = {}
    for kernel in {id(b.kernel): b.kernel for b in aot_builds.builds()}.values():
        number = sum(len(cache[0]) for cache in kernel.device_caches.values())
        if number:
            found[kernel.__name__] = number
    return found

for n, d, budget in ((40, 64, 1), (64, 65, 16), (1, 3, 1), (1000, 128, 17)):
    labeled = torch.ones(16 if n == 64 else 1, d)
    (p,) = prepare(torch.rand(n, d), budget, labeled=labeled, bandwidth=1.0).problems
    greedy = triton_dense.TritonDenseGreedy([p], GpuTuning())
    with greedy.matrix(0) as matrix:
        matrix.cover(p.labeled)
        matrix.fill()
    greedy.start()
    greedy.greedy.turn()
    print(n, counts())
    assert set(counts().values()) == {1}, counts()
assert len(counts()) >= 9, counts()

from difal_kernels import disagreement, hypercolumns
from difal_kernels.ops import _triton
from difal_kernels.ops.disagreement import triton, triton_scores
from difal_kernels.ops.hypercolumns import triton as triton_columns, triton_gather
triton.unavailable = triton_columns.unavailable = lambda: None
_triton.wrong_device = lambda device: None

def number(kernel):
    return sum(len(cache[0]) for cache in kernel.device_caches.values())

# Of more than eight samples it is another one.
sizes = ((40, 5, 19, 1), (1, 1, 20, 1), (4096, 8, 19, 1), (40, 9, 19, 2), (7, 50, 20, 2))
for places, samples, classes, builds in sizes:
    try:
        disagreement(torch.zeros(samples, classes, places, 2)[..., 0], sample_dim=0, class_dim=1, backend="triton")
    except (ValueError, AssertionError):
        pass  # nothing ran: what is in memory may mean anything
    assert number(triton_scores.score) == builds, number(triton_scores.score)
for points, channels, side in ((40, 64, 16), (1, 1, 1), (17, 65, 7)):
    at = torch.zeros(points, 2, dtype=torch.int64)
    try:
        hypercolumns([torch.ones(1, channels, side, side)], at, (side, 32), backend="triton")
    except ValueError:
        pass
    assert number(triton_gather.gather) == number(triton_gather.normalise) == 1
print("one each")
"""


def compiled(script: str, tmp_path: Path, *arguments: str, timeout: int = 600) -> str:
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    kept["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-W", "error::UserWarning", "-c", script, *arguments]
    run = subprocess.run(command, env=kept, capture_output=True, text=True, timeout=timeout, cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.fixture(autouse=True)
def _triton_is_here():
    if _triton._import_error() is not None:
        pytest.skip("triton is not installed, so nothing can be compiled")


def test_every_kernel_and_every_architecture_compile_ahead_of_time(tmp_path):
    with ThreadPoolExecutor(2) as pool:  # each part is a process
        parts = [pool.submit(compiled, ALL, tmp_path, str(part), "2") for part in range(2)]
        assert all("compiled" in part.result() for part in parts)


def test_another_size_or_budget_compiles_nothing(tmp_path):
    assert "one each" in compiled(COUNT, tmp_path)
