"""Pictures on disk -> numbers, in other processes, while rendering goes on.

A picture that cannot be read, or a metric that is undefined on it, gives a row with a reason and
never an exception. What was measured is kept in the run folder by the content of the files, so
that a run that goes on measures only what is new.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from analysers.metrics.metric import Metric, Sample, load_metric
from analysers.study import Status
from generation.errors import UserError
from generation.executors import Executor
from generation.files import read_file
from generation.pictures.pixels import MOST_BYTES

Pixels = npt.NDArray[np.uint8]

CACHE_FORMAT = 1
"""Raised whenever a metric of ours changes its value, so that old measurements are not reused."""


@dataclass(frozen=True)
class Task:
    """A picture to measure, with its control if it has one (a control has none).

    `tag` comes back with the result and is looked at by nobody in between.
    """

    image: Path
    control: Path | None = None
    prompt: str = ""
    tag: Any = None


@dataclass(frozen=True)
class Measured:
    """What was measured on one picture.

    `pixels` is the SHA-256 of the decoded picture (equal for duplicate pictures in different
    files); `thumbnail` is grey, uint8, 32 x 32, for judging how alike pictures are. `status` is
    "flagged" when a number is to be read with the reason in mind.
    """

    task: Task
    values: Mapping[str, float]
    status: Status = "ok"
    reason: str = ""
    pixels: str = ""
    thumbnail: Pixels = field(default_factory=lambda: np.zeros((0, 0), np.uint8))


def measure(
    tasks: Iterable[Task], metrics: Sequence[str], executor: Executor, cache: Path | None = None
) -> Iterator[Measured]:
    """Measure every task, in any order; `metrics` are names that `load_metric` knows.

    With `cache` (a file that is appended to), pictures measured before under the same metrics are
    not measured again, and a kill loses at most the pictures in flight.
    """
    kept = _read_cache(cache, metrics) if cache else {}
    waiting: list[Measured] = []

    def fresh() -> Iterator[Task]:
        for task in tasks:
            key = content(task) if kept else ""
            known = kept.get(key) if key else None
            if known is None:
                yield task
            else:
                waiting.append(_from_json(task, known))

    with cache.open("a", encoding="utf-8") if cache else _Nowhere() as log:
        if cache and not _ends_a_line(cache):
            log.write("\n")
        for result in executor.map(partial(open_worker, tuple(metrics)), fresh()):
            log.write(_to_line(result, metrics))
            log.flush()
            yield result
            while waiting:
                yield waiting.pop()
        yield from waiting


def open_worker(metrics: Sequence[str]) -> Callable[[Task], Measured]:
    """A function that measures one task; the metrics are loaded once."""
    from analysers.overcooking import signs, thumbnail

    loaded = [load_metric(name) for name in metrics]
    read = lru_cache(maxsize=16)(_read)

    def work(task: Task) -> Measured:
        try:
            image = _read(task.image)
        except UserError as error:
            return Measured(task, {}, "failed", str(error))
        control, notes = None, []
        if task.control is not None:
            try:
                control = read(task.control)
            except UserError as error:
                notes.append(f"no SSIM: {error}")
        matched = image
        if control is not None and control.shape != image.shape:
            matched = _resampled(image, control)
            notes.append(
                f"{image.shape[1]}x{image.shape[0]} pixels, resampled to its control's "
                f"{control.shape[1]}x{control.shape[0]} for SSIM"
            )
        values: dict[str, float] = {}
        for metric in loaded:
            values[metric.name], note = _value(metric, image, matched, control, task.prompt)
            if note:
                notes.append(note)
        values.update(signs(image))
        return Measured(
            task,
            values,
            "flagged" if notes else "ok",
            "; ".join(notes),
            hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest(),
            thumbnail(image),
        )

    return work


def content(task: Task) -> str:
    """SHA-256 over picture, control and prompt; "" if a file cannot be read."""
    total = hashlib.sha256(task.prompt.encode())
    try:
        for path in (task.image, task.control):
            total.update(
                b"\0" if path is None else hashlib.sha256(read_file(path, MOST_BYTES)).digest()
            )
    except OSError:
        return ""
    return total.hexdigest()


def _value(
    metric: Metric, image: Pixels, matched: Pixels, control: Pixels | None, prompt: str
) -> tuple[float, str]:
    if metric.needs_control and control is None:
        return math.nan, ""
    sample = Sample(matched if metric.needs_control else image, control, prompt)
    try:
        value = float(metric([sample])[0])
    except Exception as error:  # a metric of a third party must not end the study
        return math.nan, f"{metric.name} failed: {error}"
    if math.isnan(value):
        from analysers.trust import diagnose

        return value, f"{metric.name} is undefined: {diagnose(image) or 'no reason known'}"
    return value, ""


def _read(path: Path) -> Pixels:
    from generation.pictures.pixels import read_image

    return read_image(path)


def _resampled(image: Pixels, control: Pixels) -> Pixels:
    from PIL import Image

    size = (control.shape[1], control.shape[0])
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


class _Nowhere:
    """A log for those who keep none."""

    def __enter__(self) -> _Nowhere:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, _text: str) -> None:
        pass

    def flush(self) -> None:
        pass


def _to_line(result: Measured, metrics: Sequence[str]) -> str:
    if not result.pixels:
        return ""
    record = {
        "format": CACHE_FORMAT,
        "metrics": list(metrics),
        "content": content(result.task),
        "values": {k: None if math.isnan(v) else v for k, v in result.values.items()},
        "status": result.status,
        "reason": result.reason,
        "pixels": result.pixels,
        "thumbnail": base64.b85encode(result.thumbnail.tobytes()).decode(),
    }
    return json.dumps(record) + "\n"


def _read_cache(path: Path, metrics: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Records by content; a line cut by a kill, or written by another version, is passed over."""
    kept = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
                if record["format"] == CACHE_FORMAT and record["metrics"] == list(metrics):
                    kept[record["content"]] = record
            except (ValueError, KeyError, TypeError):
                continue
    return kept


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, 2) == 0:
            return True
        file.seek(-1, 2)
        return file.read(1) == b"\n"


def _from_json(task: Task, record: Mapping[str, Any]) -> Measured:
    flat = np.frombuffer(base64.b85decode(record["thumbnail"]), np.uint8)
    side = math.isqrt(flat.size)
    return Measured(
        task,
        {k: math.nan if v is None else v for k, v in record["values"].items()},
        record["status"],
        record["reason"],
        record["pixels"],
        flat.reshape(side, side),
    )
