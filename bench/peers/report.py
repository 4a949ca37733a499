"""The table and the plot of peers.json."""

from __future__ import annotations

import platform
from pathlib import Path

SECONDS = {2_000: 30, 10_000: 30, 50_000: 40}  # before a row of so many rows is given up
OTHER_OBJECTIVE = {"coreax herding"}  # picks that are not meant to be greedy for coverage
REPLAYED = 10_000  # rows of a pool up to which all picks are replayed, not those at some steps


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cases(data: dict) -> list[tuple[int, int, int]]:
    return sorted({(row["n"], row["labeled"], row["budget"]) for row in data["rows"].values()})


def table(data: dict) -> str:
    head = "| N | labeled | budget | library | seconds | times ours | peak, GB | times ours | coverage | greedy picks |"
    lines = [head, "|" + " --- |" * 10]
    for n, labeled, budget in cases(data):
        rows = [r for r in data["rows"].values() if (r["n"], r["labeled"], r["budget"]) == (n, labeled, budget)]
        ours = next((r for r in rows if r["library"] == "difal" and r["status"] == "ok"), None)
        for row in rows:
            cells = [f"{n:,}", str(labeled), f"{budget:,}", row["library"]]
            if row["status"] == "ok":
                cells += [f"{row['seconds']:.3g}", _ratio(row, ours, "seconds")]
                cells += [f"{row['peak_bytes'] / 1e9:.3g}", _ratio(row, ours, "peak_bytes")]
                cells += [f"{row['coverage']:.6f}" if "coverage" in row else "", _greedy(row)]
            else:
                cells += [f"{row['status']}: {row['why']}" if row["status"] != "out of memory" else row["status"]]
                cells += [""] * 5
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _ratio(row: dict, ours: dict | None, field: str) -> str:
    return f"{row[field] / ours[field]:.3g}" if ours and row is not ours else ""


def _greedy(row: dict) -> str:
    if "greedy" not in row:
        return ""
    if row["library"] in OTHER_OBJECTIVE:
        return "other objective"
    if row["greedy"] < row["budget"]:
        return f"first {row['greedy']:,}"
    return "all" if row["n"] <= REPLAYED else "at sampled steps"


def heading(data: dict) -> str:
    machine = data["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return (
        f"On {machine['cpu']}, {machine['threads']} threads, at most {machine['memory_limit_bytes'] / 2**30:.0f} GiB a "
        f"process. {versions}, Python {machine['python']}.\n\n"
        "Each row is a process of its own, from float32 features to picks. *Greedy picks*: how many came before the "
        "first that was not the best of its step in float64 arithmetic (ties within 1e-12 of the first gain allowed); "
        f"of more than {REPLAYED:,} rows at sampled steps, against 200 rivals each. *Coverage* is that of float64. "
        "coreax's kernel herding is greedy for another objective, the mean discrepancy, on the same kernel. "
        "*Peak* is the growth of the resident size during the call.\n\n"
    )


def plot(data: dict, at: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [(n, budget) for n, labeled, budget in cases(data) if labeled == 0]
    names = list(dict.fromkeys(row["library"] for row in data["rows"].values()))
    figure, axes = plt.subplots(1, 2, figsize=(13, 5.5), layout="constrained")
    for axis, field, unit, label in zip(
        axes, ("seconds", "peak_bytes"), (1, 1e9), ("seconds", "peak memory, GB"), strict=True
    ):
        for place, name in enumerate(names):
            rows = {
                (r["n"], r["budget"]): r for r in data["rows"].values() if r["library"] == name and not r["labeled"]
            }
            spots = [i + (place - len(names) / 2) / (len(names) + 2) for i in range(len(shown))]
            done = [
                (s, rows[c][field] / unit)
                for s, c in zip(spots, shown, strict=True)
                if rows.get(c, {}).get("status") == "ok"
            ]
            color = f"C{place}"
            axis.scatter(*zip(*done, strict=True) if done else ([], []), label=name, color=color, s=36)
        axis.set_yscale("log")
        axis.set_xticks(range(len(shown)), [f"N={n:,}\nb={b:,}" for n, b in shown], fontsize=8)
        axis.set_ylabel(label)
        axis.grid(axis="y", alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.suptitle("No mark: timeout, out of memory, refused, or not measured")
    figure.savefig(at, dpi=110)
    plt.close(figure)


def short_table(data: dict) -> str:
    """Seconds and peak of the unconditioned cases, a column a library."""
    names = list(dict.fromkeys(row["library"] for row in data["rows"].values()))
    lines = ["| N, budget | " + " | ".join(names) + " |", "|" + " --- |" * (len(names) + 1)]
    for n, labeled, budget in cases(data):
        if labeled:
            continue
        found = {
            r["library"]: r for r in data["rows"].values() if (r["n"], r["labeled"], r["budget"]) == (n, 0, budget)
        }
        lines.append(f"| {n:,}, {budget:,} | " + " | ".join(_short(found.get(name)) for name in names) + " |")
    return "\n".join(lines) + "\n"


def _short(row: dict | None) -> str:
    if row is None:
        return "not measured"
    if row["status"] == "timeout":
        return f"> {SECONDS[row['n']]} s"
    if row["status"] != "ok":
        return row["status"]
    star = "\\*" if row.get("greedy", row["budget"]) < row["budget"] else ""
    return f"{row['seconds']:.3g} s{star}, {row['peak_bytes'] / 1e9:.2g} GB"


def write_readme(data: dict, readme: Path) -> None:
    """Put the short table between the two marks in the README."""
    text = readme.read_text()
    before, mark, rest = text.partition("<!-- peers -->\n")
    _, end, after = rest.partition("<!-- end of peers -->\n")
    if not (mark and end):
        raise SystemExit(f"{readme} must have the marks <!-- peers --> and <!-- end of peers -->")
    machine = data["machine"]
    intro = (
        f"\nOn {machine['cpu']}, {machine['threads']} threads, {data_shape(data)} features, at most "
        f"{machine['memory_limit_bytes'] / 2**30:.0f} GiB a process. Seconds and peak memory of the call:\n\n"
    )
    readme.write_text(before + mark + intro + short_table(data) + "\n" + end + after)


def data_shape(data: dict) -> str:
    return " or ".join(sorted({f"{row['d']:,}" for row in data["rows"].values()}))


def write_report(data: dict, at: Path) -> None:
    at.with_suffix(".md").write_text("# MaxHerding and its peers\n\n" + heading(data) + table(data))
    plot(data, at.with_suffix(".png"))
    write_readme(data, Path(__file__).resolve().parent.parent.parent / "README.md")
    print(table(data))
