"""float32 products really in float32, whatever the process has allowed torch to do: error bounds rest on it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class _Setting:
    """Settings of the process that are changed while some thread is inside, and put back when the last has left."""

    def __init__(self, change: Callable[[], Callable[[], None]]):
        self._change = change  # makes the settings what they must be; returns what puts them back
        self._lock = threading.Lock()
        self._inside = 0
        self._restore: Callable[[], None] = lambda: None

    @contextmanager
    def active(self) -> Iterator[None]:
        with self._lock:
            if self._inside == 0:
                self._restore = self._change()
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._restore()


def _change_cpu() -> Callable[[], None]:
    matmul: Any = getattr(torch.backends.mkldnn, "matmul", None)
    if matmul is not None and hasattr(matmul, "fp32_precision"):  # torch 2.9 and later
        before, matmul.fp32_precision = matmul.fp32_precision, "ieee"
        return lambda: setattr(matmul, "fp32_precision", before)
    allowed = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    return lambda: torch.set_float32_matmul_precision(allowed)


def _change_gpu() -> Callable[[], None]:
    flags: Any = torch.backends.cuda.matmul
    wanted: dict[str, Any] = {f"allow_{half}_reduced_precision_reduction": False for half in ("bf16", "fp16")}
    # "fp32_precision" from torch 2.9 on, "allow_fp16_accumulation" from 2.7 on
    wanted |= {"fp32_precision": "ieee"} if hasattr(flags, "fp32_precision") else {"allow_tf32": False}
    if hasattr(flags, "allow_fp16_accumulation"):
        wanted["allow_fp16_accumulation"] = False
    before = {name: getattr(flags, name) for name in wanted}
    for name, value in before.items():
        # Later torch has two settings under one name, of which it reads the first and sets both.
        split_k = getattr(flags, f"{name}_split_k", None)
        if split_k is not None:
            before[name] = (value, split_k)
    for name, value in wanted.items():
        setattr(flags, name, value)

    def restore() -> None:
        for name, value in before.items():
            setattr(flags, name, value)

    return restore


_CPU, _GPU = _Setting(_change_cpu), _Setting(_change_gpu)


@contextmanager
def full_precision(gpu: bool = False) -> Iterator[None]:
    """Make float32 products in float32; with `gpu`, sums of half precision in float32, too.

    These are settings of the process. Several threads may be inside at a time; the last to leave puts them back.
    """
    with _CPU.active():
        if not gpu:
            yield
            return
        with _GPU.active():
            yield
