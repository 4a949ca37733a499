"""The table and the plot of a sweep's runs."""

from __future__ import annotations

import io
import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BASELINE = "random"  # to whose curve the others are compared, seed by seed
COLORS = {
    "two-stage-edald": "#2f6fde",
    "coverage": "#2a9d6f",
    "edald": "#e0803a",
    "entropy": "#b8455a",
    "bald": "#8a5cc2",
    "margin": "#c9a227",
    "coreset": "#3aa6b9",
    "random": "#7a8291",
}
OTHERS = ("#5b3a29", "#d36fa8", "#6b8e23", "#1c3f5f", "#a34b1c", "#4fb286", "#8c8c00", "#b03060")
DASHES = ("-", "--", ":", "-.")  # of the first time that OTHERS are used, of the second, ...
LEGEND_ROW = 0.22  # inches


HEAD = """\
# Test mIoU

Written by `difal sweep`. In percent, by the number of queried pixels: mean ± standard deviation over the seeds. The
*standard* policy averages over the classes that appear, the *released* one counts an absent class as 0. *Ahead of
random* is paired by seed. In the table of classes the number in brackets counts the queried pixels of the class.

![Learning curves](curves.png)
"""


def table(runs: Sequence[dict]) -> str:
    """Markdown: for each preset the mIoU by queried pixels, under both policies, then the last round by class.

    Mean and, from two seeds on, standard deviation (n - 1) over the seeds.
    """
    parts = [HEAD]
    for preset, rows in _by(runs, "preset").items():
        if preset:
            parts.append(f"## {preset}\n")
        parts += [_scores(rows), _classes(rows)]
    return "\n".join(parts)


def _by(runs: Iterable[dict], name: str) -> dict:
    groups: dict = {}
    for one in runs:
        groups.setdefault(one[name], []).append(one)
    return groups


def _common(runs: Sequence[dict]) -> list[int]:
    """The numbers of queried pixels at which all runs were tested: a pool may run dry, a first round give no class."""
    if not runs:
        return []
    everywhere = set.intersection(*(set(one["queried"]) for one in runs))
    return [queried for queried in runs[0]["queried"] if queried in everywhere]


def _miou(run: dict, queried: int, policy: str = "standard") -> float:
    return run["miou"][policy][run["queried"].index(queried)]


def _mean(run: dict, queried: Sequence[int], policy: str = "standard") -> float:
    return statistics.mean(_miou(run, one, policy) for one in queried)


def without_spread(runs: Sequence[dict]) -> list[str]:
    """The acquisitions that have one and the same curve with every one of several seeds."""
    return [
        f"{preset} {name}".strip()
        for preset, rows in _by(runs, "preset").items()
        for name, found in _by(rows, "acquisition").items()
        if len(found) > 1 and all(one["miou"] == found[0]["miou"] for one in found)
    ]


def percent(values: Iterable[float]) -> str:
    values = [100 * value for value in values]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def _ahead(one: Sequence[dict], baseline: Sequence[dict], queried: Sequence[int]) -> str:
    """Mean of the rounds minus the baseline's, over the seeds that both have."""
    other = {run["seed"]: _mean(run, queried) for run in baseline}
    pairs = [_mean(run, queried) - other[run["seed"]] for run in one if run["seed"] in other]
    return percent(pairs) if pairs else ""


def _scores(runs: Sequence[dict]) -> str:
    queried, found = _common(runs), _by(runs, "acquisition")
    if not queried:
        return "No number of pixels at which all runs were tested.\n"
    end = len(queried) - 1
    shown = [queried[i] for i in sorted({0, end // 4, end // 2, 3 * end // 4, end})]
    compare = BASELINE in found and len(found) > 1
    head = [
        *("acquisition", "seeds"),
        *(f"{count} pixels" for count in shown),
        "mean of the rounds",
        *([f"ahead of {BASELINE}"] if compare else []),
        *(f"{queried[-1]}, released policy", "mean, released policy"),
    ]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, one in found.items():
        cells = [name, str(len(one)), *(percent(_miou(run, count) for run in one) for count in shown)]
        cells.append(percent(_mean(run, queried) for run in one))
        if compare:
            cells.append("" if name == BASELINE else _ahead(one, found[BASELINE], queried))
        cells.append(percent(_miou(run, queried[-1], "released") for run in one))
        cells.append(percent(_mean(run, queried, "released") for run in one))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _classes(runs: Sequence[dict]) -> str:
    """IoU of each class at the end, and in brackets how many queried pixels had it; `-` where it is absent."""
    found = _by(runs, "acquisition")
    lines = [
        f"| class IoU at {max(run['queried'][-1] for run in runs)} pixels | {' | '.join(found)} |",
        "|---" * (len(found) + 1) + "|",
    ]
    for label in runs[0]["class_iou"]:
        cells = []
        for one in found.values():
            values = [run["class_iou"][label] for run in one if run["class_iou"][label] is not None]
            clicks = statistics.mean(run["class_clicks"][label] for run in one)
            cells.append(f"{percent(values) if values else '-'} ({clicks:.0f})")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    skipped = [f"({statistics.mean(run['class_clicks']['skipped'] for run in one):.0f})" for one in found.values()]
    lines.append(f"| void, not counted | {' | '.join(skipped)} |")
    return "\n".join(lines) + "\n"


def curves(runs: Sequence[dict]) -> bytes:
    """PNG: test mIoU by queried pixels, mean and standard deviation over the seeds, a panel for each preset."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(_drawn(runs)).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _drawn(runs: Sequence[dict]) -> Figure:
    from matplotlib.figure import Figure

    panels, names = _by(runs, "preset"), list(_by(runs, "acquisition"))
    looks = _looks(names)
    height = max(4.6, LEGEND_ROW * (len(names) + 1))
    figure = Figure((9.6, height * len(panels)), layout="constrained", dpi=120)
    for axes, (preset, rows) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels.items(), strict=True):
        for name, found in _by(rows, "acquisition").items():
            queried = _common(found)
            per_round = [[100 * _miou(run, count) for run in found] for count in queried]
            mean = [statistics.mean(values) for values in per_round]
            spread = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in per_round]
            axes.plot(queried, mean, marker="o", markersize=4, linewidth=2, label=name, **looks[name])
            low, high = ([m + sign * s for m, s in zip(mean, spread, strict=True)] for sign in (-1, 1))
            axes.fill_between(queried, low, high, color=looks[name]["color"], alpha=0.11, linewidth=0)
        axes.set(xlabel="queried pixels, in the whole pool", ylabel="test mIoU, %", title=preset or None)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e4e7ec")
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _looks(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return colour and line style by name; no two alike among the first `len(COLORS) + 4 * len(OTHERS)`."""
    looks = {name: {"color": color, "linestyle": "-"} for name, color in COLORS.items()}
    for at, name in enumerate(name for name in names if name not in COLORS):
        again, color = divmod(at, len(OTHERS))
        looks[name] = {"color": OTHERS[color], "linestyle": DASHES[again % len(DASHES)]}
    return looks
