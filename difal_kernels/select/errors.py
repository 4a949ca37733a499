"""What a user of the command can mend."""

from __future__ import annotations


class InputError(ValueError):
    """A file or option cannot be used; the message names it, what was found and the cure."""
