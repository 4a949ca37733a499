"""Random problems: every available backend of every selection op against the reference of that op."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from difal_kernels import available_backends, kcenter_greedy, maxherding, probcover, typiclust, uherding
from difal_kernels.ops._triton import interpreted

OPS = {op.__name__: op for op in (kcenter_greedy, maxherding, probcover, typiclust, uherding)}
PAIRS = [(name, b) for name in OPS for b in available_backends(name)]  # new backends come in by themselves
if interpreted():  # too slow for so many problems; tests/triton has some
    PAIRS = [pair for pair in PAIRS if pair[1] != "triton"]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
LIMITS = {"maxherding", "probcover", "uherding"}


def strided(x, how):
    if how == "transposed":
        return x.T.contiguous().T
    if how == "slice":
        return torch.cat([x, x], 1)[:, : x.shape[1]]
    return x.repeat_interleave(2, 0)[::2] if how == "step" else x


@pytest.mark.filterwarnings("ignore:`uncertainty`:UserWarning")  # coverage takes over
@pytest.mark.parametrize(("name", "backend"), PAIRS)
@settings(max_examples=25)
@given(data=st.data())
def test_any_problem_agrees_with_the_reference(name, backend, data):
    draw = data.draw
    n, d = draw(st.integers(1, 60)), draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    levels = draw(st.sampled_from([2, 5, 1000]))  # few levels: many duplicates and ties
    x = (torch.randint(levels, (n, d), generator=generator) * (4.0 / levels)).to(draw(st.sampled_from(DTYPES)))
    size, options = n, {}
    if draw(st.booleans()):
        options["labeled"] = x[torch.randint(n, (draw(st.integers(0, 4)),), generator=generator)] * 0.9
    if draw(st.booleans()):
        size = draw(st.integers(1, n))
        options["candidates"] = torch.randperm(n, generator=generator)[:size]
    arguments = [draw(st.integers(0, size))]
    if name == "probcover":
        arguments.insert(0, draw(st.sampled_from([0.5, 1.0, 2.0, 30.0])))
    if name == "uherding":
        arguments.insert(0, torch.randint(4, (n,), generator=generator))
        options["bandwidth"] = draw(st.sampled_from(["median", "labeled", 1.0]))
    want = OPS[name](x, *arguments, backend="reference", **options)
    view = strided(x, draw(st.sampled_from(["plain", "transposed", "slice", "step"])))
    if name in LIMITS:
        options["memory_limit"] = draw(st.sampled_from([None, 1 << 24, 1 << 30]))
    device = "cuda" if backend in ("cuda", "triton") else "cpu"
    if draw(st.booleans()) and x.dtype != torch.bfloat16 and device == "cpu":
        got = OPS[name](view.numpy(), *arguments, backend=backend, **_numpy(options))
        assert isinstance(got, np.ndarray)
        got = torch.from_numpy(got)
    else:
        moved = [a.to(device) if isinstance(a, torch.Tensor) else a for a in arguments]
        options = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
        got = OPS[name](view.to(device), *moved, backend=backend, **options).cpu()
    assert torch.equal(got, want)
    assert len(set(got.tolist())) == len(got)


def _numpy(options):
    return {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
