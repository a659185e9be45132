"""Progress in a notebook: one output that is replaced. rich's own needs ipywidgets and shows nothing else."""

import html
import math
import time
from typing import Any

_EVERY_S = 0.25


class NotebookLine:
    """A bar and a text in the output of the cell that runs."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._shown = -math.inf

    def show(self, text: str, share: float, now: bool = False) -> None:
        """Replace what is shown, at most four times per second unless ``now``; ``share`` is 0 to 1."""
        if not now and time.monotonic() - self._shown < _EVERY_S:
            return
        self._shown = time.monotonic()
        bar = f'<progress value="{share:.3f}"></progress> {html.escape(text)}'
        data = {"text/plain": text, "text/html": bar}
        if self._handle is None:
            from IPython.display import display  # a notebook always has it

            self._handle = display(data, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(data, raw=True)
