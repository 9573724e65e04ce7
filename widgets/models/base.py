"""What every view-model has: an error that is said and not thrown at the reader, the Python for its state, an end.

A command that a person gives in the browser goes through `attempt`. A failure there becomes the text of `error`, and
the widget goes on: an exception in a callback is shown nowhere a reader looks. SLMKIT_STRICT=1 raises it as well, for
tests and for notebooks that are run by a program.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import traitlets

from slmkit import text
from slmkit.errors import SlmkitError

ERROR_LIMIT = 600  # characters; a longer cause is cut
_HERE = threading.local()  # how many commands of a view-model failed in this thread


class ViewModel(traitlets.HasTraits):
    """State and commands of one widget.

    Attributes
    ----------
    error : str
        Cause of the last command that failed; "" after one that did not.
    code : str
        Python that does the same as the present state, to be run in a cell.
    """

    error = traitlets.Unicode()
    code = traitlets.Unicode()

    _busy = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Set several traits before anything is computed from them; observers look at `_busy`."""
        before, self._busy = self._busy, True
        try:
            yield
        finally:
            self._busy = before

    def attempt(self, command: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """Call a command; its result, or None and the cause in `error`."""
        failures = vars(_HERE).get(str(id(self)), 0)
        try:
            result = command(*args, **named)
        except Exception as error:
            vars(_HERE)[str(id(self))] = failures + 1
            self.error = cause(error)
            if os.environ.get("SLMKIT_STRICT") == "1":
                raise
            return None
        if vars(_HERE).get(str(id(self)), 0) == failures:  # no command that this one gave failed
            self.error = ""
        return result

    def describe(self) -> str:
        """The state in plain text, for places where widgets are not shown."""
        return self.code

    def close(self) -> None:
        """Let go of every observer, its own included: the state stays readable and no longer answers."""
        self.unobserve_all()


def cause(error: BaseException) -> str:
    """An exception for a reader: the message of slmkit's own errors, with the type in front of others."""
    message = str(error)
    said = message if isinstance(error, SlmkitError) and message else f"{type(error).__name__}: {message}"
    return text.clean(said, ERROR_LIMIT)
