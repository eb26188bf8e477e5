"""What every renderer and every executor keeps to, as tests that any of them can be run through.

Each function raises AssertionError with the rule that is broken.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict

import numpy as np

from generation.cells import Cell, RendererRecord
from generation.executors import Executor
from generation.pictures.pixels import decode_image
from generation.renderers.renderer import Renderer


def renderer_conforms(open_renderer: Callable[[], Renderer], cells: Sequence[Cell]) -> None:
    """`cells` are a few, controls first, then cells with LoRAs at strengths other than 0."""
    renderer = open_renderer()
    for cell in cells:
        identity = renderer.identity(cell)
        assert json.loads(json.dumps(identity)) == json.loads(json.dumps(dict(identity)))
        assert identity == open_renderer().identity(cell), "the identity follows from the settings"
    record = renderer.record()
    assert isinstance(record, RendererRecord)
    json.dumps(asdict(record))
    pictures = {picture.cell: picture for picture in renderer.render(cells)}
    assert set(pictures) == set(cells), "one picture for every cell, and no other"
    painted = {}
    for cell, picture in pictures.items():
        assert bool(picture.png) != bool(picture.reason), "a picture, or the reason for none"
        json.dumps(picture.facts)
        if picture.png:
            painted[cell] = decode_image(picture.png)
    again = {p.cell: p for p in open_renderer().render(cells[::-1])}
    for cell, pixels in painted.items():
        same = np.array_equal(decode_image(again[cell].png), pixels)
        assert same, "a cell's pixels depend on no order and no neighbour"
    for cell, pixels in painted.items():
        control = painted.get(Cell(cell.case))
        if not cell.is_control and control is not None:
            assert not np.array_equal(pixels, control), "a LoRA at a strength changes the picture"
    repeated = {p.cell for p in renderer.otherwise().render(cells[:1])}
    assert repeated == set(cells[:1]), "what is painted otherwise is the same cells"
    assert not list(renderer.render([])), "nothing asked, nothing painted"
    assert not list(open_renderer().render(cells, lambda: True)), "stopped before it began"
    landed: list[Cell] = []
    for picture in open_renderer().render(cells, lambda: bool(landed)):
        landed.append(picture.cell)
    assert len(landed) > 0 and len(set(landed)) == len(landed), "in flight when it was stopped"
    rest = [cell for cell in cells if cell not in landed]
    for picture in renderer.render(rest):
        if picture.cell in painted:
            same = np.array_equal(decode_image(picture.png), painted[picture.cell])
            assert same, "what is painted after a stop is what would have been painted"


def open_doubling() -> Callable[[int], bytes]:
    """A worker whose results are bytes: twice the number."""
    return lambda number: str(2 * number).encode()


def executor_conforms(executor: Executor) -> None:
    """Results of all tasks, each once; tasks are pulled no further than there is room for them."""
    wanted = {str(2 * number).encode() for number in range(40)}
    found = list(executor.map(open_doubling, range(40)))
    assert set(found) == wanted and len(found) == 40, "every task has one result"
    assert not list(executor.map(open_doubling, [])), "no task, no result"
    pulled: list[int] = []

    def tasks() -> Iterator[int]:
        for number in range(10_000):
            pulled.append(number)
            yield number

    results = executor.map(open_doubling, tasks())
    next(results)
    assert len(pulled) < 5_000, "tasks are pulled as they are needed, not all at once"
    if isinstance(results, Generator):
        results.close()
    seen: list[bytes] = []
    for result in executor.map(open_doubling, range(10_000), lambda: len(seen) >= 3):
        seen.append(result)
    assert 3 <= len(seen) < 5_000, "stopped, it finishes what is at work and begins nothing"
    assert not list(executor.map(open_doubling, range(5), lambda: True)), "stopped before it began"
