"""The journal: nothing acknowledged is lost, nothing counts twice."""

import errno
import json
import os

import pytest

from annotate.sessions import answer
from difal.annotate.journal import Journal, read_journal
from difal.errors import LabelError


def test_an_entry_sent_again_counts_once(tmp_path):
    path = tmp_path / "a/journal.jsonl"
    journal = Journal(path)
    first, second = answer("a", 1, 2, 0), answer("a", 2, 2, 1)
    assert journal.append([first]) == [first]
    assert journal.append([first, second, second]) == [second]
    assert "nobody" not in journal
    journal.close()
    with Journal(path) as again:
        assert again.entries == [first, second]
        assert again.append([second]) == []
    assert read_journal(path) == [first, second]
    assert read_journal(tmp_path / "none") == []


@pytest.mark.parametrize("torn", ['{"id": "x", "ty', '{"id": "x", "type": "answer"}', "\x00\x00"])
def test_a_torn_last_line_is_dropped(tmp_path, torn):
    path = tmp_path / "journal.jsonl"
    whole = answer("a", 1, 2, 0)
    path.write_text(json.dumps(whole) + "\n" + torn)
    assert read_journal(path) == [whole]
    journal = Journal(path)
    other = answer("a", 5, 2, 0)
    journal.append([other])
    journal.close()
    assert read_journal(path) == [whole, other]
    assert torn not in path.read_text()


@pytest.mark.parametrize("damaged", ["{", "[]", "{}", '{"id": 1, "type": "answer"}', "[" * 100_000])
def test_a_damaged_line_before_the_last_is_named(tmp_path, damaged):
    path = tmp_path / "journal.jsonl"
    path.write_text(json.dumps(answer("a", 1, 2, 0)) + "\n" + damaged + "\n" + json.dumps(answer("a", 1, 3, 0)) + "\n")
    with pytest.raises(LabelError, match="line 2 is damaged; delete that line"):
        Journal(path)


def test_a_full_disk_keeps_none_of_a_batch(tmp_path, monkeypatch):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    kept, lost = answer("a", 1, 2, 0), answer("a", 1, 3, 0)
    journal.append([kept])
    sync = os.fsync

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        journal.append([lost])
    monkeypatch.setattr(os, "fsync", sync)
    assert read_journal(path) == [kept]
    assert journal.append([lost]) == [lost]  # the page sends it again
    journal.close()
    assert read_journal(path) == [kept, lost]
