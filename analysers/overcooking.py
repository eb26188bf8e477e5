"""A LoRA that collapses makes different prompts look alike: the one sign of over-cooking that no
single picture shows (the others are analysers/metrics/signs.py). Compare it with the controls'.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from analysers.metrics.filters import Floats
from analysers.metrics.luma import Pixels, luma

THUMBNAIL = 32
_PAIRS = 500


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
    from analysers.metrics.ssim import WINDOW, gaussian_window

    radius = WINDOW // 2
    return blur(planes, gaussian_window())[..., radius:-radius]
