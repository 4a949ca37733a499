"""Results of a benchmark as a Markdown table and JSON, in bench/results/cpu."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "cpu"


def markdown(rows: Sequence[dict[str, Any]], heads: Sequence[str] | None = None, form: str = ".3g") -> str:
    """Rows as a table, a column a key in the order in which they come.

    Args:
        rows: what a cell lacks is left empty.
        heads: other names of the columns.
        form: how numbers with a fraction are written.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))

    def cell(value: Any) -> str:
        return f"{value:{form}}" if isinstance(value, float) else str(value)

    lines = [list(heads or columns), ["---"] * len(columns), *([cell(row.get(c, "")) for c in columns] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def load_line(load: Sequence[float]) -> str:
    """The machine's cores and its load average before and after, for what is written under a table."""
    before, after = load
    averages = f"load average {before:.1f} before and {after:.1f} after, that of the measurement included"
    return f"{os.cpu_count()} cores, {averages}"


def write(name: str, result: dict[str, Any], text: str) -> None:
    """Write results/cpu/NAME.json and .md."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(text)
