"""What several tests of `difal` start from."""

import pytest

from api.fakes import use_fake_encoder
from difal import cli


@pytest.fixture
def difal(monkeypatch, tmp_path, capsys):
    """Runs the command in an empty folder with a small encoder; returns (exit code, standard output, errors)."""
    monkeypatch.chdir(tmp_path)
    use_fake_encoder(patch=monkeypatch.setattr)

    def command(text):
        code = cli.main(text.split())
        return code, *capsys.readouterr()

    return command
