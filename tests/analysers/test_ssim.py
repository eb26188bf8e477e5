"""SSIM against published values, scikit-image and its own definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data
from skimage.metrics import structural_similarity

from analysers.metrics import ssim as module
from analysers.metrics.luma import luma
from analysers.metrics.metric import Sample, load_metric
from analysers.metrics.ssim import ControlMaps, ssim

# SSIM of scikit-image's pictures to themselves rolled down two rows.
PUBLISHED = {
    "astronaut": 0.7445500295,
    "coffee": 0.5489698955,
    "rocket": 0.8148394003,
    "camera": 0.6485389960,
    "moon": 0.9026688066,
    "retina": 0.9459436720,
}


def of_scikit_image(image: np.ndarray, control: np.ndarray) -> float:
    return float(
        structural_similarity(
            luma(image).astype(float),
            luma(control).astype(float),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
        )
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_values(name: str) -> None:
    image = getattr(data, name)()
    rolled = np.roll(image, 2, 0)
    assert ssim(image, rolled) == pytest.approx(PUBLISHED[name], abs=1e-9)
    assert ssim(image, rolled) == pytest.approx(of_scikit_image(image, rolled), abs=1e-12)


@given(
    height=st.integers(11, 60),
    width=st.integers(11, 60),
    channels=st.sampled_from([None, 3]),
    spread=st.integers(0, 255),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60)
def test_agrees_with_scikit_image(
    height: int, width: int, channels: int | None, spread: int, seed: int
) -> None:
    shape = (height, width) if channels is None else (height, width, channels)
    first, second = np.random.default_rng(seed).integers(0, spread + 1, (2, *shape), np.uint8)
    value = ssim(first, second)
    assert value == pytest.approx(of_scikit_image(first, second), abs=1e-9)
    assert value == pytest.approx(ssim(second, first), abs=1e-12)
    assert -1.0 <= value <= 1.0
    assert ssim(first, first) == 1.0


def test_memory_layout_does_not_matter() -> None:
    image, control = data.astronaut(), np.roll(data.astronaut(), 2, 0)
    value = ssim(image, control)
    assert ssim(np.asfortranarray(image), control[::-1][::-1]) == value
    wide = np.zeros((512, 512, 4), np.uint8)
    wide[..., :3] = image
    assert ssim(wide[..., :3], control) == value


def test_kept_maps_give_the_same_value() -> None:
    control = data.coffee()
    maps = ControlMaps.of(control)
    for rows in (1, 2, 3):
        image = np.roll(control, rows, 0)
        assert maps.ssim(image) == ssim(image, control)


def test_metric_is_the_function_whatever_the_batch() -> None:
    control, other = data.astronaut(), data.astronaut()[::-1].copy()
    image = np.roll(control, 1, 1)
    metric = load_metric("ssim")
    alone = metric([Sample(image, control)])
    among = metric([Sample(other, other), Sample(image, control), Sample(image, other)] * 3)
    assert list(alone) == [ssim(image, control)]
    assert among[1] == among[4] == alone[0]
    assert among[0] == 1.0
    assert np.isnan(metric([Sample(image)])[0])
    assert (metric.name, metric.better, metric.needs_control) == ("ssim", "higher", True)


def test_the_maps_of_the_last_controls_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    usual = ControlMaps.of
    monkeypatch.setattr(ControlMaps, "of", lambda plane: made.append(0) or usual(plane))
    monkeypatch.setattr(module, "MOST_KEPT", 3 * 40 * 50)
    controls = np.random.default_rng(0).integers(0, 256, (5, 40, 50, 3), np.uint8)
    pictures = [picture.copy() for picture in controls]
    metric = load_metric("ssim")
    for _ in range(4):
        assert metric([Sample(picture, picture) for picture in pictures[:3]]) == [1.0] * 3
    assert len(made) == 3
    metric([Sample(picture, picture) for picture in pictures])  # two more: the first two go
    assert len(made) == 5
    metric([Sample(pictures[2], pictures[2])])
    assert len(made) == 5
    metric([Sample(pictures[0], pictures[0])])
    assert len(made) == 6
    for k in range(20):  # another picture in the same place of memory is another control
        picture = controls[0] ^ np.uint8(k)
        assert metric([Sample(picture, picture)]) == [1.0]


def test_luma_is_the_rounded_sum_for_every_colour() -> None:
    green, blue = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    for red in range(0, 256, 5):
        colours = np.stack([np.full_like(green, red), green, blue], axis=2).astype(np.uint8)
        exact = 0.298936021293776 * red + 0.587043074451121 * green + 0.114020904255103 * blue
        assert (luma(colours) == np.rint(exact)).all()


@pytest.mark.parametrize(
    ("image", "control", "said"),
    [
        (np.zeros((20, 20), np.uint8), np.zeros((20, 21), np.uint8), "resample"),
        (np.zeros((20, 20), np.uint8), np.zeros((20, 20, 3), np.uint8), "resample"),
        (np.zeros((10, 20), np.uint8), np.zeros((10, 20), np.uint8), "11 x 11"),
        (np.zeros((20, 20, 4), np.uint8), np.zeros((20, 20, 4), np.uint8), "shape"),
        (np.zeros((20, 20)), np.zeros((20, 20)), "uint8"),
    ],
)
def test_wrong_pictures_are_refused(image: np.ndarray, control: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ssim(image, control)
