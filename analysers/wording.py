"""A verdict in plain English. Data come in, sentences go out; nothing is decided here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from analysers.metrics.metric import declared_by_summary
from analysers.phrases import (
    along,
    capital,
    is_or_are,
    listed,
    metric_name,
    named,
    number,
    number_word,
    percent,
    show_or_shows,
    span,
)
from analysers.scores import before, preference
from analysers.study import (
    NOT_RENDERED,
    Candidate,
    Interval,
    Kind,
    Role,
    Sentence,
    Summary,
    Verdict,
)

SIGNS = {
    "rms_contrast_ratio": (1.3, "contrast is {:.2g} times the control's"),
    "colourfulness_ratio": (1.5, "colourfulness is {:.2g} times the control's"),
    "laplacian_energy_ratio": (2.0, "fine detail (Laplacian energy) is {:.2g} times the control's"),
    "clipped_change": (0.05, "another {:.0f} % of the pixels are clipped"),
}
"""From which value on, relative to the control, a sign is worth a sentence. These are
conventions, not measured limits: a graphic style may want the contrast."""

LIKENESS_STEP = 0.1
"""How much more alike pictures of different prompts must be than the controls (thumbnail SSIM)."""

PROMPTS, SEEDS, MORE_PROMPTS = 6, 2, 12
"""What would decide where one picture cannot: from `PROMPTS` on intervals hold, and `MORE_PROMPTS`
find most breakdowns (docs/statistics.md, "Power")."""


@dataclass(frozen=True)
class Setting:
    """What the study was asked and how large it was. `units` are what was resampled."""

    kind: Kind
    rank_by: str
    better: str
    tie_tolerance: float
    margin: float
    cases: int
    prompts: int
    units: int
    noise_floor: Mapping[str, float] = field(default_factory=dict)
    likeness: float = math.nan
    stopped: Mapping[Candidate, int] = field(default_factory=dict)
    """Candidates that were given fewer cases, and how many."""

    @property
    def floor(self) -> float:
        """The difference of the ranked metric below which none is called one."""
        return float(self.noise_floor.get(self.rank_by, 0.0))


def explain(
    summaries: Sequence[Summary],
    verdict: Verdict,
    setting: Setting,
    found: Sequence[Sentence] = (),
) -> tuple[Sentence, ...]:
    """All sentences: the answer (headline first), why, how it was judged, and what to beware of.

    `summaries` are in rank order, those that could not be ranked last. Cautions `found` elsewhere
    lead the own ones.
    """
    failed = _failed(summaries, setting)
    if verdict.best is None:
        return (_no_answer(summaries, setting), *found, *failed)
    told = _Told(summaries, verdict, setting)
    answer, more = _answer(told)
    return (
        *answer,
        *more,
        *_against_control(told),
        *_evidence(told),
        *_safe_range(told),
        *_criteria(told),
        *_effect(told),
        *_method(told),
        *_race(told),
        *found,
        *_second_opinion(told),
        *_undefined(told),
        *_few_cases(setting),
        *_missing(told),
        *failed,
    )


class _Told:
    """What the sentences draw on: the summaries, also in the order of the axis, and the verdict."""

    def __init__(self, summaries: Sequence[Summary], verdict: Verdict, setting: Setting) -> None:
        self.ranked = [s for s in summaries if s.rank is not None]
        self.walk = sorted(summaries, key=lambda s: along(s.candidate, setting.kind))
        self.of = {s.candidate: s for s in summaries}
        self.verdict, self.setting = verdict, setting
        self.kind, self.metric = setting.kind, metric_name(setting.rank_by)
        assert verdict.best is not None
        self.best = self.of[verdict.best]
        self.pick = self.of[verdict.recommended] if verdict.recommended else self.best

    def name(self, candidate: Candidate) -> str:
        return named(candidate, self.kind)

    def heading(self, candidate: Candidate) -> str:
        return candidate.heading(self.kind)

    def span(self, chosen: Sequence[Candidate]) -> str:
        return span(chosen, self.of, self.kind)

    def mean(self, summary: Summary) -> float:
        return summary.metrics[self.setting.rank_by].mean


def say(
    role: Role, code: str, text: str, candidates: Sequence[Candidate] = (), **values: float
) -> Sentence:
    """A sentence with what it speaks of; unknown values are left out."""
    known = {name: value for name, value in values.items() if math.isfinite(value)}
    return Sentence(role, code, text, tuple(candidates), known)


def _answer(told: _Told) -> tuple[list[Sentence], list[Sentence]]:
    """What to use, the one reason and where it ends; and the other reasons, for who asks why."""
    if told.verdict.recommended is None:
        return _no_recommendation(told), []
    use = say("answer", "use", f"Use {told.heading(told.pick.candidate)}.", [told.pick.candidate])
    reason, *more = [*_chosen(told), *_lowest(told)]
    why = [replace(sentence, role="why") for sentence in more]
    return [use, reason, *_clean_words(told)], why


def _chosen(told: _Told) -> list[Sentence]:
    """Why it was taken of those that it ties with; "it" is the recommended."""
    verdict = told.verdict
    if "criteria" in verdict.why:
        names = listed([metric_name(one.name) for one in verdict.criteria])
        most = "likeness to the references" if "most_likeness" in verdict.why else "effect"
        inside = [c for c in told.of if all(c in one.inside for one in verdict.criteria)]
        text = f"It is in range in {names}"
        text += f", and of {len(inside)} such it has the most {most}." if len(inside) > 1 else "."
        return [say("answer", "in_range", text, [told.pick.candidate, *inside])]
    if "alone" in verdict.why:
        return []
    if "most_effect" not in verdict.why:
        text = f"{capital(told.span(verdict.level))} tie on quality; of these it has "
        text += f"the {_extreme(told)} mean {told.metric}."
        return [say("answer", "lowest_of_level", text, [told.pick.candidate, *verdict.level])]
    clean = [c for c in verdict.level if told.of[c].state == "clean"]
    if len(clean) == 1:
        text = "Of the settings that tie on quality, only it is shown to be clean."
    else:
        text = f"{capital(told.span(clean))} are clean and tie on quality; of "
        signs = "signs" in verdict.why
        text += "these it has the most effect"
        text += " without signs of over-cooking." if signs else "."
    return [say("answer", "most_effect", text, [told.pick.candidate, *clean])]


def _criteria(told: _Told) -> list[Sentence]:
    """The range of each criterion, where there are several."""
    return [
        say(
            "why",
            "range",
            f"In range in {metric_name(one.name)}: "
            f"{told.span(one.inside) if one.inside else 'none'}.",
            one.inside,
        )
        for one in told.verdict.criteria
    ]


def _lowest(told: _Told) -> list[Sentence]:
    """What the ranking alone says, and why the recommendation differs where it does."""
    verdict, best, setting = told.verdict, told.best, told.setting
    name, mean = told.name(best.candidate), told.mean(best)
    figure = f"{_extreme(told)} mean {told.metric} ({number(mean)})"
    values = {"mean": mean}
    if "criteria" in verdict.why:
        lost = [one.name for one in verdict.criteria if best.candidate not in one.inside]
        text = f"{capital(name)} has the {figure}"
        if lost:
            text += f", but is out of range in {listed([metric_name(one) for one in lost])}"
        return [say("answer", "lowest", f"{text}.", [best.candidate], **values)]
    if best is told.pick and "alone" in verdict.why:
        text = f"It has the {figure} over {setting.cases} cases"
        others = [s for s in told.ranked if s is not best]
        short = [s for s in others if not s.beyond]
        if short and not any(s.contender for s in short):
            part = "" if len(short) == len(others) else " short of a breakdown"
            text += f", and every other setting{part} is worse beyond the noise"
        elif others and not short:
            text += ", and every other setting is broken or lies beyond one that is"
        return [say("answer", "lowest", f"{text}.", [best.candidate], **values)]
    tied = [s.candidate for s in told.ranked if s.tied]
    if best is told.pick:
        return (
            [say("answer", "lowest", f"It has the {figure} as well.", [best.candidate], **values)]
            if "lowest" not in verdict.why
            else []
        )
    text, which = f"{capital(name)} has the {figure}", ""
    if tied:
        text, which = f"{capital(told.span(tied))} tie for the {figure}", f"{name} "
    spoken = [best.candidate]
    if best.beyond:
        first = min(
            (s for s in told.walk if s.state == "broken" and reaches(s, best, told.kind)),
            key=lambda s: _size(s.candidate, told.kind),
        )
        spoken.append(first.candidate)
        if first is best:
            text += f", but {which}is broken"
        else:
            text += f", but {which}lies beyond the breakdown at {told.name(first.candidate)}"
        return [say("answer", "best_beyond", f"{text}.", spoken, **values)]
    if best.candidate.strength == 0:
        text += f", but {which}leaves the LoRA out"
        return [say("answer", "best_without_lora", f"{text}.", spoken, **values)]
    return [say("answer", "best_level", f"{text}; they tie within the noise.", spoken, **values)]


def reaches(broken: Summary, other: Summary, kind: Kind) -> bool:
    """Whether `other` is the broken candidate, or applies no less of the LoRA."""
    return broken is other or before(broken.candidate, other.candidate, kind)


def _no_recommendation(told: _Told) -> list[Sentence]:
    verdict, best = told.verdict, told.best
    if "ranges_apart" in verdict.why:
        text = "No setting is in range in everything; those that no other surpasses in all of it: "
        text += f"{told.span(verdict.front)}."
        return [say("answer", "ranges_apart", text, verdict.front)]
    name, mean = told.name(best.candidate), number(told.mean(best))
    figure = f"{_extreme(told)} {told.metric} ({mean})"
    if "one_case" in verdict.why:
        tied = [s.candidate for s in told.ranked if s.tied]
        text = f"On it {name} has the {figure}"
        if tied:
            text = f"On it {told.span(tied)} tie for the {figure}"
        return [
            say("answer", "one_case", "One picture cannot decide."),
            say(
                "answer",
                "lowest",
                f"{text}; another prompt or seed may say otherwise.",
                tied or [best.candidate],
                mean=told.mean(best),
            ),
            say(
                "answer",
                "would_decide",
                f"At least {PROMPTS} prompts with {SEEDS} seeds each would tell; "
                f"{MORE_PROMPTS} prompts find where it breaks.",
                prompts=PROMPTS,
                seeds=SEEDS,
                more_prompts=MORE_PROMPTS,
            ),
        ]
    if "no_lora" in verdict.why:
        text = "There is nothing to recommend: no setting that uses the LoRA could be ranked."
        return [say("answer", "no_lora", text)]
    broken = [s for s in told.walk if s.state == "broken"]
    first = min(broken, key=lambda s: _size(s.candidate, told.kind))
    return [
        say(
            "answer",
            "all_broken",
            f"Use none of these: already {told.name(first.candidate)} is broken.",
            [first.candidate],
        ),
        say(
            "answer",
            "lowest",
            f"{capital(name)} has the {figure}.",
            [best.candidate],
            mean=told.mean(best),
        ),
    ]


def _clean_words(told: _Told) -> list[Sentence]:
    kind, verdict = told.kind, told.verdict
    known = [s for s in told.walk if s.state and s.candidate.strength != 0]
    if not known:
        return []
    word = "latest" if kind == "epochs" else "strongest"
    where = "below" if kind == "strength" else "before"
    clean, broken = verdict.strongest_clean, verdict.breakdown
    said = []
    if clean:
        below = _unsure_below(told, clean)
        text = f"{word.capitalize()} clean setting: {told.heading(clean)}"
        if below:
            text += f", though {told.span(below)} {where} it {is_or_are(below)} unsure"
        said.append(("strongest_clean", text, [clean, *below]))
    else:
        said.append(("none_clean", "No setting is shown to be clean", []))
    elsewhere = min(
        (s.candidate for s in known if s.state == "broken"),
        key=lambda c: _size(c, kind),
        default=None,
    )
    if broken:
        said.append(("breakdown", f"it breaks at {told.heading(broken)}", [broken]))
    elif elsewhere:
        text = f"it breaks elsewhere, first at {told.heading(elsewhere)}"
        said.append(("breakdown_elsewhere", text, [elsewhere]))
    else:
        said.append(("no_breakdown", "no breakdown was found", []))
    return [say("answer", code, f"{capital(text)}.", candidates) for code, text, candidates in said]


def _unsure_below(told: _Told, clean: Candidate) -> list[Candidate]:
    """Milder candidates on the way to a clean one that are not shown to be clean themselves."""
    return [
        s.candidate
        for s in told.walk
        if s.state == "unsure"
        and s.candidate.strength != 0
        and before(s.candidate, clean, told.kind)
    ]


def _extreme(told: _Told) -> str:
    return "lowest" if told.setting.better == "lower" else "highest"


def _against_control(told: _Told) -> list[Sentence]:
    pick = told.pick
    diff = pick.diff_control
    if math.isnan(diff.mean) or pick.candidate.strength == 0:
        return []
    name = told.name(pick.candidate)
    direction = "below" if diff.mean < 0 else "above"
    where = f"At {name}" if told.kind == "strength" else f"With {name}"
    text = f"{where} {told.metric} is {number(abs(diff.mean))} {direction} the control's"
    values = {"mean": diff.mean, "low": diff.low, "high": diff.high}
    better = (diff.mean < 0) == (told.setting.better == "lower")
    code = "against_control" if better else "worse_than_control"
    return [say("why", code, f"{text}{_bounds(diff)}.", [pick.candidate], **values)]


def _bounds(interval: Interval) -> str:
    if math.isnan(interval.low):
        return ""
    return f" (95 % interval {number(interval.low)} to {number(interval.high)})"


def _evidence(told: _Told) -> list[Sentence]:
    said = []
    verdict, best, kind = told.verdict, told.best, told.kind
    if kind == "plane" and len(verdict.level) > 2 and "most_effect" in verdict.why:
        text = f"Tied on quality: {told.span(verdict.level)}."
        said.append(say("why", "level", text, verdict.level))
    using = [s for s in told.ranked if s.candidate.strength != 0]
    if len(verdict.level) == len(using) > 1:
        text = f"All settings are tied: {told.metric} does not decide here."
        said.append(say("why", "undecided", text, verdict.level))
    if math.isfinite(best.p_best) and len(told.ranked) > 1 and told.setting.prompts >= PROMPTS:
        rival = max(told.ranked, key=lambda s: s.p_best if math.isfinite(s.p_best) else -1.0)
        text = f"With other prompts of this kind {told.name(best.candidate)} would come first in "
        text += f"about {percent(best.p_best)} of studies"
        spoken = [best.candidate]
        if rival is not best:
            text += f", {told.name(rival.candidate)} in {percent(rival.p_best)}"
            spoken.append(rival.candidate)
        said.append(say("why", "probability", f"{text}.", spoken, best=best.p_best))
    floor = told.setting.noise_floor.get(told.setting.rank_by)
    if floor:
        text = (
            f"Rendering the same picture twice changes {told.metric} by up to "
            f"{number(floor)}; no smaller difference is called one."
        )
        said.append(say("how", "noise_floor", text, floor=floor))
    return said


def _method(told: _Told) -> list[Sentence]:
    setting = told.setting
    known = [s for s in told.walk if s.state and s.candidate.strength != 0]
    if not known or math.isnan(setting.margin) or setting.units < 2:
        return []
    worse = "above" if setting.better == "lower" else "below"
    limit = max(setting.margin, setting.noise_floor.get(setting.rank_by, 0.0))
    text = (
        f"Clean means surely at most {limit:g} {told.metric} {worse} the control; broken, more "
        "than that and surely worse than the control, all settings counted."
    )
    return [say("how", "clean", text, margin=limit)]


def _safe_range(told: _Told) -> list[Sentence]:
    kind, setting = told.kind, told.setting
    known = [s for s in told.walk if s.state and s.candidate.strength != 0]
    if not known or math.isnan(setting.margin) or setting.units < 2:
        return []
    worse = "above" if setting.better == "lower" else "below"
    said = []
    if told.verdict.breakdown:
        diff = told.of[told.verdict.breakdown].diff_control
        if math.isfinite(diff.mean) and (diff.mean > 0) == (setting.better == "lower"):
            text = (
                f"{capital(told.name(told.verdict.breakdown))} is {number(abs(diff.mean))} "
                f"{worse} the control{_bounds(diff)}."
            )
            values = {"mean": diff.mean, "low": diff.low, "high": diff.high}
            said.append(say("why", "breakdown_by", text, [told.verdict.breakdown], **values))
    unsure = [s.candidate for s in known if s.state == "unsure" and not s.beyond]
    if unsure:
        text = (
            f"{capital(told.span(unsure))} {is_or_are(unsure)} unsure, neither clean nor broken: "
            "more prompts would tell."
        )
        said.append(say("why", "unsure", text, unsure))
    back = [s.candidate for s in known if s.state == "clean" and s.beyond]
    if back:
        verbs = "scores well again, but lies" if len(back) == 1 else "score well again, but lie"
        text = f"{capital(told.span(back))} {verbs} beyond the breakdown."
        said.append(say("why", "recovers", text, back))
    if kind == "plane":
        said += _frontier(told)
    return said


def _frontier(told: _Told) -> list[Sentence]:
    """For each checkpoint, the highest safe strength."""
    reach: dict[int, Summary] = {}
    for s in told.walk:
        strength = s.candidate.strength
        if not s.safe or strength is None or strength <= 0:
            continue
        known = reach.get(s.candidate.place)
        if known is None or (known.candidate.strength or 0) < strength:
            reach[s.candidate.place] = s
    if not reach:
        return []
    ends = [reach[place].candidate for place in sorted(reach)]
    heads = {c.place: reach[c.place].candidate if c.place in reach else c for c in told.of}.values()
    together: dict[str, list[Candidate]] = {}
    for end in ends:
        together.setdefault(end.heading("strength"), []).append(end)
    words = [f"{span(some, heads, 'epochs')} up to {top}" for top, some in together.items()]
    text = f"The clean region: {'; '.join(words)}."
    return [say("why", "frontier", text, ends)]


def _effect(told: _Told) -> list[Sentence]:
    kind, verdict, pick = told.kind, told.verdict, told.pick
    said = []
    effect = {s.candidate: s.effect for s in told.walk}
    own = effect.get(pick.candidate, math.nan)
    if math.isfinite(own):
        preposition = "at" if kind == "strength" else "for"
        spoken = [pick.candidate]
        text = f"Effect on the picture (1 - SSIM): {number(own)} {preposition} "
        text += told.name(pick.candidate)
        clean = verdict.strongest_clean
        if clean and clean != pick.candidate and math.isfinite(effect.get(clean, math.nan)):
            text += f", {number(effect[clean])} {preposition} {told.name(clean)}"
            spoken.append(clean)
        said.append(say("why", "effect", f"{text}.", spoken, effect=own))
    if verdict.plateau and verdict.zone:
        text = f"Goldilocks zone: {told.span(verdict.zone)}"
        line = [
            s
            for s in told.walk
            if kind == "epochs" or s.candidate.strength == pick.candidate.strength
        ]
        known = [s.candidate for s in line if math.isfinite(s.effect)]
        if known[0].place < verdict.plateau.place:
            text += f"; before {told.name(verdict.plateau)} there is less than 90 % of the effect"
            text += " (undertrained)"
        ends = [s for s in line if s.state == "broken"]
        if ends:
            text += f"; from {told.name(ends[0].candidate)} on it is broken (overtrained)"
        elif verdict.plateau == known[-1]:
            text += "; the effect still grows at the last epoch"
            if _noticed(told):
                text += ", but there are signs of over-cooking"
            else:
                text += ", so longer training may do more"
        else:
            text += "; no breakdown closes it"
        said.append(say("why", "zone", f"{text}.", verdict.zone))
    return said


def _noticed(told: _Told) -> list[tuple[Summary, list[str]]]:
    """Where the ranked metric sees no damage but signs of over-cooking are there; mildest first."""
    noticed = []
    for s in told.walk:
        worse = s.diff_control.mean if told.setting.better == "lower" else -s.diff_control.mean
        if s.state == "broken" or worse > told.setting.margin:
            continue  # the metric sees it too
        if s.rank is None or s.candidate.strength == 0:
            continue
        words = signs_seen(s, told.setting.likeness)
        if words:
            noticed.append((s, words))
    return sorted(noticed, key=lambda item: _size(item[0].candidate, told.kind))


def _second_opinion(told: _Told) -> list[Sentence]:
    noticed = _noticed(told)
    if not noticed:
        return []
    s, words = next((one for one in noticed if one[0] is told.pick), noticed[0])
    where = told.name(s.candidate)
    if math.isfinite(s.diff_control.mean) and math.isfinite(told.setting.margin):
        text = f"{told.metric} sees no damage at {where}, but {listed(words)}."
    else:  # it has nothing to see damage by
        text = f"Signs of over-cooking at {where}: {listed(words)}."
    others = [o.candidate for o, _ in noticed if o is not s]
    if others:
        text += f" {capital(told.span(others))} {show_or_shows(others)} such signs as well."
    text += " Look at the pictures before you trust the number."
    return [say("caution", "second_opinion", text, [s.candidate, *others])]


def signs_seen(summary: Summary, likeness_of_controls: float) -> list[str]:
    """The signs of over-cooking that pass their threshold, surely (by the interval's lower end
    where there is one), each as a clause."""
    words = []
    for name, (threshold, clause) in SIGNS.items():
        found = summary.metrics.get(name)
        if found is None or not found.mean >= threshold:
            continue
        neutral = 0.0 if declared_by_summary(name).aggregate == "change" else 1.0
        if math.isnan(found.low) or found.low > neutral:
            words.append(clause.format(100 * found.mean if neutral == 0.0 else found.mean))
    alike = summary.metrics.get("likeness", Interval(math.nan)).mean
    if alike - likeness_of_controls >= LIKENESS_STEP:
        words.append("prompts have begun to look alike")
    return words


def _size(candidate: Candidate, kind: Kind) -> tuple[object, ...]:
    """Sort key: the mildest first, along training where that is an axis."""
    return preference(candidate, "strength" if kind == "strength" else "epochs")


def _undefined(told: _Told) -> list[Sentence]:
    return [
        say(
            "caution",
            "unscored",
            f"{capital(told.name(s.candidate))}: {s.reason}; such a setting counts as broken "
            "and ranks after those without such pictures.",
            [s.candidate],
            pictures=s.unscored,
        )
        for s in told.walk
        if s.unscored and s.rank is not None
    ]


def _few_cases(setting: Setting) -> list[Sentence]:
    prompts, cases = setting.prompts, setting.cases
    if setting.units < 2:
        return []
    if setting.prompts == 1:
        text = "All cases share one prompt: nothing is known of other prompts."
        return [say("caution", "one_prompt", text, prompts=prompts, cases=cases)]
    if setting.prompts == 2:
        text = "Two prompts rule out almost nothing"
    elif setting.prompts < PROMPTS:
        text = f"{capital(number_word(setting.prompts))} prompts tell only large differences"
    else:
        return []
    more = ", and more seeds do not stand in for prompts" * (setting.cases > setting.prompts)
    return [
        say(
            "caution",
            "few_prompts",
            f"{text}{more}. Use at least {PROMPTS}.",
            prompts=prompts,
            cases=cases,
        )
    ]


def _race(told: _Told) -> list[Sentence]:
    """Which candidates were given fewer cases than others, those with as many together."""
    stopped = told.setting.stopped
    parts = []
    for cases in sorted(set(stopped.values())):
        some = [s.candidate for s in told.walk if stopped.get(s.candidate) == cases]
        parts.append(f"{told.span(some)} ({cases} case{'s' * (cases != 1)})")
    if not parts:
        return []
    text = f"Given fewer cases than the answer turns on: {'; '.join(parts)}."
    return [say("how", "settled", text, [*stopped])]


def _missing(told: _Told) -> list[Sentence]:
    short = [s.candidate for s in told.walk if s.rank is not None and s.missing > s.unscored]
    if not short:
        return []
    text = (
        f"{capital(told.span(short))} {'lacks' if len(short) == 1 else 'lack'} some cases. "
        "Differences use the cases that both sides have, and ranks use means adjusted to all cases."
    )
    return [say("caution", "missing", text, short)]


def _failed(summaries: Sequence[Summary], setting: Setting) -> list[Sentence]:
    return [
        say(
            "caution",
            "failed",
            f"{capital(named(s.candidate, setting.kind))} could not be ranked: "
            f"{s.reason.rstrip('.')}{'; it counts as broken' * bool(s.unscored)}.",
            [s.candidate],
        )
        for s in summaries
        if s.rank is None
    ]


def _no_answer(summaries: Sequence[Summary], setting: Setting) -> Sentence:
    text = "Nothing could be ranked: there are no pictures."
    if summaries and all(s.reason == NOT_RENDERED for s in summaries):
        text = "No setting has a picture yet."
    elif summaries:
        text = (
            f"Nothing could be ranked: {metric_name(setting.rank_by)} is known for none of the "
            "settings."
        )
    return say("answer", "nothing_ranked", text)
