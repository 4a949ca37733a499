"""`difal acquisitions`: the acquisition functions, with a line each."""

from __future__ import annotations

import argparse

from difal.acquisition import acquisitions
from difal.cli._common import DONE, listing

HELP = "list the acquisition functions"
DESCRIPTION = "Every --acquisition, with a line each."


def main(args: argparse.Namespace) -> int:
    print(listing(acquisitions()))
    return DONE
