"""A folder of pictures -> pictures with their settings, each paired with its control.

Metadata is believed before names. A pair is comparable only if prompt (LoRA tags and trigger
removed), negative prompt, seed, size, steps, sampler, guidance and base model agree as far as both
pictures tell; what takes no part is listed with its reason.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path, PurePath
from typing import Literal

from generation.errors import UserError
from generation.foreign.grids import cut_grid
from generation.foreign.metadata import facts_from_texts, tidy
from generation.foreign.names import LOOKED_FOR, NameFacts, checkpoint_name, parse_name
from generation.foreign.picture import (
    Axis,
    Facts,
    LoraUse,
    Pair,
    Picture,
    PictureSet,
    Rejected,
)
from generation.images import SUFFIXES, read_size, read_text

DEEPEST = 4
MOST_FILES = 200_000

_NOT_ENTERED = {"previous"}
"""Folders of ours whose pictures another picture has replaced."""

Key = tuple[object, ...]


@dataclass(frozen=True)
class _Found:
    """One file with what its metadata and its name say."""

    path: Path
    name: NameFacts
    facts: Facts | None
    lora: LoraUse | None = None
    background: tuple[LoraUse, ...] = ()

    @property
    def strength(self) -> Decimal | None:
        if self.lora is not None and self.lora.strength is not None:
            return self.lora.strength
        return self.name.strength

    @property
    def place(self) -> tuple[int | None, int | None]:
        """(epoch, step): what the LoRA's name in the metadata says, else the picture's name."""
        if self.lora is not None:
            named = checkpoint_name(self.lora.name)
            if named.epoch is not None or named.step is not None:
                return named.epoch, named.step
        return self.name.epoch, self.name.step


def find_pictures(
    folder: Path,
    *,
    axis: Literal["strength", "epoch"],
    control: Path | None = None,
    controls: Path | None = None,
    triggers: Sequence[str] = (),
    cells: Path | None = None,
) -> PictureSet:
    """The pictures below `folder`, each with its control.

    `control` is one picture for all; `controls` a folder whose pictures are matched by metadata, by
    file name, or by number (`control_01.png` belongs to the lowest strength or first epoch).
    Without either, controls are looked for among the pictures: by name (control*, base*, a folder
    `control`), by metadata without a LoRA, trainers' samples from before the first step, and
    strength 0. `triggers` are words that only prompts with the LoRA carry. `cells` is a folder
    that A1111's X/Y/Z grids may be cut into; without it they are rejected.

    Files are not decoded here, so a damaged picture is found out when it is scored. Raises
    UserError if a path does not exist or if no usable picture is found.
    """
    for path, option in ((folder, "--images"), (controls, "--controls")):
        if path is not None and not path.is_dir():
            why = "is not a folder" if path.exists() else "does not exist"
            raise UserError(f"{option}: {path} {why}; name the folder with the pictures.")
    if controls is not None and controls.resolve() == folder.resolve():
        raise UserError("--controls: this is the folder of --images itself; leave the option out.")
    if control is not None and not control.is_file():
        why = "is not a file" if control.exists() else "does not exist"
        raise UserError(f"--control: {control} {why}; name the picture made without the LoRA.")

    notes: list[str] = []
    rejected: list[Rejected] = []
    apart = {os.path.realpath(control)} if control is not None else set()
    given = _scan(controls, set()) if controls is not None else []
    given = [_as_control(found) for found in given]
    apart |= {os.path.realpath(found.path) for found in given}
    everything = _scan(folder, apart)
    if not everything:
        raise UserError(f"no pictures found in {folder}; looked for {LOOKED_FOR}.")

    usable = _reject_unfit(_cut_grids(everything, cells, rejected, notes), rejected)
    sorted_out = _choose_lora([*given, *usable], triggers, rejected)
    from_controls = {found.path for found in given}
    given = [found for found in sorted_out if found.path in from_controls]
    usable = [found for found in sorted_out if found.path not in from_controls]
    pictures, inner = _split_controls(usable, axis, rejected)
    candidates = [*given, *inner] if control is None else []
    pictures = _without_duplicates(pictures, triggers, rejected)
    if not pictures:
        first = f"; {rejected[0].path.name}: {rejected[0].reason}" if rejected else ""
        raise UserError(
            f"no usable pictures found in {folder} ({len(everything)} files looked at{first}); "
            f"looked for {LOOKED_FOR}."
        )

    names = _case_names(pictures, triggers)
    chosen: dict[Path, Path | None]
    if control is not None:
        chosen = {found.path: control for found in pictures}
        _warn_explicit(control, pictures, triggers, notes)
    else:
        chosen, against = _match_controls(pictures, candidates, axis, triggers, notes)
        pictures = _zero_as_control(pictures, chosen, triggers, notes)
        _warn_unpaired(pictures, chosen, against, notes)
        _list_idle(candidates, chosen, triggers, rejected)
    _warn_about(pictures, notes)

    ordered = sorted(pictures, key=lambda found: (_order(found), names[found.path], found.path))
    pairs = tuple(
        Pair(_picture(found), chosen.get(found.path), names[found.path]) for found in ordered
    )
    return PictureSet(pairs, tuple(rejected), tuple(notes), _axis(pairs, axis))


# --- looking --------------------------------------------------------------------------------------


def _scan(root: Path, apart: set[str]) -> list[_Found]:
    """Every picture file below `root` in order of its path, hidden and replaced ones left out."""
    found: list[_Found] = []
    folders = [(root, 0)]
    while folders:
        folder, depth = folders.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            if depth:
                continue  # a folder of somebody else's inside
            raise UserError(f"{root} cannot be listed ({error.strerror}).") from None
        for entry in entries:
            if entry.name.startswith(".") or entry.name.endswith(".tmp.png"):
                continue
            if entry.is_dir():
                if depth < DEEPEST and entry.name not in _NOT_ENTERED and not entry.is_symlink():
                    folders.append((Path(entry.path), depth + 1))
                continue
            if not entry.name.lower().endswith(SUFFIXES):
                continue
            if not entry.is_file() and not entry.is_symlink():
                continue  # a pipe would block for ever
            path = Path(entry.path)
            if apart and os.path.realpath(path) in apart:
                continue
            if len(found) >= MOST_FILES:
                raise UserError(f"{root} holds more than {MOST_FILES:,} pictures; name a part.")
            found.append(_Found(path, parse_name(path.relative_to(root)), _facts(path)))
    return sorted(found, key=lambda one: one.path)


def _facts(path: Path) -> Facts | None:
    try:
        return facts_from_texts(read_text(path))
    except UserError:
        return None  # unreadable now, reported when it is scored


def _as_control(found: _Found) -> _Found:
    name = found.name
    number = name.number
    if number is None and re.fullmatch(r"\d{1,6}", name.case):
        number = int(name.case)
    return replace(found, name=replace(name, control=True, number=number))


# --- sorting out ----------------------------------------------------------------------------------


def _cut_grids(
    everything: Sequence[_Found], cells: Path | None, rejected: list[Rejected], notes: list[str]
) -> list[_Found]:
    """Put the cells of X/Y/Z grids in the grids' place; reject grids that cannot be cut."""
    kept: list[_Found] = []
    cut = count = 0
    for found in everything:
        if found.facts is None or not found.facts.grid:
            kept.append(found)
        elif cells is None:
            reason = "is a grid (X/Y/Z plot); give the single pictures"
            rejected.append(Rejected(found.path, reason))
        else:
            paths = cut_grid(found.path, cells)
            if isinstance(paths, str):
                rejected.append(Rejected(found.path, paths))
                continue
            kept += [_Found(path, parse_name(PurePath(path.name)), _facts(path)) for path in paths]
            cut, count = cut + 1, count + len(paths)
    if cut:
        notes.append(f"{cut} X/Y/Z grids were cut into {count} pictures")
    return kept


def _reject_unfit(everything: Sequence[_Found], rejected: list[Rejected]) -> list[_Found]:
    """Leave out batch grids, stitched pictures, and samples that others replace."""
    has_ema = any(found.name.ema for found in everything)
    kept = []
    for found in everything:
        reason = ""
        if _is_batch_grid(found):
            reason = "is a grid of a batch; give the single pictures"
        elif found.name.ema is False and has_ema:
            reason = "is a sample without EMA; the run's EMA samples are used"
        elif found.name.size is not None and not found.name.control:
            size = read_size(found.path)
            if size is not None and size != found.name.size:
                reason = (
                    f"is {size[0]} x {size[1]} instead of {found.name.size[0]} x "
                    f"{found.name.size[1]}: SimpleTuner has stitched the base model's picture and "
                    "labels to it; train with --disable_benchmark"
                )
        if reason:
            rejected.append(Rejected(found.path, reason))
        else:
            kept.append(found)
    return kept


def _is_batch_grid(found: _Found) -> bool:
    """A1111 saves the pictures of a batch side by side as grid-0001.png, with the first's text."""
    if found.facts is None or not re.match(r"grid-\d", found.path.name):
        return False
    size = read_size(found.path)
    return size is not None and f"{size[0]}x{size[1]}" != found.facts.settings.get("size")


def _choose_lora(
    usable: Sequence[_Found], triggers: Sequence[str], rejected: list[Rejected]
) -> list[_Found]:
    """Decide which of a picture's LoRAs is under study: the one that not every picture of the
    case shares. LoRAs that all share, at the same strength, are background."""
    groups: dict[Key, list[_Found]] = defaultdict(list)
    kept = []
    for found in usable:
        if found.facts is None or not found.facts.loras:
            kept.append(found)
        groups[_case_key(found, triggers)].append(found)
    for group in groups.values():
        with_metadata = [f for f in group if f.facts is not None and f.facts.lists_loras]
        sets = [{(u.name, u.strength) for u in f.facts.loras} for f in with_metadata if f.facts]
        shared = set.intersection(*sets) if sets else set()
        if all(len(names) == len(shared) for names in sets):
            shared = set()  # nothing varies within this case
        for found in group:
            if found.facts is None or not found.facts.loras:
                continue
            under = [u for u in found.facts.loras if (u.name, u.strength) not in shared]
            background = tuple(u for u in found.facts.loras if (u.name, u.strength) in shared)
            if len(under) > 1:
                names = ", ".join(use.name for use in under)
                rejected.append(
                    Rejected(found.path, f"uses {len(under)} LoRAs at once ({names[:200]})")
                )
                continue
            kept.append(replace(found, lora=under[0] if under else None, background=background))
    return sorted(kept, key=lambda one: one.path)


def _split_controls(
    usable: Sequence[_Found], axis: str, rejected: list[Rejected]
) -> tuple[list[_Found], list[_Found]]:
    """Tell pictures under the LoRA from controls, and reject what is neither."""
    pictures, controls = [], []
    for found in usable:
        name = found.name
        placed = found.strength is not None or found.place != (None, None)
        without = found.facts is not None and found.facts.lists_loras and found.lora is None
        if name.control or (without and not placed):
            controls.append(found)
        elif axis == "strength" and found.strength is None:
            reason = "neither its name nor its metadata tell the strength"
            rejected.append(Rejected(found.path, reason))
        elif axis == "epoch" and found.place == (None, None) and found.lora is None:
            rejected.append(
                Rejected(found.path, "neither its name nor its metadata tell the epoch or step")
            )
        else:
            pictures.append(found)
    return pictures, controls


def _without_duplicates(
    pictures: Sequence[_Found], triggers: Sequence[str], rejected: list[Rejected]
) -> list[_Found]:
    """Of several pictures with the same setting and case keep one: the latest of a trainer's
    samples, else the first by name."""
    kept: list[_Found] = []
    seen: dict[Key, Path] = {}
    # Those that tell a hash first: a picture without one repeats any with its LoRA's name.
    first = sorted(pictures, key=lambda one: one.name.stamp, reverse=True)
    for found in sorted(first, key=lambda one: one.lora is None or not one.lora.hash):
        lora = found.lora or LoraUse(found.name.lora)
        key = (_case_key(found, triggers), found.strength, found.place, lora.name, found.background)
        same = seen.get((*key, lora.hash[:12]))
        if same is not None:
            rejected.append(Rejected(found.path, f"shows the same setting and case as {same.name}"))
            continue
        kept.append(found)
        for digest in {lora.hash[:12], ""}:
            seen.setdefault((*key, digest), found.path)
    return sorted(kept, key=lambda one: one.path)


def _zero_as_control(
    pictures: list[_Found],
    chosen: dict[Path, Path | None],
    triggers: Sequence[str],
    notes: list[str],
) -> list[_Found]:
    """A picture at strength 0 shows the base model: where its case has no control, it is one."""
    alone = [found for found in pictures if chosen.get(found.path) is None]
    zeros: dict[Key, Path] = {}
    for found in alone:
        if found.strength == 0:
            zeros.setdefault((*_case_key(found, triggers), found.background), found.path)
    used: set[Path] = set()
    for found in alone:
        zero = zeros.get((*_case_key(found, triggers), found.background))
        if zero is not None and found.strength != 0:
            chosen[found.path] = zero
            used.add(zero)
    if used:
        notes.append(
            f"{len(used)} pictures at strength 0 serve as controls, as there are no others"
        )
    return [found for found in pictures if found.path not in used]


# --- cases ----------------------------------------------------------------------------------------


def _case_key(found: _Found, triggers: Sequence[str]) -> Key:
    """What must be equal within a case. Without metadata: what the name says besides settings."""
    facts = found.facts
    if facts is None or not (facts.prompt or facts.seed is not None):
        return ("name", found.name.case, found.name.seed, found.name.lora)
    prompt = _without_triggers(facts.prompt, triggers)
    settings = tuple(sorted(facts.settings.items()))
    seed = facts.seed if facts.seed is not None else found.name.seed
    return ("metadata", prompt, facts.negative, seed, settings)


def _without_triggers(prompt: str, triggers: Sequence[str]) -> str:
    for trigger in triggers:
        if trigger.strip():
            prompt = re.sub(rf"(?<!\w){re.escape(trigger.strip())}(?!\w)", " ", prompt, flags=re.I)
    return tidy(prompt)


def _case_names(pictures: Sequence[_Found], triggers: Sequence[str]) -> dict[Path, str]:
    """A short name per case: the files' own where it tells the cases apart, else the prompt's."""
    cases: dict[Key, list[_Found]] = defaultdict(list)
    for found in pictures:
        cases[(*_case_key(found, triggers), found.background)].append(found)
    own = {key: {found.name.case for found in group} for key, group in cases.items()}
    used = Counter(name for names in own.values() for name in names)
    result: dict[Path, str] = {}
    taken: set[str] = set()
    for key, group in cases.items():
        name = next(iter(own[key]))
        by_name = key[0] == "name"
        fits = len(own[key]) == 1 and used[name] == 1 and bool(name)
        if not (by_name or (fits and len(group) > 1)):
            words = re.sub(r"[^\w]+", "-", str(key[1])).strip("-")[:40]
            name = f"{words}_s{key[3]}" if key[3] is not None else words
        elif by_name and key[2] is not None and f"{key[2]}" not in name:
            name = f"{name}_s{key[2]}".strip("_")
        if name in taken:
            name += "_" + hashlib.sha256(repr(key).encode()).hexdigest()[:6]
        taken.add(name)
        result.update({found.path: name for found in group})
    return result


# --- controls -------------------------------------------------------------------------------------

_SHARED = {
    "size": "size",
    "steps": "steps",
    "sampler": "sampler",
    "schedule": "schedule",
    "guidance": "guidance",
    "distilled_guidance": "distilled guidance",
    "clip_skip": "clip skip",
    "vae": "VAE",
    "denoising": "denoising",
    "upscale": "upscaling",
    "passes": "further passes",
}


_SILENT = {"clip_skip": "1", "denoising": "none", "upscale": "none", "passes": "none"}
"""What it means if one interface writes nothing under a key in one of two pictures."""


def differences(one: Facts, other: Facts, triggers: Sequence[str] = ()) -> list[str]:
    """In what two pictures differ besides the LoRA, in words; empty if they are comparable.

    Only what both tell is compared; models by their hash where both have one.
    """
    told = []
    ours, theirs = (_without_triggers(facts.prompt, triggers) for facts in (one, other))
    if ours != theirs and _extra_part(ours, theirs) is None:
        told.append("another prompt")
    if one.negative != other.negative:
        told.append("another negative prompt")
    if None not in (one.seed, other.seed) and one.seed != other.seed:
        told.append(f"seed {other.seed} instead of {one.seed}")
    a, b = one.settings, other.settings
    silent = _SILENT if one.source == other.source else {}
    for key, words in _SHARED.items():
        ours, theirs = (told_by.get(key, silent.get(key, "")) for told_by in (a, b))
        if ours and theirs and ours != theirs:
            told.append(f"{words} {theirs} instead of {ours}")
    model = "model_hash" if "model_hash" in a and "model_hash" in b else "model"
    if model in a and model in b and a[model] != b[model]:
        told.append(f"model {b.get('model', b[model])} instead of {a.get('model', a[model])}")
    return told


def _extra_part(prompt: str, control: str) -> str | None:
    """The one comma-separated part that `prompt` has and `control` lacks (a trigger), else None."""
    parts, rest = prompt.split(", "), control.split(", ")
    if len(parts) != len(rest) + 1 or len(parts) > 1000:
        return None
    for at, part in enumerate(parts):
        if at == len(rest) or part != rest[at]:
            return part if parts[at + 1 :] == rest[at:] else None
    return None


def _with_one_part_less(prompt: str) -> list[str]:
    """The prompt without each of its comma-separated parts: what it may be without a trigger."""
    parts = prompt.split(", ")
    if not 1 < len(parts) <= 100:
        return []
    return [", ".join(parts[:at] + parts[at + 1 :]) for at in range(len(parts))]


def _match_controls(
    pictures: Sequence[_Found],
    controls: Sequence[_Found],
    axis: str,
    triggers: Sequence[str],
    notes: list[str],
) -> tuple[dict[Path, Path | None], dict[Path, str]]:
    """Each picture's control, and for those without one what spoke against the likeliest."""
    chosen: dict[Path, Path | None] = {}
    why: dict[Path, str] = {}
    by_metadata: dict[Key, list[_Found]] = defaultdict(list)
    by_case: dict[str, list[_Found]] = defaultdict(list)
    numbered: dict[str, list[_Found]] = defaultdict(list)
    loose = []
    for control in controls:
        key = _case_key(control, triggers)
        if key[0] == "metadata":
            by_metadata[key[:4]].append(control)
        by_case[control.name.case].append(control)
        if control.name.number is not None:
            numbered[_parent_case(control.name.case, control.name.number)].append(control)
        if key[0] == "name" and not control.name.case and control.name.number is None:
            loose.append(control)
    told = [control for control in controls if control.facts is not None]
    by_number = _numbered(pictures, numbered, by_case, axis, notes)
    triggers_seen: Counter[str] = Counter()
    cases = {found.name.case for found in pictures} - {""}
    for found in pictures:
        near: list[_Found] = []
        key = _case_key(found, triggers)
        if key[0] == "metadata":
            near += by_metadata.get(key[:4], [])
            for prompt in _with_one_part_less(str(key[1])):
                near += by_metadata.get((key[0], prompt, *key[2:4]), [])
        own = by_case.get(found.name.case, []) if found.name.case else []
        near += sorted(own, key=lambda c: not _same_setting(found, c))
        if found.path in by_number:
            near.append(by_number[found.path])
        near += [c for c in by_case.get("", []) if _same_setting(found, c)]
        near += [c for c in loose if c.name.strength is None and c.name.epoch is None]
        if not near and len(controls) == 1 and controls[0].name.case not in cases:
            near.append(controls[0])
        if not near and key[0] == "metadata":
            near += told[:20]  # for the reason only
        best: tuple[int, str] | None = None
        for control in near:
            problem = _problem(found, control, triggers)
            if not problem:
                chosen[found.path] = control.path
                if found.facts and control.facts:
                    extra = _extra_part(
                        _without_triggers(found.facts.prompt, triggers),
                        _without_triggers(control.facts.prompt, triggers),
                    )
                    if extra is not None:
                        triggers_seen[extra] += 1
                break
            if best is None or len(problem) < best[0]:
                best = (len(problem), f"{control.path.name} has {' and '.join(problem[:3])}")
        else:
            chosen[found.path] = None
            why[found.path] = best[1] if best else "none was found"
    for extra, count in triggers_seen.most_common(3):
        notes.append(f'"{extra[:80]}" is taken for the trigger: {count} controls lack only that')
    return chosen, why


def _same_setting(found: _Found, control: _Found) -> bool:
    """Whether a control that names a strength or epoch names this picture's."""
    name = control.name
    if name.strength is not None and name.strength != found.strength:
        return False
    if name.epoch is not None and name.epoch != found.place[0]:
        return False
    return name.strength is not None or name.epoch is not None


def _problem(found: _Found, control: _Found, triggers: Sequence[str]) -> list[str]:
    if found.name.trainer and not found.name.seeded:
        return ["noise of its own (no seed was given to the trainer)"]
    name = control.name
    if name.strength is not None and name.strength not in (0, found.strength):
        return [f"strength {name.strength} in its name"]
    if name.epoch not in (None, 0, found.place[0]) and not name.untrained:
        return [f"epoch {name.epoch} in its name"]
    if found.facts is None or control.facts is None:
        return []
    told = differences(found.facts, control.facts, triggers)
    rest = {(use.name, use.strength) for use in found.background}
    theirs = control.background or (control.facts.loras if control.lora is None else ())
    if found.facts.lists_loras and control.facts.lists_loras:
        if {(use.name, use.strength) for use in theirs} != rest:
            told.append("other LoRAs besides the one under study")
        if control.lora is not None and control.lora.strength != 0:
            told.append(f"a LoRA itself ({control.lora.name})")
    return told


def _parent_case(case: str, number: int) -> str:
    """The case of control_NN without its number: "" for the ancestors' layout."""
    head, _, tail = case.rpartition("/")
    return head if tail.isdigit() and int(tail) == number else case


def _numbered(
    pictures: Sequence[_Found],
    numbered: Mapping[str, Sequence[_Found]],
    by_case: Mapping[str, Sequence[_Found]],
    axis: str,
    notes: list[str],
) -> dict[Path, _Found]:
    """control_01, control_02, ... for the settings in order, or for epochs by their own number."""
    result: dict[Path, _Found] = {}
    for case, controls in numbered.items():
        group = [f for f in pictures if f.name.case == case and f.facts is None]
        group = group or [f for f in pictures if f.name.case == case]
        if not group or any(f.name.case and f.name.case in by_case for f in group):
            continue
        ordered = sorted(controls, key=lambda c: c.name.number or 0)
        settings = sorted({_order(f) for f in group})
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
        result |= {f.path: place[_order(f)] for f in group if _order(f) in place}
    return result


def _order(found: _Found) -> tuple[float, float, Decimal]:
    """Training place (a final checkpoint last), then strength."""
    epoch, step = found.place
    last = float("inf")
    place = (float(step) if step is not None else -1.0, float(epoch) if epoch is not None else -1.0)
    if found.lora is not None and epoch is None and step is None:
        place = (last, last)
    if step is None and epoch is not None:
        place = (-1.0, float(epoch))
    return (*place, found.strength if found.strength is not None else Decimal(0))


# --- telling --------------------------------------------------------------------------------------


def _warn_explicit(
    control: Path, pictures: Sequence[_Found], triggers: Sequence[str], notes: list[str]
) -> None:
    facts = _facts(control)
    if facts is None:
        return
    told: Counter[str] = Counter()
    for found in pictures:
        if found.facts is not None:
            told.update(differences(found.facts, facts, triggers))
    if told:
        words = ", ".join(words for words, _ in told.most_common(3))
        notes.append(f"the control {control.name} is not quite comparable: it has {words}")


def _warn_unpaired(
    pictures: Sequence[_Found],
    chosen: Mapping[Path, Path | None],
    why: Mapping[Path, str],
    notes: list[str],
) -> None:
    alone = [found for found in pictures if chosen.get(found.path) is None]
    if not alone:
        return
    reasons = Counter(why[found.path] for found in alone)
    for reason, count in reasons.most_common(5):
        first = next(found.path.name for found in alone if why[found.path] == reason)
        which = first if count == 1 else f"{count} pictures ({first}, ...)"
        has = "has" if count == 1 else "have"
        notes.append(f"{which} {has} no comparable control: {reason}")
    if len(reasons) > 5:
        notes.append(f"{len(reasons) - 5} more reasons for missing controls are not shown")


def _list_idle(
    candidates: Sequence[_Found],
    chosen: Mapping[Path, Path | None],
    triggers: Sequence[str],
    rejected: list[Rejected],
) -> None:
    """Pictures without a LoRA that became nobody's control are listed, so that none vanishes."""
    used = set(chosen.values())
    served = {_case_key(found, triggers): found.path for found in candidates if found.path in used}
    for found in candidates:
        if found.path in used:
            continue
        if (same := served.get(_case_key(found, triggers))) is not None:
            reason = f"is a second control of the case that {same.name} is the control of"
        elif found.name.control:
            reason = "is a control that belongs to no picture"
        else:
            reason = "has no LoRA, and no picture shares its prompt, seed and settings"
        rejected.append(Rejected(found.path, reason))


def _warn_about(pictures: Sequence[_Found], notes: list[str]) -> None:
    unseeded = [f for f in pictures if not f.name.seeded]
    if unseeded:
        notes.append(
            f"{len(unseeded)} samples have no seed in their names: each starts from other noise, "
            "so they are judged without a control (add --d SEED to the trainer's prompt lines)"
        )
    lossy = [f for f in pictures if f.path.suffix.lower() in (".jpg", ".jpeg")]
    if lossy:
        notes.append(f"{len(lossy)} pictures are JPEG: BRISQUE sees the compression as well")
    split = [f for f in pictures if f.lora is not None and f.lora.text_strength is not None]
    if split:
        notes.append(
            f"{len(split)} pictures weight the text encoder differently; the denoiser's strength "
            "is taken"
        )
    liars = [
        f
        for f in pictures
        if f.lora is not None
        and f.lora.strength is not None
        and f.name.strength not in (None, f.lora.strength)
    ]
    if liars:
        notes.append(
            f"{len(liars)} names tell another strength than the metadata, which is believed "
            f"({liars[0].path.name} has {liars[0].lora.strength if liars[0].lora else ''})"
        )


def _picture(found: _Found) -> Picture:
    epoch, step = found.place
    facts = found.facts or Facts(source=found.name.trainer or "name")
    settings = dict(facts.settings)
    if found.name.size is not None:
        settings.setdefault("size", f"{found.name.size[0]}x{found.name.size[1]}")
    return Picture(
        path=found.path,
        strength=found.strength,
        epoch=epoch,
        step=step,
        lora=found.lora.name if found.lora is not None else found.name.lora,
        lora_hash=found.lora.hash if found.lora is not None else "",
        prompt=facts.prompt,
        negative=facts.negative,
        seed=facts.seed if facts.seed is not None else found.name.seed,
        settings=settings,
        source=facts.source,
        background=found.background,
    )


def _axis(pairs: Iterable[Pair], asked: Literal["strength", "epoch"]) -> Axis:
    pictures = [pair.picture for pair in pairs]
    places = {(p.epoch, p.step, p.lora_hash or p.lora) for p in pictures}
    known = any(p.epoch is not None or p.step is not None for p in pictures)
    strengths = {p.strength for p in pictures if p.strength is not None}
    if known and len(places) > 1 and len(strengths) > 1:
        return "both"
    return asked
