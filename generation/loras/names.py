"""What the name of a LoRA file tells: its run, its place in training, and what is no place.

Trainers write their own patterns; people write epochs and steps in words, and beside them versions,
ranks, precisions, learning rates, seeds, dates and marks of copies, none of which is a place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

LONGEST = 512
"""Characters of a name in metadata that are looked at; file systems allow 255 bytes."""

# Files inside checkpoint folders carry one name for all; the folder tells them apart.
WEIGHT_NAMES = ("pytorch_lora_weights", "adapter_model", "lora")
EMA_NAMES = ("pytorch_lora_weights", "ema_model", "adapter_model")


@dataclass(frozen=True)
class Place:
    """What a name says of its file.

    ``run`` is the name without the place; ``scheme`` is whose pattern it follows: kohya,
    ai-toolkit, onetrainer, folder (one folder a checkpoint) or plain. ``number`` has no unit.
    ``final`` says that the name calls itself so, ``form`` that the file is a smaller or converted
    form of another, ``half`` ("high", "low") which half of a two-model LoRA it is, ``letter`` the
    unit that was a single letter (e, s, k).
    """

    run: str
    scheme: str = "plain"
    step: int | None = None
    epoch: int | None = None
    number: int | None = None
    final: bool = False
    form: bool = False
    half: str = ""
    letter: str = ""
    copy: bool = False

    @property
    def united(self) -> bool:
        """Whether it says a step or an epoch."""
        return self.step is not None or self.epoch is not None

    @property
    def step_save(self) -> bool:
        """Whether it was saved at a step, so that an epoch in its metadata is not finished."""
        return self.step is not None and self.scheme != "onetrainer"


# Trainers' own patterns. kohya: train_util.py, `{}-{:06d}` and `{}-step{:08d}`; ai-toolkit:
# BaseSDTrainProcess.py, nine digits; OneTrainer: GenericTrainer.py, where the epoch counts
# completed ones. Leading zeros are asked for, so that dates and seeds do not pass for places.
_TRAINERS = tuple(
    (scheme, re.compile(pattern, re.S))
    for scheme, pattern in (
        (
            "onetrainer",
            r"(?P<run>.*?)\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-(?:save|backup)-"
            r"(?P<step>\d{1,12})-(?P<epoch>\d{1,12})-\d{1,12}",
        ),
        ("onetrainer", r"(?P<run>.*?)\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d"),
        ("kohya", r"(?P<run>.+)-step(?P<step>\d{8,12})"),
        ("ai-toolkit", r"(?P<run>.+?)(?:_LoRA)?_(?P<step>0\d{8})"),
        ("kohya", r"(?P<run>.+)-(?P<epoch>00\d{4})"),
    )
)
_CHECKPOINT_FOLDER = re.compile(r"checkpoint[-_](?P<step>\d{1,12})(?:-rolling)?")
_UNIT_FOLDER = re.compile(
    r"(?:checkpoint[-_]|global[-_]?)?(?P<unit>epoch|step)s?[-_]?(?P<number>\d{1,12})", re.I
)
BACKUP_FOLDER = re.compile(r".*-backup-\d+-\d+-\d+")

_GAP = r"(?:^|[-_. (\[]+|(?-i:(?<=[a-z\d])(?=[A-Z])))"


def _tail(body: str) -> re.Pattern[str]:
    return re.compile(rf"(?P<head>.*?){_GAP}(?:{body})[)\]]*", re.S | re.I)


_COPY = re.compile(
    r"(?P<head>.+?)(?:[-_ ]+(?:copy|kopie|copie|copia)(?:[-_ ]?\(?\d{1,3}\)?)?|[_ ]?\(\d{1,3}\)"
    r"|\.bak)",
    re.S | re.I,
)
_HALF = _tail(r"(?P<half>high|low)[-_ ]?noise")
# Other forms of one training: never places.
_FORM = _tail(
    r"fp32|fp16|bf16|fp8(?:[-_]?e\dm\d(?:fn)?)?|f16|f32|half|float16|pruned|converted|comfy(?:ui)?|"
    r"diffusers|kohya|a1111|ema|"
    r"resized?(?:[-_ ]?(?:to[-_ ]?)?(?:rank|dim|r|d)?[-_ ]?\d{1,3})?|"
    r"(?:rank|dim|alpha|net|conv|r|d|a)[-_ ]?\d{1,3}|\d{1,3}[-_ ]?(?:dim|rank)"
)
# Parts of the name that tell one run from another: versions, settings, sizes, seeds, dates.
_NAME = _tail(
    r"v(?:er(?:sion)?)?[-_. ]?\d+(?:\.\d+)*[a-z]?|\d+\.\d+|"
    r"(?:lr[-_ ]?)?\d+(?:\.\d+)?e-?0?\d(?!\d)|lr[-_ ]?[\d.]+|seed[-_ ]?\d+|(?:bs|batch)[-_ ]?\d+|"
    r"\d{3,4}x\d{3,4}|\d{3,4}px|(?:sd|xl|sdxl|flux|pony|wan|qwen)[-_ ]?\d(?:[.\d]*)|"
    r"(?:19|20)\d\d(?P<dash>[-_.]?)(?:0[1-9]|1[0-2])(?P=dash)(?:0[1-9]|[12]\d|3[01])"
    r"(?:[-_T ]?\d\d[-_.:h]?\d\d(?:[-_.:m]?\d\d)?)?|"
    r"\d{5}-of-\d{5}|[1-9]\d{5,}|[1-9]\d{5,}[-_]\d{4,6}"
)
_FINAL = _tail(r"final|last")
_PLACES = (
    _tail(r"(?:epochs?|ep)[-_. =]?(?P<epoch>\d{1,9})"),
    _tail(r"(?:(?:global[-_. ]?)?steps?|iters?|it)[-_. =]?(?P<step>\d{1,9})"),
    _tail(r"(?P<epoch>\d{1,9})[-_ ]?(?:epochs?|ep)"),
    _tail(r"(?P<step>\d{1,9})[-_ ]?(?:steps?|iters?|it)"),
    _tail(r"(?P<thousand>\d{1,4}(?:\.\d{1,3})?)k[-_ ]?(?:steps?)?"),
    _tail(r"(?P<letter>e)[-_]?(?P<epoch>\d{1,9})"),
    _tail(r"(?P<letter>s)[-_]?(?P<step>\d{1,9})"),
)
_OF = _tail(r"(?P<number>\d{1,4})[-_ ]?of[-_ ]?\d{1,4}")
_NUMBER = re.compile(r"(?P<head>.*?)[-_. ]*(?P<number>\d{1,9})", re.S)
_LEADING = re.compile(r"(?P<number>\d{1,5})[-_. ]+(?P<head>.*[^\W\d].*)", re.S)
_MIDDLE = re.compile(
    rf"{_GAP}(?:(?:epochs?|ep)[-_. =]?(?P<epoch>\d{{1,9}})|(?P<epoch2>\d{{1,9}})[-_ ]?epochs?|"
    r"steps?[-_. =]?(?P<step>\d{1,9})|(?P<step2>\d{1,9})[-_ ]?steps?)(?=[-_. )\]])[)\]]?",
    re.I,
)


def place_of(path: Path) -> Place:
    """The place that a path's names tell, from the file's own or its folders'."""
    stem = path.stem
    if stem not in WEIGHT_NAMES and stem not in EMA_NAMES:
        inside = _folder_place(path.parent.name, path.parent.parent.name or stem)
        return inside or place_of_stem(stem)
    parents = [parent.name for parent in path.parents]
    for parent, above in zip(parents, [*parents[1:], ""], strict=True):
        if parent in {"ema", "lora"}:
            continue
        inside = _folder_place(parent, above or stem)
        if inside:
            return inside
        backup = place_of_stem(parent)
        if backup.scheme == "onetrainer" and backup.united:
            return backup
        return Place(parent if stem != "lora" else stem, "folder")
    return Place(stem, "folder")


def place_in_metadata(name: str) -> Place:
    """The place that the name of a LoRA in a picture's metadata tells, of which nothing else is
    known: only in words or as trainers write it. Its run is the whole name where there is none.
    """
    name = name[:LONGEST]
    place = _folder_place(name, "") or place_of_stem(name)
    return place if place.united and not place.letter else Place(name)


def is_checkpoint_folder(name: str) -> bool:
    """Whether trainers call the folder of one checkpoint so: checkpoint-500, epoch7, step500."""
    return bool(_CHECKPOINT_FOLDER.fullmatch(name) or _UNIT_FOLDER.fullmatch(name))


def _folder_place(name: str, run: str) -> Place | None:
    if match := _CHECKPOINT_FOLDER.fullmatch(name):
        return Place(run, "folder", step=int(match["step"]))
    if match := _UNIT_FOLDER.fullmatch(name):
        number = int(match["number"])
        is_step = match["unit"].lower() == "step"
        return Place(run, "folder", number if is_step else None, None if is_step else number)
    return None


def is_onetrainer_save(stem: str) -> bool:
    place = place_of_stem(stem)
    return place.scheme == "onetrainer" and place.united


def place_of_stem(stem: str) -> Place:
    """The place that a file's name (without its ending) tells."""
    head, kept = stem, ""
    place = Place("")
    while True:
        if not place.united and (found := _trainers_place(head)):
            half = _HALF.fullmatch(found.run)
            return replace(
                found,
                run=found.run + kept,
                final=place.final,
                form=place.form,
                half=half["half"].lower() if half else place.half,
                copy=place.copy,
            )
        peeled = _peel(head, place)
        if peeled is None:
            break
        rest, place, text = peeled
        head, kept = rest, text + kept
    if not place.united:
        head, place = _united_within(head, place)
    if not place.united:
        head, place = _numbered(head, place)
    run = (head.rstrip("-_. ([") + kept).strip("-_. ")
    unnamed = "epoch" if place.epoch is not None else "step" if place.step is not None else "number"
    return replace(place, run=run or unnamed)


def _trainers_place(head: str) -> Place | None:
    for scheme, pattern in _TRAINERS:
        if match := pattern.fullmatch(head):
            told = {unit: int(text) for unit, text in match.groupdict().items() if unit != "run"}
            step, epoch = told.get("step"), told.get("epoch")
            run = match["run"].rstrip("-_ ") if scheme == "onetrainer" else match["run"]
            return Place(run or scheme, scheme, step, epoch)
    return None


def _peel(head: str, place: Place) -> tuple[str, Place, str] | None:
    """(what is left, what was learnt, text that stays in the run's name) of one closing piece."""
    # Before a place such words belong to the run's name: `my_final_epoch_3`.
    for pattern in (_COPY, _FINAL, _FORM, _NAME):
        if (match := pattern.fullmatch(head)) and match["head"]:
            text = head[match.end("head") :]
            if place.united:
                return match["head"], place, text
            place = replace(
                place,
                copy=place.copy or pattern is _COPY,
                final=place.final or pattern is _FINAL,
                form=place.form or pattern is _FORM,
            )
            return match["head"], place, "" if pattern in (_COPY, _FINAL) else text
    if match := _HALF.fullmatch(head):
        place = replace(place, half=match["half"].lower())
        return match["head"], place, head[match.end("head") :]
    for pattern in _PLACES:
        if (match := pattern.fullmatch(head)) is None:
            continue
        told = match.groupdict()
        step, epoch = told.get("step"), told.get("epoch")
        if told.get("thousand"):
            step = str(round(float(told["thousand"]) * 1000))
        # A second step or epoch belongs to the name.
        if (step and place.step is not None) or (epoch and place.epoch is not None):
            return None
        letter = told.get("letter") or ("k" if told.get("thousand") else "")
        # e10_s1500 is one place; the e621 of e621_epoch3 or e621-500steps is a name.
        if letter and place.united and place.letter != "s":
            return match["head"], place, head[match.end("head") :]
        place = replace(
            place,
            step=int(step) if step else place.step,
            epoch=int(epoch) if epoch else place.epoch,
            letter=letter.lower() if not place.united else "",
        )
        return match["head"], place, ""
    return None


def _united_within(head: str, place: Place) -> tuple[str, Place]:
    """An epoch or step that stands at the beginning or in the middle, in words."""
    told: dict[str, int] = {}
    for match in _MIDDLE.finditer(head):
        for unit in ("epoch", "step"):
            text = match[unit] or match[unit + "2"]
            if text and unit in told:
                return head, place
            if text:
                told[unit] = int(text)
    if not told:
        return head, place
    place = replace(place, step=told.get("step"), epoch=told.get("epoch"))
    return _MIDDLE.sub("", head), place


def _numbered(head: str, place: Place) -> tuple[str, Place]:
    for pattern in (_OF, _NUMBER, _LEADING):
        if (match := pattern.fullmatch(head)) and match["head"] != head:
            return match["head"], replace(place, number=int(match["number"]))
    return head, place


def doubt(numbers: Iterable[int]) -> str:
    """What the numbers of names may mean beside epochs and steps: "resolutions", or "" for nothing.

    A series of sizes, ranks or years looks like nothing else, and is too often just that.
    """
    several = set(numbers)
    if all(number in _SIZES for number in several):
        return "resolutions"
    if all(4 <= number <= 256 and number & (number - 1) == 0 for number in several):
        return "ranks"
    if all(1990 <= number <= 2040 for number in several):
        return "years"
    return ""


_SIZES = frozenset(
    {256, 320, 384, 448, 512, 576, 640, 704, 768, 832, 896, 960, 1024}
    | {1088, 1152, 1216, 1280, 1344, 1408, 1536, 2048, 4096}
)
