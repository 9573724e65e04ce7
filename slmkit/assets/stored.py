"""What a folder says of the bits its weights are stored in, which backend reads them, and what they were made from.

Two layouts are known: slmkit's own for backend `bnb`, marked in config.json under `quantization_config`, and mlx-lm's,
under `quantization`. A folder that `slmkit quantize` wrote has a card beside it, `slmkit_quantised.json`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmkit.errors import InputError

CARD = "slmkit_quantised.json"
METHOD = "slmkit"  # the quant_method that transformers does not know and so does not misread


@dataclass(frozen=True)
class StoredForm:
    """How the weights in a folder are stored, if in fewer than 16 bits.

    Attributes
    ----------
    backend : str
        The only one that reads them.
    bits : int
    scheme : str
        "nf4-dq-mse", "dyn8-b64", "affine-g64".
    base_revision : str or None
        Revision of the model they were made from, as `ModelSource.revision` has it.
    n_parameters : int or None
        Before quantisation.
    sha256 : str or None
        Of model.safetensors as it was written.
    kind : str or None
        "decoder" or "encoder".
    """

    backend: str
    bits: int
    scheme: str
    base_revision: str | None = None
    n_parameters: int | None = None
    sha256: str | None = None
    kind: str | None = None


def form_of(folder: Path) -> StoredForm | None:
    """The form of the weights in a folder; None for 16 or 32 bits, for other programs' formats, and for no model."""
    config, card = _values(folder / "config.json"), _values(folder / CARD)
    known = {name: card.get(name) for name in ("base_revision", "n_parameters", "sha256", "kind")}
    own, mlx = config.get("quantization_config"), config.get("quantization")
    if isinstance(own, dict) and own.get("quant_method") == METHOD:
        return StoredForm("bnb", int(own["bits"]), str(own["scheme"]), **known)
    if isinstance(mlx, dict) and "bits" in mlx:
        mode = mlx.get("mode", "affine")
        return StoredForm("mlx", int(mlx["bits"]), f"{mode}-g{mlx.get('group_size')}", **known)
    return None


def foreign_format(folder: Path) -> str | None:
    """The method another program quantised a folder with ("gptq", "bitsandbytes"), or None."""
    found = _values(folder / "config.json").get("quantization_config")
    return str(found.get("quant_method", "unknown")) if isinstance(found, dict) and form_of(folder) is None else None


def check(form: StoredForm | None, name: str, bits: int | None, backend: str | None) -> None:
    """Raise `InputError` when bits or backend contradict what is stored; None contradicts nothing."""
    if form is None:
        return
    if bits is not None and bits != form.bits:
        raise InputError(f"{name} is stored in {form.bits} bits: bits must be {form.bits}; got {bits}")
    if backend is not None and backend != form.backend:
        raise InputError(
            f"{name} is stored as {form.scheme}, which only backend {form.backend!r} reads: backend must be "
            f"{form.backend!r}; got {backend!r}"
        )


def _values(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # `assets.check_folder` says what is wrong with it
    return values if isinstance(values, dict) else {}
