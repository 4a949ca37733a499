"""MaxHerding on the CPU: inner products by torch's GEMM, everything around them by csrc/cpu/coverage.cpp.

float32 arithmetic finds the contenders with a proven error bound, float64 settles them; docs/exactness.md derives the
bound. The kernel matrix is stored once, (N, M) float32; inner products are written into it and turned into
kernel values in place, half of them by symmetry.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..._native import load, missing, num_threads
from ..._progress import Progress
from .kernels import KERNELS
from .problem import Batch, Problem
from .reference import initial_coverage
from .result import Result

PANEL = 2048  # most rows of features per GEMM
PANEL_NUMBERS = 1 << 22  # and most numbers, 16 MiB of float32
UNIT = 2.0**-24  # float32's unit roundoff
TOLERANCE = 2.0**-10  # worst relative error of a kernel value that is left to an estimate


def unavailable() -> str | None:
    return missing("_cpu")


def supports(batch: Batch) -> str | None:
    if batch.device.type != "cpu":
        return f"it runs on CPU tensors and the input is on {batch.device}; move it with .cpu()"
    return unavailable()


def plan(batch: Batch) -> str:
    lines = []
    for b, p in enumerate(batch.problems):
        needed, limit = workspace_bytes(p), _limit(batch)
        name = f"problem {b}: " if batch.batched else ""
        passes = "no GEMM" if p.kernel == "precomputed" else f"{0.5 if _symmetric(p) else 1} GEMM pass"
        lines.append(
            f"   {name}dense, {len(p.features)} x {_columns(p)} kernel in float32, {passes}, "
            f"workspace {needed / 2**20:.1f} MiB of {limit / 2**20:.0f} MiB"
        )
    return "\n".join(lines)


def run(batch: Batch) -> list[Result]:
    limit = _limit(batch)
    for b, p in enumerate(batch.problems):
        if workspace_bytes(p) > limit:
            where = f"problem {b} of the batch" if batch.batched else "this selection"
            source = "`memory_limit`" if batch.memory_limit is not None else "the memory that is free"
            raise ValueError(
                f"{source} is {limit} bytes and {where} needs {workspace_bytes(p)} for the kernel of "
                f"{len(p.features)} points and {_columns(p)} candidates; raise it or pass fewer `candidates`"
            )
    total = sum(p.budget for p in batch.problems)
    with Progress(total, "maxherding", batch.progress) as bar:
        return [_select(p, bar) for p in batch.problems]


def workspace_bytes(p: Problem) -> int:
    """Bytes used beyond the features: the kernel matrix, panels, copies that the dtype or strides ask for."""
    n, d = p.features.shape
    columns = _columns(p)
    if p.kernel == "precomputed":
        own = 0 if _kernel_is_usable(p.features) and columns == n else 4 * n * columns
        return own + (0 if _is_native(p.features) else 8 * n * n) + 64 * (n + columns)
    copies = 0 if _is_native(p.features) else n * d * (8 if p.features.dtype == torch.float64 else 4)
    height = _panel_rows(p)
    labels = 0 if p.labeled is None else p.labeled.numel() * 8 + 4 * min(len(p.labeled), height) * n
    panels = 2 * 4 * height * d + (0 if columns == n else 8 * height * d)
    return 4 * n * columns + copies + labels + panels + 64 * (n + columns)


def _panel_rows(p: Problem) -> int:
    n, d = p.features.shape
    return min(n, max(64, min(PANEL, PANEL_NUMBERS // d)))


def _limit(batch: Batch) -> int:
    """`memory_limit`, or nine tenths of what is free."""
    return batch.memory_limit if batch.memory_limit is not None else int(0.9 * free_memory())


def free_memory() -> int:
    """Bytes of memory that can be had without swapping; 8 GiB where the system does not say."""
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return 8 << 30


def _symmetric(p: Problem) -> bool:
    """Whether the whole square matrix is made: half of it by symmetry costs less than a column per candidate."""
    return p.kernel != "precomputed" and (p.candidates is None or 2 * len(p.candidates) > len(p.features))


def _columns(p: Problem) -> int:
    return len(p.features) if p.candidates is None or _symmetric(p) else len(p.candidates)


def _is_native(features: torch.Tensor) -> bool:
    return features.dtype in (torch.float32, torch.float64) and features.is_contiguous()


def _kernel_is_usable(kernel: torch.Tensor) -> bool:
    return kernel.dtype == torch.float32 and kernel.stride(1) == 1 and kernel.stride(0) >= kernel.shape[1]


def _native(features: torch.Tensor) -> torch.Tensor:
    """Contiguous float32 or float64 with the same values: the input itself where it is that already."""
    return features.to(torch.float64 if features.dtype == torch.float64 else torch.float32).contiguous()


def _select(p: Problem, bar: Progress) -> Result:
    coverage, keep = (_precomputed if p.kernel == "precomputed" else _from_features)(p)
    coverage.start()
    picks = torch.empty(p.budget, dtype=torch.int64)
    gains = torch.empty(p.budget, dtype=torch.float64)
    done, chunk = 0, 16
    while done < p.budget:  # in chunks of some tenths of a second, for Ctrl-C and the progress bar
        count = min(chunk, p.budget - done)
        began = time.monotonic()
        coverage.select(count, picks[done:].data_ptr(), gains[done:].data_ptr())
        done += count
        bar.update(count)
        if time.monotonic() - began < 0.1:
            chunk *= 2
    if p.candidates is not None and not _symmetric(p):
        picks = p.candidates[picks]
    n = len(p.features)
    del keep
    return Result(picks, gains / n, coverage.covered() / n, coverage.stats()["contested"])


def _from_features(p: Problem):
    features = _native(p.features)
    labeled = None if p.labeled is None else _native(p.labeled)
    n, d = features.shape
    symmetric = _symmetric(p)
    columns = _columns(p)
    cosine = p.kernel == "cosine"
    center = None if cosine else features.mean(0, dtype=torch.float64).to(features.dtype)
    height = _panel_rows(p)
    buffers = torch.empty(2, height, d)  # made once: fresh pages for every panel would cost more than its arithmetic

    def panel(rows: torch.Tensor, side: int) -> torch.Tensor:
        """float32 rows for the GEMM: centred and in units of the bandwidth, or of unit length for cosine."""
        out = buffers[side, : len(rows)]
        if cosine:
            return torch.div(rows, rows.double().norm(dim=1, keepdim=True).clamp_(min=1e-300), out=out)
        return torch.sub(rows, center, out=out).mul_(1 / p.bandwidth)

    def scales(rows: torch.Tensor) -> torch.Tensor:
        """The s_i of csrc's ErrorModel: squared norms of a panel's rows."""
        return (
            torch.zeros(len(rows))
            if cosine
            else torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).square().float()
        )

    gram = torch.empty(n, columns)
    blocks = [(begin, min(begin + height, n)) for begin in range(0, n, height)]
    scale = torch.cat([scales(panel(features[b:e], 0)) for b, e in blocks])
    growth = d * UNIT / (1 - d * UNIT)
    coverage, keep = _engine(
        p, features, scale, gram, symmetric,
        lambda_=0.0 if cosine else 1.01 * (growth + 20 * UNIT),
        relative=8 * UNIT if p.kernel != "tophat" else 0.0,
        absolute=1.01 * (growth + 8 * UNIT) if cosine else 0.0,
    )  # fmt: skip

    with full_precision():
        if labeled is not None:
            products = torch.empty(min(height, len(labeled)), n)
            for rows in labeled.split(height):
                own = panel(rows, 0)
                own_scale = scales(own)
                for b, e in blocks:
                    torch.mm(own, panel(features[b:e], 1).T, out=products[: len(rows), b:e])
                coverage.cover(rows.data_ptr(), len(rows), products.data_ptr(), n, own_scale.data_ptr())
            del products
        for b, e in blocks:
            own = panel(features[b:e], 0)
            if symmetric:
                for b2, e2 in blocks:
                    if b2 <= b:
                        other = own if b2 == b else panel(features[b2:e2], 1)
                        torch.mm(own, other.T, out=gram[b:e, b2:e2])
                coverage.fill(b, e, 0, e)
            else:
                for c in range(0, columns, height):
                    index = p.candidates[c : c + height]
                    torch.mm(own, panel(features[index], 1).T, out=gram[b:e, c : c + len(index)])
                coverage.fill(b, e, 0, columns)
    return coverage, keep


def _precomputed(p: Problem):
    """The kernel itself is the matrix: used in place where it is float32 with contiguous rows, else copied once."""
    exact = p.features if p.features.dtype == torch.float64 else p.features.float()
    exact = exact if exact.stride(1) == 1 else exact.contiguous()
    gram = exact if p.candidates is None else exact[:, p.candidates]
    coverage, keep = _engine(
        p, exact, torch.zeros(len(exact)), gram.float(), symmetric=False,
        lambda_=0.0, relative=4 * UNIT if exact.dtype == torch.float64 else 0.0, absolute=0.0,
    )  # fmt: skip
    m = initial_coverage(p)
    coverage.cover_with(m.data_ptr())
    return coverage, keep


def _engine(p, features, scale, gram, symmetric, *, lambda_, relative, absolute):
    """The native engine, and the tensors that must outlive it."""
    allowed = None
    if p.candidates is not None and symmetric:
        allowed = torch.zeros(len(features), dtype=torch.uint8)
        allowed[p.candidates] = 1
    candidates = p.candidates if not symmetric else None
    weights = p.weights.contiguous()
    coverage = load("_cpu").Coverage(
        rows=len(features),
        columns=gram.shape[1],
        dimension=features.shape[1],
        is_double=features.dtype == torch.float64,
        features=features.data_ptr(),
        feature_stride=features.stride(0),
        weights=weights.data_ptr(),
        candidates=0 if candidates is None else candidates.data_ptr(),
        allowed=0 if allowed is None else allowed.data_ptr(),
        kind=KERNELS.index(p.kernel),
        bandwidth=p.bandwidth or 1.0,
        lambda_=lambda_,
        tolerance=TOLERANCE,
        relative=relative,
        absolute=absolute,
        scale=scale.data_ptr(),
        gram=gram.data_ptr(),
        gram_stride=gram.stride(0),
        symmetric=symmetric,
        threads=num_threads(),
    )
    return coverage, (features, weights, candidates, allowed, scale, gram)


@contextmanager
def full_precision() -> Iterator[None]:
    """float32 products really in float32, whatever the process has allowed torch to do: the bound rests on it."""
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    if matmul is not None and hasattr(matmul, "fp32_precision"):  # torch 2.9 and later
        saved = matmul.fp32_precision
        matmul.fp32_precision = "ieee"
        try:
            yield
        finally:
            matmul.fp32_precision = saved
    else:
        saved = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(saved)
