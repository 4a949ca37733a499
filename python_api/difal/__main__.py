"""Where the commands `difal`, also `python -m difal` and so `torchrun -m difal`, and `difal-select` start.

What they import, torch above all, takes seconds. Ctrl-C meanwhile ends them without a traceback: nothing has begun.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

INTERRUPTED = 130  # see `difal.cli`


def main() -> int:
    """Run the command line of this process as `difal`; returns the exit code."""
    with _leaving_at_ctrl_c():
        from difal import cli

        args = cli.parse()
    return cli.carry_out(args)


def select() -> int:
    """Run it as `difal-select`. The package of that command imports torch before any of its own lines."""
    with _leaving_at_ctrl_c():
        from difal_kernels.select.main import main
    return main()


@contextlib.contextmanager
def _leaving_at_ctrl_c() -> Iterator[None]:
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not by what shells start in the background
    if heeded:
        signal.signal(signal.SIGINT, _leave)
    yield
    if heeded:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, frame: object) -> None:
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
