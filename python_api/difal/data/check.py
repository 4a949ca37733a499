"""Every image and mask of a split looked at before the first is encoded."""

from __future__ import annotations

from tqdm import tqdm

from difal.data.base import Split
from difal.errors import DataError
from difal.threads import in_order

SHOWN = 10


def check_split(split: Split, name: str) -> None:
    """Raise DataError naming the files that cannot be used.

    A pass over the encoder takes long, and features belong to a pool as it was: taking an image out halfway means to
    begin again.
    """
    images = range(len(split))
    bar = tqdm(in_order(split.fault, images), f"checking {name}", len(images), leave=False, unit="image")
    found = [fault for fault in bar if fault]
    if len(found) == 1:
        raise DataError(found[0])
    if found:
        more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        raise DataError("\n  ".join([f"{len(found)} of {len(split)} images cannot be used:", *found[:SHOWN], *more]))
