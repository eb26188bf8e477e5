"""BRISQUE: how natural a picture looks, without a reference. Lower is better.

Mittal, Moorthy, Bovik (2012), "No-reference image quality assessment in the spatial domain",
IEEE TIP 21(12), with the model and the feature ranges of LIVE's release 1 (brisque_live.npz and
its licence lie beside this file). It is computed here, not by a library, for the sake of flat
areas: there the normalised coefficients are exactly 0, but floating point leaves +-1e-14 with a
random sign, the fits count signs, and the score moves by up to ten points with the order of
summation. Here what is below 1e-9 is 0, in float64; so a picture has one score, on every machine,
to 1e-6 (docs/metrics.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from analysers.metrics.filters import Floats, bands, blur, gaussian_kernel, half_size
from analysers.metrics.luma import Pixels, luma
from analysers.metrics.metric import Declaration, Declared, Sample

Mask = npt.NDArray[np.bool_]

_ZERO = 1e-9
_SVM_GAMMA = 0.05
_SMALLEST = 16
_RADIUS = 3


def brisque(image: Pixels) -> float:
    """BRISQUE of a uint8 picture, grey (H, W) or RGB (H, W, 3): about 0 (pristine photograph) to
    100 (ruined), and beyond both ends; NaN where it is undefined (see `brisque_with_reason`).

    Raises ValueError for another type or shape.
    """
    return brisque_with_reason(image)[0]


def brisque_with_reason(image: Pixels) -> tuple[float, str]:
    """BRISQUE and why it is undefined: (score, "") or (NaN, a clause such as "all pixels have the
    same brightness").
    """
    plane = luma(image)
    reason = _why_undefined(plane)
    if reason:
        return math.nan, reason
    found = features(plane)
    if not np.isfinite(found).all():
        return math.nan, "the picture is so nearly flat that it has no texture to measure"
    return _predict(found), ""


def features(image: Pixels) -> Floats:
    """The 36 features, float64, unscaled: at full and at half size, the GGD's shape and variance,
    then shape, mean, left and right variance of the AGGD of the products of neighbours across,
    down, along the main and along the other diagonal. NaN where a fit is undefined.
    """
    plane = luma(image)
    return np.array(_features_of_size(plane) + _features_of_size(half_size(plane)))


def _why_undefined(plane: Pixels) -> str:
    if min(plane.shape) < _SMALLEST:
        return f"the picture is smaller than {_SMALLEST} x {_SMALLEST} pixels"
    if plane.min() == plane.max():
        return "all pixels have the same brightness"
    return ""


def _features_of_size(plane: npt.NDArray[Any]) -> list[float]:
    """The 18 features of one size (H, W)."""
    height, width = plane.shape
    padded = np.zeros((height + 2 * _RADIUS, width + 2 * _RADIUS), plane.dtype)
    padded[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS] = plane
    moments, ones = np.zeros(2), np.ones(width)
    products = [_Products() for _ in range(4)]
    above = _mscn(padded[height - 1 :])  # neighbours wrap around: the last row is above the first
    for rows in bands(height, width):
        window = np.concatenate([above, _mscn(padded[rows.start : rows.stop + 2 * _RADIUS])])
        above = window[-1:]
        # |p|, p^2 and p |p| of a product p are products of the neighbours' own.
        powers = np.empty((3, *window.shape))
        np.abs(window, out=powers[0])
        known, negative = powers[0] >= _ZERO, window < 0.0
        if not known.all():  # what is below is rounding noise
            window *= known
            powers[0] *= known
        np.multiply(window, window, out=powers[1])
        np.multiply(window, powers[0], out=powers[2])
        moments += np.vecdot(powers[:2, 1:, 1:], ones).sum(axis=1)
        for found, (one, other) in zip(products, _NEIGHBOURS, strict=True):
            nonzero, apart = known[one] & known[other], negative[one] ^ negative[other]
            found.add(powers[one], powers[other], nonzero, apart)
    magnitude, square = (moments / (height * width)).tolist()
    features = list(_fit_ggd(square, magnitude))
    for found in products:
        features += _fit_aggd(found)
    return features


_HERE, _LEFT, _UP, _UP_LEFT = (
    (..., rows, columns)
    for rows in (slice(1, None), slice(None, -1))
    for columns in (slice(1, None), slice(None, -1))
)
_NEIGHBOURS = ((_HERE, _LEFT), (_HERE, _UP), (_HERE, _UP_LEFT), (_UP, _LEFT))
"""In rows with the one above and the column to the left: which are multiplied."""


def _mscn(padded: npt.NDArray[Any]) -> Floats:
    """Mean-subtracted, contrast-normalised coefficients, (I - mu) / (sigma + 1), of some rows, from
    these with the frame of three pixels around them; on their left, once more, the last column.
    """
    planes = np.empty((2, *padded.shape))
    planes[0] = padded
    np.square(planes[0], out=planes[1])
    mean, deviation = blur(planes, gaussian_kernel(_RADIUS, 7 / 6))
    mscn = planes[0, _RADIUS:-_RADIUS]
    mscn -= mean
    np.square(mean, out=mean)
    deviation -= mean
    np.abs(deviation, out=deviation)
    np.sqrt(deviation, out=deviation)
    deviation += 1.0
    mscn /= deviation
    mscn[:, _RADIUS - 1] = mscn[:, -_RADIUS - 1]
    return mscn[:, _RADIUS - 1 : -_RADIUS]


@dataclass
class _Products:
    """Of the products of neighbours: how many there are, and below and above zero; sums of their
    magnitudes, their squares, and their squares with their signs."""

    size: int = 0
    left_count: int = 0
    right_count: int = 0
    sums: Floats = field(default_factory=lambda: np.zeros(3))

    def add(self, one: Floats, other: Floats, nonzero: Mask, apart: Mask) -> None:
        """`one` and `other` hold magnitudes, squares and signed squares: (3, H, W)."""
        self.size += nonzero.size
        left = int(np.count_nonzero(apart & nonzero))
        self.left_count += left
        self.right_count += int(np.count_nonzero(nonzero)) - left
        self.sums += np.vecdot(one, other).sum(axis=1)

    @property
    def variances(self) -> tuple[float, float]:
        """Mean squares below and above zero. A product is no smaller than `_ZERO` squared, what a
        difference of sums may be."""
        _, square, signed = self.sums.tolist()
        left, right = (square - signed) / 2.0, (square + signed) / 2.0
        return max(left / self.left_count, _ZERO**4), max(right / self.right_count, _ZERO**4)


def _fit_ggd(mean_square: float, mean_magnitude: float) -> tuple[float, float]:
    """Shape and variance of the generalised Gaussian with these moments."""
    if mean_magnitude == 0.0:
        return math.nan, 0.0
    return _tables().shape_of_ggd(mean_square / mean_magnitude**2), mean_square


def _fit_aggd(x: _Products) -> tuple[float, float, float, float]:
    """Shape, mean, left and right variance of the asymmetric generalised Gaussian with these
    moments; NaN where there are no values on one side.
    """
    if x.left_count == 0 or x.right_count == 0:
        return math.nan, math.nan, math.nan, math.nan
    left_variance, right_variance = x.variances
    left_sigma, right_sigma = math.sqrt(left_variance), math.sqrt(right_variance)
    gamma_hat = left_sigma / right_sigma
    magnitude, square, _ = (x.sums / x.size).tolist()
    r_hat = magnitude**2 / square
    balanced = r_hat * (gamma_hat**3 + 1) * (gamma_hat + 1) / (gamma_hat**2 + 1) ** 2
    shape, mean_factor = _tables().shape_of_aggd(balanced)
    return shape, (right_sigma - left_sigma) * mean_factor, left_variance, right_variance


@dataclass(frozen=True, eq=False)
class _Tables:
    """Moment ratios of the shapes 0.2, 0.201 ... 10, among which LIVE's fits pick the nearest."""

    shapes: Floats
    aggd_ratio: Floats  # Gamma(2/a)^2 / (Gamma(1/a) Gamma(3/a)), growing with a
    ggd_ratio_reversed: Floats  # its inverse, shapes from 10 down to 0.2, growing
    mean_factor: Floats  # Gamma(2/a) / sqrt(Gamma(1/a) Gamma(3/a))

    def shape_of_ggd(self, ratio: float) -> float:
        return float(self.shapes[-1 - _nearest(self.ggd_ratio_reversed, ratio)])

    def shape_of_aggd(self, ratio: float) -> tuple[float, float]:
        at = _nearest(self.aggd_ratio, ratio)
        return float(self.shapes[at]), float(self.mean_factor[at])


@lru_cache(maxsize=1)
def _tables() -> _Tables:
    from scipy.special import gamma

    shapes = np.arange(200, 10_001) / 1000.0
    one, two, three = (gamma(moment / shapes) for moment in (1.0, 2.0, 3.0))
    ratio = two**2 / (one * three)
    return _Tables(shapes, ratio, (1.0 / ratio)[::-1].copy(), two / np.sqrt(one * three))


def _nearest(ascending: Floats, value: float) -> int:
    """The index of the entry nearest to `value`, by bisection."""
    above = int(np.searchsorted(ascending, value))
    if above == 0:
        return 0
    if above == ascending.size:
        return above - 1
    return above - int(value - ascending[above - 1] <= ascending[above] - value)


@dataclass(frozen=True, eq=False)
class _Model:
    """LIVE's epsilon-SVR: 774 support vectors in scaled features, their weights, rho, and the
    features' published ranges.
    """

    vectors: Floats
    weights: Floats
    rho: float
    lowest: Floats
    highest: Floats


@lru_cache(maxsize=1)
def _model() -> _Model:
    with np.load(Path(__file__).with_name("brisque_live.npz"), allow_pickle=False) as stored:
        return _Model(
            vectors=stored["vectors"].astype(np.float64),
            weights=stored["weights"].astype(np.float64),
            rho=float(stored["rho"]),
            lowest=stored["lowest"],
            highest=stored["highest"],
        )


def _predict(found: Floats) -> float:
    model = _model()
    scaled = -1.0 + 2.0 * (found - model.lowest) / (model.highest - model.lowest)
    distance = np.square(model.vectors - scaled).sum(axis=1)
    return float((model.weights * np.exp(-_SVM_GAMMA * distance)).sum()) - model.rho


@dataclass(frozen=True)
class Brisque(Declared):
    """`brisque` as a metric."""

    declaration = Declaration(
        "brisque", "lower", label="BRISQUE", unit="points", about="how natural it looks", margin=5.0
    )

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float]:
        return [brisque(sample.luma) for sample in samples]
