"""A folder of pictures -> pictures with their settings, each paired with its control.

Metadata is believed before names. A pair is comparable only if prompt (LoRA tags and trigger
removed), negative prompt, seed, size, steps, sampler, guidance and base model agree as far as both
pictures tell; what takes no part is listed with its reason.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Literal

from analysers.intake.cases import Key, case_key, case_names, differences
from analysers.intake.controls import match_controls, zero_as_control
from analysers.intake.found import Found, as_control, facts_of, order, scan
from analysers.intake.studies import axis_of
from generation.errors import UserError, named
from generation.pictures.pixels import read_image, read_size, read_text
from generation.pictures.readers.grids import cut_grid
from generation.pictures.readers.names import LOOKED_FOR, parse_name
from generation.pictures.readers.picture import (
    Facts,
    LoraUse,
    Pair,
    Picture,
    PictureSet,
    Rejected,
)


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
    _check_paths(folder, control, controls)
    notes: list[str] = []
    rejected: list[Rejected] = []
    apart = {os.path.realpath(control)} if control is not None else set()
    given = scan(controls, set(), rejected) if controls is not None else []
    given = [as_control(found) for found in given]
    apart |= {os.path.realpath(found.path) for found in given}
    everything = scan(folder, apart, rejected)
    if not everything:
        skipped = f" ({rejected[0].path.name} {rejected[0].reason})" if rejected else ""
        raise UserError(f"no pictures found in {folder}{skipped}; looked for {LOOKED_FOR}.")

    usable = _reject_unfit(_cut_grids(everything, cells, rejected, notes), rejected)
    usable = _reject_unknown(usable, axis, rejected, notes)
    given = _reject_unknown(given, axis, rejected, notes)
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

    names = case_names(pictures, triggers)
    chosen: dict[Path, Path | None]
    if control is not None:
        chosen = {found.path: control for found in pictures}
        _warn_explicit(control, pictures, triggers, notes)
    else:
        chosen, against = match_controls(pictures, candidates, axis, triggers, notes)
        pictures = zero_as_control(pictures, chosen, triggers, notes)
        _warn_unpaired(pictures, chosen, against, notes)
        _list_idle(candidates, chosen, triggers, rejected)
    _warn_about(pictures, notes)

    ordered = sorted(pictures, key=lambda found: (order(found), names[found.path], found.path))
    pairs = tuple(
        Pair(_picture(found), chosen.get(found.path), names[found.path]) for found in ordered
    )
    return PictureSet(pairs, tuple(rejected), tuple(notes), axis_of(pairs, axis))


def _check_paths(folder: Path, control: Path | None, controls: Path | None) -> None:
    for path, field in ((folder, "images"), (controls, "controls")):
        if path is not None and not path.is_dir():
            why = "is not a folder" if path.exists() else "does not exist"
            raise UserError(f"{path} {why}; name the folder with the pictures.", field=field)
    if controls is not None and controls.resolve() == folder.resolve():
        raise UserError(
            f"this is the folder of {named('images')} itself; leave the option out.",
            field="controls",
        )
    if control is not None and not control.is_file():
        why = "is not a file" if control.exists() else "does not exist"
        raise UserError(
            f"{control} {why}; name the picture made without the LoRA.", field="control"
        )


def _cut_grids(
    everything: Sequence[Found], cells: Path | None, rejected: list[Rejected], notes: list[str]
) -> list[Found]:
    """Put the cells of X/Y/Z grids in the grids' place; reject grids that cannot be cut."""
    kept: list[Found] = []
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
            kept += [Found(path, parse_name(PurePath(path.name)), facts_of(path)) for path in paths]
            cut, count = cut + 1, count + len(paths)
    if cut:
        notes.append(f"{cut} X/Y/Z grids were cut into {count} pictures")
    return kept


def _reject_unfit(everything: Sequence[Found], rejected: list[Rejected]) -> list[Found]:
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


def _reject_unknown(
    everything: Sequence[Found], axis: str, rejected: list[Rejected], notes: list[str]
) -> list[Found]:
    """Leave out pictures whose LoRAs are not certain; a name that tells strength or place counts.

    Such a picture is nobody's control: it may have a LoRA.
    """
    kept, by_name = [], []
    for found in everything:
        name = found.name
        unknown = found.facts.unknown if found.facts is not None else ""
        told = name.strength if axis == "strength" else (name.epoch or name.step)
        if not unknown:
            kept.append(found)
        elif told is not None and told != 0 and not name.control:
            by_name.append(found)
        else:
            rejected.append(Rejected(found.path, unknown))
    if by_name:
        first = by_name[0]
        notes.append(
            f"{len(by_name)} pictures do not tell their LoRAs with certainty, and their names are "
            f"believed ({first.path.name} {first.facts.unknown if first.facts else ''})"
        )
    return sorted([*kept, *by_name], key=lambda one: one.path)


def _is_batch_grid(found: Found) -> bool:
    """A1111 saves the pictures of a batch side by side as grid-0001.png, with the first's text."""
    if found.facts is None or not re.match(r"grid-\d", found.path.name):
        return False
    size = read_size(found.path)
    return size is not None and f"{size[0]}x{size[1]}" != found.facts.settings.get("size")


def _choose_lora(
    usable: Sequence[Found], triggers: Sequence[str], rejected: list[Rejected]
) -> list[Found]:
    """Decide which of a picture's LoRAs is under study: the one that not every picture of the
    case shares. LoRAs that all share, at the same strength, are background."""
    groups: dict[Key, list[Found]] = defaultdict(list)
    kept = []
    for found in usable:
        if found.facts is None or not found.facts.loras:
            kept.append(found)
        groups[case_key(found, triggers)].append(found)
    for group in groups.values():
        with_metadata = [f for f in group if f.facts is not None and f.facts.lists_loras]
        sets = [set(f.facts.loras) for f in with_metadata if f.facts]
        shared = set.intersection(*sets) if sets else set()
        if all(len(names) == len(shared) for names in sets):
            shared = set()  # nothing varies within this case
        for found in group:
            if found.facts is None or not found.facts.loras:
                continue
            under = [u for u in found.facts.loras if u not in shared]
            background = tuple(u for u in found.facts.loras if u in shared)
            if len(under) > 1:
                names = ", ".join(use.name for use in under)
                rejected.append(
                    Rejected(found.path, f"uses {len(under)} LoRAs at once ({names[:200]})")
                )
                continue
            kept.append(replace(found, lora=under[0] if under else None, background=background))
    return sorted(kept, key=lambda one: one.path)


def _split_controls(
    usable: Sequence[Found], axis: str, rejected: list[Rejected]
) -> tuple[list[Found], list[Found]]:
    """Tell pictures under the LoRA from controls, and reject what is neither."""
    pictures, controls = [], []
    for found in usable:
        name = found.name
        placed = found.strength is not None or found.place != (None, None)
        without = found.facts is not None and found.facts.lists_loras and found.lora is None
        if name.control or (without and not placed):
            controls.append(found)
        elif axis == "strength" and found.strength is None:
            rejected.append(Rejected(found.path, _unplaced(found, "strength")))
        elif axis == "epoch" and found.place == (None, None) and found.lora is None:
            rejected.append(Rejected(found.path, _unplaced(found, "epoch or step")))
        else:
            pictures.append(found)
    return _placed_alike(pictures, rejected) if axis == "strength" else pictures, controls


def _placed_alike(pictures: Sequence[Found], rejected: list[Rejected]) -> list[Found]:
    """Of pictures by name alone, those that tell an epoch or step or those that do not, whichever
    are more: what tells none has no place among checkpoints."""
    bare = [one for one in pictures if one.lora is None]
    placed = [one for one in bare if one.place != (None, None)]
    unplaced = [one for one in bare if one.place == (None, None)]
    fewer = min(unplaced, placed, key=len)
    for found in fewer:
        why = "tells an epoch or step, and most pictures here do not"
        why = why if fewer is placed else _unplaced(found, "epoch or step")
        rejected.append(Rejected(found.path, why))
    left_out = {found.path for found in fewer}
    return [one for one in pictures if one.path not in left_out]


def _unplaced(found: Found, what: str) -> str:
    """Why a picture has no place on the axis: it cannot be read, or nothing tells."""
    try:
        read_text(found.path)
    except UserError as error:
        return str(error).removeprefix(f"{found.path} ").removesuffix(".")
    return f"neither its name nor its metadata tell the {what}"


def _without_duplicates(
    pictures: Sequence[Found], triggers: Sequence[str], rejected: list[Rejected]
) -> list[Found]:
    """Of several pictures with the same setting and case keep one: the latest of a trainer's
    samples, else the first by name; one that cannot be read takes no other's place."""
    kept: list[Found] = []
    seen: dict[Key, Path] = {}
    keys: dict[Path, Key] = {}
    for found in pictures:
        place = (case_key(found, triggers), found.strength, found.place)
        keys[found.path] = (*place, _lora(found).name, found.background)
    often = Counter(keys.values())
    damaged = {path for path, key in keys.items() if often[key] > 1 and not _readable(path)}
    # Those that tell a hash first: a picture without one repeats any with its LoRA's name.
    first = sorted(pictures, key=lambda one: one.name.stamp, reverse=True)
    for found in sorted(first, key=lambda one: (one.path in damaged, not _lora(one).hash)):
        key, lora = keys[found.path], _lora(found)
        same = seen.get((*key, lora.hash[:12]))
        if same is not None:
            rejected.append(Rejected(found.path, f"shows the same setting and case as {same.name}"))
            continue
        kept.append(found)
        for digest in {lora.hash[:12], ""}:
            seen.setdefault((*key, digest), found.path)
    return sorted(kept, key=lambda one: one.path)


def _lora(found: Found) -> LoraUse:
    return found.lora or LoraUse(found.name.lora)


def _readable(path: Path) -> bool:
    try:
        read_image(path)
    except UserError:
        return False
    return True


def _warn_explicit(
    control: Path, pictures: Sequence[Found], triggers: Sequence[str], notes: list[str]
) -> None:
    facts = facts_of(control)
    if facts is None:
        return
    told: Counter[str] = Counter()
    if facts.unknown:
        told[f"perhaps a LoRA itself (it {facts.unknown})"] += len(pictures)
    for found in pictures:
        if found.facts is not None:
            told.update(differences(found.facts, facts, triggers))
    if told:
        words = ", ".join(words for words, _ in told.most_common(3))
        notes.append(f"the control {control.name} is not quite comparable: it has {words}")


def _warn_unpaired(
    pictures: Sequence[Found],
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
    candidates: Sequence[Found],
    chosen: Mapping[Path, Path | None],
    triggers: Sequence[str],
    rejected: list[Rejected],
) -> None:
    """Pictures without a LoRA that became nobody's control are listed, so that none vanishes."""
    used = set(chosen.values())
    served = {case_key(found, triggers): found.path for found in candidates if found.path in used}
    for found in candidates:
        if found.path in used:
            continue
        if (same := served.get(case_key(found, triggers))) is not None:
            reason = f"is a second control of the case that {same.name} is the control of"
        elif found.name.control:
            reason = "is a control that belongs to no picture"
        else:
            reason = "has no LoRA, and no picture shares its prompt, seed and settings"
        rejected.append(Rejected(found.path, reason))


def _warn_about(pictures: Sequence[Found], notes: list[str]) -> None:
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


def _picture(found: Found) -> Picture:
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
