"""Errors a user can mend: the command line prints their message alone, without a traceback."""

from __future__ import annotations


class UserError(ValueError):
    """Something outside the program is wrong; the message names the file or option and the cure."""


class DataError(UserError):
    """An image, a mask or a folder cannot be used as it is."""


class UnknownClassesError(DataError):
    """Nothing says which classes there are."""


class LabelError(UserError):
    """A line of a label file cannot be used as it is."""


class ConfigError(UserError):
    """An option has a value that cannot work, or contradicts an earlier run."""
