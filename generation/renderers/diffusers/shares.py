"""A batch's rows shared out among a CPU's cores, each share from the first layer to the last.

Rows do not need each other. Where instead every layer is split among threads, as torch does it,
they wait for each other after every layer: long, where layers are small, and longest where another
program takes a core from one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from threading import Barrier, local
from typing import Any

import torch

_here = local()


def share() -> int:
    """The number of the share that this thread computes, from 0; 0 outside of them."""
    return getattr(_here, "number", 0)


def shared_out(forward: Callable[..., Any], cores: int) -> Callable[..., Any]:
    """A denoiser's `forward` that gives each of the cores equally many rows, in a thread of its own
    that computes alone. Where the rows cannot be dealt out evenly, it is `forward`.

    The first argument's first axis are the rows, and so is that of every tensor as long; they may
    lie in dictionaries. It has to return tuples, whatever is asked for.
    """
    pool = _threads(cores)

    @wraps(forward)
    def deal(first: torch.Tensor, *rest: Any, **named: Any) -> Any:
        rows = len(first)
        if rows % cores:
            return forward(first, *rest, **named)
        inference = torch.is_inference_mode_enabled()  # each thread has a mode of its own

        def compute(number: int) -> Any:
            _here.number = number
            own = slice(number * rows // cores, (number + 1) * rows // cores)
            with torch.inference_mode(inference):
                return forward(*_own((first, *rest), rows, own), **_own(named, rows, own))

        return tuple(map(torch.cat, zip(*pool.map(compute, range(cores)), strict=True)))

    return deal


def _threads(count: int) -> ThreadPoolExecutor:
    """As many threads, in each of which torch computes alone; elsewhere it goes on as it did."""
    usual = torch.get_num_threads()
    all_here = Barrier(count + 1)

    def begin() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # or it would take over what is set for all at its first use
        all_here.wait()

    pool = ThreadPoolExecutor(count, "denoising", begin)
    for _ in range(count):
        pool.submit(int)
    all_here.wait()
    torch.set_num_threads(usual)
    return pool


def _own(given: Any, rows: int, own: slice) -> Any:
    """The given values, those of all rows cut down to those of `own`."""
    if isinstance(given, torch.Tensor):
        return given[own] if given.ndim and len(given) == rows else given
    if isinstance(given, dict):
        return {name: _own(value, rows, own) for name, value in given.items()}
    return tuple(_own(value, rows, own) for value in given) if isinstance(given, tuple) else given
