"""Sizes and thresholds on the CPU. No value changes a pick."""

from __future__ import annotations

from dataclasses import dataclass

from difal_kernels._native import load

from ...bounds import ROUNDINGS, Roundings


@dataclass(frozen=True, kw_only=True)
class CpuTuning:
    """Sizes and thresholds.

    Attributes:
        integers: whether products of 16-bit integers are faster than float32; None to ask the processor.
        integers_min_features: D from which rows are worth rounding to integers.
        integers_min_multiplications: and N N D.
        integers_max_uncertain: share of entries that may be computed in float64 for the sake of faster products.
        int16_min_entries: entries from which 16 bits an entry pay: a smaller matrix stays in cache.
        int16_mean_kernel: mean kernel values between which 16 bits tell the gains apart.
        one_thread_max_multiplications: N N D of a kernel matrix that is not worth starting threads for.
        side_by_side_max_points: N up to which problems of a batch are solved side by side, a thread each.
        panel_rows: at least and at most so many rows are prepared at a time, for all the tiles beside them.
        panel_numbers: and at most so many numbers, 16 MiB of float32.
        tile_columns: most columns of the matrix that are made at once: turned into kernel values while in cache.
        task_columns: columns that a thread makes in one go.
        diagonal_rows: rows of a tile on the diagonal that are made at once; what lies above it is made for nothing.
        tile_points: rows and columns of a tile, without the matrix.
        group_points: near points of which one bound tells whether they are near others; divides `tile_points`.
        least_grouped: points from which that pays.
        roundings: what the bounds are made from.
    """

    integers: bool | None = None
    integers_min_features: int = 64
    integers_min_multiplications: int = 1 << 26
    integers_max_uncertain: float = 1e-3
    int16_min_entries: float = 1 << 22
    int16_mean_kernel: tuple[float, float] = (2.0**-7, 1 - 2.0**-5)
    one_thread_max_multiplications: int = 1 << 24
    side_by_side_max_points: int = 8192
    panel_rows: tuple[int, int] = (256, 1024)
    panel_numbers: int = 1 << 22
    tile_columns: int = 512
    task_columns: int = 2048
    diagonal_rows: int = 128
    tile_points: int = 512
    group_points: int = 256
    least_grouped: int = 1 << 14
    roundings: Roundings = ROUNDINGS

    def integers_are_faster(self) -> bool:
        return load("_cpu").has_vnni() if self.integers is None else self.integers
