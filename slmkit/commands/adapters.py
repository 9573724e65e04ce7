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


def merge(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model that the adapter was trained on.")],
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="An adapter, or a saved classifier.")],
    out: Out,
    bits: Annotated[int, typer.Option(help="How the merged weights are kept: 16, 8 or 4.")] = 16,
    backend: Annotated[str | None, typer.Option(help="bnb or mlx; the adapter's own by default.")] = None,
) -> None:
    """Add an adapter to weights taken out of their few bits; keep them in 16 or quantise them anew; measure both."""
    from slmkit import text
    from slmkit.tuning import merging

    done = merging.merge(model, adapter, out=out, bits=bits, backend=backend)
    print(f"{done.folder}: {text.megabytes(done.stored_bytes)} in {done.bits} bits")
    if done.loss_adapter is not None:
        print(
            f"loss on {done.n_texts} texts: {done.loss_adapter:.4f} adapter beside base, {done.loss_merged:.4f} merged"
        )
    print(f"largest difference by merging: {done.shift_merged:.4f} {done.unit} (the adapter changes {done.effect:.4f})")
    if done.shift_stored is not None:
        loss = "" if done.loss_stored is None else f"loss {done.loss_stored:.4f}, "
        print(f"in {done.bits} bits: {loss}largest difference {done.shift_stored:.4f} {done.unit}")
    print(f"Use it: slmkit.load({str(done.folder)!r}, bits={done.bits})")


def add_to(main: typer.Typer) -> None:
    """Add these commands to `slmkit`."""
    main.add_typer(app, name="adapters", short_help="Adapters in PEFT's or mlx-lm's layout.")
    main.command("merge", short_help="Put an adapter into its model's weights.")(merge)
