"""The dense path: the kernel matrix is stored once, in 16 bits or float32, and half of it made by symmetry."""

from __future__ import annotations

from dataclasses import replace

import torch

from difal_kernels._memory import large_empty
from difal_kernels._progress import Progress
from difal_kernels._workers import Workers

from ...problem import Problem
from ...reference import initial_coverage
from ...result import Result
from .greedy import cover_labeled, make_engine, run_picks
from .operands import NUMBERS, TOLERANCE, Panels, cut, full_precision, is_native
from .products import BLOCK, UNIT, Float32Products, Int16Products, integers_are_faster

TILE = 512  # most columns of the matrix that are made at once: turned into kernel values while in cache
SPAN = 2048  # columns per task
ROWS = 1024  # most rows that are prepared at a time, for all the tiles beside them
LEAST = 256  # and the least, in a small pool
CORNER = 128  # rows of a tile on the diagonal that are made at once: what lies above the diagonal is made for nothing
SHORT = 1 << 22  # entries from which 16 bits an entry pay: a smaller matrix stays in cache
SPARSE, FLAT = 2.0**-7, 1 - 2.0**-5  # mean kernel values between which 16 bits tell the gains apart
STORING = 2 * 0.52 / 65535  # of a kernel value and of the coverage to 16 bits; docs/exactness.md


def workspace_bytes(p: Problem, threads: int) -> int:
    """Bytes used beyond the features: the kernel matrix, panels, copies that the dtype or strides ask for."""
    n, d = p.features.shape
    columns = _columns(p)
    if p.kernel == "precomputed":
        in_place = p.features.dtype == torch.float32 and p.features.stride(1) == 1
        own = 0 if in_place and columns == n else 4 * n * columns
        return own + (0 if in_place or is_native(p.features) else 8 * n * n) + 64 * (n + columns)
    copies = 0 if is_native(p.features) else n * d * (8 if p.features.dtype == torch.float64 else 4)
    rows, width = _heights(n, d)
    labels = 0 if p.labeled is None else p.labeled.numel() * 8 + 4 * min(len(p.labeled), rows) * n
    panels = threads * 4 * ((rows + width) * d + _tile(rows, width))
    gathered = 0 if columns == n else threads * 8 * width * d
    return matrix_bytes(p) + copies + labels + panels + gathered + _kept(p) + 64 * (n + columns)


def _kept(p: Problem) -> int:
    """Bytes for the whole pool as integers, where that is little beside the matrix."""
    if not integers_are_faster():
        return 0
    size = Int16Products.nbytes(*p.features.shape)
    return size if 33 * size <= matrix_bytes(p) else 0


def _dtype(p: Problem) -> torch.dtype:
    """What an entry is stored in: int16 (its bits are csrc's uint16) where the matrix is large and that tells enough.

    Rounded to 16 bits, entries that are mostly near 0, or mostly near 1, would leave many candidates to float64.
    """
    if p.kernel == "precomputed" or len(p.features) * _columns(p) < SHORT:
        return torch.float32
    return torch.int16 if p.kernel == "tophat" or SPARSE <= p.mean_similarity <= FLAT else torch.float32


def _heights(n: int, d: int) -> tuple[int, int]:
    """Rows that each worker has prepared at a time, and columns: little beside the matrix, unless D is above N."""
    most = max(64, NUMBERS // d)
    heights = min(most, max(LEAST, min(ROWS, n // 8))), min(most, max(LEAST, min(TILE, n // 16)))
    rows, width = (min(n, -(-height // BLOCK) * BLOCK) for height in heights)  # slices begin where blocks do
    return rows, width


def _tile(height: int, width: int) -> int:
    """Numbers in the largest tile that is made at once, beside the diagonal or on it."""
    return max(min(Float32Products.tile, height) * width, min(CORNER, height) * height)


def plan(p: Problem) -> str:
    passes = "no GEMM pass" if p.kernel == "precomputed" else f"{0.5 if _symmetric(p) else 1} GEMM passes"
    bits = 8 * _dtype(p).itemsize
    return f"dense, {len(p.features)} x {_columns(p)} kernel in {bits} bits an entry, {passes}"


def matrix_bytes(p: Problem) -> int:
    """Of the matrix that `select` can be lent."""
    return 0 if p.kernel == "precomputed" else _dtype(p).itemsize * len(p.features) * _columns(p)


def select(p: Problem, bar: Progress, workers: Workers, storage: torch.Tensor | None = None) -> Result:
    """Solve one problem, in `storage` if given: bytes, at least `matrix_bytes(p)` of them."""
    selection = DenseSelection(p, workers, storage)
    picks, gains = selection.more(p.budget, bar)
    return Result(picks, gains, selection.coverage(), selection.settled())


class DenseSelection:
    """Greedy selection on a stored matrix, as far as wanted."""

    def __init__(self, p: Problem, workers: Workers, storage: torch.Tensor | None = None):
        self.p = p
        if p.kernel == "precomputed":
            self.engine, self.keep = _precomputed(p, workers.count)
        else:
            n, d = p.features.shape
            self.panels = Panels(p, _heights(n, d) * workers.count, workers, _kept(p))
            self.engine, self.keep = _from_features(p, self.panels, workers, storage)
        self.engine.start()

    def more(self, count: int, bar: Progress) -> tuple[torch.Tensor, torch.Tensor]:
        """The next `count` picks and their gains."""
        picks = torch.empty(count, dtype=torch.int64)
        gains = torch.empty(count, dtype=torch.float64)
        run_picks(self.engine, picks, gains, bar)
        if self.p.candidates is not None and not _symmetric(self.p):
            picks = self.p.candidates[picks]
        return picks, gains / len(self.p.features)

    def add_labeled(self, labeled: torch.Tensor) -> None:
        p = replace(self.p, labeled=labeled)
        if p.kernel == "precomputed":
            m = initial_coverage(p)
            self.engine.cover_with(m.data_ptr())
        else:
            cover_labeled(self.engine, p, self.panels)

    def coverage(self) -> float:
        return self.engine.covered() / len(self.p.features)

    def settled(self) -> int:
        return self.engine.stats()["contested"]


def _symmetric(p: Problem) -> bool:
    """Whether the whole square matrix is made: half of it by symmetry costs less than a column per candidate."""
    return p.kernel != "precomputed" and (p.candidates is None or 2 * len(p.candidates) > len(p.features))


def _columns(p: Problem) -> int:
    return len(p.features) if p.candidates is None or _symmetric(p) else len(p.candidates)


def _from_features(p: Problem, panels: Panels, workers: Workers, storage: torch.Tensor | None):
    symmetric = _symmetric(p)
    features, products, n, columns = panels.features, panels.products, len(p.features), _columns(p)
    dtype = _dtype(p)
    storage = large_empty(n * columns, dtype) if storage is None else storage[: matrix_bytes(p)].view(dtype)
    matrix = storage.view(n, columns)
    error = {**panels.error, "storing": 0.0 if dtype == torch.float32 or p.kernel == "tophat" else STORING}
    coverage, keep = make_engine("Coverage", p, features, panels.scale, matrix, symmetric, error, workers.count)
    cover_labeled(coverage, p, panels, workers)

    height, width = panels.heights[:2]
    # Products become kernel values here, in cache.
    tiles = [torch.empty(_tile(height, width), dtype=torch.float32) for _ in range(workers.count)]

    def make(rows: tuple[int, int], columns: tuple[int, int], upper, lower, slot: int) -> None:
        shape = rows[1] - rows[0], columns[1] - columns[0]
        tile = tiles[slot][: shape[0] * shape[1]].view(shape)
        products.multiply(upper, lower, tile)
        coverage.fill(*rows, *columns, tile.data_ptr(), shape[1])

    def square(b: int, e: int, own: torch.Tensor, slot: int) -> None:
        for begin in range(b, e, CORNER):
            end = min(begin + CORNER, e)
            upper, lower = products.part(own, begin - b, end - b), products.part(own, 0, end - b)
            make((begin, end), (b, end), upper, lower, slot)
            coverage.mirror(begin, end)

    held: list[tuple[int, int] | None] = [None] * workers.count  # whose rows each worker has ready from its last task

    def work(task: tuple[int, int, int, int], slot: int) -> None:
        b, e, first, last = task
        own = panels.prepared(2 * slot) if held[slot] == (b, e) else panels.block(b, e, 2 * slot)
        held[slot] = b, e
        for c, stop in ((c, min(c + width, last)) for c in range(first, last, width)):
            side = 2 * slot + 1
            other = panels.block(c, stop, side) if symmetric else panels.rows(features[p.candidates[c:stop]], side)
            for begin, end in cut(e - b, products.tile):
                make((b + begin, b + end), (c, stop), products.part(own, begin, end), other, slot)
        if symmetric and last == b:
            square(b, e, own, slot)

    tasks = []
    for b, e in reversed(cut(n, height)):  # the long ones first
        last = b if symmetric else columns
        tasks += [(b, e, first, min(first + SPAN, last)) for first in range(0, max(last, 1), SPAN)]
    with full_precision():
        workers.run(work, tasks)
    return coverage, keep


def _precomputed(p: Problem, threads: int):
    """The kernel itself is the matrix: used in place where it is float32 with contiguous rows, else copied once."""
    exact = p.features if p.features.dtype == torch.float64 else p.features.float()
    exact = exact if exact.stride(1) == 1 else exact.contiguous()
    gram = exact if p.candidates is None else exact[:, p.candidates]
    rounding = 4 * UNIT if exact.dtype == torch.float64 else 0.0
    error = {"lambda_": 0.0, "relative": rounding, "absolute": 0.0, "tolerance": TOLERANCE}
    scale = torch.zeros(len(exact), dtype=torch.float32)
    coverage, keep = make_engine("Coverage", p, exact, scale, gram.float(), False, error, threads)
    m = initial_coverage(p)
    coverage.cover_with(m.data_ptr())
    return coverage, keep
