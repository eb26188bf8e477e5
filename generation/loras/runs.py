"""LoRA files -> the trainings that they come from, told apart by names and metadata."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from generation.errors import UserError, named
from generation.files import read_utf8
from generation.loras import inspection as lora
from generation.loras.container import show
from generation.loras.folders import natural_key
from generation.loras.names import (
    BACKUP_FOLDER,
    WEIGHT_NAMES,
    Place,
    doubt,
    is_checkpoint_folder,
)


@dataclass(frozen=True)
class Found:
    """One readable LoRA file with all that was learnt about its place."""

    path: Path
    name: str
    place: Place
    metadata: Mapping[str, str]
    state: Mapping[str, object]
    final: bool = False


@dataclass(frozen=True)
class Run:
    """The files of one training; ``doubt`` says what the numbers in their names may be instead."""

    name: str
    members: tuple[Found, ...]
    doubt: str = ""


def distinct_names(paths: Sequence[Path]) -> dict[Path, str]:
    """A name for each file, unlike the others': its stem, else with the folders above it."""
    trails = {path: [lora.one_line(part) for part in trail_of(path)] for path in paths}
    depth = dict.fromkeys(paths, 1)
    while True:
        names = {path: "/".join(trails[path][-depth[path] :]) for path in paths}
        count = Counter(names.values())
        shared = [p for p in names if count[names[p]] > 1 and depth[p] < len(trails[p])]
        if not shared:
            return names
        for path in shared:
            depth[path] += 1


def trail_of(path: Path) -> list[str]:
    """The folders and the name that tell a file apart; not what all checkpoint folders hold."""
    trail = [*path.parent.parts, path.stem]
    if path.stem in WEIGHT_NAMES and is_checkpoint_folder(path.parent.name):
        return trail[:-1]
    if path.stem == path.parent.name == "lora" and BACKUP_FOLDER.fullmatch(trail[-3]):
        return trail[:-2]
    return trail


def read_lora(path: Path, place: Place) -> Found:
    """What a file at this place says of itself; raises UserError if it is no LoRA."""
    metadata = lora.inspect(path).metadata
    return Found(path, trail_of(path)[-1], place, metadata, _training_state(path.parent))


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


def runs_among(found: Sequence[Found]) -> list[Run]:
    """The runs among the files. An unnumbered file closes the run whose name or session it has."""
    found = [_settled(item, found) for item in found]
    placed: dict[tuple[str, str], list[Found]] = {}
    series: dict[tuple[str, str], list[Found]] = {}
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
    runs = {key: Run(key[0], tuple(members)) for key, members in placed.items()}
    runs |= {key: Run(key[0], tuple(members)) for key, members in series.items()}
    runs = {key: replace(run, doubt=_doubt(run.members)) for key, run in runs.items()}
    finals: dict[tuple[str, str], list[Found]] = {}
    rest: dict[object, list[Found]] = {}
    for item in bare:
        home = _home(item, runs)
        if home is not None:
            finals.setdefault(home, []).append(replace(item, final=True))
        else:
            rest.setdefault(_own_key(item), []).append(item)
    whole = [
        replace(run, members=(*run.members, *finals.get(key, ()))) for key, run in runs.items()
    ]
    whole += [Run(_own_name(members[0]), tuple(members)) for members in rest.values()]
    shared = Counter(run.name for run in whole)
    whole = [run if shared[run.name] < 2 else replace(run, name=_apart(run)) for run in whole]
    return sorted(whole, key=lambda run: natural_key(run.name))


def _apart(run: Run) -> str:
    """Another name for a run that shares its own: whose pattern it is, or its first file's."""
    first = run.members[0]
    return (
        f"{run.name} ({_scheme(first)})"
        if _has_place(first) and first.place.united
        else (first.path.stem)
    )


def _settled(item: Found, found: Sequence[Found]) -> Found:
    """A file whose whole name is a run's name says no place, whatever number it ends in."""
    stem = item.path.stem
    if item.place.scheme == "folder":
        return item
    said = {other.metadata.get("ss_output_name") for other in found}
    united = {other.place.run for other in found if other.place.united and other is not item}
    return _unplaced(item) if stem in said or stem in united else item


def _unplaced(item: Found) -> Found:
    place = item.place
    return replace(
        item, place=Place(item.path.stem, place.scheme, form=place.form, half=place.half)
    )


def _scheme(item: Found) -> str:
    """Whose pattern a file belongs to: files of one run that were renamed stay together."""
    trainer = lora.trainer(item.metadata)
    plain = item.place.scheme == "plain" and trainer in {"kohya", "ai-toolkit"}
    return trainer if plain and trainer else item.place.scheme


def _is_series(members: Sequence[Found]) -> bool:
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


def _doubt(members: Sequence[Found]) -> str:
    """What else a series' numbers may be, where the metadata do not place its files."""
    if all(stored_place(item) for item in members):
        return ""
    if all(item.place.letter == "s" and (item.place.step or 1) % 10 for item in members):
        return "seeds"
    numbers = [item.place.number for item in members]
    return doubt(number for number in numbers if number is not None) if any(numbers) else ""


def stored_place(item: Found) -> bool:
    return lora.stored_step(item.metadata) is not None or (
        lora.stored_epoch(item.metadata) is not None
    )


def _session(item: Found) -> str | None:
    session = item.metadata.get("ss_session_id")
    return None if session in {None, "", "None"} else session


def _home(item: Found, runs: Mapping[tuple[str, str], Run]) -> tuple[str, str] | None:
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


def _own_key(item: Found) -> object:
    """Renamed epochs of one run still share their session; other files stand alone."""
    session = _session(item)
    if session is not None and not item.place.form:
        return session
    return item.path.parent, _own_name(item)


def _own_name(item: Found) -> str:
    said = item.metadata.get("ss_output_name")
    if said and _session(item) is not None and not item.place.form:
        return said
    return item.place.run if item.place.copy else item.path.stem


def one_series(found: Sequence[Found]) -> Run:
    """Files named one by one as one run, in the order given."""
    runs = runs_among(found)
    members = {item.path: item for run in runs for item in run.members}
    doubts = [run.doubt for run in runs if run.doubt]
    placed = [run for run in runs if any(_has_place(item) for item in run.members)]
    if len(placed) > 1:
        names = ", ".join(lora.one_line(run.name) for run in placed[:4])
        doubts.append(f"files of several runs ({names})")
    return Run(found[0].path.stem, tuple(members[item.path] for item in found), "".join(doubts[:1]))


def _has_place(item: Found) -> bool:
    return item.place.united or item.place.number is not None or stored_place(item)


def chosen_run(runs: Sequence[Run], name: str | None, where: Path) -> Run:
    if name is not None:
        return _named_run(runs, name, where)
    if len(runs) == 1:
        (run,) = runs
        if run.doubt:
            raise UserError(
                f"{show(where)}: the numbers in {_few(run)} may be places in training or "
                f"{run.doubt}, and nothing in the files says which; {named('name')} "
                f"{shlex.quote(lora.one_line(run.name))} takes them as places, or name the files "
                "in order."
            )
        return run
    halves = {item.place.half for run in runs for item in run.members}
    if {"high", "low"} <= halves:
        raise UserError(
            f"{show(where)} holds the high-noise and the low-noise half of a LoRA for a model of "
            f"two (Wan 2.2): {_listed(runs)}; choose one half with {named('name')}."
        )
    raise UserError(
        f"{show(where)} holds several LoRAs: {_listed(runs)}; choose one with "
        f"{named('name')}, or name the files of one training in order."
    )


def _named_run(runs: Sequence[Run], name: str, where: Path) -> Run:
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
        f"{show(where)} holds no LoRA named {lora.one_line(name)[:60]}; it holds {_listed(runs)}."
    )


def _few(run: Run) -> str:
    names = [lora.one_line(item.path.stem) for item in run.members[:4]]
    return ", ".join(names) + (", ..." if len(run.members) > 4 else "")


def _listed(runs: Sequence[Run]) -> str:
    """The runs by name and size; what may be none, file by file."""
    entries = []
    for run in runs:
        if run.doubt:
            entries += [f"{lora.one_line(item.path.stem)[:60]} (1)" for item in run.members]
        else:
            entries.append(f"{lora.one_line(run.name)[:60]} ({len(run.members)})")
    more = f" and {len(entries) - 12} more" if len(entries) > 12 else ""
    return ", ".join(entries[:12]) + more
