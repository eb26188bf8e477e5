"""Does a metric keep the rules of docs/metrics.md? For the tests of whoever writes one."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from typing import Any, get_args

import numpy as np

from analysers.metrics.luma import Pixels
from analysers.metrics.metric import Declaration, Metric, Need, Sample


def conforms(
    metric: Metric, *, size: int = 96, renderer: Any = None, tolerance: float = 0.0
) -> None:
    """Raise AssertionError, in a sentence, where `metric` breaks a rule.

    It is tried on made pictures of `size` x `size` pixels, grey and RGB, alone, in any order and in
    company, in other memory layouts, and on a black one. `renderer` is handed on to metrics that
    need one. `tolerance` is how much a value may depend on its company: 0 unless the metric runs
    networks in batches.
    """
    declaration = metric.declaration
    name = declaration.name
    _declares(declaration)
    metric.check()
    samples = [_sample(declaration, k, size, renderer) for k in range(5)]
    alone = [_one(metric, sample) for sample in samples]
    known = [value for value in alone if math.isfinite(value)]
    whole = len(known) == len(alone) or declaration.undefined
    assert whole, f"{name} is undefined on a plain picture."
    assert len(set(known)) > 1, f"{name} gives every picture the same value."
    low, high = declaration.bounds
    assert all(low <= value <= high for value in known), f"{name} leaves its bounds."
    for order in ([4, 2, 0, 1, 3], [1, 1, 3, 0, 3, 2, 4, 4]):
        values = list(metric([samples[k] for k in order]))
        assert len(values) == len(order), f"{name} gives {len(values)} values for {len(order)}."
        for k, value in zip(order, values, strict=True):
            near = _same(float(value), alone[k], tolerance)
            assert near, f"{name} of a picture depends on its batch: {value} and {alone[k]}."
    assert list(metric([])) == [], f"{name} gives a value for no picture."
    _takes_any_layout(metric, samples[0], alone[0])
    _black_is_no_error(metric, _sample(declaration, 0, size, renderer))
    again = pickle.loads(pickle.dumps(metric)) if renderer is None else metric
    same = _same(_one(again, samples[1]), alone[1])
    assert same, f"{name} changes when it is sent to a process."


def _same(a: float, b: float, tolerance: float = 0.0) -> bool:
    return abs(a - b) <= tolerance or (math.isnan(a) and math.isnan(b))


def _declares(declaration: Declaration) -> None:
    name = declaration.name
    assert name and name == name.strip(), "A metric needs a name without spaces around it."
    assert declaration.better in ("higher", "lower", None), f"{name}: better is no direction."
    known = set(get_args(Need))
    assert declaration.needs <= known, f"{name} needs what no sample has: {declaration.needs}."
    assert declaration.aggregate in ("mean", "ratio", "change"), f"{name}: unknown aggregate."
    assert declaration.version >= 1 and declaration.batch >= 1, f"{name}: version and batch from 1."
    assert not declaration.margin < 0, f"{name}: a margin is not negative."


def _sample(declaration: Declaration, k: int, size: int, renderer: Any) -> Sample:
    needs = declaration.needs | declaration.uses
    return Sample(
        _picture(k, size),
        _picture(k + 100, size) if "control" in needs else None,
        f"a picture of {k}" if "prompt" in needs else "",
        (_picture(200, size), _picture(201, size)) if "references" in needs else (),
        renderer if "renderer" in needs else None,
        f"a picture of {k}" if "content" in needs else "",
        tuple(f"another of {n}" for n in range(4)) if "others" in needs else (),
        (_picture(202, size),) if "held_out" in needs else (),
    )


def _picture(seed: int, size: int) -> Pixels:
    """Soft blobs of colour with grain: some are clipped, and some have a plain corner."""
    generator = np.random.default_rng(seed)
    at = np.linspace(0, 2 * np.pi, size)
    waves = [
        np.sin(generator.uniform(0.5, 3) * at[:, None] + generator.uniform(0, 6))
        * np.cos(generator.uniform(0.5, 3) * at[None, :] + generator.uniform(0, 6))
        for _ in range(3)
    ]
    planes = (
        128
        + (60 + 20 * (seed % 5)) * np.stack(waves, axis=2)
        + generator.normal(0, 8, (size, size, 3))
    )
    planes[: size // 8 * (seed % 5), : size // 2] = 90
    return np.clip(np.rint(planes), 0, 255).astype(np.uint8)


def _takes_any_layout(metric: Metric, sample: Sample, value: float) -> None:
    """The same pixels in another layout have the same value, and grey pictures have one."""
    name = metric.declaration.name

    def changed(change: Any) -> Sample:
        control = None if sample.control is None else change(sample.control)
        return replace(sample, image=change(sample.image), control=control)

    other = _one(metric, changed(np.asfortranarray))
    assert _same(other, value), f"{name} depends on the memory layout: {value} and {other}."
    read_only = changed(lambda image: image.copy())
    read_only.image.setflags(write=False)
    assert _same(_one(metric, read_only), value), f"{name} changes the picture that it is given."
    grey = _one(metric, changed(lambda image: image[..., 0]))
    assert not math.isinf(grey), f"{name} of a grey picture is infinite."


def _black_is_no_error(metric: Metric, sample: Sample) -> None:
    black = np.zeros_like(sample.image)
    value = _one(metric, replace(sample, image=black))
    name = metric.declaration.name
    assert not math.isinf(value), f"{name} of a black picture is infinite; NaN means undefined."


def _one(metric: Metric, sample: Sample) -> float:
    return float(metric([sample])[0])
