"""The direction of the arrows: who imports whom, wherever in a file the import stands."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FLOORS = (
    ("generation", "sample_data"),
    ("generation.families", "generation.pictures"),
    ("generation.loras", "generation.pictures.readers", "generation.renderers"),
    ("generation.renderers.comfyui", "generation.renderers.diffusers"),
    ("analysers.metrics", "analysers.study"),
    ("analysers", "analysers.intake"),
    ("analysers.runs", "reports"),
    ("analysers.serve",),
    ("analysers.commands", "sample_data.build"),
)
"""From the ground up: a room imports from its own modules and from floors below."""

DOORS = {"analysers", "analysers.__main__"}
"""The package's front door and `python -m` belong to the top floor; nobody below asks for names of
the door, which loads what it names when it is used."""


def modules() -> dict[str, Path]:
    found = {}
    for room in ("generation", "analysers", "reports", "sample_data"):
        for path in sorted((ROOT / room).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def imported(path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in known else str(node.module)


def room_of(module: str, path: Path) -> str:
    if module in DOORS:
        return "analysers.commands"
    return module if path.name == "__init__.py" else module.rpartition(".")[0]


@pytest.fixture(scope="module")
def arrows() -> dict[str, set[str]]:
    known = modules()
    return {
        name: {one for one in imported(path, known) if one in known and one != name}
        for name, path in known.items()
    }


def test_no_arrow_runs_up_and_none_across_a_floor(arrows: Mapping[str, set[str]]) -> None:
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    room = {name: room_of(name, path) for name, path in modules().items()}
    assert set(room.values()) == set(floor), "every room has its floor"
    wrong = [
        f"{name} imports {other}"
        for name, others in arrows.items()
        for other in others
        if room[name] != room[other] and floor[room[name]] <= floor[room[other]]
    ]
    assert not wrong


def test_no_circles(arrows: Mapping[str, set[str]]) -> None:
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_generation_and_the_metrics_know_no_study(arrows: Mapping[str, set[str]]) -> None:
    for name, others in arrows.items():
        if name.startswith("generation"):
            assert not {one for one in others if not one.startswith("generation")}, name
        if name.startswith("analysers.metrics"):
            assert not {one for one in others if one.startswith(("analysers.study", "reports"))}


def test_the_page_of_rooms_names_them_all() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = {room for floor in FLOORS for room in floor} - {"sample_data.build"}
    named = {
        room for room in rooms if f"`{room.replace('.', '/')}/`" in page or f"\n    {room} " in page
    }
    assert named == rooms
