"""What the scripts that draw this folder's pictures share."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from difal.data import IGNORE, Data
from difal.run.labels import Label


def palette_of(data: Data) -> np.ndarray:
    """(256, 3) uint8: the colour of each class id; white where there is no class."""
    palette = np.full((256, 3), 255, np.uint8)
    palette[: len(data.classes)] = data.colors
    return palette


def class_of(label: Label) -> int:
    return IGNORE if label.class_id is None else label.class_id


def plot_labels(axis: Axes, labels: Iterable[Label], palette: np.ndarray, edge: str = "white") -> None:
    """A dot in the colour of its class at each queried pixel."""
    for label in labels:
        axis.plot(label.x, label.y, "o", ms=9, mfc=palette[class_of(label)] / 255, mec=edge, mew=1.5)


def add_legend(
    figure: Figure, classes: Sequence[str], seen: Collection[int], palette: np.ndarray, void: str, **style
) -> None:
    """The classes that are seen, below the pictures; `void` says what has none; `style` goes to matplotlib."""
    names = {**dict(enumerate(classes)), IGNORE: void}
    patches = [Patch(fc=palette[c] / 255, ec="gray", label=name) for c, name in names.items() if c in seen]
    style = {"fontsize": 10, "ncols": len(patches), **style}
    figure.legend(handles=patches, loc="outside lower center", frameon=False, **style)


def save_figure(figure: Figure, out: Path, rights: str | None = None) -> None:
    """Write a figure of images, without axes; the same file whatever the version of matplotlib calls itself.

    `rights` is kept in the file: whose photographs are in it.
    """
    for axis in figure.axes:
        if axis.images:
            axis.set_axis_off()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=72, metadata={"Software": None, **({"Copyright": rights} if rights else {})})
