"""The command `difal`, also `python -m difal`, and so `torchrun -m difal`.

What it imports, torch above all, takes seconds. Ctrl-C meanwhile ends it without a traceback: nothing has begun.
"""

import os
import signal
import sys

INTERRUPTED = 130  # see `difal.cli`


def main() -> int:
    """Run the command line of this process; returns the exit code."""
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not by what shells start in the background
    if heeded:
        signal.signal(signal.SIGINT, _leave)
    from difal import cli

    args = cli.parse()
    if heeded:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return cli.carry_out(args)


def _leave(number: int, frame: object) -> None:
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
