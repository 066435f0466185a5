"""Work on several threads of one torch thread each.

torch's own threads meet at the end of every operation, so on a machine that others use too, each operation waits for the
one that was put aside: four times slower here than threads that only meet when a whole batch is done.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

os.environ["OMP_NUM_THREADS"] = "1"

import torch  # noqa: E402  (after the number of threads is set)

torch.set_num_threads(1)

A, B = TypeVar("A"), TypeVar("B")


class Workers:
    def __init__(self, threads: int) -> None:
        self.pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))

    def each(self, function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
        """The results in the order of the items."""
        return self.pool.map(function, items)
