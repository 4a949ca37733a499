"""Learning curves on CamVid: acquisitions x seeds on one feature bank, to a plot and a table.

    python bench/camvid_curves.py --data PATH/TO/camvid

The features are computed once, then `--jobs` processes of one thread each do the runs. Every finished run is added to
bench/results/camvid.json, the plot docs/img/camvid_curves.png and the table between the marks in docs/camvid.md; an
interrupted sweep goes on with the same command, at the round where it was.

Each seed may ask four fifths of the bank's pixels (`--share`), drawn anew for each seed, so that seeds differ in their
candidates as well as in the heads' first weights and the order of training. Encoder noise is the same for all.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr
from multiprocessing import get_context
from pathlib import Path

import torch

from difal.config import Config
from difal.files import write_bytes, write_json, write_text
from difal.ledger import Ledger
from difal.loop import make_features, run

ROOT = Path(__file__).parents[1]
ACQUISITIONS = {  # name: how the plot calls it, colour
    "two-stage-edald": ("two-stage eDALD", "#2f6fde"),
    "coverage": ("stage 1 alone (coverage)", "#2a9d6f"),
    "edald": ("stage 2 alone (eDALD)", "#e0803a"),
    "entropy": ("entropy", "#b8455a"),
    "random": ("random", "#7a8291"),
}


BEGIN, END = "<!-- table: written by bench/camvid_curves.py -->", "<!-- end of table -->"


def main() -> None:
    args = parse()
    torch.set_num_threads(args.jobs)
    results = {"settings": common(args), "machine": machine(), "runs": {}}
    if not args.collect:
        make_features(settings(args, "random", 0))
    for name, seed in finished(args):
        one = collect(args, name, seed)
        results["runs"].setdefault(name, {})[str(seed)] = one
        print(f"{name} {seed}: " + " ".join(f"{100 * value:.1f}" for value in one["miou"]), flush=True)
        write_json(args.results, results)
        write_docs(args, results)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CamVid, in a layout that `difal run` reads")
    parser.add_argument("--encoder", default="tiny")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/camvid_curves", help="folder of bank and runs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--share", type=float, default=0.8, help="share of the bank's pixels that a seed may ask")
    parser.add_argument("--limit", type=int, help="first images only, for a trial")
    parser.add_argument("--test-pixels", type=int, default=4096, help="random pixels tested per image, 0 for all")
    parser.add_argument("--acquisitions", nargs="+", default=list(ACQUISITIONS))
    parser.add_argument("--results", type=Path, default=ROOT / "bench/results/camvid.json")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of camvid.md and img/")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time")
    parser.add_argument("--collect", action="store_true", help="run nothing, collect the runs that are finished")
    return parser.parse_args()


def common(args) -> dict:
    """The settings that all runs share and that differ from the defaults."""
    return {
        "encoder": args.encoder,
        "rounds": args.rounds,
        "limit": args.limit,
        "share": args.share,
        "test_pixels": args.test_pixels or None,
    }


def machine() -> dict:
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return {"cpu": names[0] if names else platform.processor(), "cores": os.cpu_count(), "torch": torch.__version__}


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def settings(args, acquisition: str, seed: int) -> Config:
    return Config(
        data=args.data,
        out=str(args.work / f"{acquisition}-seed{seed}"),
        acquisition=acquisition,
        seed=seed,
        bank=str(args.work / "bank"),
        pictures=0,
        **common(args),
    )


def is_finished(config: Config) -> bool:
    ledger = Ledger(config.run_folder())
    return ledger.exists and all(ledger.round(i).has("metrics.json") for i in range(config.rounds))


def finished(args) -> Iterator[tuple[str, int]]:
    """(acquisition, seed) of each run, as they get finished; a seed at a time, so that an early look has them all."""
    pairs = [(name, seed) for seed in range(args.seeds) for name in args.acquisitions]
    done = [pair for pair in pairs if is_finished(settings(args, *pair))]
    yield from done
    if args.collect:
        return
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
        futures = {pool.submit(do, settings(args, *pair)): pair for pair in pairs if pair not in done}
        for future in as_completed(futures):
            future.result()
            yield futures[future]


def do(config: Config) -> None:
    """One run, on one thread, from where it was."""
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):  # several processes' progress bars are of no use
        run(config, resume=Ledger(config.run_folder()).exists, say=lambda line: None)


def collect(args, name: str, seed: int) -> dict:
    """What the sweep keeps of a run."""
    config = settings(args, name, seed)
    ledger = Ledger(config.run_folder())
    rounds = [ledger.round(i) for i in range(config.rounds)]
    metrics = [one.metrics() for one in rounds]
    stages: dict[str, float] = {}
    for one in rounds:
        for stage, entry in one.stages().items():
            stages[stage] = round(stages.get(stage, 0.0) + entry["seconds"], 3)
    return {
        "asked": [one["asked"] for one in metrics],
        "miou": [round(one["miou"]["standard"], 5) for one in metrics],
        "miou_released": [round(one["miou"]["released"], 5) for one in metrics],
        "pixel_accuracy": [round(one["pixel_accuracy"], 5) for one in metrics],
        "class_iou": dict(zip(ledger.facts()["classes"], metrics[-1]["class_iou"], strict=True)),
        "class_clicks": clicks(rounds, ledger.facts()["classes"]),
        "seconds": stages,
    }


def clicks(rounds, classes) -> dict[str, int]:
    found = dict.fromkeys((*classes, "skipped"), 0)
    for one in rounds:
        for label in one.labels():
            found["skipped" if label.class_id is None else classes[label.class_id]] += 1
    return found


def write_docs(args, results: dict) -> None:
    write_bytes(args.docs / "img/camvid_curves.png", plot(results["runs"]))
    path = args.docs / "camvid.md"
    text = path.read_text() if path.is_file() else f"# CamVid\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    write_text(path, f"{before}{BEGIN}\n\n{tables(results['runs'])}\n{END}{rest.partition(END)[2]}")


def ordered(runs: dict) -> dict[str, list[dict]]:
    """{acquisition: its runs}, in the table's order."""
    names = [*(name for name in ACQUISITIONS if name in runs), *(name for name in runs if name not in ACQUISITIONS)]
    return {name: [runs[name][seed] for seed in sorted(runs[name], key=int)] for name in names}


def percent(values) -> str:
    values = [100 * value for value in values]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def plot(runs: dict) -> bytes:
    """Mean and standard deviation over the seeds."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((8, 4.6), layout="constrained", dpi=120)
    axes = figure.subplots()
    for name, found in ordered(runs).items():
        text, color = ACQUISITIONS.get(name, (name, None))
        asked = found[0]["asked"]
        per_round = [[100 * one["miou"][i] for one in found] for i in range(len(asked))]
        mean = [statistics.mean(values) for values in per_round]
        width = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in per_round]
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


def tables(runs: dict) -> str:
    """Markdown: mIoU by round, then the last round by class."""
    found = ordered(runs)
    first = next(iter(found.values()))[0]
    last = len(first["asked"]) - 1
    shown = sorted({0, last // 4, last // 2, 3 * last // 4, last})
    lines = [
        f"| acquisition | seeds | {' | '.join(str(first['asked'][i]) for i in shown)} | mean of the rounds "
        f"| {first['asked'][last]}, released policy |",
        "|---" * (len(shown) + 4) + "|",
    ]
    for name, one in found.items():
        cells = [percent([run["miou"][i] for run in one]) for i in shown]
        cells.append(percent([statistics.mean(run["miou"]) for run in one]))
        cells.append(percent([run["miou_released"][last] for run in one]))
        lines.append(f"| {ACQUISITIONS.get(name, (name,))[0]} | {len(one)} | {' | '.join(cells)} |")
    names = [ACQUISITIONS.get(name, (name,))[0] for name in found]
    lines += [
        "",
        f"| class IoU at {first['asked'][last]} pixels | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
    ]
    for label in first["class_iou"]:
        cells = [
            f"{percent([run['class_iou'][label] or 0.0 for run in one])} "
            f"({statistics.mean(run['class_clicks'][label] for run in one):.0f})"
            for one in found.values()
        ]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    skipped = [f"({statistics.mean(run['class_clicks']['skipped'] for run in one):.0f})" for one in found.values()]
    lines.append(f"| void, not counted | {' | '.join(skipped)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
