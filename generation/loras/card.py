"""The card beside a LoRA, where A1111 keeps what people note of it."""

from __future__ import annotations

import json
import os
from decimal import Decimal
from pathlib import Path

from generation.errors import UserError
from generation.files import read_json, write_text


def write_recommended_weight(lora_path: Path, weight: Decimal | float) -> Path:
    """Write `weight` as "preferred weight" into `{name}.json` beside the LoRA; return that path.

    This is the file of A1111's LoRA cards (ui_edit_user_metadata.py); what else it says is kept.
    Raises UserError if the LoRA is missing, if an existing file is no JSON object (it is then left
    alone), if the folder cannot be written to, and for a weight that is 0 (to A1111: none) or no
    number.
    """
    value = float(weight)
    if not (value == value and 0 < abs(value) <= 100):
        raise UserError(f"{weight} is no weight to recommend; give a number other than 0.")
    if not lora_path.is_file():
        raise UserError(
            f"{lora_path} does not exist; name the LoRA file to recommend a weight for."
        )
    path = lora_path.with_suffix(".json")
    if path.is_symlink():  # which stays one
        path = Path(os.path.realpath(path))
    card: object = {}
    try:
        if path.exists():
            card = read_json(path)
    except (OSError, ValueError):
        card = None
    if not isinstance(card, dict):
        raise UserError(f"{path} is no JSON object, so it is left alone; move it away first.")
    card["preferred weight"] = value
    try:
        write_text(path, json.dumps(card, indent=4, ensure_ascii=False))
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); check the folder.") from None
    return path
