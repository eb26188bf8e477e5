"""Signs of an overcooked LoRA: a second opinion beside the ranked metric.

What people call fried has plain measurements: contrast, clipping, colour and fine detail go up
together. And a LoRA that collapses makes different prompts look alike. Each number means little by
itself; compare it with the control's. They are never folded into one score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from analysers.metrics.luma import luma

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

THUMBNAIL = 32
_PAIRS = 500


def signs(image: Pixels) -> dict[str, float]:
    """The four signs of one picture (uint8, grey (H, W) or RGB (H, W, 3)), by name."""
    grey = luma(image)
    return {
        "rms_contrast": rms_contrast(grey),
        "clipped": clipped(image),
        "colourfulness": colourfulness(image),
        "laplacian_energy": laplacian_energy(grey),
    }


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
    return float(np.count_nonzero(extreme)) / extreme.size


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


def thumbnail(image: Pixels) -> Pixels:
    """The picture's luma averaged down to 32 x 32, uint8; a 32 x 32 grey picture stays as it is."""
    from PIL import Image

    plane = luma(image)
    if plane.shape == (THUMBNAIL, THUMBNAIL):
        return plane
    small = Image.fromarray(plane).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(small)


def likeness(images: Sequence[Pixels]) -> float:
    """How alike pictures of different prompts or seeds are: mean SSIM between their thumbnails.

    About 0 for unrelated pictures, 1 for one picture again and again; NaN for fewer than two. When
    a LoRA's value is well above its controls', the prompts have begun to look alike. With many
    pictures about 500 of the pairs stand for all: each with the next, the next but one, and so on.
    """
    count = len(images)
    if count < 2:
        return math.nan
    planes = np.stack([thumbnail(image) for image in images]).astype(np.float64)
    mean, variance = _blur(planes), _blur(np.square(planes))
    variance -= np.square(mean)
    total, pairs = 0.0, 0
    for lag in range(1, count):
        if pairs >= _PAIRS:
            break
        here, there = slice(None, count - lag), slice(lag, None)
        covariance = _blur(planes[here] * planes[there]) - mean[here] * mean[there]
        total += float(_ssim(mean[here], mean[there], variance[here], variance[there], covariance))
        pairs += count - lag
    return total / pairs


def _ssim(
    mean_x: Floats, mean_y: Floats, variance_x: Floats, variance_y: Floats, covariance: Floats
) -> float:
    """The sum over pictures of their SSIM, as in analysers.metrics.ssim, for small stacks."""
    from analysers.metrics.ssim import C1, C2

    luminance = (2.0 * mean_x * mean_y + C1) / (np.square(mean_x) + np.square(mean_y) + C1)
    structure = (2.0 * covariance + C2) / (variance_x + variance_y + C2)
    return float((luminance * structure).mean(axis=(1, 2)).sum())


def _blur(planes: Floats) -> Floats:
    """SSIM's window where it fits: (n, 32, 32) -> (n, 22, 22)."""
    from analysers.metrics.filters import blur
    from analysers.metrics.ssim import gaussian_window

    stacked = np.ascontiguousarray(planes.transpose(1, 0, 2))
    return blur(stacked, gaussian_window()).transpose(1, 0, 2)
