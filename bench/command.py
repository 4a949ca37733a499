"""Command lines of the scripts here: help without what is slow to import, and errors of one line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Takes the script's docstring as its help; what is wrong is told in one line, with status 2."""

    def __init__(self, doc: str) -> None:
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def name_of(names: Collection[str], what: str = "row") -> Callable[[str], str]:
    """Make the `type` of an argument that takes one of these names, and lists them where it is given another."""

    def checked(text: str) -> str:
        if text in names:
            return text
        raise argparse.ArgumentTypeError(f"no {what} is called {text!r}; there are {', '.join(map(repr, names))}")

    return checked


def check_names(parser: Parser, given: Collection[str], names: Collection[str], what: str = "row") -> None:
    """End with the parser's error where a name is not among those that are known only after slow imports."""
    try:
        for text in given:
            name_of(names, what)(text)
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))


def part_of(names: Collection[str], what: str = "row") -> Callable[[str], str]:
    """Make the `type` of an argument that takes a part of one or more of these names."""

    def checked(text: str) -> str:
        if any(text in name for name in names):
            return text
        listed = ", ".join(map(repr, names))
        raise argparse.ArgumentTypeError(f"{text!r} is in the name of no {what}; there are {listed}")

    return checked


def no_options(doc: str) -> None:
    """Answer `--help`, and refuse all else, in a script that takes no options."""
    Parser(doc).parse_args()
