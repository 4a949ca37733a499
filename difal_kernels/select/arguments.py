"""The command line: its options, its help, and checks that need no file."""

from __future__ import annotations

import argparse
from pathlib import Path

from .._checks import parse_bytes
from .._version import __version__
from ..curve import Target
from ..ops.maxherding.kernel_functions import OF_FEATURES

METHODS = ("maxherding", "uherding", "probcover", "kcenter")
DONE, FAILED, MISUSED, NOT_REACHED, INTERRUPTED = 0, 1, 2, 3, 130

ABOUT = """\
Choose the samples of an embedding file that represent all of it best.

  difal-select embeddings.npy --budget 1000 --out picks.npy

picks 1,000 rows, the most representative first, and writes their row numbers (from 0) to picks.npy and a summary
to picks.json. Similarity falls with the distance between rows; coverage, from 0 to 1, says how similar a sample is
to the nearest picked one, on average. The same files and options give the same picks, on any machine with any number
of threads.
"""

MORE = """\
feature files
  .npy, .npz, .safetensors, and with pyarrow .parquet, .arrow and .feather (a column of lists of numbers): a row for
  each sample, of float16, bfloat16, float32, float64, int8 or uint8. Several files are one pool, in the order given;
  the files of a pattern in quotes, 'part-*.npy', in the order of their names. "-" reads file names from standard
  input, one a line. A .npy or .safetensors file may be larger than the memory.

lists of samples
  --labeled and --candidates take a text file, or "-", with a row number or id a line; or a .npy file of row numbers or
  of True and False.

methods
  maxherding  the samples that cover all others best; take this one if in doubt
  uherding    the same, where --weights says how uncertain a model is about each sample
  probcover   the samples with the most others within --radius
  kcenter     the sample farthest from all picked ones, again and again (CoreSet; also of PatchCore's memory bank)

stopping and going on
  Progress is saved beside the output while the command runs. If it is stopped, run the same command again: it goes on
  and ends with the same picks.

exit codes
  0 done; 1 failed, the message says why; 2 wrong options; 3 picked all of --budget and did not reach --until or
  --until-gain; 130 stopped by Ctrl-C or a signal, run the same command to go on

examples
  difal-select embeddings.npy --until 0.95 --out picks.npy --plot curve.png
  difal-select 'shards/*.safetensors' --column image --budget 10000 --kernel cosine --out picks.txt
  difal-select docs.parquet --column embedding --id-column doc_id --dedup 0.95 --budget 5000 --out picks.csv
  difal-select pool.npy --labeled labeled.txt --candidates allowed.txt --budget 200 --out next.txt
  difal-select patches.npy --method kcenter --budget 10% --out coreset.npy
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="difal-select",
        usage="difal-select FILE [FILE ...] --budget N --out FILE [options]",
        description=ABOUT,
        epilog=MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("features", nargs="+", metavar="FILE", help="feature files, patterns in quotes, or -")
    parser.add_argument("--version", action="version", version=f"difal-select {__version__}")

    many = parser.add_argument_group("how many")
    many.add_argument("--budget", type=budget, metavar="N", help="samples to pick: a number, or a share such as 10%%")
    many.add_argument(
        "--until", type=share, metavar="COVERAGE", help="stop as soon as coverage is this high, such as 0.95"
    )
    many.add_argument(
        "--until-gain", type=share, metavar="GAIN", help="stop before a pick that adds less than this to coverage"
    )

    out = parser.add_argument_group("output")
    out.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help="picks, best first: .npy of row numbers; .txt of ids, one a line; .csv with gains; or - for ids on "
        "standard output",
    )
    out.add_argument("--summary", metavar="FILE", help="settings, coverage and gains as JSON; by default OUT.json")
    out.add_argument("--plot", metavar="FILE", help="picture of coverage against picks, such as .png; needs matplotlib")
    out.add_argument("--overwrite", action="store_true", help="replace earlier output and progress")
    out.add_argument("--quiet", action="store_true", help="no progress on standard error")

    what = parser.add_argument_group("samples")
    what.add_argument("--column", metavar="NAME", help="the array or column that holds the features")
    what.add_argument("--ids", metavar="FILE", help="text with an id for each row, one a line; rows are then called so")
    what.add_argument("--id-column", metavar="NAME", help="column of the tables that holds the ids")
    what.add_argument(
        "--labeled",
        metavar="FILE",
        help="samples that are labeled or chosen already: a list of ids, or a feature file of samples from elsewhere",
    )
    what.add_argument("--candidates", metavar="FILE", help="list of the ids that may be picked; all by default")
    what.add_argument("--weights", metavar="FILE", help="a number for each row, .npy or text: how much it counts")
    what.add_argument(
        "--dedup",
        type=share,
        metavar="SIMILARITY",
        help="first drop each sample that is at least this similar, up to 1, to an earlier one that is kept",
    )

    how = parser.add_argument_group("method")
    how.add_argument("--method", choices=METHODS, default="maxherding", help="see below; default maxherding")
    how.add_argument(
        "--kernel",
        choices=OF_FEATURES,
        default="rbf",
        help="what similarity is; default rbf, a bell curve of the distance",
    )
    how.add_argument(
        "--bandwidth",
        type=positive,
        metavar="H",
        help="the distance over which similarity falls; by default twice the median distance of some rows",
    )
    how.add_argument("--radius", type=positive, metavar="R", help="of probcover, a distance between rows")
    how.add_argument("--memory", type=size, metavar="SIZE", help="memory beyond the features, such as 8GiB or 500MB")
    how.add_argument("--threads", type=count, metavar="N", help="threads to use; all cores by default")
    return parser


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The options, checked together as far as that needs no file; argparse's exit where they are wrong."""
    parser = make_parser()
    args = parser.parse_args(argv)
    problem = _problem(args)
    if problem:
        parser.error(problem)
    return args


def _problem(args: argparse.Namespace) -> str | None:
    target, herds = Target(args.until, args.until_gain), args.method in ("maxherding", "uherding")
    reads_stdin = [n for n in (*args.features, args.ids, args.labeled, args.candidates, args.weights) if n == "-"]
    suffix = Path(args.out).suffix.lower()
    if args.budget is None and not target:
        return "how many? give --budget N, or --until COVERAGE such as 0.95, or both"
    if target and args.method == "kcenter":
        return "--until and --until-gain go with methods that know coverage, and kcenter does not; give --budget alone"
    if args.plot and args.method == "kcenter":
        return "--plot draws coverage, which kcenter does not know; leave it out"
    if (args.radius is None) == (args.method == "probcover"):
        return (
            "--method probcover needs --radius R, a distance within which samples stand for each other"
            if (args.radius is None)
            else "--radius goes with --method probcover"
        )
    if args.method == "uherding" and args.weights is None:
        return "--method uherding needs --weights FILE, the uncertainty of each sample"
    if args.weights and args.method in ("probcover", "kcenter"):
        return f"--weights does not go with --method {args.method}, which counts all samples alike"
    if not herds and args.dedup is None and (args.kernel != "rbf" or args.bandwidth is not None):
        return f"--kernel and --bandwidth go with --method {args.method} only for --dedup; it uses distances"
    if args.kernel == "cosine" and args.bandwidth is not None:
        return "--bandwidth does not go with --kernel cosine, which has none"
    if args.dedup is not None and args.kernel == "tophat":
        return "--dedup does not go with --kernel tophat, of which similarity is 0 or 1"
    if args.kernel == "tophat" and args.bandwidth is None:
        return "--kernel tophat needs --bandwidth H, a distance"
    if args.ids and args.id_column:
        return "give --ids or --id-column, not both"
    if len(reads_stdin) > 1:
        return 'only one of the inputs can be "-", standard input'
    if args.out != "-" and suffix not in (".npy", ".txt", ".csv"):
        return f"--out must end in .npy, .txt or .csv, or be -, got {args.out}"
    return None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None


def share(text: str) -> float:
    value = _number(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be above 0 and at most 1")
    return value


def positive(text: str) -> float:
    value = _number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} must be above 0")
    return value


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 1 on")
    return int(text)


def budget(text: str) -> int | float:
    """A number of samples, or a float for a share of them."""
    return share(text) if text.endswith("%") else count(text.replace(",", "").replace("_", ""))


def size(text: str) -> int:
    """Bytes from text such as 8GiB, 500MB or 1.5G."""
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
