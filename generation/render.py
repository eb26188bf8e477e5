"""Missing cells -> pictures in the run folder, weights switched as rarely as possible."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from generation.cells import Cell
from generation.errors import UserError
from generation.store import Store

if TYPE_CHECKING:
    from generation.engine import Engine


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
    open_engine: Callable[[], Engine],
    on_step: Callable[[], None] | None = None,
    resume: bool = True,
) -> Iterator[Rendered]:
    """Yield every cell's picture: first those that lie there already, then each as it is written.

    The model is loaded only if something is missing. A checkpoint that cannot be applied fails its
    own cells and no others. When memory runs out, the batch is halved and rendering goes on; the
    picture's own text records the batch it came from.
    """
    missing = store.settle(cells) if resume else store.set_aside(cells)
    absent = set(missing)
    for cell in cells:
        if cell not in absent:
            yield Rendered(cell, store.path(cell), fresh=False)
    if not missing:
        return
    engine = open_engine()
    for (checkpoint, strength), group in groupby(missing, lambda c: (c.checkpoint, c.strength)):
        queue = list(group)
        try:
            engine.apply(checkpoint, strength)
        except UserError as error:
            yield from (Rendered(cell, None, str(error)) for cell in queue)
            continue
        while queue:
            chunk = queue[: engine.batch_size]
            try:
                pictures = engine.render([cell.case for cell in chunk], on_step=on_step)
            except MemoryError:
                if engine.batch_size == 1:
                    raise UserError(
                        f"--device: {store.settings.device} has too little memory for one picture "
                        f"of {store.settings.width}x{store.settings.height}; lower --size."
                    ) from None
                engine.batch_size //= 2
                continue
            for cell, picture in zip(chunk, pictures, strict=True):
                yield Rendered(cell, store.save(cell, picture, batch_size=engine.batch_size))
            queue = queue[len(chunk) :]
