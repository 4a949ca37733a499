"""Optional imports that say what to install."""

from __future__ import annotations

from contextlib import contextmanager


@contextmanager
def required(library: str, distribution: str):
    """Turn a missing module inside the block into an ImportError that names the cure.

    Example:
        >>> with required("a library", "its-distribution"):
        ...     import no_such_module
        Traceback (most recent call last):
        ...
        ImportError: this adapter needs a library, which cannot be imported (...); run: pip install its-distribution
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"this adapter needs {library}, which cannot be imported ({error}); run: pip install {distribution}"
        ) from error
