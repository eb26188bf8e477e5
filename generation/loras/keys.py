"""How trainers spell a LoRA's keys: which module of which part of the model, which factor."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping

PART_NAMES = {
    "unet": "UNet",
    "transformer": "transformer",
    "te": "text encoder",
    "te2": "second text encoder",
    "te3": "third text encoder",
    "te4": "fourth text encoder",
}

# Endings as the trainers spell them -> the one name used here. Longest first: `.alpha` and
# `.weight` are endings of endings.
_LEAVES = {
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_mid.weight": "mid",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".down.weight": "down",  # XLabs, see `_LEAF_PATTERN`
    ".up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora_B.bias": "up_bias",
    ".lora_up.bias": "up_bias",
    ".alpha": "alpha",
    "_lora.alpha": "alpha",
    ".lora.alpha": "alpha",
    ".dora_scale": "dora_scale",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    ".hada_w1_a": "w1a",
    ".hada_w1_b": "w1b",
    ".hada_w2_a": "w2a",
    ".hada_w2_b": "w2b",
    ".hada_t1": "t1",
    ".hada_t2": "t2",
    ".lokr_w1": "k1",
    ".lokr_w1_a": "k1a",
    ".lokr_w1_b": "k1b",
    ".lokr_w2": "k2",
    ".lokr_w2_a": "k2a",
    ".lokr_w2_b": "k2b",
    ".lokr_t2": "kt2",
    ".diff": "diff",
    ".diff_b": "diff_b",
    ".w_norm": "w_norm",
    ".b_norm": "b_norm",
    ".a1.weight": "glora",
    ".a2.weight": "glora",
    ".b1.weight": "glora",
    ".b2.weight": "glora",
    ".bm.weight": "glora",
    ".oft_blocks": "oft",
    ".oft_diag": "oft",
    ".oft_R.weight": "oft",
    ".on_input": "ia3",
    ".ia3_l": "ia3",
    ".ia3_l.weight": "ia3",
    ".set_weight": "set",
    ".reshape_weight": "set",
    ".scalar": "scalar",
}
_XLABS = (".down.weight", ".up.weight")
_LEAF_PATTERN = re.compile(
    "(?:"
    + "|".join(
        (r"(?<=_lora[12])" if ending in _XLABS else "") + re.escape(ending)
        for ending in sorted(_LEAVES, key=len, reverse=True)
    )
    + r")\Z"
)
# peft has the adapter's name in the keys of a whole state: lora_A.my_style.weight, hada_w1_a.dog.
_ADAPTER_NAME = re.compile(
    r"(?P<factor>\.(?:lora_[AB]|lora_magnitude_vector|oft_R|hada_w[12]_[ab]|hada_t[12]"
    r"|lokr_w[12](?:_[ab])?|lokr_t2))\.(?P<adapter>(?!weight\Z|bias\Z)[\w-]+)"
    r"(?P<rest>\.weight|\.bias|)\Z"
)
# Kinds that are only named, never applied: several of their keys share one leaf.
_MANY = frozenset({"glora", "oft", "ia3", "set"})
_LOW_RANK = frozenset({"down", "up", "mid"})
_HADAMARD = frozenset({"w1a", "w1b", "w2a", "w2b", "t1", "t2"})
_KRONECKER = frozenset({"k1", "k1a", "k1b", "k2", "k2a", "k2b", "kt2"})


def split_key(key: str) -> tuple[str, str] | None:
    """(module stem, leaf) of a LoRA key; None where the ending is none that LoRA files use.

    Leaves: down, up, mid, alpha; dora_scale, magnitude; w1a to w2b, t1, t2 (LoHa); k1 to k2b, kt2
    (LoKr); diff, diff_b, w_norm, b_norm, up_bias; glora, oft, ia3, set, scalar (not supported).
    """
    key = without_adapter(key)[0]
    found = _LEAF_PATTERN.search(key)
    if found is None or found.start() == 0:
        return None
    return key[: found.start()], _LEAVES[found.group()]


def without_adapter(key: str) -> tuple[str, str]:
    """(the key without an adapter's name in it, that name or "")."""
    named = _ADAPTER_NAME.search(key)
    if named is None:
        return key, ""
    return key[: named.start()] + named["factor"] + named["rest"], named["adapter"]


def group_keys(keys: Iterable[str]) -> tuple[dict[str, dict[str, str]], tuple[str, ...]]:
    """Keys by module: ({stem: {leaf: key}}, the keys that belong to no module)."""
    modules: dict[str, dict[str, str]] = {}
    others = []
    for key in keys:
        parts = split_key(key)
        # `bundle_emb` carries a textual inversion, whose keys may end like a LoRA's.
        # Two spellings of one factor would silently replace each other.
        doubled = (
            parts is not None and parts[1] in modules.get(parts[0], {}) and parts[1] not in _MANY
        )
        if parts is None or doubled or key.startswith("bundle_emb."):
            others.append(key)
        else:
            modules.setdefault(parts[0], {})[parts[1]] = key
    # IA3's factor is plainly called `weight`, so only its companion tells.
    left = []
    for key in others:
        leaves = modules.get(key.removesuffix(".weight"), {})
        if "ia3" in leaves and key.endswith(".weight"):
            leaves["ia3_weight"] = key
        else:
            left.append(key)
    return modules, tuple(left)


def algorithm(leaves: Iterable[str]) -> str:
    """lora, locon-tucker, loha, lokr, full, norm, or the name of what cannot be applied."""
    have = set(leaves)
    for leaf, name in (("glora", "glora"), ("oft", "oft"), ("ia3", "ia3"), ("set", "set")):
        if leaf in have:
            return name
    if have & _HADAMARD:
        return "loha"
    if have & _KRONECKER:
        return "lokr"
    if have & _LOW_RANK:
        return "lora"
    if have & {"diff", "diff_b"}:
        return "full"
    if have & {"w_norm", "b_norm"}:
        return "norm"
    return "incomplete"


def rank_leaf(leaves: Container[str]) -> str | None:
    """The factor whose first side is what alpha is divided by. With LoKr only a factor that is
    itself decomposed has one (LyCORIS' modules/lokr.py)."""
    return next((leaf for leaf in ("down", "w1b", "k1b", "k2b") if leaf in leaves), None)


def update_shape(kind: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Shape of the update that factors of these shapes make, by `algorithm` and leaf.

    [out, in, *kernel], or [out, in * kernel] where the factors do not tell the kernel. Raises
    KeyError or IndexError where a factor is missing or no matrix.
    """
    f = shapes
    if kind in {"full", "norm"}:
        return next(f[leaf] for leaf in ("diff", "w_norm", "diff_b", "b_norm") if leaf in f)
    if kind == "lora":
        kernel = f["mid"][2:] if "mid" in f else f["down"][2:]
        return (f["up"][0], f["down"][1], *kernel)
    if kind == "loha":
        if "t1" in f:
            return (f["w1a"][1], f["w1b"][1], *f["t1"][2:])
        return (f["w1a"][0], f["w1b"][1])
    a, c = f["k1"][:2] if "k1" in f else (f["k1a"][0], f["k1b"][1])
    kernel = ()
    if "k2" in f:
        b, d, kernel = f["k2"][0], f["k2"][1], f["k2"][2:]
    elif "kt2" in f:
        b, d, kernel = f["k2a"][1], f["k2b"][1], f["kt2"][2:]
    else:
        b, d = f["k2a"][0], f["k2b"][1]
    return (a * b, c * d, *kernel)


# Prefixes of stems -> the part of the model. Longest first where one begins another.
_PREFIXES = (
    ("lora_unet_", "unet"),
    ("lora_transformer_", "transformer"),
    ("lora_te1_", "te"),
    ("lora_te2_", "te2"),
    ("lora_te3_", "te3"),
    ("lora_te4_", "te4"),
    ("lora_te_", "te"),
    ("lycoris_", ""),
    ("_orig_mod.", ""),  # torch.compile
    ("_orig_mod_", ""),
    ("module.", ""),  # torch's data parallelism
    ("base_model.model.", ""),
    ("model.diffusion_model.", "unet"),
    ("diffusion_model.", "unet"),
    ("unet.", "unet"),
    ("transformer.", "transformer"),
    ("text_encoder_4.", "te4"),
    ("text_encoder_3.", "te3"),
    ("text_encoder_2.", "te2"),
    ("text_encoder.", "te"),
    ("text_encoders.", ""),
    ("clip_l.", "te"),
    ("clip_h.", "te"),
    ("clip_g.", "te2"),
    ("t5xxl.", "te3"),
    ("t5.", "te3"),  # OneTrainer's backups
    ("llama.", "te4"),
)
_BARE_UNET = re.compile(
    r"(?:down_blocks|up_blocks|mid_block|input_blocks|middle_block|output_blocks|conv_in|conv_out|"
    r"time_embed|time_embedding|add_embedding|label_emb|out)(?=[._])"
)
_BARE_TRANSFORMER = re.compile(
    r"(?:transformer_blocks|single_transformer_blocks|double_blocks|single_blocks|joint_blocks|"
    r"context_embedder|x_embedder|time_text_embed)(?=[._])"
)
_BARE_TEXT = re.compile(r"(?:text_model[._])?(?:encoder[._]layers|text_projection)(?=[._])")
_DIT = re.compile(
    r"(?:^|[._])(?:single_transformer_blocks|double_blocks|single_blocks|joint_blocks|"
    r"transformer_blocks_\d+_attn_add_|add_[qkv]_proj)(?=[._]|$)"
)


def _same(one: str, other: str) -> bool:
    """Whether two prefixes say the same, and one stands there twice; "unet" is any denoiser."""
    return one == other or {one, other} == {"unet", "transformer"}


def split_stem(stem: str) -> tuple[str, str]:
    """(part, name inside the part) of a stem; part is "" where the stem does not say."""
    part = ""
    name = stem
    again = True
    while again:
        again = False
        for prefix, of in _PREFIXES:
            if name.startswith(prefix) and len(name) > len(prefix):
                if of and part and not _same(of, part):
                    break
                name, part, again = name[len(prefix) :], of or part, True
                break
    if part.startswith("te") and name.startswith("transformer."):
        name = name[len("transformer.") :]  # ComfyUI: clip_l.transformer.text_model...
    if not part:
        if _BARE_UNET.match(name):
            part = "unet"
        elif _BARE_TRANSFORMER.match(name):
            part = "transformer"
        elif _BARE_TEXT.match(name):
            part = "te"
    if part == "unet" and _DIT.search(name):
        part = "transformer"
    return part, name
