"""The photographs that `tiny` was trained on, and its training.

    python -m difal.encoders.training.photographs --out tiny_run --steps 6000

Nothing is downloaded: the photographs ship inside the wheels of scikit-image and scikit-learn.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from difal.data.base import FileSplit
from difal.encoders.training.trainer import train_encoder
from difal.errors import DataError

# Wheel, file, share of the crops. Photographs alone, each with a free licence (see the model card); the scene
# with sky, buildings, trees and ground counts most, textures least.
PHOTOGRAPHS = (
    ("sklearn", "datasets/images/china.jpg", 5.0),
    ("skimage", "data/rocket.jpg", 2.0),
    ("skimage", "data/astronaut.png", 2.0),
    ("skimage", "data/coffee.png", 2.0),
    ("skimage", "data/chelsea.png", 2.0),
    ("sklearn", "datasets/images/flower.jpg", 2.0),
    ("skimage", "data/camera.png", 2.0),
    ("skimage", "data/coins.png", 0.5),
    ("skimage", "data/brick.png", 0.7),
    ("skimage", "data/grass.png", 0.7),
    ("skimage", "data/gravel.png", 0.7),
)


def open_photographs() -> tuple[FileSplit, list[float]]:
    """The photographs as a pool without masks, and their shares of the crops.

    Raises:
        DataError: a wheel is not installed.
    """
    paths = []
    for package, name, _ in PHOTOGRAPHS:
        spec = find_spec(package)
        path = Path(spec.origin).parent / name if spec is not None and spec.origin else None
        if path is None or not path.is_file():
            raise DataError(f"{package}/{name} is missing: pip install scikit-image scikit-learn")
        paths.append(path)
    return FileSplit([path.stem for path in paths], paths, None, 0), [share for _, _, share in PHOTOGRAPHS]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train `tiny` anew, from scratch, on eleven photographs.")
    parser.add_argument("--out", type=Path, required=True, help="new folder, or one to go on in")
    parser.add_argument("--steps", type=int, default=6000, help="[6000]")
    parser.add_argument("--device", default="cpu", help="torch device [cpu]")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 for torch's choice [0]")
    args = parser.parse_args(arguments)
    pool, shares = open_photographs()
    how = {"steps": args.steps, "device": args.device, "threads": args.threads}
    print(train_encoder(pool, args.out, start="scratch", shares=shares, jitter=True, **how))


if __name__ == "__main__":
    main()
