"""Draws docs/img/photos.png: `python docs/make_photos_figure.py [OUT.png]`.

Runs examples/segment_photos.py in a temporary folder. Each row: a photograph, the pixels queried in it, the prediction
at every pixel, and the truth, which is what the outlines say.
"""

import json
import runpy
import sys
import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from difal.data import IGNORE, open_data
from difal.metrics import class_iou
from difal.run.directory import RunDirectory
from pictures import add_legend, palette_of, plot_labels, save_figure

EXAMPLE = Path(__file__).parent.parent / "examples" / "segment_photos.py"
PALE = 0.55  # how far the photograph below the queried pixels is from white


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "img" / "photos.png"
    example = runpy.run_path(str(EXAMPLE))
    with tempfile.TemporaryDirectory() as name:
        example["write_data"](Path(name) / "data")
        counts = example["segment"](Path(name))
        draw(Path(name), float(np.nanmean(class_iou(counts))), out)


def draw(folder: Path, miou: float, out: Path) -> None:
    data = open_data(str(folder / "data"))
    photographs, palette = data.train, palette_of(data)
    labels = [label for entry in RunDirectory(folder / "run").rounds() for label in entry.labels()]
    figure, axes = plt.subplots(len(photographs), 4, figsize=(14, 5.4), layout="constrained")
    for row, (i, name) in zip(axes, enumerate(photographs.ids), strict=True):
        image, truth = photographs.image(i), photographs.mask(i)
        predicted = np.array(Image.open(folder / "predicted" / "masks" / name))
        grey = np.array(Image.fromarray(image).convert("L"))[..., None].repeat(3, 2)
        pale = (255 - PALE * (255 - grey)).astype(np.uint8)
        for axis, picture in zip(row, (image, pale, palette[predicted], palette[truth]), strict=True):
            axis.imshow(picture)
        plot_labels(row[1], [label for label in labels if label.image == name], palette, "black")
    titles = (
        "photograph",
        f"{len(labels)} queried pixels",
        f"predicted: {100 * miou:.0f} % mIoU",
        "the truth, drawn by hand",
    )
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=14)
    style = {"fontsize": 13, "handlelength": 1.2, "columnspacing": 1.4}
    add_legend(figure, data.classes, {*range(len(data.classes)), IGNORE}, palette, "no class", **style)
    save_figure(figure, out, rights())
    print(f"{len(labels)} pixels, {100 * miou:.1f} % mIoU; drawn in {out}")


def rights() -> str:
    """Whose photographs they are."""
    photographs = json.loads(EXAMPLE.with_suffix(".json").read_text())["photographs"]
    return "; ".join(f"{name}: {one['by']}, {one['licence']}, {one['at']}" for name, one in photographs.items())


if __name__ == "__main__":
    main()
