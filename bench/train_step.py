"""One step of `difal train-encoder` on this CPU, in float32 and under bfloat16 autocast, by size.

    python bench/train_step.py --out bench/results/cpu/train_step.json

The two take turns in one run; the ratio of the medians is what matters. CPU seconds, so that other processes disturb
it less than they would wall time.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from command import Parser

if __name__ == "__main__":
    parser = Parser(__doc__)
    parser.add_argument("--sizes", nargs="+", default=["tiny", "small"], choices=["tiny", "small", "base"])
    parser.add_argument("--repeats", type=int, default=6, help="the first of each is left out")
    parser.add_argument("--out", type=Path)
    OPTIONS = parser.parse_args()

import time
from functools import partial
from tempfile import TemporaryDirectory

import numpy as np
import torch

from difal.data import open_data
from difal.encoders.training import new_encoder
from difal.encoders.training.crops import CropSource
from difal.encoders.training.objective import loss_and_gradients, make_batch
from difal.encoders.training.trainer import has_bfloat16
from difal.files import write_json
from difal.threads import one_thread

CROPS = 8


@one_thread()
def measure(size: str, repeats: int) -> dict[str, float]:
    """Median CPU seconds of a step's loss and gradient, and the ratio."""
    encoder = new_encoder(size, 0)
    encoder.unet.requires_grad_(True).to(memory_format=torch.channels_last)
    with TemporaryDirectory() as folder:
        source = CropSource(open_data("scenes:4,0,0").train, Path(folder), encoder.resolution, encoder.stride)
        batch = make_batch(source, encoder.scheduler, CROPS, 0, 0)
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(repeats):
        for bfloat16 in times:
            step = partial(loss_and_gradients, encoder.unet, batch, CROPS, bfloat16, map)
            start = time.process_time()
            step()
            times[bfloat16].append(time.process_time() - start)
    float32, bfloat16 = (float(np.median(times[kind][1:])) for kind in (False, True))
    return {
        "parameters": sum(p.numel() for p in encoder.unet.parameters()),
        "float32": round(float32, 3),
        "bfloat16": round(bfloat16, 3),
        "ratio": round(float32 / bfloat16, 2),
    }


def main(args: argparse.Namespace) -> None:
    amx = has_bfloat16(torch.device("cpu"))
    found = {"amx": amx, "torch": torch.__version__, "crops": CROPS, "sizes": {}}
    for size in args.sizes:
        found["sizes"][size] = measure(size, args.repeats)
        print(size, found["sizes"][size], flush=True)
    if args.out:
        write_json(args.out, found)


if __name__ == "__main__":
    main(OPTIONS)
