"""Rows that are shared out among a CPU's cores: the same numbers, whoever computes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from generation.cells import Case, RenderSettings  # noqa: E402
from generation.renderers.diffusers import batches, judge  # noqa: E402
from generation.renderers.diffusers.engine import Engine, find_model  # noqa: E402
from generation.renderers.diffusers.shares import shared_out  # noqa: E402

CASES = [Case(f"a picture of a {what}", number) for number, what in enumerate(("cat", "dog"))]


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_each_row_comes_back_in_its_place_with_all_that_is_its_own() -> None:
    seen: list[tuple[int, int]] = []

    def forward(x: Any, time: Any, *, more: dict[str, Any], plain: int) -> tuple[Any, Any]:
        seen.append((len(x), torch.get_num_threads()))
        assert len(more["ids"]) == len(x) and len(more["table"]) == 3 and more["none"] is None
        return x * plain + more["ids"] + time, x

    share = shared_out(forward, 2)
    x, ids = torch.arange(8.0)[:, None], torch.arange(8.0)[:, None] * 100
    more = {"ids": ids, "table": torch.zeros(3), "none": None}
    with torch.inference_mode():
        told, again = share(x, torch.tensor(7.0), more=more, plain=2)
    assert torch.equal(told, 2 * x + ids + 7) and torch.equal(again, x) and told.is_inference()
    assert seen == [(4, 1), (4, 1)] and torch.get_num_threads() == 2
    odd = {"ids": ids[:5], "table": torch.zeros(3), "none": None}
    share(x[:5], torch.tensor(7.0), more=odd, plain=2)
    assert seen[2:] == [(5, 2)], "uneven rows are computed together by all threads"


def test_what_goes_wrong_in_a_share_is_told() -> None:
    def forward(x: Any) -> tuple[Any]:
        if x.max() > 2:
            raise MemoryError
        return (x,)

    share = shared_out(forward, 2)
    with pytest.raises(MemoryError):
        share(torch.arange(4.0))
    assert torch.equal(share(torch.arange(2.0))[0], torch.arange(2.0)), "and it goes on"


def test_pictures_are_those_of_the_whole_batch_up_to_rounding(model_folder: Path) -> None:
    def painted(shared: bool, cases: list[Case]) -> list[Any]:
        few: dict[str, Any] = {"steps": 3, "width": 64, "height": 64, "batch_size": 2}
        return Engine(find_model(str(model_folder)), shared=shared, **few).render(cases)

    alone, both, usual = painted(True, CASES[1:]), painted(True, CASES), painted(False, CASES)
    assert np.array_equal(alone[0], both[1]), "bits do not depend on neighbours"
    differences = np.abs(np.subtract(both, usual, dtype=np.int16))
    assert differences.max() <= 2 and differences.mean() < 0.01


def test_a_folder_that_began_without_goes_on_without(tmp_path: Path) -> None:
    (tmp_path / "batch.json").write_text('{"a": {"size": 2, "mixed": false}}')
    assert batches.kept(tmp_path, "a") == batches.Batching(2)
    batches.keep(tmp_path, "b", batches.Batching(2, shared=True))
    assert batches.kept(tmp_path, "b") == batches.Batching(2, shared=True)


def test_sharing_is_no_part_of_the_content_key() -> None:
    from generation.cells import Cell

    given: dict[str, Any] = {"model": "m", "model_hash": "h", "width": 64, "height": 64, "steps": 2}
    given |= {"guidance_scale": 4.0, "sampler": "ddim"}
    plain, shared = (RenderSettings(**given, shared=told) for told in (False, True))
    cell = Cell(CASES[0])
    assert plain.identity(cell) == shared.identity(cell)
    assert "shared" not in plain.identity(cell)["settings"]


def test_the_judge_sees_each_picture_in_its_place(model_folder: Path) -> None:
    few: dict[str, Any] = {"steps": 1, "width": 64, "height": 64, "batch_size": 2}
    zs = [torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    asked = [["a cat", "a dog"]] * 3
    found = []
    for shared in (True, False):
        engine = Engine(find_model(str(model_folder)), shared=shared, **few)
        found.append((judge.features(engine, zs), judge.errors(engine, zs, asked)))
    (seen, errors), (usual, known) = found
    np.testing.assert_allclose(errors, known, rtol=1e-4)
    for one, other in zip(seen, usual, strict=True):
        for block, same in zip(one, other, strict=True):
            np.testing.assert_allclose(block, same, rtol=1e-2, atol=1e-2)
