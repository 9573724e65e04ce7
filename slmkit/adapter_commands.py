"""`slmkit adapters` and `slmkit merge`: an adapter in another program's layout, or inside its model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Adapters in the layouts of PEFT and of mlx-lm.")
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="A new folder.")]


@app.callback()
def _adapters() -> None:
    """Adapters in the layouts of PEFT and of mlx-lm."""


@app.command(short_help="Write an adapter in the other layout.")
def convert(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An adapter: of slmkit, PEFT or mlx-lm.")],
    to: Annotated[str, typer.Option(help="peft (backend bnb) or mlx.")],
    out: Out,
) -> None:
    """Write an adapter in the layout of the other backend; slmkit.load does the same by itself, into its cache."""
    from slmkit import adapters

    print(adapters.convert(folder, out, to))
