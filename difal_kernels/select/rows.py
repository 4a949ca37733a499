"""Lists of rows and of numbers that a user hands in: row numbers, names, masks, weights."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from .errors import InputError
from .formats import TABLES, Source, one_line, open_features, open_table, read_npy

STDIN = "-"
TEXTS = (".txt", ".csv", ".tsv", ".lst", ".ids", "")


def read_lines(name: str) -> list[str]:
    """Lines of a text file, or of standard input for "-", without blanks around them; empty lines are left out."""
    if name == STDIN:
        text = sys.stdin.read()
    else:
        try:
            text = Path(name).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{name} cannot be read as text: {one_line(error)}") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


class Names:
    """What the rows are called.

    Args:
        names: one for each row, or None: then a row is called by its number, from 0.
        count: number of rows.
    """

    def __init__(self, names: list[str] | None, count: int):
        self.names, self.count = names, count
        self._row_of: dict[str, int] | None = None

    def __getitem__(self, row: int) -> str:
        return str(row) if self.names is None else self.names[row]

    def row(self, name: str, source: str, line: int) -> int:
        """The row of that name; `source` and `line` are where the name was read."""
        if self.names is None:
            try:
                row = int(name)
            except ValueError:
                raise InputError(
                    f"{source} line {line}: {name[:80]!r} is no row number; to use ids, give those of all rows by --ids"
                ) from None
            if not 0 <= row < self.count:
                raise InputError(f"{source} line {line}: row {row} is not between 0 and {self.count - 1}")
            return row
        if self._row_of is None:
            self._row_of = {}
            for row, known in enumerate(self.names):
                self._row_of[known] = -1 if known in self._row_of else row
        row = self._row_of.get(name, -2)
        if row == -1:
            raise InputError(f"{source} line {line}: {name[:80]!r} is the id of more than one row; make ids unique")
        if row < 0:
            raise InputError(f"{source} line {line}: there is no row with the id {name[:80]!r}")
        return row


def read_names(ids: str | None, id_column: str | None, sources: tuple[Source, ...], count: int) -> Names:
    """The names of all rows, from a text file or from a column of the tables.

    Raises:
        InputError: there is not one name for each row.
    """
    if ids is None and id_column is None:
        return Names(None, count)
    if ids is not None:
        names, origin = read_lines(ids), "standard input" if ids == STDIN else ids
    else:
        names, origin = [], f"column {id_column!r}"
        for source in sources:
            if source.path.suffix.lower() not in TABLES:
                raise InputError(f"{source.path} has no columns; give the ids in a text file with --ids")
            table = open_table(source.path)
            if id_column not in table.schema.names:
                raise InputError(
                    f"{source.path} has no column {id_column!r}; it has {', '.join(map(repr, table.schema.names))}"
                )
            for batch in table.batches([id_column]):
                names += [str(value) for value in batch.column(0).to_pylist()]
    if len(names) != count:
        raise InputError(f"{origin} has {len(names)} ids and there are {count} rows of features; one id a row")
    return Names(names, count)


def read_rows(name: str, option: str, names: Names) -> np.ndarray:
    """Row numbers, (n,) int64 ascending, from a text file of ids, a .npy file of row numbers, or one of True and False.

    Raises:
        InputError: the file cannot be used, names a row that is not there, or names one twice.
    """
    if name != STDIN and Path(name).suffix.lower() == ".npy":
        rows = _npy_rows(name, option, names.count)
    else:
        source = "standard input" if name == STDIN else name
        rows = np.array([names.row(id_, source, i) for i, id_ in enumerate(read_lines(name), 1)], dtype=np.int64)
    if not len(rows):
        raise InputError(f"{option}: {name} names no rows; leave {option} out, or fill the file")
    values, counts = np.unique(rows, return_counts=True)
    if len(values) != len(rows):
        raise InputError(f"{option}: {name} names {names[int(values[counts > 1][0])]!r} more than once")
    return values


def _npy_rows(name: str, option: str, count: int) -> np.ndarray:
    rows = read_npy(name)
    if rows.ndim != 1 or rows.dtype.kind not in "biu":
        raise InputError(
            f"{option}: {name} must hold a 1-D array of row numbers, or of True and False, got {rows.dtype} of shape "
            f"{rows.shape}"
        )
    if rows.dtype.kind == "b":
        if len(rows) != count:
            raise InputError(f"{option}: {name} has {len(rows)} entries and there are {count} rows")
        return np.flatnonzero(rows)
    outside = rows[(rows < 0) | (rows >= count)]
    if len(outside):
        raise InputError(f"{option}: {name} names row {outside[0]}, which is not between 0 and {count - 1}")
    return rows.astype(np.int64)


def read_weights(name: str, count: int) -> np.ndarray:
    """(count,) float64 weights from a .npy file or a text file with a number a line.

    Raises:
        InputError: there is not one finite number of at least 0 for each row.
    """
    if Path(name).suffix.lower() == ".npy":
        values = read_npy(name)
        if values.ndim != 1 or values.dtype.kind not in "biuf":
            raise InputError(
                f"--weights: {name} must hold a 1-D array of numbers, got {values.dtype} of {values.shape}"
            )
        weights = values.astype(np.float64)
    else:
        weights = np.empty(0)
        lines = read_lines(name)
        try:
            weights = np.array([float(line) for line in lines])
        except ValueError:
            bad = next(line for line in lines if not _is_number(line))
            raise InputError(f"--weights: {name} line {lines.index(bad) + 1}: {bad[:80]!r} is no number") from None
    if len(weights) != count:
        raise InputError(f"--weights: {name} has {len(weights)} numbers and there are {count} rows; one a row")
    bad_rows = np.flatnonzero(~np.isfinite(weights) | (weights < 0))
    if len(bad_rows):
        raise InputError(
            f"--weights: {name}, row {bad_rows[0]} is {weights[bad_rows[0]]}; weights are numbers from 0 on"
        )
    if not weights.any():
        raise InputError(f"--weights: {name} holds nothing but 0: no row would count")
    return weights


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_labeled(name: str, names: Names, column: str | None, width: int) -> tuple[np.ndarray, torch.Tensor | None]:
    """Samples that are labeled already: rows of the pool, or features of samples from elsewhere.

    Returns:
        Row numbers, (n,) int64, and features, (n, width); one of them is empty or None.
    """
    path = Path(name)
    if name != STDIN and path.suffix.lower() not in TEXTS:
        is_list = path.suffix.lower() == ".npy" and path.is_file() and read_npy(name).ndim == 1
        if not is_list:
            source = open_features(path, column)
            if source.columns != width:
                raise InputError(
                    f"--labeled: {name} has {source.columns} numbers a row and the pool has {width}; "
                    f"use one model for both"
                )
            return np.empty(0, dtype=np.int64), torch.cat(list(source.blocks()))
    return read_rows(name, "--labeled", names), None
