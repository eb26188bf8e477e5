"""The filters against scipy's, and in parts against the whole."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage import data

from analysers.metrics import brisque, ssim
from analysers.metrics.filters import bands, blur, down, gaussian_kernel
from analysers.metrics.luma import luma


@given(
    front=st.sampled_from([(), (1,), (3,), (2, 2)]),
    radius=st.integers(0, 7),
    rows=st.integers(1, 40),
    width=st.integers(1, 40),
    step=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=80, deadline=None)
def test_columns_are_filtered_as_scipy_does(
    front: tuple[int, ...], radius: int, rows: int, width: int, step: int, seed: int
) -> None:
    kernel = tuple(np.random.default_rng(seed).normal(0, 1, 2 * radius + 1).tolist())
    planes = np.random.default_rng(seed).normal(0, 100, (*front, rows + 2 * radius, width))
    whole = ndimage.correlate1d(planes, np.array(kernel), axis=-2, mode="constant")
    expected = whole[..., radius : radius + rows, :][..., ::step, :]
    np.testing.assert_allclose(down(planes, kernel, step), expected, atol=1e-10)


@pytest.mark.parametrize("width", [1, 11, 2000, 40_000])
def test_width_does_not_matter(width: int) -> None:
    """Wide planes are multiplied in parts."""
    planes = np.random.default_rng(0).normal(0, 1, (2, 29, width))
    kernel = gaussian_kernel(5, 1.5)
    expected = ndimage.correlate1d(planes, np.array(kernel), axis=1)[:, 5:-5]
    np.testing.assert_allclose(down(planes, kernel), expected, atol=1e-13)


@given(
    height=st.integers(11, 80),
    width=st.integers(11, 80),
    cuts=st.lists(st.integers(1, 79), max_size=6),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_parts_are_blurred_as_the_whole(
    height: int, width: int, cuts: list[int], seed: int
) -> None:
    plane = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(float)
    kernel = gaussian_kernel(5, 1.5)
    whole = blur(plane, kernel)[:, 5:-5]
    edges = sorted({0, height - 10, *(cut for cut in cuts if cut < height - 10)})
    for top, bottom in pairwise(edges):
        part = blur(plane[top : bottom + 10], kernel)[:, 5:-5]
        np.testing.assert_allclose(part, whole[top:bottom], rtol=0, atol=1e-12)


@pytest.mark.parametrize("rows", [1, 7, 8, 33, 10_000])
def test_scores_do_not_depend_on_the_bands(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = data.chelsea()[:203, :301]
    control = np.roll(picture, 3, 1)
    usual = brisque.brisque(picture), ssim.ssim(picture, control)
    assert len(list(bands(*picture.shape[:2]))) > 1

    def other(height: int, _width: int):
        return (slice(top, min(top + rows, height)) for top in range(0, height, rows))

    for module in (brisque, ssim):
        monkeypatch.setattr(module, "bands", other)
    assert brisque.brisque(picture) == pytest.approx(usual[0], abs=1e-9)
    assert ssim.ssim(picture, control) == pytest.approx(usual[1], abs=1e-12)


def test_a_turned_picture_of_noise_scores_alike() -> None:
    """Both axes are filtered alike, and a row of 3000 pixels no worse than one of 40."""
    plane = luma(np.random.default_rng(0).integers(0, 256, (40, 3000, 3), np.uint8))
    other = np.random.default_rng(1).integers(0, 256, plane.shape, np.uint8)
    assert ssim.ssim(plane, other) == pytest.approx(ssim.ssim(plane.T, other.T), abs=1e-12)
