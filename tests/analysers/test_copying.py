"""A repeated picture is found wherever it was moved to, mirrored or not, and a new one is not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analysers.likeness import COPYING, HASH, LEAST_COPY
from analysers.metrics.copying import Copying, CopyingHash, dct_hash, nearest, small
from analysers.metrics.luma import luma
from analysers.metrics.metric import Sample
from analysers.metrics.references import Pictures, fitted

skimage = pytest.importorskip("skimage")


def photographs() -> list[np.ndarray]:
    from skimage import data

    return [fitted(getattr(data, n)(), 400, 400) for n in ("astronaut", "coffee", "chelsea")]


def changed(picture: np.ndarray, how: str) -> np.ndarray:
    generator = np.random.default_rng(3)
    if how == "mirrored":
        return picture[:, ::-1]
    if how == "moved":
        return np.roll(picture, (30, -40), (0, 1))
    if how == "moved and mirrored":
        return np.roll(picture, (-30, 40), (0, 1))[:, ::-1]
    if how == "smaller":
        return np.asarray(Image.fromarray(picture).resize((256, 256)))
    noisy = picture + generator.normal(0, 12, picture.shape)
    return np.clip(np.rint(0.8 * noisy + 20), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "how", ["mirrored", "moved", "moved and mirrored", "smaller", "noisy and pale"]
)
def test_a_copy_is_nearest_to_what_it_was_made_of(how: str) -> None:
    references = [small(picture) for picture in photographs()]
    for number, picture in enumerate(photographs()):
        near = nearest(small(changed(picture, how)), references)
        assert near.number == number and near.value > 0.85
        assert near.mirrored is ("mirrored" in how)
        others = [r for k, r in enumerate(references) if k != number]
        assert nearest(small(changed(picture, how)), others).value < 0.5


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("astronaut", "c2924c5532bddfc8"),
        ("coffee", "bb8320376c0f3637"),
        ("chelsea", "b15fe6465121175e"),
        ("rocket", "c0371bec1be51267"),
        ("camera", "bff1c1c0434e8cbc"),
        ("moon", "a3d9765014369c77"),
    ],
)
def test_the_hash_is_that_of_imagehash(name: str, told: str) -> None:
    """As `imagehash.phash` of ImageHash 4.3.2 gives it for the same luma."""
    from skimage import data

    bits = np.packbits(dct_hash(luma(getattr(data, name)())))
    assert bits.tobytes().hex() == told


def toned(picture: np.ndarray, how: str) -> np.ndarray:
    if how == "pale":
        tones = 0.35 * picture + 110
    elif how == "dark":
        tones = 0.3 * picture
    else:
        tones = picture.mean(axis=2, keepdims=True).repeat(3, axis=2)
    return np.clip(np.rint(tones), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("how", ["pale", "dark", "grey"])
def test_a_copy_in_other_tones_is_seen_by_its_hash_or_by_ssim(how: str) -> None:
    """The hash sees those that SSIM does not."""
    pictures = photographs()
    for number, picture in enumerate(pictures):
        told = toned(np.roll(picture, (25, -50), (0, 1))[:, ::-1], how)
        others = tuple(p for k, p in enumerate(pictures) if k != number)
        both = [Sample(told, references=(*others, picture))]
        seen = CopyingHash()(both)[0]
        assert seen > 0.9
        assert seen > LEAST_COPY[HASH] or Copying()(both)[0] > LEAST_COPY[COPYING]
        assert CopyingHash()([Sample(told, references=others)])[0] < 0.8
    dark = Sample(toned(pictures[0], "dark"), references=(pictures[0],))
    assert Copying()([dark])[0] < LEAST_COPY[COPYING] and CopyingHash()([dark])[0] > 0.95


def test_flat_and_grey_pictures_have_a_value() -> None:
    flat = np.full((64, 80), 7, np.uint8)
    assert nearest(small(flat), [small(photographs()[0])]).value < 0.1
    assert nearest(small(flat), [small(flat)]).value == pytest.approx(1)


def test_references_in_files_are_read_once(tmp_path: Path) -> None:
    pictures = photographs()
    paths = tuple(tmp_path / f"{k}.png" for k in range(3))
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    files = Pictures(paths)
    asked = [Sample(changed(picture, "moved"), references=files) for picture in pictures]
    found = Copying()(asked)
    for path in paths:
        path.unlink()
    assert (
        Copying()(asked)
        == found
        == Copying()([Sample(s.image, references=tuple(pictures)) for s in asked])
    )


@pytest.mark.parametrize(("high", "wide"), [(256, 256), (320, 256), (256, 384)])
def test_a_reference_of_another_shape_is_cut_as_trainers_do(high: int, wide: int) -> None:
    from skimage import data

    reference = data.rocket()  # 427 x 640
    picture = fitted(reference, high, wide)
    assert Copying()([Sample(picture, references=(reference,))])[0] > 0.95
    assert Copying()([Sample(picture[:, ::-1], references=(reference,))])[0] > 0.95
    if wide / high < 1.4:
        assert nearest(small(picture), [small(reference)]).value < 0.9
