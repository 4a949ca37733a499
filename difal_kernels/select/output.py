"""What the command writes: picks, the summary, and its progress, each whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError
from .formats import one_line
from .rows import Names


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file by a new one; a kill leaves the old or the new one."""
    neighbour = path.with_name(f".{path.name}.writing")
    try:
        with open(neighbour, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(neighbour, path)
    except OSError as error:
        neighbour.unlink(missing_ok=True)
        raise InputError(f"{path} cannot be written: {one_line(error)}") from None


def picks_as_bytes(
    suffix: str, picks: np.ndarray, gains: np.ndarray, coverage: np.ndarray | None, names: Names
) -> bytes:
    """The picks as a file of that ending."""
    if suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, picks, allow_pickle=False)
        return buffer.getvalue()
    text = io.StringIO()
    if suffix == ".csv":
        table = csv.writer(text, lineterminator="\n")
        value = "distance" if coverage is None else "gain"
        table.writerow(["rank", "row", "id", value, *([] if coverage is None else ["coverage"])])
        for rank, row in enumerate(picks.tolist()):
            covered = [] if coverage is None else [repr(float(coverage[rank + 1]))]
            table.writerow([rank + 1, row, names[row], repr(float(gains[rank])), *covered])
    else:
        text.writelines(f"{names[row]}\n" for row in picks.tolist())
    return text.getvalue().encode()


def read_summary(path: Path) -> dict[str, Any] | None:
    """An earlier run's summary; None where there is none of ours."""
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return summary if isinstance(summary, dict) else None


class SavedProgress:
    """Picks so far, in a file beside the output that is gone once the output is written.

    Args:
        path: the output, or None to save nothing.
        key: what the selection is of; progress of another one is refused.
    """

    def __init__(self, path: Path | None, key: str):
        self.path = None if path is None else path.with_name(f"{path.name}.progress.npz")
        self.key = key

    def read(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None] | None:
        """Picks, gains, and the rows that were kept if near-duplicates were dropped; None where nothing is saved.

        Raises:
            InputError: what is saved is of other files or options, or damaged.
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            with np.load(self.path, allow_pickle=False) as saved:
                key, picks, gains, kept, has_kept = (
                    saved[name] for name in ("key", "picks", "gains", "kept", "has_kept")
                )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            raise InputError(f"{self.path}, the progress of an earlier run, cannot be read; delete it") from None
        if str(key) != self.key:
            raise InputError(
                f"{self.path} is the progress of a run with other files or options; run that command to go on with it, "
                f"or add --overwrite to begin anew"
            )
        return picks, gains, kept if bool(has_kept) else None

    def write(self, picks: np.ndarray, gains: np.ndarray, kept: np.ndarray | None) -> None:
        if self.path is None:
            return
        buffer = io.BytesIO()
        empty = np.empty(0, dtype=np.int64)
        np.savez(
            buffer,
            key=np.array(self.key),
            picks=picks,
            gains=gains,
            kept=empty if kept is None else kept,
            has_kept=np.array(kept is not None),
        )
        write_whole(self.path, buffer.getvalue())

    def remove(self) -> None:
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()
