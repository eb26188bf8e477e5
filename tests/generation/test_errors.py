"""A sentence for the user, whose fields each caller spells in his own way."""

from __future__ import annotations

import ast
import pickle
import re
from pathlib import Path

import pytest

from generation.errors import UserError, named

ROOT = Path(__file__).parents[2]


def test_a_field_is_spelled_by_whoever_tells_it() -> None:
    error = UserError(f"too little memory; try {named('low_vram')}.", field="device")
    assert str(error) == "device: too little memory; try low_vram."
    flags = error.told(lambda field: "--" + field.replace("_", "-"))
    assert flags == "--device: too little memory; try --low-vram."
    assert error.told(lambda field: {"device": "Device", "low_vram": "Low memory"}[field]) == (
        "Device: too little memory; try Low memory."
    )
    assert str(UserError("my.safetensors is empty.")) == "my.safetensors is empty."


def test_an_error_crosses_processes_with_its_field() -> None:
    error = pickle.loads(pickle.dumps(UserError("no GPU.", field="device")))
    assert (error.field, str(error)) == ("device", "device: no GPU.")


@pytest.mark.parametrize("room", ["generation", "analysers", "reports"])
def test_only_the_commands_know_flags(room: str) -> None:
    """No sentence below the commands spells a flag; other programs' own flags are theirs."""
    theirs = {
        "generation/pictures/readers/metadata.py",  # dgenerate's command lines
        "generation/pictures/readers/facts.py",
        "generation/renderers/a1111.py",  # the server's own option
        "generation/clusters.py",  # Ray's
        "generation/prompts.py",  # kohya's prompt files
        "analysers/intake/pairing.py",  # ai-toolkit's and kohya's options
    }
    found = []
    for path in sorted((ROOT / room).rglob("*.py")):
        where = path.relative_to(ROOT).as_posix()
        if where in theirs or "/commands/" in where or path.name == "__main__.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        found += [
            f"{where}, line {node.lineno}: {node.value}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in docstrings
            and re.search(r"(?<![\w-])--[a-z]{2}", node.value)
        ]
    assert not found, found
