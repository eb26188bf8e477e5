from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analysers.measure import Measured, Task, measure
from analysers.metrics.brisque import brisque
from analysers.metrics.ssim import ssim
from generation.executors import InProcess, ProcessPool

METRICS = ("ssim", "brisque")


def paint(path: Path, seed: int, size: tuple[int, int] = (64, 64)) -> Path:
    rng = np.random.default_rng(seed)
    smooth = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize(size, 3)
    grain = rng.normal(0, 6, (*size[::-1], 3))
    pixels = np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture
def tasks(tmp_path: Path) -> list[Task]:
    control = paint(tmp_path / "control.png", 0)
    return [Task(paint(tmp_path / f"{i}.png", i), control, tag=i) for i in range(1, 7)]


def by_tag(results: object) -> dict[object, Measured]:
    return {result.task.tag: result for result in results}  # type: ignore[attr-defined]


def test_a_picture_scores_the_same_alone_among_others_and_in_other_processes(
    tasks: list[Task],
) -> None:
    here = by_tag(measure(tasks, METRICS, InProcess()))
    there = by_tag(measure(tasks, METRICS, ProcessPool(2)))
    for task in tasks:
        alone = next(iter(measure([task], METRICS, InProcess())))
        assert here[task.tag].values == there[task.tag].values == alone.values
        assert task.control is not None
        assert alone.values["brisque"] == brisque(pixels(task.image))
        assert alone.values["ssim"] == ssim(pixels(task.image), pixels(task.control))
        assert {"rms_contrast", "clipped", "colourfulness", "laplacian_energy"} <= set(alone.values)


def test_bad_pictures_give_reasons_and_the_others_are_measured(
    tasks: list[Task], tmp_path: Path
) -> None:
    control = tasks[0].control
    truncated = tmp_path / "truncated.png"
    truncated.write_bytes(tasks[0].image.read_bytes()[:900])
    black = tmp_path / "black.png"
    Image.new("RGB", (64, 64)).save(black)
    bad = [
        Task(tmp_path / "absent.png", control, tag="absent"),
        Task(truncated, control, tag="truncated"),
        Task(black, control, tag="black"),
        Task(paint(tmp_path / "large.png", 9, (96, 80)), control, tag="large"),
        Task(tasks[1].image, tmp_path / "no_control.png", tag="no control"),
    ]
    found = by_tag(measure([*bad, *tasks], METRICS, InProcess()))
    assert found["absent"].status == "failed" and "absent.png" in found["absent"].reason
    assert found["truncated"].status == "failed" and "truncated.png" in found["truncated"].reason
    assert found["black"].status == "flagged" and "black" in found["black"].reason
    assert math.isnan(found["black"].values["brisque"])
    assert found["large"].status == "flagged" and "96x80" in found["large"].reason
    assert found["large"].values["brisque"] == brisque(pixels(tmp_path / "large.png"))
    assert math.isfinite(found["large"].values["ssim"])
    assert math.isnan(found["no control"].values["ssim"])
    assert math.isfinite(found["no control"].values["brisque"])
    assert all(found[task.tag].status == "ok" for task in tasks)


def test_nothing_is_measured_twice(tasks: list[Task], tmp_path: Path) -> None:
    cache = tmp_path / "measured.jsonl"
    first = by_tag(measure(tasks, METRICS, InProcess(), cache))
    with cache.open("a") as file:
        file.write('{"format": 1, "metr')  # a kill in the middle of a line
    size = cache.stat().st_size
    second = by_tag(measure(tasks, METRICS, InProcess(), cache))
    assert cache.stat().st_size <= size + 1, "at most the cut line is ended"
    for tag, result in first.items():
        again = second[tag]
        assert (again.values, again.status, again.pixels) == (
            result.values, result.status, result.pixels,
        )  # fmt: skip
        assert np.array_equal(again.thumbnail, result.thumbnail)
    paint(tasks[0].image, 77)
    changed = by_tag(measure(tasks, METRICS, InProcess(), cache))
    assert changed[tasks[0].tag].values != first[tasks[0].tag].values
    assert len(cache.read_text().splitlines()) == len(tasks) + 2


def test_duplicates_are_known_by_their_pixels(tasks: list[Task], tmp_path: Path) -> None:
    copy = tmp_path / "copy.bmp"
    Image.open(tasks[0].image).save(copy)
    found = by_tag(measure([tasks[0], Task(copy, tag="copy")], METRICS, InProcess()))
    assert found["copy"].pixels == found[tasks[0].tag].pixels
