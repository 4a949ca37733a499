"""MaxHerding in portions: the budget chosen afterwards, newly labeled points on the way, nothing done twice."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from ..._checks import INTEGERS, as_data, as_int, back_converter, check_finite
from ..._dispatch import BackendUnavailableError
from ..._progress import Progress, as_progress
from ..._settings import on_cpu_by_default
from . import plan
from .backends import BACKENDS
from .dense import DenseSelection
from .matrix_free import MatrixFreeSelection
from .problem import Problem, check_labeled, prepare


def _one_at_a_time(method: Callable) -> Callable:
    """Calls from several threads wait for each other: native code runs without the GIL."""

    @functools.wraps(method)
    def wrapped(self, *args, **kwargs):
        with self._lock:
            return method(self, *args, **kwargs)

    return wrapped


def _earlier_picks(picked: Any, p: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices and gains of the argument `picked`, checked."""
    if picked is None:
        return torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.float64)
    if not isinstance(picked, tuple | list) or len(picked) != 2:
        raise TypeError(f"`picked` must be the indices and gains of an earlier MaxHerding, got {type(picked).__name__}")
    indices = as_data(picked[0], "picked[0]", INTEGERS).long()
    gains = as_data(picked[1], "picked[1]", (torch.float64,))
    if indices.ndim != 1 or indices.shape != gains.shape:
        raise ValueError(
            f"`picked` must be (n,) indices and as many gains, got {tuple(indices.shape)} and {tuple(gains.shape)}"
        )
    check_finite(gains, "picked[1]")
    allowed = torch.arange(len(p.features)) if p.candidates is None else p.candidates
    foreign = indices[~torch.isin(indices, allowed)]
    if len(foreign):
        raise ValueError(f"`picked` must be indices of candidates, got {int(foreign[0])}")
    if len(indices.unique()) != len(indices):
        raise ValueError("`picked` must not repeat an index")
    return indices.clone(), gains.clone()


class MaxHerding:
    """A MaxHerding selection that stays open.

    The picks of all `select` calls together are those of one `maxherding` call, so a budget can be chosen while
    looking at the gains. Points labeled meanwhile, by whatever method, join with `add_labeled`: the kernel matrix, or
    what of it is still alive, is kept and only the gains are lowered. The memory is held as long as the object lives.

    Args:
        features: (N, D) as for `maxherding`, on the CPU; not to be changed while the object lives.
        labeled, candidates, weights, kernel, bandwidth, memory_limit: as for `maxherding`; the memory of points that
            join later comes on top where the limit has no room for them.
        picked: `indices` and `gains` of an earlier object with the same arguments, which this one then goes on from:
            in another process, say. The picks of both together are those of one call.

    Attributes:
        indices: int64 indices into `features`, in pick order, so far.
        gains: float64, the rise of C(S) at each of these picks.
        coverage: C(S) now, labeled points included; a float.

    Raises:
        TypeError, ValueError: as `maxherding`.
        BackendUnavailableError: the compiled extension is missing, or `features` are not on the CPU.

    Example:
        >>> import torch
        >>> from difal_kernels import MaxHerding
        >>> line = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
        >>> herding = MaxHerding(line, bandwidth=2.0)
        >>> herding.select(1)
        tensor([1])
        >>> herding.select(1)
        tensor([4])
        >>> herding.indices
        tensor([1, 4])
    """

    @on_cpu_by_default
    def __init__(
        self,
        features: Any,
        *,
        labeled: Any = None,
        candidates: Any = None,
        weights: Any = None,
        kernel: str = "rbf",
        bandwidth: Any = "median",
        memory_limit: int | str | None = None,
        picked: tuple[Any, Any] | None = None,
    ):
        batch = prepare(
            features,
            0,
            labeled=labeled,
            candidates=candidates,
            weights=weights,
            kernel=kernel,
            bandwidth=bandwidth,
            memory_limit=memory_limit,
        )
        if batch.batched:
            raise ValueError(f"`features` must be 2-D (N, D): one selection an object, got {tuple(features.shape)}")
        self._device = BACKENDS["cpu"]
        reason = self._device.supports(batch)
        if reason is not None:
            raise BackendUnavailableError(f"MaxHerding cannot stay open here: {reason}")
        self._lock = threading.Lock()
        self._back = back_converter(features)
        self._problem: Problem = batch.problems[0]
        self._limit = plan.memory_limit(self._device, batch)
        plan.check_limit(self._device, batch, self._limit)
        self._open: DenseSelection | MatrixFreeSelection | None = None
        self._indices, self._gains = _earlier_picks(picked, self._problem)

    @property
    def indices(self) -> Any:
        return self._back(self._indices.clone())

    @property
    def gains(self) -> Any:
        return self._back(self._gains.clone())

    @property
    @_one_at_a_time
    @on_cpu_by_default
    def coverage(self) -> float:
        return self._opened().coverage()

    @property
    def remaining(self) -> int:
        """Candidates that have not been picked."""
        p = self._problem
        return (len(p.features) if p.candidates is None else len(p.candidates)) - len(self._indices)

    @_one_at_a_time
    @on_cpu_by_default
    def select(self, budget: int, *, progress: Any = False) -> Any:
        """The next `budget` picks.

        Args:
            budget: at most `remaining`.
            progress: show progress on standard error; or a function that is called with a line of text now and then.

        Returns:
            (budget,) int64 indices into `features` in pick order, of the library of `features`.

        Raises:
            TypeError, ValueError: `budget` is no integer, negative, or more than `remaining`.
        """
        budget, progress = as_int(budget, "budget", low=0), as_progress(progress)
        if budget > self.remaining:
            raise ValueError(f"`budget` must be at most the candidates that remain, {self.remaining}, got {budget}")
        if budget == 0:
            return self._back(torch.empty(0, dtype=torch.int64))
        try:
            with torch.no_grad(), Progress(budget, "maxherding", progress) as bar:
                selection = self._opened()
                if isinstance(selection, DenseSelection):
                    ((picks, gains),) = selection.more([budget], bar)
                else:
                    with selection.tiles.working():
                        picks, gains = selection.more(budget, bar)
        except BaseException:  # Ctrl-C: it may hold picks that nobody has seen
            self._open = None
            raise
        self._indices = torch.cat([self._indices, picks])
        self._gains = torch.cat([self._gains, gains])
        return self._back(picks)

    @_one_at_a_time
    @on_cpu_by_default
    def add_labeled(self, labeled: Any) -> None:
        """Count further points as labeled, whether or not they are in the pool.

        A pool point given here may still be picked, last of all: there is nothing left to gain from it.

        Args:
            labeled: (L, D) features, of the type and device of `features`; (L, N) kernel values if precomputed.

        Raises:
            TypeError, ValueError: as `maxherding` for `labeled`.
        """
        p = self._problem
        points = check_labeled(labeled, p)
        if points is None:
            return
        known = [points] if p.labeled is None else [p.labeled, points]
        self._problem = replace(p, labeled=torch.cat(known))
        if self._open is None:
            return
        selection, self._open = self._open, None
        with torch.no_grad():
            if selection.add_labeled(points) is not False:  # else it holds picks that were proven without these points
                self._open = selection

    def _opened(self) -> DenseSelection | MatrixFreeSelection:
        if self._open is None:
            p = self._without_picks()
            limit = max(self._limit, plan.least_limit(self._device, p))  # labels that joined take memory, too
            if plan.choose(self._device, p, limit) == plan.DENSE:
                self._open = DenseSelection(self._device, [p])
            else:
                tiles = self._device.tiled_greedy(p, limit, self.remaining)
                with tiles.working():
                    self._open = MatrixFreeSelection(self._device, p, tiles, self.remaining)
        return self._open

    def __reduce__(self):
        raise TypeError(
            "a MaxHerding cannot be copied or pickled; keep its `indices` and open another with those rows labeled"
        )

    def _without_picks(self) -> Problem:
        """What is left to do, as a problem of its own."""
        p = self._problem
        if not len(self._indices):
            return p
        left = torch.arange(len(p.features)) if p.candidates is None else p.candidates
        left = left[~torch.isin(left, self._indices)]
        picked = p.features[:, self._indices].T if p.kernel == "precomputed" else p.features[self._indices]
        known = picked if p.labeled is None else torch.cat([p.labeled, picked])
        return replace(p, labeled=known, candidates=left, first_gain=float(self._gains[0]))
