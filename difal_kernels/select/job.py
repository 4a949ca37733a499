"""One run of the command: read, drop near-duplicates, select in portions that are saved, write."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .._version import __version__
from .._words import counted
from ..curve import Target, plot_coverage
from ..ops.maxherding.bandwidth import median_bandwidth
from ..ops.maxherding.directions import cosine_of, zero_rows
from ..ops.maxherding.kernel_functions import SCALE_FREE
from ..ops.probcover.problem import open_radius
from .arguments import DONE, NOT_REACHED
from .errors import InputError
from .methods import Centers, Herding, Selecting
from .near_duplicates import drop_near_duplicates
from .output import SavedProgress, picks_as_bytes, read_summary, write_whole
from .pool import Pool, find_files, open_pool, out_of_number, take_rows
from .reporting import Reporter, duration
from .rows import STDIN, Names, read_labeled, read_lines, read_names, read_rows, read_weights

SAVE_EVERY = 5.0  # seconds of selecting between two moments at which progress is saved
FIRST_PORTION = 64  # picks
CURVE_POINTS = 200  # of the coverage curve in the summary


@dataclass(frozen=True)
class OutputPaths:
    """Where the output goes.

    Attributes:
        out: the picks; None for standard output.
        summary, plot: further files; None for none.
        scratch: the folder for temporary files.
    """

    out: Path | None
    summary: Path | None
    plot: Path | None
    scratch: Path


@dataclass
class Samples:
    """What the selection is made from. Rows are numbers in the files, points are rows that were kept."""

    pool: Pool
    names: Names
    labeled_rows: np.ndarray
    labeled: torch.Tensor | None
    candidate_rows: np.ndarray | None
    weights: np.ndarray | None
    bandwidth: float | None  # of the selection
    dedup_bandwidth: float | None  # of the similarity that makes two samples near-duplicates


def run(args: argparse.Namespace, report: Reporter) -> int:
    """Do what the options say; the exit code.

    Raises:
        InputError: a file or option cannot be used.
        KeyboardInterrupt: on Ctrl-C, with the progress saved.
    """
    began = time.monotonic()
    paths = output_paths(args)
    report.passing("reading the features")
    samples = read_samples(args, paths)
    settings = decisive_settings(args, samples)
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    request = {"budget": args.budget, "until": args.until, "until_gain": args.until_gain}
    finished = None if args.overwrite else earlier_answer(paths, key, request)
    if finished is not None:
        report.line(f"{paths.out} is there already, of the same files and options; nothing to do")
        return DONE if finished["reached"] else NOT_REACHED
    n, d = samples.pool.features.shape
    report.line(f"{n:,} samples of {d} numbers ({dtype_name(samples.pool.features)}), method {args.method}")
    jump = out_of_number([source.path for source in samples.pool.sources])
    if jump is not None:
        before, after = (path.name for path in jump)
        report.line(f"mind the order of the rows, which is that of the names: {before} comes before {after}")
    if args.kernel == "cosine":
        zeros = zero_rows(samples.pool.features, "features").tolist()
        if zeros:
            report.line(cosine_of([samples.names[row] for row in zeros]))
    saved = SavedProgress(paths.out, key)
    if args.overwrite:
        saved.remove()
    picks, gains, coverage, kept, reached = select(args, samples, saved, paths, report)
    summary = {
        "difal_select": __version__,
        "samples": n,
        "dimension": d,
        "files": [str(source.path) for source in samples.pool.sources],
        "request": request,
        "settings": settings,
        "key": key,
        "bandwidth": samples.bandwidth,
        "kept_by_dedup": None if kept is None else len(kept),
        "picks": len(picks),
        "reached": reached,
        "digest": "sha256:" + hashlib.sha256(picks.astype("<i8").tobytes()).hexdigest(),
        "seconds": round(time.monotonic() - began, 3),
        **measures(gains, coverage),
    }
    write(paths, picks, gains, coverage, samples.names, summary)
    saved.remove()
    done = counted(len(picks), "pick")
    if coverage is not None:
        done += f", coverage {coverage[-1]:.4f}"
    done += f", {duration(time.monotonic() - began)}"
    report.line(f"{done}: {paths.out}" if paths.out else done)
    if not reached:
        report.line("all of --budget is picked and the target is not reached; raise --budget")
    return DONE if reached else NOT_REACHED


def output_paths(args: argparse.Namespace) -> OutputPaths:
    """Check that the output can be written, before any work."""
    out = None if args.out == STDIN else Path(args.out)
    summary = Path(args.summary) if args.summary else None if out is None else out.with_suffix(".json")
    plot = Path(args.plot) if args.plot else None
    for path in filter(None, (out, summary, plot)):
        if not path.parent.is_dir():
            raise InputError(f"{path}: there is no folder {path.parent}; make it first")
        if path.is_dir():
            raise InputError(f"{path} is a folder; name a file")
    if plot is not None:
        if find_spec("matplotlib") is None:
            raise InputError("--plot needs the package matplotlib: pip install matplotlib")
        if plot.suffix.lower() not in (".png", ".svg", ".pdf", ".jpg"):
            raise InputError(f"--plot must end in .png, .svg, .pdf or .jpg, got {plot}")
    return OutputPaths(out, summary, plot, Path(tempfile.gettempdir()) if out is None else out.parent)


def read_samples(args: argparse.Namespace, paths: OutputPaths) -> Samples:
    patterns = [name for given in args.features for name in (read_lines(given) if given == STDIN else [given])]
    if not patterns:
        raise InputError("standard input names no feature file")
    pool = open_pool(find_files(patterns), args.column, paths.scratch)
    n, d = pool.features.shape
    names = read_names(args.ids, args.id_column, pool.sources, n)
    rows, labeled = np.empty(0, dtype=np.int64), None
    if args.labeled:
        rows, labeled = read_labeled(args.labeled, names, args.column, d)
    candidates = read_rows(args.candidates, "--candidates", names) if args.candidates else None
    weights = read_weights(args.weights, n) if args.weights else None
    bandwidth = width = None
    if args.method == "probcover":
        bandwidth = open_radius(args.radius)
    if (args.method in ("maxherding", "uherding") or args.dedup) and args.kernel not in SCALE_FREE:
        width = args.bandwidth or median_bandwidth(pool.features)
    if args.method in ("maxherding", "uherding"):
        bandwidth = width
    return Samples(pool, names, rows, labeled, candidates, weights, bandwidth, width)


def decisive_settings(args: argparse.Namespace, samples: Samples) -> dict[str, Any]:
    """All that the order of the picks depends on."""

    def content(array: Any) -> str | None:
        return None if array is None else hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()

    labeled = samples.labeled
    return {
        "features": samples.pool.fingerprint(),
        "column": args.column,
        "method": args.method,
        "kernel": args.kernel,
        "bandwidth": args.bandwidth,
        "radius": args.radius,
        "dedup": args.dedup,
        "labeled_rows": content(samples.labeled_rows),
        "labeled": None if labeled is None else content(labeled.contiguous().view(torch.uint8).numpy()),
        "candidates": content(samples.candidate_rows),
        "weights": content(samples.weights),
    }


def earlier_answer(paths: OutputPaths, key: str, request: dict[str, Any]) -> dict[str, Any] | None:
    """The summary of an earlier run that wrote this very output; InputError if the output is of another run."""
    if paths.out is None or not paths.out.exists():
        return None
    earlier = None if paths.summary is None else read_summary(paths.summary)
    if earlier is not None and earlier.get("key") == key and earlier.get("request") == request:
        return earlier
    raise InputError(f"{paths.out} exists, of other files or options; name another file or add --overwrite")


def select(
    args: argparse.Namespace, samples: Samples, saved: SavedProgress, paths: OutputPaths, report: Reporter
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None, bool]:
    """Picks as rows, gains, coverage before the first and after each, rows kept by --dedup, whether it was enough."""
    earlier = saved.read()
    rows, gains, kept = earlier or (np.empty(0, dtype=np.int64), np.empty(0), None)
    if args.dedup is not None and kept is None:
        kept = without_near_duplicates(args, samples, report)
        saved.write(rows, gains, kept)
    points = Points(samples, kept, paths.scratch)
    picks = points.of_rows(rows)
    dropped = 0 if kept is None else len(samples.pool.features) - len(kept)
    budget = find_budget(args.budget, points.candidate_count, dropped)
    if len(picks):
        report.line(f"going on after {counted(len(picks), 'pick')}")
    selecting = open_selection(args, samples, points, picks, gains, report)
    target = Target(args.until, args.until_gain)
    before, portion, found = selecting.before, FIRST_PORTION, None
    began, done_before, saved_at = time.monotonic(), len(picks), time.monotonic()
    try:
        while True:
            found = target.budget(before, gains) if target and before is not None else None
            if found is not None or len(picks) >= budget:
                break
            portion = min(portion, budget - len(picks))
            started = time.monotonic()
            new, more = selecting.more(portion)
            took = time.monotonic() - started
            picks, gains = np.concatenate([picks, new]), np.concatenate([gains, more])
            if time.monotonic() - saved_at > SAVE_EVERY:
                saved.write(points.rows_of(picks), gains, kept)
                saved_at = time.monotonic()
            report.passing(progress_line(len(picks), budget, before, gains, began, done_before))
            portion = selecting.next_portion(len(picks), portion, took, SAVE_EVERY)
    except KeyboardInterrupt:
        saved.write(points.rows_of(picks), gains, kept)
        raise
    count = min(budget, len(picks) if found is None else found)
    picks, gains = picks[:count], gains[:count]
    coverage = None if before is None else before + np.concatenate([[0.0], np.cumsum(gains)])
    return points.rows_of(picks), gains, coverage, kept, found is not None or not target


def find_budget(given: int | float | None, candidates: int, dropped: int) -> int:
    """How many samples to pick of so many candidates, after --dedup has dropped `dropped` samples."""
    if given is None:
        return candidates
    budget = max(1, round(given * candidates)) if isinstance(given, float) else given
    if budget > candidates:
        left, cure = f"there are {candidates:,} samples to pick from", "lower it"
        if dropped:
            left = f"{candidates:,} samples to pick from are left of --dedup, which dropped {dropped:,}"
            cure = "lower --budget or raise --dedup"
        raise InputError(f"--budget is {budget:,} and {left}; {cure}")
    return budget


def progress_line(
    done: int, budget: int, before: float | None, gains: np.ndarray, began: float, done_before: int
) -> str:
    line = f"{done:,} of {counted(budget, 'pick')}"
    if before is not None:
        line += f", coverage {before + math.fsum(gains):.4f}"
    passed = time.monotonic() - began
    if done > done_before:
        line += f", at most {duration(passed * (budget - done) / (done - done_before))} left"
    return line


class Points:
    """The samples that take part: all, or those that --dedup kept."""

    def __init__(self, samples: Samples, kept: np.ndarray | None, scratch: Path):
        everything = samples.pool.features
        self._kept = kept if kept is not None and len(kept) < len(everything) else None
        self.features = everything
        if self._kept is not None:
            self.features = take_rows(everything, torch.from_numpy(self._kept), scratch)
        self.weights = samples.weights
        if self.weights is not None and self._kept is not None:
            self.weights = self.weights[self._kept]
        labeled_points = self.of_rows(samples.labeled_rows)
        self.labeled = self.features[torch.from_numpy(labeled_points)] if len(labeled_points) else samples.labeled
        allowed = np.ones(len(self.features), dtype=bool)
        if samples.candidate_rows is not None:
            chosen = np.zeros(len(everything), dtype=bool)
            chosen[samples.candidate_rows] = True
            allowed = chosen if self._kept is None else chosen[self._kept]
        allowed[labeled_points] = False
        self.candidate_count = int(allowed.sum())
        if not self.candidate_count:
            raise InputError("no sample is left to pick: all candidates are labeled or near-duplicates")
        self.candidates = None if allowed.all() else torch.from_numpy(np.flatnonzero(allowed))

    def rows_of(self, points: np.ndarray) -> np.ndarray:
        return points if self._kept is None else self._kept[points]

    def of_rows(self, rows: np.ndarray) -> np.ndarray:
        return rows if self._kept is None else np.searchsorted(self._kept, rows)


def without_near_duplicates(args: argparse.Namespace, samples: Samples, report: Reporter) -> np.ndarray:
    """Rows that are kept: labeled ones, then of candidates and then of the others the first of those that are alike."""
    n, began = len(samples.pool.features), time.monotonic()
    rank = np.full(n, 2)
    rank[slice(None) if samples.candidate_rows is None else samples.candidate_rows] = 1
    rank[samples.labeled_rows] = 0
    order = torch.from_numpy(np.argsort(rank, kind="stable"))

    def show(done: int) -> None:
        passed = time.monotonic() - began
        left = passed * (n * n - done * done) / (done * done)  # a row is compared with those before it
        report.passing(f"near-duplicates: {done:,} of {n:,} samples looked at, at most {duration(left)} left")

    kept = drop_near_duplicates(
        samples.pool.features,
        args.dedup,
        args.kernel,
        samples.dedup_bandwidth,
        order,
        always=len(samples.labeled_rows),
        others=samples.labeled,
        report=show,
    ).numpy()
    report.line(f"{n - len(kept):,} near-duplicates dropped, {len(kept):,} samples kept")
    return kept


def open_selection(
    args: argparse.Namespace,
    samples: Samples,
    points: Points,
    picks: np.ndarray,
    gains: np.ndarray,
    report: Reporter,
) -> Selecting:
    shared: dict[str, Any] = {"picks": picks, "labeled": points.labeled, "candidates": points.candidates}
    if args.method == "kcenter":
        return Centers(points.features, **shared)
    return Herding(
        points.features,
        **shared,
        gains=gains,
        weights=points.weights,
        report=report.passing,
        kernel="tophat" if args.method == "probcover" else args.kernel,
        bandwidth=1.0 if samples.bandwidth is None else samples.bandwidth,
        memory_limit=args.memory,
    )


def measures(gains: np.ndarray, coverage: np.ndarray | None) -> dict[str, Any]:
    """Of the summary: how much the picks cover, or how far apart they are."""
    if coverage is None:
        distances = [None if math.isinf(value) else value for value in gains.tolist()]  # JSON has no infinity
        return {"distances": distances}
    at = np.unique(np.linspace(0, len(gains), CURVE_POINTS).round().astype(int))
    return {
        "coverage_before": float(coverage[0]),
        "coverage": float(coverage[-1]),
        "curve": {"picks": at.tolist(), "coverage": coverage[at].tolist()},
        "gains": gains.tolist(),
    }


def write(
    paths: OutputPaths,
    picks: np.ndarray,
    gains: np.ndarray,
    coverage: np.ndarray | None,
    names: Names,
    summary: dict[str, Any],
) -> None:
    """The picks last: where they are, everything is."""
    if paths.plot is not None and coverage is not None:
        unfinished = paths.plot.with_name(f".writing-{paths.plot.name}")
        plot_coverage(coverage, unfinished)
        unfinished.replace(paths.plot)
    if paths.summary is not None:
        write_whole(paths.summary, (json.dumps(summary, indent=1, allow_nan=False) + "\n").encode())
    if paths.out is None:
        print("\n".join(names[row] for row in picks.tolist()))
    else:
        write_whole(paths.out, picks_as_bytes(paths.out.suffix.lower(), picks, gains, coverage, names))


def dtype_name(features: torch.Tensor) -> str:
    return str(features.dtype).removeprefix("torch.")
