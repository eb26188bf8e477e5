"""What prompts say: long ones are encoded whole, and A1111's markup does not pass unnoticed.

CLIP reads 77 tokens at once, of which the text has 75; diffusers drops the rest. A1111 and ComfyUI
encode a longer prompt in chunks and hand their hidden states to the UNet one after the other, and
so does `embeddings`, cutting where A1111 cuts (its `modules/sd_hijack_clip.py`, `tokenize_line`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from generation.errors import UserError

if TYPE_CHECKING:
    import torch

__all__ = ["blocks", "check", "embeddings"]

CHUNKED = frozenset({"sd1", "sd2", "sdxl"})
"""Families whose UNet attends to CLIP's hidden states, however many there are."""

BREAK = re.compile(r"\s*\bBREAK\b\s*")
"""A1111's word that ends a chunk, with the blanks around it."""

BACKTRACK = 20
"""A1111's default "comma padding backtrack": how many tokens back a chunk may end at a comma."""

_TAG = re.compile(r"<\s*(lora|lyco|hypernet)\s*:\s*([^<>:]*)[^<>]*>", re.IGNORECASE)
_WEIGHT = re.compile(r"(.?)\s*:\s*[+-]?(\d+\.?\d*|\.\d+)\s*\Z", re.DOTALL)


def check(prompts: Iterable[str]) -> list[str]:
    """Warnings about prompts (and negative prompts) whose A1111 markup has no effect here.

    One warning, or none: attention weights, written `(text:1.2)` or `((text))`. Brackets that may
    belong to a name, such as `miku_(vocaloid)`, and escaped ones, `\\(`, are not taken for weights.
    Raises UserError for `<lora:...>`, `<lyco:...>` and `<hypernet:...>`: a text encoder would read
    them as words.
    """
    weighted = ""
    for prompt in prompts:
        if (tag := _TAG.search(prompt)) is not None:
            raise UserError(_tag_problem(tag))
        weighted = weighted or (prompt if _has_weights(prompt) else "")
    if not weighted:
        return []
    shown = weighted if len(weighted) <= 80 else weighted[:77] + "..."
    return [
        "Attention weights such as (smile:1.2) are read as plain text here; "
        f"take them out of the prompts. The first with some: {shown}"
    ]


def _tag_problem(tag: re.Match[str]) -> str:
    text, kind, name = tag[0], tag[1].lower(), tag[2].strip()
    if kind == "hypernet":
        return f"--prompts: remove {text}; hypernetworks cannot be applied here."
    numbers = re.findall(r":\s*([+-]?\d*\.?\d+)\s*(?=[:>])", text)
    file = f"{name or 'LORA'}.safetensors"
    return (
        f"--prompts: remove {text}; the LoRA under study is applied without a tag, and another "
        f"one is given as --with {file}:{numbers[0] if numbers else 1}."
    )


def _has_weights(prompt: str) -> bool:
    opened: list[int] = []
    last = (-1, -1)  # the pair of brackets closed last
    position = 0
    while position < len(prompt):
        letter = prompt[position]
        if letter == "\\":
            position += 1
        elif letter == "(":
            opened.append(position)
        elif letter == ")" and opened:
            pair = opened.pop(), position
            inside = prompt[pair[0] + 1 : position]
            if last == (pair[0] + 1, position - 1) and any(c.isalnum() for c in inside):
                return True
            # 24 letters are enough for any number; the rest need not be searched.
            number = _WEIGHT.search(inside[-24:])
            # (16:9) is a ratio and (12:30) a time; (score_9:1.2) is a weight.
            if number and number[1] and (not number[1].isdigit() or "." in number[2]):
                return True
            last = pair
        position += 1
    return False


def blocks(pipe: Any, family: str, prompt: str, negative: str = "", *, guided: bool) -> int:
    """How many blocks of CLIP's length (77) `embeddings` gives; 1 for SD 3 and FLUX.1.

    Only tokenises. Cases share a batch when this is equal: their embeddings are then as long.
    """
    if family not in CHUNKED:
        return 1
    texts = (_unescaped(text) for text in ((prompt, negative) if guided else (prompt,)))
    return max(len(_chunks(part[0], text)) for text in texts for part in _parts(pipe))


def embeddings(
    pipe: Any,
    family: str,
    prompt: str,
    negative: str,
    *,
    device: torch.device | str,
    guided: bool,
    clip_skip: int,
) -> dict[str, torch.Tensor]:
    """The text arguments of a diffusers pipeline's call, for one prompt, by name.

    `prompt_embeds` is 1 x tokens x width; SDXL and SD 3 add `pooled_prompt_embeds` (1 x width), and
    where `guided` both have a `negative_` twin. Without a negative prompt that is the empty text.
    FLUX.1 has no negative ones.

    SD 1.x, 2.x and XL: what fits into 75 tokens is exactly what `pipe.encode_prompt` gives. Longer
    prompts are cut into chunks of at most 75 tokens: after the last comma if that is among the last
    20, and at the word BREAK, as in A1111. Each chunk is encoded alone between its own BOS and EOS,
    and the hidden states are joined: tokens is 77 `blocks`. The shorter of prompt and negative
    prompt is filled up with empty chunks. SDXL's pooled output is that of the first chunk.

    SD 3 and FLUX.1: encoded by diffusers. Their CLIP encoders, which steer only coarsely, see 77
    tokens; T5 sees 256 (SD 3) or 512 (FLUX.1). BREAK is a word like others.

    `clip_skip` leaves out that many of CLIP's last layers, for prompt and negative prompt as A1111
    does and trainers' samples do (diffusers' own SD 3 pipeline: for the prompt only). A1111's
    "Clip skip: 2" is 1 here. Raises UserError if it leaves none.
    """
    prompt, negative = _unescaped(prompt), _unescaped(negative)
    texts = {"": prompt, "negative_": negative} if guided else {"": prompt}
    if family != "flux":
        layers = min(encoder.config.num_hidden_layers for _, encoder in _parts(pipe))
        if clip_skip >= layers:
            raise UserError(
                f"--clip-skip: {clip_skip} leaves nothing of this model's text encoder, which has "
                f"{layers} layers; give less."
            )
    count = blocks(pipe, family, prompt, negative, guided=guided)
    ours = family in CHUNKED and (
        count > 1
        or any(BREAK.search(text) for text in texts.values())
        # diffusers skips no layers for the negative prompt, and for SD 1.x and 2.x it looks for
        # the final norm where newer transformers have none.
        or clip_skip
    )
    if not ours:
        return _short(pipe, family, prompt, negative, device, guided, clip_skip)
    found: dict[str, torch.Tensor] = {}
    for twin, text in texts.items():
        hidden, pooled = _long(pipe, family, text, count, device, clip_skip)
        found[f"{twin}prompt_embeds"] = hidden
        if pooled is not None:
            found[f"{twin}pooled_prompt_embeds"] = pooled
    return found


def _unescaped(text: str) -> str:
    r"""The text with A1111's \( \) \[ \] read as the brackets that they stand for."""
    return re.sub(r"\\([()\[\]])", r"\1", text)


def _short(
    pipe: Any,
    family: str,
    prompt: str,
    negative: str,
    device: torch.device | str,
    guided: bool,
    clip_skip: int,
) -> dict[str, torch.Tensor]:
    """As diffusers encodes."""
    common: dict[str, Any] = {"prompt": prompt, "device": device, "num_images_per_prompt": 1}
    if family == "flux":
        embeds, pooled, _ = pipe.encode_prompt(**common, prompt_2=None)
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}
    if family == "sd3":
        common |= {"prompt_2": None, "prompt_3": None}
    encoded = pipe.encode_prompt(
        **common,
        do_classifier_free_guidance=guided,
        negative_prompt=negative,
        clip_skip=clip_skip or None,
    )
    names = (
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    )
    # Stable Diffusion 1.x and 2.x give the first two only.
    given: Mapping[str, torch.Tensor | None] = dict(zip(names, encoded, strict=False))
    return {name: tensor for name, tensor in given.items() if tensor is not None}


def _long(
    pipe: Any, family: str, text: str, count: int, device: torch.device | str, clip_skip: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Hidden states of `count` chunks (1 x 77 count x width), and the first one's pooled output."""
    import torch

    pooled = None
    by_encoder = []
    for tokenizer, encoder in _parts(pipe):
        chunks = _chunks(tokenizer, text)
        joined = []
        for chunk in [*chunks, *[[]] * (count - len(chunks))]:
            output = _encode(tokenizer, encoder, chunk, device)
            joined.append(_states(encoder, output, clip_skip, family))
            # Only an encoder with a projection has it, and only SDXL's UNet takes it.
            if family == "sdxl" and pooled is None:
                pooled = getattr(output, "text_embeds", None)
        by_encoder.append(torch.cat(joined, dim=1))
    return torch.cat(by_encoder, dim=-1), pooled


def _parts(pipe: Any) -> list[tuple[Any, Any]]:
    """(tokenizer, text encoder) of each CLIP of a pipeline with a UNet."""
    names = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))
    found = [tuple(getattr(pipe, name, None) for name in pair) for pair in names]
    return [(tokenizer, encoder) for tokenizer, encoder in found if encoder is not None]


def _chunks(tokenizer: Any, text: str) -> list[list[int]]:
    """The text's tokens without BOS and EOS in chunks that CLIP can read; at least one.

    A chunk before BREAK may be empty.
    """
    room = tokenizer.model_max_length - 2
    comma = tokenizer.convert_tokens_to_ids(",</w>")
    found: list[list[int]] = []
    *ended, last = [tokenizer(part).input_ids[1:-1] for part in BREAK.split(text)]
    for ids in ended:
        found += _cut(ids, room, comma)
    if last:
        found += _cut(last, room, comma)
    return found or [[]]


def _cut(ids: list[int], room: int, comma: int) -> list[list[int]]:
    """Pieces of at most `room` tokens, cut after a comma where one is near the end."""
    found = []
    while len(ids) > room:
        end = room
        # A comma that comes just too late opens the next chunk.
        if ids[room] != comma:
            near = [i + 1 for i in range(max(0, room - BACKTRACK), room) if ids[i] == comma]
            end = near[-1] if near else room
        found.append(ids[:end])
        ids = ids[end:]
    return [*found, ids]


def _encode(tokenizer: Any, encoder: Any, chunk: list[int], device: torch.device | str) -> Any:
    """The encoder's output for one chunk, padded as its tokenizer pads."""
    import torch

    ids = [tokenizer.bos_token_id, *chunk, tokenizer.eos_token_id]
    empty = tokenizer.model_max_length - len(ids)
    mask = None
    if getattr(encoder.config, "use_attention_mask", False):
        mask = torch.tensor([[1] * len(ids) + [0] * empty], device=device)
    padded = torch.tensor([ids + [tokenizer.pad_token_id] * empty], device=device)
    return encoder(padded, attention_mask=mask, output_hidden_states=True)


def _states(encoder: Any, output: Any, clip_skip: int, family: str) -> torch.Tensor:
    """The hidden states that the family's UNet was trained on, `clip_skip` layers earlier.

    SDXL takes the last layer but one as it is; the others the last, after the final norm.
    """
    if family == "sdxl":
        states = output.hidden_states[-(clip_skip + 2)]
    elif clip_skip:
        # Older transformers have the layers one module deeper.
        norm = getattr(encoder, "text_model", encoder).final_layer_norm
        states = norm(output.hidden_states[-(clip_skip + 1)])
    else:
        states = output.last_hidden_state
    return states.to(encoder.dtype)  # type: ignore[no-any-return]
