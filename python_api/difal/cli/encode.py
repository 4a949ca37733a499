"""`difal encode`: the pass over the encoder that runs share."""

from __future__ import annotations

import argparse
from pathlib import Path

from difal import parallel
from difal.cli._common import DONE, add_settings, check_device, given_settings
from difal.config import FIELDS
from difal.encoders import DiffusionEncoder, load_guided_diffusion
from difal.features.compute import make_features
from difal.presets import check_encoder, make_config

HELP = "compute the features alone, to be shared by runs"
DESCRIPTION = """\
The one pass over the pool and the test set that every run needs, done alone: local picks, their features under the
fixed noise and under the noise samples, and the test set's maps. Runs with `--cache CACHE` and the same settings then
start at once, whatever their acquisition and seed. An interrupted pass goes on with the same command.

With --convert FOLDER nothing is encoded: the guided-diffusion checkpoint (.pt or .safetensors) that --encoder names
becomes a folder of diffusers' layout, which --encoder then takes.

examples
  difal encode --data ../camvid --encoder tiny --cache caches/camvid
  difal encode --encoder 256x256_diffusion_uncond.pt --convert encoders/imagenet
"""
ON_ALL_RANKS = True
# Settings on which the features do not depend.
UNUSED = {
    "out", "acquisition", "seed", "rounds", "budget", "oracle", "keep", "share", "edald_weight", "dropout", "radius",
    "herding",
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    unused_groups = ("head", "report")
    add_settings(parser, [n for n, f in FIELDS.items() if n not in UNUSED and f.metadata["group"] not in unused_groups])
    parser.add_argument("--convert", type=Path, metavar="FOLDER", help="convert the checkpoint --encoder and stop")
    parser.add_argument("--head-channels", type=int, default=64, help="width of its attention heads [64]")


def main(args: argparse.Namespace) -> int:
    config = make_config(args.config, given_settings(args), args.preset)
    if args.convert:
        if parallel.world_size() > 1:
            raise ValueError("`--convert` needs one process; start it without torchrun")
        return convert(config.encoder, args.convert, args.head_channels)
    if config.cache is None:
        raise ValueError("`--cache` must name the folder to write")
    check_device(config.device)
    check_encoder(config.encoder)
    cache, test = make_features(config, log=print)
    kept = "" if test is None else f", test maps {'kept' if test.cached else 'too large to keep (see --test-cache-gb)'}"
    if parallel.rank() == 0:
        print(f"{config.cache}: {cache.images} images, {cache.dimension} numbers a pixel{kept}")
    return DONE


def convert(checkpoint: str, folder: Path, head_channels: int) -> int:
    """A guided-diffusion checkpoint to the folder of a `DiffusionEncoder`."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"`--convert` must name a folder that is new or empty, got {folder}")
    encoder = DiffusionEncoder(load_guided_diffusion(checkpoint, num_head_channels=head_channels))
    neighbour = folder.with_name(f".tmp-{folder.name}")
    encoder.save_pretrained(neighbour)
    if folder.exists():
        folder.rmdir()
    neighbour.rename(folder)
    print(f"{folder}: {sum(p.numel() for p in encoder.unet.parameters()):,} parameters; use it as --encoder {folder}")
    return DONE
