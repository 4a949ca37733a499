"""Which implementation of an op runs, and why.

An op is a folder under `ops/`. Its `__init__` holds the contract: the public function, and a *problem*, the
validated input that every implementation receives. A backend is a module of that folder, or an object, with

    unavailable() -> str | None         None if its code can be loaded on this machine, else the reason and the cure
    supports(problem) -> str | None     the same for this problem (which implies the former)
    run(problem)                        the answer
    plan(problem) -> str                optional: what `run` would do, with its cost, for `explain`

A problem has the attribute `device`, the torch.device of its input.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ._settings import on_cpu_by_default

AUTO_ORDER = {"cuda": ("cuda", "triton", "reference"), "cpu": ("cpu", "reference")}
BACKENDS = ("reference", "cpu", "triton", "cuda")


class BackendUnavailableError(RuntimeError):
    """The backend asked for by name cannot run this input here; the message says why and what to do."""


class Op:
    """One operation: its name, how to validate its arguments, and its implementations by backend name."""

    registry: dict[str, Op] = {}  # noqa: RUF012 (one registry for all)

    def __init__(self, name: str, prepare: Callable[..., Any], backends: Mapping[str, Any]):
        self.name, self.prepare, self.backends = name, prepare, backends
        Op.registry[name] = self

    def reason(self, backend: str, problem: Any) -> str | None:
        """Why `backend` cannot run `problem`, or None if it can."""
        if backend not in self.backends:
            return f"{self.name} has no {backend!r} implementation; it has {', '.join(self.backends)}"
        return self.backends[backend].supports(problem)

    def choose(self, backend: str, problem: Any) -> str:
        """The backend to run: the one named, or for "auto" the first of the device's order that can."""
        if not isinstance(backend, str):
            raise TypeError(f"`backend` must be a string, 'auto' or one of {', '.join(BACKENDS)}, got {backend!r}")
        if backend == "auto":
            order = AUTO_ORDER.get(problem.device.type, ("reference",))
            return next(name for name in order if self.reason(name, problem) is None)
        if backend not in BACKENDS:
            raise ValueError(f"`backend` must be 'auto' or one of {', '.join(map(repr, BACKENDS))}, got {backend!r}")
        reason = self.reason(backend, problem)
        if reason is not None:
            raise BackendUnavailableError(f"backend {backend!r} cannot run {self.name} here: {reason}")
        return backend

    def run(self, backend: str, problem: Any) -> Any:
        return self.backends[self.choose(backend, problem)].run(problem)


@on_cpu_by_default
def explain(op: str | Callable, *args, backend: str = "auto", **kwargs) -> str:
    """Say which backend a call would use and why, without running it.

    Args:
        op: a public op or its name, for example `maxherding` or `"maxherding"`.
        *args, **kwargs: the arguments of the call in question.
        backend: as in the call.

    Returns:
        The chosen backend with an arrow before it, the op's plan if it has one, then a line for each other backend.

    Example:
        >>> import torch
        >>> from difal_kernels import explain, maxherding
        >>> for line in explain(maxherding, torch.eye(8), 2, backend="reference").splitlines()[:3]:
        ...     print(line)
        maxherding on cpu
        -> reference: can run
           cpu: can run
    """
    name = op if isinstance(op, str) else getattr(op, "__name__", repr(op))
    if name not in Op.registry:
        raise ValueError(f"`op` must be one of {', '.join(sorted(Op.registry))}, got {name!r}")
    entry = Op.registry[name]
    try:
        inspect.signature(entry.prepare).bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"explain({name}, ...) takes the arguments of the call in question: {error}") from None
    problem = entry.prepare(*args, **kwargs)
    chosen = entry.choose(backend, problem)
    plan = getattr(entry.backends[chosen], "plan", None)
    lines = [f"{name} on {problem.device}", f"-> {chosen}: can run", *([str(plan(problem))] if plan else [])]
    others = [one for one in BACKENDS if one != chosen]
    return "\n".join([*lines, *(f"   {one}: {entry.reason(one, problem) or 'can run'}" for one in others)])


def available_backends(op: str | None = None) -> dict[str, tuple[str, ...]] | tuple[str, ...]:
    """Backends whose code can be loaded on this machine, for one op or for all by name.

    Example:
        >>> from difal_kernels import available_backends
        >>> "reference" in available_backends("maxherding")
        True
    """
    if op is not None and op not in Op.registry:
        raise ValueError(f"`op` must be one of {', '.join(sorted(Op.registry))}, got {op!r}")
    loadable = {
        name: tuple(b for b in BACKENDS if b in entry.backends and entry.backends[b].unavailable() is None)
        for name, entry in Op.registry.items()
    }
    return loadable if op is None else loadable[op]
