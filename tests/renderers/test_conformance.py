"""The suite's renderers and executors keep the rules, and each broken rule is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from toy import LATER, LORA, Toy, cases

from generation.cells import Cell, Picture, RenderSettings
from generation.executors import InProcess, ProcessPool, never
from generation.renderers.conformance import executor_conforms, renderer_conforms
from generation.renderers.renderer import Renderer

CELLS = [*map(Cell, cases(3)), *(Cell(c, LORA, Decimal("0.7")) for c in cases(3)),
         Cell(cases(1)[0], LATER, Decimal("0.7"))]  # fmt: skip


def test_the_toy_conforms() -> None:
    renderer_conforms(Toy, CELLS)


class Forgetful(Toy):
    def render(
        self, cells: Sequence[Cell], stopped: Callable[[], bool] = never
    ) -> Iterator[Picture]:
        return super().render(cells[1:], stopped)


class Unstoppable(Toy):
    def render(
        self, cells: Sequence[Cell], stopped: Callable[[], bool] = never
    ) -> Iterator[Picture]:
        return super().render(cells)


class Drifting(Toy):
    """Its pixels depend on what was painted before."""

    def paint(self, cell: Cell) -> Any:
        return super().paint(replace(cell, strength=cell.strength + len(self.painted)))


class Blind(Toy):
    def paint(self, cell: Cell) -> Any:
        return super().paint(Cell(cell.case))


class Restless(Toy):
    """Says something else of itself each time."""

    count = 0

    def identity(self, cell: Cell) -> Mapping[str, Any]:
        Restless.count += 1
        return {"count": Restless.count}


class Silent(Toy):
    """Fails without a reason."""

    def render(
        self, cells: Sequence[Cell], stopped: Callable[[], bool] = never
    ) -> Iterator[Picture]:
        return iter([Picture(cell) for cell in cells if not stopped()])


@pytest.mark.parametrize("broken", [Forgetful, Unstoppable, Drifting, Blind, Restless, Silent])
def test_each_broken_rule_is_found(broken: Callable[[], Renderer]) -> None:
    with pytest.raises(AssertionError):
        renderer_conforms(broken, CELLS)


@pytest.mark.parametrize("devices", [(), ("cpu", "cpu")])
def test_the_diffusers_renderer_conforms(devices: tuple[str, ...], model_folder: Path) -> None:
    pytest.importorskip("diffusers")
    from generation.renderers.diffusers.engine import find_model
    from generation.renderers.diffusers.render import DiffusersRenderer
    from generation.renderers.diffusers.setup import Setup

    folder = model_folder.parent / "lora"
    early, late = (
        replace(one, path=folder / f"pstr-00000{n}.safetensors")
        for one, n in ((LORA, 3), (LATER, 7))
    )
    one, two = cases(2)
    cells = [Cell(one), Cell(two), *(Cell(c, early, Decimal(1)) for c in (one, two)),
             Cell(one, late, Decimal(1))]  # fmt: skip
    settings = RenderSettings("demo", "0", 64, 64, 2, 4.0, "euler_a", batch_size=1)
    setup = Setup(find_model(str(model_folder)))
    renderer_conforms(lambda: DiffusersRenderer(settings, setup, devices=devices), cells)


@pytest.mark.parametrize("executor", [InProcess(), ProcessPool(1), ProcessPool(2)])
def test_executors_conform(executor: Any) -> None:
    executor_conforms(executor)


class Eager(InProcess):
    """Pulls every task before it works."""

    def map(self, open_worker: Any, tasks: Any, stopped: Any = never) -> Iterator[Any]:
        return super().map(open_worker, list(tasks), stopped)


class Deaf(InProcess):
    """Hears no stop."""

    def map(self, open_worker: Any, tasks: Any, stopped: Any = never) -> Iterator[Any]:
        return super().map(open_worker, tasks)


class Lossy(InProcess):
    """Loses the first task."""

    def map(self, open_worker: Any, tasks: Any, stopped: Any = never) -> Iterator[Any]:
        results = super().map(open_worker, tasks, stopped)
        next(results, None)
        return results


@pytest.mark.parametrize("broken", [Eager(), Deaf(), Lossy()])
def test_each_broken_executor_is_found(broken: Any) -> None:
    with pytest.raises(AssertionError):
        executor_conforms(broken)
