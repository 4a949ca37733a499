"""hypercolumns and project_then_resize on every instruction set, each in a process limited to it."""

import pytest

from instruction_sets import run_under

LEVELS = ["generic", "avx2", "avx512"]
PROGRAM = """
import torch, feature_maps as f
from difal_kernels import _cpu, hypercolumns, project_then_resize
torch.set_num_threads(1)
for case in f.CASES:
    for dtype in f.DTYPES:
        for layout in ("contiguous", "channels-last"):
            maps, size = f.make(case, dtype, layout)
            want = f.dense(maps, size)
            points, image = f.all_points(size, len(maps[0]))
            got = hypercolumns(maps, points, size, image_index=image, backend="cpu", out_dtype="float32")
            rows = want[image, :, points[:, 0], points[:, 1]]
            torch.testing.assert_close(got.double(), rows, rtol=0, atol=1e-6)
            weight, bias = f.layer(maps)
            got = project_then_resize(maps, weight, bias, size, backend="cpu")
            torch.testing.assert_close(got.double(), f.linear(want, weight, bias), rtol=0, atol=1e-5)
print(_cpu.isa())
"""


@pytest.mark.parametrize("isa", LEVELS)
def test_every_instruction_set(isa):
    assert (
        run_under(isa, PROGRAM).strip() in LEVELS[: LEVELS.index(isa) + 1]
    )  # the machine may have less than is allowed
