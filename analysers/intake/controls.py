"""Each picture's control: by metadata, by name, by number, or the picture at strength 0."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from analysers.intake.cases import (
    Key,
    case_key,
    differences,
    extra_part,
    with_one_part_less,
    without_triggers,
)
from analysers.intake.found import Found, is_off, order


def match_controls(
    pictures: Sequence[Found],
    controls: Sequence[Found],
    axis: str,
    triggers: Sequence[str],
    notes: list[str],
) -> tuple[dict[Path, Path | None], dict[Path, str]]:
    """Each picture's control, and for those without one what spoke against the likeliest."""
    chosen: dict[Path, Path | None] = {}
    why: dict[Path, str] = {}
    index = _Index(controls, triggers)
    by_number = _numbered(pictures, index.numbered, index.by_case, axis, notes)
    triggers_seen: Counter[str] = Counter()
    cases = {found.name.case for found in pictures} - {""}
    for found in pictures:
        near = index.near(found, by_number.get(found.path), cases)
        control, problem = _first_fitting(found, near, triggers)
        chosen[found.path] = control.path if control is not None else None
        if control is None:
            why[found.path] = problem
        elif found.facts and control.facts:
            extra = extra_part(
                without_triggers(found.facts.prompt, triggers),
                without_triggers(control.facts.prompt, triggers),
            )
            if extra is not None:
                triggers_seen[extra] += 1
    for extra, count in triggers_seen.most_common(3):
        notes.append(f'"{extra[:80]}" is taken for the trigger: {count} controls lack only that')
    return chosen, why


class _Index:
    """The controls by what leads to them: their metadata, case or number."""

    def __init__(self, controls: Sequence[Found], triggers: Sequence[str]) -> None:
        self.triggers = triggers
        self.by_metadata: dict[Key, list[Found]] = defaultdict(list)
        self.by_case: dict[str, list[Found]] = defaultdict(list)
        self.numbered: dict[str, list[Found]] = defaultdict(list)
        self.loose: list[Found] = []
        for control in controls:
            key, name = case_key(control, triggers), control.name
            if key[0] == "metadata":
                self.by_metadata[key[:4]].append(control)
            self.by_case[name.case].append(control)
            if name.number is not None:
                self.numbered[_parent_case(name.case, name.number)].append(control)
            elif key[0] == "name" and not name.case and (name.strength, name.epoch) == (None, None):
                self.loose.append(control)
        self.only = controls[0] if len(controls) == 1 else None
        self.told = [control for control in controls if control.facts is not None]

    def near(self, found: Found, numbered: Found | None, cases: set[str]) -> list[Found]:
        """The controls that may be the picture's, likeliest first. `numbered` is the one that its
        number tells, `cases` are those that pictures' names tell."""
        near: list[Found] = []
        key = case_key(found, self.triggers)
        if key[0] == "metadata":
            near += self.by_metadata.get(key[:4], [])
            for prompt in with_one_part_less(str(key[1])):
                near += self.by_metadata.get((key[0], prompt, *key[2:4]), [])
        own = self.by_case.get(found.name.case, []) if found.name.case else []
        near += sorted(own, key=lambda c: not _same_setting(found, c))
        near += [numbered] if numbered is not None else []
        near += [c for c in self.by_case.get("", []) if _same_setting(found, c)]
        near += self.loose
        if not near and self.only is not None and self.only.name.case not in cases:
            near.append(self.only)
        if not near and key[0] == "metadata":
            near += self.told[:20]  # for the reason only
        return near


def _first_fitting(
    found: Found, near: Sequence[Found], triggers: Sequence[str]
) -> tuple[Found | None, str]:
    """The first control against which nothing speaks, or the least that speaks against one."""
    least: tuple[int, str] | None = None
    for control in near:
        problem = _problem(found, control, triggers)
        if not problem:
            return control, ""
        if least is None or len(problem) < least[0]:
            least = (len(problem), f"{control.path.name} has {' and '.join(problem[:3])}")
    return None, least[1] if least else "none was found"


def _same_setting(found: Found, control: Found) -> bool:
    """Whether a control that names a strength or epoch names this picture's."""
    name = control.name
    if name.strength is not None and name.strength != found.strength:
        return False
    if name.epoch is not None and name.epoch != found.place[0]:
        return False
    return name.strength is not None or name.epoch is not None


def _problem(found: Found, control: Found, triggers: Sequence[str]) -> list[str]:
    if found.name.trainer and not found.name.seeded:
        return ["noise of its own (no seed was given to the trainer)"]
    name = control.name
    if name.strength is not None and name.strength not in (0, found.strength):
        return [f"strength {name.strength} in its name"]
    if name.epoch not in (None, 0, found.place[0]) and not name.untrained:
        return [f"epoch {name.epoch} in its name"]
    if control.facts is None:
        return []
    told = differences(found.facts, control.facts, triggers) if found.facts else []
    if control.facts.unknown:
        told.append(f"perhaps a LoRA itself (it {control.facts.unknown})")
    if found.facts is None:
        used = next((use for use in control.facts.loras if not is_off(use)), None)
        return [*told, f"a LoRA itself ({used.name})"] if used else told
    theirs = control.background or (control.facts.loras if control.lora is None else ())
    if found.facts.lists_loras and control.facts.lists_loras:
        if set(theirs) != set(found.background):
            told.append("other LoRAs besides the one under study")
        if control.lora is not None and not is_off(control.lora):
            told.append(f"a LoRA itself ({control.lora.name})")
    return told


def _parent_case(case: str, number: int) -> str:
    """The case of control_NN without its number: "" for the ancestors' layout."""
    head, _, tail = case.rpartition("/")
    return head if tail.isdigit() and int(tail) == number else case


def _numbered(
    pictures: Sequence[Found],
    numbered: Mapping[str, Sequence[Found]],
    by_case: Mapping[str, Sequence[Found]],
    axis: str,
    notes: list[str],
) -> dict[Path, Found]:
    """control_01, control_02, ... for the settings in order, or for epochs by their own number."""
    result: dict[Path, Found] = {}
    for case, controls in numbered.items():
        group = [f for f in pictures if f.name.case == case and f.facts is None]
        group = group or [f for f in pictures if f.name.case == case]
        if not group or any(f.name.case and f.name.case in by_case for f in group):
            continue
        ordered = sorted(controls, key=lambda c: c.name.number or 0)
        settings = sorted({order(f) for f in group})
        by_epoch = {c.name.number: c for c in ordered}
        epochs = {f.place[0] for f in group}
        if axis == "epoch" and None not in epochs and epochs <= set(by_epoch):
            result |= {f.path: by_epoch[f.place[0]] for f in group}
            continue
        if len(settings) != len(ordered):
            notes.append(
                f"{len(settings)} settings but {len(ordered)} numbered controls: they are paired "
                "in order, as far as they go"
            )
        place = {setting: control for setting, control in zip(settings, ordered, strict=False)}
        result |= {f.path: place[order(f)] for f in group if order(f) in place}
    return result


def zero_as_control(
    pictures: list[Found],
    chosen: dict[Path, Path | None],
    triggers: Sequence[str],
    notes: list[str],
) -> list[Found]:
    """A picture at strength 0 shows the base model: where its case has no control, it is one."""
    alone = [found for found in pictures if chosen.get(found.path) is None]
    zeros: dict[Key, Path] = {}
    for found in alone:
        if found.strength == 0 and (found.lora is None or is_off(found.lora)):
            zeros.setdefault((*case_key(found, triggers), found.background), found.path)
    used: set[Path] = set()
    for found in alone:
        zero = zeros.get((*case_key(found, triggers), found.background))
        if zero is not None and found.strength != 0:
            chosen[found.path] = zero
            used.add(zero)
    if used:
        notes.append(
            f"{len(used)} pictures at strength 0 serve as controls, as there are no others"
        )
    return [found for found in pictures if found.path not in used]
