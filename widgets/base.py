"""What every view is made of: controls bound to traits, a box for the error, the Python for it, and an end.

A view holds no state. What a person does goes to the view-model through `attempt`; what the view-model then is, comes
back to the controls, also when it refused. Every control has a description, which is its accessible name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import traitlets

from slmkit.errors import MissingExtra
from slmkit_widgets import display, lifetimes
from slmkit_widgets.models.base import ViewModel
from slmkit_widgets.scripted import scripted

try:
    import ipywidgets as w
except ImportError as problem:
    raise MissingExtra('widgets need ipywidgets: pip install -c constraints.txt -e ".[notebooks]"') from problem

Shortcuts: Any = scripted("shortcuts.js")
STYLE = {"description_width": "initial"}  # whole names, not their first letters
WIDE = "100%"
GOES_ON = "-8px 2px 2px 2px"  # a line of the same sentence stands closer
LABEL_LIMIT = 200  # characters of one line


class View(w.VBox):
    """Controls over a view-model.

    Parameters
    ----------
    model : ViewModel
        Reached as `.model`: its traits and commands are the widget's Python side.
    title : str
        First line of the widget.
    shared : bool
        Another view shows the same view-model: closing this one leaves it alone.
    """

    _closed = True  # nothing to close as long as nothing was made

    def __init__(self, model: ViewModel, title: str, *, shared: bool = False) -> None:
        super().__init__()
        self.model = model
        self._shared, self._closed = shared, False
        self._undo: list[Callable[[], None]] = []
        self._quiet: set[int] = set()  # controls that are being set from the model
        self._title = label(title, strong=True)
        self._problem = self.said("error", lambda cause: f"Problem: {cause}" if cause else "")
        self._code = self.copied("code", "The same in Python")
        self._keys = [] if Shortcuts is None else [Shortcuts()]
        self.add_class("slmkit-view")
        lifetimes.register(self)

    def show(self, *children: w.Widget) -> None:
        """Put the controls in place: title, error, the controls, the Python."""
        self.children = (self._title, self._problem, *children, self._code, *self._keys)

    # -- from the model to the page

    def follow(self, names: str | Sequence[str], update: Callable[[], None]) -> None:
        """Call `update` now, and whenever one of the traits changes."""
        listed = [names] if isinstance(names, str) else list(names)

        def changed(_change: Any) -> None:
            update()

        self.model.observe(changed, listed)
        self._undo.append(lambda: self.model.unobserve(changed, listed))
        update()

    def said(self, name: str, words: Callable[[Any], str | list[str]] = str) -> w.VBox:
        """A trait as lines of text, one sentence or a list of them; an empty text takes no room."""
        box = w.VBox()

        def update() -> None:
            told = words(getattr(self.model, name))
            sentences = [told] if isinstance(told, str) else told
            cut = [(i, line) for one in sentences for i, line in enumerate(display.lines(one))]
            shown, there = [line for _, line in cut], list(box.children)
            for line, old in zip(shown, there, strict=False):
                old.value = display.plain(line, LABEL_LIMIT)
            box.children = (*there[: len(shown)], *(label(line) for line in shown[len(there) :]))
            close_all(there[len(shown) :])
            for (i, _), each in zip(cut, box.children, strict=True):
                each.layout.margin = GOES_ON if i else None
            box.layout.display = "" if shown else "none"

        self.follow(name, update)
        return box

    def drawn(self, name: str, bundle: Callable[[Any], tuple[display.Bundle, ...]], height: str = "") -> w.Output:
        """A trait as an output: a picture or a table (`display.picture`, `display.table`)."""
        output = w.Output(layout=w.Layout(min_height=height or None, overflow="auto"))

        def update() -> None:
            output.outputs = bundle(getattr(self.model, name))

        self.follow(name, update)
        return output

    # -- from the page to the model

    def bind(self, control: w.Widget, name: str, options: str = "") -> w.Widget:
        """Bind the value of a control to a trait, both ways, and its options to another, which it follows.

        The view-model keeps its value among its options. A value it refuses is put back, and the error box says why.
        """

        def to_page() -> None:
            with self._silent(control):
                if options:
                    control.options = getattr(self.model, options)
                with suppress(traitlets.TraitError) if options else nullcontext():  # options first, their value next
                    control.value = getattr(self.model, name)
                if control.value is None and options:  # a choice like any other; ipywidgets takes it for none
                    values = [one[1] if isinstance(one, tuple) else one for one in control.options]
                    control.index = values.index(None) if None in values else None

        def to_model(change: Any) -> None:
            if id(control) not in self._quiet and change["new"] != getattr(self.model, name):
                self.model.attempt(setattr, self.model, name, change["new"])
                to_page()

        control.observe(to_model, "value")
        self._undo.append(lambda: control.unobserve(to_model, "value"))
        self.follow([name, options] if options else name, to_page)
        return control

    def button(self, description: str, command: Callable[..., Any], *args: Any, tooltip: str = "") -> w.Button:
        """A button that gives the view-model a command."""
        button = w.Button(description=description, tooltip=tooltip or description, layout=w.Layout(width="auto"))

        def clicked(_button: Any) -> None:
            self.model.attempt(command, *args)

        button.on_click(clicked)
        self._undo.append(lambda: button.on_click(clicked, remove=True))
        return button

    @contextmanager
    def _silent(self, control: w.Widget) -> Iterator[None]:
        self._quiet.add(id(control))
        try:
            yield
        finally:
            self._quiet.discard(id(control))

    def copied(self, name: str, description: str) -> w.Textarea:
        """A trait as a text to be read, selected and copied with the keyboard: what is typed into it is taken back."""
        box = w.Textarea(description=description, style=STYLE, continuous_update=False, layout={"width": WIDE})
        self.readonly(box, name)
        self.follow(name, lambda: setattr(box, "rows", min(14, max(2, getattr(self.model, name).count("\n") + 1))))
        return box

    def readonly(self, box: w.Textarea, name: str, i: int | None = None) -> None:
        """Show a trait, or its item `i`, in a box; what is typed into it is taken back."""

        def update(_change: Any = None) -> None:
            told = getattr(self.model, name)
            box.value = told if i is None else told[i]

        box.observe(update, "value")
        self._undo.append(lambda: box.unobserve(update, "value"))
        self.follow(name, update)

    # -- its end, and places without widgets

    def close(self) -> None:
        """Free the observers, the view-model (unless shared) and every widget of the page; twice is once."""
        if self._closed:
            return
        self._closed = True
        for undo in reversed(self._undo):
            undo()
        self._undo.clear()
        if not self._shared:
            self.model.close()
        lifetimes.forget(self)
        close_all(self.children)
        self.layout.close()
        super().close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}\n{self.model.describe()}"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """As ipywidgets does, with the whole text for places without widgets instead of its first 110 characters."""
        return {**super()._repr_mimebundle_(**kwargs), "text/plain": repr(self)}


def label(said: str, *, strong: bool = False, limit: int = LABEL_LIMIT) -> w.Label:
    """A line of text, cleaned; no formula is read out of it."""
    made = w.Label(display.plain(said, limit), style={"font_weight": "bold"} if strong else {})
    for name in display.PLAIN:
        made.add_class(name)
    return made


def row(*children: w.Widget) -> w.HBox:
    """Controls side by side, wrapped where the page is narrow."""
    return w.HBox(children, layout=w.Layout(flex_flow="row wrap", align_items="center"))


def heading(said: str) -> w.Label:
    """A line in bold above a part of the widget."""
    return label(said, strong=True)


def close_all(children: Sequence[w.Widget]) -> None:
    """Close widgets with all they hold; layouts and styles are widgets too, and their owners leave them open."""
    for child in children:
        close_all(getattr(child, "children", ()))
        for part in (child.layout, getattr(child, "style", None), child):
            if isinstance(part, w.Widget):
                part.close()
