"""The cosine of rows without a direction, and of rows so short that float64 loses their norms."""

import warnings

import pytest
import torch

from backends import for_cpu_tensors
from clouds import cloud
from difal_kernels import MaxHerding, maxherding
from difal_kernels._checks import FLOATS
from difal_kernels.ops.maxherding.directions import ROWS_AT_ONCE, SHORTEST, zero_rows


@pytest.mark.parametrize("dtype", [*FLOATS, torch.int8, torch.uint8])
def test_rows_of_zeros_are_found(dtype):
    x = torch.zeros(2 * ROWS_AT_ONCE + 3, 70, dtype=dtype)
    nonzero = torch.arange(1, len(x), 2)
    x[nonzero, nonzero // 2 % 70] = 1  # wherever it is
    assert zero_rows(x, "x").tolist() == list(range(0, len(x), 2))
    assert zero_rows(x[nonzero], "x").tolist() == []
    assert zero_rows(x[:, :1], "x").tolist() == [i for i in range(len(x)) if not i % 2 or i // 2 % 70]


def test_rows_of_zeros_are_named():
    x = cloud()
    x[[4, 9, 33, 70, 71, 90]] = 0
    named = r"^`features`: rows 4, 9, 33, 70, 71 and 1 more are all zeros, .* drop them$"
    with pytest.warns(UserWarning, match=named) as told:
        maxherding(x, 3, kernel="cosine")
    assert told[0].filename == __file__
    with pytest.warns(UserWarning, match=r"`features\[1\]`: row 4 is all zeros, .* drop it$"):
        maxherding(torch.stack([x[100:108], x[:8]]), 1, kernel="cosine", lengths=[8, 6])
    with pytest.warns(UserWarning, match="all zeros"):
        MaxHerding(x, kernel="cosine")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maxherding(x, 3)
        maxherding(x[100:], 3, kernel="cosine", labeled=x[:10])


@pytest.mark.parametrize("backend", for_cpu_tensors("maxherding"))
def test_short_rows_have_the_picks_of_their_directions_or_are_refused(backend):
    x = cloud().double()
    scale = torch.full((len(x), 1), 2.0**-495, dtype=torch.float64)  # exact; the largest numbers are about 1e-149
    scale[::3] = 1
    want = maxherding(x, 40, kernel="cosine", labeled=x[:3], backend="reference", return_info=True)
    short = x * scale
    assert float(short[1].abs().max()) < 1e-147
    got = maxherding(short, 40, kernel="cosine", labeled=short[:3], backend=backend, return_info=True)
    assert torch.equal(got.indices, want.indices)
    assert torch.allclose(got.gains, want.gains, rtol=1e-12, atol=0)
    x[7] *= SHORTEST / float(x[7].abs().max()) / 2
    for arguments, name in (({"features": x}, "features"), ({"features": x[10:], "labeled": x[5:9]}, "labeled")):
        row = 7 if name == "features" else 2
        with pytest.raises(ValueError, match=rf"`{name}` must not be shorter than 1e-150 .* up to 5e-151 in row {row}"):
            maxherding(budget=3, kernel="cosine", backend=backend, **arguments)
    maxherding(x, 3, backend=backend)  # distances do not need their norms
