"""torch's process-wide settings, on which no result may depend."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar, cast

import torch

F = TypeVar("F", bound=Callable)


def on_cpu_by_default(function: F) -> F:
    """Tensors that `function` makes without naming a device are on the CPU, whatever `torch.set_default_device` says.

    Its default dtype is no thread's own and so cannot be set aside for a while: every tensor here names its dtype.
    Nor does `torch.compile` of a caller reach into `function`, whose NumPy and addresses it cannot trace.
    """

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*args, **kwargs)
        if torch.get_default_device().type == "cpu":
            return function(*args, **kwargs)
        with torch.device("cpu"):
            return function(*args, **kwargs)

    return cast(F, wrapped)
