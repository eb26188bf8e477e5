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
    pixels = np.ascontiguousarray(image).reshape(-1, 3)
    total, products = np.zeros(3), np.zeros((3, 3))
    for start in range(0, len(pixels), 2**15):
        # Sums of whole numbers below 2**53 are exact in float64, in whatever order BLAS takes them.
        part = pixels[start : start + 2**15].astype(np.float64)
        total += np.ones(len(part)) @ part
        products += part.T @ part
    mean = total / len(pixels)
    covariance = products / len(pixels) - np.outer(mean, mean)
    red_green, yellow_blue = np.array([1.0, -1.0, 0.0]), np.array([0.5, 0.5, -1.0])
    variance = sum(float(axis @ covariance @ axis) for axis in (red_green, yellow_blue))
    offset = math.hypot(float(red_green @ mean), float(yellow_blue @ mean))
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
    inner = np.ascontiguousarray(plane[4 : 4 + 8 * rows, 4 : 4 + 8 * columns]).astype(np.int32)
    grown = np.pad(inner, 1, mode="edge")
    laplacian = 4 * inner - grown[:-2, 1:-1] - grown[2:, 1:-1] - grown[1:-1, :-2] - grown[1:-1, 2:]

    def total(values: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        blocks = values.reshape(rows, 8, columns, 8)
        return np.asarray(blocks.sum(axis=(1, 3), dtype=np.int64))

    # Whole numbers throughout: 64 sum(x^2) - sum(x)^2 is 64^2 times the variance.
    variance = 64 * total(inner * inner) - total(inner) ** 2
    return (variance < 4 * 64**2).ravel(), (total(laplacian * laplacian) / 64.0).ravel()


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
