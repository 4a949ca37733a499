"""Pick the 50 pixels of a photograph that represent it best, and draw them: `python examples/photo.py [OUT.png]`."""

import argparse
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.spatial import KDTree
from skimage import data

from difal.encoders import load_encoder
from difal_kernels import maxherding
from difal_kernels.ops.maxherding.kernel_functions import kernel_matrix

BUDGET, CANDIDATES = 50, 10_000


def naive(features: torch.Tensor, budget: int, bandwidth: float) -> torch.Tensor:
    """The loop this replaces: all N x N entries again at every pick."""
    kernel = torch.exp(-((torch.cdist(features, features) / bandwidth) ** 2))
    covered = torch.zeros(len(features))
    picks = []
    for _ in range(budget):
        picks.append(int(torch.clamp(kernel - covered[:, None], min=0).mean(0).argmax()))
        covered = torch.maximum(covered, kernel[:, picks[-1]])
    return torch.tensor(picks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", default=Path("demo/picks.png"))
    out = parser.parse_args().out

    photo = data.coffee()[:, 100:500]  # 400 x 400, from scikit-image's wheel
    height, width = photo.shape[:2]
    image = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None] / 127.5 - 1
    chosen = torch.randperm(height * width, generator=torch.Generator().manual_seed(0))[:CANDIDATES]
    points = torch.stack([chosen // width, chosen % width], 1)
    features = load_encoder("tiny").hypercolumns(image, points)
    print(f"{CANDIDATES} candidate pixels of a {height} x {width} photograph, {features.shape[1]} features each")

    began = time.perf_counter()
    selection = maxherding(features, BUDGET, return_info=True)
    seconds = time.perf_counter() - began
    print(f"maxherding: {BUDGET} pixels in {seconds:.2f} s, coverage {selection.coverage:.4f}")
    print("naive loop, for comparison; this takes a while ...", flush=True)
    began = time.perf_counter()
    slow_picks = naive(features, BUDGET, selection.bandwidth)
    slow = time.perf_counter() - began
    same = int((slow_picks == selection.indices).long().cumprod(0).sum())
    print(f"naive loop: {slow:.1f} s, {slow / seconds:.0f} times slower; its first {same} picks are the same")

    draw(photo, points, features, selection, out)
    print(f"the picks are drawn in {out}")


def draw(photo, points, features, selection, out) -> None:
    """The numbered picks on the photograph, and what each covers; a pixel between candidates is as the nearest one."""
    picked = points[selection.indices].numpy()
    nearest = kernel_matrix(features, features[selection.indices], "rbf", selection.bandwidth).argmax(1)
    colors = photo[picked[:, 0], picked[:, 1]] / 255
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 6), layout="constrained")
    left.imshow(photo)
    left.scatter(picked[:, 1], picked[:, 0], s=150, c="white", edgecolors="black", linewidths=1)
    for rank, (row, column) in enumerate(picked):
        left.text(column, row, rank + 1, ha="center", va="center", fontsize=7)
    left.set_title(f"{len(picked)} pixels to label, in order")
    candidate = KDTree(points).query(np.indices(photo.shape[:2]).reshape(2, -1).T)[1]
    right.imshow(colors[nearest[candidate]].reshape(photo.shape))
    right.set_title(f"in the colour of the pick that covers it: coverage {selection.coverage:.3f}")
    for axis in (left, right):
        axis.set_axis_off()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
