"""A verdict in plain English. Numbers come in, sentences go out; nothing is decided here."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from analysers.metrics.metric import declared, declared_by_summary
from analysers.study import Candidate, Interval, Kind, Summary, Verdict

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

UNITS = {"strength": "strength", "epochs": "epoch", "plane": "setting"}


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


def explain(
    summaries: Sequence[Summary], verdict: Verdict, setting: Setting
) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """The answer, the sentences that argue it, and what makes it less certain.

    `summaries` are in rank order, those that could not be ranked last.
    """
    if verdict.best is None:
        return _no_answer(summaries, setting), (), tuple(_failed(summaries, setting))
    walk = sorted(summaries, key=lambda s: _along(s.candidate, setting.kind))
    best = summaries[0]
    sentences = [
        *_against_control(best, setting),
        *_evidence(summaries, walk, setting),
        *_safe_range(walk, verdict, setting),
        *_effect(walk, best, verdict, setting),
    ]
    contradictions = _second_opinion(walk, setting)
    warnings = [
        *contradictions,
        *_undefined(walk, setting),
        *_few_cases(setting),
        *_missing(walk, setting),
        *_failed(summaries, setting),
    ]
    return _answer(summaries, walk, verdict, setting), tuple(sentences), tuple(warnings)


def metric_name(name: str) -> str:
    """A metric's name as people write it."""
    return declared(name).label


def number(value: float) -> str:
    """One decimal from 1 on, three digits below, no exponents: 23.0, -7.1, 0.87, 114."""
    if not math.isfinite(value):
        return "unknown"
    if abs(value) >= 100:
        return f"{value:.0f}"
    if abs(value) >= 1:
        return f"{value:.1f}"
    text = f"{value:.3g}"
    return f"{value:.4f}".rstrip("0").rstrip(".") if "e" in text else text


def listed(words: Sequence[str]) -> str:
    """Words as English lists them: "a", "a and b", "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def span(chosen: Sequence[Candidate], walk: Sequence[Summary], kind: Kind) -> str:
    """Candidates in words, a run of three or more as a range: "0.4 to 0.8", "0.2 and 0.6".

    On the plane by checkpoint: "epoch 3 at 0.6 to 1.0, epoch 4 at 0.6".
    """
    order = [s.candidate for s in walk]
    if kind != "plane":
        return _runs([c.heading(kind) for c in order], [order.index(c) for c in chosen])
    words = []
    for place in sorted({c.place for c in chosen}):
        row = [c for c in order if c.place == place]
        held = [row.index(c) for c in chosen if c.place == place]
        words.append(
            f"{row[0].heading('epochs')} at {_runs([c.heading('strength') for c in row], held)}"
        )
    return listed(words) if all(" and " not in w for w in words) else "; ".join(words)


def _runs(names: Sequence[str], held: Sequence[int]) -> str:
    """The names at the places `held`, neighbours of three and more as a range."""
    places = sorted(held)
    words: list[str] = []
    while places:
        run = 1
        while run < len(places) and places[run] == places[0] + run:
            run += 1
        found = [names[p] for p in places[:run]]
        words += [f"{found[0]} to {found[-1]}"] if run >= 3 else found
        places = places[run:]
    return listed(words)


def _along(candidate: Candidate, kind: Kind) -> tuple[object, ...]:
    strength = 0.0 if candidate.strength is None else float(candidate.strength)
    if kind == "strength":
        return (strength, candidate.place, candidate.checkpoint, candidate.label)
    return (candidate.place, strength, candidate.checkpoint, candidate.label)


def _answer(
    summaries: Sequence[Summary], walk: Sequence[Summary], verdict: Verdict, setting: Setting
) -> str:
    kind = setting.kind
    best = summaries[0]
    name = best.candidate.heading(kind)
    mean = number(best.metrics[setting.rank_by].mean)
    extreme = "lowest" if setting.better == "lower" else "highest"
    metric = metric_name(setting.rank_by)
    where = f"mean {metric} ({mean}) over {setting.cases} cases"
    if setting.cases == 1:
        where = f"{metric} ({mean}) on the only case"
    tied = [s.candidate for s in summaries if s.tied]
    if tied:
        first = {"strength": "lowest strength", "epochs": "earliest epoch"}.get(
            kind, "lowest strength, then the earliest epoch,"
        )
        text = (
            f"Use {name}: {span(tied, walk, kind)} tie for the {extreme} {where}, "
            f"and the {first} wins."
        )
    else:
        text = f"Use {name}: {extreme} {where}."
    if best.candidate.strength == 0:
        text = text.replace(f"Use {name}:", f"Use {name}, that is, leave the LoRA out:", 1)
    parts = [text]
    # A setting that is surely worse than the control is out, however wide its own interval.
    broken = {s.candidate for s in summaries if s.state == "broken"}
    contenders = [c for c in verdict.contenders if c != best.candidate and c not in broken]
    ranked = [s for s in summaries if s.rank is not None]
    if setting.units < 2:
        pass
    elif not contenders and len(ranked) > 1 and len(verdict.contenders) < 2:
        parts.append(f"Every other {UNITS[kind]} is worse beyond the noise.")
    elif contenders and len(contenders) == len(ranked) - 1:
        parts.append(
            f"It cannot be told from any other {UNITS[kind]}: {metric} does not decide here."
        )
    elif len(contenders) > 3 and kind == "plane":
        parts.append(f"It cannot be told from {len(contenders)} other settings.")
    elif contenders:
        words = span([best.candidate, *contenders], walk, kind)
        if name in re.split(" to |, | and ", words):  # only inside a range it goes without saying
            words = span(contenders, walk, kind)
        parts.append(f"It cannot be told from {words}.")
    parts += _clean_words(walk, verdict, setting)
    noticed = [s.candidate for s, _ in _noticed(walk, setting)]
    if verdict.best in noticed or verdict.strongest_clean in noticed:
        first = noticed[0].heading(kind)
        onward = f"from {first} on" if len(noticed) > 1 else f"at {first}"
        parts.append(f"But {onward} there are signs of over-cooking: look before you publish.")
    return " ".join(parts)


def _clean_words(walk: Sequence[Summary], verdict: Verdict, setting: Setting) -> list[str]:
    kind = setting.kind
    known = [s for s in walk if s.state and s.candidate.strength != 0]
    if not known:
        return []
    word = "latest" if kind == "epochs" else "strongest"
    clean, broken = verdict.strongest_clean, verdict.breakdown
    breaks = f"it breaks at {broken.heading(kind)}" if broken else ""
    if clean:
        text = f"{word.capitalize()} that is still clean: {clean.heading(kind)}"
        return [f"{text}; {breaks}." if breaks else f"{text}; no breakdown was found."]
    if breaks:
        return [f"No {UNITS[kind]} is shown to be clean; {breaks}."]
    return [f"No {UNITS[kind]} is shown to be clean, and none to be broken."]


def _against_control(best: Summary, setting: Setting) -> list[str]:
    diff = best.diff_control
    if math.isnan(diff.mean) or best.candidate.strength == 0:
        return []
    metric = metric_name(setting.rank_by)
    name = best.candidate.heading(setting.kind)
    direction = "below" if diff.mean < 0 else "above"
    where = f"At {name}" if setting.kind == "strength" else f"With {name}"
    text = f"{where} {metric} is {number(abs(diff.mean))} {direction} the control's"
    return [f"{text}{_bounds(diff)}."]


def _bounds(interval: Interval) -> str:
    if math.isnan(interval.low):
        return ""
    return f" (95 % interval {number(interval.low)} to {number(interval.high)})"


def _evidence(summaries: Sequence[Summary], walk: Sequence[Summary], setting: Setting) -> list[str]:
    sentences = []
    best = summaries[0]
    level = [
        s.candidate for s in summaries if s.contender and s is not best and s.state != "broken"
    ]
    if setting.kind == "plane" and setting.units >= 2 and len(level) > 3:
        sentences.append(f"Cannot be told from it: {span(level, walk, 'plane')}.")
    ranked = [s for s in summaries if s.rank is not None]
    name = best.candidate.heading(setting.kind)
    if math.isfinite(best.p_best) and len(ranked) > 1:
        sentences.append(f"In {_percent(best.p_best)} of the resamples {name} comes out best.")
        rival = max(ranked, key=lambda s: s.p_best if math.isfinite(s.p_best) else -1.0)
        if rival is not best:
            sentences[-1] = (
                f"In {_percent(best.p_best)} of the resamples {name} comes out best, "
                f"{rival.candidate.heading(setting.kind)} in {_percent(rival.p_best)}."
            )
    floor = setting.noise_floor.get(setting.rank_by)
    if floor:
        sentences.append(
            f"Rendering the same picture twice changes {metric_name(setting.rank_by)} by up to "
            f"{number(floor)}; no smaller difference is called one."
        )
    if best.candidate.strength == 0 and len(ranked) > 1:
        other = next(s for s in ranked if s is not best)
        sentences.append(
            f"Of the {_plural(setting.kind)} that use the LoRA, "
            f"{other.candidate.heading(setting.kind)} comes first."
        )
    return sentences


def _safe_range(walk: Sequence[Summary], verdict: Verdict, setting: Setting) -> list[str]:
    kind = setting.kind
    known = [s for s in walk if s.state and s.candidate.strength != 0]
    if not known or math.isnan(setting.margin):
        return []
    metric = metric_name(setting.rank_by)
    worse = "above" if setting.better == "lower" else "below"
    limit = max(setting.margin, setting.noise_floor.get(setting.rank_by, 0.0))
    judged = "by the upper end of its interval" if setting.units >= 2 else "on this one case"
    sentences = [f"Clean means at most {limit:g} {metric} {worse} the control, {judged}."]
    if verdict.breakdown:
        broken = next(s for s in walk if s.candidate == verdict.breakdown)
        if math.isfinite(broken.diff_control.mean):
            sentences.append(
                f"{_capital(broken.candidate.heading(kind))} is "
                f"{number(abs(broken.diff_control.mean))} {worse} the control"
                f"{_bounds(broken.diff_control)}."
            )
    unsure = [s.candidate for s in known if s.state == "unsure"]
    if unsure:
        sentences.append(
            f"{_capital(span(unsure, walk, kind))} can be called neither clean nor broken: "
            "more cases would tell."
        )
    back = [s.candidate for s in known if s.state == "clean" and s.safe is False]
    if back:
        verbs = "scores well again, but lies" if len(back) == 1 else "score well again, but lie"
        sentences.append(f"{_capital(span(back, walk, kind))} {verbs} beyond the breakdown.")
    if kind == "plane":
        sentences += _frontier(walk)
    return sentences


def _frontier(walk: Sequence[Summary]) -> list[str]:
    """For each checkpoint, the highest safe strength."""
    reach: dict[int, Summary] = {}
    for s in walk:
        strength = s.candidate.strength
        if not s.safe or strength is None or strength <= 0:
            continue
        known = reach.get(s.candidate.place)
        if known is None or (known.candidate.strength or 0) < strength:
            reach[s.candidate.place] = s
    places = sorted(reach)
    words = []
    while places:
        strength = reach[places[0]].candidate.strength
        run = 1
        while run < len(places) and reach[places[run]].candidate.strength == strength:
            run += 1
        names = [reach[p].candidate.heading("epochs") for p in places[:run]]
        group = f"{names[0]} to {names[-1]}" if run >= 3 else listed(names)
        words.append(f"{group} up to {reach[places[0]].candidate.heading('strength')}")
        places = places[run:]
    return [f"The clean region: {'; '.join(words)}."] if words else []


def _effect(
    walk: Sequence[Summary], best: Summary, verdict: Verdict, setting: Setting
) -> list[str]:
    kind = setting.kind
    sentences = []
    effect = {s.candidate: 1.0 - s.metrics["ssim"].mean for s in walk if "ssim" in s.metrics}
    own = effect.get(best.candidate, math.nan)
    if math.isfinite(own):
        preposition = "at" if kind == "strength" else "for"
        name = f"{preposition} {best.candidate.heading(kind)}"
        text = f"Effect on the picture (1 - SSIM): {number(own)} {name}"
        clean = verdict.strongest_clean
        if clean and clean != best.candidate and math.isfinite(effect.get(clean, math.nan)):
            text += f", {number(effect[clean])} {preposition} {clean.heading(kind)}"
        sentences.append(f"{text}.")
    if verdict.plateau and verdict.zone:
        first, last = verdict.zone[0].heading(kind), verdict.zone[-1].heading(kind)
        goes = f"{first} to {last}" if first != last else first
        text = f"Goldilocks zone: {goes}"
        line = [
            s
            for s in sorted(walk, key=lambda s: _along(s.candidate, kind))
            if kind == "epochs" or s.candidate.strength == best.candidate.strength
        ]
        if line[0].candidate.place < verdict.zone[0].place:
            text += f"; before {first} there is less than 90 % of the effect (undertrained)"
        if line[-1].candidate.place > verdict.zone[-1].place:
            text += f"; after {last} it is broken (overtrained)"
        elif verdict.plateau == verdict.zone[-1]:
            text += "; the effect still grows at the last epoch"
            if _noticed(walk, setting):
                text += ", but there are signs of over-cooking"
            else:
                text += ", so longer training may do more"
        else:
            text += "; no breakdown closes it"
        sentences.append(f"{text}.")
    return sentences


def _noticed(walk: Sequence[Summary], setting: Setting) -> list[tuple[Summary, list[str]]]:
    """Where the ranked metric sees no damage but signs of over-cooking are there; mildest first."""
    noticed = []
    for s in walk:
        worse = s.diff_control.mean if setting.better == "lower" else -s.diff_control.mean
        if s.state == "broken" or worse > setting.margin:
            continue  # the metric sees it too
        if s.rank is None or s.candidate.strength == 0:
            continue
        words = signs_seen(s, setting.likeness)
        if words:
            noticed.append((s, words))
    return sorted(noticed, key=lambda item: _size(item[0].candidate, setting.kind))


def _second_opinion(walk: Sequence[Summary], setting: Setting) -> list[str]:
    noticed = _noticed(walk, setting)
    if not noticed:
        return []
    s, words = noticed[0]
    metric = metric_name(setting.rank_by)
    text = f"{metric} sees no damage at {s.candidate.heading(setting.kind)}, but {listed(words)}."
    others = [o.candidate for o, _ in noticed[1:]]
    if others:
        show = "shows" if len(others) == 1 else "show"
        text += f" {_capital(span(others, walk, setting.kind))} {show} such signs as well."
    return [f"{text} Look at the pictures before you trust the number."]


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


def _size(candidate: Candidate, kind: Kind) -> tuple[float, float]:
    strength = 0.0 if candidate.strength is None else float(abs(candidate.strength))
    return (strength, candidate.place) if kind == "strength" else (candidate.place, strength)


def _undefined(walk: Sequence[Summary], setting: Setting) -> list[str]:
    hit = [s for s in walk if "have no score" in s.reason]
    return [
        f"{_capital(s.candidate.heading(setting.kind))}: {s.reason}; such a {UNITS[setting.kind]} "
        "counts as broken and ranks after those without such pictures."
        for s in hit
    ]


def _few_cases(setting: Setting) -> list[str]:
    if setting.cases == 1:
        return [
            "With one case there is no interval: nothing says that another prompt or seed would "
            "give the same answer. Use at least 6 prompts."
        ]
    if setting.units == 2:
        return [
            "Two cases give intervals so wide that they rule out almost nothing. "
            "Use at least 6 prompts."
        ]
    if setting.prompts < setting.units and setting.prompts > 1:
        return [
            f"With {setting.prompts} prompts the intervals speak of other seeds more than of "
            "other prompts. Use at least 6 prompts."
        ]
    if setting.prompts == 1:
        return ["All cases share one prompt: the intervals say nothing about other prompts."]
    return []


def _missing(walk: Sequence[Summary], setting: Setting) -> list[str]:
    short = [s for s in walk if s.rank is not None and "missing, ranked as" in s.reason]
    if not short:
        return []
    names = span([s.candidate for s in short], walk, setting.kind)
    return [
        f"{_capital(names)} {'lacks' if len(short) == 1 else 'lack'} some cases. Differences use "
        "the cases that both sides have, and ranks use means adjusted to all cases."
    ]


def _failed(summaries: Sequence[Summary], setting: Setting) -> list[str]:
    failed = [s for s in summaries if s.rank is None]
    names = [_capital(s.candidate.heading(setting.kind)) for s in failed]
    return [
        f"{name} could not be ranked: {s.reason.rstrip('.')}."
        for name, s in zip(names, failed, strict=True)
    ]


def _no_answer(summaries: Sequence[Summary], setting: Setting) -> str:
    if not summaries:
        return "Nothing could be ranked: there are no pictures."
    return (
        f"Nothing could be ranked: {metric_name(setting.rank_by)} is known for none of the "
        f"{_plural(setting.kind)}."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _plural(kind: Kind) -> str:
    return {"strength": "strengths", "epochs": "epochs", "plane": "settings"}[kind]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
