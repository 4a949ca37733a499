"""Writing, locking and full disks."""

import errno
import os
import subprocess
import sys

import pytest

from api.fakes import FakeEncoder, tiny_config, tiny_data
from difal import files
from difal.errors import ConfigError, UserError
from difal.features import build
from difal.files import TMP, exclusive, write_text


def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    monkeypatch.setattr(files.os, "fsync", no_space)
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.txt'"):
        write_text(path, "new")
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("a.txt", "old")]


def test_a_bank_that_does_not_fit_is_told_before_any_work(tmp_path, monkeypatch):
    """Else the process would die on a bus error when it writes to the map of a file that cannot grow."""
    encoder = FakeEncoder()
    with monkeypatch.context() as patched:
        patched.setattr(build.os, "posix_fallocate", no_space)
        message = r"needs 0\.00 GB for the features \(No space left on device\)"
        with pytest.raises(ConfigError, match=message):
            build.build_cache(tmp_path, tiny_data().train, lambda: encoder, tiny_config(tmp_path))
    assert encoder.passes == 0
    assert not list(tmp_path.iterdir())
    made = build.build_cache(tmp_path, tiny_data().train, lambda: encoder, tiny_config(tmp_path))
    assert made.images == 5


def test_the_cache_is_no_sparse_file(tmp_path):
    images = build.PoolImages(tmp_path, tiny_data().train, FakeEncoder, tiny_config(tmp_path, random=80), ())
    images.create({"noise_samples": 2})
    for path in tmp_path.glob("*.npy"):
        facts = path.stat()
        assert 512 * facts.st_blocks >= facts.st_size, path.name


def test_leftovers_go_and_other_files_stay(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / f"{TMP}x").write_text("")
    (tmp_path / "deep/.tmp-mine").write_text("")
    with exclusive(tmp_path):
        pass
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {".tmp-mine"}


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(UserError, match=r"cannot be written to .*; choose another folder"), exclusive(folder):
            pass


def test_who_waits_for_another_process_says_so(tmp_path):
    code = "from pathlib import Path; from difal.files import exclusive\n"
    code += "with exclusive(Path('.'), wait=True): print('in')"
    with exclusive(tmp_path):
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        child = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=env, **pipes)
        assert child.stderr.readline() == "waiting for another process that is working in .\n"
        assert child.poll() is None
    assert child.communicate()[0] == "in\n"
