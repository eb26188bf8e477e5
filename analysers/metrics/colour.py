"""What SSIM does not see: how far the colours moved, and whether any pixel moved at all.

SSIM compares luma; a LoRA that drains or tints every colour can have an SSIM of 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from analysers.metrics.filters import Floats
from analysers.metrics.luma import Pixels
from analysers.metrics.metric import Declaration, Declared, Sample

MOST_PIXELS = 2**14
"""At most about so many pixels are compared, on a regular grid."""


def colour_difference(image: Pixels, control: Pixels) -> float:
    """Mean CIEDE2000 between two pictures: 0 for equal colours, about 1 is just noticeable.

    Sharma, Wu, Dalal (2005), "The CIEDE2000 color-difference formula", k_L = k_C = k_H = 1, on
    CIELAB (sRGB, D65, 2 degrees). Both are uint8, grey (H, W) or RGB (H, W, 3), of one height and
    width, else ValueError. Every k-th pixel across and down counts, from the first, k being the
    least odd number for which at most 2**14 remain (odd, so that it does not fall into step with a
    decoder's blocks of 8).
    """
    return _mean_difference(_lab(image), _lab(control), image, control)


def largest_difference(image: Pixels, control: Pixels) -> float:
    """The largest difference of any channel of any pixel, 0 to 255 grey levels."""
    _same_size(image, control)
    if image.ndim != control.ndim:
        image, control = _rgb(image), _rgb(control)
    return float((np.maximum(image, control) - np.minimum(image, control)).max())


def grid_step(height: int, width: int) -> int:
    """The least odd step for which at most `MOST_PIXELS` pixels of a picture remain."""
    step = 1
    while -(-height // step) * -(-width // step) > MOST_PIXELS:
        step += 2
    return step


def _lab(image: Pixels) -> Floats:
    """CIELAB of the pixels that count, float64 (h, w, 3)."""
    from skimage.color import rgb2lab

    step = grid_step(*image.shape[:2])
    return np.asarray(rgb2lab(_rgb(image[::step, ::step])))


def _mean_difference(lab: Floats, other: Floats, image: Pixels, control: Pixels) -> float:
    from skimage.color import deltaE_ciede2000

    _same_size(image, control)
    return float(deltaE_ciede2000(lab, other).mean())


def _same_size(image: Pixels, control: Pixels) -> None:
    if image.shape[:2] != control.shape[:2]:
        raise ValueError(
            f"The picture's shape {image.shape} is not the control's {control.shape}; "
            "resample one of them first."
        )


def _rgb(image: Pixels) -> Pixels:
    return image if image.ndim == 3 else np.stack([image] * 3, axis=2)


@dataclass
class ColourDifference(Declared):
    """`colour_difference` as a metric; the last control's CIELAB is kept."""

    declaration = Declaration(
        "colour_difference",
        label="colour difference",
        unit="CIEDE2000",
        about="how far the colours moved; 1 is just noticeable",
        needs=frozenset({"control"}),
        bounds=(0.0, math.inf),
    )
    _last: tuple[Pixels, Floats] | None = field(default=None, init=False, repr=False)

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float]:
        return [self._one(sample) for sample in samples]

    def _one(self, sample: Sample) -> float:
        control = sample.control
        if control is None:
            return math.nan
        if self._last is None or self._last[0] is not control:
            self._last = (control, _lab(control))
        return _mean_difference(_lab(sample.image), self._last[1], sample.image, control)


@dataclass(frozen=True)
class LargestDifference(Declared):
    """`largest_difference` as a metric."""

    declaration = Declaration(
        "largest_difference",
        label="largest pixel difference",
        unit="grey levels",
        needs=frozenset({"control"}),
        bounds=(0.0, 255.0),
    )

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float]:
        return [
            math.nan if s.control is None else largest_difference(s.image, s.control)
            for s in samples
        ]
