"""How the kernel of this op is compiled ahead of time: with the types, constants and options of its launches."""

from __future__ import annotations

from .._triton import Build
from .problem import GPU_SCORES
from .triton import FLAGS, options, shape_of_tile
from .triton_scores import score

INTEGERS = ("count", "K", "C", "sample_stride", "class_stride", "single_stride")
OUTPUTS = ("entropy_out", "bald_out", "expected_out", "margin_out", "least_out", "variation_out", "combined_out")


def builds() -> list[Build]:
    """eDALD of each type, and in pairs; all scores; many classes in both layouts; probabilities; many samples."""
    assert len(OUTPUTS) == len(FLAGS) == len(GPU_SCORES)
    made = [_build(dtype, 19, False, ("COMBINED",)) for dtype in ("fp32", "fp16", "bf16", "fp64")]
    made += [_build(dtype, 19, False, ("COMBINED",), in_pairs=True) for dtype in ("fp16", "bf16")]
    made += [_build("fp16", 32, False, tuple(flag for flag in FLAGS if flag != "VARIATION"), in_pairs=True)]
    made += [_build("fp32", 100, together, ("COMBINED",)) for together in (True, False)]
    made += [_build("fp32", classes, True, FLAGS) for classes in (19, 512)]
    made += [_build("fp32", 19, True, ("BALD",), INPUT=kind, SINGLE=False) for kind in (1, 2)]
    made += [_build("fp32", classes, True, ("COMBINED",), MANY=True) for classes in (19, 100)]
    return [*made, _build("fp32", 19, False, ("BALD",), DIMS=3, SINGLE=False)]


def _build(
    dtype: str, classes: int, side_by_side: bool, wanted: tuple[str, ...], in_pairs: bool = False, **constants
) -> Build:
    tile = shape_of_tile(classes, side_by_side, in_pairs)
    types = {"samples": f"*{dtype}", "single": f"*{dtype}", "layout": "*i64", "bounds": "*fp64", "first_bad": "*i64"}
    types |= dict.fromkeys(OUTPUTS, "*fp32") | dict.fromkeys(INTEGERS, "i64")
    flags = {flag: flag in wanted for flag in FLAGS}
    constants = {"DIMS": 1, "INPUT": 0, "SINGLE": True, "CHECK": True, "MANY": False, **flags, **tile, **constants}
    pointers = ("layout", "bounds", "first_bad", *OUTPUTS)
    return Build(score, types, constants, options(tile), pointers)
