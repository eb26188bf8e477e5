"""SSIM: how alike a picture and its control are, 1 for identical pictures.

Wang, Bovik, Sheikh, Simoncelli (2004), "Image quality assessment: from error visibility to
structural similarity", IEEE TIP 13(4): Gaussian window 11 x 11 with sigma 1.5, K1 = 0.01,
K2 = 0.03, L = 255, population covariance, on 8-bit luma, mean over the windows that fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from analysers.metrics.filters import Floats, Kernel, bands, blur, gaussian_kernel
from analysers.metrics.luma import Pixels, luma
from analysers.metrics.metric import Declaration, Declared, Sample

C1 = (0.01 * 255) ** 2
C2 = (0.03 * 255) ** 2
WINDOW = 11
_RADIUS = WINDOW // 2

MOST_KEPT = 2**22
"""Pixels of the controls whose maps are kept, at 17 bytes each: sixteen of 512 x 512."""

CHANGED = "changed"
"""What is known of a sample by this name: its map, as `ControlMaps.ssim` fills it."""


@dataclass(frozen=True, eq=False)
class ControlMaps:
    """A control with its 8-bit luma (H, W) and its local means and variances (float64,
    (H - 10, W), of which the inner W - 10 columns count), so that a candidate costs three filters
    instead of five.
    """

    shape: tuple[int, ...]
    luma: Pixels
    mean: Floats
    variance: Floats

    @classmethod
    def of(cls, control: Pixels) -> ControlMaps:
        """The maps of a grey (H, W) or RGB (H, W, 3) uint8 control of at least 11 x 11 pixels."""
        plane = luma(control)
        if min(plane.shape) < WINDOW:
            raise ValueError(f"SSIM needs at least 11 x 11 pixels, got {plane.shape}.")
        mean, square = _moments(plane)
        return cls(control.shape, plane, mean, square - np.square(mean))

    def ssim(self, image: Pixels, changed: Pixels | None = None) -> float:
        """SSIM of `image` to this control: -1 to 1, exactly 1.0 for the control itself.

        `changed`, uint8 (H, W), is filled with the map whose mean it is: 255 (1 - SSIM), cut to 0
        to 255, and 0 on the outer five pixels, where the window fits nowhere. Raises ValueError
        when `image` has not the control's shape.
        """
        if image.shape != self.shape:
            raise ValueError(
                f"The picture's shape {image.shape} is not the control's {self.shape}; "
                "resample one of them first."
            )
        plane, (height, width) = luma(image), self.mean.shape
        total = 0.0
        for rows in bands(height, width):
            band = self._band(plane, rows)
            total += float(band[:, _RADIUS:-_RADIUS].sum())
            if changed is not None:
                np.subtract(1.0, band, out=band)
                band *= 255.0
                place = slice(_RADIUS + rows.start, _RADIUS + rows.stop)
                changed[place] = np.clip(band, 0.0, 255.0, out=band)
        if changed is not None:
            for frame in (changed, changed.T):
                frame[:_RADIUS] = frame[-_RADIUS:] = 0
        return float(total / (height * (width - 2 * _RADIUS)))

    def _band(self, image: Pixels, rows: slice) -> Floats:
        """The map's `rows`, of which the inner columns count. Sums are taken in an order that makes
        numerator and denominator equal, bit for bit, for equal pictures.
        """
        source = slice(rows.start, rows.stop + WINDOW - 1)
        mean, square, product = _moments(image[source], self.luma[source])
        control_mean = self.mean[rows]
        mean_product: Floats = mean * control_mean
        covariance = np.subtract(product, mean_product, out=product)
        mean *= mean
        variance = np.subtract(square, mean, out=square)
        # Both factors of the numerator are left at half their size, which rounds nothing.
        covariance += C2 / 2.0
        mean_product += C1 / 2.0
        mean_product *= covariance
        variance += self.variance[rows]
        variance += C2
        mean += np.square(control_mean)
        mean += C1
        mean *= variance
        mean_product /= mean
        mean_product *= 4.0
        return mean_product


def ssim(image: Pixels, control: Pixels) -> float:
    """SSIM of a picture to its control: -1 to 1, exactly 1.0 for identical pictures.

    Both are uint8, grey (H, W) or RGB (H, W, 3), of one shape and at least 11 x 11 pixels; else
    ValueError. Many pictures with one control go quicker through `ControlMaps`.
    """
    return ControlMaps.of(control).ssim(image)


def gaussian_window() -> Kernel:
    """The 11 weights of the window along one axis."""
    return gaussian_kernel(_RADIUS, 1.5)


def _moments(image: Pixels, control: Pixels | None = None) -> Floats:
    """The means over each window of image, image squared, and, with a control, image times control,
    as `blur` gives them: (2 or 3, H - 10, W)."""
    planes = np.empty((2 if control is None else 3, *image.shape))
    planes[0] = image
    np.square(planes[0], out=planes[1])
    if control is not None:
        planes[2] = control
        planes[2] *= planes[0]
    return blur(planes, gaussian_window())


@dataclass
class Ssim(Declared):
    """`ssim` as a metric; the maps of the last controls are kept from one sample to the next."""

    declaration = Declaration(
        "ssim",
        "higher",
        label="SSIM",
        about="likeness to the picture without the LoRA; 1 is identical",
        needs=frozenset({"control"}),
        bounds=(-1.0, 1.0),
    )
    _kept: dict[int, tuple[Pixels, ControlMaps]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float]:
        return [self._one(sample) for sample in samples]

    def _one(self, sample: Sample) -> float:
        if sample.control is None:
            return float("nan")
        changed = np.empty(sample.luma.shape, np.uint8)
        value = self._maps(sample.control).ssim(sample.luma, changed)
        sample.known[CHANGED] = changed
        return value

    def _maps(self, control: Pixels) -> ControlMaps:
        known, maps = self._kept.pop(id(control), (None, None))
        if known is not control or maps is None:
            maps = ControlMaps.of(luma(control))
        self._kept[id(control)] = control, maps  # which is the last to be let go
        while len(self._kept) > max(1, MOST_KEPT // maps.luma.size):
            del self._kept[next(iter(self._kept))]
        return maps
