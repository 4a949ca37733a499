"""MaxHerding: greedy maximisation of generalized coverage (facility location) over a pool of features."""

from __future__ import annotations

from typing import Any

import torch

from ..._checks import as_int
from ..._dispatch import Op
from ..._settings import on_cpu_by_default
from .backends import BACKENDS
from .incremental import MaxHerding
from .problem import Batch, prepare
from .result import Selection, answer
from .sampling import SampledCoverage, check, sampled

__all__ = ["MaxHerding", "SampledCoverage", "Selection", "maxherding"]


def _with_rows(batch: Batch, sample_rows: Any, seed: Any) -> Batch:
    if sample_rows is None:
        as_int(seed, "seed", low=0)
        return batch
    return sampled(batch, sample_rows, seed)


def _prepare(features: Any, budget: int, *, sample_rows: Any = None, seed: Any = 0, **options: Any) -> Batch:
    return _with_rows(prepare(features, budget, **options), sample_rows, seed)


_OP = Op("maxherding", _prepare, BACKENDS)


@on_cpu_by_default
def maxherding(
    features: Any,
    budget: int,
    *,
    labeled: Any = None,
    candidates: Any = None,
    weights: Any = None,
    kernel: str = "rbf",
    bandwidth: Any = "median",
    lengths: Any = None,
    memory_limit: int | str | None = None,
    backend: str = "auto",
    return_info: bool = False,
    progress: Any = False,
    sample_rows: int | None = None,
    seed: int = 0,
) -> Any:
    """Pick `budget` points that together cover the pool best, greedily and exactly.

    Maximises C(S) = (1/N) sum_i w_i max_{s in S u L} k(x_i, x_s) one point at a time: at each step the candidate
    with the largest gain_j = (1/N) sum_i w_i max(k(x_i, x_j) - m_i, 0), where m_i is the coverage of x_i so far
    (0 if nothing is labeled or picked). The greedy answer is within 1 - 1/e of the best set's coverage.

    Args:
        features: (N, D), or (B, N, D) for B independent problems. torch.Tensor or numpy.ndarray (also numpy.memmap)
            of float16, bfloat16, float32, float64, int8 or uint8, any strides. With kernel="precomputed" the (N, N) or
            (B, N, N) kernel, of floats, of which entry [i, j] says how well j covers i; it need not be symmetric.
        budget: how many points to pick, from 0 to the number of candidates.
        labeled: (L, D) features of points labeled already (or (L, N) kernel values): they cover but are not
            picked. With a batch, one (B, L, D) array, a list of B arrays, or one (L, D) shared by all.
        candidates: indices into the pool that may be picked; all N by default. Coverage is over all N regardless.
            With a batch, (B, M), a list of B, or one shared by all.
        weights: (N,) or (B, N) numbers >= 0: how much each point's coverage counts; 1 by default. An uncertainty
            here makes this uncertainty herding.
        kernel: with r = |x - y| and h = bandwidth: "rbf" exp(-(r/h)^2), "laplace" exp(-r/h), "cauchy"
            1 / (1 + (r/h)^2), "student_t" (1 + 2 (r/h)^2)^(-3/4), "rational_quadratic" 1 / (1 + (r/h)^2 / 2),
            "tophat" [r < h] (ProbCover), "cosine" max(0, cos) (0 for rows of zeros), or "precomputed".
        bandwidth: h in feature units, a number (with a batch, also (B,)), or "median": twice the median non-zero
            pairwise distance of max(10, N/100) fixed rows.
        lengths: (B,) how many of the N rows each problem of a ragged batch has; the rest is padding, never read.
        memory_limit: what the selection may use beyond the features, in bytes or as text such as "8GiB" or "500MB"; by
            default a share of what is free.
        backend: "auto", "cuda", "triton", "cpu" or "reference". `explain(maxherding, ...)` says which would run.
        return_info: return a `Selection` with gains, coverage and bandwidth instead of the indices alone.
        progress: show progress and the time left on standard error; or a function that is called with a line of text
            now and then.
        sample_rows: not the exact selection, but one that chooses by the coverage of so many rows, drawn at random:
            where the exact one is too dear. All N may still be picked. Take ten times the budget or more. The result's
            `sampled` says how sure its coverage is. On the CPU only, in 2 to 4 bytes for each of sample_rows x N.
        seed: which rows; of no effect without `sample_rows`.

    Returns:
        int64 indices into `features` in pick order, (budget,) or (B, budget), of the library and on the device of
        `features`; or a `Selection`.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a value out of range, a wrong shape, NaN or infinite numbers, a zero-size array, or a
            `memory_limit` below what is needed. Raised before any work; the message names the argument.
        BackendUnavailableError: `backend` was named and cannot run this here.

    Warns:
        UserWarning: kernel="cosine" and rows of zeros; names the rows.

    Notes:
        The picks are those of greedy selection in float64 arithmetic over the given numbers, on every backend, dtype
        and number of threads. Candidates are tied when their gains differ by less than 1e-12 of the first gain;
        ties go to the lowest index. When nothing is left to gain, the lowest unpicked candidates follow. Kernel
        values below 1e-30 count as 0. `cpu`, `cuda` and `triton` store the kernel of M candidates where
        `memory_limit` allows, in 4 N M bytes (float32) or on the CPU, where entries rounded to 16 bits tell the gains
        apart, in 2 N M; else they make it tile by tile.

    References:
        [1] Bae, Noh, Sutherland. Generalized Coverage for More Robust Low-Budget Active Learning. ECCV 2024,
            arXiv 2407.12212 (MaxHerding).
        [2] Bae, Sutherland, Oliveira. Uncertainty Herding. ICLR 2025, arXiv 2412.20644 (weights).
        [3] Kim et al. Diffusion-Driven Two-Stage Active Learning for Low-Budget Semantic Segmentation. NeurIPS
            2025, arXiv 2510.22229 (the two stages it serves here).

    Example:
        >>> import torch
        >>> from difal_kernels import maxherding
        >>> line = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
        >>> maxherding(line, 2, bandwidth=2.0)
        tensor([1, 4])
    """
    whole = prepare(
        features,
        budget,
        labeled=labeled,
        candidates=candidates,
        weights=weights,
        kernel=kernel,
        bandwidth=bandwidth,
        lengths=lengths,
        memory_limit=memory_limit,
        progress=progress,
        return_info=return_info,
    )
    batch = _with_rows(whole, sample_rows, seed)
    chosen = _OP.choose(backend, batch)
    with torch.no_grad():
        results = _OP.backends[chosen].run(batch)
    found = answer(features, batch, results, [p.bandwidth for p in batch.problems], chosen, return_info)
    if sample_rows is None or not return_info:
        return found
    ((p,), (sample,), (result,)) = whole.problems, batch.problems, results
    checked = check(p, sample, result.indices, result.coverage, seed)
    return found._replace(coverage=float(checked.coverage[-1]), sampled=checked)
