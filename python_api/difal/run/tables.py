"""Label files as spreadsheets write and save them: CSV with commas, semicolons or tabs."""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Sequence
from pathlib import Path

from difal.errors import LabelError

DELIMITERS = (",", ";", "\t", "|")
UNCLEAR = ("class", "label", "category")  # columns that may mean a class by number or by name
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")


def to_csv(rows: Sequence[dict], fields: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_table(text: str, path: Path, fields: Sequence[str], numbers: Sequence[str]) -> list[tuple[int, dict]]:
    """Read the rows of a table, each with its line in the file.

    Taken are tabs, semicolons and bars for commas, a first line `sep=;`, decimal commas in the columns `numbers`, blank
    rows and columns, columns of notes, and headings in other letters (`Class ID`).

    Raises:
        LabelError: a heading that is nearly one of `fields`, two of one name, or cells without a heading.
    """
    lines = io.StringIO(text, newline=None).readlines()
    skipped = 0
    while lines and (not lines[0].strip(' \t\r\n,;|"') or re.fullmatch(r"sep=.\s*", lines[0])):
        lines.pop(0)
        skipped += 1
    if not lines:
        return []
    known = set(fields)
    delimiter = max(DELIMITERS, key=lambda sign: (len(known & set(_headings(lines[0], sign))), sign == ","))
    reader = csv.reader(lines, delimiter=delimiter)
    header = [_heading(cell) for cell in next(reader)]
    _check_header(header, fields, path, skipped + 1)
    rows = []
    for cells in reader:
        number = reader.line_num + skipped
        if not any(cell.strip() for cell in cells):
            continue
        beyond = [cell for cell in cells[len(header) :] if cell.strip()]
        if beyond:
            raise LabelError(
                f"{path} line {number} has more cells than headings ({beyond[0][:20]!r}): a number with decimal comma "
                f"in a file of commas needs quotes"
            )
        row = {name: cell.strip() for name, cell in zip(header, cells, strict=False) if name in known}
        for name in numbers:
            if DECIMAL_COMMA.fullmatch(row.get(name, "")):
                row[name] = row[name].replace(",", ".")
        rows.append((number, row))
    return rows


def _headings(line: str, delimiter: str) -> list[str]:
    return [_heading(cell) for cell in next(csv.reader([line], delimiter=delimiter))]


def _heading(cell: str) -> str:
    return re.sub(r"[\s-]+", "_", cell.strip().lower())


def _check_header(header: Sequence[str], fields: Sequence[str], path: Path, number: int) -> None:
    if not set(header) & set(fields):
        raise LabelError(f"{path} line {number} must be the headings {', '.join(fields)}; put that line back")
    for name in header:
        if name in fields and header.count(name) > 1:
            raise LabelError(f"{path} line {number} has two columns {name!r}; delete one of the two")
        if not name or name in fields:
            continue
        meant = ["class_id or class_name"] if name in UNCLEAR else difflib.get_close_matches(name, fields, 1, 0.8)
        if meant:
            raise LabelError(f"{path} line {number} has the column {name!r}; rename it to {meant[0]}, if that is meant")
