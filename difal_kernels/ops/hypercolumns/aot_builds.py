"""How the kernels of this op are compiled ahead of time: with the types, constants and options of their launches."""

from __future__ import annotations

import inspect

from .._triton import Build
from .triton import BLOCK, OPTIONS
from .triton_gather import gather, normalise

FLOATS = ("fp32", "fp16", "bf16", "fp64")


def builds() -> list[Build]:
    """Maps of each type, and answers of each."""
    pointees = {"points": "i64", "image": "i64", "squares": "fp64"}
    maps = [(kind, "fp64" if kind == "fp64" else "fp32") for kind in FLOATS] + [("fp32", "fp64")]
    made = [_build(gather, {**pointees, "view": view, "work": work}, {}) for view, work in maps]
    answers = [("fp64" if out == "fp64" else "fp32", out) for out in FLOATS]
    return made + [
        _build(normalise, {**pointees, "work": work, "out": out}, {"NORMALIZE": True}) for work, out in answers
    ]


def _build(kernel, pointees: dict[str, str], constants: dict) -> Build:
    types = {}
    for name, parameter in inspect.signature(kernel.fn).parameters.items():
        if "constexpr" not in str(parameter.annotation):
            types[name] = "i64" if "int64" in str(parameter.annotation) else f"*{pointees[name]}"
    pointers = tuple(name for name, kind in types.items() if kind.startswith("*") and name != "view")
    return Build(kernel, types, {"BLOCK": BLOCK, **constants}, OPTIONS, pointers)
