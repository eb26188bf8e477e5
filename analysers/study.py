"""The finished study: score rows, one summary per candidate, the verdict, and their JSON.

Everything that reports read is here; nothing here knows how it was rendered or computed.

History of the JSON format: 1 = first release; 2 = the summaries' metrics are named by what they are
("rms_contrast_ratio", "clipped_change"), and the verdict is data: a recommendation beside the best,
sentences with roles, codes and what they speak of. Format 1 is read as well.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from decimal import Decimal
from typing import Any, Literal

from analysers.records import build, parse, shown
from generation.cells import strength_text

FORMAT = 2

NOT_RENDERED = "not rendered"
"""Why a picture is missing that a run was asked for and had not come to."""

_NAMES_OF_1 = {
    "rms_contrast": "rms_contrast_ratio",
    "colourfulness": "colourfulness_ratio",
    "laplacian_energy": "laplacian_energy_ratio",
    "clipped": "clipped_change",
}

Kind = Literal["strength", "epochs", "plane"]
Status = Literal["ok", "flagged", "failed"]
State = Literal["", "clean", "unsure", "broken"]
Role = Literal["answer", "why", "how", "caution"]
Confidence = Literal["none", "low", "moderate", "good", "high"]
Rows = tuple[Mapping[str, Any], ...]
"""A table, plain JSON: column -> value. `candidate` is what the row is of, for programs."""


@dataclass(frozen=True)
class Candidate:
    """What is being chosen: a checkpoint at a strength.

    `place` is the checkpoint's order along training (0 first; the same for one checkpoint at many
    strengths). `checkpoint` is the LoRA's file name (with its folder's, where files share one), ""
    when pictures do not tell it; `tensor_hash` is its identity, "" likewise and in older studies.
    """

    checkpoint: str = ""
    epoch: int | None = None
    step: int | None = None
    strength: Decimal | None = None
    place: int = 0
    label: str = ""
    tensor_hash: str = ""

    def heading(self, kind: Kind) -> str:
        """The candidate as a column heading: "0.6", "epoch 7", "epoch 7 at 0.6"."""
        strength = "" if self.strength is None else strength_text(self.strength)
        if kind == "strength":
            return strength or self.label or self.checkpoint
        where = self.label or self.checkpoint or f"#{self.place + 1}"
        return f"{where} at {strength}" if kind == "plane" and strength else where


@dataclass(frozen=True)
class Score:
    """One picture and what was measured on it: one row of scores.csv.

    `candidate is None` marks the control's own row. `image` and `control` are paths relative to
    the run folder where they lie inside it, else absolute. `values` maps metric names to floats;
    NaN means undefined, and `reason` then says why.
    """

    candidate: Candidate | None
    case: str
    prompt: str
    seed: int | None
    image: str
    control: str
    values: Mapping[str, float]
    status: Status = "ok"
    reason: str = ""


@dataclass(frozen=True)
class Interval:
    """A mean with the bounds of its 95 % interval; bounds are NaN where none can be had."""

    mean: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Summary:
    """One candidate over its cases: one row of summary.csv.

    `metrics` holds an interval per metric, by the name of what it is: "brisque" is the mean over
    the cases, "rms_contrast_ratio" the geometric mean of the ratios to the controls,
    "clipped_change" the mean difference from them (`Declaration.summary`); `likeness` is a plain
    value without bounds. `diff_best` and `diff_control` are paired differences of the ranked
    metric, in its own direction (positive = larger value than the
    best's, the control's). `tied` means within the tie tolerance of the lowest mean; `contender`,
    that it cannot be told from the best. `state` is "clean" or "broken" where the evidence says so,
    "unsure" between and with one case, "" without control. `beyond`: broken, or more of the LoRA
    than one that is. `safe` is clean and not beyond; None where there is no control to judge by.
    """

    candidate: Candidate
    rank: int | None
    n: int
    metrics: Mapping[str, Interval]
    diff_best: Interval = Interval(math.nan)
    diff_control: Interval = Interval(math.nan)
    p_best: float = math.nan
    tied: bool = False
    best: bool = False
    contender: bool = False
    safe: bool | None = None
    reason: str = ""
    state: State = ""
    beyond: bool = False
    missing: int = 0
    unscored: int = 0

    @property
    def effect(self) -> float:
        """How far the picture moved, 1 - SSIM to the control; NaN where it was not measured."""
        return 1.0 - self.metrics.get("ssim", Interval(math.nan)).mean


@dataclass(frozen=True)
class Sentence:
    """One thing that is said: in words for people, as data for programs.

    `code` names what is said, of `candidates`, with `values`; nothing reads the words back. The
    role says where it belongs: "answer" (the first is the headline), "why" the answer is that,
    "how" it was judged, "caution".
    """

    role: Role
    code: str
    text: str
    candidates: tuple[Candidate, ...] = ()
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Criterion:
    """A metric's range: the candidates that are still as good by it as they have to be."""

    name: str
    inside: tuple[Candidate, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """The answer, as data and as sentences.

    `best` has the lowest mean of the ranked metric (or the highest, where that is better);
    `contenders` cannot be told from it. `recommended` is what to use: never beyond a breakdown,
    None where nothing can be recommended. `level` are the candidates it was chosen from, itself
    among them: not beyond a breakdown, and not told apart in quality. `why` holds codes:

    * "alone": no other is level with it; "most_effect": it has the most clean effect of those that
      are; "lowest": it comes first of them, as none is shown to be clean;
    * "signs": a level one with more effect shows signs of over-cooking;
    * "best_beyond", "best_without_lora": why the best itself was no choice;
    * "most_likeness": it has the most likeness to references of those inside all ranges;
      "criteria": it is not what the ranked metric alone would say;
    * "one_case", "all_broken", "no_lora", "ranges_apart": why there is none.

    `criteria` are the ranges of all metrics that have one, where there are several; `front` is the
    trade-off where they do not meet: what no other candidate surpasses in all of them.

    `confidence` is in the recommendation. `sentences` come by role, most important first.
    """

    best: Candidate | None = None
    recommended: Candidate | None = None
    level: tuple[Candidate, ...] = ()
    why: tuple[str, ...] = ()
    confidence: Confidence = "none"
    contenders: tuple[Candidate, ...] = ()
    strongest_clean: Candidate | None = None
    breakdown: Candidate | None = None
    plateau: Candidate | None = None
    zone: tuple[Candidate, ...] = ()
    sentences: tuple[Sentence, ...] = ()
    criteria: tuple[Criterion, ...] = ()
    front: tuple[Candidate, ...] = ()

    @property
    def pick(self) -> Candidate | None:
        """What reports mark: the recommended, or the best where none is."""
        return self.recommended or self.best

    @property
    def headline(self) -> str:
        """The first sentence of the answer."""
        return next(iter(self.texts("answer")), "")

    @property
    def answer(self) -> str:
        """The sentences people came for."""
        return " ".join(self.texts("answer"))

    @property
    def arguments(self) -> tuple[str, ...]:
        """The sentences that argue the answer."""
        return self.texts("why", "how")

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes the answer less certain, most serious first."""
        return self.texts("caution")

    def texts(self, *roles: Role) -> tuple[str, ...]:
        """The words of all sentences with one of the roles."""
        return tuple(s.text for s in self.sentences if s.role in roles)


@dataclass(frozen=True)
class Ladder:
    """One way of degrading, in growing steps from 0 (untouched).

    `means` are the metric's means over the controls, one per level; `tau` is the mean over the
    controls of Kendall's tau-b between the true order and the metric's, from 1 (all in order) to -1
    (upside down), 0 for a control on which the metric does not move at all. Only a ladder that
    `decides` enters the verdict.
    """

    name: str
    unit: str
    levels: tuple[float, ...]
    means: tuple[float, ...]
    tau: float
    decides: bool


@dataclass(frozen=True)
class TrustResult:
    """Whether a metric can be trusted on the controls: `tau` is the mean over the ladders that
    decide, NaN if none could be scored; `controls` is how many pictures were degraded.
    """

    trusted: bool
    sentence: str
    tau: float
    controls: int
    ladders: tuple[Ladder, ...]


@dataclass(frozen=True)
class KindOfPicture:
    """A candidate whose pictures are of another kind than its controls: means over the cases."""

    candidate: str
    dark: float
    dark_control: float
    flat: float
    flat_control: float
    darker: bool
    flatter: bool


class Section:
    """A part of the evidence; what is None is left out of its JSON."""


@dataclass(frozen=True)
class Share:
    """How many pictures of the full grid an answer so far is made from."""

    pictures: int
    of: int


@dataclass(frozen=True)
class Noise:
    """Controls rendered twice: their content `keys`, (SSIM, difference of BRISQUE) of each pair,
    and the `floor` by metric (`analysers.checks.noise_floor`)."""

    keys: tuple[str, ...] = ()
    pairs: tuple[tuple[float, ...], ...] = ()
    floor: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Weights(Section):
    """The checkpoints' own numbers, a row each (`analysers.weights`), or the reason why none."""

    rows: Rows = ()
    reason: str | None = None
    sentence: str | None = None


@dataclass(frozen=True)
class Told:
    """What was found, in a sentence, and a row per candidate."""

    sentence: str
    rows: Rows = ()


def row_of(candidate: Candidate, kind: Kind, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row of `Rows` on a candidate."""
    return {"setting": candidate.heading(kind), **values, "candidate": plain(candidate)}


@dataclass(frozen=True)
class Likeness:
    """Likeness to references, as a share of the way from floor to ceiling."""

    sentence: str
    floor: float
    ceiling: float
    rows: Rows = ()


@dataclass(frozen=True)
class Copy:
    """A picture and the training picture it repeats: their SSIM, whether mirrored, and the share of
    equal `bits` of their hashes; `side_by_side` is both as a data URI."""

    image: str
    reference: str
    caption: str
    value: float
    mirrored: bool
    candidate: Candidate
    side_by_side: str = ""
    bits: float = math.nan


@dataclass(frozen=True)
class Copies:
    """The pictures that are nearer to a training picture than `limit` (SSIM) or `hash_limit` (share
    of equal bits) allows (`analysers.likeness`)."""

    sentence: str
    limit: float
    pictures: tuple[Copy, ...] = ()
    hash_limit: float = math.nan


@dataclass(frozen=True)
class KindsOfPicture:
    """The candidates whose pictures may have been taken for damaged ones."""

    sentence: str
    candidates: tuple[KindOfPicture, ...]


@dataclass(frozen=True)
class Stopped:
    """A candidate that got no more pictures after so many cases, and why."""

    candidate: Candidate
    cases: int
    outcome: str


@dataclass(frozen=True)
class Left:
    """Of the `cells` of the full grid, `asked` were scored, in `looks` after so many cases each;
    `over_budget` says that the allowance ended it. `unseen` counts the candidates of the full grid
    that were never looked at, by the reason."""

    cells: int
    asked: int
    looks: tuple[int, ...] = ()
    stopped: tuple[Stopped, ...] = ()
    over_budget: bool = False
    unseen: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Vote:
    """What people's comparisons say of a setting: log-ability with its 95 % interval."""

    heading: str | None = None
    checkpoint: str | None = None
    epoch: int | None = None
    step: int | None = None
    strength: Decimal | None = None
    wins: int = 0
    losses: int = 0
    ties: int = 0
    bad: int = 0
    ability: float = 0.0
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Votes:
    """People's blind comparisons, fitted (`reports.votes`), the best setting first."""

    votes: int
    rows: tuple[Vote, ...] = ()


@dataclass(frozen=True)
class Evidence(Section):
    """What argues for and against the answer beside the scores; None where it was not asked."""

    so_far: Share | None = None
    noise: Noise | None = None
    weights: Weights | None = None
    leak: Told | None = None
    likeness: Likeness | None = None
    by_heart: Told | None = None
    copies: Copies | None = None
    trust: TrustResult | None = None
    kind_of_picture: KindsOfPicture | None = None
    race: Left | None = None
    votes: Votes | None = None

    @property
    def floor(self) -> Mapping[str, float]:
        """By metric, how much two renders of one picture differ; {} where it was not measured."""
        return self.noise.floor if self.noise else {}

    @property
    def doubts(self) -> tuple[str, ...]:
        """What of it makes the answer less certain, in sentences."""
        trust = None if self.trust is None or self.trust.trusted else self.trust
        copies = self.copies if self.copies and self.copies.pictures else None
        return tuple(one.sentence for one in (trust, copies, self.kind_of_picture) if one)


@dataclass(frozen=True)
class Study:
    """A finished study. `summaries` are in rank order, failed candidates last.

    `run` is run.json: what was actually used to render and score.
    """

    kind: Kind
    title: str
    rank_by: str
    better: Literal["lower", "higher"]
    metrics: tuple[str, ...]
    scores: tuple[Score, ...]
    summaries: tuple[Summary, ...]
    verdict: Verdict
    tie_tolerance: float = 0.01
    margin: float = 5.0
    evidence: Evidence = field(default_factory=Evidence)
    run: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT


def to_json(study: Study) -> str:
    """The study as versioned JSON (UTF-8 text); NaN becomes null, strengths stay decimal text."""
    return json.dumps(plain(study), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def from_json(text: str) -> Study:
    """The study that `to_json` wrote, now or in format 1.

    Of a verdict in format 1 the sentences are left out; the study's `format` stays 1, which says
    that it is to be decided anew (`analysers.ranking.decide_again`). Raises ValueError, naming the
    place, for anything else.
    """
    data = parse(text)
    number = data.get("format") if isinstance(data, dict) else None
    if type(number) is not int or number not in (1, FORMAT):
        raise ValueError(f"it has format {shown(number)}, this version reads {FORMAT}")
    if number == 1 and isinstance(data.get("verdict"), dict):
        told = ("answer", "sentences", "warnings")
        data["verdict"] = {k: v for k, v in data["verdict"].items() if k not in told}
    study: Study = build(Study, data)
    if study.format == FORMAT:
        return study
    summaries = tuple(
        replace(s, metrics={_NAMES_OF_1.get(k, k): v for k, v in s.metrics.items()})
        for s in study.summaries
    )
    return replace(study, summaries=summaries)


def plain(value: Any) -> Any:
    """As JSON has it: dataclasses as objects, NaN as null, decimals as text."""
    if is_dataclass(value) and not isinstance(value, type):
        given = [(f.name, getattr(value, f.name)) for f in fields(value)]
        leave = isinstance(value, Section)
        return {name: plain(v) for name, v in given if v is not None or not leave}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, (bool, str, int)) or value is None:
        return value
    number = float(value)
    return number if math.isfinite(number) else None
