"""Draws docs/img/clicks.png: `python docs/make_clicks_figure.py RUN [OUT.png]`, of a finished run with a test set.

Each row: a pool image with the pixels queried in it, then a test image, the last head's prediction, and the truth.
The legend names the classes that are seen in it.
"""

import sys
from collections import Counter
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from difal.config import Config
from difal.data import open_config_data
from difal.encoders.lazy import LazyEncoder
from difal.features.dense import dense_classes
from difal.features.pixels import encode
from difal.run.directory import RunDirectory
from pictures import add_legend, class_of, palette_of, plot_labels, save_figure

SHOWN = (0.1, 0.9)  # which test images: 0 is the first, 1 the last


def main() -> None:
    run_dir = RunDirectory(Path(sys.argv[1]))
    out = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parent / "img" / "clicks.png"
    config = Config(**run_dir.config())
    data, load_encoder = open_config_data(config), LazyEncoder(config)
    rounds = [entry for entry in run_dir.rounds() if entry.has("head.safetensors")]
    labels = [label for entry in rounds for label in entry.labels()]
    head, miou = rounds[-1].head(), rounds[-1].metrics()["miou"]["standard"]
    palette = palette_of(data)

    queried = [name for name, _ in Counter(label.image for label in labels).most_common(len(SHOWN))]
    figure, axes = plt.subplots(len(SHOWN), 4, figsize=(12, 3.2 * len(SHOWN)), layout="constrained")
    seen: set[int] = set()
    for row, name, share in zip(axes, queried, SHOWN, strict=True):
        index = round(share * (len(data.test) - 1))
        image, truth = data.test.image(index), data.test.mask(index)
        maps = encode(load_encoder(), image, data.test.ids[index], [0], config)
        predicted = dense_classes(head, maps, image.shape[:2])[0].numpy()
        here = [label for label in labels if label.image == name]
        row[0].imshow(data.train.image(data.train.ids.index(name)))
        plot_labels(row[0], here, palette)
        seen.update(map(class_of, here), np.unique(predicted).tolist(), np.unique(truth).tolist())
        for axis, picture in zip(row[1:], (image, palette[predicted], palette[truth]), strict=True):
            axis.imshow(picture)
    used = len({label.image for label in labels})
    titles = (
        f"{len(labels)} queried pixels in {used} of {len(data.train)} images",
        "an image never seen",
        f"predicted ({100 * miou:.0f} % mIoU)",
        "the truth",
    )
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    add_legend(figure, data.classes, seen, palette, "no class, where two meet: not scored")
    save_figure(figure, out)
    print(f"{len(labels)} pixels; drawn in {out}")


if __name__ == "__main__":
    main()
