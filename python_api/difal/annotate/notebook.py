"""The annotator in a notebook's cell."""

from __future__ import annotations

import atexit
import html
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from difal.annotate.start import label_config, open_session, serving

_shown: dict[Path, tuple[Any, ExitStack]] = {}


@dataclass(frozen=True)
class Frame:
    """A page in a notebook's cell, as IPython's IFrame shows it."""

    src: str
    height: int

    def _repr_html_(self) -> str:
        return f'<iframe src="{html.escape(self.src)}" width="100%" height="{self.height}" style="border: 0"></iframe>'


def show(
    run: str | Path, *, height: int = 760, proxy: str | None = None, hosts: tuple[str, ...] = (), **settings: Any
) -> Frame:
    """Serve a run from this process and return an IFrame of its page.

    Args:
        run: the run folder; a new one needs `data`, and `classes` or names given in the page.
        height: of the frame, in pixels.
        proxy: the address under which the notebook's server forwards ports, such as `"/proxy"` with
            jupyter-server-proxy; default: the browser reaches this machine's loopback address itself.
        hosts: host names by which the notebook is reached, where that is not localhost.
        **settings: settings of `difal label`, such as `data="photos"`, `classes="sky,road"`.

    Returns:
        The frame; its `src` is the address. Calling `show` on the run again gives another frame of the same server.

    Raises:
        UserError: something outside the program is wrong; the message names it and the cure.
    """
    folder = Path(run).resolve()
    if folder not in _shown:
        stack = ExitStack()
        session = open_session(label_config({**settings, "out": str(run)}), given=settings)
        server = stack.enter_context(serving(session, hosts=hosts, framed=True))
        server.serve_in_background()
        _shown[folder] = server, stack
        atexit.register(stack.close)
    server, _ = _shown[folder]
    token = server.gate.token
    return Frame(server.url if proxy is None else f"{proxy.rstrip('/')}/{server.port}/#{token}", height)
