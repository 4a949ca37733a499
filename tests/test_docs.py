"""The site builds without a warning, the code of its pages runs, and so do the examples in docstrings."""

import doctest
import importlib
import importlib.util
import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import difal
import difal_kernels
from difal.cli import make_parser
from difal_kernels.ops.maxherding.backends.gpu.operands import CHUNKS
from difal_kernels.select.arguments import parse as parse_selection

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


@pytest.mark.parametrize(
    "page", ["README.md", "docs/start.md", "docs/large.md", "docs/hypercolumns.md", "docs/select.md"]
)
def test_code_of_a_page_runs(page):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert blocks
    exec(compile("\n".join(blocks), page, "exec"), {})


def test_own_loop_and_its_replacement_pick_the_same():
    """The loop that docs/swap.md replaces, and the call that replaces it."""
    section = (ROOT / "docs/swap.md").read_text().partition("## A loop of your own\n")[2]
    before, _, after = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1].partition("# after\n")
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 8)) + 4 * rng.integers(0, 5, size=(300, 1))
    given = {"np": np, "features": features, "budget": 25, "sigma": 1.5}
    given |= {"labeled_index": np.arange(0, 300, 60), "unlabeled_index": np.arange(300)[np.arange(300) % 60 > 0]}
    picks = []
    for code in (before, after):
        exec(compile(code, "docs/swap.md", "exec"), names := dict(given))
        picks.append(list(names["picks"]))
    assert picks[0] == picks[1]
    assert len(set(picks[0])) == 25


def test_commands_of_the_pages_are_commands():
    """Each `difal ...` on a line of its own has options that there are; `python` and `make` have what they name."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    seen = set()
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")):
        text = page.read_text().replace("\\\n", " ")
        for program, rest in re.findall(r"^ {4}(difal|difal-select|python|make|bash) (.+)$", text, re.MULTILINE):
            seen.add(program)
            first, *more = rest.split()
            if program == "difal":
                make_parser().parse_args([first, *more])
            elif program == "difal-select":
                parse_selection(shlex.split(rest))
            elif program == "make":
                assert first in targets, (page, rest)
            elif first != "-m":
                assert (ROOT / first).exists(), (page, rest)
    assert seen == {"difal", "difal-select", "python", "make", "bash"}


def test_the_gpu_page_has_the_rounds_and_sweeps_that_were_counted():
    """Each row of bench/results/rounds.json: in a table, or, of sums of another length, in the text."""
    page = (ROOT / "docs/kernels.md").read_text()
    text, table = " ".join(page.split()), [line for line in page.splitlines() if line.startswith("| ")]
    for row in json.loads((ROOT / "bench/results/rounds.json").read_text()):
        if "sweeps" in row:
            proven = ", ".join(map(str, row["picks_proven_by_each"]))
            figures = [f"{row['points']:,}", f"{row['dimension']:,}", f"{row['sweeps']}", proven]
        else:
            rounds, float64 = f"{row['rounds_a_pick']:.2f}", row["float64_rows_over_n"]
            if row["chunk"] != CHUNKS[False]:
                assert f"`--chunk {row['chunk']}`" in text
                assert re.search(rf"\b{rounds}( rounds a pick)? and {float64:.3g} N\b", text), row
                continue
            figures = [rounds, f"{row['rounds_at_worst']}", f"{row['settled_a_pick']:.2f}"]
            figures += [f"{row['barriers_a_pick']:.2f}", f"{float64:.2f}", f"{row['rows_updated_over_n']:.1f}"]
        assert any(f"| {' | '.join(figures)} |" in line for line in table), figures


def test_reference_has_every_public_name():
    reference = (ROOT / "docs" / "reference.md").read_text()
    named = set(re.findall(r"(?:^::: |`)(difal[\w.]+)", reference, re.MULTILINE))
    packages = ("difal_kernels", "difal_kernels.distributed", "difal.encoders", "difal.data", "difal.acquisition")
    for name in packages:
        public = {f"{name}.{one}" for one in importlib.import_module(name).__all__ if one != "__version__"}
        assert public <= named, public - named
    adapters = {f"difal.adapters.{path.stem}" for path in ROOT.glob("python_api/difal/adapters/[a-z]*.py")}
    assert adapters <= named


def pictures():
    """All under docs/, and those that the site's other pages show."""
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site_hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    pages = [*ROOT.glob("docs/*.md"), *(page for pattern in hooks.OUTSIDE for page in ROOT.glob(pattern))]
    shown = [
        (page.parent / link).resolve()
        for page in pages
        if page.suffix == ".md"
        for link in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text())
    ]
    return {*shown, *(path for path in ROOT.glob("docs/**/*.*") if path.suffix in (".png", ".svg", ".jpg", ".gif"))}


def test_gallery_has_every_picture_and_the_command_that_makes_it():
    pytest.importorskip("latex2mathml", reason="latex2mathml is not installed: pip install '.[docs]'")
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install '.[docs]'")
    gallery = {}
    for section in (ROOT / "docs" / "gallery.md").read_text().split("\n## ")[1:]:
        (link,) = re.findall(r"!\[[^]]*\]\(([^)]+)\)", section)
        (command,) = re.findall(r"^ {4}(\S.*)$", section, re.MULTILINE)
        gallery[(ROOT / "docs" / link).resolve()] = command
    assert set(gallery) == pictures()
    for picture, command in gallery.items():
        assert picture.is_file()
        program, *arguments = command.split()
        if program == "difal":
            assert make_parser().parse_args(arguments).command.__name__ == f"difal.cli.{arguments[0]}"
            continue
        assert program == "python"
        if arguments[0] == "-m":
            assert importlib.util.find_spec(arguments[1]), command
            continue
        script = ROOT / arguments[0]
        source = (script / "report.py" if script.is_dir() else script).read_text()
        assert any(word in source for word in ("savefig", "save_figure", "screenshot")), command
        drawn_there = picture.name in source or (script.is_dir() and picture.stem == script.name)
        assert drawn_there or str(picture.relative_to(ROOT)) in arguments, command


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
    written = sorted((ROOT / "difal_kernels/ops").rglob("*.py"))
    sources = "".join(path.read_text() for path in written if re.search("triton|gpu", str(path.relative_to(ROOT))))
    launched += re.findall(r"@kernel\ndef (\w+)\(", sources)
    assert {"fill", "survey", "normalise"} <= set(launched)
    assert not [name for name in launched if not re.search(rf"`{name}(<\w+>)?`", page)]
