"""One rank of the tests of runs on several processes; argv: a folder, the data's, a mode."""

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

from api.fakes import FakeEncoder
from difal import cli, loop, ranks

SMALL = (
    "--size 32 --rounds 2 --budget 2 --candidates 60 --local 10 --random 10 --draws 2 --epochs 2 --context 8 "
    "--threads 1 --pictures 0"
)
# By the name of the run's folder. All but one share a bank.
RUNS = {
    "edald": "--bank {out}/bank --herding sharded",
    "coverage": "--bank {out}/bank --herding sharded --acquisition coverage",
    "late": "--bank {out}/late-bank --acquisition entropy --test-cache-gb 0 --test-pixels 50",
    "known": "--labels {data}/known.csv --acquisition random --share 0.5",
}


def fake_encoders(make=FakeEncoder):
    """Every name of an encoder means the fake one."""
    lazy = loop.LazyEncoder
    loop.LazyEncoder = lambda config, encoder=None: lazy(config, make())


def command(words):
    args = cli.make_parser().parse_args(words.split())
    return args.function(args)


def all_runs(out, data):
    """What the tests compare, of one process or many."""
    command(f"encode --data {data} --encoder fake --bank {out}/bank {' '.join(SMALL.split()[:-2])}".replace(
        "--rounds 2 --budget 2 ", "").replace("--epochs 2 --context 8 ", ""))  # fmt: skip
    for name, more in RUNS.items():
        command(f"run --data {data} --encoder fake --out {out}/{name} {SMALL} {more.format(out=out, data=data)}")
    return 0


class Ending(FakeEncoder):
    """Ends, or stops, its process with its first image, of which `mark` tells."""

    def __init__(self, mark, how):
        super().__init__()
        self.mark, self.how = mark, how

    def maps(self, images, noise):
        self.mark.touch()
        os.kill(os.getpid(), self.how)
        return super().maps(images, noise)


class Waiting(FakeEncoder):
    """Makes no image before `mark` is there: so the rank that ends has got one."""

    def __init__(self, mark):
        super().__init__()
        self.mark = mark

    def maps(self, images, noise):
        while not self.mark.exists():
            time.sleep(0.05)
        return super().maps(images, noise)


def main(out, data, mode, lost=-1):
    if mode == "all":
        fake_encoders()
        return ranks.on_all(lambda: all_runs(out, data), "this")
    mark = Path(f"{out}.mark")
    how = signal.SIGKILL if mode == "kill" else signal.SIGSTOP
    fake_encoders(partial(Ending, mark, how) if os.environ["RANK"] == lost else partial(Waiting, mark))
    return cli.main(f"run --data {data} --encoder fake --out {out} {SMALL}".split())


if __name__ == "__main__":
    ranks.leave(main(*sys.argv[1:]))
