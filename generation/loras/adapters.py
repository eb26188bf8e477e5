"""Scales that stand outside the tensors: peft's configuration of an adapter, part by part.

diffusers keeps it in the metadata (`lora_adapter_metadata`), peft in `adapter_config.json` beside
the file. LoRA's scale is lora_alpha / r, or lora_alpha / sqrt(r) with rsLoRA; LoHa's and LoKr's
is alpha / r. peft's default is 8 for alpha and for r (https://github.com/huggingface/peft,
src/peft/tuners/*/config.py).
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from generation.errors import UserError
from generation.files import read_utf8
from generation.loras.container import Header, one_line, shorten, show
from generation.loras.keys import split_key, split_stem
from generation.loras.training import parse_json

DEFAULT = 8
"""peft's alpha and r where the configuration does not say."""

SECONDS = 5
"""How long a file's regular expressions may take in all."""

_ALPHAS = {"LORA": "lora_alpha", "LOHA": "alpha", "LOKR": "alpha"}
_PARTS = {
    "unet": "unet",
    "transformer": "unet",
    "text_encoder": "te",
    "text_encoder_2": "te2",
    "text_encoder_3": "te3",
    "text_encoder_4": "te4",
}
# Each of these changes what the factors mean, and no plain sum on the base model is right.
_VARIANTS = (
    "modules_to_save",
    "target_parameters",
    "trainable_token_indices",
    "layer_replication",
    "fan_in_fan_out",
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
    "megatron_config",
)
# These take a part of the base weights away before training, so that the base is another one.
_CHANGED_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class _Adapter:
    """One part's configuration; `patterns` are the alphas and ranks of modules by their names."""

    kind: str
    alpha: float | None
    rank: int
    alphas: Mapping[str, float]
    ranks: Mapping[str, float]
    root: bool
    dora: bool
    refused: tuple[str, ...]
    matches: Mapping[tuple[str, str], bool] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Mapping[str, Any], names: Iterable[str], where: str) -> _Adapter:
        kind = str(config.get("peft_type") or "LORA").rpartition(".")[2].upper()
        alphas, ranks = _numbers(config.get("alpha_pattern")), _numbers(config.get("rank_pattern"))
        refused = [f"a peft adapter of the kind {shorten(one_line(kind), 40)}"]
        if kind in _ALPHAS:
            refused = [f"peft's {name}" for name in _VARIANTS if config.get(name)]
            start = config.get("init_lora_weights")
            if isinstance(start, str) and start.lower().startswith(_CHANGED_BASES):
                refused.append(
                    f"an adapter begun with {shorten(one_line(start), 40)}, which changes the base "
                    "model (save it with peft's path_initial_model_for_weight_conversion)"
                )
        stated = config.get(_ALPHAS.get(kind, "lora_alpha"), DEFAULT)
        rank = _finite(config.get("r"))
        return cls(
            kind,
            _finite(stated),
            int(rank) if rank and rank >= 1 else DEFAULT,
            alphas,
            ranks,
            config.get("use_rslora") is True and kind == "LORA",
            config.get("use_dora") is True,
            tuple(refused),
            _matches([*alphas, *ranks], names, where),
        )

    def _by_name(self, patterns: Mapping[str, float], name: str) -> float | None:
        hits = (value for pattern, value in patterns.items() if self.matches.get((pattern, name)))
        return next(hits, None)

    def scale(self, name: str, rank: int | None) -> tuple[float | None, float]:
        """(alpha, effective scale) of a module of this rank (None: as the configuration says)."""
        found = self._by_name(self.alphas, name)
        alpha = self.alpha if found is None else found
        if alpha is None:
            return None, 1.0
        if rank is None:
            rank = max(1, int(self._by_name(self.ranks, name) or self.rank))
        return alpha, alpha / (math.sqrt(rank) if self.root else rank)


def _finite(value: object) -> float | None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _numbers(stored: object) -> dict[str, float]:
    """{pattern: number} in the order stored, which is the order that peft tries them in."""
    items = stored.items() if isinstance(stored, dict) else ()
    return {
        pattern: number
        for pattern, value in items
        if isinstance(pattern, str) and (number := _finite(value)) is not None
    }


# Without repetition and alternatives nothing can take long.
_PLAIN = re.compile(r"[\w.^$-]|\\[.\w-]")
_MATCHER = """
import json, re, sys
patterns, names = json.load(sys.stdin)
hits = [[p, n] for p in patterns for n in names if re.match(r"(.*\\.)?(%s)$" % p, n)]
json.dump(hits, sys.stdout)
"""


def _matches(
    patterns: Iterable[str], names: Iterable[str], where: str
) -> dict[tuple[str, str], bool]:
    """Which patterns mean which modules, by peft's rule (`peft.utils.other.get_pattern_key`).

    A pattern is a regular expression for the whole name or its end after a dot. One that could run
    for ever is tried in a process of its own, which is ended after `SECONDS`.
    """
    patterns, names = list(dict.fromkeys(patterns)), list(dict.fromkeys(names))
    plain = [pattern for pattern in patterns if not _PLAIN.sub("", pattern)]
    found: dict[tuple[str, str], bool] = {}
    try:
        for pattern in plain:
            rule = re.compile(rf"(.*\.)?({pattern})$")
            found.update({(pattern, name): True for name in names if rule.match(name)})
        rest = [pattern for pattern in patterns if pattern not in plain]
        if rest:
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-c", _MATCHER],
                input=json.dumps([rest, names]),
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=True,
            )
            found.update({(pattern, name): True for pattern, name in json.loads(done.stdout)})
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{where}: the regular expressions of its alpha_pattern or rank_pattern take longer "
            f"than {SECONDS} seconds; write the modules' names there."
        ) from None
    except (re.error, subprocess.CalledProcessError, ValueError, OSError, RecursionError) as error:
        raise UserError(
            f"{where}: its alpha_pattern or rank_pattern is no regular expression that can be read "
            f"({type(error).__name__})."
        ) from None
    return found


@dataclass(frozen=True)
class AdapterScales:
    """The scales of a file's modules. `base_model` is what the configuration calls the base."""

    configs: Mapping[str, _Adapter]
    base_model: str | None = None

    @classmethod
    def of(cls, header: Header) -> AdapterScales:
        """From ``lora_adapter_metadata`` (diffusers) or ``adapter_config.json`` beside the file.

        Raises ``UserError`` where patterns in it cannot be evaluated.
        """
        stored = parse_json(header.metadata.get("lora_adapter_metadata"))
        by_peft = header.path.name == "adapter_model.safetensors" or any(
            key.startswith("base_model.model.") for key in header.tensors
        )
        if stored is None and by_peft:
            stored = _config_beside(header.path)
        if not isinstance(stored, dict):
            return cls({})
        configs: dict[str, dict[str, Any]] = {}
        if "peft_type" in stored or "lora_alpha" in stored:
            configs[""] = stored
        for key, value in stored.items():
            prefix, _, name = key.partition(".")
            if prefix in _PARTS and name:
                configs.setdefault(_PARTS[prefix], {})[name] = value
        stems = {parts[0] for key in header.tensors if (parts := split_key(key))}
        names = [split_stem(stem)[1] for stem in stems]
        base = stored.get("base_model_name_or_path")
        return cls(
            {
                part: _Adapter.of(config, names, show(header.path))
                for part, config in configs.items()
            },
            shorten(one_line(base), 200) if isinstance(base, str) and base else None,
        )

    @property
    def known(self) -> bool:
        """Whether a configuration was found."""
        return bool(self.configs)

    def refused(self, leaves: Iterable[str]) -> tuple[str, ...]:
        """What the configurations ask for that cannot be applied, for one sentence of refusal.

        `leaves` are all kinds of factors that the file holds.
        """
        found = [reason for config in self.configs.values() for reason in config.refused]
        if any(config.dora for config in self.configs.values()) and "magnitude" not in set(leaves):
            found.append("a DoRA without its magnitudes")
        return tuple(dict.fromkeys(found))

    def resolve(
        self, stem: str, rank: int | None, stored_alpha: float | None
    ) -> tuple[float | None, float]:
        """(alpha, effective scale) of a module; alpha None where nothing says, so scale is 1.

        kohya and LyCORIS: alpha missing or 0 means alpha = rank (networks/lora.py). `rank` is None
        for a LoKr whose two factors are full: LyCORIS does not scale it, peft does.
        """
        part, name = split_stem(stem)
        part = "unet" if part == "transformer" else part
        config = self.configs.get(part) or self.configs.get("")
        if stored_alpha is not None and rank is not None:
            return (stored_alpha, stored_alpha / rank) if stored_alpha else (float(rank), 1.0)
        if config is None or stored_alpha is not None:
            return None, 1.0
        return config.scale(name, rank)


def _config_beside(path: Path) -> Any:
    beside = path.with_name("adapter_config.json")
    try:
        return parse_json(read_utf8(beside, 10_000_000))
    except (OSError, ValueError):
        pass
    return None
