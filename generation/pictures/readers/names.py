"""What file and folder names tell: the ancestors' names, our run folder, trainers' samples.

The trainers' patterns are from their own sources: kohya-ss/sd-scripts train_util.py,
ostris/ai-toolkit BaseSDTrainProcess.py, Nerogar/OneTrainer GenericTrainer.py,
bghira/SimpleTuner OPTIONS.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import PurePath

LONGEST = 512
"""Characters of a name that are looked at; file systems allow 255 bytes."""

LOOKED_FOR = (
    "strength_0.6.png, strength_0.60/p00_s1.png, epoch_04.png, epoch_0004/p00_s1.png, "
    "step_00000250.png, the samples of kohya, ai-toolkit, OneTrainer and SimpleTuner, or pictures "
    "whose metadata (A1111, ComfyUI, SwarmUI, InvokeAI, dgenerate) names a LoRA"
)


@dataclass(frozen=True)
class NameFacts:
    """What a name says. `case` is what is left of it when the settings are taken away.

    `number` is NN of control_NN. For a control, strength and epoch say whose control it is.
    `untrained` marks a trainer's sample from before the first step.
    """

    strength: Decimal | None = None
    epoch: int | None = None
    step: int | None = None
    lora: str = ""
    seed: int | None = None
    case: str = ""
    control: bool = False
    number: int | None = None
    untrained: bool = False
    trainer: str = ""
    size: tuple[int, int] | None = None
    stamp: str = ""
    seeded: bool = True
    ema: bool | None = None


_SEPARATORS = " _-."
_STRENGTH = re.compile(
    r"(?<![a-z])(?:strength|weight|str)[ _=-]?(-?\d{1,3}(?:[.,]\d{1,6})?)(?!\d)", re.I
)
_EPOCH = re.compile(r"(?<![a-z])epoch[ _=-]?(\d{1,9})(?!\d)", re.I)
_STEP = re.compile(r"(?<![a-z])step[ _=-]?(\d{1,9})(?!\d)", re.I)
_SEED = re.compile(r"(?<![a-z])seed[ _=-]?(\d{1,20})(?!\d)|^p\d{1,6}_s(\d{1,20})$", re.I)
_CONTROL = re.compile(
    r"^(?:controls?|base(?:line|[ _-]model)?|no[ _-]?lora|without[ _-]?lora)(?=$|[ _.\-\d])", re.I
)
_CONTROL_LAST = re.compile(r"(?<=[ _-])(?:control|baseline|base|no[ _-]?lora)$", re.I)
_PLAIN = {"images", "image", "samples", "sample", "validation_images", "benchmarks", "pictures"}

_KOHYA_PLACE = r"(?:e(?P<epoch>\d{6,9})|(?P<step>\d{6,9}))"
_TRAINERS = (
    (
        "kohya",
        rf"^(?:(?P<name>.+)_)?{_KOHYA_PLACE}_(?P<i>\d{{2,6}})_(?P<stamp>\d{{14}})"
        r"(?:_(?P<seed>\d{1,20}))?\.png$",
    ),
    (
        "kohya",
        rf"^(?:(?P<name>.+)_)?(?P<stamp>\d{{14}})_{_KOHYA_PLACE}_(?P<i>\d{{2,6}})"
        r"(?:_(?P<seed>\d{1,20}))?\.png$",
    ),
    ("ai-toolkit", r"^(?P<stamp>\d{13})__(?P<step>\d{9})_(?P<i>\d{1,6})\.(?:jpg|png|webp)$"),
    (
        "OneTrainer",
        r"^(?P<name>.*?)(?P<stamp>\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d)-training-sample-"
        r"(?P<step>\d{1,9})-(?P<epoch>\d{1,9})-\d{1,9}\.\w{3,4}$",
    ),
    (
        "SimpleTuner",
        r"^step_(?P<step>\d{1,9})_(?P<case>.+)_(?P<i>\d{1,6})_(?P<w>\d{1,6})x(?P<h>\d{1,6})"
        r"\.(?:png|webp|jpg)$",
    ),
)
_TRAINER_PATTERNS = tuple((trainer, re.compile(pattern)) for trainer, pattern in _TRAINERS)
_SIMPLETUNER_BASE = re.compile(r"^(?P<case>.+)_(?P<w>\d{1,6})x(?P<h>\d{1,6})\.(?:png|webp|jpg)$")


def parse_name(path: PurePath) -> NameFacts:
    """What a path relative to the pictures' folder tells. The nearest folder wins; never raises."""
    facts = _trainer_sample(path) or _plain_name(path.stem[:LONGEST])
    rest = []
    for part in reversed(path.parts[:-1][-8:]):
        part = part[:LONGEST]
        if part in ("/", "\\", "..", "."):
            continue
        folder = _plain_name(part)
        if facts.trainer == "OneTrainer":  # the folder's name is a prompt
            rest.append(part.removesuffix(" - no-ema"))
            break
        if facts.strength is None and folder.strength is not None:
            facts = replace(facts, strength=folder.strength)
        if facts.epoch is None and facts.step is None:
            facts = replace(facts, epoch=folder.epoch, step=folder.step)
        if folder.control and facts.number is None and not facts.control:
            # Numbers inside a folder of controls: control/01.png is control_01.png.
            number = int(facts.case) if re.fullmatch(r"\d{1,4}", facts.case) else None
            facts = replace(facts, control=True, number=number)
        if folder.case and folder.case.lower() not in _PLAIN:
            rest.append(folder.case)
    if rest and facts.trainer in ("", "OneTrainer"):
        facts = replace(facts, case="/".join([*reversed(rest), facts.case]).strip("/"))
    return facts


def _plain_name(stem: str) -> NameFacts:
    """A file's stem or a folder's name by its tokens: strength, epoch, step, seed, control."""
    control = _CONTROL.match(stem)
    last = None if control or _STRENGTH.search(stem) else _CONTROL_LAST.search(stem)
    rest = stem[control.end() :] if control else stem[: last.start()] if last else stem
    strength = epoch = step = None
    if match := _STRENGTH.search(rest):
        strength = Decimal(match[1].replace(",", "."))
        rest = rest[: match.start()] + rest[match.end() :]
    if match := _EPOCH.search(rest):
        epoch = int(match[1])
        rest = rest[: match.start()] + rest[match.end() :]
    if match := _STEP.search(rest):
        step = int(match[1])
        rest = rest[: match.start()] + rest[match.end() :]
    seed = _SEED.search(rest)
    rest = rest.strip(_SEPARATORS)
    number = None
    if control and strength is None and re.fullmatch(r"\d{1,3}\.\d{1,6}", rest):
        strength, rest = Decimal(rest), ""
    elif control and re.fullmatch(r"\d{1,6}", rest):
        number = int(rest)
    return NameFacts(
        strength=strength,
        epoch=epoch,
        step=step,
        seed=int(seed[1] or seed[2]) if seed else None,
        case=re.sub(r"[ _-]{2,}", "_", rest),
        control=control is not None or last is not None,
        number=number,
    )


def _trainer_sample(path: PurePath) -> NameFacts | None:
    name = path.name[-LONGEST:]
    for trainer, pattern in _TRAINER_PATTERNS:
        match = pattern.match(name)
        if match is None:
            continue
        found = match.groupdict()
        epoch, step, seed = (_int(found.get(key)) for key in ("epoch", "step", "seed"))
        case = f"sample {int(found['i']):02d}" if found.get("i") else ""
        size, ema = None, None
        if trainer == "SimpleTuner":
            size = (int(found["w"]), int(found["h"]))
            case = f"{found['case']} {found['w']}x{found['h']}"
        if trainer == "OneTrainer":
            ema = not (path.parent.name.endswith(" - no-ema"))
            case = ""
        untrained = epoch == 0 if step is None else step == 0
        return NameFacts(
            epoch=epoch,
            step=step,
            lora=(found.get("name") or "").rstrip(_SEPARATORS)[:LONGEST],
            seed=seed,
            case=case,
            control=untrained,
            untrained=untrained,
            trainer=trainer,
            size=size,
            stamp=found.get("stamp") or "",
            seeded=trainer != "kohya" or seed is not None,
            ema=ema,
        )
    if path.parent.name == "base_model" and (match := _SIMPLETUNER_BASE.match(name)):
        size = (int(match["w"]), int(match["h"]))
        return NameFacts(
            case=f"{match['case']} {match['w']}x{match['h']}",
            control=True,
            trainer="SimpleTuner",
            size=size,
        )
    return None


def _int(text: str | None) -> int | None:
    return int(text) if text else None
