"""How transformers and mlx-lm call the layers of the models that both run, and the files that hold what was trained."""

from __future__ import annotations

from dataclasses import dataclass

TRAINED = "trained.safetensors"  # in an adapter's folder: weights that take the place of the model's own
LAYOUTS = {"bnb": "peft", "mlx": "mlx"}  # what each backend reads


@dataclass(frozen=True)
class Names:
    """How both call the linear layers of a kind of block.

    Attributes
    ----------
    models : tuple of str
        Values of `model_type` for which this was checked.
    peft, mlx : str
        What stands before a block's number: in transformers' classes and in mlx-lm's.
    keys : tuple of str
        Linear layers inside a block, by the same name in both.
    """

    models: tuple[str, ...]
    peft: str
    mlx: str
    keys: tuple[str, ...]

    def prefix(self, layout: str) -> str:
        """What stands before a block's number in a layout."""
        return self.peft if layout == "peft" else self.mlx


NAMES = (
    Names(
        ("llama", "mistral", "gemma", "gemma2", "gemma3_text", "qwen2", "phi3"),
        "model.layers.",
        "model.layers.",
        (
            *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "o", "qkv")),
            *(f"mlp.{name}_proj" for name in ("gate", "up", "down", "gate_up")),
        ),
    ),
    Names(
        ("falcon",),
        "transformer.h.",
        "model.h.",
        ("self_attention.query_key_value", "self_attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    ),
)
