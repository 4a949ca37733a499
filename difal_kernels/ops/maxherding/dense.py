"""The dense path: the kernel matrix is stored once, float32, and half of it made by symmetry."""

from __future__ import annotations

import torch

from ..._progress import Progress
from .engine import cover_labeled, make_engine, run_picks
from .panels import TOLERANCE, UNIT, Panels, full_precision, is_native, panel_rows
from .problem import Problem
from .reference import initial_coverage
from .result import Result


def workspace_bytes(p: Problem) -> int:
    """Bytes used beyond the features: the kernel matrix, panels, copies that the dtype or strides ask for."""
    n, d = p.features.shape
    columns = _columns(p)
    if p.kernel == "precomputed":
        in_place = p.features.dtype == torch.float32 and p.features.stride(1) == 1
        own = 0 if in_place and columns == n else 4 * n * columns
        return own + (0 if in_place or is_native(p.features) else 8 * n * n) + 64 * (n + columns)
    copies = 0 if is_native(p.features) else n * d * (8 if p.features.dtype == torch.float64 else 4)
    height = panel_rows(n, d)
    labels = 0 if p.labeled is None else p.labeled.numel() * 8 + 4 * min(len(p.labeled), height) * n
    panels = 2 * 4 * height * d + (0 if columns == n else 8 * height * d)
    return 4 * n * columns + copies + labels + panels + 64 * (n + columns)


def plan(p: Problem) -> str:
    passes = "no GEMM pass" if p.kernel == "precomputed" else f"{0.5 if _symmetric(p) else 1} GEMM passes"
    return f"dense, {len(p.features)} x {_columns(p)} kernel in float32, {passes}"


def select(p: Problem, bar: Progress) -> Result:
    coverage, keep = (_precomputed if p.kernel == "precomputed" else _from_features)(p)
    coverage.start()
    picks = torch.empty(p.budget, dtype=torch.int64)
    gains = torch.empty(p.budget, dtype=torch.float64)
    run_picks(coverage, picks, gains, bar)
    if p.candidates is not None and not _symmetric(p):
        picks = p.candidates[picks]
    n = len(p.features)
    del keep
    return Result(picks, gains / n, coverage.covered() / n, coverage.stats()["contested"])


def _symmetric(p: Problem) -> bool:
    """Whether the whole square matrix is made: half of it by symmetry costs less than a column per candidate."""
    return p.kernel != "precomputed" and (p.candidates is None or 2 * len(p.candidates) > len(p.features))


def _columns(p: Problem) -> int:
    return len(p.features) if p.candidates is None or _symmetric(p) else len(p.candidates)


def _from_features(p: Problem):
    panels, symmetric = Panels(p), _symmetric(p)
    features, n, columns = panels.features, len(p.features), _columns(p)
    gram = torch.empty(n, columns)
    coverage, keep = make_engine("Coverage", p, features, panels.scale, gram, symmetric, panels.error)
    cover_labeled(coverage, p, panels)
    with full_precision():
        for b, e in panels.blocks:
            own = panels.rows(features[b:e], 0)
            if symmetric:
                for b2, e2 in panels.blocks:
                    if b2 <= b:
                        other = own if b2 == b else panels.rows(features[b2:e2], 1)
                        torch.mm(own, other.T, out=gram[b:e, b2:e2])
                coverage.fill(b, e, 0, e)
            else:
                for c in range(0, columns, panels.height):
                    index = p.candidates[c : c + panels.height]
                    torch.mm(own, panels.rows(features[index], 1).T, out=gram[b:e, c : c + len(index)])
                coverage.fill(b, e, 0, columns)
    return coverage, keep


def _precomputed(p: Problem):
    """The kernel itself is the matrix: used in place where it is float32 with contiguous rows, else copied once."""
    exact = p.features if p.features.dtype == torch.float64 else p.features.float()
    exact = exact if exact.stride(1) == 1 else exact.contiguous()
    gram = exact if p.candidates is None else exact[:, p.candidates]
    rounding = 4 * UNIT if exact.dtype == torch.float64 else 0.0
    error = {"lambda_": 0.0, "relative": rounding, "absolute": 0.0, "tolerance": TOLERANCE}
    coverage, keep = make_engine("Coverage", p, exact, torch.zeros(len(exact)), gram.float(), False, error)
    m = initial_coverage(p)
    coverage.cover_with(m.data_ptr())
    return coverage, keep
