"""Independent pieces of a layer, computed side by side on a CPU: two small products on one thread each take less time
than one after the other on two. It knows no layer; what the pieces share is their callers' business.

The pieces write to places of their own, so that the result does not depend on who computes which, and when.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Any

import torch


def run_all(compute: Callable[..., None], pieces: Iterable[tuple[Any, ...]], most: int, device: torch.device) -> None:
    """Calls `compute(*piece)` for every piece, without gradients; `most` is how many there may ever be.

    Raises what a piece raised, once no other is being computed any more.
    """
    threads = torch.get_num_threads()
    workers = min(threads, most)
    # What counts operations or replaces tensors does so in its own thread only.
    watched = torch._C._len_torch_dispatch_stack() > 0
    if workers == 1 or device.type != "cpu" or watched:
        for piece in pieces:
            compute(*piece)
        return
    pool = _pool(workers, threads)
    waiting = [pool.submit(_without_gradients, compute, piece) for piece in pieces]
    wait(waiting)
    for done in waiting:
        done.result()


@cache  # layers have different numbers of experts once one was added
def _pool(workers: int, threads: int) -> ThreadPoolExecutor:
    """A pool that shares `threads` out among its workers."""

    def begin() -> None:
        torch.get_num_threads()  # a thread takes over the common number at its first question
        torch.set_num_threads(threads // workers)

    pool = ThreadPoolExecutor(workers, thread_name_prefix="lumina-expert", initializer=begin)
    everybody = threading.Barrier(workers)
    wait([pool.submit(everybody.wait) for _ in range(workers)])
    torch.set_num_threads(threads)  # what threads to come begin with; the workers keep theirs
    return pool


def _without_gradients(compute: Callable[..., None], piece: tuple[Any, ...]) -> None:
    with torch.no_grad():
        compute(*piece)
