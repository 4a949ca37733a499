"""The picture of a training's loss.

python -m difal.encoders.training.curve FOLDER      FOLDER/loss.png from FOLDER/loss.csv
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np

from difal.files import write_bytes


def plot_loss(folder: Path) -> None:
    """Draw the mean losses of `loss.csv`, and their running mean over nine, into `loss.png`; nothing if it has none."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = (folder / "loss.csv").read_text().splitlines()[1:]
    if not rows:
        return
    steps, loss = np.loadtxt(rows, delimiter=",", ndmin=2)[:, :2].T
    figure = Figure(figsize=(6, 3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(steps, loss, color="0.75", linewidth=0.8, marker="o" if len(loss) == 1 else None)
    width = min(9, len(loss))
    axes.plot(steps[width - 1 :], np.convolve(loss, np.ones(width) / width, mode="valid"), color="C0")
    axes.set(xlabel="step", ylabel="mean squared error", yscale="log")
    axes.grid(alpha=0.3, which="both")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    write_bytes(folder / "loss.png", picture.getvalue())


if __name__ == "__main__":
    plot_loss(Path(sys.argv[1]))
