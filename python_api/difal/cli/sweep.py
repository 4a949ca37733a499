"""`difal sweep`: presets, acquisitions and seeds, compared in one table."""

from __future__ import annotations

import argparse
from pathlib import Path

from difal import parallel
from difal.cli._common import DONE, add_settings, check_device, given_settings
from difal.config import FIELDS
from difal.sweep import ACQUISITIONS, OWN, Sweep, read_sweep, sweep

HELP = "presets x acquisitions x seeds, one table and one plot"
DESCRIPTION = """\
Every preset x acquisition x seed once, then one table (mean and standard deviation over the seeds, both ways to average
the IoU) and one plot: OUT/table.md, OUT/results.json, OUT/curves.png, rewritten after every run. Features and test maps
are computed once and shared by all runs whose data, encoder and stage-1 settings agree. Runs that are finished are not
done again; after an interruption the same command, or `difal sweep --resume OUT`, goes on.

All runs of a seed start from the same candidates and noise. With `--share 0.8` each seed may query its own four fifths
of them; with --features-per-seed each seed draws candidates and noise anew, which takes an encoder pass for each seed.

examples
  difal sweep --data ../camvid --acquisitions two-stage-edald,coverage,random --seeds 0-4 --share 0.8
  difal sweep --presets paper/camvid,released/camvid --data ../camvid --encoder encoders/imagenet256 --device cuda \
      --seeds 0-2 --out sweeps/paper
  difal sweep --config sweep.yaml --out sweeps/mine    settings, and lists `presets`, `acquisitions`, `seeds`
"""
ON_ALL_RANKS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    varied = parser.add_argument_group("varied")
    varied.add_argument("--presets", type=words, metavar="A,B", help="presets (see `difal presets`) [the defaults]")
    varied.add_argument("--acquisitions", type=words, metavar="A,B", help=f"[{','.join(ACQUISITIONS)}]")
    varied.add_argument("--seeds", type=numbers, metavar="N-M", help="such as 0-4 or 0,3,7 [0-4]")
    varied.add_argument(
        "--features-per-seed", action="store_true", default=None, help="each seed draws candidates and noise of its own"
    )
    whole = parser.add_argument_group("the sweep")
    whole.add_argument("--out", type=Path, help="its folder [sweeps/DATA]")
    whole.add_argument("--results", type=Path, metavar="FOLDER", help="where the table, plot and figures go [OUT]")
    whole.add_argument("--jobs", type=int, help="runs at a time [one a core; one on a GPU]")
    whole.add_argument("--resume", type=Path, metavar="OUT", help="go on with the sweep in OUT")
    add_settings(parser, [name for name in FIELDS if name not in ("out", "acquisition", "seed")], preset=False)


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def numbers(text: str) -> list[int]:
    """ "0-2,5" to [0, 1, 2, 5]."""
    found: list[int] = []
    for word in words(text):
        first, dash, last = word.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise argparse.ArgumentTypeError(f"{word!r} is no number from 0 on and no range such as 0-4")
        found += range(int(first), int(last or first) + 1)
    return found


def main(args: argparse.Namespace) -> int:
    if args.resume and not (args.resume / "sweep.yaml").is_file():
        raise ValueError(f"{args.resume} is no folder of a sweep: it holds no sweep.yaml")
    file = args.resume / "sweep.yaml" if args.resume else args.config
    given = {name: value for name in OWN if (value := getattr(args, name, None)) is not None}
    values = {**(read_sweep(file) if file else {}), **given_settings(args), **given}
    out = args.out or args.resume or Path("sweeps") / (Path(str(values.get("data", ""))).name or "sweep")
    values.pop("out", None)
    own = {name: values.pop(name) for name in OWN if name in values}
    plan = Sweep(out, values, **own)
    for config in {config.device: config for config in map(plan.config, plan.runs())}.values():
        check_device(config.device)
    sweep(plan)
    if parallel.rank() == 0:
        print(f"done: {(plan.results or plan.out) / 'table.md'} and curves.png")
    return DONE
