"""Without the library an adapter says what to install, and nothing else needs it."""

import subprocess
import sys

import pytest

ADAPTERS = {
    "scikit_activeml": ("skactiveml", "scikit-activeml"),
    "modal": ("modAL", "modAL-python"),
    "baal": ("baal", "baal"),
    "small_text": ("small_text", "small-text"),
    "facility_location": ("sklearn", "scikit-learn"),
}


def test_each_adapter_names_its_distribution():
    script = (
        "import sys, importlib\n"
        "import difal.adapters\n"
        f"for module, (package, distribution) in {ADAPTERS!r}.items():\n"
        "    sys.modules[package] = None\n"
        "    try:\n"
        "        importlib.import_module('difal.adapters.' + module)\n"
        "    except ImportError as error:\n"
        "        assert 'run: pip install ' + distribution in str(error), error\n"
        "    else:\n"
        "        raise SystemExit(module + ' was imported without ' + package)\n"
        "import difal.adapters.two_stage, difal.adapters.deep_al, difal.adapters.anomalib\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["_require", "scikit_activeml", "facility_location", "anomalib"])
def test_docstrings_run(module):
    import doctest
    import importlib

    try:
        adapter = importlib.import_module(f"difal.adapters.{module}")
    except ImportError as error:
        pytest.skip(str(error))
    result = doctest.testmod(adapter, optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL)
    assert result.attempted
    assert not result.failed
