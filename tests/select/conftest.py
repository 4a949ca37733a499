"""Shared by the tests of `difal-select`."""

import numpy as np
import pytest

from clouds import cloud
from difal_kernels.select.main import main


@pytest.fixture
def pool(tmp_path, monkeypatch):
    """(300, 8) float32 features, in pool.npy of the working folder."""
    monkeypatch.chdir(tmp_path)
    x = cloud()
    np.save("pool.npy", x.numpy())
    return x


@pytest.fixture
def command(capsys):
    """Runs the command; its exit code, standard output and standard error."""

    def run(*argv):
        try:
            code = main([str(word) for word in argv])
        except SystemExit as error:  # argparse
            code = error.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
