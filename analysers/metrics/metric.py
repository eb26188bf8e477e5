"""What a metric is, and where metrics are found by name.

A metric sees pictures, never LoRAs: it serves any images. What it is called, which way is better,
what it needs and how its values are summed up, it declares itself, so that nothing else holds a
list of names. Adding one is one file and one line in `METRICS`; a package of one's own adds it
through the entry point group `lora_analysers.metrics` (docs/metrics.md has a worked example).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property, lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, Protocol, TypeVar, cast, runtime_checkable

from analysers.metrics.luma import Pixels, luma
from generation.errors import UserError, named

Better = Literal["higher", "lower"] | None
Need = Literal["control", "prompt", "references", "held_out", "renderer", "content", "others"]
Aggregate = Literal["mean", "ratio", "change"]
T = TypeVar("T")

GROUP = "lora_analysers.metrics"


@dataclass(frozen=True)
class Declaration:
    """What a metric says of itself; all but the name has a default.

    `label` is the name as people write it, `unit` that of its values, `about` what it says of a
    picture, in a few words. `better` is the direction of improvement; None marks a metric that
    describes and is never ranked by. `margin` is how much worse than the control still counts as
    clean, NaN where that cannot be said. `version` is raised whenever a value changes: kept
    measurements of another version are not used. `needs` says what a sample must hold besides its
    picture ("renderer": the metric is measured where pictures are rendered, with the renderer at
    hand), `uses` what else it looks at where it is there. `undefined` says why there is no value
    where the picture is not to blame. `aggregate` is what stands for a candidate: the mean over its
    cases, the geometric mean of the ratios to the controls ("ratio"), or the mean difference from
    the controls ("change").
    `bounds` are the values that are possible; `batch`, how many samples a call takes gladly.
    """

    name: str
    better: Better = None
    label: str = ""
    unit: str = ""
    about: str = ""
    version: int = 1
    margin: float = math.nan
    needs: frozenset[Need] = frozenset()
    uses: frozenset[Need] = frozenset()
    undefined: str = ""
    aggregate: Aggregate = "mean"
    bounds: tuple[float, float] = (-math.inf, math.inf)
    batch: int = 1

    def __post_init__(self) -> None:
        if self.better is not None and self.aggregate != "mean":
            raise ValueError(f"{self.name}: what can rank is summed up by its mean.")
        if not self.label:
            object.__setattr__(self, "label", self.name.replace("_", " "))

    @property
    def summary(self) -> str:
        """The name of what stands for a candidate: "ssim", "rms_contrast_ratio"."""
        return self.name if self.aggregate == "mean" else f"{self.name}_{self.aggregate}"

    @property
    def summary_label(self) -> str:
        """The summary as people write it: "SSIM", "contrast (ratio)"."""
        words = {"mean": "", "ratio": " (ratio)", "change": " (change)"}
        return self.label + words[self.aggregate]


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture to measure.

    `image`, `control` and `references` are uint8 arrays, grey (H, W) or RGB (H, W, 3), 0 to 255;
    image and control have one shape. `control` is None and `references` is empty where there is
    none; `held_out` are pictures of the same kind as the references that were not trained on.
    `renderer` is what rendered the picture, for metrics that declare that they need it.
    `content` is the prompt without the LoRA's trigger words, which a model without the LoRA does
    not know; `others` are a few contents of other cases, the same for all candidates.
    """

    image: Pixels
    control: Pixels | None = None
    prompt: str = ""
    references: Sequence[Pixels] = ()
    renderer: Any = None
    content: str = ""
    others: tuple[str, ...] = ()
    held_out: Sequence[Pixels] = ()

    @cached_property
    def luma(self) -> Pixels:
        """The picture's 8-bit luma (H, W), computed once for all metrics."""
        return luma(self.image)

    def shared(self, make: Callable[[Pixels], T]) -> T:
        """`make(self.luma)`, computed once for all metrics that ask for it."""
        return self._once(make, lambda: make(self.luma))

    def once(self, make: Callable[[Sample], T]) -> T:
        """`make(self)`, computed once for all metrics that ask for it."""
        return self._once(make, lambda: make(self))

    @cached_property
    def known(self) -> dict[Any, Any]:
        """What metrics have made of the sample so far."""
        return {}

    def _once(self, key: Any, make: Callable[[], T]) -> T:
        if key not in self.known:
            self.known[key] = make()
        return cast(T, self.known[key])


def together(samples: Sequence[Sample], make: Callable[[Sequence[Sample]], Sequence[T]]) -> list[T]:
    """What `make` gives for each of the samples, computed once for all metrics that ask for it, for
    those that lack it together."""
    lacking = [sample for sample in samples if make not in sample.known]
    for sample, value in zip(lacking, make(lacking) if lacking else (), strict=True):
        sample.known[make] = value
    return [cast(T, sample.known[make]) for sample in samples]


@runtime_checkable
class Metric(Protocol):
    """A number per picture.

    Calling returns one float per sample, NaN where the metric is undefined by its definition, and
    each value depends on its own sample only, whatever else is in the batch. An exception means
    that this time it could not be measured: it becomes the row's reason and is not kept.
    """

    @property
    def declaration(self) -> Declaration: ...

    def check(self) -> None:
        """Raise `UserError` when a package or weights are missing; called before rendering."""
        ...

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float]: ...


class Declared:
    """A metric's base: nothing can be missing, and what is declared can be asked directly."""

    declaration: Declaration

    @property
    def name(self) -> str:
        return self.declaration.name

    @property
    def better(self) -> Better:
        return self.declaration.better

    @property
    def needs_control(self) -> bool:
        return "control" in self.declaration.needs

    def check(self) -> None:
        """Nothing can be missing."""


@dataclass(frozen=True)
class Undeclared:
    """A metric that has `name`, `better` and `needs_control` in place of a declaration."""

    metric: Any

    @property
    def name(self) -> str:
        return str(self.metric.name)

    @property
    def declaration(self) -> Declaration:
        needs: frozenset[Need] = frozenset({"control"} if self.metric.needs_control else ())
        return Declaration(self.metric.name, self.metric.better, needs=needs)

    def check(self) -> None:
        self.metric.check()

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float]:
        return cast(Sequence[float], self.metric(samples))


def _lazy(target: str) -> Callable[..., Metric]:
    """A factory that imports "module:name" when called, so that listing names imports nothing."""
    module, _, name = target.partition(":")
    return lambda *parameter: cast(Metric, getattr(import_module(module), name)(*parameter))


METRICS: dict[str, Callable[..., Metric]] = {
    "ssim": _lazy("analysers.metrics.ssim:Ssim"),
    "brisque": _lazy("analysers.metrics.brisque:Brisque"),
    "ms_ssim": _lazy("analysers.metrics.perceptual:ms_ssim"),
    "gmsd": _lazy("analysers.metrics.perceptual:gmsd"),
    "vif": _lazy("analysers.metrics.perceptual:vif"),
    "dists": _lazy("analysers.metrics.perceptual:dists"),
    "lpips": _lazy("analysers.metrics.perceptual:lpips"),
    "clip": _lazy("analysers.metrics.perceptual:ClipScore"),
    "adherence": _lazy("analysers.metrics.adherence:Adherence"),
    "adherence_margin": _lazy("analysers.metrics.adherence:AdherenceMargin"),
    "reference_likeness": _lazy("analysers.metrics.references:ReferenceLikeness"),
    "held_out_likeness": _lazy("analysers.metrics.references:HeldOutLikeness"),
    "copying": _lazy("analysers.metrics.copying:Copying"),
    "copying_hash": _lazy("analysers.metrics.copying:CopyingHash"),
    "held_out_copying": _lazy("analysers.metrics.copying:HeldOutCopying"),
    "colour_difference": _lazy("analysers.metrics.colour:ColourDifference"),
    "largest_difference": _lazy("analysers.metrics.colour:LargestDifference"),
    "dark_share": _lazy("analysers.metrics.signs:DarkShare"),
    "flat_share": _lazy("analysers.metrics.signs:FlatShare"),
    "texture": _lazy("analysers.metrics.signs:Texture"),
    "rms_contrast": _lazy("analysers.metrics.signs:RmsContrast"),
    "clipped": _lazy("analysers.metrics.signs:Clipped"),
    "colourfulness": _lazy("analysers.metrics.signs:Colourfulness"),
    "laplacian_energy": _lazy("analysers.metrics.signs:LaplacianEnergy"),
}
"""The metrics that come with the suite; what follows a colon in a name is handed to the factory."""

ALWAYS = (
    "rms_contrast",
    "clipped",
    "colourfulness",
    "laplacian_energy",
    "colour_difference",
    "largest_difference",
    "dark_share",
    "flat_share",
    "texture",
)
"""Measured on every picture, whatever was asked for: they argue with the ranked metric."""


def metric_names() -> tuple[str, ...]:
    """The names that `load_metric` accepts: the suite's own, then installed packages'."""
    return (*METRICS, *(name for name in sorted(_installed()) if name not in METRICS))


def load_metric(name: str) -> Metric:
    """The metric called `name`; "clip:PATH" passes PATH to the metric "clip".

    Raises `UserError` for an unknown name or a package whose entry point is broken. It does not
    look for weights: `Metric.check` does.
    """
    base, colon, parameter = name.partition(":")
    arguments = (parameter,) if colon else ()
    if base in METRICS:
        factory: Callable[..., Any] = METRICS[base]
    elif (entry := _installed().get(base)) is not None:
        try:
            factory = entry.load()
        except Exception as error:
            raise UserError(
                f'The metric "{base}" from {entry.value} cannot be imported ({error}); '
                f"reinstall the package that provides it, or leave it out of {named('metrics')}."
            ) from error
    else:
        alike = get_close_matches(base, metric_names(), 2)
        meant = f" (did you mean {' or '.join(alike)}?)" if alike else ""
        raise UserError(
            f'There is no metric "{base}"{meant}; {named("metrics")} list tells all of them.'
        )
    try:
        metric = factory(*arguments)
    except TypeError as error:
        if not arguments:
            raise
        raise UserError(f'The metric "{base}" takes nothing after a colon; write "{base}".') from (
            error
        )
    if all(hasattr(metric, part) for part in ("name", "better", "needs_control")):
        metric = metric if hasattr(metric, "declaration") else Undeclared(metric)
    if not isinstance(metric, Metric) or not callable(metric):
        raise UserError(
            f'The entry point of the metric "{base}" does not give a metric: it needs a '
            "declaration, check() and to be callable (see docs/metrics.md)."
        )
    return metric


@lru_cache(maxsize=64)
def declared(name: str) -> Declaration:
    """What the metric called `name` declares; a bare declaration for a name that nothing here
    provides, as in a study from elsewhere.
    """
    try:
        return load_metric(name).declaration
    except Exception:
        return Declaration(name)


def declared_by_summary(name: str) -> Declaration:
    """The declaration of the metric whose summary is called `name` ("rms_contrast_ratio")."""
    for end in ("_ratio", "_change"):
        found = declared(name.removesuffix(end))
        if name.endswith(end) and found.summary == name:
            return found
    return declared(name)


def _installed() -> dict[str, EntryPoint]:
    return _installed_on(tuple(sys.path))


@lru_cache(maxsize=1)  # every package's metadata is read for it
def _installed_on(_path: tuple[str, ...]) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
