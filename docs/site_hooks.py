"""Makes the site of files that lie where they belong: README, examples and results too, with formulas as MathML."""

from __future__ import annotations

import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "LICENSE",
    "bench/*.py",
    "bench/results/*/*.md",
    "bench/results/*/*.png",
    "examples/*.py",
    "examples/*.json",
    "python_api/difal/encoders/tiny/*.md",
    "python_api/difal/encoders/tiny/*.png",
    "python_api/difal/encoders/*.py",
    "python_api/difal/presets/*/*.yaml",
    "bench/results/*.json",
)
CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
DISPLAY, INLINE = re.compile(r"\$\$(.+?)\$\$", re.DOTALL), re.compile(r"\$([^$\n]+?)\$")


def on_files(files, config):
    """Add the repository's files at their own paths; pages of docs/ lie at the root of the site."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            if files.get_file_from_path(name) is None:
                files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links as they are in the repository become links within the site; formulas become MathML."""
    if page.file.src_uri == "README.md":
        markdown = markdown.replace("](docs/", "](")
    elif "/" not in page.file.src_uri:
        markdown = markdown.replace("](../", "](")
    parts = CODE.split(markdown)
    for i in range(0, len(parts), 2):  # the others are code
        parts[i] = DISPLAY.sub(lambda m: f"\n\n<div>{_math(m[1], 'block')}</div>\n\n", parts[i])
        parts[i] = INLINE.sub(lambda m: _math(m[1], "inline"), parts[i])
    return "".join(parts)


def _math(source: str, display: str) -> str:
    return convert(" ".join(source.split()), display=display)
