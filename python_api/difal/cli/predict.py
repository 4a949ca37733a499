"""`difal predict`: new images segmented with a run's head."""

from __future__ import annotations

import argparse
from pathlib import Path

from difal.cli._common import DONE, check_device
from difal.run.predict import predict

HELP = "segment new images with a run's head"
DESCRIPTION = """\
Every pixel of new images through the encoder and the head that a run has trained. OUT/masks/NAME.png holds class ids
and shows them in the classes' colours; OUT/pictures/NAME.jpg shows them over the image; OUT/predict.json names them.
All images are looked at first. An interrupted prediction goes on with the same command. Masks know what made them:
those of the same head, encoder, settings and image are left as they are, others are made again.

examples
  difal predict runs/first holiday/ --out holiday-classes
  difal predict runs/first one.jpg --round 2 --out one
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("images", type=Path, help="an image or a folder of images")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--encoder", metavar="TEXT", help="where the run's encoder is now [where it was]")
    parser.add_argument("--round", type=int, help="whose head [the last]")
    parser.add_argument("--device", default="cpu", help="torch device of the encoder [cpu]")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 for torch's choice [0]")


def main(args: argparse.Namespace) -> int:
    check_device(args.device)
    count = predict(
        args.run,
        args.images,
        args.out,
        round=args.round,
        device=args.device,
        threads=args.threads,
        encoder=args.encoder,
        log=print,
    )
    print(f"{args.out}: {count} images; class ids in masks/, to look at in pictures/")
    return DONE
