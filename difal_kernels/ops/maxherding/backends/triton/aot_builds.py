"""How the kernels of this op are compiled ahead of time: with the types, constants and options of their launches."""

from __future__ import annotations

import inspect

import torch

from difal_kernels.ops._triton import ARCHS, Build

from ..gpu import product_kernels
from ..gpu.operands import OPTIONS, product_options, stages_for, triton_type
from . import column_kernels, greedy_kernels, tile_kernels
from .greedy import CONTENDERS, PARTS, TILE

# What pointers point to, by the name of the argument; float32 where it is not here.
POINTEES = {
    "i64": "sizes control points contender proposal picks rise_row list_begin row_points column_points",
    "i32": "list_length list_point slot",
    "i8": "flag unsure",
    "u8": "allowed",
    "fp64": "weights exact gains bounds settled offset touched partial best lower_bound upper_bound reals "
    "pick_gains new_exact gain bound taken alive magic_at",
}
FOUR = {"num_warps": 4, **OPTIONS}
TYPES = {name: f"*{kind}" for kind, names in POINTEES.items() for name in names.split()}


def builds() -> list[Build]:
    """Every kernel; the product for each type that tensor cores get, the others with float32 features."""
    made = []
    for raw, dtype in ((False, torch.bfloat16), (True, torch.bfloat16), (True, torch.float16)):
        pointers = {"a": f"*{triton_type(dtype).name}", "b": f"*{triton_type(dtype).name}"}
        for stages in (2, 3):
            archs = tuple(arch for arch in ARCHS if stages_for(int(arch)) == stages)
            options = product_options(raw, stages)
            launch = {name: options.pop(name) for name in ("num_warps", "num_stages", *OPTIONS)}
            made.append(_build(product_kernels.fill, pointers, {"KIND": 0, **options}, launch, archs))
    some = {"KIND": 0, "DTYPE": triton_type(torch.float32), "CONTENDERS": CONTENDERS, "PARTS": PARTS, "SIDE": TILE}
    made.append(_build(product_kernels.repair, {}, {**some, "SIDE": product_options(True, 2)["SIDE"]}, FOUR))
    made.append(_build(tile_kernels.take, {"weights": "*fp32"}, some, {"num_warps": 8, **OPTIONS}))
    for turned in (False, True):
        for writing in (False, True):
            constants = {**some, "TURNED": turned, "WRITING": writing}
            made.append(_build(tile_kernels.gather, {}, constants, {"num_warps": 8, **OPTIONS}))
    for kernel in (greedy_kernels.settle, greedy_kernels.take):
        for sparse in (False, True):
            made.append(_build(kernel, {}, {**some, "SPARSE": sparse, "SYMMETRIC": True}, FOUR))
    for kernel in (greedy_kernels.start, greedy_kernels.start_sparse, greedy_kernels.survey):
        made.append(_build(kernel, {}, some, FOUR))
    made.append(_build(greedy_kernels.look, {}, some, {"num_warps": 1, **OPTIONS}))
    for kernel in (column_kernels.lower, column_kernels.lower_sparse, column_kernels.cover):
        made.append(_build(kernel, {}, some, FOUR))
    for exact in (False, True):
        made.append(_build(column_kernels.column, {}, {**some, "EXACT": exact}, FOUR))
    return made


def _build(kernel, more: dict[str, str], constants: dict, options: dict, archs: tuple[str, ...] = ARCHS) -> Build:
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
    return Build(kernel, types, wanted, options, pointers, archs)
