"""How a study is batched: sizes, many strengths in one batch, and what a run folder keeps."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("diffusers")

import sample_data  # noqa: E402
from analysers.runs.evidence import NOISE_CASES  # noqa: E402
from analysers.runs.loop import run_study  # noqa: E402
from analysers.runs.plan import Plan, plan_study  # noqa: E402
from analysers.runs.request import Judging, StudyRequest  # noqa: E402
from generation.cells import Cell  # noqa: E402
from generation.pictures.pixels import read_image  # noqa: E402
from generation.pictures.store import Store  # noqa: E402
from generation.prompts import PromptLine  # noqa: E402
from generation.renderers.diffusers import batches, pacing  # noqa: E402
from generation.renderers.diffusers.render import DiffusersRenderer  # noqa: E402

FOUR = [Decimal(text) for text in ("0.25", "0.5", "0.75", "1")]


def plan(out: Path, strengths: list[Decimal] = FOUR, **options: Any) -> Plan:
    few = {"steps": 2, "width": 64, "height": 64, "prompts": [PromptLine("a cat, pstr style")]}
    lora = sample_data.PATH / "lora" / "pstr.safetensors"
    request = StudyRequest.of(
        "strength", loras=[lora], model="demo", out=out, strengths=strengths, seeds=(1,),
        **{**few, "device": "cpu", **options},
    )  # fmt: skip
    return plan_study(request)


def begun(study: Plan) -> DiffusersRenderer:
    """What paints the study, its batches decided."""
    renderer = study.renderer.begin(study.usable, study.out)
    assert isinstance(renderer, DiffusersRenderer)
    return renderer


def test_a_batch_is_no_larger_than_the_cases_or_than_asked(tmp_path: Path) -> None:
    for asked, seeds, size in ((0, 1, 1), (0, 6, 3), (16, 3, 3), (2, 3, 2), (16, 20, 10)):
        prompts = [PromptLine(f"a cat {i}") for i in range(seeds)]
        decided = begun(plan(tmp_path, prompts=prompts, batch_size=asked))
        assert (decided.settings.batch_size, decided.settings.mixed) == (size, False)
        assert decided._engine is None, "nothing is loaded to decide this on the CPU"


def test_which_studies_can_mix(tmp_path: Path) -> None:
    def can_mix(study: Plan) -> bool:
        return pacing.can_mix(study.settings, study.cells)

    assert can_mix(plan(tmp_path))
    assert not can_mix(plan(tmp_path, [Decimal(1)]))
    assert not can_mix(plan(tmp_path, compiled=True))


def test_two_ways_are_timed_and_leave_no_trace(tmp_path: Path) -> None:
    study = plan(tmp_path, batch_size=1)
    engine = begun(study).engine
    case = study.cases[0]
    base = engine.render([case])[0]
    for batching in (batches.Batching(1), batches.Batching(5, mixed=True)):
        assert pacing.pace(engine, study.cells, batching) > 0
        assert (engine.steps, engine.batch_size, engine.mixed) == (2, 1, False)
        assert np.array_equal(engine.render([case])[0], base)


def test_a_folder_that_began_mixed_goes_on_mixed(tmp_path: Path) -> None:
    """Its pictures are those of merged weights up to rounding, and none is painted twice."""
    study = plan(tmp_path / "mixed")
    batches.keep(study.out, pacing.batch_key(study.settings), batches.Batching(5, mixed=True))
    options = Judging(workers=0)
    first = run_study(study, options)
    record = first.run.settings
    assert (record["batch_size"], record["mixed"]) == (5, True)
    store = Store(study.out, begun(study))
    assert not store.missing(study.cells)
    times = {cell: store.path(cell).stat().st_mtime_ns for cell in study.cells}
    more = replace(plan(tmp_path / "mixed", [*FOUR, Decimal("1.2")]))
    run_study(more, options)
    assert {cell: store.path(cell).stat().st_mtime_ns for cell in study.cells} == times
    merged = plan(tmp_path / "merged")
    run_study(merged, options)
    other = Store(merged.out, begun(merged))
    for cell in study.cells:
        one, two = (read_image(s.path(cell)).astype(int) for s in (store, other))
        assert np.abs(one - two).mean() < 1, cell.strength
    strongest = [s.path(Cell(study.cases[0], study.checkpoints[0], Decimal(1)))
                 for s in (store, other)]  # fmt: skip
    control = read_image(store.path(study.cells[0])).astype(int)
    assert all(np.abs(read_image(path) - control).mean() > 5 for path in strongest)


def test_the_noise_floor_in_one_batch_as_on_a_gpu(tmp_path: Path) -> None:
    """A device that is not called "cpu" takes that way; a long prompt needs a batch of its own."""
    texts = ("a cat", "a dog" + ", green grass" * 40, "a fox", "an owl")
    study = plan(
        tmp_path, [Decimal(1)], prompts=[PromptLine(text) for text in texts], device="cpu:0"
    )
    done = run_study(study, Judging(workers=0))
    noise = done.evidence.noise
    assert len(noise.pairs) == NOISE_CASES
    assert all(0.98 < similar <= 1 and apart < 1 for similar, apart in noise.pairs)
    again = run_study(study, Judging(workers=0))
    assert again.evidence.floor == noise.floor
    assert again.run.rendered.kept == 8
