"""Segment two photographs by forty queried pixels: `python examples/segment_photos.py [FOLDER]`, a new folder.

Outlines drawn by hand, in segment_photos.json, answer the queries and are what the prediction is compared with. For
photographs of your own, `difal label` has you answer, and `difal run` takes masks of any origin: docs/images.md.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from skimage.data import coffee
from sklearn.datasets import load_sample_image

from difal.acquisition import check_acquisition
from difal.config import Config
from difal.data import open_data
from difal.errors import ConfigError
from difal.metrics import class_iou, confusion_matrix
from difal.run.loop import run
from difal.run.predict import predict

ROUNDS, BUDGET = 10, 2  # pixels an image and round
LOCAL = 4 * ROUNDS * BUDGET  # to choose among in an image: four for each that is queried, as `difal label` does


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("demo/photos"))
    parser.add_argument("--acquisition", default=Config.acquisition, help="how pixels are chosen, such as random")
    parser.add_argument("--seed", type=int, default=0, help="of the candidate pixels and of random choices")
    args = parser.parse_args()
    try:
        settings(args.folder, args.acquisition, args.seed)
    except ConfigError as error:
        parser.error(str(error))

    write_data(args.folder / "data")
    counts = segment(args.folder, args.acquisition, args.seed)
    iou, classes = class_iou(counts), open_data(str(args.folder / "data")).classes
    print("IoU in percent:", ", ".join(f"{name} {100 * one:.0f}" for name, one in zip(classes, iou, strict=True)))
    print(f"mIoU of all pixels that have a class, of the photographs that were queried: {100 * np.nanmean(iou):.1f} %")
    print(f"the predictions are in {args.folder / 'predicted' / 'pictures'}")


def write_data(folder: Path) -> None:
    """Write the photographs, and the masks of their outlines, as `difal run --data` reads them."""
    drawn = json.loads(Path(__file__).with_suffix(".json").read_text())
    colors = drawn["colors"]
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("".join(f"{color} {name}\n" for name, color in colors.items()))
    photographs = {"china": load_sample_image("china.jpg"), "coffee": coffee()}  # both come with their libraries
    for name, pixels in photographs.items():
        image = Image.fromarray(pixels)
        mask = Image.new("RGB", image.size, colors["void"])
        for class_name, outline in drawn["photographs"][name]["outlines"]:  # each lies over those before it
            ImageDraw.Draw(mask).polygon([tuple(point) for point in outline], colors[class_name])
        most, least = (np.array(mask.filter(kind(5))) for kind in (ImageFilter.MaxFilter, ImageFilter.MinFilter))
        mask.paste(colors["void"], mask=Image.fromarray((most != least).any(2)))  # within two pixels of another class
        image.save(folder / "images" / f"{name}.png")
        mask.save(folder / "masks" / f"{name}.png")


def settings(folder: Path, acquisition: str, seed: int) -> Config:
    """The run's; a ConfigError says what is wrong with the acquisition or the seed."""
    check_acquisition(acquisition)
    numbers = {"rounds": ROUNDS, "budget": BUDGET, "local": LOCAL, "pictures": 0, "seed": seed, "feature_seed": seed}
    return Config(data=str(folder / "data"), out=str(folder / "run"), acquisition=acquisition, **numbers)


def segment(folder: Path, acquisition: str = Config.acquisition, seed: int = 0) -> np.ndarray:
    """Query pixels of FOLDER/data and predict all; the number of pixels by true (rows) and predicted class."""
    run(settings(folder, acquisition, seed))
    predict(folder / "run", folder / "data" / "images", folder / "predicted")
    data = open_data(str(folder / "data"))
    counts = np.zeros((len(data.classes), len(data.classes)), np.int64)
    for i, name in enumerate(data.train.ids):
        predicted = np.array(Image.open(folder / "predicted" / "masks" / name))
        counts += confusion_matrix(data.train.mask(i), predicted, len(data.classes))
    return counts


if __name__ == "__main__":
    main()
