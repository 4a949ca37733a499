"""Label pixels in a browser: `difal label`, and `show` for notebooks.

The server keeps a journal of answers (`journal`, `answers`) and asks questions (`questions`, `session`). A child
process (`worker`) does the rounds of `difal.run.loop` with the journal as its oracle. See docs/label.md.
"""

from difal.annotate.notebook import show

__all__ = ["show"]
