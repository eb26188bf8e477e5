"""A training output folder (or a few files) -> the ordered checkpoints of one training run.

Understood: kohya's sd-scripts and FluxGym, ai-toolkit, OneTrainer, SimpleTuner, diffusers' example
scripts, diffusion-pipe, and plain numbered names. The place in training is read from metadata
first, then from names, then from SimpleTuner's training_state.json; file times are never used.
"""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path

from generation.cells import Checkpoint
from generation.errors import UserError, named
from generation.files import read_utf8
from generation.loras import inspection as lora
from generation.loras.names import (
    BACKUP_FOLDER,
    EMA_NAMES,
    WEIGHT_NAMES,
    Place,
    doubt,
    is_checkpoint_folder,
    is_onetrainer_save,
    place_of,
)

__all__ = ["Checkpoint", "CheckpointList", "find_checkpoints"]


@dataclass(frozen=True)
class CheckpointList:
    """The checkpoints of one run in training order, and what the user should know about them.

    ``trainer`` is kohya, fluxgym, ai-toolkit, onetrainer, simpletuner, diffusers, diffusion-pipe
    or None where nothing tells. ``unreadable`` are files of the run that cannot be read, with the
    reason; their place is what the name alone tells.
    """

    checkpoints: tuple[Checkpoint, ...]
    trainer: str | None
    warnings: tuple[str, ...]
    unreadable: tuple[tuple[Checkpoint, str], ...] = ()


@dataclass(frozen=True)
class _Found:
    """One readable LoRA file with all that was learnt about its place."""

    path: Path
    name: str
    place: Place
    metadata: Mapping[str, str]
    state: Mapping[str, object]
    final: bool = False


@dataclass(frozen=True)
class _Run:
    """The files of one training; ``doubt`` says what the numbers in their names may be instead."""

    name: str
    members: tuple[_Found, ...]
    doubt: str = ""


_PICKLES = {".pt", ".ckpt", ".pth", ".bin"}
# States and companions that trainers leave beside the LoRAs.
_COMPANION = re.compile(
    r"optimizer.*|scheduler.*|random_states.*|CRITIC_.*|.*_(?:refiner|t2i|cn|ip)|ema_model|"
    r"pytorch_lora_weights_kohya|.*-state",
    re.S | re.I,
)


def find_checkpoints(
    paths: Sequence[str | Path], name: str | None = None, ema: bool = False
) -> CheckpointList:
    """Order the checkpoints of one training run.

    ``paths`` are folders and files; ``name`` chooses one run where a folder holds several, or some
    files of it (``dog-step*``); with ``ema`` SimpleTuner's averaged weights are taken in place of
    the plain ones. Files with the same tensor bytes become one checkpoint whose other names are its
    ``aliases``. Files that are named one by one are one series; where nothing else tells their
    order, it is that in which they are named. Raises ``UserError`` where nothing usable is there,
    where several runs are and none was chosen, and where a folder's order cannot be decided.
    """
    if not paths:
        raise UserError("Name a LoRA file, or a folder of checkpoints.")
    warnings: list[str] = []
    unreadable: list[tuple[Path, str]] = []
    named: list[_Found] = []
    runs: list[_Run] = []
    for path in map(Path, paths):
        if _is_folder(path):
            inside = _runs_of(path, ema, warnings, unreadable)
            twice = {run.name for run in runs} & {run.name for run in inside}
            runs += [
                replace(run, name=f"{path.name}/{run.name}") if run.name in twice else run
                for run in inside
            ]
        else:
            named.append(_read(path, place_of(path)))
    if named:
        # A file may be named beside its folder.
        found = {item.path: item for item in (*named, *(i for run in runs for i in run.members))}
        run = _one_series(list(found.values()))
    else:
        run = _choose(runs, name, Path(paths[0]))
    stems = {member.place.run for member in run.members}
    lost = []
    for path, reason in unreadable:
        if place_of(path).run in stems:
            lost.append((path, reason))
        else:
            warnings.append(f"Skipped: {reason}")
    names = _names([*(member.path for member in run.members), *(path for path, _ in lost)])
    run = replace(run, members=tuple(replace(m, name=names[m.path]) for m in run.members))
    return replace(
        _ordered(run, warnings, None if named else Path(paths[0])),
        unreadable=tuple(
            (Checkpoint(path, names[path], place_of(path).epoch, place_of(path).step), reason)
            for path, reason in lost
        ),
    )


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """A name for each file, unlike the others': its stem, else with the folders above it."""
    trails = {path: [lora.one_line(part) for part in _trail(path)] for path in paths}
    depth = dict.fromkeys(paths, 1)
    while True:
        names = {path: "/".join(trails[path][-depth[path] :]) for path in paths}
        count = Counter(names.values())
        shared = [p for p in names if count[names[p]] > 1 and depth[p] < len(trails[p])]
        if not shared:
            return names
        for path in shared:
            depth[path] += 1


def _trail(path: Path) -> list[str]:
    """The folders and the name that tell a file apart; not what all checkpoint folders hold."""
    trail = [*path.parent.parts, path.stem]
    if path.stem in WEIGHT_NAMES and is_checkpoint_folder(path.parent.name):
        return trail[:-1]
    if path.stem == path.parent.name == "lora" and BACKUP_FOLDER.fullmatch(trail[-3]):
        return trail[:-2]
    return trail


def _show(path: Path) -> str:
    return lora.one_line(str(path))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(
            (Path(entry.path) for entry in os.scandir(folder)), key=lambda p: _natural(p.name)
        )
    except OSError as error:
        raise UserError(f"{_show(folder)} cannot be read ({error.strerror}).") from error


def _natural(name: str) -> list[tuple[int, int, str]]:
    """epoch2 before epoch10."""
    pieces = re.findall(r"\d{1,18}|\D+|\d", name)
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in pieces]


# ---------------------------------------------------------------------------------------------
# Discovery


def _runs_of(
    folder: Path, ema: bool, warnings: list[str], unreadable: list[tuple[Path, str]]
) -> list[_Run]:
    """The runs in a folder, each with its readable checkpoints."""
    files, pickles = lora_files(folder, ema)
    if ema and not files:
        raise UserError(f"{_show(folder)} holds no EMA weights; leave out {named('ema')}.")
    found = []
    for path in files:
        try:
            found.append(_read(path, place_of(path)))
        except UserError as problem:
            unreadable.append((path, str(problem)))
    if not found:
        if unreadable:
            raise UserError(f"{_show(folder)} holds no usable LoRA: {unreadable[0][1]}")
        if pickles:
            raise UserError(
                f"{_show(folder)} holds only pickles such as {_show(Path(pickles[0].name))}, which "
                "can run code; convert them to safetensors with the program that made them."
            )
        raise UserError(f"{_show(folder)} holds no LoRA files{_hint(folder)}.")
    if pickles:
        warnings.append(
            f"Skipped {len(pickles)} pickle file(s) such as {_show(Path(pickles[0].name))}; "
            "only safetensors are read."
        )
    return _grouped(found)


def _hint(folder: Path) -> str:
    for child in _entries(folder):
        if _is_folder(child) and lora_files(child, False)[0]:
            return f"; its folder {_show(Path(child.name))} does, so name that"
    return " (*.safetensors)"


def lora_files(folder: Path, ema: bool) -> tuple[list[Path], list[Path]]:
    """(safetensors that may be checkpoints, pickles), without looking into them."""
    entries = _entries(folder)
    if is_checkpoint_folder(folder.name):
        only = _inside(folder, ema)
        if only:
            return only, []
    files, pickles, backups = [], [], []
    for entry in entries:
        if entry.suffix.lower() == ".safetensors":
            if not _COMPANION.fullmatch(entry.stem) and not entry.name.startswith("."):
                files.append(entry)
        elif entry.suffix.lower() in _PICKLES and not _COMPANION.fullmatch(entry.stem):
            pickles.append(entry)
        elif _is_folder(entry):
            if is_checkpoint_folder(entry.name):
                files += _inside(entry, ema)
            elif entry.name == "save":  # OneTrainer's workspace
                files += [p for p in lora_files(entry, False)[0] if is_onetrainer_save(p.stem)]
            elif entry.name == "backup":
                backups += [p for p in _entries(entry) if BACKUP_FOLDER.fullmatch(p.name)]
            elif BACKUP_FOLDER.fullmatch(entry.name):
                backups.append(entry)
    if ema:
        averaged = [path for path in files if path.parent.name == "ema"]
        averaged += _named(folder / "ema", EMA_NAMES)
        return averaged, pickles
    if not any(is_onetrainer_save(path.stem) for path in files):
        files += [path for backup in backups for path in _named(backup / "lora", ("lora",))]
    return files, pickles


def _inside(folder: Path, ema: bool) -> list[Path]:
    """The weights of one checkpoint folder: the known name, else the only LoRA-like file."""
    if ema:
        return _named(folder / "ema", EMA_NAMES)
    known = _named(folder, WEIGHT_NAMES)
    if known:
        return known[:1]
    others = [
        path
        for path in _entries(folder)
        if path.suffix.lower() == ".safetensors"
        and not _COMPANION.fullmatch(path.stem)
        and path.stem != "model"
    ]
    return others if len(others) == 1 else []


def _named(folder: Path, names: Iterable[str]) -> list[Path]:
    paths = [folder / f"{name}.safetensors" for name in names]
    return [path for path in paths if path.is_file()]


def _read(path: Path, place: Place) -> _Found:
    metadata = lora.inspect(path).metadata
    return _Found(path, _trail(path)[-1], place, metadata, _training_state(path.parent))


def _training_state(folder: Path) -> Mapping[str, object]:
    """SimpleTuner's training_state.json beside the weights, or one folder up for EMA."""
    for place in (folder, folder.parent) if folder.name == "ema" else (folder,):
        path = place / "training_state.json"
        try:
            state = lora.parse_json(read_utf8(path, 10_000_000))
            return state if isinstance(state, dict) else {}
        except (OSError, ValueError):
            pass
    return {}


# ---------------------------------------------------------------------------------------------
# Grouping


def _grouped(found: Sequence[_Found]) -> list[_Run]:
    """The runs among the files. An unnumbered file closes the run whose name or session it has."""
    found = [_settled(item, found) for item in found]
    placed: dict[tuple[str, str], list[_Found]] = {}
    series: dict[tuple[str, str], list[_Found]] = {}
    bare = []
    for item in found:
        key = item.place.run, _scheme(item)
        if item.place.united:
            placed.setdefault(key, []).append(item)
        elif item.place.number is not None:
            series.setdefault(key, []).append(item)
        else:
            bare.append(item)
    for groups in (placed, series):
        for key, members in list(groups.items()):
            if (groups is series and key in placed) or not _is_series(members):
                bare += [_unplaced(item) for item in groups.pop(key)]
    runs = {key: _Run(key[0], tuple(members)) for key, members in placed.items()}
    runs |= {key: _Run(key[0], tuple(members)) for key, members in series.items()}
    runs = {key: replace(run, doubt=_doubt(run.members)) for key, run in runs.items()}
    finals: dict[tuple[str, str], list[_Found]] = {}
    rest: dict[object, list[_Found]] = {}
    for item in bare:
        home = _home(item, runs)
        if home is not None:
            finals.setdefault(home, []).append(replace(item, final=True))
        else:
            rest.setdefault(_own_key(item), []).append(item)
    whole = [
        replace(run, members=(*run.members, *finals.get(key, ()))) for key, run in runs.items()
    ]
    whole += [_Run(_own_name(members[0]), tuple(members)) for members in rest.values()]
    shared = Counter(run.name for run in whole)
    whole = [run if shared[run.name] < 2 else replace(run, name=_apart(run)) for run in whole]
    return sorted(whole, key=lambda run: _natural(run.name))


def _apart(run: _Run) -> str:
    """Another name for a run that shares its own: whose pattern it is, or its first file's."""
    first = run.members[0]
    return (
        f"{run.name} ({_scheme(first)})"
        if _has_place(first) and first.place.united
        else (first.path.stem)
    )


def _settled(item: _Found, found: Sequence[_Found]) -> _Found:
    """A file whose whole name is a run's name says no place, whatever number it ends in."""
    stem = item.path.stem
    if item.place.scheme == "folder":
        return item
    said = {other.metadata.get("ss_output_name") for other in found}
    united = {other.place.run for other in found if other.place.united and other is not item}
    return _unplaced(item) if stem in said or stem in united else item


def _unplaced(item: _Found) -> _Found:
    place = item.place
    return replace(
        item, place=Place(item.path.stem, place.scheme, form=place.form, half=place.half)
    )


def _scheme(item: _Found) -> str:
    """Whose pattern a file belongs to: files of one run that were renamed stay together."""
    trainer = lora.trainer(item.metadata)
    plain = item.place.scheme == "plain" and trainer in {"kohya", "ai-toolkit"}
    return trainer if plain and trainer else item.place.scheme


def _is_series(members: Sequence[_Found]) -> bool:
    """Whether names that end alike are places of one run.

    Numbers without a unit, and units of a single letter, are places only in a series: `style2` and
    `style_e621` alone are just names, and so are the last files of so many training sessions.
    """
    if any(item.place.united and not item.place.letter for item in members):
        return True
    places = {(item.place.step, item.place.epoch, item.place.number) for item in members}
    sessions = [_session(item) for item in members]
    apart = None not in sessions and len(set(sessions)) == len(sessions)
    return len(places) > 1 and not apart


def _doubt(members: Sequence[_Found]) -> str:
    """What else a series' numbers may be, where the metadata do not place its files."""
    if all(_stored_place(item) for item in members):
        return ""
    if all(item.place.letter == "s" and (item.place.step or 1) % 10 for item in members):
        return "seeds"
    numbers = [item.place.number for item in members]
    return doubt(number for number in numbers if number is not None) if any(numbers) else ""


def _stored_place(item: _Found) -> bool:
    return lora.stored_step(item.metadata) is not None or (
        lora.stored_epoch(item.metadata) is not None
    )


def _session(item: _Found) -> str | None:
    session = item.metadata.get("ss_session_id")
    return None if session in {None, "", "None"} else session


def _home(item: _Found, runs: Mapping[tuple[str, str], _Run]) -> tuple[str, str] | None:
    """The run whose final file this unnumbered one is, if any."""
    place, session = item.place, _session(item)
    # kohya without --output_name: epoch-000001, at-step00000100, and last (train_util.py).
    names = ("epoch", "at") if place.run == "last" else (item.path.stem, place.run)
    for name in names:
        alike = [key for key in runs if key[0] == name]
        exact = [key for key in alike if key[1] == _scheme(item)]
        if exact or len(alike) == 1:
            return (exact or alike)[0]
    if place.form or place.copy:
        return None
    sessions = {key: {_session(member) for member in run.members} for key, run in runs.items()}
    for key, known in sessions.items():
        if session is not None and session in known:
            return key
    said = item.metadata.get("ss_output_name")
    for key, known in sessions.items():
        if key[0] == said and (session is None or known == {None}):
            return key
    # OneTrainer's final name is the user's choice and its metadata tell nothing.
    ours = [key for key in runs if key[1] == "onetrainer"]
    if len(runs) == 1 and ours and lora.trainer(item.metadata) == "onetrainer":
        return ours[0]
    return None


def _own_key(item: _Found) -> object:
    """Renamed epochs of one run still share their session; other files stand alone."""
    session = _session(item)
    if session is not None and not item.place.form:
        return session
    return item.path.parent, _own_name(item)


def _own_name(item: _Found) -> str:
    said = item.metadata.get("ss_output_name")
    if said and _session(item) is not None and not item.place.form:
        return said
    return item.place.run if item.place.copy else item.path.stem


def _one_series(found: Sequence[_Found]) -> _Run:
    """Files named one by one as one run, in the order given."""
    runs = _grouped(found)
    members = {item.path: item for run in runs for item in run.members}
    doubts = [run.doubt for run in runs if run.doubt]
    placed = [run for run in runs if any(_has_place(item) for item in run.members)]
    if len(placed) > 1:
        names = ", ".join(lora.one_line(run.name) for run in placed[:4])
        doubts.append(f"files of several runs ({names})")
    return _Run(
        found[0].path.stem, tuple(members[item.path] for item in found), "".join(doubts[:1])
    )


def _has_place(item: _Found) -> bool:
    return item.place.united or item.place.number is not None or _stored_place(item)


def _choose(runs: Sequence[_Run], name: str | None, where: Path) -> _Run:
    if name is not None:
        return _named_run(runs, name, where)
    if len(runs) == 1:
        (run,) = runs
        if run.doubt:
            raise UserError(
                f"{_show(where)}: the numbers in {_few(run)} may be places in training or "
                f"{run.doubt}, and nothing in the files says which; {named('name')} "
                f"{shlex.quote(lora.one_line(run.name))} takes them as places, or name the files "
                "in order."
            )
        return run
    halves = {item.place.half for run in runs for item in run.members}
    if {"high", "low"} <= halves:
        raise UserError(
            f"{_show(where)} holds the high-noise and the low-noise half of a LoRA for a model of "
            f"two (Wan 2.2): {_listed(runs)}; choose one half with {named('name')}."
        )
    raise UserError(
        f"{_show(where)} holds several LoRAs: {_listed(runs)}; choose one with "
        f"{named('name')}, or name the files of one training in order."
    )


def _named_run(runs: Sequence[_Run], name: str, where: Path) -> _Run:
    """The run, file or files (`dog-step*`) of a name; who names a run says that it is one."""
    wanted = name.removesuffix(".safetensors").casefold()
    for run in runs:
        if run.name.casefold() == wanted:
            return replace(run, doubt="")
    for run in runs:
        hits = [
            item
            for item in run.members
            if any(fnmatch(text.casefold(), wanted) for text in (item.path.stem, item.name))
        ]
        if hits:
            return replace(run, members=tuple(hits), doubt="")
    raise UserError(
        f"{_show(where)} holds no LoRA named {lora.one_line(name)[:60]}; it holds {_listed(runs)}."
    )


def _few(run: _Run) -> str:
    names = [lora.one_line(item.path.stem) for item in run.members[:4]]
    return ", ".join(names) + (", ..." if len(run.members) > 4 else "")


def _listed(runs: Sequence[_Run]) -> str:
    """The runs by name and size; what may be none, file by file."""
    entries = []
    for run in runs:
        if run.doubt:
            entries += [f"{lora.one_line(item.path.stem)[:60]} (1)" for item in run.members]
        else:
            entries.append(f"{lora.one_line(run.name)[:60]} ({len(run.members)})")
    more = f" and {len(entries) - 12} more" if len(entries) > 12 else ""
    return ", ".join(entries[:12]) + more


# ---------------------------------------------------------------------------------------------
# Order


def _ordered(run: _Run, warnings: list[str], folder: Path | None) -> CheckpointList:
    """A run's checkpoints in order; without a ``folder`` they were named one by one."""
    members = run.members
    _warn_of_sessions(members, warnings)
    numbers_are_steps = any((item.place.number or 0) > 500 for item in members)
    if not run.doubt:
        _warn_of_units(members, numbers_are_steps, warnings)
    drafts = []
    for item in members:
        step, epoch, source = _position(item, numbers_are_steps)
        checkpoint = Checkpoint(
            path=item.path,
            name=item.name,
            epoch=epoch,
            step=step,
            final=item.final,
            position_source=source,
            tensor_hash=lora.tensor_hash(item.path),
        )
        _warn_of_renaming(item, checkpoint, warnings)
        drafts.append(checkpoint)
    steps = _by_step(drafts)
    trouble = run.doubt and f"the numbers in the names may be {run.doubt}"
    if run.doubt.startswith("files of"):
        trouble = f"these are {run.doubt}"
    trouble = trouble or _undecided(members, drafts, steps)
    if trouble and folder is not None:
        raise UserError(
            f"{_show(folder)}: {trouble}; choose files with {named('name')}, or name them in order."
        )
    if trouble:
        warnings.append(f"Taken in the order of naming: {trouble}.")
    else:
        drafts = _sorted(drafts, steps, warnings)
    merged = _labelled(_unique(drafts))
    return CheckpointList(tuple(merged), _trainer_of(members), tuple(dict.fromkeys(warnings)))


def _warn_of_units(members: Sequence[_Found], numbers_are_steps: bool, warnings: list[str]) -> None:
    sources = {_position(item, numbers_are_steps)[2] for item in members}
    if "number in the name" in sources:
        unit = "steps" if numbers_are_steps else "epochs"
        warnings.append(f"The numbers in the names are taken as {unit}; nothing says so.")
    letters = {item.place.letter for item in members if not _stored_place(item)} - {""}
    for letter in sorted(letters & {"k", "s"}):
        meant = "thousands of steps" if letter == "k" else "steps"
        warnings.append(f"The letter {letter} in the names is taken as {meant}; nothing says so.")


def _by_step(drafts: Sequence[Checkpoint]) -> bool:
    """Whether a run is ordered by step: where every numbered file has one, unless steps began anew
    in a resumed run whose epochs went on."""
    numbered = [c for c in drafts if not c.final]
    steps = all(c.step is not None for c in numbered)
    if not all(c.epoch is not None for c in numbered):
        return steps or sum(c.step is not None for c in numbered) >= sum(
            c.epoch is not None for c in numbered
        )
    if not steps:
        return False
    by_epoch = [c.step or 0 for c in sorted(numbered, key=lambda c: (c.epoch or 0, c.step or 0))]
    return all(a <= b for a, b in pairwise(by_epoch))


def _undecided(members: Sequence[_Found], drafts: Sequence[Checkpoint], steps: bool) -> str:
    """Why the order of the files cannot be told from them, or "" where it can."""
    if len({c.tensor_hash for c in drafts}) < 2:
        return ""

    def at(checkpoint: Checkpoint) -> int | None:
        return checkpoint.step if steps else checkpoint.epoch

    pairs = list(zip(members, drafts, strict=True))
    for item, draft in pairs:
        for other_item, rival in pairs if item.place.copy else ():
            same = (rival.step, rival.epoch) == (draft.step, draft.epoch)
            if same and rival.tensor_hash != draft.tensor_hash:
                if other_item.place.copy:
                    return f"{draft.name} and {rival.name} may be copies or places in training"
                return f"{draft.name} is a copy of {rival.name} by its name, but they differ"
    unit, other = ("step", "epoch") if steps else ("epoch", "step")
    numbered = [c for c in drafts if not c.final]
    lost = [c for c in numbered if at(c) is None]
    named = [c for c in lost if getattr(c, other) is not None]
    if named and len(named) < len(numbered):
        placed = next(c for c in numbered if at(c) is not None)
        return (
            f"{placed.name} tells its {unit} and {named[0].name} its {other}, and nothing says "
            "which came first"
        )
    if lost:
        names = ", ".join(c.name for c in lost[:4]) + (", ..." if len(lost) > 4 else "")
        return f"{names} {'has' if len(lost) == 1 else 'have'} no {unit} in metadata or name"
    ends = {c.tensor_hash: c for c in drafts if c.final and at(c) is None}
    if len(ends) > 1:
        names = " and ".join(c.name for c in list(ends.values())[:3])
        return f"{names} all bear a final file's name and differ"
    return ""


def _warn_of_sessions(members: Sequence[_Found], warnings: list[str]) -> None:
    sessions = {item.metadata.get("ss_session_id") for item in members} - {None, "None"}
    if len(sessions) > 1:
        warnings.append(
            f"The files come from {len(sessions)} training sessions (a resumed run, or several "
            "runs under one name)."
        )


def _position(item: _Found, numbers_are_steps: bool) -> tuple[int | None, int | None, str]:
    """(step, epoch, where they were read). Metadata, then the names, then training_state.json."""
    place = item.place
    step, step_from = lora.stored_step(item.metadata), "metadata"
    epoch, epoch_from = lora.stored_epoch(item.metadata), "metadata"
    if place.step_save and "ss_epoch" in item.metadata:
        # kohya's step saves store the epoch they are in, counted from 0, not one they finished.
        epoch = None
    if step is None:
        step, step_from = place.step, "name"
    if epoch is None:
        epoch, epoch_from = place.epoch, "name"
    if step is None and epoch is None and place.number is not None:
        if numbers_are_steps:
            return place.number, None, "number in the name"
        return None, place.number, "number in the name"
    if step is None:
        step, step_from = lora.whole_number(item.state.get("global_step")), "training_state.json"
    if epoch is None:
        epoch, epoch_from = lora.whole_number(item.state.get("epoch")), "training_state.json"
    sources = []
    if epoch is not None:
        sources.append(("epoch", epoch_from))
    if step is not None:
        sources.append(("step", step_from))
    if len({source for _, source in sources}) == 1:
        return step, epoch, sources[0][1]
    return step, epoch, ", ".join(f"{what}: {source}" for what, source in sources) or "none"


def _warn_of_renaming(item: _Found, checkpoint: Checkpoint, warnings: list[str]) -> None:
    for what, by_name, told in (
        ("step", item.place.step, checkpoint.step),
        ("epoch", item.place.epoch, checkpoint.epoch),
    ):
        if by_name is not None and told is not None and by_name != told:
            warnings.append(
                f"{checkpoint.name} is {what} {by_name} by its name but {told} by its metadata; "
                "the metadata were believed."
            )


def _sorted(drafts: Sequence[Checkpoint], steps: bool, warnings: list[str]) -> list[Checkpoint]:
    """By step or epoch; the final file closes the run."""

    def at(checkpoint: Checkpoint) -> int | None:
        return checkpoint.step if steps else checkpoint.epoch

    numbered = [c for c in drafts if not c.final]
    lost = sorted((c for c in numbered if at(c) is None), key=lambda c: _natural(c.path.stem))
    placed = sorted(
        (c for c in numbered if at(c) is not None),
        key=lambda c: (at(c), c.epoch or 0, _natural(c.path.stem)),
    )
    final = sorted((c for c in drafts if c.final), key=lambda c: (at(c) is None, at(c) or 0))
    newest = max((at(c) or 0 for c in placed), default=0)
    stale = [c for c in final if at(c) is not None and (at(c) or 0) < newest]
    for checkpoint in stale:
        unit = "step" if steps else "epoch"
        warnings.append(
            f"{checkpoint.name} bears the final file's name but stems from {unit} "
            f"{at(checkpoint)}, before the last numbered file; it was placed there."
        )
        final.remove(checkpoint)
        placed.append(replace(checkpoint, final=False))
        placed.sort(key=lambda c: (at(c), c.epoch or 0, _natural(c.path.stem)))
    repeated = [n for n, count in Counter(map(at, placed)).items() if count > 1]
    for number in repeated:
        same = [c for c in placed if at(c) == number]
        if len({c.tensor_hash for c in same}) > 1:
            warnings.append(
                f"{len(same)} different files claim {'step' if steps else 'epoch'} {number}: "
                + ", ".join(c.name for c in same[:4])
                + "."
            )
    return placed + lost + final


def _unique(ordered: Sequence[Checkpoint]) -> list[Checkpoint]:
    """One checkpoint per tensor hash, at its first place, with the other names as aliases."""
    kept: dict[str, Checkpoint] = {}
    for checkpoint in ordered:
        first = kept.setdefault(checkpoint.tensor_hash, checkpoint)
        if first is not checkpoint:
            kept[checkpoint.tensor_hash] = replace(
                first,
                aliases=(*first.aliases, checkpoint.name),
                final=first.final or checkpoint.final,
                epoch=checkpoint.epoch if first.epoch is None else first.epoch,
                step=checkpoint.step if first.step is None else first.step,
            )
    return list(kept.values())


def _labelled(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Each with the shortest name that is its own: "epoch 10", "epoch 10 · step 240", "final"."""
    named = list(checkpoints)
    for words in (_place_words, _places_words, _all_words):
        repeated = Counter(checkpoint.label for checkpoint in named)
        named = [
            replace(c, label=words(c)) if not c.label or repeated[c.label] > 1 else c for c in named
        ]
    return named


def _place_words(checkpoint: Checkpoint) -> str:
    for unit, number in (("epoch", checkpoint.epoch), ("step", checkpoint.step)):
        if number is not None:
            return f"{unit} {number}"
    return "final" if checkpoint.final else checkpoint.name


def _places_words(checkpoint: Checkpoint) -> str:
    where = _place_words(checkpoint)
    if checkpoint.epoch is not None and checkpoint.step is not None:
        return f"{where} · step {checkpoint.step}"
    return where


def _all_words(checkpoint: Checkpoint) -> str:
    return f"{_places_words(checkpoint)} ({checkpoint.name})"


_SCHEME_TRAINERS = {name: name for name in ("kohya", "ai-toolkit", "onetrainer")}


def _trainer_of(members: Sequence[_Found]) -> str | None:
    told: Counter[str] = Counter()
    for item in members:
        trainer = lora.trainer(item.metadata) or _SCHEME_TRAINERS.get(item.place.scheme)
        if item.state or (item.path.parent / "training_state.json").is_file():
            trainer = "simpletuner"
        if trainer is None and item.place.scheme == "folder" and item.place.united:
            checkpoint = item.path.parent.name.lower().startswith("checkpoint")
            trainer = "diffusers" if checkpoint else "diffusion-pipe"
        if trainer:
            told[trainer] += 1
    if not told:
        return None
    trainer = told.most_common(1)[0][0]
    # FluxGym drives kohya's scripts and leaves these beside the LoRAs (its app.py).
    folder = members[0].path.parent
    if trainer == "kohya" and all(
        (folder / name).is_file() for name in ("dataset.toml", "sample_prompts.txt")
    ):
        return "fluxgym"
    return trainer
