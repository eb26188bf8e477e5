"""Linear filters along the two axes of a picture, in float64.

Down the columns a filter is a product with a small banded matrix, eight rows of the result at a
time: small enough that no BLAS splits it among threads. Along the rows it is numpy's correlate over
all rows end to end. Both are several times quicker than scipy.ndimage, and every sum has one order,
whatever the machine's load or the number of its cores.

Pictures are worked through in bands of rows that fit the processor's cache: touching fresh memory
costs more than the arithmetic. A row's result does not depend on the band it is computed in.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import cast

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

Floats = npt.NDArray[np.float64]
Kernel = tuple[float, ...]

_BLOCK = 8
_MOST_PRODUCTS = 2**18
"""Multiplications of one matrix product; OpenBLAS takes threads for more."""


@lru_cache(maxsize=8)
def gaussian_kernel(radius: int, sigma: float) -> Kernel:
    """A Gaussian sampled at the integers -radius..radius, normalised to sum 1."""
    at = np.arange(-radius, radius + 1, dtype=np.float64)
    weights = np.exp(-(at**2) / (2.0 * sigma**2))
    return tuple(float(weight) for weight in weights / weights.sum())


def bands(height: int, width: int) -> Iterator[slice]:
    """Cut `height` rows into bands of about 2**15 pixels."""
    rows = max(8, 2**15 // max(width, 1))
    for top in range(0, height, rows):
        yield slice(top, min(top + rows, height))


def blur(planes: Floats, kernel: Kernel) -> Floats:
    """Separable filter with a symmetric kernel of radius r: (..., H, W) -> (..., H - 2r, W), of
    which columns r to W - r are where the window fits; the outer ones mix neighbouring rows.
    """
    columns = down(planes, kernel)
    return np.correlate(columns.ravel(), kernel, mode="same").reshape(columns.shape)


def down(planes: Floats, kernel: Kernel, step: int = 1) -> Floats:
    """The columns filtered where the window fits, at every `step`-th place: (..., H, W) ->
    (..., (H - len(kernel)) // step + 1, W). The planes are contiguous.
    """
    *front, height, width = planes.shape
    rows = (height - len(kernel)) // step + 1
    result = np.empty((*front, rows, width))
    matrix = _banded(kernel, step)
    whole = rows // _BLOCK
    *strides, across, along = planes.strides
    windows = as_strided(
        planes,
        (*front, whole, matrix.shape[1], width),
        (*strides, _BLOCK * step * across, across, along),
        writeable=False,
    )
    blocks = result[..., : _BLOCK * whole, :].reshape(*front, whole, _BLOCK, width)
    rest = rows - _BLOCK * whole
    last = matrix[:rest, : (rest - 1) * step + len(kernel)]
    wide = _MOST_PRODUCTS // matrix.size
    for left in range(0, width, wide):
        part = slice(left, left + wide)
        np.matmul(matrix, windows[..., part], out=blocks[..., part])
        if rest:
            below = planes[..., _BLOCK * whole * step :, part][..., : last.shape[1], :]
            np.matmul(last, below, out=result[..., _BLOCK * whole :, part])
    return result


def half_size(plane: npt.NDArray[np.uint8] | Floats) -> Floats:
    """Half the height and width as MATLAB's `imresize(plane, 0.5)` has them: (H, W) -> ceil of
    (H / 2, W / 2); bicubic, antialiased, edges mirrored.
    """
    # Output k sits at 2k + 1/2 of the input, both counted from 0; eight inputs lie within reach.
    frame = [(3, 3 + side % 2) for side in plane.shape]
    columns = down(np.pad(plane, frame, mode="symmetric").astype(np.float64), _halving(), step=2)
    rows = np.correlate(columns.ravel(), _halving(), mode="same").reshape(columns.shape)
    return np.ascontiguousarray(rows[:, 4:-3:2])


@lru_cache(maxsize=32)
def _banded(kernel: Kernel, step: int) -> Floats:
    """The matrix that gives `_BLOCK` rows from those in their windows."""
    matrix = np.zeros((_BLOCK, (_BLOCK - 1) * step + len(kernel)))
    for row in range(_BLOCK):
        matrix[row, row * step : row * step + len(kernel)] = kernel
    return matrix


@lru_cache(maxsize=1)
def _halving() -> Kernel:
    """Keys' cubic (a = -1/2), twice as wide so that it also removes what half the size cannot
    show, normalised."""
    weights = _cubic((np.arange(-3.0, 5.0) - 0.5) / 2.0)
    return tuple(float(weight) for weight in weights / weights.sum())


def _cubic(at: Floats) -> Floats:
    """Keys (1981), "Cubic convolution interpolation for digital image processing", a = -1/2."""
    x = np.abs(at)
    near = 1.5 * x**3 - 2.5 * x**2 + 1.0
    far = -0.5 * x**3 + 2.5 * x**2 - 4.0 * x + 2.0
    return cast(Floats, np.where(x <= 1, near, np.where(x <= 2, far, 0.0)))
