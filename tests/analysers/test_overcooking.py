"""The signs of over-cooking: hand-made pictures with known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage import data

from analysers.metrics.metric import Sample, load_metric
from analysers.metrics.signs import (
    COOKING,
    clipped,
    colourfulness,
    dark_share,
    flat_share,
    laplacian_energy,
    rms_contrast,
    texture,
)
from analysers.metrics.ssim import ssim
from analysers.overcooking import likeness, thumbnail
from analysers.trust import noisy, over_saturated


def signs(image: np.ndarray) -> dict[str, float]:
    return {name: load_metric(name)([Sample(image)])[0] for name in COOKING}


def fried(image: np.ndarray, gain: float) -> np.ndarray:
    return np.clip(128 + gain * (image.astype(float) - 128), 0, 255).astype(np.uint8)


def test_contrast_of_half_black_half_white_is_a_half() -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    image[:10] = 255
    assert rms_contrast(image) == pytest.approx(0.5)
    assert rms_contrast(np.full((20, 20), 77, np.uint8)) == 0.0


def test_contrast_is_the_standard_deviation() -> None:
    image = data.camera()
    assert rms_contrast(image) == pytest.approx(image.std() / 255, abs=1e-12)


def test_clipped_counts_pixels_not_channels() -> None:
    image = np.full((10, 10, 3), 100, np.uint8)
    image[0, 0] = (255, 100, 100)
    image[0, 1] = (0, 255, 0)
    assert clipped(image) == pytest.approx(0.02)
    assert clipped(np.zeros((5, 5), np.uint8)) == 1.0


def test_colourfulness_is_hasler_and_suesstrunks_m3() -> None:
    image = data.astronaut()
    red, green, blue = np.moveaxis(image.astype(float), 2, 0)
    rg, yb = red - green, (red + green) / 2 - blue
    expected = math.hypot(rg.std(), yb.std()) + 0.3 * math.hypot(rg.mean(), yb.mean())
    assert colourfulness(image) == pytest.approx(expected, rel=1e-9)
    assert colourfulness(image[:301, ::3]) != colourfulness(image)


def test_grey_is_not_colourful() -> None:
    assert colourfulness(np.repeat(data.camera()[..., None], 3, axis=2)) == pytest.approx(0.0)
    assert colourfulness(data.camera()) == 0.0


def test_laplacian_energy_of_one_bright_pixel() -> None:
    image = np.zeros((7, 7), np.uint8)
    image[3, 3] = 10
    assert laplacian_energy(image) == pytest.approx((40**2 + 4 * 10**2) / 25)
    ramp = np.tile(np.arange(40, dtype=np.uint8), (30, 1))
    assert laplacian_energy(ramp) == 0.0
    checks = ((np.indices((20, 20)).sum(axis=0) % 2) * 255).astype(np.uint8)
    assert laplacian_energy(checks) == pytest.approx((4 * 255) ** 2)
    assert math.isnan(laplacian_energy(np.zeros((2, 9), np.uint8)))


def test_dark_and_flat_area_and_texture_of_made_pictures() -> None:
    image = np.full((68, 68), 31, np.uint8)
    image[36:] = 32
    assert dark_share(image) == pytest.approx(36 / 68)
    assert flat_share(image) == 1.0 and math.isnan(texture(image))
    image[4:36, 4:68:2] = 40  # half of the blocks get stripes of 31 and 40
    assert flat_share(image) == 0.5
    assert texture(image) == pytest.approx((2 * 9) ** 2, rel=0.2)
    assert flat_share(data.chelsea()) < 0.5
    assert math.isnan(flat_share(image[:11]))


def test_frying_raises_every_sign() -> None:
    control = data.chelsea()
    plain = signs(control)
    cooked = signs(noisy(over_saturated(fried(control, 2.2), 0.8), 12))
    assert set(plain) == {"rms_contrast", "clipped", "colourfulness", "laplacian_energy"}
    for name, value in plain.items():
        assert cooked[name] > 1.3 * value + 0.01, name


def test_memory_layout_does_not_matter() -> None:
    image = data.astronaut()
    assert signs(np.asfortranarray(image)) == signs(image)
    wide = np.zeros((512, 512, 4), np.uint8)
    wide[..., :3] = image
    assert signs(wide[..., :3]) == signs(image)


def test_thumbnail_is_32_by_32_and_stays() -> None:
    small = thumbnail(data.coffee())
    assert small.shape == (32, 32)
    assert small.dtype == np.uint8
    assert (thumbnail(small) == small).all()
    assert small.mean() == pytest.approx(thumbnail(data.coffee()[::2, ::2]).mean(), abs=1)


def test_likeness_is_the_mean_over_the_pairs() -> None:
    names = ("astronaut", "coffee", "chelsea", "rocket")
    thumbnails = [thumbnail(getattr(data, name)()) for name in names]
    pairs = [ssim(a, b) for i, a in enumerate(thumbnails) for b in thumbnails[i + 1 :]]
    assert likeness(thumbnails) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert likeness([data.astronaut(), data.coffee()]) == pytest.approx(pairs[0], abs=1e-12)


def test_likeness_of_a_collapse() -> None:
    pictures = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket(), data.retina()]
    collapsed = [
        (0.2 * thumbnail(picture) + 0.8 * thumbnail(pictures[0])).astype(np.uint8)
        for picture in pictures
    ]
    assert likeness(collapsed) > likeness(pictures) + 0.3
    assert likeness([pictures[0]] * 5) == pytest.approx(1.0)
    assert math.isnan(likeness(pictures[:1]))
    assert math.isnan(likeness([]))


def test_likeness_of_hundreds_stands_for_all_pairs() -> None:
    generator = np.random.default_rng(0)
    base = thumbnail(data.astronaut()).astype(float)
    crowd = [
        np.clip(base + generator.normal(0, 30, base.shape), 0, 255).astype(np.uint8)
        for _ in range(120)
    ]
    pairs = [ssim(a, b) for i, a in enumerate(crowd[:30]) for b in crowd[i + 1 : 30]]
    assert likeness(crowd) == pytest.approx(np.mean(pairs), abs=0.02)
