"""Few-shot label scoring: slmkit beside lm-evaluation-harness (HFLM.loglikelihood) on the same prompts.

Work: Financial PhraseBank AllAgree, 6-shot plain prompts, one continuation a label, SmolLM2-135M from the same folder.
Fair to the peer: it keeps its own grouping of one-token continuations (one forward pass a prompt, its default), and it
is given the batch size it is fastest with, found on some of the rows before. "auto" is not among them, for it would
search again in every timed call. Both sides start from strings, both are warm, both have the same threads and dtype.
What slmkit does instead: the part that all prompts share is computed once, and the vocabulary only where it is read.

Speed counts in --dtype (bfloat16). Equality counts in float32: log-likelihoods within 1e-3 nats, same predictions.

    pip install -c constraints.txt -e ".[bnb,bench]"
    SLMKIT_ASSETS=../shared/data python -m benchmarks.few_shot_scoring
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import common

MODEL = "smollm2-135m-instruct"
MIN_RATIO, MAX_DIFFERENCE = 5.0, 1e-3
WARM_UP_ROWS, SEARCH_ROWS = 4, 32
Score = Callable[[Sequence[str]], np.ndarray]  # prompts -> log-likelihoods (n_prompts, n_labels)


def prompts_and_words(n: int, shots: int) -> tuple[list[str], list[str]]:
    """`n` prompts of held-out rows, with examples from the training rows, and the continuations."""
    from slmkit import data, prompts, tasks

    task = tasks.get("financial_phrasebank")
    split = data.split(task.load(), seed=0, test=n)
    codes = np.array([task.labels.index(label) for label in split.train["label"]])
    examples = prompts.pick_examples(split.train["text"].tolist(), codes, len(task.labels), shots, seed=0)
    words = prompts.label_words(task.labels, task.label_words)
    prompting = prompts.Prompting(task.instruction, words, task.noun.capitalize(), examples)
    return [prompting.plain(text) for text in split.test["text"]], prompting.continuations(chat=False)


def peer_scorer(folder: str, dtype: str, words: list[str]) -> tuple[Score, Any]:
    """lm-evaluation-harness on that folder, and its model object (whose `batch_size_per_gpu` may be set)."""
    import torch
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = HFLM(pretrained=folder, dtype=dtype, device=device, batch_size=8)

    def score(prompts: Sequence[str]) -> np.ndarray:
        requests = [
            Instance(request_type="loglikelihood", doc={}, arguments=(prompt, word), idx=i)
            for prompt in prompts
            for i, word in enumerate(words)
        ]
        found = model.loglikelihood(requests, disable_tqdm=True)
        return np.array([value for value, _ in found]).reshape(len(prompts), len(words))

    return score, model


def own_scorer(dtype: str, words: list[str]) -> tuple[Score, Any]:
    """slmkit on the same model, and its model object."""
    import slmkit

    model = slmkit.load(MODEL, dtype=dtype)
    return lambda prompts: model.loglikelihood(prompts, words), model


def best_batch_size(score: Score, model: Any, prompts: list[str], sizes: Sequence[int]) -> int:
    """The peer's fastest batch size on the first rows; the rows are few, so that batches up to 32 are full."""
    if len(sizes) == 1:
        return sizes[0]
    seconds = {}
    for size in sizes:
        model.batch_size_per_gpu = size
        seconds[size], _ = common.timed(lambda: score(prompts[:SEARCH_ROWS]))
        print(
            f"peer, batch size {size:>2}: {seconds[size]:6.2f} s for {min(SEARCH_ROWS, len(prompts))} rows", flush=True
        )
    return min(seconds, key=lambda size: seconds[size])


def compare_speed(arguments: Any, folder: str, prompts: list[str], words: list[str]) -> dict[str, Any]:
    """The timed part in `--dtype`."""
    theirs, peer = peer_scorer(folder, arguments.dtype, words)
    ours, own = own_scorer(arguments.dtype, words)
    theirs(prompts[:WARM_UP_ROWS])
    ours(prompts[:WARM_UP_ROWS])
    peer.batch_size_per_gpu = best_batch_size(theirs, peer, prompts, arguments.peer_batch_sizes)
    print(f"peer takes batch size {peer.batch_size_per_gpu}; {len(prompts)} rows, {arguments.dtype}\n")
    duel = common.duel(
        lambda: theirs(prompts),
        lambda: ours(prompts),
        rounds=arguments.rounds,
        n=len(prompts),
        names=("lm-evaluation-harness", "slmkit"),
    )
    own.release()
    facts = duel.facts(len(prompts)) | {"peer_batch_size": peer.batch_size_per_gpu, "dtype": arguments.dtype}
    return facts | {f"{arguments.dtype}_equality": agreement(duel.peer_result, duel.own_result)}


def compare_values(folder: str, prompts: list[str], words: list[str]) -> dict[str, Any]:
    """Both sides in float32, once, untimed."""
    theirs, _ = peer_scorer(folder, "float32", words)
    ours, own = own_scorer("float32", words)
    found = agreement(theirs(prompts), ours(prompts))
    own.release()
    return found


def agreement(peer: np.ndarray, own: np.ndarray) -> dict[str, Any]:
    """How near two arrays of log-likelihoods are, shape (n_prompts, n_labels) each."""
    same = int((peer.argmax(axis=1) == own.argmax(axis=1)).sum())
    return {"n": len(peer), "max_abs_difference": float(np.abs(peer - own).max()), "same_predictions": same}


def main() -> int:
    """Prompts, speed, equality, verdict."""
    parser = common.parser(__doc__)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shots", type=int, default=6)
    parser.add_argument("--dtype", choices=common.DTYPES, default="bfloat16", help="of the timed part")
    parser.add_argument("--peer-batch-sizes", type=int, nargs="+", default=[1, 4, 8, 16, 32])
    parser.add_argument("--float32-rows", type=int, help="rows compared in float32; default all, 0 skips that part")
    parser.add_argument("--threads", type=int, help="of torch, for both sides")
    arguments = parser.parse_args()
    common.offline()
    logging.disable(logging.WARNING)
    facts = common.describe()

    import torch

    from slmkit import assets, backends

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    folder = str(backends.prepare(assets.resolve(MODEL)).folder)
    prompts, words = prompts_and_words(arguments.rows, arguments.shots)
    facts |= {"n": len(prompts), "shots": arguments.shots, "threads": torch.get_num_threads(), "model": MODEL}
    facts |= compare_speed(arguments, folder, prompts, words)
    targets = [common.Target("times as fast as lm-evaluation-harness", facts["ratio"], MIN_RATIO)]
    gc.collect()
    checked = prompts[: arguments.float32_rows]
    if checked:
        print(f"\ncomparing values of {len(checked)} rows in float32", flush=True)
        facts["float32_equality"] = found = compare_values(folder, checked, words)
        targets += [
            common.Target("largest difference in float32, nats", found["max_abs_difference"], MAX_DIFFERENCE, False),
            common.Target("same predictions in float32", found["same_predictions"], found["n"]),
        ]
    return common.finish("few_shot_scoring", facts, targets)


if __name__ == "__main__":
    common.run(main)
