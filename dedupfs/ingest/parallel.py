"""Work on many things at once, where each of them waits for a worker process or for the disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

_PROGRESS_SECONDS = 0.2

_Item = TypeVar("_Item")


def in_parallel(
    work: Callable[[_Item], None], items: Sequence[_Item], threads: int, progress: Callable[[int, int], None]
) -> None:
    """Do the work for every item, in their order as far as threads allow; the first failure ends it and is raised.

    `progress` is told on the calling thread how many are done, and of how many.
    """
    lock = threading.Lock()
    waiting = iter(items)
    done = 0
    failures: list[BaseException] = []

    def run() -> None:
        nonlocal done
        while not failures:
            with lock:
                try:
                    item = next(waiting)
                except StopIteration:
                    return
            try:
                work(item)
            except Exception as exc:  # noqa: BLE001  It is raised again on the thread that waits.
                failures.append(exc)
            with lock:
                done += 1

    running = [threading.Thread(target=run, name=f"parallel-{number}", daemon=True) for number in range(threads)]
    for thread in running:
        thread.start()
    try:
        for thread in running:
            while thread.is_alive():
                progress(done, len(items))
                thread.join(_PROGRESS_SECONDS)
    except BaseException as exc:
        failures.append(exc)
        raise
    if failures:
        raise failures[0]
