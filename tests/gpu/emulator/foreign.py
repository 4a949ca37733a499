"""Tensors that say they are on a GPU and are on the host: what Python does with tensors of two devices, without a GPU.

A `Foreign` tensor holds one of the host, and every operation of torch is run on that. As on a GPU, one that gets
tensors of both devices is an error, but for copies, indices from the host and numbers of no dimension; numpy gets
none, and no kernel the address of one on the host. `install` lets the emulated kernels take them, and stands in for
what the package calls of `torch.cuda`.
"""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("cuda:0")
aten = torch.ops.aten
COPIES = {aten.copy_.default, aten._to_copy.default}
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}

TOGETHER = {aten.cat.default, aten.stack.default}  # which take no number of the host either


class Foreign(torch.Tensor):
    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Foreign:
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=inner.device,
        )  # fmt: skip
        made.inner = inner
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        other = [arg for arg in (*args, *kwargs.values()) if isinstance(arg, (str, torch.device))]
        args = tuple(arg for arg in args if not isinstance(arg, (str, torch.device)))
        kwargs = {name: value for name, value in kwargs.items() if name != "device"}
        if not other or is_cuda(other[0]):
            moved = self.inner.to(*args, **kwargs) if args or kwargs else self.inner
            return self if moved is self.inner else Foreign(moved)
        return self.inner.clone().to(*args, **kwargs) if args or kwargs else self.inner.clone()

    def cpu(self) -> torch.Tensor:  # type: ignore[override]
        return self.inner.clone()

    def numpy(self, **options: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")

    def __array__(self, *arguments: Any) -> Any:
        return self.numpy()

    def __repr__(self, **options: Any) -> str:
        return f"Foreign({self.inner!r})"

    def __deepcopy__(self, memo: Any) -> Foreign:
        return Foreign(self.inner.clone())

    def tolist(self) -> Any:
        return self.inner.tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def check(func: Any, args: tuple, kwargs: dict) -> None:
    """What torch's kernels for a GPU refuse."""
    if func in COPIES:
        return
    if func in INDEXED:  # indices may be on the host, if what they index is not
        indices = [index for index in args[1] if index is not None]
        if not isinstance(args[0], Foreign) and any(isinstance(index, Foreign) for index in indices):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        args = (args[0], *args[2:3])
    tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
    here = [tensor for tensor in tensors if not isinstance(tensor, Foreign)]
    there = len(tensors) - len(here)
    if there and any(tensor.ndim for tensor in here):
        raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu: {func}")
    if there and here and func in TOGETHER:
        raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu: {func}")


def run(func: Any, args: tuple, kwargs: dict) -> Any:
    check(func, args, kwargs)
    wrappers: dict[int, Foreign] = {}

    def unwrap(leaf: Any) -> Any:
        if isinstance(leaf, Foreign):
            wrappers[id(leaf.inner)] = leaf
            return leaf.inner
        return leaf

    args, kwargs = tree_map(unwrap, args), tree_map(unwrap, kwargs)
    foreign = bool(wrappers)
    if func is aten.copy_.default:
        foreign = any(args[0] is wrapper.inner for wrapper in wrappers.values())
    if kwargs.get("device") is not None:
        foreign = is_cuda(kwargs["device"])
        kwargs["device"] = torch.device("cpu")
    if func is aten._to_copy.default:
        kwargs.pop("non_blocking", None)
        kwargs["memory_format"] = kwargs.get("memory_format", torch.preserve_format)
    out = func(*args, **kwargs)

    def wrap(leaf: Any) -> Any:
        if not foreign or not isinstance(leaf, torch.Tensor):
            return leaf
        return wrappers[id(leaf)] if id(leaf) in wrappers else Foreign(leaf)

    return tree_map(wrap, out)


class Mode(TorchDispatchMode):
    """Sees what has no `Foreign` argument yet: tensors that are made or moved there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class Event:
    def __init__(self, **options: Any):
        self.at = 0.0

    def record(self, *arguments: Any) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, later: Event) -> float:
        return 1000 * (later.at - self.at)


class Generator:
    """One of the host in the place of one of the GPU."""

    kind = torch.Generator

    def __new__(cls, device: Any = "cpu") -> Any:
        return cls.kind()


def made_of_data(function: Any) -> Any:
    """`torch.tensor`, which moves what it has made unseen."""

    def make(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        if isinstance(data, Foreign):
            return data.to(*(arg for arg in (kwargs.get("dtype"), device) if arg is not None))
        made = function(data, *args, **kwargs)
        return Foreign(made) if is_cuda(device) else made

    return make


@contextlib.contextmanager
def same_device(device: Any):
    yield


def install(module: Any) -> Mode:
    """Let tensors of the GPU be made, and `module`, the emulated kernels, take them; the mode, still to be entered."""
    from triton.runtime.interpreter import GridExecutor

    from difal_kernels import _checks
    from difal_kernels.ops import _triton

    cuda = torch.cuda
    cuda._lazy_init = lambda: None
    cuda.is_available, cuda.is_initialized = lambda: True, lambda: True
    cuda.current_device, cuda.device_count = lambda: 0, lambda: 1
    cuda.current_stream = lambda device=None: SimpleNamespace(cuda_stream=0, synchronize=lambda: None)
    cuda.device = same_device
    cuda.synchronize = lambda device=None: None
    cuda.empty_cache = cuda.reset_peak_memory_stats = lambda *arguments: None
    cuda.mem_get_info = lambda device=None: (4 << 30, 8 << 30)
    cuda.memory_allocated = cuda.memory_reserved = cuda.max_memory_allocated = lambda device=None: 0
    cuda.get_device_capability = lambda device=None: (9, 0)
    properties = SimpleNamespace(name="none", multi_processor_count=2, total_memory=8 << 30)
    cuda.get_device_properties = lambda device=None: properties
    cuda.Event = Event
    torch.Generator = Generator
    on_host = torch.Tensor.to

    def to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        device, *_ = [arg for arg in (*args, *kwargs.values()) if isinstance(arg, (str, torch.device))] or [None]
        if not is_cuda(device):
            return on_host(self, *args, **kwargs)
        return Foreign(self.clone()).to(*args, **kwargs)

    address = torch.Tensor.data_ptr

    def data_ptr(self: torch.Tensor) -> int:
        caller = Path(sys._getframe(1).f_code.co_filename)
        if "difal_kernels" in caller.parts and "cpu" not in (caller.stem, caller.parent.name):
            raise RuntimeError("a kernel gets the address of a tensor on the host")
        return address(self)

    torch.Tensor.to, torch.Tensor.data_ptr = to, data_ptr  # type: ignore[method-assign]
    for name in ("tensor", "as_tensor"):
        setattr(torch, name, made_of_data(getattr(torch, name)))
    module.DEVICE = "cuda"
    _triton.wrong_device = lambda device: None if device.type == "cuda" else f"the input is on {device}"
    plain = _checks._plain
    _checks._plain = lambda value, name: value if isinstance(value, Foreign) else plain(value, name)

    def unwrapped(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor) and not isinstance(leaf, Foreign):
            raise ValueError("Pointer argument cannot be accessed from Triton (cpu tensor?)")
        return leaf.inner if isinstance(leaf, Foreign) else leaf

    call = GridExecutor.__call__
    GridExecutor.__call__ = lambda self, *args, **kwargs: call(
        self, *(unwrapped(arg) for arg in args), **{name: unwrapped(arg) for name, arg in kwargs.items()}
    )
    return Mode()
