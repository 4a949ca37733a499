"""Draws docs/img/theory.png: `python docs/make_theory_figure.py [OUT.png]`."""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from difal_kernels import maxherding
from difal_kernels.ops.maxherding.kernel_functions import kernel_matrix

N, PICKS, BANDWIDTH = 1200, 60, 1.5


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "img" / "theory.png"
    generator = torch.Generator().manual_seed(3)
    centers = 4 * torch.rand(9, 2, generator=generator) * torch.tensor([2.0, 1.5])
    points = centers[torch.randint(0, 9, (N,), generator=generator)] + 0.55 * torch.randn(N, 2, generator=generator)
    picks = maxherding(points, PICKS, bandwidth=BANDWIDTH)
    kernel = kernel_matrix(points, points, "rbf", BANDWIDTH)

    before = kernel.mean(0)
    first = picks[0]
    after = (kernel - kernel[:, first, None]).clamp(min=0).mean(0)
    covered, live = torch.zeros(N, dtype=torch.float64), []
    for pick in picks:
        covered = torch.maximum(covered, kernel[:, pick])
        live.append(float((kernel > covered[:, None]).double().sum(1).mean()))

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    for axis, gains, title in ((left, before, "gain of each point at first"), (middle, after, "after the first pick")):
        marks = axis.scatter(*points.T, c=gains, s=9, cmap="viridis", vmin=0, vmax=float(before.max()))
        axis.set_title(title)
        axis.set_axis_off()
    middle.scatter(*points[first], s=160, marker="*", c="red", edgecolors="white")
    figure.colorbar(marks, ax=middle, shrink=0.8)
    right.plot(range(1, PICKS + 1), live)
    right.set_yscale("log")
    right.set_xlabel("picks")
    right.set_title(f"live entries a row, of {N:,}")
    right.grid(alpha=0.3)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=100)


if __name__ == "__main__":
    main()
