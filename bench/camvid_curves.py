"""Learning curves on CamVid: acquisitions x seeds on one feature bank, to a plot and a table.

    python bench/camvid_curves.py --data PATH/TO/camvid

The features are computed once; a run that is finished is not done again, so that an interrupted sweep goes on with
the same command. Writes docs/img/camvid_curves.png and docs/camvid.md from the runs' metrics alone.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from difal.config import Config
from difal.files import write_bytes, write_text
from difal.ledger import Ledger
from difal.loop import run
from difal.metrics import POLICIES

ROOT = Path(__file__).parents[1]
ACQUISITIONS = {  # name: how the plot calls it, colour
    "two-stage-edald": ("two-stage eDALD", "#2f6fde"),
    "coverage": ("stage 1 alone (coverage)", "#2a9d6f"),
    "edald": ("stage 2 alone (eDALD)", "#e0803a"),
    "entropy": ("entropy", "#b8455a"),
    "random": ("random", "#7a8291"),
}


def main() -> None:
    args = parse()
    curves = {name: [] for name in args.acquisitions}
    for seed in range(args.seeds):  # a seed at a time: an early look has every acquisition
        for name in args.acquisitions:
            folder = args.work / f"{name}-seed{seed}"
            curves[name].append(metrics_of(folder, settings(args, name, seed)))
            print(f"{folder}: " + " ".join(f"{100 * one['miou']['standard']:.1f}" for one in curves[name][-1]))
        if args.docs:
            write_docs(args, curves)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CamVid, in a layout that `difal run` reads")
    parser.add_argument("--encoder", default="tiny")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/camvid_curves", help="folder of bank and runs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--limit", type=int, help="first images only, for a trial")
    parser.add_argument("--test-pixels", type=int, default=4096, help="random pixels tested per image, 0 for all")
    parser.add_argument("--acquisitions", nargs="+", default=list(ACQUISITIONS))
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder to write into, '' for none")
    parser.add_argument("--threads", type=int, default=0)
    return parser.parse_args()


def settings(args, acquisition: str, seed: int) -> Config:
    return Config(
        data=args.data,
        encoder=args.encoder,
        out=str(args.work / f"{acquisition}-seed{seed}"),
        acquisition=acquisition,
        seed=seed,
        rounds=args.rounds,
        limit=args.limit,
        bank=str(args.work / "bank"),
        test_pixels=args.test_pixels or None,
        threads=args.threads,
        pictures=0,
    )


def metrics_of(folder: Path, config: Config) -> list[dict]:
    """The metrics of every round, running what is missing."""
    ledger = Ledger(folder)
    if not ledger.exists or any(ledger.round(i).metrics() is None for i in range(config.rounds)):
        run(config, resume=ledger.exists, say=lambda line: print(f"  {line}", file=sys.stderr))
    return [ledger.round(i).metrics() for i in range(config.rounds)]


def write_docs(args, curves: dict[str, list[list[dict]]]) -> None:
    write_bytes(args.docs / "img/camvid_curves.png", plot(curves))
    write_text(args.docs / "camvid.md", page(args, curves))


def values(runs: list[list[dict]], index: int, policy: str) -> list[float]:
    return [100 * rounds[index]["miou"][policy] for rounds in runs]


def spread(numbers: list[float]) -> float:
    return statistics.stdev(numbers) if len(numbers) > 1 else 0.0


def plot(curves) -> bytes:
    """Mean and standard deviation over the seeds."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((8, 4.6), layout="constrained", dpi=150)
    axes = figure.subplots()
    for name, runs in curves.items():
        if not runs:
            continue
        text, color = ACQUISITIONS.get(name, (name, None))
        asked = [one["asked"] for one in runs[0]]
        per_round = [values(runs, i, "standard") for i in range(len(asked))]
        mean, width = [statistics.mean(v) for v in per_round], [spread(v) for v in per_round]
        (line,) = axes.plot(asked, mean, marker="o", markersize=4, linewidth=2, color=color, label=text)
        low, high = ([m + sign * w for m, w in zip(mean, width, strict=True)] for sign in (-1, 1))
        axes.fill_between(asked, low, high, color=line.get_color(), alpha=0.13, linewidth=0)
    axes.set(xlabel="pixels labeled, in the whole training set", ylabel="test mIoU, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e7ec")
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def page(args, curves) -> str:
    """docs/camvid.md: how it was made, the plot, a table."""
    runs = next(iter(curves.values()))
    last, images = len(runs[0]) - 1, Ledger(args.work / f"{next(iter(curves))}-seed0").facts()["images"]
    shown = sorted({0, last // 2, last})
    heads = [f"{runs[0][i]['asked']} pixels" for i in shown] + [f"{runs[0][last]['asked']} pixels, released policy"]
    lines = [f"| acquisition | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name, one in curves.items():
        if not one:
            continue
        cells = [values(one, i, "standard") for i in shown] + [values(one, last, "released")]
        cells = [f"{statistics.mean(v):.2f} ± {spread(v):.2f}" for v in cells]
        lines.append(f"| {ACQUISITIONS.get(name, (name,))[0]} | {' | '.join(cells)} |")
    policies = "; ".join(f"{name}: {text}" for name, text in POLICIES.items())
    tested = f"{args.test_pixels} random pixels of each test image" if args.test_pixels else "every test pixel"
    return f"""# CamVid: the acquisitions side by side

Test mIoU in percent, mean ± standard deviation over {len(runs)} seeds; {images} training images, encoder
`{args.encoder}`, measured on {tested}. The mean is the standard one unless said otherwise ({policies}).

![Learning curves](img/camvid_curves.png)

{chr(10).join(lines)}

All runs share one feature bank, so that a seed changes the heads and the random choices, not the candidates:
coverage alone picks the same pixels for every seed. Acquisitions without stage 1 rate random pixels of each image,
and begin with a random round, as they would be used without this package.

Made by

    python bench/camvid_curves.py --data PATH/TO/camvid --seeds {len(runs)} --rounds {args.rounds}
"""


if __name__ == "__main__":
    main()
