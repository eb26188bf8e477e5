"""The files of one training -> its checkpoints in order, with what is odd about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from generation.cells import Checkpoint
from generation.errors import UserError, named
from generation.loras import inspection as lora
from generation.loras.container import show
from generation.loras.folders import natural_key
from generation.loras.runs import Found, Run, stored_place


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


def in_order(run: Run, warnings: list[str], folder: Path | None) -> CheckpointList:
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
            f"{show(folder)}: {trouble}; choose files with {named('name')}, or name them in order."
        )
    if trouble:
        warnings.append(f"Taken in the order of naming: {trouble}.")
    else:
        drafts = _sorted(drafts, steps, warnings)
    merged = _labelled(_unique(drafts))
    return CheckpointList(tuple(merged), _trainer_of(members), tuple(dict.fromkeys(warnings)))


def _warn_of_units(members: Sequence[Found], numbers_are_steps: bool, warnings: list[str]) -> None:
    sources = {_position(item, numbers_are_steps)[2] for item in members}
    if "number in the name" in sources:
        unit = "steps" if numbers_are_steps else "epochs"
        warnings.append(f"The numbers in the names are taken as {unit}; nothing says so.")
    letters = {item.place.letter for item in members if not stored_place(item)} - {""}
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


def _undecided(members: Sequence[Found], drafts: Sequence[Checkpoint], steps: bool) -> str:
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


def _warn_of_sessions(members: Sequence[Found], warnings: list[str]) -> None:
    sessions = {item.metadata.get("ss_session_id") for item in members} - {None, "None"}
    if len(sessions) > 1:
        warnings.append(
            f"The files come from {len(sessions)} training sessions (a resumed run, or several "
            "runs under one name)."
        )


def _position(item: Found, numbers_are_steps: bool) -> tuple[int | None, int | None, str]:
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


def _warn_of_renaming(item: Found, checkpoint: Checkpoint, warnings: list[str]) -> None:
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
    lost = sorted((c for c in numbered if at(c) is None), key=lambda c: natural_key(c.path.stem))
    placed = sorted(
        (c for c in numbered if at(c) is not None),
        key=lambda c: (at(c), c.epoch or 0, natural_key(c.path.stem)),
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
        placed.sort(key=lambda c: (at(c), c.epoch or 0, natural_key(c.path.stem)))
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


def _trainer_of(members: Sequence[Found]) -> str | None:
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
