"""The command `difal-select`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

import torch

from .arguments import DONE, FAILED, INTERRUPTED, parse
from .errors import InputError
from .formats import one_line
from .job import run
from .reporting import Reporter


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: its arguments; those of the process by default.

    Returns:
        The exit code; see `difal-select --help`.
    """
    args = parse(None if argv is None else list(argv))
    before = signal.signal(signal.SIGTERM, _interrupt)
    threads = torch.get_num_threads()
    try:
        if args.threads:
            torch.set_num_threads(args.threads)
        return _guarded(args)
    finally:
        torch.set_num_threads(threads)
        signal.signal(signal.SIGTERM, before)


def _guarded(args: argparse.Namespace) -> int:
    report = Reporter(args.quiet)
    try:
        code = run(args, report)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads the picks has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        report.line("stopped; run the same command to go on")
        return INTERRUPTED
    except InputError as error:
        message = str(error)
    except (MemoryError, ValueError, TypeError, OSError) as error:  # of the kernels, which name their argument
        message = _in_the_commands_words(one_line(error)) or "not enough memory; give --memory or fewer samples"
    print(f"difal-select: error: {message}", file=sys.stderr)
    return FAILED


def _in_the_commands_words(message: str) -> str:
    for argument, option in {"memory_limit": "--memory", "labeled": "--labeled", "features": "the features"}.items():
        message = message.replace(f"`{argument}`", option)
    return message


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
