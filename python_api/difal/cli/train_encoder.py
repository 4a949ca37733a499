"""`difal train-encoder`: a diffusion encoder trained on the pool's images, without labels."""

from __future__ import annotations

import argparse
from pathlib import Path

from difal.cli._common import DONE, check_device
from difal.data import open_data
from difal.encoders.training import SIZES, train_encoder

HELP = "train a diffusion encoder on the pool's images, without labels"
DESCRIPTION = """\
A denoising-diffusion UNet trained on random crops of the pool's images, which --encoder OUT then takes. No mask and no
test image is read. It starts from `tiny`, which comes with the package, or from random weights.

The same command goes on after an interruption, and goes on with a finished training if more --minutes or --steps are
asked for: after n steps the weights are those of a training that was not interrupted. OUT holds the encoder, loss.csv,
loss.png, and training/, the state to go on from, which may be deleted in the end.

examples
  difal train-encoder --data ../camvid --out encoders/camvid
  difal train-encoder --data ../camvid --out encoders/camvid-small --size small --device cuda --batch 64 --minutes 240
  difal run --data ../camvid --encoder encoders/camvid
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, help="folder of images, as for `difal run`")
    parser.add_argument("--out", type=Path, required=True, help="the encoder's folder: new, or one to go on in")
    stop = parser.add_argument_group("when to stop")
    stop.add_argument("--minutes", type=float, help="minutes of training, interrupted ones included [60]")
    stop.add_argument("--steps", type=int, help="steps, in place of minutes or beside them")
    network = parser.add_argument_group("network")
    network.add_argument("--start", help="`scratch`, `tiny`, or an encoder's folder [tiny; scratch if --size is given]")
    sizes = ", ".join(f"{name} {'-'.join(map(str, size.channels))}" for name, size in SIZES.items())
    network.add_argument("--size", choices=list(SIZES), help=f"channels of the levels, from scratch: {sizes}")
    network.add_argument("--resolution", type=int, help="shorter side at which images are read [the start's]")
    training = parser.add_argument_group("training")
    training.add_argument("--batch", type=int, default=8, help="crops a step; a GPU wants 64 or more [8]")
    training.add_argument("--learning-rate", type=float, help="AdamW's, at its largest [by the size]")
    training.add_argument("--seed", type=int, default=0, help="of crops, noise and weights from scratch [0]")
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", default="cpu", help="torch device [cpu]")
    machine.add_argument("--threads", type=int, default=0, help="CPU threads, 0 for torch's choice [0]")


def main(args: argparse.Namespace) -> int:
    check_device(args.device)
    pool = open_data(args.data, classes=("any",)).train  # the pool is the same whatever the classes
    names = ("steps", "start", "size", "resolution", "batch", "learning_rate", "seed", "device", "threads")
    given = {name: getattr(args, name) for name in names}
    minutes = 60.0 if args.minutes is None and args.steps is None else args.minutes
    found = train_encoder(pool, args.out, minutes=minutes, **given)
    print(
        f"{args.out}: {found.steps} steps in {found.seconds / 60:.1f} minutes ({found.cpu_seconds / 3600:.2f} CPU "
        f"hours), loss {found.loss:.4f}; use it as --encoder {args.out}"
    )
    return DONE
