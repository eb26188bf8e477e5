"""What a LoRA file is: format, base family, rank, alpha, parts, training facts; from its header.

Nothing but the header and the scalar alphas is read, and no base model is loaded.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from generation.errors import UserError, named
from generation.families import ALL, words
from generation.families.recognition import families_of, family_stated
from generation.loras.adapters import AdapterScales
from generation.loras.container import (
    Header,
    TensorEntry,
    once_a_file,
    one_line,
    printable,
    read_header,
    read_tensors,
    sha256,
    shorten,
    show,
    tensor_hash,
)
from generation.loras.keys import (
    PART_NAMES,
    algorithm,
    group_keys,
    rank_leaf,
    split_key,
    split_stem,
    update_shape,
    without_adapter,
)
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
    "PART_NAMES",
    "AdapterScales",
    "Header",
    "LoraInfo",
    "TensorEntry",
    "algorithm",
    "group_keys",
    "inspect",
    "one_line",
    "parse_json",
    "printable",
    "read_header",
    "read_tensors",
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
    ``family`` is the base family by the shapes of the layers, by metadata where these do not tell,
    else None; ``families`` are all that have layers of these names and shapes, and
    ``stated_family`` the one that metadata name. ``magnitude_per_output`` says that it is a DoRA
    whose magnitudes are of its outputs, ``alpha_zero`` that a low-rank module stores an alpha of 0.
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
    families: tuple[str, ...] = ()
    stated_family: str | None = None
    magnitude_per_output: bool = False
    alpha_zero: bool = False

    @property
    def family_words(self) -> str:
        """The base in words: "FLUX.1 or Chroma" where their layers are the same; "" if unknown."""
        return words(self.family) or words(*self.families[:3])

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
        words = [_FORMAT_NAMES[self.format], self.family_words or "unknown base"]
        if self.ranks:
            words.append("rank " + _span(self.ranks))
            stored = [alpha for alpha in self.alphas if alpha is not None]
            words.append("alpha " + (_span(stored) if stored else "not stored (taken as rank)"))
        if self.scales:
            words.append("scale " + _span(self.scales))
        words.append("touches " + ", ".join(PART_NAMES[part] for part in self.touches))
        return ", ".join(words)


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


def _span(values: Iterable[float]) -> str:
    shown = sorted(set(values))
    if len(shown) == 1:
        return f"{shown[0]:g}"
    return f"{shown[0]:g} to {shown[-1]:g}"


# ---------------------------------------------------------------------------------------------
# Inspection


@once_a_file(most=1000, beside="adapter_config.json")
def inspect(path: Path) -> LoraInfo:
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
        if rank is None and not (adapter.known and "k1" in leaves and "k2" in leaves):
            continue
        alpha, scale = adapter.resolve(stem, rank, alphas.get(stem))
        ranks |= {rank} if rank is not None else set()
        shown_alphas.add(alpha)
        scales.add(scale)
    families = _families(header, modules)
    stated = _stated_family(header.metadata, adapter.base_model)
    return LoraInfo(
        path=header.path,
        format=_format(header, modules, algorithms),
        layout=_layout(modules),
        family=_family(families, stated),
        base_model=first_known(header.metadata, *_BASE_KEYS) or adapter.base_model,
        ranks=tuple(sorted(ranks)),
        alphas=tuple(sorted(shown_alphas, key=lambda a: -math.inf if a is None else a)),
        scales=tuple(sorted(scales)),
        modules=len(modules),
        touches=_touched(modules),
        unsupported=(
            *_control(header, modules),
            *adapter.refused({leaf for leaves in modules.values() for leaf in leaves}),
            *_unsupported(modules, algorithms, others),
        ),
        trainer=trainer(header.metadata),
        epoch=stored_epoch(header.metadata),
        step=stored_step(header.metadata),
        trigger_words=trigger_words(header.metadata),
        resolution=training_resolution(header.metadata),
        prediction_type=prediction_type(header.metadata),
        metadata=header.metadata,
        families=families,
        stated_family=stated,
        magnitude_per_output=any(
            "magnitude" in leaves or _per_output(header.tensors[leaves["dora_scale"]].shape)
            for leaves in modules.values()
            if leaves.keys() & {"dora_scale", "magnitude"}
        ),
        alpha_zero=any(
            alphas.get(stem) == 0 and _rank(leaves, header.tensors) is not None
            for stem, leaves in modules.items()
        ),
    )


def _per_output(shape: tuple[int, ...]) -> bool:
    """Whether LyCORIS' magnitudes are per output, [out, 1], and not per input, [1, in]."""
    return len(shape) < 2 or shape[0] > 1


def _stored_alphas(header: Header, modules: Mapping[str, Mapping[str, str]]) -> dict[str, float]:
    keys = {stem: leaves["alpha"] for stem, leaves in modules.items() if "alpha" in leaves}
    for key in keys.values():
        if math.prod(header.tensors[key].shape) != 1:
            raise UserError(f"{show(header.path)}: {shorten(key)} is no single number.")
    values = read_tensors(header.path, keys.values(), header=header)
    return {stem: float(values[key].reshape(-1)[0]) for stem, key in keys.items()}


def _rank(leaves: Mapping[str, str], tensors: Mapping[str, TensorEntry]) -> int | None:
    leaf = rank_leaf(leaves)
    shape = tensors[leaves[leaf]].shape if leaf else ()
    return shape[0] if shape and shape[0] > 0 else None


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


def _control(header: Header, modules: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    """A FLUX.1 Control LoRA reads a second picture: 128 channels where FLUX.1 has 64."""
    first = [stem for stem in modules if split_stem(stem)[1] in {"img_in", "x_embedder"}]
    shapes = [_shape(header, modules[stem]) for stem in first]
    rest = {stem: leaves for stem, leaves in modules.items() if stem not in first}
    if any(shape and shape[1:] == (128,) for shape in shapes) and "flux" in _families(header, rest):
        return ("a FLUX.1 Control LoRA, which needs a picture beside the noise",)
    return ()


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
    adapters = {without_adapter(key)[1] for key in others if split_key(key)}
    adapters |= {without_adapter(key)[1] for leaves in modules.values() for key in leaves.values()}
    if len(adapters) > 1:
        found.append(f"several adapters ({', '.join(sorted(map(shorten, adapters - {''}))[:4])})")
    if any(key.startswith("bundle_emb.") for key in others):
        found.append("bundled embeddings")
    if not found:
        found = [f"unknown key {shorten(key)}" for key in others]
    return tuple(found[:5])


_BASE_KEYS = ("ss_base_model_version", "modelspec.architecture")


def _families(header: Header, modules: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    """The families that have layers of the file's names and shapes."""
    found = []
    for stem, leaves in modules.items():
        kind = algorithm(leaves)
        if kind in {"norm", "incomplete"} or (kind == "full" and "diff" not in leaves):
            continue
        shape = _shape(header, leaves)
        if shape is not None or kind not in _SHAPED:
            found.append((*split_stem(stem), shape))
    one_encoder = any(stem.startswith("lora_te_") for stem in modules)
    return families_of(found, one_encoder=one_encoder)


_SHAPED = frozenset({"lora", "loha", "lokr", "full"})


def _shape(header: Header, leaves: Mapping[str, str]) -> tuple[int, ...] | None:
    """Shape of a module's update, or None where its factors do not tell or are damaged."""
    shapes = {leaf: header.tensors[key].shape for leaf, key in leaves.items()}
    kind = algorithm(shapes)
    try:
        return update_shape(kind, shapes) if kind in _SHAPED else None
    except (KeyError, IndexError):
        return None


def _family(families: Sequence[str], stated: str | None) -> str | None:
    """One family of those that the shapes allow, by what metadata state where shapes do not tell.

    Shapes cannot lie, metadata can; but metadata alone tell apart what has the same shapes.
    """
    if stated and (not families or stated in families or ALL[stated].like in families):
        return stated
    return families[0] if len(families) == 1 else None


def _stated_family(metadata: Mapping[str, str], base_model: str | None) -> str | None:
    """The family that the base model's name in the metadata means."""
    for text in (*(metadata.get(key) for key in _BASE_KEYS), base_model):
        family = family_stated(text or "")
        if family:
            return family
    return "sd2" if metadata.get("ss_v2") == "True" else None


_OTHER_ADAPTERS = {
    "boft_": "BOFT",
    "vera_": "VeRA",
    "vblora_": "VB-LoRA",
    "fourierft_": "FourierFT",
    "hra_": "HRA",
    "randlora_": "RandLoRA",
    "shira_": "SHiRA",
    "c3a_": "C3A",
    "bone_": "Bone",
    "miss_": "MiSS",
    "road_": "RoAd",
    "ln_tuning_": "LN tuning",
    "waveft_": "WaveFT",
}
"""How keys of peft's other adapters begin, after the layer's name (its src/peft/tuners)."""


def _describe_no_lora(header: Header) -> str:
    keys = list(header.tensors)
    name = show(header.path)

    def any_starts(*prefixes: str) -> bool:
        return any(key.startswith(prefixes) for key in keys)

    others = [word for begin, word in _OTHER_ADAPTERS.items() if f".{begin}" in " ".join(keys)]
    if others:
        kind = f"a {others[0]} adapter, which cannot be applied"
    elif any_starts("control_model.", "controlnet_", "input_hint_block."):
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
