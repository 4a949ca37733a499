"""What every implementation of `disagreement` receives and gives, and the checks before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from ..._checks import as_bool, as_choice, as_data, as_float, as_int, as_tensor

INPUTS = ("logits", "log_probs", "probs")
# What an implementation computes. `combined` is entropy + weight * bald; `released_edald` what compat="released" asks.
SCORES = (
    "entropy",
    "bald",
    "expected_entropy",
    "margin",
    "least_confidence",
    "variation_ratio",
    "combined",
    "balentacq",
    "released_edald",
)
GPU_SCORES = SCORES[: SCORES.index("balentacq")]  # those that cuda and triton have
# The public names and the score behind each.
OUTPUTS = {name: name for name in SCORES if name not in ("combined", "released_edald")} | {
    "mutual_information": "bald",
    "dald": "bald",
    "edald": "combined",
    "entropy_bald": "combined",
}
# How far the probabilities of one prediction may be from summing to one; softmax in each type stays within.
SUM_TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}


@dataclass(frozen=True)
class Problem:
    """A validated call. The tensors are views of the caller's, with its strides: nothing is copied."""

    samples: torch.Tensor  # (*positions, K, C)
    single: torch.Tensor | None  # (*positions, C)
    scores: tuple[str, ...]
    input: str
    weight: float
    check_finite: bool

    @property
    def device(self) -> torch.device:
        return self.samples.device

    @property
    def position_shape(self) -> torch.Size:
        return self.samples.shape[:-2]


def prepare(
    samples: Any,
    single: Any = None,
    *,
    outputs: Sequence[str],
    weight: float = 1.0,
    input: str = "logits",
    sample_dim: int | None = -2,
    class_dim: int = -1,
    check_finite: bool = True,
    compat: str | None = None,
    name: str = "samples",
) -> Problem:
    """Check the arguments of any member of the family; `sample_dim` None is one prediction per position."""
    tensor = as_data(samples, name)
    outputs = _as_outputs(outputs)
    as_choice(input, "input", INPUTS)
    if compat is not None:
        as_choice(compat, "compat", ("released",))
    check_finite = as_bool(check_finite, "check_finite")
    weight = _as_weight(weight)

    class_dim = _as_dim(class_dim, "class_dim", name, tensor)
    if sample_dim is None and name == "samples":
        raise TypeError("`sample_dim` must be an int, got None; one prediction a position has no disagreement")
    if sample_dim is None:
        tensor, class_dim, sample_dim = tensor.unsqueeze(0), class_dim + 1, 0
    else:
        sample_dim = _as_dim(sample_dim, "sample_dim", name, tensor)
        if sample_dim == class_dim:
            raise ValueError(f"`sample_dim` and `class_dim` must differ, got {sample_dim} for both")
    for dim, kind in ((sample_dim, "sample"), (class_dim, "class")):
        if tensor.shape[dim] == 0:
            raise ValueError(f"`{name}` must have at least one {kind}, got shape {tuple(tensor.shape)}")
    if single is not None:
        single = _as_single(single, name, tensor, sample_dim, class_dim)
    elif "edald" in outputs:
        raise ValueError("`single` must be given for 'edald': the prediction without perturbation, got None")
    if compat is None:
        scores = tuple(dict.fromkeys(OUTPUTS[output] for output in outputs))
    else:
        scores = ("released_edald",)
    return Problem(
        samples=tensor.movedim((sample_dim, class_dim), (-2, -1)),
        single=single,
        scores=scores,
        input=input,
        weight=weight,
        check_finite=check_finite,
    )


def beyond_gpu(problem: Problem) -> str | None:
    """Why no GPU backend computes the scores of a problem, or None."""
    reasons = {
        "balentacq": "balentacq has no GPU kernel, for it is made of digamma and ln Gamma in float64",
        "released_edald": "compat='released' has no GPU kernel, for it only traces published numbers",
    }
    lacking = next((reasons[score] for score in problem.scores if score not in GPU_SCORES), None)
    return lacking and f"{lacking}; backend='reference' runs it on any device"


def _as_outputs(outputs: Any) -> tuple[str, ...]:
    if isinstance(outputs, str) or not isinstance(outputs, Sequence):
        raise TypeError(f"`outputs` must be a tuple or list of names, got {outputs!r}")
    if not outputs:
        raise ValueError("`outputs` must name at least one output, got none")
    return tuple(as_choice(output, "outputs", tuple(OUTPUTS)) for output in outputs)


def _as_weight(weight: Any) -> float:
    weight = as_float(weight, "weight")
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"`weight` must be finite and at least 0, got {weight}")
    return weight


def _as_dim(dim: Any, argument: str, name: str, tensor: torch.Tensor) -> int:
    dim = as_int(dim, argument)
    if not -tensor.dim() <= dim < tensor.dim():
        raise ValueError(
            f"`{argument}` must be a dimension of `{name}`, which has shape {tuple(tensor.shape)}, got {dim}"
        )
    return dim % tensor.dim()


def _as_single(single: Any, name: str, samples: torch.Tensor, sample_dim: int, class_dim: int) -> torch.Tensor:
    single = as_tensor(single, "single")
    expected = [size for dim, size in enumerate(samples.shape) if dim != sample_dim]
    if list(single.shape) != expected:
        raise ValueError(
            f"`single` must have the shape of `{name}` without its sample dimension, {tuple(expected)}, "
            f"got {tuple(single.shape)}"
        )
    if single.device != samples.device:
        raise ValueError(f"`single` must be on the device of `{name}`, {samples.device}, got {single.device}")
    return single.movedim(class_dim - (sample_dim < class_dim), -1)


def raise_invalid(problem: Problem, position: int, name: str) -> NoReturn:
    """Say what is wrong at a position (its row-major index) that an implementation refused."""
    index: tuple[int, ...] = ()
    for size in reversed(problem.position_shape):
        position, i = divmod(position, size)
        index = (i, *index)
    rows = [(name, f"position {index}, sample {k}", row) for k, row in enumerate(problem.samples[index])]
    if problem.single is not None:
        rows.append(("single", f"position {index}", problem.single[index]))
    for argument, where, row in rows:
        fault = _fault(problem, row)
        if fault is not None:
            raise ValueError(f"`{argument}` {fault[0]}, got {fault[1]} at {where}; {fault[2]}")
    raise AssertionError(f"an implementation refused position {index}, which is valid")


def _fault(problem: Problem, row: torch.Tensor) -> tuple[str, str, str] | None:
    """What is wrong with one prediction (C,), if anything: what must hold, what was found, what to do.

    An implementation's own rounding decides on the limit of a sum; what it refused is to be found here again.
    """
    values = row.double()
    if problem.check_finite:
        cure = "repair or leave out such predictions, or pass check_finite=False to get NaN there"
        if bool(values.isnan().any()):
            return "must hold no NaN", f"NaN for class {int(values.isnan().nonzero()[0])}", cure
        if bool((values == math.inf).any()):
            return "must not be +inf", f"inf for class {int((values == math.inf).nonzero()[0])}", cure
        if problem.input != "probs" and bool((values == -math.inf).all()):
            return "must leave at least one class possible", "-inf for every class", cure
    if problem.input == "logits":
        return None
    if problem.input == "probs" and bool((values < 0).any()):
        return (
            "must hold no negative probability",
            f"{values[values < 0].min().item()}",
            "pass input='logits' for logits",
        )
    total = (values if problem.input == "probs" else values.exp()).sum().item()
    excess = total - 1 if problem.input == "probs" else values.logsumexp(-1).item()
    overflows = problem.check_finite and excess == math.inf  # of finite numbers, since others are named above
    if overflows or (math.isfinite(excess) and abs(excess) > SUM_TOLERANCE[row.dtype] - 1e-6):
        return (
            "must hold probabilities that sum to one over `class_dim`",
            f"a sum of {total:.6g}",
            "check `class_dim`, or pass input='logits' for logits",
        )
    return None
