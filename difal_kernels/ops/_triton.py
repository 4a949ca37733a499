"""What every Triton backend shares: whether it can run here, and compiling kernels where there is no GPU.

This module does not import triton, nor may a backend before its `run`: the package needs numpy and torch alone.
A module `aot_builds` of the op, in the list below, says by `builds()` how its kernels are compiled; that is what
`bench/compile_triton.py` and the tests read.

A kernel's integers are int64 and not specialised (`kernel`). Triton else compiles anew for a 1 and for each pattern of
multiples of 16 among the arguments, so that another N or budget might wait for the compiler.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import _gpu

ARCHS = ("80", "86", "89", "90", "100", "120")  # compute capabilities that every kernel must compile for
AOT_BUILDS = ("maxherding.backends.triton.aot_builds", "disagreement.aot_builds", "hypercolumns.aot_builds")


@dataclass(frozen=True)
class Build:
    """One way in which a kernel is compiled.

    Attributes:
        kernel: the function under `@triton.jit`.
        types: Triton's type of each argument that is not a constant, by name: "*fp32", "i64", "fp64".
        constants: the `tl.constexpr` arguments.
        options: num_warps and num_stages of the launch.
        aligned: arguments that are multiples of 16 bytes at every launch, usually the pointers.
        archs: those on which it is launched so.
    """

    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any] = field(default_factory=dict)
    options: dict[str, int] = field(default_factory=dict)
    aligned: tuple[str, ...] = ()
    archs: tuple[str, ...] = ARCHS

    @property
    def name(self) -> str:
        said = [f"{name}={value}" for name, value in self.constants.items()]
        halves = {kind[1:] for kind in self.types.values()} & {"fp16", "bf16"}
        if next(iter(self.types.values())) == "*fp64":
            halves.add("fp64")
        return f"{self.kernel.__name__}[{', '.join([*halves, *said])}]"


@dataclass(frozen=True)
class Compiled:
    """What came out: registers and bytes spilled per thread, bytes of shared memory per block.

    `loop`: the instructions of the loop that multiplies on tensor cores, where there is one.
    """

    name: str
    arch: str
    registers: int
    spilled: int
    shared: int
    loop: tuple[str, ...] = ()

    @property
    def spills_in_loop(self) -> int:
        """How often a turn of it reads or writes what was spilled."""
        return self.loop.count("LDL") + self.loop.count("STL")

    @property
    def additions_in_loop(self) -> int:
        """Its float32 additions: what tensor cores have summed goes to a second sum."""
        return self.loop.count("FADD") + 2 * self.loop.count("FADD2")


@cache
def _import_error() -> str | None:
    try:
        importlib.import_module("triton").jit  # noqa: B018 (a folder called triton has none)
        importlib.import_module("triton.language")
    except (ImportError, AttributeError) as error:
        return str(error)
    return None


def interpreted() -> bool:
    """Whether kernels run on the host, op by op: TRITON_INTERPRET=1, which triton reads when it defines a kernel."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on")


def unavailable() -> str | None:
    """Why no Triton kernel can run on this machine, or None."""
    error = _import_error()
    if error is not None:
        return f"triton could not be imported ({error}); install it (`pip install triton`, Linux only)"
    if not interpreted() and not torch.cuda.is_available():
        return (
            "torch finds no CUDA device; check the driver, and that torch is a CUDA build "
            "(TRITON_INTERPRET=1 runs the kernels on the host, slowly, for tests)"
        )
    return None


def wrong_device(device: torch.device) -> str | None:
    """Why tensors on `device` are not for Triton, or None; it must have been found available."""
    expected = "cpu" if interpreted() else "cuda"
    if device.type != expected:
        how = " under TRITON_INTERPRET=1" if interpreted() else ""
        return f"it runs on {expected} tensors{how} and the input is on {device}; move it with .to({expected!r})"
    return None


def kernel(function: Any) -> Any:
    """`@triton.jit` for a kernel that is launched: arguments annotated `tl.int64` are that whatever their value."""
    import triton

    parameters = inspect.signature(function).parameters.values()
    integers = [p.name for p in parameters if str(p.annotation).endswith("int64")]
    return triton.jit(function, do_not_specialize=integers)


@contextmanager
def on(device: torch.device) -> Iterator[None]:
    """Make `device` the current one; on the host, let NaN and overflow pass as a GPU does."""
    with _gpu.on(device), np.errstate(all="ignore"), warnings.catch_warnings() if interpreted() else nullcontext():
        if interpreted():
            warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        yield


def builds() -> list[Build]:
    """Those of all ops. Not under the interpreter: what it defines cannot be compiled."""
    found = []
    for name in AOT_BUILDS:
        found += importlib.import_module(f"{__package__}.{name}").builds()
    return found


def compile_ahead(build: Build, arch: str) -> Compiled:
    """Compile for a compute capability such as "90"; needs no GPU. Raises what Triton or ptxas raise."""
    cubin, shared = binary(build, arch)
    registers, spilled = _resources(cubin)
    return Compiled(build.name, arch, registers, spilled, shared, tuple(_tensor_core_loop(disassembly(cubin))))


def binary(build: Build, arch: str) -> tuple[bytes, int]:
    """The compiled code, and bytes of shared memory per block."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {**build.types, **dict.fromkeys(build.constants, "constexpr")}
    order = build.kernel.arg_names
    signature = {name: signature[name] for name in order}
    attrs = {(order.index(name),): [["tt.divisibility", 16]] for name in build.aligned}
    source = ASTSource(build.kernel, signature, constexprs=build.constants, attrs=attrs)
    target = GPUTarget("cuda", int(arch), 32)
    made = triton.compile(source, target=target, options=dict(build.options))
    return made.asm["cubin"], made.metadata.shared


def disassembly(cubin: bytes) -> str:
    return _said(cubin, "nvdisasm", "-c")


def _said(cubin: bytes, tool: str, option: str) -> str:
    """What a tool that comes with triton says of compiled code."""
    import triton

    path = Path(triton.__file__).parent / "backends/nvidia/bin" / tool
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([path, option, file.name], capture_output=True, text=True, check=True).stdout


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers, and bytes of stack, which Triton's kernels use for nothing but spills."""
    said = _said(cubin, "cuobjdump", "-res-usage")
    found = re.search(r"REG:(\d+) STACK:(\d+)", said)
    if found is None:
        raise RuntimeError(f"cuobjdump said nothing of registers: {said}")
    return int(found[1]), int(found[2])


def _tensor_core_loop(said: str) -> list[str]:
    """Instructions of the shortest loop with a product on tensor cores, which a branch backwards ends; or none."""
    code: list[str] = []
    labels: dict[str, int] = {}
    loops = []
    for line in said.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = len(code)
        elif found := re.match(r"\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]*)(.*)", line):
            code.append(found[1])
            back = re.search(r"\((\.L_x_\d+)\)", found[2])
            if found[1] == "BRA" and back and back[1] in labels:
                inside = code[labels[back[1]] :]
                if any("MMA" in name for name in inside):
                    loops.append(inside)
    return min(loops, key=len, default=[])
