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

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from analysers.metrics.filters import Floats, blur_same, gaussian_kernel, half_size
from analysers.metrics.luma import luma
from analysers.metrics.metric import Sample

_ZERO = 1e-9
_SVM_GAMMA = 0.05
_SMALLEST = 16


def brisque(image: npt.NDArray[np.uint8]) -> float:
    """BRISQUE of a uint8 picture, grey (H, W) or RGB (H, W, 3): about 0 (pristine photograph) to
    100 (ruined), and beyond both ends; NaN where it is undefined (see `brisque_with_reason`).

    Raises ValueError for another type or shape.
    """
    return brisque_with_reason(image)[0]


def brisque_with_reason(image: npt.NDArray[np.uint8]) -> tuple[float, str]:
    """BRISQUE and why it is undefined: (score, "") or (NaN, a clause such as "all pixels have the
    same brightness").
    """
    plane = luma(image)
    reason = _why_undefined(plane)
    if reason:
        return float("nan"), reason
    found = _features(plane)
    if not np.isfinite(found).all():
        return float("nan"), "the picture is so nearly flat that it has no texture to measure"
    return _predict(found), ""


def features(image: npt.NDArray[np.uint8]) -> Floats:
    """The 36 features, float64, unscaled: at full and at half size, the GGD's shape and variance,
    then shape, mean, left and right variance of the AGGD of the products with the neighbour to
    the right, below, below right and below left. NaN where a fit is undefined.
    """
    return _features(luma(image))


def _why_undefined(plane: npt.NDArray[np.uint8]) -> str:
    if min(plane.shape) < _SMALLEST:
        return f"the picture is smaller than {_SMALLEST} x {_SMALLEST} pixels"
    if plane.min() == plane.max():
        return "all pixels have the same brightness"
    return ""


def _features(luma_plane: npt.NDArray[np.uint8]) -> Floats:
    plane = luma_plane.astype(np.float64)
    return np.array(_scale_features(plane) + _scale_features(half_size(plane)))


def _scale_features(plane: Floats) -> list[float]:
    """The 18 features of one size."""
    mscn = _mscn(plane)
    found = list(_fit_ggd(mscn))
    # MATLAB's circshift by [0 1], [1 0], [1 1], [-1 1]: neighbours wrap around the edges.
    height, width = mscn.shape
    wrapped = np.pad(mscn, ((1, 1), (1, 0)), mode="wrap")
    product = np.empty_like(mscn)
    for down, right in ((0, 1), (1, 0), (1, 1), (-1, 1)):
        neighbour = wrapped[1 - down : 1 - down + height, 1 - right : 1 - right + width]
        found += _fit_aggd(np.multiply(mscn, neighbour, out=product))
    return found


def _mscn(plane: Floats) -> Floats:
    """Mean-subtracted, contrast-normalised coefficients: (I - mu) / (sigma + 1)."""
    kernel = gaussian_kernel(3, 7 / 6)
    mean = blur_same(plane, kernel)
    deviation = blur_same(np.square(plane), kernel)
    deviation -= np.square(mean)
    np.abs(deviation, out=deviation)
    np.sqrt(deviation, out=deviation)
    deviation += 1.0
    mscn = np.subtract(plane, mean, out=mean)
    mscn /= deviation
    mscn[np.abs(mscn, out=deviation) < _ZERO] = 0.0
    return mscn


def _fit_ggd(x: Floats) -> tuple[float, float]:
    """Shape and variance of the generalised Gaussian with x's moments."""
    variance = _sum_of_squares(x) / x.size
    magnitude = float(np.abs(x).sum()) / x.size
    if magnitude == 0.0:
        return float("nan"), 0.0
    tables = _tables()
    return tables.shape_of_ggd(variance / magnitude**2), variance


def _fit_aggd(x: Floats) -> tuple[float, float, float, float]:
    """Shape, mean, left and right variance of the asymmetric generalised Gaussian with x's
    moments; NaN where x lacks values on one side. `x` is overwritten.
    """
    left_count = int(np.count_nonzero(x < 0))
    right_count = int(np.count_nonzero(x > 0))
    if left_count == 0 or right_count == 0:
        return (float("nan"),) * 4
    right = np.maximum(x, 0.0)
    right_sum, right_square = float(right.sum()), _sum_of_squares(right)
    left = np.minimum(x, 0.0, out=x)
    left_sum, left_square = float(left.sum()), _sum_of_squares(left)

    left_variance, right_variance = left_square / left_count, right_square / right_count
    left_sigma, right_sigma = left_variance**0.5, right_variance**0.5
    gamma_hat = left_sigma / right_sigma
    r_hat = ((right_sum - left_sum) / x.size) ** 2 / ((left_square + right_square) / x.size)
    balance = r_hat * (gamma_hat**3 + 1) * (gamma_hat + 1) / (gamma_hat**2 + 1) ** 2
    shape, mean_factor = _tables().shape_of_aggd(balance)
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
class Brisque:
    """`brisque` as a metric."""

    name: str = "brisque"
    better: Literal["lower"] = "lower"
    needs_control: bool = False

    def check(self) -> None:
        """Nothing can be missing: the model's weights come with the package."""

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float]:
        return [brisque(sample.image) for sample in samples]
