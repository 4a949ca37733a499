"""What the scripts that draw this folder's pictures share."""

from pathlib import Path

from matplotlib.figure import Figure


def save_figure(figure: Figure, out: Path) -> None:
    """Write a figure of images, without axes; the same file whatever the version of matplotlib calls itself."""
    for axis in figure.axes:
        if axis.images:
            axis.set_axis_off()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=72, metadata={"Software": None})
