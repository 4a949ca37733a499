"""Arguments of `maxherding` to validated problems. Everything a user can get wrong is caught here, before any work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ..._arrays import exact_floats
from ..._checks import (
    FLOATS,
    INTEGERS,
    as_bool,
    as_bytes,
    as_choice,
    as_data,
    as_features,
    as_int,
    as_numbers,
    as_tensor,
    check_finite,
    slices,
)
from ..._progress import Listener, as_progress
from .bandwidth import median_bandwidth, sample_rows
from .directions import warn_of_zero_rows, zero_rows
from .kernel_functions import KERNELS, SCALE_FREE, kernel_matrix

LONGEST = 1e152  # rows of features: squared distances fit in float64, and sums of a thousand
SAMPLE = 128  # rows that stand for the pool
LARGEST_SUM = 1e300  # of the weights: backends multiply it by some powers of two


@dataclass(frozen=True)
class Problem:
    """One selection. Tensors are on one device; `features` keeps the user's dtype and strides.

    `labeled` is of the same dtype, or float32 beside narrower features on the CPU.
    """

    features: torch.Tensor  # (N, D), or the (N, N) kernel if precomputed
    budget: int
    labeled: torch.Tensor | None  # (L, D), or (L, N) if precomputed; None if there are none
    candidates: torch.Tensor | None  # (M,) int64 ascending, on the CPU; None for all
    weights: torch.Tensor  # (N,) float64; of the rows that are covered
    kernel: str
    bandwidth: float | None  # None if the kernel has none
    first_gain: float | None = None  # of the selection that this goes on with; None: this is the beginning
    rows: torch.Tensor | None = None  # (R,) int64, the points that are covered, on the CPU; None for all

    @property
    def row_count(self) -> int:
        """How many points are covered: N, unless `rows` names some."""
        return len(self.weights)

    @cached_property
    def mean_similarity(self) -> float:
        """Mean kernel value of two different points, by a sample; of features only."""
        some = self.features[sample_rows(len(self.features), SAMPLE).to(self.features.device)]
        half = len(some) // 2
        rows, others = some[0::2][:half].split(8), some[1::2][:half]  # few at a time: float64 copies of many features
        return float(torch.cat([kernel_matrix(r, others, self.kernel, self.bandwidth) for r in rows]).mean())


@dataclass(frozen=True)
class Batch:
    """What a backend receives: one problem, or B of them (`batched`) to be solved independently."""

    problems: tuple[Problem, ...]
    batched: bool
    memory_limit: int | None
    progress: bool | Listener

    @property
    def device(self) -> torch.device:
        return self.problems[0].features.device


def prepare(
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
    progress: Any = False,
    return_info: bool = False,
) -> Batch:
    """Validate the arguments of `maxherding`, but for `sample_rows` and `seed`."""
    as_choice(kernel, "kernel", KERNELS)
    x = as_features(features, "features", narrow=kernel != "precomputed")
    batched = x.ndim == 3
    if x.ndim not in (2, 3):
        raise ValueError(f"`features` must be 2-D (N, D) or 3-D (B, N, D), got shape {tuple(x.shape)}")
    if x.numel() == 0:
        raise ValueError(f"`features` must not have a zero-size dimension, got shape {tuple(x.shape)}")
    if kernel == "precomputed" and x.shape[-1] != x.shape[-2]:
        raise ValueError(f"`features` must be an N x N kernel when kernel='precomputed', got shape {tuple(x.shape)}")
    budget = as_int(budget, "budget", low=0)
    if memory_limit is not None:
        memory_limit = as_bytes(memory_limit, "memory_limit")
    progress, _ = as_progress(progress), as_bool(return_info, "return_info")
    count = len(x) if batched else 1
    sizes = _lengths(lengths, x, batched)
    pools = [x[b, :n] for b, n in enumerate(sizes)] if batched else [x]
    if kernel == "precomputed":
        pools = [pool[:, : len(pool)] for pool in pools]
    for b, pool in enumerate(pools):
        name = f"features[{b}]" if batched else "features"
        check_finite(pool, name)
        _check_size(pool, name, kernel)
        if kernel == "cosine":
            warn_of_zero_rows(pool, name)

    label_sets = _split(labeled, "labeled", count, batched, item_ndim=2)
    index_sets = _split(candidates, "candidates", count, batched, item_ndim=1)
    weight_sets = _split(weights, "weights", count, batched, item_ndim=1)
    bandwidths = _bandwidths(bandwidth, count, batched)
    checked = [
        (
            pool,
            _labeled(label_sets[b], pool, kernel),
            _candidates(index_sets[b], len(pool), budget),
            _weights(weight_sets[b], pool, x.shape[-2]),
        )
        for b, pool in enumerate(pools)
    ]
    problems = []
    for (pool, labels, allowed, w), width in zip(checked, bandwidths, strict=True):
        if labels is not None and labels.dtype != pool.dtype:  # a type that holds either exactly
            wide = torch.promote_types(torch.promote_types(labels.dtype, pool.dtype), torch.float32)
            labels = labels.to(wide)
            if pool.device.type != "cpu" or wide == torch.float64:  # the CPU widens narrow features slice by slice
                pool = pool.to(wide)
        if kernel in SCALE_FREE:
            width = None
        elif width is None:
            width = median_bandwidth(pool)
        problems.append(Problem(pool, budget, labels, allowed, w, kernel, width))
    return Batch(tuple(problems), batched, memory_limit, progress)


def _check_size(rows: torch.Tensor, name: str, kernel: str) -> None:
    """Squared distances must fit in float64, and a given kernel in float32."""
    largest = 0.0
    for some in slices(rows):
        low, high = (float(end) for end in torch.aminmax(some))  # of abs() there would be a copy
        largest = max(largest, -low, high)
    if kernel == "precomputed":
        if largest > 1e30 or 0 < largest < 1e-20:
            raise ValueError(f"`{name}` must be a kernel of values about 1, got values up to {largest:.3g}; rescale it")
    elif largest * math.sqrt(rows.shape[1]) > LONGEST:
        raise ValueError(
            f"`{name}` must be rows of length at most {LONGEST:g}, got {rows.shape[1]} numbers up to {largest:.3g}: "
            f"squares overflow; rescale them"
        )


def _lengths(lengths: Any, x: torch.Tensor, batched: bool) -> list[int]:
    if lengths is None:
        return [x.shape[1]] * len(x) if batched else [len(x)]
    if not batched:
        raise ValueError(f"`lengths` goes with 3-D `features` (B, N, D), got features of shape {tuple(x.shape)}")
    if isinstance(lengths, list | tuple):
        try:
            lengths = np.asarray(lengths)
        except ValueError:
            raise ValueError("`lengths` must be 1-D, got a nested sequence") from None
    sizes = as_data(lengths, "lengths", INTEGERS)
    if sizes.shape != (len(x),):
        raise ValueError(f"`lengths` must have shape ({len(x)},), got {tuple(sizes.shape)}")
    return [as_int(n, f"lengths[{b}]", low=1, high=x.shape[1]) for b, n in enumerate(sizes.tolist())]


def _split(value: Any, name: str, count: int, batched: bool, item_ndim: int) -> list[Any]:
    """One entry per problem: a list or an array with a batch dimension is split, a single one is shared."""
    if value is None or not batched:
        return [value] * count
    if isinstance(value, list | tuple) and not all(isinstance(v, int | np.integer) for v in value):
        items = list(value)
    elif getattr(value, "ndim", item_ndim) == item_ndim + 1:
        items = [value[b] for b in range(len(value))]
    else:
        return [value] * count
    if len(items) != count:
        raise ValueError(f"`{name}` must have one entry for each of the {count} problems, got {len(items)}")
    return items


def _labeled(value: Any, pool: torch.Tensor, kernel: str) -> torch.Tensor | None:
    if value is None:
        return None
    if isinstance(value, list | tuple) and value and all(isinstance(v, int | np.integer) for v in value):
        value = np.asarray(value)
    labeled = as_tensor(value, "labeled", (*FLOATS, *INTEGERS, torch.bool))
    if labeled.ndim == 1 and not labeled.is_floating_point():
        kind = "a mask" if labeled.dtype == torch.bool else "indices"
        wanted = "features[:, labeled].T" if kernel == "precomputed" else "features[labeled]"
        raise TypeError(
            f"`labeled` must be the rows of what is labeled, got {kind} of shape {tuple(labeled.shape)}; give {wanted}"
        )
    labeled = exact_floats(labeled, "labeled")
    if labeled.ndim != 2 or labeled.shape[1] != pool.shape[1]:
        what = "(L, N) kernel values" if kernel == "precomputed" else "(L, D) features"
        raise ValueError(f"`labeled` must be {what} with {pool.shape[1]} columns, got shape {tuple(labeled.shape)}")
    _same_device(labeled, "labeled", pool)
    if len(labeled) == 0:
        return None
    check_finite(labeled, "labeled")
    if kernel != "precomputed":  # a point may be far from all
        _check_size(labeled, "labeled", kernel)
    if kernel == "cosine":
        zero_rows(labeled, "labeled")
    return labeled


def check_labeled(value: Any, p: Problem) -> torch.Tensor | None:
    """Further labeled points for `p`, of its features' dtype or float32; None if there are none."""
    labeled = _labeled(value, p.features, p.kernel)
    if labeled is None or labeled.dtype == p.features.dtype:
        return labeled
    wide = torch.promote_types(p.features.dtype, torch.float32)
    if torch.promote_types(labeled.dtype, wide) != wide:
        raise TypeError(f"`labeled` must be of the features' dtype {p.features.dtype}, got {labeled.dtype}; convert it")
    return labeled.to(wide)


def in_one_dtype(batch: Batch) -> Batch:
    """The same problems with features and labeled points of one float type, for backends that need that."""

    def one(p: Problem) -> Problem:
        wide = p.features.dtype if p.features.dtype.is_floating_point else torch.float16  # holds integers of 8 bits
        if p.labeled is not None:
            wide = torch.promote_types(wide, p.labeled.dtype)
        if p.features.dtype == wide:
            return p
        return replace(p, features=p.features.to(wide), labeled=None if p.labeled is None else p.labeled.to(wide))

    return replace(batch, problems=tuple(one(p) for p in batch.problems))


def _candidates(value: Any, n: int, budget: int) -> torch.Tensor | None:
    if value is None:
        if budget > n:
            raise ValueError(f"`budget` must be at most the number of candidates, {n}, got {budget}")
        return None
    if isinstance(value, Sequence) and not isinstance(value, str):
        try:
            value = np.asarray(value, dtype=np.int64 if len(value) == 0 else None)
        except ValueError:
            raise ValueError("`candidates` must be 1-D, got a nested sequence") from None
    index = as_data(value, "candidates", (*INTEGERS, torch.bool)).cpu()
    if index.dtype == torch.bool:
        if index.shape != (n,):
            raise ValueError(
                f"`candidates` is a mask of shape {tuple(index.shape)}; it must be ({n},), one for each row"
            )
        index = index.nonzero()[:, 0]
    index = index.long()
    if index.ndim != 1:
        raise ValueError(f"`candidates` must be 1-D, got shape {tuple(index.shape)}")
    outside = index[(index < 0) | (index >= n)]
    if len(outside):
        raise ValueError(f"`candidates` must be indices from 0 to {n - 1}, got {int(outside[0])}")
    ordered = index.unique()
    if len(ordered) != len(index):
        values, counts = index.unique(return_counts=True)
        mask = "; a mask must be of type bool" if len(index) == n and int(values[-1]) <= 1 else ""
        raise ValueError(f"`candidates` must not repeat, got {int(values[counts > 1][0])} more than once{mask}")
    if budget > len(ordered):
        raise ValueError(f"`budget` must be at most the number of candidates, {len(ordered)}, got {budget}")
    return ordered if len(ordered) < n else None


def _weights(value: Any, pool: torch.Tensor, padded: int) -> torch.Tensor:
    n = len(pool)
    if value is None:
        return torch.ones(n, dtype=torch.float64, device=pool.device)
    weights = as_tensor(value, "weights", (*FLOATS, *INTEGERS, torch.bool))
    if weights.shape not in ((n,), (padded,)):
        raise ValueError(f"`weights` must have shape ({n},), got {tuple(weights.shape)}")
    _same_device(weights, "weights", pool)
    weights = weights[:n].to(torch.float64, copy=True)
    check_finite(weights, "weights")
    if bool((weights < 0).any()):
        where = int((weights < 0).nonzero()[0])
        raise ValueError(f"`weights` must not be negative, got {weights[where].item()} at index {where}")
    if float(weights.sum()) > LARGEST_SUM:
        most = weights.max().item()
        raise ValueError(
            f"`weights` must have a sum of {LARGEST_SUM:g} at most, got values up to {most}; scale them down"
        )
    return weights


def _bandwidths(value: Any, count: int, batched: bool) -> list[float | None]:
    """One per problem; None stands for "median"."""
    if isinstance(value, str):
        if value != "median":
            raise ValueError(f"`bandwidth` must be a positive number or 'median', got {value!r}")
        return [None] * count
    values = as_numbers(value, "bandwidth", "a positive number or 'median'")
    if values.shape not in ((), (count,)) or (values.ndim and not batched):
        raise ValueError(f"`bandwidth` must be one number{f' or {count}' if batched else ''}, got shape {values.shape}")
    for width in values.flat:
        if not (math.isfinite(width) and width > 0):
            raise ValueError(f"`bandwidth` must be positive and finite, got {width}")
    return np.broadcast_to(values, (count,)).tolist()


def _same_device(tensor: torch.Tensor, name: str, pool: torch.Tensor) -> None:
    if tensor.device != pool.device:
        raise ValueError(f"`{name}` must be on {pool.device} like `features`, got {tensor.device}; move it with .to()")


def labeled_coverage(p: Problem) -> torch.Tensor:
    """m_i of the labeled points in float64, (N,); 0 where there are none, and never below."""
    m = torch.zeros(len(p.features), dtype=torch.float64, device=p.features.device)
    if p.labeled is None:
        return m
    if p.kernel == "precomputed":
        return torch.maximum(m, p.labeled.double().amax(0))
    for rows in p.labeled.split(1024):
        m = torch.maximum(m, kernel_matrix(p.features, rows, p.kernel, p.bandwidth).amax(1))
    return m
