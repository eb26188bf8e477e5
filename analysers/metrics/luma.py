"""8-bit luma, the one channel that SSIM and BRISQUE look at."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from analysers.metrics.filters import bands

Pixels = npt.NDArray[np.uint8]
"""A picture: uint8, grey (H, W) or RGB (H, W, 3), 0 to 255."""

# BT.601 as MATLAB's rgb2gray has it (the first row of the inverse of its YIQ matrix), times 2**24.
# The three add up to exactly 2**24, so that grey stays grey; integers are the same on every
# machine, and for all 2**24 colours the result equals rounding the float64 sum.
_RED, _GREEN, _BLUE = 5015314, 9848948, 1912954
_HALF = 1 << 23


def luma(image: Pixels) -> Pixels:
    """The luma of a picture: uint8 (H, W) from grey (H, W) or RGB (H, W, 3) uint8.

    round(0.298936021293776 R + 0.587043074451121 G + 0.114020904255103 B); grey is passed through.
    Raises ValueError for another type or shape (an alpha channel has to be dropped first).
    """
    if image.dtype != np.uint8:
        raise ValueError(f"Expected a picture of type uint8, got {image.dtype}.")
    if image.ndim == 2:
        return np.ascontiguousarray(image)
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"Expected grey (H, W) or RGB (H, W, 3), got the shape {image.shape}.")
    grey = np.empty(image.shape[:2], np.uint8)
    for rows in bands(image.shape[0], image.shape[1]):
        part = image[rows]
        weighted = part[..., 0].astype(np.uint32, order="C")
        weighted *= _RED
        channel = part[..., 1].astype(np.uint32, order="C")
        channel *= _GREEN
        weighted += channel
        np.copyto(channel, part[..., 2])
        channel *= _BLUE
        weighted += channel
        weighted += _HALF
        weighted >>= 24
        grey[rows] = weighted
    return grey
