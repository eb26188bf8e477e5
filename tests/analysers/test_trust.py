"""The trust check and the diagnosis of degenerate pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from decimal import Decimal

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage
from skimage import data

from analysers.metrics.brisque import brisque
from analysers.metrics.metric import Sample, load_metric
from analysers.study import Candidate, Score, TrustResult
from analysers.trust import (
    THRESHOLD,
    blurred,
    compressed,
    diagnose,
    judge,
    kinds_of_picture,
    kinds_sentence,
    ladder_scores,
    noisy,
    over_saturated,
)


def trust_check(
    controls: Sequence[np.ndarray], score: Callable[[np.ndarray], float] = brisque, **said: str
) -> TrustResult:
    def metric(samples: Sequence[Sample]) -> list[float]:
        return [score(sample.image) for sample in samples]

    said = {"better": "lower", "name": "BRISQUE", **said}
    return judge([ladder_scores(control, metric) for control in controls], **said)


def drawing(seed: int) -> np.ndarray:
    """Black outlines and flat fills on a plain ground."""
    generator = np.random.default_rng(seed)
    image = Image.new("RGB", (256, 256), (250, 244, 230))
    pen = ImageDraw.Draw(image)
    for _ in range(8):
        x, y, size = (int(value) for value in generator.integers(0, 190, 3))
        fill = tuple(generator.integers(0, 256, 3).tolist()) if generator.random() < 0.5 else None
        shape = pen.ellipse if generator.random() < 0.5 else pen.rectangle
        shape([x, y, x + size // 3 + 20, y + size // 3 + 20], fill=fill, outline=0, width=2)
    return np.asarray(image)


@pytest.mark.parametrize("sigma", [0.7, 5.6])
@pytest.mark.parametrize("shape", [(64, 80), (40, 33, 3), (9, 7, 3)])
def test_the_blur_is_scipys(shape: tuple[int, ...], sigma: float) -> None:
    image = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    axes = (sigma, sigma) + (0.0,) * (image.ndim - 2)
    expected = ndimage.gaussian_filter(image.astype(float), axes, mode="reflect")
    assert (blurred(image, sigma) == np.rint(expected)).all()


PHOTOGRAPHS = ["astronaut", "chelsea", "coffee", "rocket", "camera", "moon", "grass"]


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_silent_on_photographs(name: str) -> None:
    photograph = getattr(data, name)()[:300, :300]
    found = trust_check([photograph])
    assert found.trusted, found.sentence
    assert found.tau > THRESHOLD


@pytest.mark.parametrize("seed", range(5))
def test_fires_on_flat_drawings(seed: int) -> None:
    found = trust_check([drawing(seed)])
    assert not found.trusted
    assert found.tau < THRESHOLD
    assert "should not decide alone" in found.sentence


def on_another_ground(image: np.ndarray, ground: object) -> np.ndarray:
    """The picture's middle, its surroundings replaced."""
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width]
    inside = ((y / height - 0.5) / 0.32) ** 2 + ((x / width - 0.5) / 0.32) ** 2 <= 1
    kept = inside if image.ndim == 2 else inside[..., np.newaxis]
    return np.where(kept, image, np.broadcast_to(ground, image.shape)).astype(np.uint8)


def spoken_of(change: Callable[[np.ndarray], np.ndarray], better: str = "lower") -> str:
    names = ("brisque", "dark_share", "flat_share", "texture")
    rows = []
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        control = getattr(data, name)()[:300, :400]
        for candidate, image in (
            (None, control),
            (Candidate(strength=Decimal(1)), change(control)),
        ):
            values = {n: load_metric(n)([Sample(image)])[0] for n in names}
            path = f"{candidate is None} {name}"
            control_path = "" if candidate is None else f"True {name}"
            rows.append(Score(candidate, name, name, 1, path, control_path, values))
    found = kinds_of_picture(rows, kind="strength", rank_by="brisque", margin=5.0)
    assert json.dumps([asdict(k) for k in found])
    return kinds_sentence(found, "BRISQUE", "strength")


RAMP = np.linspace(90, 180, 400)[np.newaxis, :, np.newaxis]


@pytest.mark.parametrize(
    ("ground", "said"),
    [(0, "darker ("), (20, "darker ("), (0, "flatter ("), (200, "flatter ("), (RAMP, "flatter (")],
)
def test_another_background_is_told_from_damage(ground: object, said: str) -> None:
    sentence = spoken_of(lambda image: on_another_ground(image, ground))
    assert said in sentence and sentence.startswith("At strength 1.0 the pictures are")
    assert "BRISQUE reads that as damage" in sentence


@pytest.mark.parametrize(
    "change",
    [
        *(lambda image, s=s: blurred(image, s) for s in (0.7, 1.4, 2.8, 5.6)),
        *(lambda image, s=s: noisy(image, s) for s in (6, 12, 24, 48)),
        *(lambda image, s=s: compressed(image, s) for s in (60, 80, 90)),
        lambda image: image,
        lambda image: over_saturated(image, 2.0),
    ],
)
def test_damage_is_not_called_another_kind_of_picture(
    change: Callable[[np.ndarray], np.ndarray],
) -> None:
    assert spoken_of(change) == ""


def test_result_is_a_table_that_json_takes() -> None:
    controls = [data.chelsea()[:200, :200], data.coffee()[100:300, 100:300]]
    found = trust_check(controls)
    assert found.controls == 2
    assert [ladder.name for ladder in found.ladders] == [
        "blur",
        "white noise",
        "JPEG",
        "over-saturation",
    ]
    for ladder in found.ladders:
        assert ladder.levels[0] == 0.0
        assert len(ladder.means) == len(ladder.levels) == 5
        assert list(ladder.levels) == sorted(ladder.levels)
        assert ladder.means[0] == pytest.approx(np.mean([brisque(c) for c in controls]))
    deciding = [ladder.tau for ladder in found.ladders if ladder.decides]
    assert found.tau == pytest.approx(np.mean(deciding))
    assert json.loads(json.dumps(asdict(found)))["trusted"] is True


def test_same_controls_same_result() -> None:
    controls = [data.chelsea()[:150, :150]]
    assert trust_check(controls) == trust_check(controls)


def test_direction_of_the_metric() -> None:
    controls = [data.camera()[:200, :200]]
    upside_down = trust_check(controls, lambda image: -brisque(image))
    assert not upside_down.trusted
    turned = trust_check(controls, lambda image: -brisque(image), better="higher", name="mine")
    assert turned.trusted
    assert turned.sentence.startswith("mine ")


def test_metric_that_does_not_move_orders_nothing() -> None:
    found = trust_check([data.camera()[:100, :100]], lambda image: 3.0)
    assert (found.trusted, found.tau) == (False, 0.0)


def test_grey_pictures_and_blind_ladder_are_named() -> None:
    found = trust_check([data.camera()[:200, :200]])
    assert found.trusted
    assert "does not see over-saturation" in found.sentence


def test_undefined_controls_are_left_out() -> None:
    black = np.zeros((100, 100, 3), np.uint8)
    photograph = data.astronaut()[:100, :100]
    alone = trust_check([photograph])
    among = trust_check([black, photograph])
    assert [ladder.means for ladder in among.ladders] == [ladder.means for ladder in alone.ladders]
    nothing = trust_check([black])
    assert not nothing.trusted
    assert math.isnan(nothing.tau)
    assert "not known" in nothing.sentence
    assert not trust_check([]).trusted


def test_degradations_grow_with_their_level() -> None:
    image = data.astronaut()[:128, :128].astype(float)
    for degrade, levels in (
        (blurred, (0.7, 1.4, 2.8)),
        (noisy, (6, 12, 24)),
        (compressed, (60, 80, 95)),
        (over_saturated, (0.5, 1, 2)),
    ):
        pictures = [degrade(image.astype(np.uint8), level) for level in levels]
        assert all(p.dtype == np.uint8 and p.shape == image.shape for p in pictures)
        moved = [np.abs(picture - image).mean() for picture in pictures]
        assert 0 < moved[0] < moved[1] < moved[2]


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((64, 64, 3), np.uint8), "half precision"),
        (np.zeros((64, 64), np.uint8), "safety filter"),
        (np.full((64, 64, 3), (9, 200, 30), np.uint8), "one single colour (9, 200, 30)"),
        (np.full((64, 64), 255, np.uint8), "one single colour (255)"),
        (np.eye(64, dtype=np.uint8)[:, :64] + np.uint8(100), "nearly flat"),
        (np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), "noise"),
        (np.tile(np.repeat(np.uint8([0, 200]), 4), (8, 1)), "16 x 16"),
    ],
)
def test_degenerate_pictures_are_diagnosed(image: np.ndarray, said: str) -> None:
    assert said in (diagnose(image) or "")


def test_black_but_for_a_few_pixels() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[3, 3] = 255
    assert "black but for a few pixels" in (diagnose(image) or "")


@pytest.mark.parametrize("name", [*PHOTOGRAPHS, "page", "text"])
def test_nothing_is_wrong_with_ordinary_pictures(name: str) -> None:
    assert diagnose(getattr(data, name)()) is None
    assert diagnose(drawing(1)) is None


def test_every_undefined_score_has_a_diagnosis() -> None:
    generator = np.random.default_rng(0)
    undefined = 0
    for ground in (0, 1, 128, 255):
        for dots in range(4):
            image = np.full((24, 24), ground, np.uint8)
            image[generator.integers(0, 24, dots), generator.integers(0, 24, dots)] ^= 1
            if math.isnan(brisque(image)):
                undefined += 1
                assert diagnose(image)
    assert undefined >= 4
