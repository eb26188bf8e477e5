"""What prompts say: long ones are encoded whole, and A1111's attention weights count.

CLIP reads 77 tokens at once, of which the text has 75; diffusers drops the rest. A1111 and ComfyUI
encode a longer prompt in chunks and hand their hidden states to the UNet one after the other, and
so does `embeddings`, cutting where A1111 cuts (its `modules/sd_hijack_clip.py`, `tokenize_line`).
Weights such as `(smile:1.2)` are read and applied as A1111 and Forge do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from generation.errors import UserError, named
from generation.families import FAMILIES
from generation.files import read_json

if TYPE_CHECKING:
    import torch

    from generation.renderers.diffusers.models import BaseModel

__all__ = ["Piece", "attention", "blocks", "check", "cut", "embeddings"]

BREAK = re.compile(r"\s*\bBREAK\b\s*")
"""A1111's word that ends a chunk, with the blanks around it."""

BACKTRACK = 20
"""A1111's default "comma padding backtrack": how many tokens back a chunk may end at a comma."""

_TAG = re.compile(r"<\s*(lora|lyco|hypernet)\s*:\s*([^<>:]*)[^<>]*>", re.IGNORECASE)
_WEIGHT = re.compile(r"(.?)\s*:\s*[+-]?(\d+\.?\d*|\.\d+)\s*\Z", re.DOTALL)
_WILDCARD = re.compile(r"__[\w*/-]{1,80}__|\{[^{}]{0,999}\|[^{}]{0,999}\}")
_AND = re.compile(r"\bAND\b")
_STEP = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?\s*\Z", re.IGNORECASE)
_FACTORS = {"(": 1.1, "[": 1 / 1.1}
_OPENING = {")": "(", "]": "["}
_MARKUP = re.compile(
    r"""
    \\(?P<literal>[\\()\[\]]?)  # a backslash before anything else is dropped
    | (?P<open>[(\[])
    | (?: :\s* (?P<weight>[+-]?(?:\d+(?:\.\d*)?|\.\d+)) \s* (?=\)) )? (?P<close>[)\]])
    | [^\\()\[\]:]+ | :
    """,
    re.VERBOSE,
)


class Piece(NamedTuple):
    """Text of a prompt without its markup, and what its hidden states are multiplied by."""

    text: str
    weight: float


class _Token(NamedTuple):
    id: int
    weight: float


def check(prompts: Iterable[str], family: str) -> list[str]:
    """Warnings about prompts (and negative prompts) whose A1111 markup has no effect here.

    At most one of each kind, naming the first prompt that it is about: attention weights, written
    `(text:1.2)` or `((text))`, for SD 3, FLUX.1 and later; prompt editing, `[cat:dog:0.5]`,
    and alternation, `[cat|dog]`; AND between prompts; wildcards, `__name__`, and choices, `{a|b}`.
    Brackets that may belong to a name, such as `miku_(vocaloid)`, and escaped ones, `\\(`, are not
    taken for weights by this function.
    Raises UserError for `<lora:...>`, `<lyco:...>` and `<hypernet:...>`: a text encoder would read
    them as words.
    """
    weighted = edited = composed = open_ended = ""
    for prompt in prompts:
        if (tag := _TAG.search(prompt)) is not None:
            raise _tag_problem(tag)
        if not FAMILIES[family].chunked:
            weighted = weighted or (prompt if _has_weights(prompt) else "")
        edited = edited or (prompt if _is_edited(prompt) else "")
        composed = composed or (prompt if _AND.search(prompt) else "")
        open_ended = open_ended or (prompt if _WILDCARD.search(prompt) else "")
    found = {
        "Attention weights such as (smile:1.2) are read as plain text by this model; "
        "take them out of the prompts": weighted,
        "Prompt editing, [cat:dog:0.5], and alternation, [cat|dog], are not followed: "
        "all their text is read at every step": edited,
        "AND is read as a word; the prompts around it are not composed": composed,
        "Wildcards, __animal__, and choices, {red|blue}, are not filled in": open_ended,
    }
    return [
        f"{text}. The first such prompt: {_shown(prompt)}"
        for text, prompt in found.items()
        if prompt
    ]


def cut(prompts: Iterable[str], model: BaseModel) -> list[str]:
    """A warning where the text encoder that reads most of a prompt does not read all of it, as T5
    of SD 3 and FLUX.1 beyond 256 and 512 tokens, or CLIP beyond 77 in an SD 3 that was saved
    without T5. Only tokenises.
    """
    folder = model.config or model.path
    parts = read_json(folder / "model_index.json") if model.traits.reads else {}
    absent = (None, [None, None])
    found = [
        (part, most)
        for part, most in model.traits.reads
        if parts.get(part.replace("tokenizer", "text_encoder")) not in absent
    ]
    if not found:
        return []
    part, most = found[0]
    long = [prompt for prompt in prompts if len(prompt.encode("utf-8", "replace")) + 2 > most]
    if not long:
        return []
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / part, local_files_only=True)
    counts = [len(tokenizer(_unescaped(prompt), verbose=False).input_ids) for prompt in long]
    short = "" if found[0] == model.traits.reads[0] else " (it was saved without T5)"
    return [
        f"This model reads {most} tokens of a prompt{short}, and what follows has no effect. The "
        f"first longer prompt ({count} tokens): {_shown(prompt)}"
        for prompt, count in zip(long, counts, strict=True)
        if count > most
    ][:1]


def _shown(prompt: str) -> str:
    return prompt if len(prompt) <= 80 else prompt[:77] + "..."


def _tag_problem(tag: re.Match[str]) -> UserError:
    text, kind, name = tag[0], tag[1].lower(), tag[2].strip()
    if kind == "hypernet":
        return UserError(f"remove {text}; hypernetworks cannot be applied here.", field="prompts")
    numbers = re.findall(r":\s*([+-]?\d*\.?\d+)\s*(?=[:>])", text)
    file = f"{name or 'LORA'}.safetensors"
    return UserError(
        f"remove {text}; the LoRA under study is applied without a tag, and another "
        f"one is given as {named('fixed')} {file}:{numbers[0] if numbers else 1}.",
        field="prompts",
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


def _is_edited(prompt: str) -> bool:
    """Whether A1111 would show the sampler another text at some steps.

    Its `modules/prompt_parser.py` says so in a grammar: between square brackets whose inner
    brackets are all closed, `|`; or one or two colons, and a number after the last.
    """
    opened: list[tuple[str, int, list[int], bool]] = []  # bracket, place, colons, any "|"
    escaped = False
    for place, letter in enumerate(prompt):
        if escaped or letter == "\\":
            escaped = not escaped
        elif letter in _FACTORS:
            opened.append((letter, place, [], False))
        elif opened and letter == ":":
            opened[-1][2].append(place)
        elif opened and letter == "|":
            opened[-1] = (*opened[-1][:3], True)
        elif letter in _OPENING:
            if not opened or opened[-1][0] != _OPENING[letter]:
                opened.clear()  # nothing that is open here can be closed properly
                continue
            bracket, _, colons, alternates = opened.pop()
            if bracket == "[" and alternates and not colons:
                return True
            if bracket == "[" and not alternates and len(colons) in (1, 2):
                # No number that anybody writes is longer.
                number = prompt[colons[-1] + 1 : place]
                if len(number) < 32 and _STEP.match(number):
                    return True
    return False


def attention(prompt: str) -> list[list[Piece]]:
    r"""The text between one BREAK and the next, in pieces of equal weight; at least one list.

    The weights are A1111's (its `modules/prompt_parser.py`, `parse_prompt_attention`; Forge's are
    the same): `(x)` is multiplied by 1.1, `[x]` divided by 1.1, `(x:1.5)` multiplied by 1.5, and
    brackets within brackets multiply. What is not closed counts to the end of the prompt; what was
    never opened is text. `\(`, `\)`, `\[`, `\]` and `\\` are the second character, and other
    backslashes nothing. Any text can be read. Where A1111 fails, at `(x:1.2.3)`, the number is
    text; where it takes BREAK between brackets for a word, the chunk ends as elsewhere.
    """
    texts: list[str] = []
    weights: list[float] = []
    starts = [0]  # the first piece after each BREAK
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def multiply(first: int, factor: float) -> None:
        weights[first:] = [weight * factor for weight in weights[first:]]

    def add(text: str) -> None:
        texts.append(text)
        weights.append(1.0)

    for match in _MARKUP.finditer(prompt):
        bracket = _OPENING.get(match["close"] or "", "")
        if match["open"]:
            opened[match["open"]].append(len(texts))
        elif bracket and opened[bracket]:
            factor = float(match["weight"]) if match["weight"] else _FACTORS[bracket]
            multiply(opened[bracket].pop(), factor)
        elif match["literal"] is not None:
            add(match["literal"])
        else:
            first, *after = BREAK.split(match[0])
            add(first)
            for text in after:
                starts.append(len(texts))
                add(text)
    for bracket, places in opened.items():
        for place in places:
            multiply(place, _FACTORS[bracket])
    pieces = [Piece(*pair) for pair in zip(texts, weights, strict=True)]
    ends = [*starts[1:], len(pieces)]
    return [_merged(pieces[i:k]) for i, k in zip(starts, ends, strict=True)]


def _merged(pieces: Sequence[Piece]) -> list[Piece]:
    """Neighbours of one weight as one, because a tokeniser reads "sun" "set" otherwise."""
    runs = groupby((p for p in pieces if p.text), key=lambda piece: piece.weight)
    return [Piece("".join(p.text for p in run), weight) for weight, run in runs]


def blocks(pipe: Any, family: str, prompt: str, negative: str = "", *, guided: bool) -> int:
    """How many blocks of CLIP's length (77) `embeddings` gives; 1 for SD 3, FLUX.1 and later.

    Only tokenises. Cases share a batch when this is equal: their embeddings are then as long.
    """
    if not FAMILIES[family].chunked:
        return 1
    texts = [attention(text) for text in ((prompt, negative) if guided else (prompt,))]
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
    edit: Callable[..., Mapping[str, torch.Tensor]] | None = None,
) -> dict[str, torch.Tensor]:
    """The text arguments of a diffusers pipeline's call, for one prompt, by name.

    `edit(pipe, prompt, negative, device, guided)` encodes instead for a model that edits pictures.

    `prompt_embeds` is 1 x tokens x width; SDXL and SD 3 add `pooled_prompt_embeds` (1 x width), and
    where `guided` both have a `negative_` twin. Without a negative prompt that is the empty text.
    FLUX.1 has no negative ones.

    SD 1.x, 2.x and XL: what fits into 75 tokens is exactly what `pipe.encode_prompt` gives. Longer
    prompts are cut into chunks of at most 75 tokens: after the last comma if that is among the last
    20, and at the word BREAK, as in A1111. Each chunk is encoded alone between its own BOS and EOS,
    and the hidden states are joined: tokens is 77 `blocks`. The shorter of prompt and negative
    prompt is filled up with empty chunks. SDXL's pooled output is that of the first chunk.

    Where a weight of `attention` is not 1, the hidden states of a chunk are multiplied token by
    token (BOS, EOS and padding by 1), and then all by one number that gives them back the mean they
    had: A1111's and Forge's default emphasis, "Original" (A1111's `modules/sd_emphasis.py`). The
    mean is over tokens and width, of each chunk and each text encoder alone, in SDXL too
    (`process_tokens` in its `modules/sd_hijack_clip.py`). The pooled output is not weighted.

    SD 3 and FLUX.1: encoded by diffusers. Their CLIP encoders, which steer only coarsely, see 77
    tokens; T5 sees 256 (SD 3) or 512 (FLUX.1). BREAK is a word like others, and weights are text.
    So it is with the families after them.

    `clip_skip` leaves out that many of CLIP's last layers, for prompt and negative prompt as A1111
    does and trainers' samples do (diffusers' own SD 3 pipeline: for the prompt only). A1111's
    "Clip skip: 2" is 1 here. Raises UserError if it leaves none, and for weights so large that
    nothing finite is left.
    """
    traits = FAMILIES[family]
    if traits.clip_skip:
        layers = min(encoder.config.num_hidden_layers for _, encoder in _parts(pipe))
        if clip_skip >= layers:
            raise UserError(
                f"{clip_skip} leaves nothing of this model's text encoder, which has "
                f"{layers} layers; give less.",
                field="clip_skip",
            )
    if traits.encode is not None:
        texts = _unescaped(prompt), _unescaped(negative)
        if edit is not None:
            return dict(edit(pipe, *texts, device, guided))
        return dict(traits.encode(pipe, *texts, device, guided, clip_skip))
    count = blocks(pipe, family, prompt, negative, guided=guided)
    read = [attention(text) for text in ((prompt, negative) if guided else (prompt,))]
    # diffusers skips no layers for the negative prompt, and for SD 1.x and 2.x it looks for the
    # final norm where newer transformers have none.
    if count == 1 and not clip_skip and all(_is_plain(parts) for parts in read):
        plain = ["".join(piece.text for piece in parts[0]) for parts in read]
        return _short(pipe, plain[0], plain[-1], device, guided)
    found: dict[str, torch.Tensor] = {}
    for twin, text, parts in zip(("", "negative_"), (prompt, negative), read, strict=False):
        hidden, pooled = _long(pipe, family, parts, count, device, clip_skip)
        if not _is_plain(parts) and not hidden.isfinite().all():
            raise UserError(
                f"the attention weights leave nothing of {_shown(text)!r}; give weights "
                "nearer to 1.",
                field="prompts",
            )
        found[f"{twin}prompt_embeds"] = hidden
        if pooled is not None:
            found[f"{twin}pooled_prompt_embeds"] = pooled
    return found


def _is_plain(parts: Sequence[Sequence[Piece]]) -> bool:
    """Whether diffusers, told the text alone, would read all that is there."""
    return len(parts) == 1 and all(piece.weight == 1 for piece in parts[0])


def _unescaped(text: str) -> str:
    r"""The text with A1111's \( \) \[ \] read as the brackets that they stand for."""
    return re.sub(r"\\([()\[\]])", r"\1", text)


def _short(
    pipe: Any, prompt: str, negative: str, device: torch.device | str, guided: bool
) -> dict[str, torch.Tensor]:
    """As diffusers encodes."""
    encoded = pipe.encode_prompt(
        prompt=prompt,
        device=device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=guided,
        negative_prompt=negative,
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
    pipe: Any,
    family: str,
    parts: Sequence[Sequence[Piece]],
    count: int,
    device: torch.device | str,
    clip_skip: int,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Hidden states of `count` chunks (1 x 77 count x width), and the first one's pooled output."""
    import torch

    pooled = None
    by_encoder = []
    penultimate = FAMILIES[family].penultimate
    for tokenizer, encoder in _parts(pipe):
        chunks = _chunks(tokenizer, parts)
        joined = []
        for chunk in [*chunks, *[[]] * (count - len(chunks))]:
            output = _encode(tokenizer, encoder, [token.id for token in chunk], device)
            states = _states(encoder, output, clip_skip, penultimate)
            joined.append(_weighted(states, [token.weight for token in chunk]))
            # Only an encoder with a projection has it, and only SDXL's UNet takes it.
            if penultimate and pooled is None:
                pooled = getattr(output, "text_embeds", None)
        by_encoder.append(torch.cat(joined, dim=1))
    return torch.cat(by_encoder, dim=-1), pooled


def _parts(pipe: Any) -> list[tuple[Any, Any]]:
    """(tokenizer, text encoder) of each CLIP of a pipeline with a UNet."""
    names = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))
    found = [tuple(getattr(pipe, name, None) for name in pair) for pair in names]
    return [(tokenizer, encoder) for tokenizer, encoder in found if encoder is not None]


def _chunks(tokenizer: Any, parts: Sequence[Sequence[Piece]]) -> list[list[_Token]]:
    """The tokens of what `attention` read, without BOS and EOS, in chunks that CLIP can read.

    At least one. A chunk before BREAK may be empty.
    """
    room = tokenizer.model_max_length - 2
    comma = tokenizer.convert_tokens_to_ids(",</w>")
    found: list[list[_Token]] = []
    *ended, last = [
        [_Token(id_, weight) for text, weight in part for id_ in tokenizer(text).input_ids[1:-1]]
        for part in parts
    ]
    for tokens in ended:
        found += _cut(tokens, room, comma)
    if last:
        found += _cut(last, room, comma)
    return found or [[]]


def _cut(tokens: list[_Token], room: int, comma: int) -> list[list[_Token]]:
    """Pieces of at most `room` tokens, cut after a comma where one is near the end."""
    found = []
    while len(tokens) > room:
        end = room
        # A comma that comes just too late opens the next chunk.
        if tokens[room].id != comma:
            near = [i + 1 for i in range(max(0, room - BACKTRACK), room) if tokens[i].id == comma]
            end = near[-1] if near else room
        found.append(tokens[:end])
        tokens = tokens[end:]
    return [*found, tokens]


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


def _states(encoder: Any, output: Any, clip_skip: int, penultimate: bool) -> torch.Tensor:
    """The hidden states that the family's UNet was trained on, `clip_skip` layers earlier.

    SDXL takes the last layer but one as it is; the others the last, after the final norm.
    """
    if penultimate:
        states = output.hidden_states[-(clip_skip + 2)]
    elif clip_skip:
        # Older transformers have the layers one module deeper.
        norm = getattr(encoder, "text_model", encoder).final_layer_norm
        states = norm(output.hidden_states[-(clip_skip + 1)])
    else:
        states = output.last_hidden_state
    given: torch.Tensor = states.to(encoder.dtype)
    return given


def _weighted(states: torch.Tensor, weights: list[float]) -> torch.Tensor:
    """One chunk's hidden states (1 x 77 x width) times its tokens' weights, their mean kept."""
    import torch

    if all(weight == 1 for weight in weights):
        return states
    factors = torch.ones(states.shape[1], device=states.device)
    factors[1 : len(weights) + 1] = torch.tensor(weights, device=states.device)  # after BOS
    given = states.float()  # as A1111's weights are; rounded once, at the end
    scaled = given * factors[:, None]
    return (scaled * (given.mean() / scaled.mean())).to(states.dtype)
