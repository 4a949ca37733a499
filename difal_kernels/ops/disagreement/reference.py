"""Plain float64 torch on any device: the formulas as they are written, which all else is checked against."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from .problem import SUM_TOLERANCE, Problem

BLOCK = 1 << 22  # numbers held in float64 at a time


def unavailable() -> str | None:
    return None


def supports(problem: Problem) -> str | None:
    return None


def run(problem: Problem) -> tuple[dict[str, torch.Tensor], int]:
    """The scores, each of shape (*positions), and the first invalid position or -1."""
    K, C = problem.samples.shape[-2:]
    samples = problem.samples.reshape(-1, K, C) if problem.samples.dim() == 2 else problem.samples
    single = None if problem.single is None else problem.single.reshape((*samples.shape[:-2], C))
    positions = samples.shape[:-2]
    scores = {name: samples.new_empty(positions, dtype=torch.float32) for name in problem.scores}
    valid = samples.new_empty(positions, dtype=torch.bool)
    for block in _blocks(positions, K * C):
        part, valid[block] = _compute(problem, samples[block], None if single is None else single[block])
        for name in scores:
            scores[name][block] = part[name].float()
    bad = (~valid).reshape(-1).nonzero()
    first_bad = int(bad[0]) if len(bad) else -1
    return {name: score.reshape(problem.position_shape) for name, score in scores.items()}, first_bad


def _blocks(positions: torch.Size, numbers: int) -> Iterator[tuple[slice, ...]]:
    """Slices along the longest dimension that cut the positions into parts of about BLOCK numbers."""
    dim = max(range(len(positions)), key=positions.__getitem__)
    step = max(1, BLOCK * positions[dim] // max(1, math.prod(positions) * numbers))
    for start in range(0, positions[dim], step):
        yield (slice(None),) * dim + (slice(start, start + step),)


def _compute(problem: Problem, samples: torch.Tensor, single: torch.Tensor | None):
    p, valid = probabilities(problem, samples)
    valid = valid.all(-1)
    mean = p.mean(-2)
    q = mean  # the prediction itself: `single` where there is one
    if single is not None:
        q, single_valid = probabilities(problem, single)
        valid = valid & single_valid
    if "released_edald" in problem.scores:
        return {"released_edald": released_edald(p, q, problem.weight)}, valid

    K, C = p.shape[-2:]
    expected_entropy = entropy(p).mean(-1)
    bald = (entropy(mean) - expected_entropy).clamp(0, round_down(math.log(min(K, C))))
    top = q.topk(min(2, C), dim=-1).values
    scores = {
        "entropy": entropy(q).clamp(0, round_down(math.log(C))),
        "bald": bald,
        "expected_entropy": expected_entropy.clamp(0, round_down(math.log(C))),
        "margin": 1 - (top[..., 0] - (top[..., 1] if C > 1 else 0)),
        "least_confidence": 1 - top[..., 0],
        "variation_ratio": variation_ratio(samples, p),
    }
    scores["combined"] = scores["entropy"] + problem.weight * bald
    if "balentacq" in problem.scores:
        scores["balentacq"] = balentacq(p)
    return scores, valid


def probabilities(problem: Problem, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """p of shape (..., C) in float64, and which rows are valid input."""
    tolerance = SUM_TOLERANCE[x.dtype]
    x = x.double()
    if problem.input == "probs":
        total = x.sum(-1, keepdim=True)
        p = x / total.where(total < math.inf, math.nan)
        wrong = (x < 0).any(-1) | off(total[..., 0] - 1, tolerance)
    else:
        p = x.softmax(-1)
        wrong = torch.zeros_like(p[..., 0], dtype=torch.bool)
        if problem.input == "log_probs":
            wrong = off(x.logsumexp(-1), tolerance)
    if problem.check_finite:
        wrong = wrong | p.isnan().any(-1)
    return p, ~wrong


def off(excess: torch.Tensor, tolerance: float) -> torch.Tensor:
    """Where the sum is wrong; an infinite one is `check_finite`'s to refuse, like NaN."""
    return excess.isfinite() & (excess.abs() > tolerance)


def entropy(p: torch.Tensor) -> torch.Tensor:
    return torch.special.entr(p).sum(-1)


def round_down(value: float) -> float:
    """The largest float32 that is no more than `value`, so that a bound holds after rounding too."""
    rounded = torch.tensor(value, dtype=torch.float32)
    below = torch.nextafter(rounded, torch.zeros_like(rounded))
    return float(rounded) if float(rounded) <= value else float(below)


def variation_ratio(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    K = p.shape[-2]
    choice = x.argmax(-1)  # of the input: two logits that differ may have the same softmax
    votes = torch.zeros_like(p[..., 0, :]).scatter_add_(-1, choice, torch.ones_like(p[..., 0]))
    return 1 - votes.amax(-1) / K + 0 * p.sum((-2, -1))  # the last term hands a NaN on


def balentacq(p: torch.Tensor) -> torch.Tensor:
    """Woo (2023): each class's probability over the samples taken to be Beta(alpha, beta) by its moments."""
    mean, variance = p.mean(-2), p.var(-2, correction=0)
    inside = mean.clamp(1e-9, 1 - 1e-9)
    strength = (inside * (1 - inside) / variance - 1).clamp(1e-6, 1e8)  # alpha + beta
    a, b = inside * strength + 1, (1 - inside) * strength  # after one more observation of the class
    h = (
        torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
        - (a - 1) * torch.digamma(a) - (b - 1) * torch.digamma(b) + (a + b - 2) * torch.digamma(a + b)
    )  # fmt: skip
    label = entropy(mean)
    balanced = ((mean * h).sum(-1) + label) / (label + math.log(2))
    return torch.where(balanced >= 0, 1 / balanced, balanced)


def released_edald(p: torch.Tensor, q: torch.Tensor, weight: float) -> torch.Tensor:
    """The released code's eDALD: p stands where log p is expected, so that exp(p) is scored."""

    def smoothed_entropy(x: torch.Tensor) -> torch.Tensor:
        return -(x * (x + 1e-8).log()).sum(-1)

    r = p.exp()
    information = smoothed_entropy(r.mean(-2)) - smoothed_entropy(r).mean(-1)
    return smoothed_entropy(q) + weight * information.clamp_min(1e-9)
