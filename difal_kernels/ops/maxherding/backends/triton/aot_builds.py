"""How the kernels of this op are compiled ahead of time: with the types, constants and options of their launches."""

from __future__ import annotations

import inspect

import torch

from difal_kernels.ops._triton import Build

from . import column_kernels, greedy_kernels, tile_kernels
from .dense import SIDE, launch_options
from .greedy import CONTENDERS, PARTS
from .operands import OPTIONS, triton_type

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# What pointers point to, by the name of the argument; float32 where it is not here.
POINTEES = {
    "i64": "sizes control points contender proposal picks rise_row list_begin pairs length",
    "i32": "list_length list_point slot counts",
    "i8": "flag",
    "u8": "allowed",
    "fp64": "weights exact gains bounds settled offset touched partial best lower_bound upper_bound reals "
    "pick_gains new_exact gain bound taken alive magic_at",
}
TYPES = {name: f"*{kind}" for kind, names in POINTEES.items() for name in names.split()}


def builds() -> list[Build]:
    """Every kernel; those with products for each type that is multiplied, else with float32 features."""
    made = []
    for kernel in (tile_kernels.fill, tile_kernels.sweep, tile_kernels.gather):
        for dtype in DTYPES:
            more = {"a": _pointer(dtype), "b": _pointer(dtype)}
            if kernel is tile_kernels.sweep:
                more["weights"] = "*fp32"
            constants = {"KIND": 0, "WIDEN": False, "SYMMETRIC": True, "SIDE": SIDE}
            made.append(_build(kernel, more, constants, launch_options()))
    some = {"KIND": 0, "DTYPE": triton_type(torch.float32), "CONTENDERS": CONTENDERS, "PARTS": PARTS, "SIDE": SIDE}
    for kernel in (tile_kernels.fill_pairs, tile_kernels.sweep_pairs, tile_kernels.repair_lists):
        more = {"weights": "*fp32"}
        made.append(_build(kernel, more, {**some, "SYMMETRIC": True}, {"num_warps": 4, **OPTIONS}))
    for kernel in (greedy_kernels.settle, greedy_kernels.take):
        for sparse in (False, True):
            made.append(_build(kernel, {}, {**some, "SPARSE": sparse, "SYMMETRIC": True}, {"num_warps": 4, **OPTIONS}))
    for kernel in (greedy_kernels.start, greedy_kernels.start_sparse, greedy_kernels.survey):
        made.append(_build(kernel, {}, some, {"num_warps": 4, **OPTIONS}))
    made.append(_build(greedy_kernels.look, {}, some, {"num_warps": 1, **OPTIONS}))
    for kernel in (column_kernels.lower, column_kernels.lower_sparse, column_kernels.cover):
        made.append(_build(kernel, {}, some, {"num_warps": 4, **OPTIONS}))
    for exact in (False, True):
        made.append(_build(column_kernels.column, {}, {**some, "EXACT": exact}, {"num_warps": 4, **OPTIONS}))
    return made


def _pointer(dtype: torch.dtype) -> str:
    return f"*{triton_type(dtype).name}"


def _build(kernel, more: dict[str, str], constants: dict, options: dict) -> Build:
    types, wanted = {}, {}
    for name, parameter in inspect.signature(kernel.fn).parameters.items():
        annotation = str(parameter.annotation)
        if "constexpr" in annotation:
            wanted[name] = constants[name]
        elif "int64" in annotation or (name.endswith("_at") and name != "magic_at"):
            types[name] = "i64"
        else:
            types[name] = more.get(name) or TYPES.get(name, "*fp32")
    pointers = tuple(name for name, kind in types.items() if kind.startswith("*"))
    return Build(kernel, types, wanted, options, pointers)
