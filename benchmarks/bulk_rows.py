"""Bulk rows/s: slmkit beside transformers.pipeline (batch_size=32) on the same model files and the same messages.

- embedding: all-MiniLM-L6-v2, `pipeline("feature-extraction", return_tensors=True)` beside `embed`. The peer's clock
  stops at its token features; pooling them into a vector a text, which slmkit's time includes, is left out of its time.
- classification: SmolLM2-135M with a head of two classes on the last token, `pipeline("text-classification")` beside
  `embed(pooling="last")` and the head. The head is fitted once on vectors of training rows and then given to both.

Messages come in file order (SMS Spam, de-duplicated), as they would from a file. slmkit sorts by length and pads less.
Both sides are warm, have the same threads and dtype, and a process each. Their results are compared in the same run:
pooled vectors by cosine, classes by argmax (two probabilities of a class that differ by less than --tie count as equal,
for low precision rounds).

    pip install -c constraints.txt -e ".[bnb]"
    SLMKIT_ASSETS=../shared/data python -m benchmarks.bulk_rows
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import common

ENCODER, DECODER = "minilm", "smollm2-135m-instruct"
MIN_RATIO, MIN_COSINE = 1.5, 0.999
PEER_BATCH = 32
WARM_UP_ROWS = 64
HEAD_ROWS = 200
TIES = {"float32": 1e-4, "bfloat16": 0.05, "float16": 0.01}
NAMES = ("transformers.pipeline", "slmkit")
Head = tuple[np.ndarray, np.ndarray]  # weight (2, hidden), bias (2,)


class PeerEmbedder:
    """transformers' feature-extraction pipeline."""

    def __init__(self, folder: str, dtype: str, threads: int | None) -> None:
        import torch
        from transformers import AutoModel

        common.set_up(threads)
        model = AutoModel.from_pretrained(folder, dtype=getattr(torch, dtype))
        self.pipe = make_pipeline("feature-extraction", model, folder)
        self.texts: list[str] = []
        self.found: list[Any] = []  # token features (1, T, hidden), one a text

    def run(self, texts: list[str]) -> None:
        """Token features of every text."""
        self.texts, self.found = texts, self.pipe(texts, return_tensors=True, truncation=True)

    def result(self) -> np.ndarray:
        """Mean over the tokens that are not padding, of length 1: float32, shape (n_texts, hidden)."""
        import torch

        lengths = [len(ids) for ids in self.pipe.tokenizer(self.texts, truncation=True)["input_ids"]]
        pooled = [f[0, :n].float().mean(dim=0) for f, n in zip(self.found, lengths, strict=True)]
        return np.asarray(torch.nn.functional.normalize(torch.stack(pooled), dim=1).cpu().numpy())


class PeerClassifier:
    """transformers' text-classification pipeline: its class for the architecture, the head of `OwnClassifier`."""

    def __init__(self, folder: str, dtype: str, threads: int | None, head: Head) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification

        common.set_up(threads)
        kind = getattr(torch, dtype)
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, dtype=kind)
        model.score = torch.nn.Linear(head[0].shape[1], 2, bias=True).to(kind)
        model.score.load_state_dict({"weight": torch.from_numpy(head[0]), "bias": torch.from_numpy(head[1])})
        self.pipe = make_pipeline("text-classification", model, folder)
        self.found: list[list[dict[str, Any]]] = []

    def run(self, texts: list[str]) -> None:
        """Probabilities of both classes."""
        self.found = self.pipe(texts, top_k=None, truncation=True)

    def result(self) -> np.ndarray:
        """Probability of spam, shape (n_texts,)."""
        return np.array([next(s["score"] for s in row if s["label"] == "LABEL_1") for row in self.found])


class Own:
    """slmkit's vectors."""

    def __init__(self, model: str, dtype: str, threads: int | None) -> None:
        import slmkit

        self.model = slmkit.load(model, dtype=dtype)
        self.n_threads = common.set_up(threads)
        self.found = np.zeros(0)

    def run(self, texts: list[str]) -> None:
        """Mean-pooled vectors."""
        self.found = self.model.embed(texts)

    def result(self) -> np.ndarray:
        """What `run` found."""
        return self.found

    def facts(self) -> dict[str, Any]:
        """Folder of the model's files, which the peer loads too, and torch's threads."""
        return {"folder": str(self.model.source.folder), "threads": self.n_threads}


class OwnClassifier(Own):
    """slmkit's vectors of the last token, and a head on them as `LoRAClassifier` has it."""

    def fit(self, texts: list[str], labels: np.ndarray) -> Head:
        """A logistic head for these rows, in float32."""
        from sklearn.linear_model import LogisticRegression

        vectors = self.model.embed(texts, pooling="last")
        spread = vectors.std()
        head = LogisticRegression(C=0.1, max_iter=2000).fit(vectors / spread, labels)
        half, bias = head.coef_[0] / spread / 2, head.intercept_[0] / 2
        self.head = np.stack([-half, half]).astype(np.float32), np.array([-bias, bias], dtype=np.float32)
        return self.head

    def run(self, texts: list[str]) -> None:
        """Probability of spam, shape (n_texts,)."""
        from scipy.special import softmax

        weight, bias = self.head
        vectors = self.model.embed(texts, pooling="last")
        self.found = softmax(vectors.astype(np.float64) @ weight.T + bias, axis=1)[:, 1]


def make_pipeline(task: str, model: Any, folder: str) -> Any:
    """transformers' pipeline on the device slmkit takes too; a model without a padding token gets its end token."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    device = 0 if torch.cuda.is_available() else "cpu"
    return transformers.pipeline(task, model=model.eval(), tokenizer=tokenizer, batch_size=PEER_BATCH, device=device)


def messages(n: int, n_train: int | None = None) -> tuple[list[str], list[str], np.ndarray]:
    """`n` messages in file order, and others with their classes (1 is spam)."""
    from slmkit import data, tasks

    split = data.split(tasks.get("sms_spam").load(), seed=0, test=n, train=n_train)
    labels = (split.train["label"] == "spam").to_numpy().astype(int)
    return split.test.sort_index()["text"].tolist(), split.train["text"].tolist(), labels


def embedding(arguments: Any) -> tuple[dict[str, Any], list[common.Target]]:
    """MiniLM: token features of the pipeline beside slmkit's vectors."""
    texts, _, _ = messages(arguments.rows)
    with common.Side(Own, ENCODER, arguments.dtype, arguments.threads) as own:
        facts = own.call("facts")[1]
        with common.Side(PeerEmbedder, facts.pop("folder"), arguments.dtype, arguments.threads) as peer:
            duel = warm_duel(arguments, peer, own, texts)
            cosine = float((peer.call("result")[1] * own.call("result")[1]).sum(axis=1).min())
    facts |= {"n": len(texts), "model": ENCODER, "min_cosine": cosine} | duel.facts(len(texts))
    return facts, [
        common.Target("embedding, times as fast as transformers.pipeline", duel.ratio, MIN_RATIO),
        common.Target("embedding, smallest cosine between the two", cosine, MIN_COSINE),
    ]


def classification(arguments: Any) -> tuple[dict[str, Any], list[common.Target]]:
    """SmolLM2 with one head: the pipeline's probabilities beside slmkit's."""
    texts, train, labels = messages(arguments.decoder_rows, HEAD_ROWS)
    with common.Side(OwnClassifier, DECODER, arguments.dtype, arguments.threads) as own:
        facts = own.call("facts")[1]
        head = own.call("fit", train, labels)[1]
        with common.Side(PeerClassifier, facts.pop("folder"), arguments.dtype, arguments.threads, head) as peer:
            duel = warm_duel(arguments, peer, own, texts)
            theirs, ours = peer.call("result")[1], own.call("result")[1]
    off, differ = np.abs(theirs - ours), (theirs > 0.5) != (ours > 0.5)
    tie = TIES[arguments.dtype] if arguments.tie is None else arguments.tie
    beyond = int((differ & (off >= tie)).sum())
    facts |= {"n": len(texts), "model": DECODER, "called_spam": float((ours > 0.5).mean())} | duel.facts(len(texts))
    facts |= {"max_abs_difference": float(off.max()), "differ": int(differ.sum()), "tie": tie}
    return facts, [
        common.Target("classification, times as fast as transformers.pipeline", duel.ratio, MIN_RATIO),
        common.Target("classification, rows of another class (ties aside)", beyond, 0, at_least=False),
    ]


def warm_duel(arguments: Any, peer: common.Side, own: common.Side, texts: list[str]) -> common.Duel:
    """Both sides on a few rows, then timed on all."""
    for side in (peer, own):
        side.call("run", texts[:WARM_UP_ROWS])
    return common.duel(peer, own, texts, rounds=arguments.rounds, names=NAMES)


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
    common.environment()
    facts = common.describe() | {"dtype": arguments.dtype, "peer_batch_size": PEER_BATCH}
    targets = []
    for name in arguments.parts:
        print(f"\n{name}, {arguments.dtype}", flush=True)
        facts[name], found = PARTS[name](arguments)
        targets += found
    return common.finish("bulk_rows", facts, targets)


if __name__ == "__main__":
    common.run(main)
