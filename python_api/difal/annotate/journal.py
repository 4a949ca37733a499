"""The journal: every answer, one line each, appended and on the disk before it is acknowledged.

`RUN/annotate/journal.jsonl` is never rewritten. Each line is a JSON object with a client-made `id`, so that a line that
is sent twice counts once. A line without its newline is one that the process was killed over: it was never
acknowledged, the page still has it, and it is dropped when the journal is next opened for writing.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from difal.errors import LabelError
from difal.files import crash_point

Entry = dict[str, Any]
NAME = "journal.jsonl"


class Journal:
    """The open journal of one run. One process at a time may write to it; the server's lock sees to that.

    Args:
        path: the file; it and its folder are made if they are not there.

    Raises:
        LabelError: a line before the last is damaged; names it.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.entries, whole = _parse(self.path)
        self._ids = {entry["id"] for entry in self.entries}
        self._lock = threading.Lock()
        is_new = not self.path.exists()
        self._file = open(self.path, "ab")  # noqa: SIM115 - open for as long as the journal is
        if not is_new and self.path.stat().st_size > whole:
            self._file.truncate(whole)
        if is_new:
            _sync_folder(self.path.parent)

    def __contains__(self, entry_id: object) -> bool:
        return entry_id in self._ids

    def append(self, entries: Sequence[Entry]) -> list[Entry]:
        """Write those entries that are not there yet and wait for the disk.

        Args:
            entries: JSON-able objects with an `id`.

        Returns:
            The entries that were new. When this returns, all of `entries` are on the disk.

        Raises:
            OSError: the disk refused them, all of them: none counts, and none may be acknowledged.
        """
        with self._lock:
            new, seen = [], set()
            for entry in entries:
                if entry["id"] not in self._ids and entry["id"] not in seen:
                    new.append(entry)
                    seen.add(entry["id"])
            if not new:
                return []
            before = self._file.tell()
            text = "".join(json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n" for entry in new)
            try:
                self._file.write(text.encode())
                self._file.flush()
                crash_point("journal-written")
                os.fsync(self._file.fileno())
            except OSError:
                self._file.truncate(before)
                raise
            crash_point("journal-synced")
            self._ids |= seen
            self.entries += new
            return new

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error) -> None:
        self.close()


def read_journal(path: Path) -> list[Entry]:
    """The entries of a journal that another process may be appending to.

    Raises:
        LabelError: a whole line is damaged; names it.
    """
    return _parse(Path(path))[0]


def _parse(path: Path) -> tuple[list[Entry], int]:
    """The entries, each id once, and the size in bytes of the whole lines."""
    if not path.is_file():
        return [], 0
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    entries: dict[str, Entry] = {}
    for number, line in enumerate(content[:whole].splitlines(), 1):
        try:
            entry = json.loads(line)
            if not isinstance(entry["id"], str) or not isinstance(entry["type"], str):
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError):
            raise LabelError(f"{path} line {number} is damaged; delete that line, and only that one") from None
        entries.setdefault(entry["id"], entry)
    return list(entries.values()), whole


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def of_type(entries: Iterable[Entry], kind: str) -> list[Entry]:
    return [entry for entry in entries if entry["type"] == kind]
