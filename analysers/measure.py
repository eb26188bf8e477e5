"""Pictures on disk -> numbers, in other processes, while rendering goes on.

A picture that cannot be read, or a metric that is undefined on it, gives a row with a reason and
never an exception. What was measured is kept in the run folder, metric by metric, by the content of
the files, so that a run that goes on, or asks for one more metric, measures only what is new.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from analysers.metrics.luma import Pixels
from analysers.metrics.metric import ALWAYS, Declaration, Metric, Sample, load_metric
from analysers.metrics.references import Pictures, fitted
from analysers.study import Status
from analysers.views import NO_VIEWS, Views, views
from generation.errors import UserError, named
from generation.executors import Executor
from generation.files import open_file
from generation.folder import appending, own, writing

Key = tuple[str, ...]
T = TypeVar("T")

CACHE_FORMAT = 2
"""History: 1 = all metrics of a picture together; 2 = metric by metric, with versions."""

PARTS = ("control", "prompt", "references", "content", "others", "held_out")
"""What a value may depend on besides its picture."""


@dataclass(frozen=True)
class Task:
    """A picture to measure, with its control if it has one (a control has none).

    `references` are pictures of what the LoRA is to show, `held_out` such that it was not trained
    on; with `fit` (height, width) the picture is first brought to that size as references are.
    `content` and `others` are texts for metrics that ask a model without the LoRA (`Sample`).
    With `ladders`, the name of a metric,
    that metric is also measured on degraded copies of the picture (`analysers.trust`). With `views`
    what a report shows of it (`analysers.views`) is written beside the cache. `tag` comes
    back with the result and is looked at by nobody in between.
    """

    image: Path
    control: Path | None = None
    prompt: str = ""
    tag: Any = None
    references: tuple[Path, ...] = ()
    ladders: str = ""
    content: str = ""
    others: tuple[str, ...] = ()
    held_out: tuple[Path, ...] = ()
    fit: tuple[int, int] | None = None
    views: bool = False


@dataclass(frozen=True)
class Measured:
    """What was measured on one picture.

    `pixels` is the SHA-256 of the decoded picture (equal for duplicate pictures in different
    files); `thumbnail` is grey, uint8, 32 x 32, for judging how alike pictures are. `status` is
    "flagged" when a number is to be read with the reason in mind. `ladders` are the scores of the
    degraded copies, where they were asked for.
    """

    task: Task
    values: Mapping[str, float]
    status: Status = "ok"
    reason: str = ""
    pixels: str = ""
    thumbnail: Pixels = field(default_factory=lambda: np.zeros((0, 0), np.uint8))
    ladders: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """One metric on one picture: its value, NaN with the `reason` where it is undefined.

    Only what the metric itself said is `kept`: a missing file or an exception may be gone the next
    time.
    """

    value: float
    reason: str = ""
    kept: bool = True


@dataclass(frozen=True)
class _Known:
    """What is known of a picture: its look, a note on the pair, outcomes by metric, ladders, and
    views that were just made."""

    pixels: str = ""
    thumbnail: str = ""
    note: str = ""
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    ladders: tuple[tuple[float, ...], ...] = ()
    failure: str = ""
    views: Views = NO_VIEWS


@dataclass(frozen=True)
class _Work:
    """A task, the digests of its files ("" where it has none), and the metrics still to measure."""

    task: Task
    digests: Mapping[str, str]
    known: _Known
    missing: tuple[str, ...]
    ladders: bool


_Result = tuple[_Work, _Known]


def measure(
    tasks: Iterable[Task],
    metrics: Sequence[str],
    executor: Executor,
    cache: Path | None = None,
    renderer: Callable[[], Any] | None = None,
    made: dict[Hashable, Any] | None = None,
) -> Iterator[Measured]:
    """Measure every task, in any order; `metrics` are names that `load_metric` knows, and those
    that are always measured come after them.

    With `cache` (a file that is appended to), no metric is measured twice on the same files, and a
    kill loses at most the pictures in flight. `renderer` gives what rendered the pictures: metrics
    that need it are measured here, between two batches of rendering, and never in another process.
    `made` keeps what they make of reference pictures, from one call to the next.
    Raises UserError where one needs it and there is none.
    """
    names = tuple(dict.fromkeys((*metrics, *ALWAYS)))
    declared = {name: load_metric(name).declaration for name in names}
    here = tuple(name for name in names if "renderer" in declared[name].needs)
    away = tuple(name for name in names if name not in here)
    if here and renderer is None:
        raise UserError(
            f'The metric "{here[0]}" asks the model that rendered the pictures; leave it out of '
            f"{named('metrics')} for pictures that were made elsewhere."
        )
    kept = _Cache(cache, declared)
    at_hand: list[_Work] = []

    def fresh() -> Iterator[_Work]:
        for task in tasks:
            work = kept.work(task, away)
            if work.missing or work.ladders or not work.known.pixels:
                yield work
            else:
                at_hand.append(work)

    ask_renderer: Callable[[Sequence[_Work]], list[_Result]] | None = None

    def judged(group: list[_Result]) -> list[_Result]:
        """The group with what the renderer says of its pictures."""
        nonlocal ask_renderer
        ready: list[_Result] = []
        lacking: list[_Work] = []
        for work, found in group:
            if found.pixels:
                work = kept.work(work.task, names, found)
                found = work.known
                if work.missing:
                    lacking.append(work)
                    continue
            ready.append((work, found))
        if lacking and renderer is not None:
            ask_renderer = ask_renderer or open_worker(here, renderer(), made)
            ready += ask_renderer(lacking)
        return ready

    size = max(getattr(executor, "piece", 1), *(declared[name].batch for name in away))
    with kept:
        results = executor.map(partial(open_worker, away), _grouped(fresh(), size))
        groups: Iterable[list[_Result]] = _and_then(results, at_hand)
        if here:
            each = (result for group in groups for result in group)
            groups = map(judged, _grouped(each, max(declared[name].batch for name in here)))
        for group in groups:
            for work, found in group:
                kept.write(work, found)
                if cache is not None:
                    found.views.write(cache.parent, work.digests["image"], work.digests["control"])
                yield _measured(work.task, names, found)


def open_worker(
    metrics: Sequence[str], renderer: Any = None, made: dict[Hashable, Any] | None = None
) -> Callable[[Sequence[_Work]], list[_Result]]:
    """A function that measures a few pieces of work together; the metrics are loaded once."""
    loaded = {name: load_metric(name) for name in metrics}
    read = lru_cache(maxsize=16)(_read)
    made = {} if made is None else made

    def measure_all(works: Sequence[_Work]) -> list[_Result]:
        opened = [_open(work, read, renderer, made) for work in works]
        found: list[dict[str, Outcome]] = [dict(work.known.outcomes) for work in works]
        for name, metric in loaded.items():
            asked = [
                (opened[i].sample_for(metric.declaration), i)
                for i, work in enumerate(works)
                if name in work.missing and not opened[i].failure
            ]
            for (_, i), outcome in zip(asked, _outcomes(metric, asked), strict=True):
                found[i][name] = outcome
        return [
            (work, _known(work, picture, outcomes))
            for work, picture, outcomes in zip(works, opened, found, strict=True)
        ]

    return measure_all


@dataclass(frozen=True)
class _Opened:
    """A decoded picture: as it is, and as big as its control."""

    failure: str = ""
    note: str = ""
    plain: Sample = field(default_factory=lambda: Sample(np.zeros((0, 0), np.uint8)))
    matched: Sample = field(default_factory=lambda: Sample(np.zeros((0, 0), np.uint8)))

    def sample_for(self, declaration: Declaration) -> Sample:
        return self.matched if "control" in declaration.needs else self.plain


def _open(
    work: _Work, read: Callable[[Path], Pixels], renderer: Any, made: dict[Hashable, Any]
) -> _Opened:
    task = work.task
    try:
        image = _read(task.image)
        if task.fit is not None:
            image = fitted(image, *task.fit)
    except UserError as error:
        return _Opened(str(error))
    control, note = None, ""
    if task.control is not None:
        try:
            control = read(task.control)
        except UserError as error:
            note = f"no SSIM: {error}"
    plain = Sample(
        image,
        control,
        task.prompt,
        Pictures(task.references, made),
        renderer,
        task.content,
        task.others,
        Pictures(task.held_out, made),
    )
    if control is None or control.shape == image.shape:
        return _Opened("", note, plain, plain)
    note = (
        f"{image.shape[1]}x{image.shape[0]} pixels, resampled to its control's "
        f"{control.shape[1]}x{control.shape[0]} for SSIM"
    )
    matched = replace(plain, image=_resampled(image, control))
    return _Opened("", note, plain, matched)


def _known(work: _Work, picture: _Opened, outcomes: Mapping[str, Outcome]) -> _Known:
    from analysers.metrics.ssim import CHANGED
    from analysers.overcooking import thumbnail
    from analysers.trust import ladder_scores

    if picture.failure:
        return _Known(failure=picture.failure)
    image = picture.plain.image
    ladders = work.known.ladders
    if work.ladders:
        known = outcomes.get(work.task.ladders)
        untouched = None if known is None else known.value
        ladders = ladder_scores(image, load_metric(work.task.ladders), untouched)
    shown = NO_VIEWS
    if work.task.views:
        shown = views(image, picture.matched.known.get(CHANGED))
    if work.known.pixels:
        pixels, small = work.known.pixels, work.known.thumbnail
    else:
        pixels = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()
        small = base64.b85encode(thumbnail(picture.plain.luma).tobytes()).decode()
    return _Known(pixels, small, picture.note, outcomes, ladders, views=shown)


def _outcomes(metric: Metric, asked: Sequence[tuple[Sample, int]]) -> list[Outcome]:
    """The metric on every sample, as many at a time as it takes gladly."""
    declaration = metric.declaration
    found: dict[int, Outcome] = {}
    ready = []
    for k, (sample, _) in enumerate(asked):
        if _lacking(declaration, sample):
            found[k] = Outcome(math.nan, kept=False)  # its file could not be read; a note says so
        else:
            ready.append(k)
    for start in range(0, len(ready), declaration.batch):
        part = ready[start : start + declaration.batch]
        for k, outcome in zip(part, _call(metric, [asked[k][0] for k in part]), strict=True):
            found[k] = outcome
    return [found[k] for k in range(len(asked))]


def _call(metric: Metric, samples: Sequence[Sample]) -> list[Outcome]:
    declaration = metric.declaration
    try:
        values = [float(value) for value in metric(samples)]
        if len(values) != len(samples):
            raise ValueError(f"{len(values)} values for {len(samples)} pictures")
    except Exception as error:  # a metric of a third party must not end the study
        if len(samples) > 1:  # only the picture that is to blame goes without
            return [_call(metric, [sample])[0] for sample in samples]
        return [Outcome(math.nan, f"{declaration.name} failed: {error}", kept=False)]
    return [
        Outcome(value, _why_undefined(declaration, sample) if math.isnan(value) else "")
        for value, sample in zip(values, samples, strict=True)
    ]


def _lacking(declaration: Declaration, given: Task | Sample) -> str:
    """What the metric needs and has not, or ""."""
    if "control" in declaration.needs and given.control is None:
        return "control"
    if "prompt" in declaration.needs and not given.prompt.strip():
        return "prompt"
    if "content" in declaration.needs and not given.content.strip():
        return "prompt besides trigger words"
    if "others" in declaration.needs and len(given.others) < 2:
        return "two other prompts in the study"
    if "held_out" in declaration.needs and not given.held_out:
        return "pictures held out"
    return (
        "reference pictures" if "references" in declaration.needs and not given.references else ""
    )


def _why_undefined(declaration: Declaration, sample: Sample) -> str:
    from analysers.trust import diagnose

    why = diagnose(sample.image) or declaration.undefined or "no reason known"
    return f"{declaration.name} is undefined: {why}"


def _grouped(items: Iterable[T], size: int) -> Iterator[list[T]]:
    group: list[T] = []
    for item in items:
        group.append(item)
        if len(group) >= size:
            yield group
            group = []
    if group:
        yield group


def _and_then(results: Iterable[list[_Result]], at_hand: list[_Work]) -> Iterator[list[_Result]]:
    """The results as they come, and what needed no measuring as soon as it is met."""
    for result in results:
        yield result
        while at_hand:
            work = at_hand.pop()
            yield [(work, work.known)]
    for work in at_hand:
        yield [(work, work.known)]


def _measured(task: Task, names: Sequence[str], found: _Known) -> Measured:
    if found.failure:
        return Measured(task, {}, "failed", found.failure)
    outcomes = {name: found.outcomes[name] for name in names if name in found.outcomes}
    notes = [found.note, *(outcome.reason for outcome in outcomes.values())]
    reason = "; ".join(dict.fromkeys(note for note in notes if note))
    flat = np.frombuffer(base64.b85decode(found.thumbnail), np.uint8)
    side = math.isqrt(flat.size)
    return Measured(
        task,
        {name: outcome.value for name, outcome in outcomes.items()},
        "flagged" if reason else "ok",
        reason,
        found.pixels,
        flat.reshape(side, side),
        found.ladders,
    )


def _read(path: Path) -> Pixels:
    from generation.pictures.pixels import read_image

    return read_image(path)


def _resampled(image: Pixels, control: Pixels) -> Pixels:
    from PIL import Image

    size = (control.shape[1], control.shape[0])
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


class _Cache:
    """measured.jsonl: one line per picture and occasion, with the digests of what was measured.

    A line holds what was new: `values` maps a metric's name to [version, value or null, reason].
    Lines of another format, or cut by a kill, are passed over; of two on the same, the later holds.
    Without a path nothing is kept.
    """

    def __init__(self, path: Path | None, declared: Mapping[str, Declaration]) -> None:
        self._path, self._declared = path, declared
        self._looks: dict[str, tuple[str, str]] = {}
        self._notes: dict[Key, str] = {}
        self._outcomes: dict[Key, Outcome] = {}
        self._ladders: dict[Key, tuple[tuple[float, ...], ...]] = {}
        self._digest = lru_cache(maxsize=4096)(_digest)
        self._file: FileIO | None = None
        if path is not None and os.path.lexists(own(path)):
            with writing(path), open_file(path) as file:
                for line in file:
                    try:
                        self._take(json.loads(line))
                    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                        continue

    def __enter__(self) -> None:
        if self._path is not None:
            with writing(self._path):
                whole = _ends_a_line(appending(self._path))
                self._file = self._path.open("ab", buffering=0)
                if not whole:
                    self._file.write(b"\n")

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def work(self, task: Task, names: Sequence[str], known: _Known | None = None) -> _Work:
        """The task with what is known of it; outcomes in `known` count too."""
        digests = self._digests(task)
        if known is None:
            pixels, thumbnail = self._looks.get(digests["image"], ("", ""))
            known = _Known(
                pixels, thumbnail, self._notes.get(_pair(digests), ""), {},
                self._ladders.get(self._ladder_key(task, digests), ()),
            )  # fmt: skip
        outcomes = dict(known.outcomes)
        for name in names:
            key = self._key(name, digests)
            declaration = self._declared[name]
            lack = _lacking(declaration, task)
            if lack:  # without a control a picture is one: that goes without saying
                why = "" if lack == "control" else f"no {lack}, so no {declaration.label}"
                outcomes[name] = Outcome(math.nan, why, kept=False)
            elif name not in outcomes and key in self._outcomes:
                outcomes[name] = self._outcomes[key]
        known = replace(known, outcomes=outcomes)
        missing = tuple(name for name in names if name not in outcomes)
        return _Work(task, digests, known, missing, bool(task.ladders) and not known.ladders)

    def write(self, work: _Work, found: _Known) -> None:
        """Append what is new, unless the picture or its files could not be read."""
        if self._file is None or not found.pixels or not work.digests["image"]:
            return
        values = {
            name: [
                self._declared[name].version,
                None if math.isnan(outcome.value) else outcome.value,
                outcome.reason,
            ]
            for name, outcome in found.outcomes.items()
            if outcome.kept and self._key(name, work.digests) not in self._outcomes
        }
        new_look = work.digests["image"] not in self._looks
        if not (values or new_look or work.ladders):
            return
        record: dict[str, Any] = {"format": CACHE_FORMAT, **work.digests, "values": values}
        if new_look:
            record |= {"pixels": found.pixels, "thumbnail": found.thumbnail}
        if found.note and work.digests["control"]:
            record["note"] = found.note
        if work.ladders:
            scores = [[None if math.isnan(x) else x for x in row] for row in found.ladders]
            record["ladders"] = [*self._ladder_key(work.task, work.digests)[1:], scores]
        assert self._path is not None
        with writing(self._path):
            self._file.write(json.dumps(record).encode() + b"\n")
        self._take(record)

    def _take(self, record: Mapping[str, Any]) -> None:
        if record["format"] != CACHE_FORMAT:
            return
        digests = {name: str(record.get(name, "")) for name in ("image", *PARTS)}
        if "pixels" in record:
            pixels, thumbnail = str(record["pixels"]), str(record["thumbnail"])
            if math.isqrt(size := len(base64.b85decode(thumbnail))) ** 2 != size:
                raise ValueError("no square picture")
            self._looks[digests["image"]] = pixels, thumbnail
        if record.get("note"):
            self._notes[_pair(digests)] = str(record["note"])
        if "ladders" in record:
            name, version, scores = record["ladders"]
            rows = tuple(tuple(_number(score) for score in row) for row in scores)
            self._ladders[digests["image"], str(name), str(version)] = rows
        for name, (version, value, reason) in record["values"].items():
            if name in self._declared and version == self._declared[name].version:
                self._outcomes[self._key(name, digests)] = Outcome(_number(value), str(reason))

    def _key(self, name: str, digests: Mapping[str, str]) -> Key:
        """What the metric's value depends on. What it needs but has not is never looked up."""
        looks = self._declared[name].needs | self._declared[name].uses
        return (name, digests["image"], *(digests[part] for part in PARTS if part in looks))

    def _ladder_key(self, task: Task, digests: Mapping[str, str]) -> Key:
        if not task.ladders:
            return ()
        from analysers.trust import LADDERS_VERSION

        version = load_metric(task.ladders).declaration.version
        return (digests["image"], task.ladders, f"{version}.{LADDERS_VERSION}")

    def _digests(self, task: Task) -> dict[str, str]:
        if self._path is None:
            return dict.fromkeys(("image", *PARTS), "")
        return {
            "image": self._of(task.image) + ("" if task.fit is None else f"@{task.fit}"),
            "control": self._of(task.control) if task.control else "",
            "prompt": _text_digest(task.prompt),
            "references": _text_digest("".join(map(self._of, task.references))),
            "content": _text_digest(task.content),
            "others": _text_digest("\0".join(task.others)),
            "held_out": _text_digest("".join(map(self._of, task.held_out))),
        }

    def _of(self, path: Path) -> str:
        try:
            known = path.stat()
            return self._digest(path, known.st_mtime_ns, known.st_size)
        except OSError:
            return ""


def _digest(path: Path, _changed: int, _size: int) -> str:
    with open_file(path) as file:
        return hashlib.sha256(file.read()).hexdigest()


def _text_digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() if text else ""


def _pair(digests: Mapping[str, str]) -> Key:
    return digests["image"], digests["control"]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _ends_a_line(path: Path) -> bool:
    if not path.is_file():
        return True
    with path.open("rb") as file:
        if file.seek(0, 2) == 0:
            return True
        file.seek(-1, 2)
        return file.read(1) == b"\n"
