"""Picks replayed in float64 at some of their steps, where a pool is too large for all of them."""

from __future__ import annotations

import torch

STEPS = (0, 1, 10, 100, 1_000, 5_000)
RIVALS = 100  # picks that follow, and as many candidates drawn at random


def replay_steps(x: torch.Tensor, picks: torch.Tensor, bandwidth: float) -> tuple[dict[int, float], float]:
    """Compare picks with rivals by the RBF kernel in float64.

    Args:
        x: features (N, D).
        picks: indices into it (b,), in pick order.
        bandwidth: of the kernel.

    Returns:
        For each of STEPS the largest (gain of a rival - gain of the pick) / first gain, at most 1e-12 if the pick is
        right; and the mean coverage of all rows after the last pick.
    """
    generator = torch.Generator().manual_seed(0)
    exact = (x.double() - x.double().mean(0)) / bandwidth
    norms = exact.square().sum(1)

    def kernel(points: torch.Tensor) -> torch.Tensor:
        square = norms[:, None] + norms[points] - 2 * (exact @ exact[points].T)
        return square.clamp_(min=0).neg_().exp_()

    covered, done, first, leads = torch.zeros(len(x), dtype=torch.float64), 0, None, {}
    for step in (*(step for step in STEPS if step < len(picks)), len(picks)):
        for points in picks[done:step].split(64) if step > done else ():
            covered = torch.maximum(covered, kernel(points).amax(1))
        done = step
        if step == len(picks):
            break
        drawn = torch.randint(len(x), (RIVALS,), generator=generator)
        rivals = torch.cat([picks[step : step + 1 + RIVALS], drawn[~torch.isin(drawn, picks[:step])]])
        gains = torch.cat([(kernel(some) - covered[:, None]).clamp_(min=0).sum(0) for some in rivals.split(64)])
        first = float(gains[0]) if first is None else first
        leads[step] = float(gains[1:].max() - gains[0]) / first
    return leads, float(covered.mean())
