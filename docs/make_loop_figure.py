"""Draws docs/img/loop.png: `python docs/make_loop_figure.py [OUT.png]`.

Three rounds of `difal run` on twelve drawn scenes, one pixel an image and round, and what `difal predict` makes of two
scenes that it has never seen.
"""

import sys
import tempfile
from collections import Counter
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from difal.config import Config
from difal.data.scenes import draw_scene, open_scenes
from difal.run.directory import RunDirectory
from difal.run.loop import run
from difal.run.predict import predict
from pictures import save_figure

SCENES = "scenes:12,0,0"
SETTINGS = {"rounds": 3, "budget": 1, "candidates": 500, "noise_samples": 2, "pictures": 0, "acquisition": "coverage"}
UNSEEN = (901, 905)  # seeds of the scenes to predict


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "img" / "loop.png"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(Config(data=SCENES, out=str(folder / "run"), **SETTINGS))
        (folder / "new").mkdir()
        for seed in UNSEEN:
            Image.fromarray(draw_scene(seed)[0]).save(folder / "new" / f"{seed}.png")
        predict(folder / "run", folder / "new", folder / "classes")
        found = {seed: np.array(Image.open(folder / "classes" / "masks" / f"{seed}.png")) for seed in UNSEEN}
        run_dir = RunDirectory(folder / "run")
        draw(open_scenes(SCENES).train, run_dir, found, out)


def draw(pool, run_dir: RunDirectory, found: dict[int, np.ndarray], out: Path) -> None:
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(run_dir.facts()["colors"])] = run_dir.facts()["colors"]
    labels = [label for entry in run_dir.rounds() for label in entry.labels()]
    figure, axes = plt.subplots(2, 4, figsize=(13, 6.8), layout="constrained")
    most = Counter(label.image for label in labels).most_common(2)
    for axis, (name, _) in zip(axes[:, 0], most, strict=True):
        axis.imshow(pool.image(pool.ids.index(name)))
        queried = [label for label in labels if label.image == name]
        for label in queried:
            axis.plot(label.x, label.y, "o", ms=9, mfc=colors[label.class_id or 0] / 255, mec="white", mew=1.5)
            left, low = label.x > 0.75 * label.width, label.y < 0.1 * label.height  # so that the name stays inside
            axis.annotate(
                label.class_name or "void",
                (label.x, label.y),
                (-6 if left else 6, -6 if low else 6),
                textcoords="offset points",
                ha="right" if left else "left",
                va="top" if low else "baseline",
                c="white",
            )
        axis.set_title(f"queried in this image: {len(queried)} pixels")
    for row, (seed, classes) in zip(axes, found.items(), strict=True):
        image, mask = draw_scene(seed)
        for axis, picture, title in zip(
            row[1:], (image, colors[classes], colors[mask]), ("never seen", "predicted", "the truth"), strict=True
        ):
            axis.imshow(picture)
            axis.set_title(title)
    save_figure(figure, out)
    print(f"{len(labels)} pixels queried in {len(pool)} scenes; drawn in {out}")


if __name__ == "__main__":
    main()
