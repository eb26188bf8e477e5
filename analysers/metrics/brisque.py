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
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from analysers.metrics.filters import Floats, bands, blur, gaussian_kernel, half_size
from analysers.metrics.luma import Pixels, luma
from analysers.metrics.metric import Declaration, Declared, Sample

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
    padded = _zero_padded(luma(image))
    smaller = half_size(padded[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS])
    return np.array(_features_of_size(padded) + _features_of_size(_zero_padded(smaller)))


def _why_undefined(plane: Pixels) -> str:
    if min(plane.shape) < _SMALLEST:
        return f"the picture is smaller than {_SMALLEST} x {_SMALLEST} pixels"
    if plane.min() == plane.max():
        return "all pixels have the same brightness"
    return ""


def _zero_padded(plane: npt.NDArray[Any]) -> Floats:
    height, width = plane.shape
    padded = np.zeros((height + 2 * _RADIUS, width + 2 * _RADIUS))
    padded[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS] = plane
    return padded


def _features_of_size(padded: Floats) -> list[float]:
    """The 18 features of one size, from the picture with a frame of zeros, three pixels wide."""
    height, width = padded.shape[0] - 2 * _RADIUS, padded.shape[1] - 2 * _RADIUS
    square = magnitude = 0.0
    products = tuple(_Sides() for _ in range(4))
    above = _mscn(padded[height - 1 :])  # neighbours wrap around: the last row is above the first
    for rows in bands(height, width):
        band = _mscn(padded[rows.start : rows.stop + 2 * _RADIUS])
        # The band with the row above it, and on its left the wrapped last column.
        window = np.empty((band.shape[0] + 1, width + 1))
        window[0, 1:], window[1:, 1:] = above[-1], band
        window[:, 0] = window[:, -1]
        above = band[-1:].copy()
        square += _sum_of_squares(band)
        magnitude += float(np.abs(band, out=band).sum())
        here, left = window[1:, 1:], window[1:, :-1]
        up, up_left = window[:-1, 1:], window[:-1, :-1]
        pairs = ((here, left), (here, up), (here, up_left), (up, left))
        for sides, (one, other) in zip(products, pairs, strict=True):
            sides.add(one * other)
    count = height * width
    found = list(_fit_ggd(square / count, magnitude / count))
    for sides in products:
        found += _fit_aggd(sides)
    return found


def _mscn(padded: Floats) -> Floats:
    """Mean-subtracted, contrast-normalised coefficients, (I - mu) / (sigma + 1), of some rows, from
    these with the frame of three pixels around them.
    """
    planes = np.empty((padded.shape[0], 2, padded.shape[1]))
    planes[:, 0] = padded
    np.square(padded, out=planes[:, 1])
    blurred = blur(planes, gaussian_kernel(_RADIUS, 7 / 6))
    mean, deviation = blurred[:, 0], blurred[:, 1]
    deviation -= np.square(mean)
    np.abs(deviation, out=deviation)
    np.sqrt(deviation, out=deviation)
    deviation += 1.0
    mscn = np.subtract(padded[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS], mean, out=mean)
    mscn /= deviation
    rounding_noise = np.abs(mscn, out=deviation) < _ZERO
    if rounding_noise.any():
        mscn[rounding_noise] = 0.0
    return mscn


@dataclass
class _Sides:
    """Counts and sums of squares of the values below and above zero, sum of magnitudes."""

    size: int = 0
    left_count: int = 0
    right_count: int = 0
    left_square: float = 0.0
    right_square: float = 0.0
    magnitude: float = 0.0

    def add(self, x: Floats) -> None:
        self.size += x.size
        self.left_count += int(np.count_nonzero(x < 0.0))
        self.right_count += int(np.count_nonzero(x > 0.0))
        magnitude = np.abs(x)
        self.magnitude += float(magnitude.sum())
        # |x| + x is 2x above zero and 0 below, without rounding, and quicker than a maximum.
        side = magnitude + x
        self.right_square += _sum_of_squares(side) / 4.0
        np.subtract(magnitude, x, out=side)
        self.left_square += _sum_of_squares(side) / 4.0


def _fit_ggd(mean_square: float, mean_magnitude: float) -> tuple[float, float]:
    """Shape and variance of the generalised Gaussian with these moments."""
    if mean_magnitude == 0.0:
        return math.nan, 0.0
    return _tables().shape_of_ggd(mean_square / mean_magnitude**2), mean_square


def _fit_aggd(x: _Sides) -> tuple[float, float, float, float]:
    """Shape, mean, left and right variance of the asymmetric generalised Gaussian with these
    moments; NaN where there are no values on one side.
    """
    if x.left_count == 0 or x.right_count == 0:
        return math.nan, math.nan, math.nan, math.nan
    left_variance, right_variance = x.left_square / x.left_count, x.right_square / x.right_count
    left_sigma, right_sigma = math.sqrt(left_variance), math.sqrt(right_variance)
    gamma_hat = left_sigma / right_sigma
    r_hat = (x.magnitude / x.size) ** 2 / ((x.left_square + x.right_square) / x.size)
    balanced = r_hat * (gamma_hat**3 + 1) * (gamma_hat + 1) / (gamma_hat**2 + 1) ** 2
    shape, mean_factor = _tables().shape_of_aggd(balanced)
    return shape, (right_sigma - left_sigma) * mean_factor, left_variance, right_variance


def _sum_of_squares(x: Floats) -> float:
    # einsum and not x @ x: BLAS splits a long product among threads, and the sum changes with it.
    flat = x.ravel()
    return float(np.einsum("i,i->", flat, flat))


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
