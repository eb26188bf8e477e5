"""Every metric of the suite keeps the rules, and the conformance test finds each broken one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

import sample_data
from analysers.metrics.conformance import conforms
from analysers.metrics.metric import METRICS, Declaration, Declared, Sample, load_metric

PIQ = ("ms_ssim", "gmsd", "vif")
NETWORKS = ("dists", "lpips", "clip")  # their weights are not part of the suite


@pytest.mark.parametrize("name", [name for name in METRICS if name not in NETWORKS])
def test_the_suites_own_metrics_conform(name: str) -> None:
    if name in PIQ:
        pytest.importorskip("piq")
    metric = load_metric(name)
    renderer = embedded() if "renderer" in metric.declaration.needs else None
    conforms(metric, size=192 if name in PIQ else 96, renderer=renderer)


def embedded() -> object:
    """The engine with the embedded model."""
    engine = pytest.importorskip("generation.renderers.diffusers.engine")
    model = engine.find_model(str(sample_data.PATH / "model"))
    return engine.Engine(model, width=96, height=96, batch_size=4)


class Renderer:
    """Stands for a model: says how far a picture is from what it would paint."""

    def distance(self, image: np.ndarray) -> float:
        return float(np.abs(image.astype(float) - 128).mean())


@dataclass(frozen=True)
class Adherence(Declared):
    declaration = Declaration("adherence", "lower", needs=frozenset({"renderer", "prompt"}))

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float]:
        return [s.renderer.distance(s.image) + len(s.prompt) for s in samples]


def test_a_metric_that_asks_the_renderer_conforms() -> None:
    conforms(Adherence(), renderer=Renderer())


def broken(call: object, **declared: object) -> Declared:
    made = Declaration("broken", **declared)  # type: ignore[arg-type]
    return type("Broken", (Declared,), {"declaration": made, "__call__": call})()


MEAN = lambda s: float(s.image.mean())  # noqa: E731


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (broken(lambda self, s: [MEAN(x) + len(s) for x in s]), "depends on its batch"),
        (broken(lambda self, s: [MEAN(s[0])] * len(s) if s else []), "depends on its batch"),
        (broken(lambda self, s: [MEAN(x) for x in s[:1]]), "1 values for 5"),
        (broken(lambda self, s: [1.0 for _ in s]), "the same value"),
        (broken(lambda self, s: [float("nan") for _ in s]), "undefined on a plain picture"),
        (broken(lambda self, s: [MEAN(x) for x in s], bounds=(0, 1)), "leaves its bounds"),
        (broken(lambda self, s: [MEAN(x) for x in s], needs={"gpu"}), "needs what no sample has"),
        (broken(lambda self, s: [MEAN(x) for x in s], margin=-1.0), "not negative"),
        (broken(lambda self, s: [x.image.strides[0] for x in s]), "the same value"),
        (
            broken(lambda self, s: [np.divide(1.0, x.image.sum()) for x in s]),
            "black picture is infinite",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_broken_rules_are_named(metric: Declared, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        conforms(metric)


def test_what_can_rank_is_summed_up_by_its_mean() -> None:
    with pytest.raises(ValueError, match="by its mean"):
        Declaration("odd", "lower", aggregate="ratio")
