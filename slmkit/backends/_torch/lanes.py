"""Parts of a batch on threads of their own, one of torch's threads each, where a CPU has several.

Shared among threads, each of the many small products of a step waits for the slowest of them, and whatever else is done
to its output runs on one. Parts of a batch need nothing of each other until their gradients are added up. That is done
in the order of the parts, so that a training repeats to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from threading import Barrier
from typing import TypeVar

import numpy as np
import torch

from slmkit.backends import _shared as shared

MAX_LANES = 4  # further threads are shared out among them
Part = TypeVar("Part")
Result = TypeVar("Result")


class Lanes:
    """Threads for the parts of a batch; with `n` of 1 the parts follow each other in the caller's thread."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._pool: ThreadPoolExecutor | None = None

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Have the threads, and give them back."""
        threads = torch.get_num_threads()
        if self.n == 1:
            yield
            return
        met = Barrier(self.n)
        with ThreadPoolExecutor(self.n, "slmkit-lane", _take, (threads // self.n,)) as self._pool:
            wait([self._pool.submit(met.wait) for _ in range(self.n)])
            torch.set_num_threads(threads)  # threads that others start take the number that was set last
            try:
                yield
            finally:
                self._pool = None

    def parts(self, lengths: Sequence[int], max_tokens: int) -> list[np.ndarray] | None:
        """Indices in parts of like length and like work, or None where a row is too long to share memory with others.

        Parameters
        ----------
        lengths : sequence of int
        max_tokens : int
            At work at once over all lanes, padding included.
        """
        most = max_tokens // self.n
        if self._pool is None or max(lengths) > most:
            return None
        rounds = -(-len(shared.length_batches(lengths, most)) // self.n)
        least, most = max(lengths), most
        while least < most:  # the smallest parts of which there are no more
            middle = (least + most) // 2
            if len(shared.length_batches(lengths, middle)) <= rounds * self.n:
                most = middle
            else:
                least = middle + 1
        return shared.length_batches(lengths, most)

    def map(self, work: Callable[[Part], Result], parts: Sequence[Part]) -> Iterator[Result]:
        """Results in the order of the parts; an error of one leaves none running."""
        if self._pool is None:
            yield from map(work, parts)
            return
        asked = [self._pool.submit(work, part) for part in parts]
        try:
            for future in asked:
                yield future.result()
        finally:
            for future in asked:
                future.cancel()
            wait(asked)


def _take(threads: int) -> None:
    """Have the calling thread compute on so many: a thread of torch's takes the number that holds when it is asked."""
    torch.set_num_threads(threads)
    torch.get_num_threads()


def usable(where: torch.device) -> int:
    """Lanes for a training on this device: one but on a CPU with several threads."""
    return min(MAX_LANES, torch.get_num_threads()) if where.type == "cpu" else 1
