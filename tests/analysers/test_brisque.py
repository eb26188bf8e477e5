"""BRISQUE against published values, a second implementation, piq, and its own promises."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.signal import convolve2d, fftconvolve
from scipy.special import gamma
from skimage import data

from analysers.metrics import brisque as module
from analysers.metrics.brisque import brisque, brisque_with_reason, features
from analysers.metrics.filters import half_size
from analysers.metrics.luma import luma
from analysers.metrics.metric import Sample, load_metric

# scikit-image's pictures, coefficients below 1e-9 being zero.
PUBLISHED = {
    "astronaut": 2.866204,
    "coffee": 30.065938,
    "rocket": 9.934056,
    "camera": -7.308769,
    "moon": 13.268247,
    "retina": 47.142515,
}


def on_flat_ground() -> np.ndarray:
    """A photograph of a cat on a flat ground: more than half of the picture has no texture."""
    image = np.full((512, 512, 3), (201, 187, 143), np.uint8)
    image[100:400, 30:481] = data.chelsea()
    return image


def kernel_2d() -> np.ndarray:
    at = np.arange(-3, 4)
    kernel = np.exp(-(at[:, None] ** 2 + at**2) / (2 * (7 / 6) ** 2))
    return kernel / kernel.sum()


def plain_features(plane: np.ndarray, convolve=convolve2d, zero: float = 1e-9) -> list[float]:
    """The 18 features of one size, as the paper's text has them, without any haste."""
    mean = convolve(plane, kernel_2d(), "same")
    sigma = np.sqrt(np.abs(convolve(plane**2, kernel_2d(), "same") - mean**2))
    mscn = (plane - mean) / (sigma + 1)
    mscn[np.abs(mscn) < zero] = 0
    shapes = np.arange(0.2, 10.0005, 0.001)
    ratio = gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))
    wanted = (mscn**2).mean() / np.abs(mscn).mean() ** 2
    found = [shapes[np.abs(1 / ratio - wanted).argmin()], (mscn**2).mean()]
    for shift in ((0, 1), (1, 0), (1, 1), (-1, 1)):
        x = mscn * np.roll(mscn, shift, (0, 1))
        if not (x < 0).any() or not (x > 0).any():
            found += [math.nan] * 4
            continue
        left, right = np.sqrt((x[x < 0] ** 2).mean()), np.sqrt((x[x > 0] ** 2).mean())
        g = left / right
        wanted = np.abs(x).mean() ** 2 / (x**2).mean()
        wanted *= (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
        a = shapes[((ratio - wanted) ** 2).argmin()]
        mean = (right - left) * gamma(2 / a) / np.sqrt(gamma(1 / a) * gamma(3 / a))
        found += [a, mean, left**2, right**2]
    return found


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_values(name: str) -> None:
    assert brisque(getattr(data, name)()) == pytest.approx(PUBLISHED[name], abs=1e-5)


@pytest.mark.skipif(
    "LORA_ANALYSERS_TID2013" not in os.environ, reason="TID2013 may not be redistributed"
)
@pytest.mark.parametrize(
    ("name", "exact_rule", "matlab"), [("I03", 94.641, 94.6421), ("I08", 5.904, 5.3583)]
)
def test_tid2013(name: str, exact_rule: float, matlab: float) -> None:
    folder = Path(os.environ["LORA_ANALYSERS_TID2013"])
    value = brisque(np.asarray(Image.open(folder / f"{name}_distorted.bmp").convert("RGB")))
    assert value == pytest.approx(exact_rule, abs=1e-3)
    if name == "I03":  # no flat area, so LIVE's program has no rounding noise to count
        assert value == pytest.approx(matlab, abs=0.01)


@given(
    height=st.integers(16, 50),
    width=st.integers(16, 50),
    low=st.integers(0, 200),
    spread=st.integers(2, 55),
    seed=st.integers(0, 2**32 - 1),
)
@example(height=16, width=16, low=62, spread=4, seed=1824032)  # no product is negative
@settings(max_examples=40)
def test_agrees_with_a_plain_implementation(
    height: int, width: int, low: int, spread: int, seed: int
) -> None:
    plane = np.random.default_rng(seed).integers(low, low + spread, (height, width), np.uint8)
    plain = plain_features(plane.astype(float))
    plain += plain_features(half_size(plane.astype(float)))
    np.testing.assert_allclose(features(plane), plain, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("convolve", [convolve2d, fftconvolve])
def test_the_order_of_summation_does_not_matter_on_flat_ground(convolve) -> None:
    plane = luma(on_flat_ground()).astype(float)
    plain = plain_features(plane, convolve) + plain_features(half_size(plane), convolve)
    score = module._predict(np.array(plain))
    assert score == pytest.approx(brisque(on_flat_ground()), abs=1e-6)


def test_without_the_rule_the_order_of_summation_decides() -> None:
    plane = luma(on_flat_ground()).astype(float)
    scores = []
    for convolve in (convolve2d, fftconvolve):
        plain = plain_features(plane, convolve, zero=0.0)
        plain += plain_features(half_size(plane), convolve, zero=0.0)
        scores.append(module._predict(np.array(plain)))
    assert max(abs(score - brisque(on_flat_ground())) for score in scores) > 1.0


@pytest.mark.parametrize("name", ["moon", "coins", "gravel", "grass", "brick"])
def test_features_of_textured_pictures_equal_piq(name: str) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("piq")
    piq_brisque = sys.modules["piq.brisque"]
    plane = getattr(data, name)()[:300, :300].astype(float)
    theirs: list[float] = []
    for size in (plane, half_size(plane)):
        tensor = torch.tensor(size, dtype=torch.float64)[None, None]
        theirs += piq_brisque._natural_scene_statistics(tensor)[0].tolist()
    np.testing.assert_allclose(features(plane.astype(np.uint8)), theirs, rtol=1e-6, atol=1e-6)


def test_half_size_is_piqs_antialiased_bicubic() -> None:
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("piq.functional")
    plane = data.camera()[:200, :300].astype(np.float32)
    theirs = functional.imresize(torch.tensor(plane)[None, None], sizes=(100, 150))[0, 0].numpy()
    np.testing.assert_allclose(half_size(plane.astype(float)), theirs, atol=1e-3)


def test_half_size_keeps_flat_areas_and_rounds_sizes_up() -> None:
    half = half_size(np.full((21, 30), 77.0))
    assert half.shape == (11, 15)
    np.testing.assert_allclose(half, 77.0, atol=1e-12)


SCORE = """
import sys, numpy as np
from analysers.metrics.brisque import brisque
from analysers.metrics.ssim import ssim
a = np.load(sys.argv[1])
print(brisque(a).hex(), ssim(a, np.roll(a, 2, 0)).hex())
assert "torch" not in sys.modules
"""


def test_one_and_two_threads_give_the_same_bits(tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", on_flat_ground())
    found = set()
    for threads in ("1", "2"):
        counts = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        run = subprocess.run(
            [sys.executable, "-c", SCORE, str(tmp_path / "flat.npy")],
            env={**os.environ, **dict.fromkeys(counts, threads)},
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
        found.add(run.stdout)
    assert len(found) == 1
    assert found.pop().split()[0] == brisque(on_flat_ground()).hex()


def test_batch_order_and_neighbours_do_not_matter() -> None:
    pictures = [on_flat_ground(), data.chelsea(), data.camera(), data.rocket()]
    metric = load_metric("brisque")
    alone = [metric([Sample(picture)])[0] for picture in pictures]
    together = metric([Sample(picture) for picture in pictures * 2])
    assert list(together) == alone * 2
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(brisque, pictures * 2)) == alone * 2
    assert (metric.name, metric.better, metric.needs_control) == ("brisque", "lower", False)


def test_memory_layout_does_not_matter() -> None:
    image = data.astronaut()
    score = brisque(image)
    assert brisque(np.asfortranarray(image)) == score
    assert brisque(image[::-1].copy()[::-1]) == score
    wide = np.zeros((512, 512, 4), np.uint8)
    wide[..., :3] = image
    assert brisque(wide[..., :3]) == score
    assert brisque(luma(image)) == score
    assert brisque(np.asfortranarray(luma(image))) == score


def flat_but_for_one_pixel() -> np.ndarray:
    image = np.zeros((64, 64), np.uint8)
    image[30, 30] = 255
    return image


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((64, 64, 3), np.uint8), "same brightness"),
        (np.full((64, 64), 255, np.uint8), "same brightness"),
        (np.full((64, 80, 3), (200, 10, 30), np.uint8), "same brightness"),
        (np.zeros((8, 64), np.uint8), "16 x 16"),
    ],
)
def test_degenerate_pictures_are_undefined_with_a_reason(image: np.ndarray, said: str) -> None:
    score, reason = brisque_with_reason(image)
    assert math.isnan(score)
    assert said in reason


@given(st.integers(16, 40), st.integers(16, 40), st.integers(0, 255), st.integers(0, 3))
@settings(max_examples=60)
def test_nearly_flat_pictures_score_or_say_why(h: int, w: int, ground: int, dots: int) -> None:
    image = np.full((h, w), ground, np.uint8)
    generator = np.random.default_rng(h * w + dots)
    image[generator.integers(0, h, dots), generator.integers(0, w, dots)] ^= 64
    score, reason = brisque_with_reason(image)
    assert math.isfinite(score) == (reason == "")
    assert math.isfinite(score) or math.isnan(score)


def test_worse_pictures_score_higher() -> None:
    image = data.astronaut()
    generator = np.random.default_rng(0)
    noisy = np.clip(image + generator.normal(0, 40, image.shape), 0, 255).astype(np.uint8)
    assert brisque(noisy) > brisque(image) + 20


@pytest.mark.parametrize("shape", [(32, 32, 4), (32, 32, 1), (2, 32, 32, 3), (32,)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="Expected"):
        brisque(np.zeros(shape, np.uint8))


def test_weights_come_with_their_licence() -> None:
    folder = Path(module.__file__).parent
    notice = (folder / "brisque_live_LICENSE.txt").read_text(encoding="utf-8")
    assert "Copyright (c) 2011 The University of Texas at Austin" in notice
    with np.load(folder / "brisque_live.npz", allow_pickle=False) as stored:
        assert stored["vectors"].shape == (774, 36)
        assert float(stored["rho"]) == -153.591
