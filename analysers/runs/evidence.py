"""What argues for and against a decision, beside the scores: noise, trust, the LoRAs' weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median

from analysers import checks
from analysers.measure import Measured
from analysers.metrics.luma import Pixels
from analysers.runs.events import Ended, Event, Repeated
from analysers.study import Noise, Weights
from generation.cells import Case, Cell, Checkpoint
from generation.errors import UserError
from generation.files import read_json
from generation.folder import write_result
from generation.pictures.store import Store
from generation.records import build, plain
from generation.renderers.renderer import Renderer

MAGNITUDES = (
    "The curves of the weights leave DoRA's magnitudes out, whose effect depends on the base model."
)

TRUST_CONTROLS = 4
"""How many controls are degraded to see whether the ranked metric can be trusted on them."""

NOISE_CASES = 3
"""How many controls are rendered a second time to measure the noise floor."""


def noise_floor(
    cases: Sequence[Case], renderer: Renderer, store: Store, tell: Callable[[Event], object]
) -> Noise | None:
    """Controls rendered again as otherwise as the renderer can: what rounding (or a server's own
    noise) does to the scores.

    Measured once and kept beside the pictures. A device that has no memory for it, with all
    pictures rendered, fails no study.
    """
    kept = store.root / "noise.json"
    controls = [Cell(case) for case in cases[:NOISE_CASES]]
    keys = tuple(store.key(control) for control in controls)
    if kept.is_file():
        try:
            noise: Noise = build(Noise, read_json(kept))
            if noise.keys == keys:
                return noise
        except (OSError, ValueError):
            pass
    from analysers.metrics.brisque import brisque
    from analysers.metrics.ssim import ssim
    from generation.pictures.pixels import decode_image, read_image

    controls = [control for control in controls if store.path(control).is_file()]
    if not controls:
        return None
    pairs = []
    tell(Repeated(0, len(controls)))
    try:
        for number, picture in enumerate(renderer.otherwise().render(controls), 1):
            tell(Repeated(number, len(controls)))
            if picture.png:
                again = decode_image(picture.png)
                first = read_image(store.path(picture.cell))
                pairs.append((ssim(again, first), abs(brisque(again) - brisque(first))))
    except (UserError, MemoryError):
        return None
    finally:
        tell(Ended())
    noise = Noise(keys, tuple(pairs), checks.noise_floor(pairs))
    write_result(kept, json.dumps(plain(noise), indent=1) + "\n")
    return noise


def unrelated(controls: Sequence[Measured]) -> float | None:
    """The usual SSIM between controls of different cases, or None with fewer than two of a size."""
    from analysers.metrics.ssim import ssim

    images = _different(controls, 5)
    values = [ssim(a, b) for a, b in pairwise(images) if a.shape == b.shape]
    return median(values) if values else None


def _different(results: Sequence[Measured], at_most: int) -> list[Pixels]:
    """The first pictures that could be read and differ from each other, as arrays."""
    from generation.pictures.pixels import read_image

    unique = {r.pixels: r.task.image for r in results if r.pixels}
    return [read_image(path) for path in sorted(unique.values())[:at_most]]


def weights(checkpoints: Sequence[Checkpoint]) -> Weights:
    """What the checkpoints' own numbers say."""
    from analysers.weights import weight_report

    try:
        report = weight_report(checkpoints)
    except UserError as error:
        return Weights(reason=str(error))
    rows = tuple(json.loads(report.to_frame().to_json(orient="records")))
    return Weights(rows, sentence=MAGNITUDES if report.magnitudes_left_out else None)
