"""The host's model of the selection loop counts what the kernel counts, and makes its picks."""

import pytest
import torch

import gpu_rounds
from difal_kernels import maxherding
from difal_kernels._native import load
from difal_kernels._progress import Progress
from difal_kernels.ops.maxherding.backends import BACKENDS
from difal_kernels.ops.maxherding.backends.cuda.dense import CudaDenseGreedy
from difal_kernels.ops.maxherding.bounds import Roundings, error_model
from difal_kernels.ops.maxherding.kernel_functions import kernel_matrix
from difal_kernels.ops.maxherding.problem import prepare
from loop_model import CONTENDERS, KEPT, KNOWN, OPEN, SEGMENT, SETTLED, LoopModel, float32_bound
from selection import blobs


def run(x, budget, kernel, **tuning):
    """The kernel's picks and counters, and the model's on the same stored matrix."""
    (p,) = prepare(x, budget, kernel=kernel).problems
    tuning = BACKENDS["cuda"].tuning if not tuning else type(BACKENDS["cuda"].tuning)(**tuning)
    greedy = CudaDenseGreedy([p], tuning)
    with greedy.matrix(0) as matrix:
        matrix.fill()
    greedy.start()
    gram = matrix.gram[:, : matrix.columns].cpu().contiguous()
    ((picks, _),) = greedy.select([budget], Progress(budget, "", False))
    module, operands = load("_cuda"), matrix.operands
    exact = kernel_matrix(p.features.cpu(), p.features.cpu(), p.kernel, p.bandwidth)
    counted = greedy.greedy.counts(0)
    model = LoopModel(
        gram, lambda j, rows: exact[rows, j], operands.error, kernel, operands.sq_norms.cpu(), p.weights.cpu(),
        counted["blocks"], module.THREADS,
    )  # fmt: skip
    return picks.tolist(), counted, model.select(budget), model


@pytest.mark.parametrize(("kernel", "looser"), [("rbf", 1), ("rbf", 250), ("laplace", 400), ("cosine", 400)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_counters_of_the_kernel_are_those_of_the_model(device, kernel, looser, dtype):
    """`looser`: times the bound of a product, so that what took thousands of numbers a row is seen with few."""
    assert (load("_cuda").CONTENDERS, load("_cuda").KEPT, load("_cuda").SEGMENT) == (CONTENDERS, KEPT, SEGMENT)
    x = torch.nn.functional.normalize(blobs(300, d=96, clusters=5, spread=3.0), dim=1).to(dtype).to(device)
    halves = dtype == torch.bfloat16  # else rows are split, and a bound has more to it
    roundings = Roundings(tensor_core=max(3, looser * (4 if halves else 0.35)), split=max(2, looser / 10))
    picks, counted, expected, model = run(x, 40, kernel, roundings=roundings)
    assert picks == expected == maxherding(x.cpu(), 40, kernel=kernel, backend="reference").tolist()
    for name in ("rounds", "settled_candidates", "float64_rows", "rows_updated", "barriers"):
        assert counted[name] == getattr(model.counts, name), name
    assert (model.counts.settled_candidates > 45) == (looser > 1)


def test_rounds_of_the_benchmark_are_counted_in_miniature():
    """A tighter bound settles no more, a pick ends with a round that finds nobody, and sweeps prove no pick twice."""
    loose, tight = (gpu_rounds.dense("local", 0.012, chunk, 20) for chunk in (6144, 64))
    assert loose["settled_a_pick"] > tight["settled_a_pick"] >= 1
    assert loose["float64_rows_over_n"] > tight["float64_rows_over_n"]
    assert tight["rounds_a_pick"] >= 2
    swept = gpu_rounds.tiled("million", 0.001, 32)
    assert 1 <= swept["sweeps"] <= 3
    assert swept["passes"] == swept["sweeps"] + (swept["alive_over_room"] is not None)
    assert sum(swept["picks_proven_by_each"]) <= swept["budget"]
    counted = gpu_rounds.tiled("million", 0.001, 32, kept=False)  # as where this machine has no room for the lists
    assert counted["picks_proven_by_each"] == swept["picks_proven_by_each"]


@pytest.mark.parametrize("kernel", ["rbf", "laplace", "cosine"])
@pytest.mark.parametrize("signs", ["one", "points"])
def test_gains_stay_within_their_bounds_where_every_entry_is_as_wrong_as_it_may_be(kernel, signs):
    """Estimates off by 0.95 of their bounds, all one way or by pairs of points: after every pick, also once settled."""
    generator = torch.Generator().manual_seed(3)
    x = torch.nn.functional.normalize(blobs(160, d=24, clusters=4, spread=2.0), dim=1).double()
    exact = kernel_matrix(x, x, kernel, 1.0)
    model = error_model(kernel, 2e-4)
    sq_norms = torch.zeros(160) if kernel == "cosine" else x.square().sum(1).float()
    sums = sq_norms[:, None] + sq_norms
    sums.fill_diagonal_(0)
    off = 0.95 * float32_bound(model, kernel, exact.float(), sums)
    sign = torch.ones(160) if signs == "one" else torch.randint(2, (160,), generator=generator) * 2.0 - 1
    gram = (exact.float() + off * (sign[:, None] * sign)).clamp(min=0)
    gram.fill_diagonal_(1.0)
    loop = LoopModel(
        gram, lambda j, rows: exact[rows, j], model, kernel, sq_norms, torch.ones(160, dtype=torch.float64), 3, 64
    )
    closest, again = 0.0, 0
    for _ in range(40):
        loop.pick()
        true = (exact - loop.exact[:, None]).clamp(min=0).sum(0)
        above, below = loop.margins()
        open_ = (loop.flag == OPEN) | (loop.flag == KNOWN)
        rounding = 1e-10
        assert bool((true <= loop.gains + above + rounding)[open_].all())
        assert bool((true >= loop.gains - below - rounding)[open_].all())
        settled = loop.flag == SETTLED
        torch.testing.assert_close(loop.settled[settled], true[settled], rtol=0, atol=1e-11)
        wrong = ((true - loop.gains).abs() / loop.bounds.clamp(min=1e-9))[loop.flag == OPEN]
        closest = max(closest, float(wrong.max()) if len(wrong) else 0.0)
        again += int((loop.flag == KNOWN).sum())
    assert closest > 0.5  # half of a bound would not do
    assert again > 0
