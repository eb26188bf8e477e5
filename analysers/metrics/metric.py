"""What a metric is, and where metrics are found by name.

A metric sees pictures, never LoRAs: it serves any images. Adding one is one file and one line in
`METRICS`; a package of one's own adds it through the entry point group `lora_analysers.metrics`
(docs/metrics.md has a worked example).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from generation.errors import UserError

Better = Literal["higher", "lower"] | None

GROUP = "lora_analysers.metrics"


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture to measure.

    `image` and `control` are uint8 arrays, grey (H, W) or RGB (H, W, 3), 0 to 255, of the same
    shape; `control` is None where there is none.
    """

    image: npt.NDArray[np.uint8]
    control: npt.NDArray[np.uint8] | None = None
    prompt: str = ""


@runtime_checkable
class Metric(Protocol):
    """A number per picture.

    `better` is the direction of improvement; None marks a metric that describes and is never
    ranked by. Calling returns one float per sample, NaN where the metric is undefined, and each
    value depends on its own sample only, whatever else is in the batch. An exception counts as
    undefined for the whole call, its text as the reason.
    """

    @property
    def name(self) -> str: ...

    @property
    def better(self) -> Better: ...

    @property
    def needs_control(self) -> bool: ...

    def check(self) -> None:
        """Raise `UserError` when a package or weights are missing; called before rendering."""
        ...

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float]: ...


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
}
"""The metrics that come with the suite; what follows a colon in a name is handed to the factory."""


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
                "reinstall the package that provides it, or leave it out of --metrics."
            ) from error
    else:
        raise UserError(f'There is no metric "{base}"; known are {", ".join(metric_names())}.')
    try:
        metric = factory(*arguments)
    except TypeError as error:
        if not arguments:
            raise
        raise UserError(f'The metric "{base}" takes nothing after a colon; write "{base}".') from (
            error
        )
    if not isinstance(metric, Metric):
        raise UserError(
            f'The entry point of the metric "{base}" does not give a metric: it needs name, '
            "better, needs_control, check() and to be callable (see docs/metrics.md)."
        )
    return metric


def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
