"""The command `difal`. Each module of this folder is a command of the same name, underscores written as hyphens.

A command's module has

    HELP                     a line for the listing of commands
    DESCRIPTION              the text of `difal COMMAND --help`
    add_arguments(parser)    if it takes any
    main(args) -> int        does it; the exit code
    AGAIN                    what goes on after an interruption, if not the same command
    ON_ALL_RANKS             True if torchrun may start it on several processes

Modules whose names begin with an underscore are shared code.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
from types import ModuleType

from difal import __version__, parallel
from difal.cli._common import DONE, EXIT_CODES, FAILED, INTERRUPTED, WAITING
from difal.errors import UserError

__all__ = ["DONE", "FAILED", "INTERRUPTED", "WAITING", "main", "make_parser"]

TOP = """\
Choose which pixels of a pool of images to label, round after round, and train a segmentation head on them.

  difal run --data scenes --budget 0.25 --out runs/first     a run on drawn scenes, nothing to download; some minutes
  difal report runs/first                                    its report, one HTML file
  difal predict runs/first NEW_IMAGES --out masks            its model on new images
  difal label --data MY_FOLDER --classes sky,road,tree       your images: a page asks for the class of pixels
  difal run --data MY_FOLDER                                 your images and their masks, which answer
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return carry_out(parse(argv))


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the options; argparse's exit where they are wrong."""
    words = sys.argv[1:] if argv is None else argv
    return make_parser(*words[:1]).parse_args(words)


def carry_out(args: argparse.Namespace) -> int:
    """Do what the options say; returns the exit code."""
    again = getattr(args.command, "AGAIN", "the same command")
    try:
        if parallel.started_world_size() > 1 and not getattr(args.command, "ON_ALL_RANKS", False):
            raise UserError("under torchrun there are `run`, `encode` and `sweep`; start this command without it")
        parallel.join()
        return args.command.main(args)
    except KeyboardInterrupt:
        if parallel.rank() == 0:
            print(f"\ndifal: interrupted; {again} goes on from here", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        if args.debug:
            raise
        size = parallel.started_world_size()
        where = f"rank {os.environ['RANK']} of {size}: " if size > 1 else ""
        print(f"difal: error: {where}{error}", file=sys.stderr)
        return FAILED


def commands(wanted: str = "") -> dict[str, ModuleType]:
    """Return each command's module by the command's name; that of `wanted` alone, if it is one.

    What only other commands need is not imported then: what draws reports takes a good part of the start.
    """
    files = sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
    names = {name.replace("_", "-"): name for name in files}
    if wanted in names:
        names = {wanted: names[wanted]}
    return {name: importlib.import_module(f"{__name__}.{file}") for name, file in names.items()}


def make_parser(wanted: str = "") -> argparse.ArgumentParser:
    """Return the parser of all commands; the parsed namespace has the command's module as `command`.

    Args:
        wanted: the first word of the command line; if it is a command, the parser knows no other.
    """
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("difal", description=TOP, epilog=EXIT_CODES, formatter_class=plain)
    parser.add_argument("--version", action="version", version=f"difal {__version__}")
    parsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, module in commands(wanted).items():
        one = parsers.add_parser(name, help=module.HELP, description=module.DESCRIPTION, formatter_class=plain)
        one.add_argument("--debug", action="store_true", help="show the traceback of an error")
        one.set_defaults(command=module)
        if hasattr(module, "add_arguments"):
            module.add_arguments(one)
    return parser
