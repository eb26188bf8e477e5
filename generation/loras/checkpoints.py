"""A training output folder (or a few files) -> the ordered checkpoints of one training run.

Understood: kohya's sd-scripts and FluxGym, ai-toolkit, OneTrainer, SimpleTuner, diffusers' example
scripts, diffusion-pipe, and plain numbered names. The place in training is read from metadata
first, then from names, then from SimpleTuner's training_state.json; file times are never used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from generation.cells import Checkpoint
from generation.errors import UserError, named
from generation.loras.container import show
from generation.loras.folders import folder_hint, is_folder, lora_files
from generation.loras.names import place_of
from generation.loras.order import CheckpointList, in_order
from generation.loras.runs import (
    Found,
    Run,
    chosen_run,
    distinct_names,
    one_series,
    read_lora,
    runs_among,
)

__all__ = ["Checkpoint", "CheckpointList", "find_checkpoints"]


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
    single: list[Found] = []
    runs: list[Run] = []
    for path in map(Path, paths):
        if is_folder(path):
            inside = _runs_of(path, ema, warnings, unreadable)
            twice = {run.name for run in runs} & {run.name for run in inside}
            runs += [
                replace(run, name=f"{path.name}/{run.name}") if run.name in twice else run
                for run in inside
            ]
        else:
            single.append(read_lora(path, place_of(path)))
    if single:
        # A file may be named beside its folder.
        found = {item.path: item for item in (*single, *(i for run in runs for i in run.members))}
        run = one_series(list(found.values()))
    else:
        run = chosen_run(runs, name, Path(paths[0]))
    stems = {member.place.run for member in run.members}
    lost = []
    for path, reason in unreadable:
        if place_of(path).run in stems:
            lost.append((path, reason))
        else:
            warnings.append(f"Skipped: {reason}")
    names = distinct_names([*(member.path for member in run.members), *(path for path, _ in lost)])
    run = replace(run, members=tuple(replace(m, name=names[m.path]) for m in run.members))
    return replace(
        in_order(run, warnings, None if single else Path(paths[0])),
        unreadable=tuple(
            (Checkpoint(path, names[path], place_of(path).epoch, place_of(path).step), reason)
            for path, reason in lost
        ),
    )


def _runs_of(
    folder: Path, ema: bool, warnings: list[str], unreadable: list[tuple[Path, str]]
) -> list[Run]:
    """The runs in a folder, each with its readable checkpoints."""
    files, pickles = lora_files(folder, ema)
    if ema and not files:
        raise UserError(f"{show(folder)} holds no EMA weights; leave out {named('ema')}.")
    found = []
    for path in files:
        try:
            found.append(read_lora(path, place_of(path)))
        except UserError as problem:
            unreadable.append((path, str(problem)))
    if not found:
        if unreadable:
            raise UserError(f"{show(folder)} holds no usable LoRA: {unreadable[0][1]}")
        if pickles:
            raise UserError(
                f"{show(folder)} holds only pickles such as {show(Path(pickles[0].name))}, which "
                "can run code; convert them to safetensors with the program that made them."
            )
        raise UserError(f"{show(folder)} holds no LoRA files{folder_hint(folder)}.")
    if pickles:
        warnings.append(
            f"Skipped {len(pickles)} pickle file(s) such as {show(Path(pickles[0].name))}; "
            "only safetensors are read."
        )
    return runs_among(found)
