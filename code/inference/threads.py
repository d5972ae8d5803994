"""Work in threads, in order and bounded: reading ahead of whoever predicts, scoring and writing behind."""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from os import cpu_count
from typing import TypeVar

Thing = TypeVar("Thing")
Made = TypeVar("Made")

READERS = 3
"""Threads that read ahead; files are decoded without the interpreter's lock."""
WORKERS = min(cpu_count() or 1, 16)
"""Threads that score or write."""


def in_threads(work: Callable[[Thing], Made], things: Iterable[Thing], threads: int, most: int) -> Iterator[Made]:
    """What `work` makes of each thing, in order; `things` is walked by the caller's thread, `most` results at most wait or are under way.

    Whoever stops early, or an exception of either side, waits for what is under way; nothing further is begun.
    """
    with ThreadPoolExecutor(max(1, min(threads, most))) as pool:
        waiting: deque[Future[Made]] = deque()
        try:
            for thing in things:
                waiting.append(pool.submit(work, thing))
                if len(waiting) >= most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
