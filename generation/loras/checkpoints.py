"""A training output folder (or a few files) -> the ordered checkpoints of one training run.

Understood: kohya's sd-scripts and FluxGym, ai-toolkit, OneTrainer, SimpleTuner, diffusers' example
scripts, diffusion-pipe, and plain numbered names. The place in training is read from metadata
first, then from names, then from SimpleTuner's training_state.json; file times are never used.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from generation.cells import Checkpoint
from generation.errors import UserError
from generation.files import read_utf8
from generation.loras import inspection as lora

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
class _Place:
    """What a name alone says: the run's stem, the trainer, step and epoch."""

    stem: str
    trainer: str | None = None
    step: int | None = None
    epoch: int | None = None
    step_save: bool = False
    number: int | None = None  # a trailing number of unknown unit

    @property
    def numbered(self) -> bool:
        return self.step is not None or self.epoch is not None or self.number is not None


@dataclass(frozen=True)
class _Found:
    """One readable LoRA file with all that was learnt about its place."""

    path: Path
    name: str
    place: _Place
    metadata: Mapping[str, str]
    state: Mapping[str, object]
    final: bool = False


# Numbered names, first match wins. Six and eight digits: kohya's train_util.py; nine: ai-toolkit's
# BaseSDTrainProcess.py; OneTrainer: GenericTrainer.py, where the epoch counts completed ones.
_ONETRAINER = re.compile(
    r"(?P<stem>.*?)\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-(?:save|backup)-"
    r"(?P<step>\d{1,12})-(?P<epoch>\d{1,12})-\d{1,12}",
    re.S,
)
_ONETRAINER_FINAL = re.compile(r"(?P<stem>.*?)\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", re.S)
_KOHYA_STEP = re.compile(r"(?P<stem>.+)-step(?P<step>\d{8,12})", re.S)
_AI_TOOLKIT = re.compile(r"(?P<stem>.+?)(?:_LoRA)?_(?P<step>\d{9})", re.S)
_KOHYA_EPOCH = re.compile(r"(?P<stem>.+)-(?P<epoch>\d{6,12})", re.S)
_PLAIN_EPOCH = re.compile(
    r"(?P<stem>.*?)[-_. ]*(?<![a-z])(?:epochs?|ep|e)[-_. ]?(?P<epoch>\d{1,9})", re.S | re.I
)
_PLAIN_STEP = re.compile(
    r"(?P<stem>.*?)[-_. ]*(?<![a-z])(?:steps?|s)[-_. ]?(?P<step>\d{1,9})", re.S | re.I
)
_PLAIN_NUMBER = re.compile(r"(?P<stem>.*?)[-_. ]*(?P<number>\d{1,9})", re.S)
_CHECKPOINT_FOLDER = re.compile(r"checkpoint[-_](?P<step>\d{1,12})(?:-rolling)?")
_UNIT_FOLDER = re.compile(r"(?P<unit>epoch|step)[-_]?(?P<number>\d{1,12})", re.I)
_BACKUP_FOLDER = re.compile(r".*-backup-\d+-\d+-\d+")

# Files inside checkpoint folders carry one name for all; the folder tells them apart.
_WEIGHT_NAMES = ("pytorch_lora_weights", "adapter_model", "lora")
_EMA_NAMES = ("pytorch_lora_weights", "ema_model", "adapter_model")
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

    ``paths`` are folders and files; ``name`` chooses one run where a folder holds several; with
    ``ema`` SimpleTuner's averaged weights are taken in place of the plain ones. Files with the
    same tensor bytes become one checkpoint whose other names are its ``aliases``. Raises
    ``UserError`` where nothing usable is there, or several runs are and none was chosen.
    """
    if not paths:
        raise UserError("Name a LoRA file, or a folder of checkpoints.")
    warnings: list[str] = []
    unreadable: list[tuple[Path, str]] = []
    chosen: list[_Found] = []
    groups: dict[str, list[_Found]] = {}
    for path in map(Path, paths):
        if _is_folder(path):
            for key, members in _groups_of(path, ema, warnings, unreadable).items():
                groups.setdefault(key, []).extend(members)
        else:
            chosen.append(_read(path, _place_of(path)))
    if chosen:
        # Files named one by one are one series, whatever they are called.
        listed = [item for group in _grouped(chosen).values() for item in group]
        groups = {chosen[0].name: listed + [f for g in groups.values() for f in g]}
    # A file may be named beside its folder.
    members = list({item.path: item for item in _choose(groups, name, paths)}.values())
    stems = {member.place.stem for member in members}
    lost = []
    for path, reason in unreadable:
        if _place_of(path).stem in stems:
            lost.append((path, reason))
        else:
            warnings.append(f"Skipped: {reason}")
    names = _names([*(member.path for member in members), *(path for path, _ in lost)])
    members = [replace(member, name=names[member.path]) for member in members]
    return replace(
        _ordered(members, warnings),
        unreadable=tuple(
            (Checkpoint(path, names[path], _place_of(path).epoch, _place_of(path).step), reason)
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
    if path.stem in _WEIGHT_NAMES and _is_checkpoint_folder(path.parent.name):
        return trail[:-1]
    if path.stem == path.parent.name == "lora" and _BACKUP_FOLDER.fullmatch(trail[-3]):
        return trail[:-2]
    return trail


def _is_checkpoint_folder(name: str) -> bool:
    return bool(_CHECKPOINT_FOLDER.fullmatch(name) or _UNIT_FOLDER.fullmatch(name))


def _show(path: Path) -> str:
    return lora.one_line(str(path))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted((Path(entry.path) for entry in os.scandir(folder)), key=_natural)
    except OSError as error:
        raise UserError(f"{_show(folder)} cannot be read ({error.strerror}).") from error


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """epoch2 before epoch10."""
    pieces = re.findall(r"\d{1,18}|\D+|\d", path.name)
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in pieces]


# ---------------------------------------------------------------------------------------------
# Discovery


def _groups_of(
    folder: Path, ema: bool, warnings: list[str], unreadable: list[tuple[Path, str]]
) -> dict[str, list[_Found]]:
    """The runs in a folder: {run name: its readable checkpoints}."""
    files, pickles = _candidates(folder, ema)
    if ema and not files:
        raise UserError(f"{_show(folder)} holds no EMA weights; leave out --ema.")
    found = []
    for path in files:
        try:
            found.append(_read(path, _place_of(path)))
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
        if _is_folder(child) and _candidates(child, False)[0]:
            return f"; its folder {_show(Path(child.name))} does, so name that"
    return " (*.safetensors)"


def _candidates(folder: Path, ema: bool) -> tuple[list[Path], list[Path]]:
    """(safetensors that may be checkpoints, pickles), without looking into them."""
    entries = _entries(folder)
    if _is_checkpoint_folder(folder.name):
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
            if _is_checkpoint_folder(entry.name):
                files += _inside(entry, ema)
            elif entry.name == "save":  # OneTrainer's workspace
                files += [p for p in _candidates(entry, False)[0] if _ONETRAINER.fullmatch(p.stem)]
            elif entry.name == "backup":
                backups += [p for p in _entries(entry) if _BACKUP_FOLDER.fullmatch(p.name)]
            elif _BACKUP_FOLDER.fullmatch(entry.name):
                backups.append(entry)
    if ema:
        averaged = [path for path in files if path.parent.name == "ema"]
        averaged += _named(folder / "ema", _EMA_NAMES)
        return averaged, pickles
    if not any(_ONETRAINER.fullmatch(path.stem) for path in files):
        files += [path for backup in backups for path in _named(backup / "lora", ("lora",))]
    return files, pickles


def _inside(folder: Path, ema: bool) -> list[Path]:
    """The weights of one checkpoint folder: the known name, else the only LoRA-like file."""
    if ema:
        return _named(folder / "ema", _EMA_NAMES)
    known = _named(folder, _WEIGHT_NAMES)
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


def _place_of(path: Path) -> _Place:
    """The place that a path's names tell, from the file's own or its folder's."""
    stem = path.stem
    if stem in _WEIGHT_NAMES or stem in _EMA_NAMES:
        parents = [parent.name for parent in path.parents]
        for parent, above in zip(parents, [*parents[1:], ""], strict=True):
            if parent in {"ema", "lora"}:
                continue
            match = _CHECKPOINT_FOLDER.fullmatch(parent)
            if match:
                return _Place(above or stem, None, step=int(match["step"]), step_save=True)
            match = _UNIT_FOLDER.fullmatch(parent)
            if match:
                unit = {match["unit"].lower(): int(match["number"])}
                return _Place(above or stem, "diffusion-pipe", unit.get("step"), unit.get("epoch"))
            match = _ONETRAINER.fullmatch(parent)
            if match:
                return _onetrainer(match)
            return _Place(parent if stem != "lora" else stem)
    parent = path.parent.name
    match = _CHECKPOINT_FOLDER.fullmatch(parent)
    if match:
        return _Place(
            path.parent.parent.name or stem, None, step=int(match["step"]), step_save=True
        )
    match = _UNIT_FOLDER.fullmatch(parent)
    if match:
        unit = {match["unit"].lower(): int(match["number"])}
        return _Place(path.parent.parent.name or stem, None, unit.get("step"), unit.get("epoch"))
    return _place_of_stem(stem)


def _onetrainer(match: re.Match[str]) -> _Place:
    return _Place(
        match["stem"].rstrip("-_ ") or "onetrainer",
        "onetrainer",
        int(match["step"]),
        int(match["epoch"]),
    )


def _place_of_stem(stem: str) -> _Place:
    if match := _ONETRAINER.fullmatch(stem):
        return _onetrainer(match)
    if match := _ONETRAINER_FINAL.fullmatch(stem):
        return _Place(match["stem"].rstrip("-_ ") or "onetrainer", "onetrainer")
    if match := _KOHYA_STEP.fullmatch(stem):
        return _Place(match["stem"], "kohya", step=int(match["step"]), step_save=True)
    if match := _AI_TOOLKIT.fullmatch(stem):
        return _Place(match["stem"], "ai-toolkit", step=int(match["step"]), step_save=True)
    if match := _KOHYA_EPOCH.fullmatch(stem):
        return _Place(match["stem"], "kohya", epoch=int(match["epoch"]))
    if match := _PLAIN_EPOCH.fullmatch(stem):
        return _Place(match["stem"] or "epoch", epoch=int(match["epoch"]))
    if match := _PLAIN_STEP.fullmatch(stem):
        return _Place(match["stem"] or "step", step=int(match["step"]), step_save=True)
    if match := _PLAIN_NUMBER.fullmatch(stem):
        return _Place(match["stem"] or "number", number=int(match["number"]))
    return _Place(stem)


def _read(path: Path, place: _Place) -> _Found:
    metadata = lora.inspect(path).metadata
    return _Found(path, path.stem, place, metadata, _training_state(path.parent))


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


def _grouped(found: Sequence[_Found]) -> dict[str, list[_Found]]:
    """Runs by name. A bare file joins the numbered files of its own stem, as their final one."""
    series = Counter(item.place.stem for item in found if item.place.number is not None)
    # A trailing number counts as a place only in a series: `style_v2` alone is just a name.
    found = [
        replace(item, place=_Place(item.path.stem))
        if item.place.number is not None and series[item.place.stem] < 2
        else item
        for item in found
    ]
    groups: dict[str, list[_Found]] = {}
    bare = []
    for item in found:
        if item.place.numbered:
            groups.setdefault(item.place.stem, []).append(item)
        else:
            bare.append(item)
    sessions: dict[str | None, str] = {}
    for key, members in groups.items():
        for member in members:
            sessions.setdefault(member.metadata.get("ss_session_id"), key)
    for nothing in (None, "None"):
        sessions.pop(nothing, None)
    numbered = dict(groups)
    for item in bare:
        run = _run_of(item, numbered, sessions)
        if run is not None:
            groups[run].append(replace(item, final=True))
        else:
            groups.setdefault(_bare_key(item), []).append(item)
    return groups


def _run_of(
    item: _Found, groups: Mapping[str, Sequence[_Found]], sessions: Mapping[str | None, str]
) -> str | None:
    """The numbered run whose final file this bare one is, if any."""
    stem = item.place.stem
    if stem in groups:
        return stem
    # kohya without --output_name: epoch-000001, at-step00000100, and last (train_util.py).
    if stem == "last":
        for key in ("epoch", "at"):
            if key in groups:
                return key
    said = item.metadata.get("ss_output_name")
    if said in groups:
        return said
    session = item.metadata.get("ss_session_id")
    if session in sessions:
        return sessions[session]
    if len(groups) == 1:
        (key,) = groups
        # OneTrainer's final name is the user's choice and its metadata tell nothing.
        if groups[key][0].place.trainer == "onetrainer" and _trainer_of([item]) == "onetrainer":
            return key
    return None


def _bare_key(item: _Found) -> str:
    """Renamed epochs of one run still share their session; other files stand alone."""
    session = item.metadata.get("ss_session_id")
    if session and session != "None":
        return item.metadata.get("ss_output_name") or f"session {session}"
    return item.place.stem


def _choose(
    groups: Mapping[str, list[_Found]], name: str | None, paths: Sequence[str | Path]
) -> list[_Found]:
    if name is not None:
        wanted = name.removesuffix(".safetensors").casefold()
        for key, members in groups.items():
            if key.casefold() == wanted:
                return members
        for members in groups.values():
            hits = [item for item in members if item.path.stem.casefold() == wanted]
            if hits:
                return hits
    elif len(groups) == 1:
        return next(iter(groups.values()))
    listed = ", ".join(
        f"{lora.one_line(key)[:60]} ({len(members)})" for key, members in list(groups.items())[:12]
    )
    more = f" and {len(groups) - 12} more" if len(groups) > 12 else ""
    where = _show(Path(paths[0]))
    if name is not None:
        raise UserError(
            f"{where} holds no LoRA named {lora.one_line(name)[:60]}; it holds {listed}{more}."
        )
    raise UserError(f"{where} holds several LoRAs: {listed}{more}; choose one with --name.")


# ---------------------------------------------------------------------------------------------
# Order


def _ordered(members: Sequence[_Found], warnings: list[str]) -> CheckpointList:
    _warn_of_sessions(members, warnings)
    numbers_are_steps = any((item.place.number or 0) > 500 for item in members)
    if any(item.place.number is not None for item in members):
        unit = "steps" if numbers_are_steps else "epochs"
        if any(_position(item, numbers_are_steps)[2] == "number in the name" for item in members):
            warnings.append(f"The numbers in the names are taken as {unit}; nothing says so.")
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
    drafts = _sorted(drafts, warnings)
    merged = [_labelled(checkpoint) for checkpoint in _unique(drafts)]
    repeated = Counter(checkpoint.label for checkpoint in merged)
    merged = [
        replace(c, label=f"{c.label} ({c.name})") if repeated[c.label] > 1 else c for c in merged
    ]
    return CheckpointList(tuple(merged), _trainer_of(members), tuple(dict.fromkeys(warnings)))


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
    for what, named, told in (
        ("step", item.place.step, checkpoint.step),
        ("epoch", item.place.epoch, checkpoint.epoch),
    ):
        if named is not None and told is not None and named != told:
            warnings.append(
                f"{checkpoint.name} is {what} {named} by its name but {told} by its metadata; "
                "the metadata were believed."
            )


def _sorted(drafts: Sequence[Checkpoint], warnings: list[str]) -> list[Checkpoint]:
    """By step where every numbered member has one, else by epoch; what has no place comes last."""
    numbered = [c for c in drafts if not c.final]
    steps = all(c.step is not None for c in numbered)
    epochs = all(c.epoch is not None for c in numbered)
    if not steps and not epochs:
        steps = sum(c.step is not None for c in numbered) >= sum(
            c.epoch is not None for c in numbered
        )
    else:
        steps = steps or not epochs

    def at(checkpoint: Checkpoint) -> int | None:
        return checkpoint.step if steps else checkpoint.epoch

    lost = [c for c in numbered if at(c) is None]
    if lost and len(drafts) > 1:
        for checkpoint in lost:
            warnings.append(
                f"{checkpoint.name} has no {'step' if steps else 'epoch'} in its metadata or name; "
                "it was placed last."
            )
    placed = sorted(
        (c for c in numbered if at(c) is not None),
        key=lambda c: (at(c), c.epoch or 0, _natural(c.path)),
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
        placed.sort(key=lambda c: (at(c), c.epoch or 0, _natural(c.path)))
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


def _labelled(checkpoint: Checkpoint) -> Checkpoint:
    where = [
        f"{unit} {number}"
        for unit, number in (("epoch", checkpoint.epoch), ("step", checkpoint.step))
        if number is not None
    ]
    label = " · ".join(where)
    if checkpoint.final:
        label = f"final ({label})" if label else "final"
    return replace(checkpoint, label=label or checkpoint.name)


def _trainer_of(members: Sequence[_Found]) -> str | None:
    told: Counter[str] = Counter()
    for item in members:
        trainer = lora.trainer(item.metadata) or item.place.trainer
        if item.state or (item.path.parent / "training_state.json").is_file():
            trainer = "simpletuner"
        if trainer is None and _CHECKPOINT_FOLDER.fullmatch(item.path.parent.name):
            trainer = "diffusers"
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
