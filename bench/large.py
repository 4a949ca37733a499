"""Selection without the kernel matrix. Writes bench/results/cpu/large.json and .md.

    python bench/large.py                      the rows of minutes
    python bench/large.py "half a million"     this row

Rows that are not run stay as they were.

Each row is a process of its own (large_row.py): seconds, also in units of one full tiled Gram GEMM of the same size in
the same process (of large pools, from some of its tiles), and peak memory beyond the features. At some steps the gain
of the pick is compared in float64 with those of its nearest rivals and of candidates drawn at random. The adverse rows
are data on which entries do not die, or gains tie; their picks are compared with the float64 reference. The rows of
200,000 points and more are run when they are named: a million samples take half an hour on two cores, checks included.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from command import Parser, name_of
from tables import RESULTS, markdown, write

GIB = 1 << 30
LARGE = {  # source, N, D, budget, memory limit
    "clusters": ("clusters", 100_000, 256, 10_000, 2 * GIB),
    "pixels": ("pixels", 100_000, 256, 10_000, 2 * GIB),
}
HOURS = {
    "quarter of a million": ("clusters", 250_000, 128, 10_000, 4 * GIB),
    "half a million": ("clusters", 500_000, 128, 10_000, 8 * GIB),
    "a million": ("clusters", 1_000_000, 128, 10_000, 8 * GIB),
    "200,000 x 768": ("clusters", 200_000, 768, 20_000, 8 * GIB),
}
ADVERSE = {  # source, N, D, budget, options
    "all equal": ("equal", 4_000, 64, 200, {}),
    "all far apart": ("normal", 4_000, 64, 200, {"bandwidth": 1e-3}),
    "two tight clumps": ("clumps", 1_000, 64, 100, {}),
    "flat: cauchy, h = 330": ("normal", 1_000, 64, 10, {"kernel": "cauchy", "bandwidth": 330.0}),
    "flat: cauchy, h = 1e4": ("normal", 1_000, 64, 10, {"kernel": "cauchy", "bandwidth": 1e4}),
}
ROWS = (*LARGE, *HOURS, *ADVERSE)


def measure(name: str) -> dict:
    """The row, torch's version and number of threads; SystemExit where its process fails, which has said why."""
    command = [sys.executable, str(Path(__file__).with_name("large_row.py")), name]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if answer.returncode:
        raise SystemExit(f"the row {name!r} ended with status {answer.returncode}")
    return json.loads(answer.stdout.splitlines()[-1])


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("rows", nargs="*", type=name_of(ROWS), metavar="ROW", help=", ".join(map(repr, ROWS)))
    named = parser.parse_args().rows
    stored = RESULTS / "large.json"
    known = {row["case"]: row for row in json.loads(stored.read_text())["rows"]} if stored.exists() else {}
    for name in named or (*LARGE, *ADVERSE):
        result = measure(name)
        known[name] = result.pop("row")
        print(known[name], file=sys.stderr)
        rows = [known[name] for name in ROWS if name in known]
        write("large", {**result, "rows": rows}, markdown(rows))


if __name__ == "__main__":
    main()
