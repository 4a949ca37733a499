"""`difal run`: the rounds of a run, begun or resumed."""

from __future__ import annotations

import argparse
from pathlib import Path

from difal import parallel
from difal.annotate.oracle import JournalOracle, journal_path
from difal.cli._common import DONE, EXIT_CODES, WAITING, add_settings, check_device, given_settings, listing
from difal.config import FIELDS, resumed_config
from difal.data import LAYOUTS
from difal.presets import check_encoder, make_config, presets
from difal.report import write_report
from difal.run.directory import RunDirectory, classes_at_start
from difal.run.loop import run

HELP = "do the rounds"
DESCRIPTION = f"""\
Each round chooses round(budget x images) pixels, gets their classes, trains a head from scratch and tests it.
Round 0 is chosen by coverage alone; later rounds keep the most covering half of the local picks (stage 1) and query
those on which the head is least sure, eDALD = entropy + DALD (stage 2).

DATA is one of
{LAYOUTS}

Without masks, or with --oracle person, a round stops after writing RUN/to_label.jsonl and a picture per image;
fill in the classes and go on with `difal run --resume RUN`. A run that was killed goes on the same way and ends as
if it had not been.

examples
  difal run --data ../camvid --encoder tiny --rounds 10
  difal run --preset paper/camvid --data ../camvid --encoder encoders/imagenet256
  difal run --data ../camvid --acquisition entropy --seed 3 --cache caches/camvid --out runs/entropy3
  difal run --config runs/first/config.yaml --seed 1 --out runs/second
  difal run --resume runs/first --rounds 20

presets (--preset), each setting of which a flag overrides
{listing(presets(), "  ")}

{EXIT_CODES}"""
AGAIN = "`difal run --resume`"
ON_ALL_RANKS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--resume", nargs="?", const="", metavar="RUN", help="go on with a run [the newest under runs/]"
    )
    add_settings(parser, FIELDS)


def main(args: argparse.Namespace) -> int:
    if args.resume is None:
        config = make_config(args.config, given_settings(args), args.preset)
    elif args.preset or args.config:
        raise ValueError("--resume takes a run's settings from its folder; leave out --preset and --config")
    else:
        folder = Path(args.resume or getattr(args, "out", "") or newest_run())
        config = resumed_config(RunDirectory(folder).config(), {**given_settings(args), "out": str(folder)})
    check_device(config.device)
    check_encoder(config.encoder)
    oracle = None
    if args.resume is not None and journal_path(config.run_folder()).is_file():  # labeled by `difal label`
        facts = RunDirectory(config.run_folder()).facts()
        oracle = JournalOracle(config.run_folder(), classes_at_start(facts) or ())
    status = run(config, resume=args.resume is not None, oracle=oracle)
    if status == "waiting":
        return WAITING
    if parallel.rank() == 0:
        print(f"done: {config.run_folder()}\nreport: {write_report(config.run_folder())}")
    return DONE


def newest_run() -> str:
    runs = sorted(Path("runs").glob("*/config.yaml"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise ValueError("there is no run under runs/; name one: difal run --resume RUN")
    return str(runs[-1].parent)
