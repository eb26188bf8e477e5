from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generation import plan as grid
from generation import prompts
from generation.cells import Checkpoint
from generation.errors import UserError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.2:1.4:0.2", "0.2 0.4 0.6 0.8 1.0 1.2 1.4"),
        ("0.6,0.8,1", "0.6 0.8 1"),
        ("1,0.5,0.5", "0.5 1"),
        ("0.1-0.4 (+0.1)", "0.1 0.2 0.3 0.4"),
        ("0-1 [5]", "0 0.25 0.5 0.75 1"),
        ("-1:1:1", "-1 0 1"),
        ("0:1:0.3", "0 0.3 0.6 0.9"),
        (".5", "0.5"),
        ("0.2:0.4:0.1,1.5", "0.2 0.3 0.4 1.5"),
    ],
)
def test_strengths_are_read_in_decimal(text: str, expected: str) -> None:
    assert grid.parse_strengths(text) == tuple(Decimal(v) for v in expected.split())


@pytest.mark.parametrize(
    "text", ["", "a", "1:0:1", "0:1:0", "0:1", "0:1:-1", "nan", "1e3", "0:9:0.0001", "101", "1,,2"]
)
def test_nonsense_strengths_are_one_sentence_with_the_option(text: str) -> None:
    with pytest.raises(UserError, match="strengths") as caught:
        grid.parse_strengths(text)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=30))
def test_no_text_breaks_the_parsers(text: str) -> None:
    for parse in (grid.parse_strengths, grid.parse_seeds, prompts.parse_prompt):
        try:
            parse(text)
        except UserError as error:
            assert len(str(error)) < 400


def test_seeds() -> None:
    assert grid.parse_seeds("1:4") == (1, 2, 3, 4)
    assert grid.parse_seeds("7, 11,7") == (7, 11)


@pytest.mark.parametrize("text", ["", "x", "4:1", "-1", "1:2:3", "1:99999", str(2**64)])
def test_nonsense_seeds(text: str) -> None:
    with pytest.raises(UserError, match="seeds"):
        grid.parse_seeds(text)


def test_cells_begin_with_the_controls_and_switch_weights_rarely() -> None:
    cases = grid.cases([prompts.PromptLine("a"), prompts.PromptLine("b")], (1,), "")
    checkpoints = [Checkpoint(Path(f"{i}.safetensors"), str(i)) for i in range(3)]
    cells = grid.cells(cases, checkpoints, [Decimal("0.5"), Decimal(1)])
    assert [cell.is_control for cell in cells[:3]] == [True, True, False]
    stretches = [(c.checkpoint, c.strength) for c in cells[2:]]
    switches = 1 + sum(a != b for a, b in zip(stretches, stretches[1:], strict=False))
    assert switches == 6 and len(cells) == 2 + 12
