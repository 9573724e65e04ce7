"""Bulk rows/s: slmkit beside transformers.pipeline (batch_size=32) on the same model files and the same messages.

- embedding: all-MiniLM-L6-v2, `pipeline("feature-extraction", return_tensors=True)` beside `embed`. The peer's clock
  stops at its token features; pooling them into a vector a text, which slmkit's time includes, is left out of its time.
- classification: SmolLM2-135M with a head of two classes on the last token, `pipeline("text-classification")` beside
  `embed(pooling="last")` and the head. The head is fitted once on vectors of training rows and then given to both.

Messages come in file order (SMS Spam, de-duplicated), as they would from a file. slmkit sorts by length and pads less.
Both sides are warm and have the same threads and dtype. Their results are compared in the same run: pooled vectors by
cosine, classes by argmax (two that differ by less than --tie in probability count as a tie: low precision rounds).

    pip install -c constraints.txt -e ".[bnb]"
    SLMKIT_ASSETS=../shared/data python -m benchmarks.bulk_rows
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import common

ENCODER, DECODER = "minilm", "smollm2-135m-instruct"
MIN_RATIO, MIN_COSINE = 1.5, 0.999
WARM_UP_ROWS = 64
HEAD_ROWS = 200
TIES = {"float32": 1e-4, "bfloat16": 0.05, "float16": 0.01}
NAMES = ("transformers.pipeline", "slmkit")
Texts = list[str]


def messages(n: int, n_train: int = 0) -> tuple[Texts, Texts, np.ndarray]:
    """`n` messages in file order, and `n_train` others with their classes (1 is spam)."""
    from slmkit import data, tasks

    split = data.split(tasks.get("sms_spam").load(), seed=0, test=n, train=n_train or None)
    labels = (split.train["label"] == "spam").to_numpy().astype(int)
    return split.test.sort_index()["text"].tolist(), split.train["text"].tolist(), labels


def folder_of(name: str) -> str:
    """The Hugging Face folder both sides load from."""
    from slmkit import assets, backends

    return str(backends.prepare(assets.resolve(name)).folder)


def make_pipeline(task: str, model: Any, folder: str) -> Any:
    """transformers' pipeline, batch 32, on the device slmkit uses."""
    import torch
    from transformers import AutoTokenizer, pipeline

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    device = 0 if torch.cuda.is_available() else "cpu"
    return pipeline(task, model=model.eval(), tokenizer=tokenizer, batch_size=32, device=device)


def embedding(arguments: Any) -> tuple[dict[str, Any], list[common.Target]]:
    """MiniLM: token features of the pipeline beside slmkit's vectors."""
    import torch
    from transformers import AutoModel

    import slmkit

    folder = folder_of(ENCODER)
    texts, _, _ = messages(arguments.rows)
    model = AutoModel.from_pretrained(folder, dtype=getattr(torch, arguments.dtype))
    pipe = make_pipeline("feature-extraction", model, folder)
    with slmkit.load(ENCODER, dtype=arguments.dtype) as own:
        duel = _duel(arguments, texts, lambda t: pipe(t, return_tensors=True, truncation=True), own.embed)
    lengths = [len(ids) for ids in pipe.tokenizer(texts, truncation=True)["input_ids"]]
    pooled = [f[0, :n].float().mean(dim=0) for f, n in zip(duel.peer_result, lengths, strict=True)]
    theirs = torch.nn.functional.normalize(torch.stack(pooled), dim=1).cpu().numpy()
    cosine = float((theirs * duel.own_result).sum(axis=1).min())
    facts = {"n": len(texts), "model": ENCODER, "min_cosine": cosine} | duel.facts(len(texts))
    return facts, [
        common.Target("embedding, times as fast as transformers.pipeline", duel.ratio, MIN_RATIO),
        common.Target("embedding, smallest cosine between the two", cosine, MIN_COSINE),
    ]


def classification(arguments: Any) -> tuple[dict[str, Any], list[common.Target]]:
    """SmolLM2 with one head: the pipeline's probabilities beside slmkit's."""
    import slmkit

    folder = folder_of(DECODER)
    texts, train, labels = messages(arguments.decoder_rows, HEAD_ROWS)
    with slmkit.load(DECODER, dtype=arguments.dtype) as own:
        weight, bias = fit_head(own.embed(train, pooling="last"), labels)
        pipe = make_pipeline("text-classification", with_head(folder, arguments.dtype, weight, bias), folder)
        duel = _duel(
            arguments,
            texts,
            lambda t: pipe(t, top_k=None, truncation=True),
            lambda t: _softmax(own.embed(t, pooling="last").astype(np.float64) @ weight.T + bias),
        )
    spam = np.array([next(s["score"] for s in row if s["label"] == "LABEL_1") for row in duel.peer_result])
    ours = duel.own_result[:, 1]
    differ = (spam > 0.5) != (ours > 0.5)
    tie = TIES[arguments.dtype] if arguments.tie is None else arguments.tie
    beyond = int((differ & (np.abs(spam - ours) >= tie)).sum())
    found = {"max_abs_difference": float(np.abs(spam - ours).max()), "differ": int(differ.sum()), "tie": tie}
    share = float((ours > 0.5).mean())
    facts = {"n": len(texts), "model": DECODER, "called_spam": share, **found} | duel.facts(len(texts))
    return facts, [
        common.Target("classification, times as fast as transformers.pipeline", duel.ratio, MIN_RATIO),
        common.Target("classification, rows of another class (ties aside)", beyond, 0, at_least=False),
    ]


def fit_head(vectors: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weight (2, hidden) and bias (2,) of a logistic head; it reads some of the messages right, which is enough."""
    from sklearn.linear_model import LogisticRegression

    spread = vectors.std() or 1.0
    head = LogisticRegression(C=0.1, max_iter=2000).fit(vectors / spread, labels)
    weight, bias = head.coef_[0] / spread / 2, head.intercept_[0] / 2
    return np.stack([-weight, weight]).astype(np.float32), np.array([-bias, bias], dtype=np.float32)


def with_head(folder: str, dtype: str, weight: np.ndarray, bias: np.ndarray) -> Any:
    """transformers' own classifier of that architecture with this head; the weights below it stay as they are."""
    import torch
    from transformers import AutoModelForSequenceClassification

    kind = getattr(torch, dtype)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, dtype=kind)
    model.score = torch.nn.Linear(weight.shape[1], 2, bias=True).to(kind)
    with torch.no_grad():
        model.score.weight.copy_(torch.from_numpy(weight))
        model.score.bias.copy_(torch.from_numpy(bias))
    return model


def _duel(arguments: Any, texts: Texts, theirs: Callable[[Texts], Any], ours: Callable[[Texts], Any]) -> common.Duel:
    theirs(texts[:WARM_UP_ROWS])
    ours(texts[:WARM_UP_ROWS])
    return common.duel(lambda: theirs(texts), lambda: ours(texts), rounds=arguments.rounds, n=len(texts), names=NAMES)


def _softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


PARTS = {"embedding": embedding, "classification": classification}


def main() -> int:
    """Both parts, or the one asked for."""
    parser = common.parser(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rows", type=int, default=2000, help="messages for the encoder")
    parser.add_argument("--decoder-rows", type=int, default=400, help="messages for the decoder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=common.DTYPES, default="bfloat16")
    parser.add_argument("--tie", type=float, help=f"default by dtype: {TIES}")
    parser.add_argument("--threads", type=int, help="of torch, for both sides")
    arguments = parser.parse_args()
    common.offline()
    logging.disable(logging.WARNING)
    facts = common.describe()

    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    facts |= {"dtype": arguments.dtype, "threads": torch.get_num_threads(), "peer_batch_size": 32}
    targets = []
    for name in arguments.parts:
        print(f"\n{name}, {arguments.dtype}", flush=True)
        facts[name], found = PARTS[name](arguments)
        targets += found
    return common.finish("bulk_rows", facts, targets)


if __name__ == "__main__":
    common.run(main)
