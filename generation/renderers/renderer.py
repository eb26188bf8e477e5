"""What paints cells, and how painted pictures come into the run folder.

A renderer returns bytes and knows no folder; only the store writes. What follows the protocol can
be run through `generation.renderers.conformance.renderer_conforms`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from generation.cells import Cell, Picture, RendererRecord
from generation.errors import UserError
from generation.executors import never
from generation.pictures.store import Store


class Renderer(Protocol):
    """Paints cells. Subclasses need `identity` and `render`; the rest has a plain answer here."""

    def identity(self, cell: Cell) -> Mapping[str, Any]:
        """What decides the cell's pixels besides case, LoRA and strength (JSON-ready): program,
        version, model, settings. It enters the content key, so that a change renders anew."""
        ...

    def render(
        self, cells: Sequence[Cell], stopped: Callable[[], bool] = never
    ) -> Iterator[Picture]:
        """One picture for each cell, in any order, as they are painted; one that cannot be painted
        has a reason. A cell's pixels do not depend on the other cells.

        `stopped` is asked before anything new is begun, and may take its time (a pause); once it
        says yes, what is in flight is still yielded, and nothing more.
        """
        ...

    def begin(self, cells: Sequence[Cell], out: Path) -> Renderer:
        """The renderer that paints a study of these cells in this run folder, all decided."""
        return self

    def otherwise(self) -> Renderer:
        """A renderer of the same pictures up to rounding, for measuring what rounding does."""
        return self

    def seconds(self, cells: Sequence[Cell]) -> float | None:
        """How long these cells would take, from a trial; None where that cannot be told."""
        return None

    def record(self) -> RendererRecord:
        """What run.json says of the renderer."""
        return RendererRecord()

    @property
    def engine(self) -> Any:
        """The base model, for metrics that ask it. Raises UserError where it is not at hand."""
        raise UserError(
            "this renderer has no base model that metrics could ask; leave them out.", "metrics"
        )

    @property
    def warm_up(self) -> int:
        """After how many pictures all is loaded, and the pace is that of the rest."""
        return 1

    @property
    def busy(self) -> bool:
        """Whether it keeps this machine's cores busy, so that measuring beside it gains nothing."""
        return False


@dataclass(frozen=True)
class Landed:
    """A cell and where its picture lies; `path` is None when it failed, and `reason` says why."""

    cell: Cell
    path: Path | None
    reason: str = ""
    fresh: bool = True


def land(
    cells: Sequence[Cell],
    renderer: Renderer,
    store: Store,
    *,
    resume: bool = True,
    stopped: Callable[[], bool] = never,
) -> Iterator[Landed]:
    """Every cell's picture: first those that lie there already, then each as it is written.

    Without `resume` all are painted anew, and what lies there is kept aside.
    """
    missing = store.settle(cells) if resume else store.set_aside(cells)
    absent = set(missing)
    for cell in cells:
        if cell not in absent:
            yield Landed(cell, store.path(cell), fresh=False)
    if missing:
        for picture in renderer.render(missing, stopped):
            path = store.save(picture) if picture.png else None
            yield Landed(picture.cell, path, picture.reason)
