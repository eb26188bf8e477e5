"""Which files of a folder are LoRAs of a training, and which are states and companions."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from generation.errors import UserError
from generation.loras.container import show
from generation.loras.names import (
    BACKUP_FOLDER,
    EMA_NAMES,
    WEIGHT_NAMES,
    is_checkpoint_folder,
    is_onetrainer_save,
)

_PICKLES = {".pt", ".ckpt", ".pth", ".bin"}
# States and companions that trainers leave beside the LoRAs.
_COMPANION = re.compile(
    r"optimizer.*|scheduler.*|random_states.*|CRITIC_.*|.*_(?:refiner|t2i|cn|ip)|ema_model|"
    r"pytorch_lora_weights_kohya|.*-state",
    re.S | re.I,
)


def is_folder(path: Path) -> bool:
    """Whether it is a folder; not, where that cannot be found out."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(
            (Path(entry.path) for entry in os.scandir(folder)), key=lambda p: natural_key(p.name)
        )
    except OSError as error:
        raise UserError(f"{show(folder)} cannot be read ({error.strerror}).") from error


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """A key to sort names by: epoch2 before epoch10."""
    pieces = re.findall(r"\d{1,18}|\D+|\d", name)
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in pieces]


def folder_hint(folder: Path) -> str:
    """The end of a sentence that says where the LoRAs may be that a folder does not hold."""
    for child in _entries(folder):
        if is_folder(child) and lora_files(child, False)[0]:
            return f"; its folder {show(Path(child.name))} does, so name that"
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
        elif is_folder(entry):
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
