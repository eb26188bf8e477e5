from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from analysers.measure import Measured, Task, measure
from analysers.metrics.brisque import brisque
from analysers.metrics.metric import METRICS, Declaration, Declared, Sample, load_metric
from analysers.metrics.ssim import ssim
from analysers.trust import ladder_scores
from generation.errors import UserError
from generation.executors import InProcess, ProcessPool, ThreadPool

BOTH = ("ssim", "brisque")


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
    here = by_tag(measure(tasks, BOTH, InProcess()))
    there = by_tag(measure(tasks, BOTH, ProcessPool(2)))
    for task in tasks:
        alone = next(iter(measure([task], BOTH, InProcess())))
        assert here[task.tag].values == there[task.tag].values == alone.values
        assert task.control is not None
        assert alone.values["brisque"] == brisque(pixels(task.image))
        assert alone.values["ssim"] == ssim(pixels(task.image), pixels(task.control))
        assert {"rms_contrast", "clipped", "colourfulness", "laplacian_energy"} <= set(alone.values)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "I;16"])
def test_threads_measure_the_same_at_any_size_and_of_any_kind(mode: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tasks = []
    for height, width in ((1, 40), (5, 5), (11, 11), (16, 300), (213, 111)):
        control = tmp_path / f"control_{height}.png"
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(control)
        bands = {"RGB": (3,), "RGBA": (4,), "LA": (2,)}.get(mode, ())
        kind, top = (np.uint16, 65536) if mode == "I;16" else (np.uint8, 256)
        for tall in (height, height + 3):
            image = tmp_path / f"{height}_{tall}.png"
            Image.fromarray(rng.integers(0, top, (tall, width, *bands), kind)).save(image)
            tasks.append(Task(image, control, tag=image.name, views=True, ladders="brisque"))
    here, there = (
        by_tag(measure(tasks, BOTH, executor, tmp_path / f"{i}" / "measured.jsonl"))
        for i, executor in enumerate((InProcess(), ThreadPool(3)))
        if not (tmp_path / f"{i}").mkdir()
    )
    told = [
        {tag: (repr(m.values), m.reason, repr(m.ladders)) for tag, m in found.items()}
        for found in (here, there)
    ]
    assert told[0] == told[1]
    shown = [{p.name: p.read_bytes() for p in (tmp_path / i / "maps").iterdir()} for i in "01"]
    assert shown[0] == shown[1]
    assert sum(name.endswith(".small.jpg") for name in shown[0]) == len(tasks)


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
    found = by_tag(measure([*bad, *tasks], BOTH, InProcess()))
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
    first = by_tag(measure(tasks, BOTH, InProcess(), cache))
    with cache.open("a") as file:
        file.write('{"format": 1, "metr')  # a kill in the middle of a line
    size = cache.stat().st_size
    second = by_tag(measure(tasks, BOTH, InProcess(), cache))
    assert cache.stat().st_size <= size + 1, "at most the cut line is ended"
    for tag, result in first.items():
        again = second[tag]
        assert (again.values, again.status, again.pixels) == (
            result.values, result.status, result.pixels,
        )  # fmt: skip
        assert np.array_equal(again.thumbnail, result.thumbnail)
    paint(tasks[0].image, 77)
    changed = by_tag(measure(tasks, BOTH, InProcess(), cache))
    assert changed[tasks[0].tag].values != first[tasks[0].tag].values
    assert len(cache.read_text().splitlines()) == len(tasks) + 2


class Counting(Declared):
    """Counts the pictures that it is asked for, and fails on those that it is told to."""

    def __init__(self, name: str, **declared: Any) -> None:
        self.declaration = Declaration(name, "lower", **declared)
        self.seen: list[int] = []
        self.calls = 0
        self.fails = False
        self.undefined = False

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float]:
        self.calls += 1
        self.seen += [int(sample.image.sum()) for sample in samples]
        if self.fails:
            raise MemoryError("CUDA out of memory")
        return [math.nan if self.undefined else float(s.image.mean()) for s in samples]


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Counting]:
    def add(name: str, **declared: Any) -> Counting:
        metric = Counting(name, **declared)
        monkeypatch.setitem(METRICS, name, lambda: metric)
        return metric

    return add


def test_one_more_metric_measures_only_itself(
    tasks: list[Task], tmp_path: Path, counting: Callable[..., Counting]
) -> None:
    first, second = counting("first"), counting("second")
    cache = tmp_path / "measured.jsonl"
    list(measure(tasks, ["first"], InProcess(), cache))
    found = by_tag(measure(tasks, ["first", "second"], InProcess(), cache))
    assert (first.calls, second.calls) == (6, 6)
    assert all(list(r.values)[:2] == ["first", "second"] for r in found.values())
    list(measure(tasks, ["second", "ssim", "first"], InProcess(), cache))
    assert (first.calls, second.calls) == (6, 6)
    paint(tasks[2].image, 99)
    list(measure(tasks, ["first", "second"], InProcess(), cache))
    assert (first.calls, second.calls) == (7, 7)


def test_an_exception_is_not_kept_and_what_is_undefined_is(
    tasks: list[Task], tmp_path: Path, counting: Callable[..., Counting]
) -> None:
    metric = counting("costly")
    cache = tmp_path / "measured.jsonl"
    metric.fails = True
    bad = by_tag(measure(tasks, ["costly"], InProcess(), cache))
    assert all("costly failed: CUDA out of memory" in r.reason for r in bad.values())
    assert all(math.isfinite(r.values["rms_contrast"]) for r in bad.values())
    metric.fails = False
    good = by_tag(measure(tasks, ["costly"], InProcess(), cache))
    assert all((r.status, r.reason) == ("ok", "") for r in good.values())
    assert metric.calls == 12
    metric.undefined = True
    metric.declaration = Declaration("costly", "lower", version=2)
    for _ in range(2):
        nothing = by_tag(measure(tasks, ["costly"], InProcess(), cache))
        assert all(math.isnan(r.values["costly"]) for r in nothing.values())
        assert all("costly is undefined" in r.reason for r in nothing.values())
        assert metric.calls == 18, "a new version is measured once more"


def test_a_value_is_kept_by_what_it_depends_on(
    tmp_path: Path, counting: Callable[..., Counting]
) -> None:
    plain, paired = counting("plain"), counting("paired", needs=frozenset({"control"}))
    worded = counting("worded", needs=frozenset({"prompt"}))
    shown = counting("shown", needs=frozenset({"references"}))
    image, a, b = (paint(tmp_path / f"{n}.png", n) for n in range(3))
    names = ["plain", "paired", "worded", "shown"]
    cache = tmp_path / "measured.jsonl"

    def calls(*tasks: Task) -> tuple[int, ...]:
        found = list(measure(tasks, names, InProcess(), cache))
        assert len(found) == len(tasks)
        return tuple(metric.calls for metric in (plain, paired, worded, shown))

    assert calls(Task(image)) == (1, 0, 0, 0)
    assert calls(Task(image)) == (1, 0, 0, 0)
    assert calls(Task(image, a, "cat")) == (1, 1, 1, 0)
    assert calls(Task(image, b, "cat")) == (1, 2, 1, 0)
    assert calls(Task(image, b, "dog")) == (1, 2, 2, 0)
    assert calls(Task(image, b, "dog", references=(a,))) == (1, 2, 2, 1)
    assert calls(Task(image, b, "dog", references=(a, b))) == (1, 2, 2, 2)
    copy = tmp_path / "copy.png"
    copy.write_bytes(image.read_bytes())
    assert calls(Task(copy, a, "dog"), Task(copy, b, "cat")) == (1, 2, 2, 2)


def test_earlier_and_broken_lines_are_passed_over(
    tasks: list[Task], tmp_path: Path, counting: Callable[..., Counting]
) -> None:
    metric = counting("costly")
    cache = tmp_path / "measured.jsonl"
    lines = [
        {"format": 1, "metrics": ["costly"], "content": "0" * 64, "values": {"costly": None}},
        {"format": 2, "values": {"costly": [1, 3.0, ""]}},
        {"format": 2, "image": "a", "control": "", "prompt": "", "references": "", "values": [1]},
        [2],
        None,
        "format",
        {"format": 99},
    ]
    cache.write_text("\n".join(json.dumps(line) for line in lines) + "\n{\n\x00\n")
    found = by_tag(measure(tasks, ["costly"], InProcess(), cache))
    assert all(r.status == "ok" and math.isfinite(r.values["costly"]) for r in found.values())
    list(measure(tasks, ["costly"], InProcess(), cache))
    assert metric.calls == 6


def test_batches_are_as_large_as_declared_and_one_bad_picture_spoils_no_other(
    tasks: list[Task], counting: Callable[..., Counting], monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = counting("many", batch=4)
    here = by_tag(measure(tasks, ["many", "brisque"], InProcess()))
    assert metric.calls == 2 and len(metric.seen) == 6
    culprit = tasks[1].image

    def picky(samples: Sequence[Sample]) -> Sequence[float]:
        if any(np.array_equal(s.image, pixels(culprit)) for s in samples):
            raise RuntimeError("not this one")
        return [float(s.image.mean()) for s in samples]

    monkeypatch.setattr(Counting, "__call__", lambda self, samples: picky(samples))
    found = by_tag(measure(tasks, ["many", "brisque"], InProcess()))
    for task in tasks:
        if task.image == culprit:
            assert "many failed: not this one" in found[task.tag].reason
            assert found[task.tag].values["brisque"] == here[task.tag].values["brisque"]
        else:
            assert found[task.tag].values == here[task.tag].values


def test_a_metric_that_needs_the_renderer_is_measured_here(
    tasks: list[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Adherence(Declared):
        declaration = Declaration("adherence", "lower", needs=frozenset({"renderer"}))

        def __call__(self, samples: Sequence[Sample]) -> Sequence[float]:
            return [s.renderer(s.image) for s in samples]

    monkeypatch.setitem(METRICS, "adherence", Adherence)
    opened: list[int] = []

    def renderer() -> Callable[[np.ndarray], float]:
        opened.append(os.getpid())
        return lambda image: float(image.std())

    cache = tmp_path / "measured.jsonl"
    names = ["adherence", "brisque"]
    found = by_tag(measure(tasks, names, ProcessPool(1), cache, renderer))
    for task in tasks:
        assert found[task.tag].values["adherence"] == pixels(task.image).std()
        assert found[task.tag].values["brisque"] == brisque(pixels(task.image))
    again = by_tag(measure(tasks, names, InProcess(), cache, renderer))
    assert {t: r.values for t, r in again.items()} == {t: r.values for t, r in found.items()}
    assert opened == [os.getpid()], "opened once, here, and not at all when nothing is missing"
    with pytest.raises(UserError, match='"adherence" asks the model that rendered'):
        list(measure(tasks, names, InProcess()))


def test_the_ladders_of_a_control_are_measured_beside_it_and_kept(
    tasks: list[Task], tmp_path: Path, counting: Callable[..., Counting]
) -> None:
    metric = counting("rank")
    cache = tmp_path / "measured.jsonl"
    control = Task(tasks[0].control or tasks[0].image, tag="control", ladders="rank")
    for _ in range(2):
        (found,) = measure([control], ["rank"], InProcess(), cache)
        assert found.ladders == ladder_scores(pixels(control.image), Counting("rank"))
        assert metric.calls == 17, "once plain, and 16 times down the ladders"
    (there,) = measure([replace(control, ladders="brisque")], ["rank"], ProcessPool(1), cache)
    assert there.ladders == ladder_scores(pixels(control.image), load_metric("brisque"))


def test_duplicates_are_known_by_their_pixels(tasks: list[Task], tmp_path: Path) -> None:
    copy = tmp_path / "copy.bmp"
    Image.open(tasks[0].image).save(copy)
    found = by_tag(measure([tasks[0], Task(copy, tag="copy")], BOTH, InProcess()))
    assert found["copy"].pixels == found[tasks[0].tag].pixels


@pytest.mark.parametrize(
    "field, value",
    [("thumbnail", "abc"), ("thumbnail", [[1]]), ("thumbnail", None), ("thumbnail", "x" * 99),
     ("values", {"costly": [1, "a", ""]}), ("values", [1]), ("ladders", [1]), ("pixels", {}),
     ("image", [1]), ("note", {"a": 1})],
)  # fmt: skip
def test_damaged_records_are_passed_over(
    tasks: list[Task], tmp_path: Path, counting: Callable[..., Counting], field: str, value: object
) -> None:
    counting("costly")
    cache = tmp_path / "measured.jsonl"
    first = by_tag(measure(tasks, ["costly"], InProcess(), cache))
    lines = [json.loads(line) for line in cache.read_text().splitlines() if line.strip()]
    damaged = [json.dumps({**line, field: value}) for line in lines]
    cache.write_text("\n".join(damaged) + "\n" + "[" * 100_000 + "\n")
    again = by_tag(measure(tasks, ["costly"], InProcess(), cache))
    assert {k: r.values for k, r in again.items()} == {k: r.values for k, r in first.items()}
    assert all(r.thumbnail.shape == (32, 32) for r in again.values())


def test_a_cache_that_is_a_link_is_not_written_through(tasks: list[Task], tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / "measured.jsonl").symlink_to(mine)
    with pytest.raises(UserError, match="no file of ours"):
        list(measure(tasks, ["brisque"], InProcess(), tmp_path / "measured.jsonl"))
    assert mine.read_text() == "mine"
