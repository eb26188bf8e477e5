"""Signs of an overcooked LoRA: a second opinion beside the ranked metric.

What people call fried has plain measurements: contrast, clipping, colour and fine detail go up
together. Each number means little by itself; compare it with the control's. They are never folded
into one score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysers.metrics.filters import bands
from analysers.metrics.luma import Pixels, luma
from analysers.metrics.metric import Declaration, Declared, Sample

COOKING = ("rms_contrast", "clipped", "colourfulness", "laplacian_energy")
"""The names of the signs of over-cooking."""


def rms_contrast(image: Pixels) -> float:
    """Standard deviation of the luma, 0 to 0.5 of the full range: Peli (1990), "Contrast in
    complex images", JOSA A 7(10).
    """
    counts = np.bincount(luma(image).ravel(), minlength=256)
    levels = np.arange(256) / 255.0
    mean = float((counts * levels).sum()) / counts.sum()
    return math.sqrt(float((counts * (levels - mean) ** 2).sum()) / counts.sum())


def clipped(image: Pixels) -> float:
    """Share of the pixels, 0 to 1, of which at least one channel is at 0 or at 255."""
    extreme = (image == 0) | (image == 255)
    if image.ndim == 3:
        extreme = extreme[..., 0] | extreme[..., 1] | extreme[..., 2]
    return float(np.count_nonzero(extreme) / extreme.size)


def colourfulness(image: Pixels) -> float:
    """Hasler and Suesstrunk (2003), "Measuring colourfulness in natural images", metric M3:
    0 for grey, about 33 for a moderately and 109 for an extremely colourful picture.
    """
    if image.ndim == 2:
        return 0.0
    sums = np.zeros(4)
    for rows in bands(*image.shape[:2]):
        red, green, blue = (image[rows, :, channel].astype(np.float64) for channel in range(3))
        red_green = red - green
        red += green
        blue *= 2.0
        red -= blue  # twice yellow less blue
        # Sums of whole numbers below 2**53 are exact in float64, in whatever order.
        squares = (np.vecdot(axis, axis).sum() for axis in (red_green, red))
        sums += (red_green.sum(), red.sum(), *squares)
    red_green_mean, twice_mean, red_green_square, twice_square = sums / image[..., 0].size
    variance = red_green_square - red_green_mean**2 + (twice_square - twice_mean**2) / 4.0
    offset = math.hypot(red_green_mean, twice_mean / 2.0)
    return math.sqrt(max(variance, 0.0)) + 0.3 * offset


def laplacian_energy(image: Pixels) -> float:
    """Mean square of the luma's four-neighbour Laplacian inside the border, in squared grey levels:
    how much fine detail there is, be it texture, halos or noise. NaN below 3 x 3 pixels.
    """
    plane = luma(image).astype(np.int16)
    if min(plane.shape) < 3:
        return math.nan
    laplacian = plane[1:-1, 1:-1] * np.int16(4)
    laplacian -= plane[:-2, 1:-1]
    laplacian -= plane[2:, 1:-1]
    laplacian -= plane[1:-1, :-2]
    laplacian -= plane[1:-1, 2:]
    return float(np.square(laplacian, dtype=np.int32).mean(dtype=np.float64))


def dark_share(image: Pixels) -> float:
    """Share of the pixels, 0 to 1, with a luma below 32 of 255."""
    return float(np.count_nonzero(luma(image) < 32) / (image.shape[0] * image.shape[1]))


def flat_share(image: Pixels) -> float:
    """Share of the blocks of 8 x 8 pixels, 0 to 1, whose luma deviates by less than two grey
    levels. The blocks begin at (4, 4), across those of JPEG and of most decoders. NaN below
    12 x 12 pixels.
    """
    return _flat_share(_blocks(luma(image)))


def texture(image: Pixels) -> float:
    """Median over the blocks that are not flat of their `laplacian_energy`: what a plain background
    leaves as it is and blur takes away. NaN where every block is flat.
    """
    return _texture(_blocks(luma(image)))


Blocks = tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]


def _flat_share(blocks: Blocks) -> float:
    flat, _ = blocks
    return float(flat.mean()) if flat.size else math.nan


def _texture(blocks: Blocks) -> float:
    flat, energy = blocks
    return float(np.median(energy[~flat])) if not flat.all() else math.nan


def _blocks(plane: Pixels) -> Blocks:
    """Whether each block is flat, and its mean squared Laplacian (its outermost pixels left out
    where they are the picture's last)."""
    rows, columns = ((side - 4) // 8 for side in plane.shape)
    if rows < 1 or columns < 1:
        return np.zeros(0, bool), np.zeros(0)
    inner = plane[4 : 4 + 8 * rows, 4 : 4 + 8 * columns].astype(np.int16, order="C")
    laplacian = np.zeros_like(inner)
    for one, other in (
        ((slice(1, None), ...), (slice(-1), ...)),
        ((..., slice(1, None)), (..., slice(-1))),
    ):
        step = inner[one] - inner[other]
        laplacian[one] += step
        laplacian[other] -= step

    def total(values: npt.NDArray[np.int16] | npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """The sum over each block, at most 64 times 1020 squared."""
        across = values.reshape(rows, 8, 8 * columns).sum(axis=1, dtype=np.int32)
        return np.asarray(across.reshape(rows, columns, 8).sum(axis=2, dtype=np.int32))

    def squared(values: npt.NDArray[np.int16]) -> npt.NDArray[np.int32]:
        return np.asarray(np.square(values, dtype=np.int32))

    # Whole numbers throughout: 64 sum(x^2) - sum(x)^2 is 64^2 times the variance.
    variance = 64 * total(squared(inner)) - total(inner) ** 2
    return (variance < 4 * 64**2).ravel(), (total(squared(laplacian)) / 64.0).ravel()


@dataclass(frozen=True)
class RmsContrast(Declared):
    declaration = Declaration("rms_contrast", label="contrast", aggregate="ratio")

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float]:
        return [rms_contrast(sample.luma) for sample in samples]


@dataclass(frozen=True)
class Clipped(Declared):
    declaration = Declaration("clipped", label="clipped pixels", unit="share", aggregate="change")

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float]:
        return [clipped(sample.image) for sample in samples]


@dataclass(frozen=True)
class Colourfulness(Declared):
    declaration = Declaration("colourfulness", aggregate="ratio")

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float]:
        return [colourfulness(sample.image) for sample in samples]


@dataclass(frozen=True)
class LaplacianEnergy(Declared):
    declaration = Declaration(
        "laplacian_energy", label="fine detail", unit="squared grey levels", aggregate="ratio"
    )

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float]:
        return [laplacian_energy(sample.luma) for sample in samples]


@dataclass(frozen=True)
class DarkShare(Declared):
    declaration = Declaration("dark_share", label="dark area", unit="share", aggregate="change")

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float]:
        return [dark_share(sample.luma) for sample in samples]


@dataclass(frozen=True)
class FlatShare(Declared):
    declaration = Declaration("flat_share", label="flat area", unit="share", aggregate="change")

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float]:
        return [_flat_share(sample.shared(_blocks)) for sample in samples]


@dataclass(frozen=True)
class Texture(Declared):
    declaration = Declaration(
        "texture", label="texture where not flat", unit="squared grey levels", aggregate="ratio"
    )

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float]:
        return [_texture(sample.shared(_blocks)) for sample in samples]
