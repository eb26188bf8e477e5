"""What a LoRA file is: format, base family, rank, alpha, parts, training facts; from its header.

Nothing but the header and the scalar alphas is read unless ``scan`` is asked for, and no base
model is loaded.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generation.errors import UserError, named
from generation.files import read_utf8
from generation.loras.container import (
    Header,
    TensorEntry,
    all_finite,
    iterate_tensors,
    one_line,
    printable,
    read_header,
    read_tensors,
    sha256,
    shorten,
    show,
    tensor_hash,
)
from generation.loras.keys import PART_NAMES, algorithm, group_keys, split_key, split_stem
from generation.loras.training import (
    first_known,
    parse_json,
    prediction_type,
    stored_epoch,
    stored_step,
    trainer,
    training_resolution,
    trigger_words,
    whole_number,
)

__all__ = [
    "FAMILY_NAMES",
    "PART_NAMES",
    "AdapterScales",
    "Header",
    "LoraInfo",
    "Scan",
    "TensorEntry",
    "algorithm",
    "group_keys",
    "inspect",
    "one_line",
    "parse_json",
    "printable",
    "read_header",
    "read_tensors",
    "require_family",
    "scan",
    "sha256",
    "split_key",
    "split_stem",
    "stored_epoch",
    "stored_step",
    "tensor_hash",
    "trainer",
    "training_resolution",
    "trigger_words",
    "whole_number",
]


@dataclass(frozen=True)
class LoraInfo:
    """What a LoRA file says about itself, from its header and its scalar alphas.

    ``format`` is one of kohya-lora, kohya-locon, loha, lokr, dora, glora, oft, ia3, full, norm,
    diffusers, peft, ai-toolkit, onetrainer, comfyui; ``layout`` says how the keys are spelt
    (kohya, diffusers, peft, comfyui). ``scales`` are the effective alpha / rank, ``None`` in
    ``alphas`` means that the file stores no alpha, so that alpha is taken as rank.
    ``epoch`` and ``step`` are as stored: kohya's step saves store the epoch from 0.
    """

    path: Path
    format: str
    layout: str
    family: str | None
    base_model: str | None
    ranks: tuple[int, ...]
    alphas: tuple[float | None, ...]
    scales: tuple[float, ...]
    modules: int
    touches: tuple[str, ...]
    unsupported: tuple[str, ...]
    trainer: str | None
    epoch: int | None
    step: int | None
    trigger_words: tuple[str, ...]
    resolution: tuple[int, int] | None
    prediction_type: str | None
    metadata: dict[str, str]

    @property
    def alpha_assumed(self) -> bool:
        """True when some low-rank module stores no alpha, so that alpha = rank is a guess."""
        return None in self.alphas

    @property
    def rank(self) -> int | None:
        """The largest rank, or None for a file without low-rank factors."""
        return max(self.ranks, default=None)

    def summary(self) -> str:
        """One line for people: format, family, rank, alpha, scale, parts."""
        words = [_FORMAT_NAMES[self.format], FAMILY_NAMES.get(self.family or "", "unknown base")]
        if self.ranks:
            words.append("rank " + _span(self.ranks))
            stored = [alpha for alpha in self.alphas if alpha is not None]
            words.append("alpha " + (_span(stored) if stored else "not stored (taken as rank)"))
        if self.scales:
            words.append("scale " + _span(self.scales))
        words.append("touches " + ", ".join(PART_NAMES[part] for part in self.touches))
        return ", ".join(words)


@dataclass(frozen=True)
class Scan:
    """What the tensors show: keys with NaN or infinity, modules that are exactly zero."""

    non_finite: tuple[str, ...]
    zero_modules: tuple[str, ...]
    modules: int

    @property
    def untrained(self) -> bool:
        """True when every module is exactly zero, as before the first optimiser step."""
        return self.modules > 0 and len(self.zero_modules) == self.modules


_FORMAT_NAMES = {
    "kohya-lora": "kohya LoRA",
    "kohya-locon": "kohya LoCon",
    "loha": "LoHa",
    "lokr": "LoKr",
    "dora": "DoRA",
    "glora": "GLoRA",
    "oft": "OFT",
    "ia3": "IA3",
    "full": "full difference",
    "norm": "norm difference",
    "diffusers": "diffusers LoRA",
    "peft": "peft LoRA",
    "ai-toolkit": "ai-toolkit LoRA",
    "onetrainer": "OneTrainer LoRA",
    "comfyui": "ComfyUI LoRA",
}
FAMILY_NAMES = {
    "sd1": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sdxl": "Stable Diffusion XL",
    "sd3": "Stable Diffusion 3",
    "flux": "FLUX.1",
}


def _span(values: Iterable[float]) -> str:
    shown = sorted(set(values))
    if len(shown) == 1:
        return f"{shown[0]:g}"
    return f"{shown[0]:g} to {shown[-1]:g}"


# ---------------------------------------------------------------------------------------------
# Inspection


def inspect(path: str | Path) -> LoraInfo:
    """Read what a LoRA file is, from its header and its scalar alphas only.

    Raises ``UserError`` that says what the file is where it is no LoRA: a whole checkpoint, a
    textual inversion, a ControlNet, a VAE, or tensors of no known kind.
    """
    header = read_header(path)
    modules, others = group_keys(header.tensors)
    algorithms = Counter(algorithm(leaves) for leaves in modules.values())
    useful = sum(count for name, count in algorithms.items() if name != "incomplete")
    if not useful:
        raise UserError(_describe_no_lora(header))
    alphas = _stored_alphas(header, modules)
    adapter = AdapterScales.of(header)
    ranks, shown_alphas, scales = set(), set(), set()
    for stem, leaves in modules.items():
        rank = _rank(leaves, header.tensors)
        if rank is None:
            continue
        alpha, scale = adapter.resolve(stem, rank, alphas.get(stem))
        ranks.add(rank)
        shown_alphas.add(alpha)
        scales.add(scale)
    touches = _touched(modules)
    return LoraInfo(
        path=header.path,
        format=_format(header, modules, algorithms),
        layout=_layout(modules),
        family=_family(header, modules),
        base_model=first_known(header.metadata, "ss_base_model_version", "modelspec.architecture"),
        ranks=tuple(sorted(ranks)),
        alphas=tuple(sorted(shown_alphas, key=lambda a: -math.inf if a is None else a)),
        scales=tuple(sorted(scales)),
        modules=len(modules),
        touches=touches,
        unsupported=_unsupported(modules, algorithms, others),
        trainer=trainer(header.metadata),
        epoch=stored_epoch(header.metadata),
        step=stored_step(header.metadata),
        trigger_words=trigger_words(header.metadata),
        resolution=training_resolution(header.metadata),
        prediction_type=prediction_type(header.metadata),
        metadata=header.metadata,
    )


def scan(path: str | Path) -> Scan:
    """Read every tensor once, looking for NaN, infinity and modules that are exactly zero."""
    header = read_header(path)
    modules, _ = group_keys(header.tensors)
    owner = {key: (stem, leaf) for stem, leaves in modules.items() for leaf, key in leaves.items()}
    broken, zero = [], set()
    for key, array in iterate_tensors(header, None):
        if not all_finite(array):
            broken.append(key)
        stem, leaf = owner.get(key, ("", ""))
        # One zero factor makes the product zero; alphas of 0 mean "alpha = rank".
        if stem and leaf not in {"alpha", "dora_scale", "magnitude"} and not (array != 0).any():
            zero.add(stem)
    return Scan(tuple(broken), tuple(sorted(zero)), len(modules))


@dataclass(frozen=True)
class _Adapter:
    """One part's peft configuration: lora_alpha, its exceptions by module name, rsLoRA."""

    alpha: float | None
    patterns: Mapping[str, tuple[int, float]]
    root: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> _Adapter:
        patterns: dict[str, tuple[int, float]] = {}
        stored = config.get("alpha_pattern")
        for order, (pattern, value) in enumerate(
            stored.items() if isinstance(stored, dict) else ()
        ):
            number = _finite(value)
            if number is not None:
                patterns.setdefault(pattern.replace("\\.", "."), (order, number))
        return cls(_finite(config.get("lora_alpha")), patterns, config.get("use_rslora") is True)

    def alpha_of(self, name: str) -> float | None:
        """peft's rule: the first pattern that is the module's name or its end after a dot.

        peft reads patterns as regular expressions; one from a file could hang the program, so
        only the plain names (or ^names) that trainers write are understood.
        """
        pieces = name.split(".")
        ends = [".".join(pieces[start:]) for start in range(len(pieces))]
        hits = [self.patterns[end] for end in ["^" + name, *ends] if end in self.patterns]
        return min(hits)[1] if hits else self.alpha


def _finite(value: object) -> float | None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


@dataclass(frozen=True)
class AdapterScales:
    """Alphas that stand outside the tensors: peft's ``lora_alpha`` and its patterns, by part."""

    configs: Mapping[str, _Adapter]

    @classmethod
    def of(cls, header: Header) -> AdapterScales:
        """From ``lora_adapter_metadata`` (diffusers) or ``adapter_config.json`` beside the file."""
        stored = parse_json(header.metadata.get("lora_adapter_metadata"))
        if stored is None and header.path.name == "adapter_model.safetensors":
            stored = _config_beside(header.path)
        configs: dict[str, dict[str, Any]] = {}
        if isinstance(stored, dict):
            if "lora_alpha" in stored:
                configs[""] = stored
            for key, value in stored.items():
                prefix, _, name = key.partition(".")
                if prefix in _ADAPTER_PARTS and name:
                    configs.setdefault(_ADAPTER_PARTS[prefix], {})[name] = value
        return cls({part: _Adapter.of(config) for part, config in configs.items()})

    def resolve(
        self, stem: str, rank: int, stored_alpha: float | None
    ) -> tuple[float | None, float]:
        """(alpha, effective scale) of a module; alpha None where nothing says, so scale is 1.

        kohya: alpha missing or 0 means alpha = rank (networks/lora.py). peft: alpha / r, or
        alpha / sqrt(r) with ``use_rslora``.
        """
        if stored_alpha is not None:
            return (stored_alpha, stored_alpha / rank) if stored_alpha else (float(rank), 1.0)
        part, name = split_stem(stem)
        part = "unet" if part == "transformer" else part
        config = self.configs.get(part) or self.configs.get("")
        alpha = config.alpha_of(name) if config else None
        if config is None or alpha is None:
            return None, 1.0
        return alpha, alpha / (math.sqrt(rank) if config.root else rank)


_ADAPTER_PARTS = {
    "unet": "unet",
    "transformer": "unet",
    "text_encoder": "te",
    "text_encoder_2": "te2",
    "text_encoder_3": "te3",
}


def _config_beside(path: Path) -> Any:
    beside = path.with_name("adapter_config.json")
    try:
        return parse_json(read_utf8(beside, 10_000_000))
    except (OSError, ValueError):
        pass
    return None


def _stored_alphas(header: Header, modules: Mapping[str, Mapping[str, str]]) -> dict[str, float]:
    keys = {stem: leaves["alpha"] for stem, leaves in modules.items() if "alpha" in leaves}
    for key in keys.values():
        if math.prod(header.tensors[key].shape) != 1:
            raise UserError(f"{show(header.path)}: {shorten(key)} is no single number.")
    values = read_tensors(header.path, keys.values(), header=header)
    return {stem: float(values[key].reshape(-1)[0]) for stem, key in keys.items()}


def _rank(leaves: Mapping[str, str], tensors: Mapping[str, TensorEntry]) -> int | None:
    for leaf in ("down", "w1b", "k1b", "k2b"):
        if leaf in leaves:
            shape = tensors[leaves[leaf]].shape
            return shape[0] if shape and shape[0] > 0 else None
    return None


def _touched(modules: Iterable[str]) -> tuple[str, ...]:
    found = {split_stem(stem)[0] for stem in modules}
    return tuple(part for part in PART_NAMES if part in found)


def _layout(modules: Mapping[str, Mapping[str, str]]) -> str:
    votes: Counter[str] = Counter()
    for stem, leaves in modules.items():
        if stem.startswith(("lora_", "lycoris_")):
            votes["kohya"] += 1
        elif stem.startswith(("diffusion_model.", "model.diffusion_model.", "text_encoders.")):
            votes["comfyui"] += 1
        elif stem.startswith("base_model.") or not split_stem(stem)[0]:
            votes["peft"] += 1
        elif any(".lora_A." in key or ".lora_magnitude" in key for key in leaves.values()):
            bare = not stem.startswith(("unet.", "transformer.", "text_encoder"))
            votes["peft" if bare else "diffusers"] += 1
        else:
            votes["diffusers"] += 1
    return votes.most_common(1)[0][0]


def _format(
    header: Header, modules: Mapping[str, Mapping[str, str]], algorithms: Mapping[str, int]
) -> str:
    for name in ("glora", "oft", "ia3"):
        if algorithms.get(name):
            return name
    for name in ("loha", "lokr"):
        if algorithms.get(name):
            return name
    if any("dora_scale" in leaves or "magnitude" in leaves for leaves in modules.values()):
        return "dora"
    if not algorithms.get("lora"):
        return "full" if algorithms.get("full") else "norm"
    layout = _layout(modules)
    if layout == "kohya":
        for leaves in modules.values():
            down = header.tensors[leaves["down"]].shape if "down" in leaves else ()
            if "mid" in leaves or (len(down) == 4 and down[2:] != (1, 1)):
                return "kohya-locon"
        return "kohya-lora"
    made_by = trainer(header.metadata)
    return made_by if made_by in {"ai-toolkit", "onetrainer"} else layout


def _unsupported(
    modules: Mapping[str, Mapping[str, str]], algorithms: Mapping[str, int], others: Iterable[str]
) -> tuple[str, ...]:
    """Names of what the file holds and no merge can apply, for one sentence of refusal."""
    names = [name for name in ("glora", "oft", "ia3", "set") if algorithms.get(name)]
    shown = {"glora": "GLoRA", "oft": "OFT", "ia3": "IA3", "set": "replaced weights"}
    found = [shown[name] for name in names]
    if any("scalar" in leaves for leaves in modules.values()):
        found.append("unfolded LyCORIS scalars")
    others = tuple(others)
    if any(key.startswith("bundle_emb.") for key in others):
        found.append("bundled embeddings")
    found += [f"unknown key {shorten(key)}" for key in others if not key.startswith("bundle_emb.")]
    return tuple(found[:5])


def _family(header: Header, modules: Mapping[str, Mapping[str, str]]) -> str | None:
    """Base family: by key names and the width of the cross-attention, else by metadata.

    attn2's to_k reads the text embedding: 768 wide in SD 1.x, 1024 in SD 2.x, 2048 in SDXL.
    """
    parts = {stem: split_stem(stem) for stem in modules}
    for stem, leaves in modules.items():
        part, name = parts[stem]
        if part != "unet" or not re.search(r"attn2[._](?:processor[._])?to_[kv]$", name):
            continue
        width = _input_width(leaves, header.tensors)
        for known, family in ((768, "sd1"), (1024, "sd2"), (2048, "sdxl")):
            if width == known:
                return family
    stated = _stated_family(header.metadata)
    if stated or first_known(header.metadata, "ss_base_model_version", "modelspec.architecture"):
        return stated  # None for a base that is none of these, such as chroma or lumina2
    for _, name in parts.values():
        if re.match(r"(?:double_blocks|single_blocks|single_transformer_blocks)[._]", name):
            return "flux"
        if re.match(r"joint_blocks[._]", name):
            return "sd3"
    found = {part for part, _ in parts.values()}
    if any(re.match(r"transformer_blocks[._]\d+[._]attn[._]", name) for _, name in parts.values()):
        return "sd3"
    return "sdxl" if "te2" in found and "transformer" not in found else None


def _input_width(leaves: Mapping[str, str], tensors: Mapping[str, TensorEntry]) -> int | None:
    for leaf in ("down", "w1b", "diff"):
        if leaf in leaves:
            shape = tensors[leaves[leaf]].shape
            return shape[1] if len(shape) > 1 else None
    if "k1" in leaves or "k1b" in leaves:
        one = tensors[leaves.get("k1") or leaves["k1b"]].shape
        two_key = leaves.get("k2") or leaves.get("k2b")
        if two_key and len(one) > 1 and len(tensors[two_key].shape) > 1:
            return one[1] * tensors[two_key].shape[1]
    return None


def _stated_family(metadata: Mapping[str, str]) -> str | None:
    for key in ("ss_base_model_version", "modelspec.architecture"):
        text = metadata.get(key, "").lower()
        if re.search(r"sdxl|diffusion-xl|pony|illustrious", text):
            return "sdxl"
        if re.search(r"flux", text):
            return "flux"
        if re.search(r"diffusion-3|\bsd_?3", text):
            return "sd3"
        if re.search(r"\bsd_?(?:v?2)|diffusion-v2", text):
            return "sd2"
        if re.search(r"\bsd_?(?:v?1)|diffusion-v1", text):
            return "sd1"
    return "sd2" if metadata.get("ss_v2") == "True" else None


def _describe_no_lora(header: Header) -> str:
    keys = list(header.tensors)
    name = show(header.path)

    def any_starts(*prefixes: str) -> bool:
        return any(key.startswith(prefixes) for key in keys)

    if any_starts("control_model.", "controlnet_", "input_hint_block."):
        kind = "a ControlNet"
    elif any_starts("model.diffusion_model.", "first_stage_model.", "cond_stage_model."):
        kind = f"a whole model checkpoint; it belongs in {named('model')}"
    elif any_starts("string_to_param", "emb_params") or set(keys) <= {"clip_l", "clip_g", "t5xxl"}:
        kind = "a textual inversion embedding"
    elif any_starts("image_proj", "ip_adapter"):
        kind = "an IP-Adapter"
    elif any_starts("decoder.", "encoder.down") and any("conv_in" in key for key in keys):
        kind = "a VAE"
    elif any_starts("text_model.", "encoder.layers."):
        kind = "the weights of a text encoder"
    elif any_starts("conv_in.", "down_blocks.", "transformer_blocks.", "double_blocks."):
        kind = (
            f"the weights of a UNet or transformer; the folder above it belongs in {named('model')}"
        )
    else:
        kind = f"safetensors of an unknown kind (its first key is {shorten(keys[0], 60)})"
    return f"{name} is not a LoRA but {kind}."


def require_family(info: LoraInfo, family: str, model: str) -> None:
    """Refuse a LoRA before anything is loaded where its base family or its kind cannot fit.

    ``family`` is the chosen model's (sd1, sd2, sdxl, sd3, flux), ``model`` its name for people.
    """
    name = show(info.path)
    if info.unsupported:
        raise UserError(
            f"{name} holds {', '.join(info.unsupported)}, which cannot be applied; "
            "use a LoRA, LoCon, LoHa, LoKr, DoRA or full-difference file."
        )
    if info.family and info.family != family:
        raise UserError(
            f"{name} was trained on {FAMILY_NAMES[info.family]}, but {one_line(model)} is "
            f"{FAMILY_NAMES.get(family, family)}; give a {FAMILY_NAMES[info.family]} model with "
            f"{named('model')}."
        )
