"""`difal presets`: the settings by name, with a line each."""

from __future__ import annotations

import argparse

from difal.cli._common import DONE, listing
from difal.presets import presets

HELP = "list the settings by name"
DESCRIPTION = "Every --preset, with a line each."


def main(args: argparse.Namespace) -> int:
    print(listing(presets()))
    return DONE
