"""Cells rendered into a run folder, and plans of small studies, as many tests want them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from generation.cells import Cell, RenderSettings
from generation.executors import never
from generation.pictures.store import Store
from generation.renderers.renderer import Landed, land

if TYPE_CHECKING:
    from analysers.runs.plan import Plan
    from analysers.study import Kind
    from generation.renderers.diffusers.engine import Engine


def render(
    cells: Sequence[Cell],
    store: Store,
    open_engine: Callable[..., Engine],
    devices: Sequence[str] = (),
    stopped: Callable[[], bool] = never,
) -> Iterator[Landed]:
    """The cells' pictures in the store's folder, painted under its settings."""
    from generation.renderers.diffusers.render import DiffusersRenderer

    settings = store.painter
    assert isinstance(settings, RenderSettings)
    renderer = DiffusersRenderer(settings, open_engine, devices=devices)
    return land(cells, renderer, store, stopped=stopped)


def planned(kind: Kind, **fields: Any) -> Plan:
    """The plan of a study with these fields."""
    from analysers.runs.plan import plan_study
    from analysers.runs.request import StudyRequest

    return plan_study(StudyRequest.of(kind, **fields))
