"""`difal report`: a run's report, one HTML file."""

from __future__ import annotations

import argparse
from pathlib import Path

from difal.cli._common import DONE
from difal.report import stale_rounds, write_report
from difal.run.directory import RunDirectory

HELP = "write a run's report.html"
DESCRIPTION = """\
Write RUN/report.html, one file with everything in it: learning curve, classes under both ways to average the IoU,
where the clicks went, pictures with picks and eDALD maps, time and memory. Works while a run is under way.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--out", type=Path, help="where to write [RUN/report.html]")


def main(args: argparse.Namespace) -> int:
    print(f"report: {write_report(args.run, args.out)}")
    for index, why in stale_rounds(RunDirectory(args.run)).items():
        print(f"round {index} is left out: {why}; `difal run --resume {args.run}` makes it again")
    return DONE
