"""The site builds without a warning, the code of its pages runs, and so do the examples in docstrings."""

import doctest
import importlib
import importlib.util
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import difal
import difal_kernels

ROOT = Path(__file__).parent.parent
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL


def modules():
    for package in (difal_kernels, difal):
        for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not found.name.rpartition(".")[2].startswith(("_cpu", "_cuda", "__main__")):
                yield found.name


def test_site_builds_without_a_warning(tmp_path):
    for library in ("material", "mkdocstrings", "latex2mathml"):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed: pip install '.[docs]'")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    reference = (tmp_path / "site" / "reference" / "index.html").read_text()
    assert "difal_kernels.maxherding" in reference
    assert "<math" in (tmp_path / "site" / "theory" / "index.html").read_text()


@pytest.mark.parametrize("page", ["README.md", "docs/start.md"])
def test_code_of_a_page_runs(page, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert blocks
    exec(compile("\n".join(blocks), page, "exec"), {})
    assert capsys.readouterr().out


@pytest.mark.filterwarnings("default")
def test_examples_in_docstrings_run():
    failed, attempted = [], 0
    for name in modules():
        try:
            module = importlib.import_module(name)
        except ImportError:
            if not name.startswith(("difal.adapters.", "difal.encoders.")):  # those may want an optional library
                raise
            continue
        result = doctest.testmod(module, optionflags=OPTIONS)
        attempted += result.attempted
        failed += [name] * bool(result.failed)
    assert not failed
    assert attempted > 50


def test_every_gpu_kernel_is_on_its_page():
    page = (ROOT / "docs/kernels.md").read_text()
    sources = "".join(path.read_text() for path in sorted((ROOT / "csrc/cuda").glob("*.cu")))
    launched = re.findall(r"__global__ void (?:__launch_bounds__\([^)]*\)\s*)?(\w+)\(", sources)
    assert {"select_kernel", "take_kernel", "disagreement_kernel"} <= set(launched)
    sources = "".join(path.read_text() for path in sorted((ROOT / "difal_kernels/ops").rglob("triton_*.py")))
    launched += re.findall(r"@kernel\ndef (\w+)\(", sources)
    assert {"sweep", "survey", "normalise"} <= set(launched)
    assert not [name for name in launched if not re.search(rf"`{name}(<\w+>)?`", page)]
