"""What a study is asked for: one request, whoever asks.

The command line, the Python calls and a web form each hand their fields to `StudyRequest.of`, as
text or as values; what cannot be read is a UserError that names the field.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, get_args

import sample_data
from analysers.metrics.metric import declared, load_metric
from analysers.runs.limits import CHOICES, REAL, WHOLE
from analysers.study import Kind
from generation.errors import UserError, named
from generation.plan import parse_seeds, parse_strengths
from generation.prompts import PromptLine, parse_prompt, read_prompts
from generation.records import build, parse
from generation.values import decimal_within

FORMAT = 1
"""History: 1 = first release."""

DEMO_MODEL = "demo"
"""The name of the embedded model."""


@dataclass(frozen=True)
class Weighted:
    """A LoRA that lies under every picture."""

    path: Path
    weight: Decimal = Decimal(1)


@dataclass(frozen=True)
class Subject:
    """What is tested: LoRA files at strengths, or pictures that were made elsewhere.

    `kind` is the question: which strength, which epoch, or both ("plane"). `name` chooses among
    several LoRAs in a folder, `ema` takes averaged weights. `fixed` lie under every picture,
    controls included. `unet_strength` multiplies the strength in the denoiser,
    `te_strength` in all text encoders (one value) or in each, `block_weights` (as
    `generation.loras.blocks.parse` reads them) in the blocks. `allow` are checks of
    `generation.loras.suitability` whose refusals become warnings. `images` is a folder of pictures
    to judge instead, with one `control` or a folder of `controls`.
    """

    kind: Kind
    loras: tuple[Path, ...] = ()
    strengths: tuple[Decimal, ...] = ()
    name: str | None = None
    ema: bool = False
    fixed: tuple[Weighted, ...] = ()
    unet_strength: Decimal | None = None
    te_strength: tuple[Decimal, ...] = ()
    block_weights: str = ""
    allow: tuple[str, ...] = ()
    images: Path | None = None
    control: Path | None = None
    controls: Path | None = None

    def __post_init__(self) -> None:
        _check_limits(self)

    @property
    def part_strengths(self) -> dict[str, Decimal]:
        """The factors by part: "unet", "text" (all text encoders) or "te" to "te4"."""
        found = {} if self.unet_strength is None else {"unet": self.unet_strength}
        if len(self.te_strength) == 1:
            return {**found, "text": self.te_strength[0]}
        for number, factor in enumerate(self.te_strength, 1):
            found[f"te{number}" if number > 1 else "te"] = factor
        return found


@dataclass(frozen=True)
class Prompts:
    """What is painted: every prompt with every seed. Without prompts they are made from the
    trigger word that the LoRA's metadata tells. More than `max_prompts` in a file are taken for
    another kind of file. `trigger` stands for what the metadata say. A model that edits pictures
    is given `input_picture` with every prompt that names no picture of its own."""

    prompts: tuple[PromptLine, ...] = ()
    seeds: tuple[int, ...] = (1, 2)
    negative: str = ""
    max_prompts: int = 1000
    trigger: str = ""
    input_picture: Path | None = None

    def __post_init__(self) -> None:
        _check_limits(self)


@dataclass(frozen=True)
class Rendering:
    """How it is painted. Where a value is None, the prompt lines' flags decide, then the LoRA's
    metadata, then the model. `batch_size` 0 is as many as fit.

    `renderer` "comfyui", "a1111" and "swarmui" paint on the servers at `urls`, where `model` is one
    of their checkpoints; `workflow` is a ComfyUI graph in API format, `sets` are
    NODE.INPUT=VALUE in it.
    `cluster` ("auto" or an address) renders and measures on the nodes of a Ray cluster.
    """

    renderer: str = "diffusers"
    urls: tuple[str, ...] = ()
    workflow: Path | None = None
    sets: tuple[str, ...] = ()
    cluster: str = ""
    model: str = ""
    model_config: Path | None = None
    prediction_type: str | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    guidance_rescale: float = 0.0
    sampler: str | None = None
    clip_skip: int = 0
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int = 0
    compiled: bool = False
    low_vram: bool = False

    def __post_init__(self) -> None:
        _check_limits(self)


@dataclass(frozen=True)
class Judging:
    """How to score and decide. `margin` and `tie_tolerance` are in units of `rank_by`.

    Without a margin that of the metric is taken (`Declaration.margin`); a metric that has none is
    not judged clean or broken.

    With `until_decided` candidates that are settled get no more pictures, with a `budget` no more
    than so many pictures are made in all (`analysers.runs.race`). With `refine` a few candidates
    are looked at first, then those between (`analysers.runs.refine`).

    `references` is a folder with what was trained on, `held_out` one with pictures of the same kind
    that were not. With `leak_test` every candidate is also tried without its trigger word, and with
    `class_word` in its place.

    `workers` is the number of measuring processes; 0 measures in this process. None chooses: one a
    core, less one; none beside rendering on the CPU, whose cores wait for each other in every
    parallel loop, so that a second process costs more than the measuring itself. Up to a hundred
    found pictures are measured by threads, as processes would take longer to start.
    """

    metrics: tuple[str, ...] = ()
    rank_by: str = "brisque"
    tie_tolerance: float = 0.01
    margin: float | None = None
    until_decided: bool = False
    refine: bool = False
    budget: int | None = None
    references: Path | None = None
    held_out: Path | None = None
    leak_test: bool = False
    class_word: str = ""
    workers: int | None = None

    @property
    def races(self) -> bool:
        """Whether pictures are made block by block, and no more where the answer is settled."""
        return self.until_decided or self.budget is not None

    @property
    def thrifty(self) -> bool:
        """Whether some pictures of the full grid may never be made."""
        return self.races or self.refine

    @property
    def all_metrics(self) -> tuple[str, ...]:
        """SSIM and BRISQUE, the ranked metric, then the extra ones, each once."""
        return tuple(dict.fromkeys(("ssim", "brisque", self.rank_by, *self.metrics)))

    @property
    def ladders(self) -> str:
        """The ranked metric, if it judges a picture by itself and so can be tried on degraded
        controls; else ""."""
        return "" if declared(self.rank_by).needs else self.rank_by

    def __post_init__(self) -> None:
        """Raise UserError if a metric is unknown, lacks its weights or cannot be ranked by."""
        _check_limits(self)
        for name in self.all_metrics:
            load_metric(name).check()
        if self.held_out is not None and self.references is None:
            raise UserError(
                f"give the pictures that were trained on as well ({named('references')}).",
                field="held_out",
            )
        if self.class_word and not self.leak_test:
            raise UserError(f"it is asked in a leak test; add {named('leak_test')}.", "class_word")
        if declared(self.rank_by).better is None:
            raise UserError(
                f"{self.rank_by} describes a picture and cannot rank it.", field="rank_by"
            )


@dataclass(frozen=True)
class Output:
    """Where the run folder lies (None: runs/NAME), whether what it holds is kept (`resume`), and
    whether it may hold other files (`allow_non_empty`)."""

    out: Path | None = None
    resume: bool = True
    allow_non_empty: bool = False


@dataclass(frozen=True)
class StudyRequest:
    """Everything that somebody can ask of a study."""

    subject: Subject
    prompts: Prompts = field(default_factory=Prompts)
    rendering: Rendering = field(default_factory=Rendering)
    judging: Judging = field(default_factory=Judging)
    output: Output = field(default_factory=Output)
    format: int = FORMAT

    @property
    def folder(self) -> Path:
        """The run folder: the one that is asked for, else by the name of what is tested."""
        tested = self.subject
        if tested.images is not None:
            name = tested.images.resolve().name
        else:
            name = tested.loras[0].resolve().stem
        return self.output.out or Path("runs", f"{name}-{tested.kind}")

    @staticmethod
    def of(kind: Kind, **given: Any) -> StudyRequest:
        """The request with these fields, whichever group they belong to; None leaves a default.

        Values may be texts as people type them ("0.2:1.4:0.2", "1:4", "lpips,gmsd") or Python
        values; `size` ("768x512") stands for width and height, `prompts` may be a file's path.
        Raises UserError for an unknown field and for a value that cannot be read.
        """
        step = given.pop("resolution", None)
        finely = isinstance(given.get("strengths"), str) and given["strengths"] == AUTO
        if step is not None and not finely:
            raise UserError(f"it belongs to {named('strengths')} {AUTO}.", "resolution")
        if finely:
            step = _finest(RESOLUTION if step is None else step)
            given |= {"strengths": f"{step}:{WIDEST}:{step}", "refine": True}
        size = given.pop("size", None)
        if size:
            given["width"], given["height"] = _readable(_size, "size", size)
        if kind not in get_args(Kind):
            raise UserError(f"{kind!r} is no question; ask for {listed(get_args(Kind))}.", "kind")
        if isinstance(given.get("prompts"), (str, Path)):
            if not Path(given["prompts"]).exists():
                raise UserError(
                    f"there is no file {str(given['prompts'])!r}; give its path, or a list of "
                    "prompts.",
                    "prompts",
                )
            most = _readable(_whole, "max_prompts", given.get("max_prompts", 1000))
            given["prompts"] = read_prompts(Path(given["prompts"]), most)
        groups: dict[str, dict[str, Any]] = {name: {} for name in GROUPS}
        for name, value in given.items():
            if name not in _HOME or name == "kind":
                raise UserError(f"there is no field {name!r}; known are {listed(sorted(_HOME))}.")
            if value is not None:
                groups[_HOME[name]][name] = _readable(_READ.get(name, _as_is), name, value)
        groups["subject"]["kind"] = kind
        groups["subject"].setdefault("strengths", parse_strengths(DEFAULT_STRENGTHS[kind]))
        return StudyRequest(**{name: GROUPS[name](**values) for name, values in groups.items()})

    @staticmethod
    def demo(kind: Kind, **given: Any) -> StudyRequest:
        """The embedded model's own study, but for the fields that are given."""
        demo = sample_data.DEMOS["strength" if kind == "strength" else "epochs"]
        usual = {
            **json.loads((sample_data.PATH / "settings.json").read_text(encoding="utf-8")),
            "model": DEMO_MODEL,
            "loras": (sample_data.PATH / demo["loras"],),
            "strengths": demo["strengths"],
            "seeds": demo["seeds"],
            "prompts": sample_data.PATH / "prompts.txt",
            "references": sample_data.PATH / "references",
            "held_out": sample_data.PATH / "held_out",
            "metrics": "adherence",
            "out": Path("runs", f"demo-{kind}"),
        }
        return StudyRequest.of(kind, **{**usual, **{k: v for k, v in given.items() if v}})

    def to_json(self) -> str:
        """The request as versioned JSON."""
        return json.dumps(_plain(asdict(self)), indent=1) + "\n"

    @staticmethod
    def from_json(text: str) -> StudyRequest:
        """The request that `to_json` wrote. Raises UserError for what is none."""
        try:
            request: StudyRequest = build(StudyRequest, parse(text))
            if request.format != FORMAT:
                raise ValueError(f"it has format {request.format}, this version reads {FORMAT}")
        except ValueError as error:
            raise UserError(f"This is no request for a study ({error}).") from error
        return request


AUTO = "auto"
"""Strengths from coarse to fine, up to `WIDEST` in steps of `RESOLUTION`, at least `FINEST`."""

WIDEST, RESOLUTION, FINEST = "2", "0.05", "0.002"

GROUPS: Mapping[str, Any] = {
    "subject": Subject,
    "prompts": Prompts,
    "rendering": Rendering,
    "judging": Judging,
    "output": Output,
}

_HOME = {f.name: name for name, group in GROUPS.items() for f in fields(group)}

DEFAULT_STRENGTHS: Mapping[Kind, str] = {
    "strength": "0.2:1.4:0.2",
    "epochs": "1.0",
    "plane": "0.6,0.8,1.0",
}


def is_field(name: str) -> bool:
    """Whether `StudyRequest.of` takes a field of this name."""
    return name in _HOME or name in ("size", "resolution")


def listed(words: Iterable[str]) -> str:
    return ", ".join(words)


def _readable(read: Callable[[Any], Any], name: str, value: Any) -> Any:
    """What `read` makes of the value. Raises UserError where it is of another type."""
    try:
        return read(value)
    except (TypeError, ValueError, ArithmeticError, AttributeError):
        wanted = _WANTED.get(read, _WANTED[_as_is])
        raise UserError(f"cannot read {value!r}; give {wanted}.", name) from None


def _check_limits(group: Any) -> None:
    """Raise UserError for the first field of the group that lies beyond its limits."""
    for one in fields(group):
        value = getattr(group, one.name)
        if value is None:
            continue
        if (choices := CHOICES.get(one.name)) and value not in choices:
            raise UserError(f"{value!r} is none of {listed(choices)}.", one.name)
        low, high = WHOLE.get(one.name) or REAL.get(one.name) or (None, None)
        if low is not None and not low <= value <= (math.inf if high is None else high):
            most = "or more" if high is None else f"to {high}"
            raise UserError(f"{value} is beyond its limits; give {low} {most}.", one.name)


def _as_is(value: Any) -> Any:
    return value


def _text(value: Any) -> str:
    if not isinstance(value, (str, Path)):
        raise TypeError
    return str(value)


def _finest(step: Any) -> str:
    """The step of automatic strengths as `parse_strengths` reads it."""
    number = decimal_within(str(step), Decimal(WIDEST))
    if number is None or number < Decimal(FINEST):
        raise UserError(
            f"{str(step)!r} is no step between strengths; give one from {FINEST} to {WIDEST}.",
            "resolution",
        )
    return f"{number:f}"


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, str) and value != int(value):
        raise TypeError
    return int(value)


def _real(value: Any) -> float:
    if isinstance(value, bool) or not math.isfinite(float(value)):
        raise ValueError
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(_text, [value] if isinstance(value, str) else value))


def _path(value: Any) -> Path:
    return Path(value)


def _paths(value: Any) -> tuple[Path, ...]:
    several = [value] if isinstance(value, (str, Path)) else value
    return tuple(Path(one) for one in several)


def _strengths(value: Any) -> tuple[Decimal, ...]:
    if isinstance(value, (int, float, Decimal)):
        value = [value]
    return parse_strengths(value if isinstance(value, str) else ",".join(map(_typed, value)))


def _typed(value: Any) -> str:
    """A number as people type it, so that Decimal("1E+1") and 0.1 + 0.2 are what they look like."""
    try:
        return format(Decimal(str(value)), "f")
    except InvalidOperation:
        return str(value)


def _seeds(value: Any) -> tuple[int, ...]:
    if isinstance(value, int):
        value = [value]
    return parse_seeds(value if isinstance(value, str) else ",".join(map(str, value)))


def _prompts(value: Any) -> tuple[PromptLine, ...]:
    lines = tuple(one if isinstance(one, PromptLine) else parse_prompt(one) for one in value)
    if not lines:
        raise ValueError
    return lines


def _metrics(value: Any) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else value
    return tuple(name.strip() for name in names if name.strip())


def _fixed(value: Any) -> tuple[Weighted, ...]:
    """From "file.safetensors:0.8" (a weight left out is 1) or pairs."""
    several = [value] if isinstance(value, (str, Path)) else value
    return tuple(_weighted(one) for one in several)


def _weighted(one: Any) -> Weighted:
    if isinstance(one, Weighted):
        return one
    if not isinstance(one, (str, Path)):
        path, weight = one
        return Weighted(Path(path), Decimal(str(weight)))
    path, colon, weight = str(one).rpartition(":")
    if not colon or Path(one).exists():
        return Weighted(Path(one))
    value = decimal_within(weight, 100)
    if value is None:
        raise UserError(f"cannot read {str(one)!r}; write LORA.safetensors:0.8.", field="fixed")
    return Weighted(Path(path), value)


def _te_strength(value: Any) -> tuple[Decimal, ...]:
    """Factors from "0.5" (all text encoders) or "1,0.5" (each in order)."""
    if isinstance(value, (int, float, Decimal)):
        value = [value]
    several = value.split(",") if isinstance(value, str) else map(str, value)
    found = [decimal_within(one.strip(), 10) for one in several if one.strip()]
    if None in found:
        raise UserError(
            f"cannot read {value!r}; write 0.5 for all text encoders, or 1,0.5 for the first and "
            "the second.",
            field="te_strength",
        )
    return tuple(one for one in found if one is not None)


def _unet_strength(value: Any) -> Decimal:
    _real(value)
    return Decimal(str(value))


def _size(value: Any) -> tuple[int, int]:
    if not isinstance(value, str):
        width, height = value
        return int(width), int(height)
    width, cross, height = value.lower().partition("x")
    try:
        return int(width), int(height if cross else width)
    except ValueError:
        sentence = f"cannot read {value!r}; write 768x512, or 768 for both."
        raise UserError(sentence, field="size") from None


_READ: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys((*WHOLE, "width", "height"), _whole),
    **dict.fromkeys(REAL, _real),
    **dict.fromkeys(
        (
            "name",
            "block_weights",
            "negative",
            "trigger",
            "class_word",
            "model",
            "sampler",
            "device",
            "cluster",
            "rank_by",
            *CHOICES,
        ),
        _text,
    ),
    **dict.fromkeys(
        (
            "ema",
            "compiled",
            "low_vram",
            "until_decided",
            "refine",
            "leak_test",
            "resume",
            "allow_non_empty",
        ),
        _flag,
    ),
    **dict.fromkeys(
        (
            "images",
            "control",
            "controls",
            "model_config",
            "workflow",
            "references",
            "held_out",
            "input_picture",
            "out",
        ),
        _path,
    ),
    "loras": _paths,
    "strengths": _strengths,
    "fixed": _fixed,
    "unet_strength": _unet_strength,
    "te_strength": _te_strength,
    "allow": _texts,
    "urls": _texts,
    "sets": _texts,
    "prompts": _prompts,
    "seeds": _seeds,
    "metrics": _metrics,
}
"""How the value of each field is read."""

_WANTED: Mapping[Callable[[Any], Any], str] = {
    _as_is: "another value",
    _text: "a text",
    _texts: "texts",
    _whole: "a whole number",
    _real: "a number",
    _unet_strength: "a number",
    _flag: "True or False",
    _path: "a path",
    _paths: "a path, or several",
    _strengths: "numbers, or a text such as '0.2:1.4:0.2'",
    _fixed: "'LORA.safetensors:0.8', or pairs of a path and a weight",
    _te_strength: "one number, or one for each text encoder",
    _prompts: "a list of prompts, or the path of a file of them",
    _seeds: "whole numbers, or a text such as '1:4'",
    _metrics: "names of metrics",
    _size: "'768x512', or two whole numbers",
}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, (Path, Decimal)) else value
