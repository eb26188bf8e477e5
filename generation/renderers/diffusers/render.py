"""Missing cells -> pictures in the run folder, weights switched as rarely as possible.

Pictures are decoded, compressed and written by threads while the next ones are denoised. With
several devices, one process for each takes pieces of the work; a picture's bits do not depend on
which.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from generation.cells import Cell
from generation.errors import UserError, named
from generation.executors import ProcessPool, worker_number
from generation.pictures.store import Store

if TYPE_CHECKING:
    from generation.renderers.diffusers.engine import Engine

T = TypeVar("T")

WRITERS = 2
"""Threads that write pictures: PNG compression scales 1.6 times from one to two."""

BATCHES_A_TASK = 4
"""What a device's process takes at once: long enough to overlap writing, short enough to share."""

NOT_FINITE = (
    "the model painted no finite picture (its numbers overflowed); try another dtype (bfloat16, "
    "float32) or other strengths"
)


@dataclass(frozen=True)
class Rendered:
    """A cell and where its picture lies; `path` is None when it failed, and `reason` says why."""

    cell: Cell
    path: Path | None
    reason: str = ""
    fresh: bool = True


def render(
    cells: Sequence[Cell],
    store: Store,
    open_engine: Callable[..., Engine],
    on_step: Callable[[], None] | None = None,
    resume: bool = True,
    devices: Sequence[str] = (),
) -> Iterator[Rendered]:
    """Yield every cell's picture: first those that lie there already, then each as it is written.

    The model is loaded only if something is missing. A checkpoint that cannot be applied fails its
    own cells and no others. When memory runs out, the batch is halved and rendering goes on; the
    picture's own text records the batch it came from. Ctrl-C takes effect when the pictures in
    flight are saved, a second Ctrl-C at once.

    With more than one device, `open_engine` (picklable) is called with a device's name in a
    process of its own for each; else without arguments, here.
    """
    missing = store.settle(cells) if resume else store.set_aside(cells)
    absent = set(missing)
    for cell in cells:
        if cell not in absent:
            yield Rendered(cell, store.path(cell), fresh=False)
    if not missing:
        return
    if len(devices) < 2:
        yield from _render_here(missing, store, open_engine(), on_step)
        return
    pieces = [
        piece
        for stretch in stretches(missing, store.settings.mixed)
        for piece in _pieces(stretch, BATCHES_A_TASK * store.settings.batch_size)
    ]
    worker = partial(_open_worker, open_engine, store, tuple(devices))
    for done in ProcessPool(min(len(devices), len(pieces))).map(worker, pieces):
        yield from done


def stretches(cells: Sequence[Cell], mixed: bool = False) -> list[list[Cell]]:
    """The cells in order, cut where the weights change.

    With `mixed`, which needs one batch for many strengths, they are cut where the checkpoint
    changes, and controls go with what follows them.
    """
    if not mixed:
        return [list(group) for _, group in groupby(cells, lambda c: (c.checkpoint, c.strength))]
    found: list[list[Cell]] = []
    for checkpoint, group in groupby(cells, lambda c: c.checkpoint):
        if found and checkpoint is not None and found[-1][-1].is_control:
            found[-1].extend(group)
        else:
            found.append(list(group))
    return found


def _open_worker(
    open_engine: Callable[..., Engine], store: Store, devices: Sequence[str]
) -> Callable[[list[Cell]], list[Rendered]]:
    engine = open_engine(devices[worker_number() % len(devices)])
    return lambda piece: list(_render_here(piece, store, engine, None))


@dataclass(frozen=True)
class _Flying:
    """A denoised batch on its way to the disk."""

    cells: Sequence[Cell]
    latents: Any
    paths: Future[list[Future[Path] | None]]

    def landed(self) -> bool:
        """Whether nothing has to be waited for any more."""
        if not self.paths.done():
            return False
        failed = self.paths.exception() is not None
        return failed or all(path is None or path.done() for path in self.paths.result())


def _render_here(
    cells: Sequence[Cell], store: Store, engine: Engine, on_step: Callable[[], None] | None
) -> Iterator[Rendered]:
    """Denoise here, decode in one thread and write in others; at most two batches wait for them."""
    flying: deque[_Flying] = deque()
    with ThreadPoolExecutor(WRITERS) as writers, ThreadPoolExecutor(1) as decoder:

        def decode(batch: Sequence[Cell], latents: Any) -> list[Future[Path] | None]:
            save = partial(store.save, batch_size=engine.batch_size)
            pictures = (engine.decode(latents[i : i + 1])[0] for i in range(len(batch)))
            return [
                None if picture is None else writers.submit(save, cell, picture)
                for cell, picture in zip(batch, pictures, strict=True)
            ]

        def land() -> Iterator[Rendered]:
            batch = flying.popleft()
            try:
                paths = batch.paths.result()
            except MemoryError:  # now that nothing is denoised beside it
                paths = decode(batch.cells, batch.latents)
            for cell, path in zip(batch.cells, paths, strict=True):
                if path is None:
                    yield Rendered(cell, None, NOT_FINITE)
                else:
                    yield Rendered(cell, path.result())

        # Two threads of a CPU's parallel loops would make the whole a third slower, and Metal's
        # one command queue is not made for two.
        beside = decoder.submit if engine.device.type == "cuda" else _at_once
        for queue in stretches(cells, engine.mixed):
            try:
                engine.prepare(queue)
            except UserError as error:
                failed = [cell for cell in queue if not cell.is_control]
                yield from (Rendered(cell, None, str(error)) for cell in failed)
                queue = [cell for cell in queue if cell.is_control]
                if queue:  # the study's own error then, and no checkpoint's
                    engine.prepare(queue)
            except MemoryError:
                raise UserError(
                    f"{store.settings.device} has too little memory to switch weights; "
                    f"try {named('low_vram')}.",
                    field="device",
                ) from None
            while queue:
                chunk = engine.batch(queue)
                strengths = [cell.strength for cell in chunk] if engine.mixed else []
                try:
                    with _finish_first():
                        latents = engine.denoise(
                            [cell.case for cell in chunk], strengths, on_step=on_step
                        )
                        paths = beside(decode, chunk, latents)
                        flying.append(_Flying(chunk, latents, paths))
                except MemoryError:
                    if not flying:
                        _halve(engine, store)
                    while flying:  # what is being decoded takes room too
                        yield from land()
                    continue
                queue = [cell for cell in queue if cell not in chunk]
                while flying and (flying[0].landed() or len(flying) > 2):
                    yield from land()
        while flying:
            yield from land()


def _at_once(work: Callable[..., T], *arguments: Any) -> Future[T]:
    """What an executor's `submit` returns, of work done here and now."""
    future: Future[T] = Future()
    try:
        future.set_result(work(*arguments))
    except MemoryError as error:
        future.set_exception(error)
    return future


def _halve(engine: Engine, store: Store) -> None:
    if engine.batch_size == 1:
        settings = store.settings
        raise UserError(
            f"{settings.device} has too little memory for one picture of "
            f"{settings.width}x{settings.height}; "
            f"lower {named('size')} or try {named('low_vram')}.",
            field="device",
        ) from None
    engine.batch_size //= 2


def _pieces(stretch: Sequence[Cell], size: int) -> Iterator[list[Cell]]:
    for start in range(0, len(stretch), size):
        yield list(stretch[start : start + size])


@contextmanager
def _finish_first() -> Iterator[None]:
    """Hold back the first Ctrl-C until the block is done; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def wait(_number: int, _frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        print("\nFinishing the pictures in flight; Ctrl-C again stops at once.", file=sys.stderr)

    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.SIG_IGN or usual is None:
        yield
        return
    signal.signal(signal.SIGINT, wait)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
        if asked:
            raise KeyboardInterrupt
