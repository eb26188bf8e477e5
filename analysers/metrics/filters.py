"""Linear filters along the two axes of a picture, in float64.

Down the columns a filter is a sparse matrix product (one multiple of a whole row added at a time),
along the rows it is numpy's correlate over all rows end to end; both are several times quicker than
scipy.ndimage. Neither splits a sum among threads, so every sum has one order, whatever the
machine's load or the number of its cores.

Pictures are worked through in bands of rows that fit the processor's cache: touching fresh memory
costs more than the arithmetic. A row's result does not depend on the band it is computed in.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Floats = npt.NDArray[np.float64]
Kernel = tuple[float, ...]


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
    """Separable filter with a symmetric kernel of radius r, where the window fits:
    (H, n, W) -> (H - 2r, n, W - 2r). The n planes go together, row by row.
    """
    height, count, width = planes.shape
    radius = len(kernel) // 2
    columns = _banded(height, kernel) @ planes.reshape(height, count * width)
    # Where one row ends and the next begins the window takes from both: these are cut off.
    rows = np.correlate(columns.ravel(), np.array(kernel), mode="same")
    return cast(Floats, rows.reshape(-1, count, width)[:, :, radius:-radius])


def half_size(plane: Floats) -> Floats:
    """Half the height and width as MATLAB's `imresize(plane, 0.5)` has them: (H, W) -> ceil of
    (H / 2, W / 2); bicubic, antialiased, edges mirrored.
    """
    columns = _halving(plane.shape[0]) @ plane
    return np.ascontiguousarray((_halving(plane.shape[1]) @ columns.T).T)


@lru_cache(maxsize=32)
def _banded(size: int, kernel: Kernel) -> csr_array[Any]:
    """The matrix that filters columns of `size` values where the window fits."""
    from scipy.sparse import csr_array

    rows, taps = size - len(kernel) + 1, len(kernel)
    column = np.arange(rows)[:, np.newaxis] + np.arange(taps)
    row = np.repeat(np.arange(rows), taps)
    return csr_array((np.tile(kernel, rows), (row, column.ravel())), shape=(rows, size))


@lru_cache(maxsize=32)
def _halving(size: int) -> csr_array[Any]:
    """The matrix that halves columns of `size` values: Keys' cubic (a = -1/2), twice as wide so
    that it also removes what half the size cannot show, rows normalised, indices mirrored.
    """
    from scipy.sparse import csr_array

    half = -(-size // 2)
    # Output k sits at 2k + 1/2 of the input, both counted from 0; eight inputs lie within reach.
    taps = np.arange(-3, 5)
    weights = _cubic(np.asarray((taps - 0.5) / 2.0, dtype=np.float64))
    weights /= weights.sum()
    source = 2 * np.arange(half)[:, np.newaxis] + taps
    period = np.concatenate([np.arange(size), np.arange(size)[::-1]])
    source = period[source % (2 * size)]
    row = np.repeat(np.arange(half), taps.size)
    values = np.tile(weights, half)
    return csr_array((values, (row, source.ravel())), shape=(half, size))


def _cubic(at: Floats) -> Floats:
    """Keys (1981), "Cubic convolution interpolation for digital image processing", a = -1/2."""
    x = np.abs(at)
    near = 1.5 * x**3 - 2.5 * x**2 + 1.0
    far = -0.5 * x**3 + 2.5 * x**2 - 4.0 * x + 2.0
    return cast(Floats, np.where(x <= 1, near, np.where(x <= 2, far, 0.0)))
