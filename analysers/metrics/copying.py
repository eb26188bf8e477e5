"""Does a picture repeat a training picture? The nearest one, moved and mirrored as it fits best.

Luma averaged down to 64 x 64; the middle 48 x 48 of the picture is laid where it correlates best
with the reference or its mirror image, and both are compared there by SSIM (`nearest`) and by a
perceptual hash, which sees what was made paler or darker, as SSIM does not. How near is
near is for the references to say: `analysers.likeness` holds the values against what they have
among each other, and against the pictures without the LoRA. Where training pictures are nearer than
pictures of the same kind that were kept back, they are known by heart (Meehan, Chaudhuri, Dasgupta
2020, "A Non-Parametric Test to Detect Data-Copying in Generative Models",
https://arxiv.org/abs/2004.05675, who compare nearest neighbours so).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from analysers.metrics.luma import Pixels, luma
from analysers.metrics.metric import Declaration, Declared, Sample
from analysers.metrics.references import each, fitted
from analysers.metrics.ssim import ssim

SIDE, CORE = 64, 48
"""Pixels of the small pictures' sides, and of the part that is moved: by an eighth each way."""

CANDIDATES = 8
"""References, the best correlated, that are compared."""

HASHED, KEPT = 32, 8
"""Pixels of the side that is hashed, and of the low frequencies that are kept of it."""


class Near(NamedTuple):
    """A reference's number, its SSIM (-1 to 1), whether it had to be mirrored, and the share of the
    hash's bits that are the same (0 to 1)."""

    number: int
    value: float
    mirrored: bool
    bits: float


def small(picture: Pixels) -> Pixels:
    """The picture's luma, squeezed into 64 x 64, uint8."""
    from PIL import Image

    image = Image.fromarray(luma(picture))
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def dct_hash(picture: Pixels) -> npt.NDArray[np.bool_]:
    """Whether each of the 8 x 8 lowest frequencies of an uint8 plane, brought to 32 x 32, is above
    their median: "pHash", as ImageHash 4.3 computes it (`phash`)."""
    from PIL import Image
    from scipy.fft import dctn

    plane = Image.fromarray(picture).resize((HASHED, HASHED), Image.Resampling.LANCZOS)
    low = dctn(np.asarray(plane, np.float64))[:KEPT, :KEPT]
    return np.asarray(low > np.median(low))


def nearest(picture: Pixels, references: Sequence[Pixels]) -> Near:
    """The reference that is most like the picture by SSIM; all are small ones (`small`)."""
    return max(compared(picture, references), key=lambda near: near.value)


def compared(picture: Pixels, references: Sequence[Pixels]) -> list[Near]:
    """The references that correlate best with the picture, at most `CANDIDATES`, compared where
    they do; all are small ones (`small`)."""
    edge = (SIDE - CORE) // 2
    core = np.ascontiguousarray(picture[edge : edge + CORE, edge : edge + CORE])
    both = [(n, turned) for n in range(len(references)) for turned in (False, True)]
    laid = [_laid(core, _turned(references[n], turned)) for n, turned in both]
    best = sorted(range(len(both)), key=lambda k: -laid[k][0])[:CANDIDATES]
    own = dct_hash(core)
    found = []
    for k in best:
        (number, turned), part = both[k], laid[k][1]
        bits = float((own == dct_hash(part)).mean())
        found.append(Near(number, ssim(core, part), turned, bits))
    return found


def _turned(reference: Pixels, turned: bool) -> Pixels:
    return np.ascontiguousarray(reference[:, ::-1]) if turned else reference


def _laid(core: Pixels, reference: Pixels) -> tuple[float, Pixels]:
    """The highest correlation of the core with a part of the reference, and that part."""
    windows = np.lib.stride_tricks.sliding_window_view(reference.astype(np.float64), core.shape)
    own = core.astype(np.float64) - core.mean()
    sums = np.einsum("abij,ij->ab", windows, own)
    count = core.size
    table = np.zeros((2, SIDE + 1, SIDE + 1))
    plane = reference.astype(np.float64)
    table[0, 1:, 1:] = plane.cumsum(0).cumsum(1)
    table[1, 1:, 1:] = np.square(plane).cumsum(0).cumsum(1)
    total, squares = (
        t[CORE:, CORE:] - t[:-CORE, CORE:] - t[CORE:, :-CORE] + t[:-CORE, :-CORE] for t in table
    )
    spread = np.sqrt(np.maximum(squares - total**2 / count, 0) * np.square(own).sum())
    value = np.divide(sums, spread, out=np.zeros_like(sums), where=spread > 1e-9)
    y, x = np.unravel_index(int(value.argmax()), value.shape)
    part = reference[y : y + CORE, x : x + CORE]
    return float(value[y, x]), np.ascontiguousarray(part)


@dataclass(frozen=True)
class Copying(Declared):
    """`Near.value` of the reference that is most like the picture."""

    declaration = Declaration(
        "copying",
        version=2,
        label="likeness to the nearest reference",
        unit="SSIM",
        about="does it repeat a training picture",
        needs=frozenset({"references"}),
        bounds=(-1.0, 1.0),
    )

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float]:
        return [max(n.value for n in sample.once(_to_references)) for sample in samples]


@dataclass(frozen=True)
class CopyingHash(Declared):
    """`Near.bits` of the reference whose hash is most like the picture's."""

    declaration = Declaration(
        "copying_hash",
        label="likeness to the nearest reference, hash",
        unit="share of bits",
        about="does it repeat a training picture",
        needs=frozenset({"references"}),
        bounds=(0.0, 1.0),
    )

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float]:
        return [max(n.bits for n in sample.once(_to_references)) for sample in samples]


@dataclass(frozen=True)
class HeldOutCopying(Declared):
    """The same of the pictures that were not trained on: how near pictures of that kind come."""

    declaration = Declaration(
        "held_out_copying",
        label="likeness to the nearest held-out picture",
        unit="SSIM",
        about="how near a picture of the kind comes unlearnt",
        needs=frozenset({"held_out"}),
        bounds=(-1.0, 1.0),
    )

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float]:
        return [
            max(n.value for n in compared_to(sample.image, sample.held_out)) for sample in samples
        ]


def _to_references(sample: Sample) -> list[Near]:
    return compared_to(sample.image, sample.references)


def compared_to(picture: Pixels, references: Sequence[Pixels]) -> list[Near]:
    """`compared` of pictures of any size: references are cut to the picture's shape, as trainers
    do."""
    high, wide = picture.shape[:2]
    looks = each(references, lambda other: small(fitted(other, high, wide)), ("small", high, wide))
    return compared(small(picture), looks)
