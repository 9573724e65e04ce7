"""transformers by itself, which what slmkit computes is held against."""

from __future__ import annotations

from itertools import product

import numpy as np

from slmkit.assets import ModelSource


class Reference:
    """What transformers itself computes in float32, one unpadded row at a time."""

    def __init__(self, source: ModelSource) -> None:
        import torch
        import transformers

        auto = transformers.AutoModel if source.kind == "encoder" else transformers.AutoModelForCausalLM
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(source.folder)
        self.model = auto.from_pretrained(source.folder, dtype=torch.float32).eval()
        self.n_parameters = sum(p.numel() for p in self.model.parameters())

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text)["input_ids"])

    def hidden(self, ids: list[int]) -> np.ndarray:
        """Last hidden states (T, H)."""
        import torch

        body = self.model.get_decoder() if self.model.can_generate() else self.model
        with torch.inference_mode():
            return np.asarray(body(torch.tensor([ids])).last_hidden_state[0].numpy())

    def logprobs(self, ids: list[int]) -> np.ndarray:
        """Log-probabilities (T, V) of what follows each token."""
        import torch

        with torch.inference_mode():
            logits = self.model(torch.tensor([ids]), use_cache=False).logits[0]
            return np.asarray(torch.log_softmax(logits.double(), -1).numpy())

    def loglikelihood(self, prompts: list[str], continuations: list[str]) -> np.ndarray:
        out = np.zeros((len(prompts), len(continuations)))
        for (i, prompt), (j, text) in product(enumerate(prompts), enumerate(continuations)):
            start, ids = len(self.ids(prompt)), self.ids(prompt + text)
            scores = self.logprobs(ids)
            out[i, j] = sum(scores[at - 1, ids[at]] for at in range(start, len(ids)))
        return out

    def greedy(self, prompt: str, n: int) -> list[int]:
        """The n likeliest next tokens, every one from a pass over the whole text."""
        ids = self.ids(prompt)
        for _ in range(n):
            ids.append(int(self.logprobs(ids)[-1].argmax()))
        return ids[-n:]
