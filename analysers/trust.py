"""Can the metric be trusted on this kind of picture? And what is wrong with a degenerate one?

The user's own controls are degraded step by step, and the metric is asked to put the steps in
order. On photographs BRISQUE does; on flat drawings, which are not the natural scenes that it was
fitted to, it calls the degraded picture better (docs/metrics.md has the figures).
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from analysers.metrics.filters import bands, down, gaussian_kernel
from analysers.metrics.luma import Pixels, luma
from analysers.metrics.metric import Metric, Sample, declared
from analysers.phrases import listed, percent
from analysers.scores import tabulate
from analysers.study import Kind, KindOfPicture, KindsOfPicture, Ladder, Score, TrustResult

THRESHOLD = 0.5
"""Mean tau below which the metric should not decide alone: photographs reach 0.8 and more, flat
drawings stay at 0.2 and less (docs/metrics.md, benchmarks/ladders.py)."""


DARKER = 0.25
FLATTER = 0.2
"""By how much the dark and the flat area of a candidate's pictures must grow over the controls' to
be another kind of picture."""

SAME_TEXTURE = 0.5
"""Share of the controls' texture that must be left where a picture is not flat."""

LADDERS_VERSION = 1
"""Raised whenever a ladder changes: kept scores of another version are not used."""


def ladder_scores(
    picture: Pixels, metric: Metric, untouched: float | None = None
) -> tuple[tuple[float, ...], ...]:
    """The metric's values down each ladder, the untouched picture (uint8, grey (H, W) or RGB
    (H, W, 3)) first; NaN where undefined. The picture is scored 17 times, or 16 where the value of
    the untouched one is known.
    """

    def score(image: Pixels) -> float:
        try:
            return float(metric([Sample(image)])[0])
        except Exception:  # what it says of the picture itself is said elsewhere
            return math.nan

    first = score(picture) if untouched is None else untouched
    return tuple(
        (first, *(score(degrade(picture, level)) for level in levels))
        for _, _, levels, degrade, _ in _LADDERS
    )


def judge(
    scores: Sequence[tuple[tuple[float, ...], ...]],
    *,
    better: Literal["lower", "higher"],
    name: str,
) -> TrustResult:
    """The verdict from what `ladder_scores` gave for each control.

    `better` is the metric's direction, `name` what the sentence calls it. A control whose score is
    NaN anywhere on a ladder does not count for it.
    """
    worse = 1.0 if better == "lower" else -1.0
    ladders = []
    for i, (title, unit, levels, _, decides) in enumerate(_LADDERS):
        values = np.array([rows[i] for rows in scores]).reshape(len(scores), 1 + len(levels))
        defined = values[np.isfinite(values).all(axis=1)]
        means = defined.mean(axis=0) if len(defined) else np.full(1 + len(levels), math.nan)
        taus = [_tau(worse * row) for row in defined]
        ladders.append(
            Ladder(
                name=title,
                unit=unit,
                levels=(0.0, *levels),
                means=tuple(float(mean) for mean in means),
                tau=float(np.mean(taus)) if taus else math.nan,
                decides=decides,
            )
        )
    return _judge(tuple(ladders), len(scores), name)


def _judge(ladders: tuple[Ladder, ...], controls: int, name: str) -> TrustResult:
    deciding = [ladder.tau for ladder in ladders if ladder.decides and not math.isnan(ladder.tau)]
    if not deciding:
        sentence = (
            f"No control could be degraded and scored, so it is not known whether {name} can be "
            "trusted on these pictures."
        )
        return TrustResult(False, sentence, math.nan, controls, ladders)
    tau = float(np.mean(deciding))
    trusted = tau >= THRESHOLD
    blind = [ladder.name for ladder in ladders if ladder.tau < THRESHOLD]
    if trusted:
        but = f", but it does not see {listed(blind)}" if blind else ""
        sentence = f"{name} puts degraded copies of these controls in order (agreement {tau:.2f} "
        sentence += f"of 1){but}."
    else:
        sentence = (
            f"{name} should not decide alone on this kind of picture: it does not put degraded "
            f"copies of the controls in order (agreement {tau:.2f} of 1, needs {THRESHOLD}; it "
            "fails on "
            f"{listed(blind)}), as happens with flat drawings and other pictures far from "
            "photographs."
        )
    return TrustResult(trusted, sentence, tau, controls, ladders)


def _tau(values: npt.NDArray[np.float64]) -> float:
    """Kendall's tau-b between the values' order and their places; 0 where all are equal."""
    from scipy.stats import kendalltau

    tau = float(kendalltau(np.arange(len(values)), values).statistic)
    return 0.0 if math.isnan(tau) else tau


def blurred(image: Pixels, sigma: float) -> Pixels:
    """Gaussian blur, `sigma` in pixels, cut off at four of them; edges are mirrored."""
    radius = int(4 * sigma + 0.5)
    kernel = gaussian_kernel(radius, sigma)
    height, width = image.shape[:2]
    frame = ((radius, radius),) * 2 + ((0, 0),) * (image.ndim - 2)
    padded = np.pad(image, frame, mode="symmetric").reshape(height + 2 * radius, -1)
    result = np.empty((width, height, *image.shape[2:]), np.uint8)  # turned
    for rows in bands(height, width):
        source = padded[rows.start : rows.stop + 2 * radius].astype(np.float64)
        columns = down(source, kernel).reshape(-1, width + 2 * radius, *image.shape[2:])
        turned = np.ascontiguousarray(columns.swapaxes(0, 1))
        blurry = down(turned.reshape(len(turned), -1), kernel)
        result[:, rows] = _to_pixels(blurry).reshape(width, -1, *image.shape[2:])
    return np.ascontiguousarray(result.swapaxes(0, 1))


def noisy(image: Pixels, sigma: float) -> Pixels:
    """White Gaussian noise of standard deviation `sigma` grey levels in every channel, the same
    for every picture of a size."""
    noise = _noise(image.shape)
    return _by_bands(image, lambda rows: sigma * noise[rows] + image[rows])


@lru_cache(maxsize=1)
def _noise(shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    return np.random.default_rng(0).standard_normal(shape)


def compressed(image: Pixels, loss: float) -> Pixels:
    """JPEG at quality 100 - `loss`."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=round(100 - loss))
    with Image.open(buffer) as coded:
        return np.asarray(coded)


def over_saturated(image: Pixels, excess: float) -> Pixels:
    """Every channel's distance from the luma times 1 + `excess`; grey pictures stay as they are."""
    if image.ndim == 2:
        return image
    plane = luma(image)

    def more(rows: slice) -> npt.NDArray[np.float64]:
        grey = np.repeat(plane[rows].astype(np.float64), 3).reshape(-1, *image.shape[1:])
        away = image[rows] - grey
        away *= 1.0 + excess
        away += grey
        return away

    return _by_bands(image, more)


def _by_bands(image: Pixels, make: Callable[[slice], npt.NDArray[np.float64]]) -> Pixels:
    """The picture that consists of the rows that are made."""
    result = np.empty(image.shape, np.uint8)
    for rows in bands(image.shape[0], image[0].size):
        result[rows] = _to_pixels(make(rows))
    return result


def _to_pixels(values: npt.NDArray[np.float64]) -> Pixels:
    np.rint(values, out=values)
    return np.clip(values, 0, 255, out=values).astype(np.uint8)


# Name, unit of the levels, levels above 0, function, whether the verdict asks this ladder.
# BRISQUE and SSIM look at luma, which saturation hardly touches: no photograph's are put in order,
# so that ladder is shown but decides nothing.
_LADDERS: tuple[
    tuple[str, str, tuple[float, ...], Callable[[Pixels, float], Pixels], bool], ...
] = (
    ("blur", "sigma in pixels", (0.7, 1.4, 2.8, 5.6), blurred, True),
    ("white noise", "sigma in grey levels", (6.0, 12.0, 24.0, 48.0), noisy, True),
    ("JPEG", "100 - quality", (60.0, 80.0, 90.0, 95.0), compressed, True),
    ("over-saturation", "excess", (0.5, 1.0, 2.0, 4.0), over_saturated, False),
)


def kinds_of_picture(
    scores: Sequence[Score], *, kind: Kind, rank_by: str, margin: float
) -> tuple[KindOfPicture, ...]:
    """The candidates that `rank_by` puts beyond the margin and whose pictures are darker or
    flatter than their controls, though their texture is still there; mildest first.

    A plain or dark background alone moves BRISQUE by tens of points; blur, which is damage, makes
    pictures flat too, but takes their texture (docs/metrics.md has the thresholds' figures).
    """
    tables = tabulate(scores, kind)
    sign = 1.0 if declared(rank_by).better == "lower" else -1.0
    if math.isnan(margin) or rank_by not in tables.values:
        return ()
    found = []
    for i, candidate in enumerate(tables.candidates):

        def pair(name: str, row: int = i) -> tuple[float, float]:
            """The means of candidate and control over the cases that both have."""
            if name not in tables.values:
                return math.nan, math.nan
            own, control = tables.values[name][row], tables.control[name][row]
            both = np.isfinite(own) & np.isfinite(control)
            if not both.any():
                return math.nan, math.nan
            return float(own[both].mean()), float(control[both].mean())

        score, score_control = pair(rank_by)
        if not sign * (score - score_control) > margin:
            continue
        (dark, dark_control), (flat, flat_control) = pair("dark_share"), pair("flat_share")
        texture, texture_control = pair("texture")
        darker = dark - dark_control > DARKER
        flatter = flat - flat_control > FLATTER and texture > SAME_TEXTURE * texture_control
        if darker or flatter:
            heading = candidate.heading(kind)
            found.append(
                KindOfPicture(heading, dark, dark_control, flat, flat_control, darker, flatter)
            )
    return tuple(found)


def kind_of_picture(
    scores: Sequence[Score], kind: Kind, rank_by: str, margin: float
) -> KindsOfPicture | None:
    """Whether the ranked metric may have taken another kind of picture for damage."""
    found = kinds_of_picture(scores, kind=kind, rank_by=rank_by, margin=margin)
    if not found:
        return None
    return KindsOfPicture(kinds_sentence(found, declared(rank_by).label, kind), found)


def kinds_sentence(found: Sequence[KindOfPicture], name: str, kind: Kind) -> str:
    """What `kinds_of_picture` found, in a sentence; "" for nothing."""
    if not found:
        return ""
    most = max(found, key=lambda k: (k.dark - k.dark_control) + (k.flat - k.flat_control))
    how = []
    if any(k.darker for k in found):
        how.append(
            f"darker ({percent(most.dark)} dark area, controls {percent(most.dark_control)})"
        )
    if any(k.flatter for k in found):
        how.append(
            f"flatter ({percent(most.flat)} flat area, controls {percent(most.flat_control)})"
        )
    names = [k.candidate for k in found]
    at = listed(names) if len(names) < 5 else f"{', '.join(names[:3])} and {len(names) - 3} more"
    if kind == "strength":
        at = f"strength{'s' * (len(names) > 1)} {at}"
    where = f"At {at}" if len(names) == 1 else f"At {at}, most at {most.candidate},"
    return (
        f"{where} the pictures are {' and '.join(how)} than the controls: {name} reads that as "
        "damage, so look at them before you believe a breakdown there."
    )


def diagnose(image: Pixels) -> str | None:
    """What is wrong with a degenerate picture and what usually causes it, as a clause that begins
    in lower case; None for a picture that has something to measure.

    `image` is uint8, grey (H, W) or RGB (H, W, 3).
    """
    from analysers.metrics.brisque import brisque_with_reason

    plane = luma(image)
    if image.max() <= 1:
        return (
            "the picture is black; a VAE that overflows in half precision paints black (decode it "
            "in float32), and so does a safety filter"
        )
    if (image == image[:1, :1]).all():
        colour = ", ".join(str(value) for value in np.atleast_1d(image[0, 0]))
        return (
            f"the picture is one single colour ({colour}); the LoRA has collapsed at this setting, "
            "or the VAE overflowed in half precision"
        )
    if (plane > 1).mean() < 0.001:
        return (
            "the picture is black but for a few pixels; a VAE that overflows in half precision "
            "paints black (decode it in float32), and so does a safety filter"
        )
    deviation = float(plane.std())
    if deviation < 1.0:
        return (
            f"the picture is nearly flat (its brightness varies by {deviation:.1f} of 255 levels); "
            "the LoRA has probably collapsed at this setting"
        )
    if abs(_neighbours_agree(plane)) < 0.1:
        return (
            "the picture is noise: neighbouring pixels have nothing in common; the LoRA has "
            "collapsed at this setting, or sampling failed"
        )
    return brisque_with_reason(image)[1] or None


def _neighbours_agree(plane: Pixels) -> float:
    """The correlation of neighbouring pixels, mean of across and down: about 0 in white noise,
    0.8 and more in pictures.
    """
    centred = plane.astype(np.float64)
    centred -= centred.mean()
    energy = float(np.square(centred).mean())
    across = float((centred[:, 1:] * centred[:, :-1]).mean()) if plane.shape[1] > 1 else energy
    down = float((centred[1:] * centred[:-1]).mean()) if plane.shape[0] > 1 else energy
    return (across + down) / (2.0 * energy)
