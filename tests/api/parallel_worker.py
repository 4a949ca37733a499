"""One rank of the tests of runs on several processes; argv: a folder, the data's, a mode."""

import os
import signal
import sys
from functools import partial

from api.fakes import FakeEncoder, use_fake_encoder
from difal import cli, parallel

SMALL = (
    "--size 32 --rounds 2 --budget 2 --candidates 60 --local 10 --random 10 --noise-samples 2 --epochs 2 --context 8 "
    "--threads 1 --pictures 0"
)
NOISED = f"{SMALL} --acquisition two-stage-edald"  # several passes an image
# By the name of the run's folder. All but one share a cache.
RUNS = {
    "edald": "--cache {out}/cache --herding sharded --acquisition two-stage-edald",
    "coverage": "--cache {out}/cache --herding sharded --acquisition coverage",
    "late": "--cache {out}/late-cache --acquisition entropy --test-cache-gb 0 --test-pixels 50",
    "known": "--labels {data}/known.csv --acquisition random --share 0.5",
}


def command(words):
    args = cli.make_parser().parse_args(words.split())
    return args.command.main(args)


def all_runs(out, data):
    """What the tests compare, of one process or many."""
    command(f"encode --data {data} --encoder fake --cache {out}/cache {' '.join(SMALL.split()[:-2])}".replace(
        "--rounds 2 --budget 2 ", "").replace("--epochs 2 --context 8 ", ""))  # fmt: skip
    for name, more in RUNS.items():
        command(f"run --data {data} --encoder fake --out {out}/{name} {SMALL} {more.format(out=out, data=data)}")
    return 0


class Ending(FakeEncoder):
    """Ends, or stops, its process with its second pass; the first may be that by which the encoder is tried."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def maps(self, images, noise):
        if self.passes:
            os.kill(os.getpid(), self.how)
        return super().maps(images, noise)


def main(out, data, mode, lost=-1):
    if mode == "all":
        use_fake_encoder()
        parallel.join()
        return all_runs(out, data)
    how = signal.SIGKILL if mode == "kill" else signal.SIGSTOP
    use_fake_encoder(partial(Ending, how) if os.environ["RANK"] == str(lost) else FakeEncoder)
    return cli.main(f"run --data {data} --encoder fake --out {out} {NOISED}".split())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
