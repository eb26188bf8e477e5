"""Long and weighted prompts against the text encoders themselves; A1111's markup."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("diffusers")
import torch  # noqa: E402

import sample_data  # noqa: E402
from generation.errors import UserError  # noqa: E402
from generation.families import FAMILIES  # noqa: E402
from generation.renderers.diffusers import prompts  # noqa: E402
from generation.renderers.diffusers.models import (  # noqa: E402
    CONFIGS,
    find_model,
    load_pipeline,
    write_clip_tokenizer,
)

Tiny = Callable[[str], Path]
Encoded = Mapping[str, torch.Tensor]

WITH_UNET = ["demo", "sd1", "sd2", "sdxl"]
WITH_T5 = ["sd3", "flux"]
CHUNKED = [family for family, traits in FAMILIES.items() if traits.chunked]
LENGTH = 24
"""What the tiny text encoders read at once: 22 tokens of text."""

LONG = "red green blue cat dog house tree grass water snow night sunset forest beach " * 3
LONG = LONG.strip()
NAMES = (
    "prompt_embeds",
    "negative_prompt_embeds",
    "pooled_prompt_embeds",
    "negative_pooled_prompt_embeds",
)


@pytest.fixture(scope="session")
def pipes(tiny_model: Tiny) -> Callable[[str], tuple[Any, str]]:
    """name -> (pipeline, family); "demo" is the embedded model."""

    @cache
    def load(name: str) -> tuple[Any, str]:
        folder = sample_data.PATH / "model" if name == "demo" else tiny_model(name)
        model = find_model(str(folder))
        pipe = load_pipeline(model, torch.float32)
        for part in (pipe.text_encoder, getattr(pipe, "text_encoder_2", None)):
            if part is not None:
                part.eval().requires_grad_(False)
                if not hasattr(part, "text_model"):
                    # Where diffusers' clip skip looks, and newer transformers have nothing; past
                    # Module's own __setattr__, which would make the module a part of itself.
                    object.__setattr__(part, "text_model", part)
                if name != "demo" and hasattr(part, "final_layer_norm"):
                    # As initialised its output has the mean 0, which no trained one has.
                    bias = part.final_layer_norm.bias
                    bias.copy_(torch.linspace(-1, 0.5, len(bias)))
        return pipe, model.family

    return load


Pipes = Callable[[str], tuple[Any, str]]


def encode(
    loaded: tuple[Any, str], prompt: str, negative: str = "", guided: bool = True, skip: int = 0
) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        return prompts.embeddings(
            *loaded, prompt, negative, device="cpu", guided=guided, clip_skip=skip
        )


def by_diffusers(
    pipe: Any, prompt: str, negative: str = "", guided: bool = True, skip: int | None = None
) -> dict[str, torch.Tensor]:
    """What the pipeline itself encodes, cut off after one chunk."""
    with torch.inference_mode():
        if type(pipe).__name__ == "FluxPipeline":
            embeds, pooled, _ = pipe.encode_prompt(prompt, None, device="cpu")
            return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}
        more = {"prompt_2": None}
        more |= {"prompt_3": None} if type(pipe).__name__ == "StableDiffusion3Pipeline" else {}
        found = pipe.encode_prompt(
            prompt=prompt, device="cpu", num_images_per_prompt=1, negative_prompt=negative,
            do_classifier_free_guidance=guided, clip_skip=skip,
            **(more if hasattr(pipe, "tokenizer_2") else {}),
        )  # fmt: skip
    return {n: t for n, t in zip(NAMES, found, strict=False) if t is not None}


def assert_same(ours: Encoded, theirs: Encoded) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype
        assert torch.equal(tensor, theirs[name]), name


def chunks(tokenizer: Any, text: str) -> list[list[int]]:
    """The token ids of the chunks of a prompt."""
    found = prompts._chunks(tokenizer, prompts.attention(text))
    return [[token.id for token in chunk] for chunk in found]


def pieces(pipe: Any, text: str) -> list[list[int]]:
    """Tokens in slices of what fits, for texts without commas."""
    ids = pipe.tokenizer(text, add_special_tokens=False).input_ids
    room = LENGTH - 2
    return [ids[i : i + room] for i in range(0, len(ids), room)]


# --- encoding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("skip", [0, 1])
@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("name", [*WITH_UNET, "sd3", "flux"])
def test_short_prompts_are_diffusers_own(name: str, guided: bool, skip: int, pipes: Pipes) -> None:
    loaded = pipes(name)
    texts = "a cat, on green grass", "a dog"
    ours = encode(loaded, *texts, guided, 0 if name == "flux" else skip)
    wanted = by_diffusers(loaded[0], *texts, guided, skip or None)
    if skip and guided and name in WITH_UNET:
        # diffusers skips no layers for the negative prompt; A1111 and trainers' samples do.
        as_prompt = by_diffusers(loaded[0], texts[1], guided=False, skip=skip)
        wanted |= {f"negative_{key}": tensor for key, tensor in as_prompt.items()}
    assert_same(ours, wanted)
    assert prompts.blocks(*loaded, *texts, guided=guided) == 1


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_families_with_t5_leave_long_prompts_to_it(name: str, pipes: Pipes) -> None:
    pipe, family = pipes(name)
    assert_same(encode((pipe, family), LONG), by_diffusers(pipe, LONG))
    assert prompts.blocks(pipe, family, LONG, LONG, guided=True) == 1
    tokens = {"sd3": LENGTH + 256, "flux": 512}[name]
    assert encode((pipe, family), LONG)["prompt_embeds"].shape[1] == tokens
    # Beyond CLIP's, a word still counts.
    other = encode((pipe, family), LONG + " a mushroom")
    assert not torch.equal(other["prompt_embeds"], encode((pipe, family), LONG)["prompt_embeds"])


@pytest.mark.parametrize("skip", [0, 1])
@pytest.mark.parametrize("name", ["demo", "sd1", "sd2"])
def test_long_prompts_against_the_text_encoder(name: str, skip: int, pipes: Pipes) -> None:
    loaded = pipes(name)
    pipe = loaded[0]
    wanted = []
    for piece in pieces(pipe, LONG):
        ids = torch.full((1, LENGTH), pipe.tokenizer.pad_token_id)
        ids[0, : len(piece) + 2] = torch.tensor([709, *piece, 710])
        with torch.inference_mode():
            output = pipe.text_encoder(input_ids=ids, output_hidden_states=True)
            layers = output.hidden_states  # the embedding, then one of each layer
            text_model = getattr(pipe.text_encoder, "text_model", pipe.text_encoder)
            wanted.append(text_model.final_layer_norm(layers[len(layers) - 1 - skip]))
    assert len(wanted) > 1
    ours = encode(loaded, LONG, "a dog", skip=skip)
    assert torch.equal(ours["prompt_embeds"], torch.cat(wanted, dim=1))
    blank = [by_diffusers(pipe, t, skip=skip)["prompt_embeds"] for t in ("a dog", "")]
    negative = [blank[0], *[blank[1]] * (len(wanted) - 1)]
    assert torch.equal(ours["negative_prompt_embeds"], torch.cat(negative, dim=1))


@pytest.mark.parametrize("skip", [0, 1])
def test_long_prompts_against_sdxls_text_encoders(skip: int, pipes: Pipes) -> None:
    loaded = pipes("sdxl")
    pipe = loaded[0]
    wanted, pooled = [], []
    for piece in pieces(pipe, LONG):
        ids = torch.tensor([[709, *piece] + [710] * (LENGTH - 1 - len(piece))])
        with torch.inference_mode():
            one = pipe.text_encoder(ids, output_hidden_states=True)
            two = pipe.text_encoder_2(ids, output_hidden_states=True)
        layer = len(one.hidden_states) - 2 - skip
        wanted.append(torch.cat([one.hidden_states[layer], two.hidden_states[layer]], dim=2))
        pooled.append(two.text_embeds)
    ours = encode(loaded, LONG, skip=skip)
    assert torch.equal(ours["prompt_embeds"], torch.cat(wanted, dim=1))
    assert torch.equal(ours["pooled_prompt_embeds"], pooled[0])
    assert not torch.equal(pooled[0], pooled[1])
    blank = by_diffusers(pipe, "", skip=skip)
    assert torch.equal(
        ours["negative_prompt_embeds"], blank["prompt_embeds"].repeat(1, len(wanted), 1)
    )
    assert torch.equal(ours["negative_pooled_prompt_embeds"], blank["pooled_prompt_embeds"])


def test_escaped_brackets_are_brackets(pipes: Pipes) -> None:
    """As A1111 reads them; they are escaped so that they are no attention weights."""
    loaded = pipes("demo")
    given, plain = r"miku \(vocaloid\), \[x\]", "miku (vocaloid), [x]"
    assert_same(encode(loaded, given, r"\("), by_diffusers(loaded[0], plain, "("))
    assert not torch.equal(
        encode(loaded, given)["prompt_embeds"], encode(loaded, plain)["prompt_embeds"]
    )
    tail = " a picture" * 30
    ids = loaded[0].tokenizer(plain + tail, add_special_tokens=False).input_ids
    assert sum(chunks(loaded[0].tokenizer, given + tail), []) == ids
    count = prompts.blocks(*loaded, r"\(" * 30, guided=False)
    assert count == len(pieces(loaded[0], "(" * 30)) > 1


@pytest.mark.parametrize("name", WITH_UNET)
def test_words_beyond_the_first_chunk_count(name: str, pipes: Pipes) -> None:
    """What diffusers cuts off; the chunks before the changed word stay as they are."""
    loaded = pipes(name)
    one, two = (encode(loaded, f"{LONG} {word}") for word in ("cat", "snow"))
    same, other = one["prompt_embeds"], two["prompt_embeds"]
    before = same.shape[1] - LENGTH
    assert torch.equal(same[:, :before], other[:, :before]) and before > 0
    assert not torch.equal(same[:, before:], other[:, before:])
    assert_same(by_diffusers(loaded[0], f"{LONG} cat"), by_diffusers(loaded[0], f"{LONG} snow"))
    assert torch.equal(same[:, :LENGTH], by_diffusers(loaded[0], LONG)["prompt_embeds"])


@pytest.mark.parametrize("name", WITH_UNET)
@pytest.mark.parametrize(
    ("prompt", "negative"), [(LONG, ""), ("a cat", LONG), (LONG, "a dog"), (LONG + LONG, LONG)]
)
def test_prompt_and_negative_are_as_long(
    name: str, prompt: str, negative: str, pipes: Pipes
) -> None:
    loaded = pipes(name)
    count = prompts.blocks(*loaded, prompt, negative, guided=True)
    assert count == max(len(pieces(loaded[0], text)) for text in (prompt, negative)) > 1
    ours = encode(loaded, prompt, negative)
    lengths = {ours[name].shape[1] for name in ("prompt_embeds", "negative_prompt_embeds")}
    assert lengths == {count * LENGTH}
    alone = encode(loaded, prompt, negative, guided=False)
    assert not any("negative" in name for name in alone)
    assert alone["prompt_embeds"].shape[1] == LENGTH * len(pieces(loaded[0], prompt))
    assert torch.equal(
        alone["prompt_embeds"], ours["prompt_embeds"][:, : alone["prompt_embeds"].shape[1]]
    )


@pytest.mark.parametrize("name", WITH_UNET)
def test_clip_skip_is_for_prompt_and_negative_prompt(name: str, pipes: Pipes) -> None:
    loaded = pipes(name)
    none, one = (encode(loaded, LONG, LONG, skip=skip) for skip in (0, 1))
    assert not torch.equal(none["prompt_embeds"], one["prompt_embeds"])
    for encoded in (none, one):
        assert torch.equal(encoded["negative_prompt_embeds"], encoded["prompt_embeds"])


@pytest.mark.parametrize("name", WITH_UNET)
def test_clip_skip_that_leaves_nothing_is_refused(name: str, pipes: Pipes) -> None:
    for prompt in ("a cat", LONG):
        with pytest.raises(UserError, match="clip_skip: 2 .* 2 layers"):
            encode(pipes(name), prompt, skip=2)


@pytest.mark.parametrize("name", ["demo", "sd1", "sd2"])
def test_clip_skip_works_where_diffusers_alone_fails(name: str, pipes: Pipes) -> None:
    """Without the attribute that the fixture adds, as users have it."""
    loaded = pipes(name)
    wanted = by_diffusers(loaded[0], "a cat", guided=False, skip=1)
    encoder = loaded[0].text_encoder
    added = encoder.__dict__.pop("text_model", None)
    try:
        assert_same(encode(loaded, "a cat", guided=False, skip=1), wanted)
    finally:
        if added is not None:
            object.__setattr__(encoder, "text_model", added)


@pytest.mark.parametrize("name", WITH_UNET)
def test_break_ends_a_chunk(name: str, pipes: Pipes) -> None:
    loaded = pipes(name)
    each = [by_diffusers(loaded[0], text)["prompt_embeds"] for text in ("a cat,", "a dog", "")]
    for text, wanted in (
        ("a cat, BREAK a dog", [0, 1]),
        ("a cat,\nBREAK\na dog", [0, 1]),
        ("a cat, BREAK", [0]),
        ("BREAK a dog", [2, 1]),
        ("a cat, BREAK BREAK a dog", [0, 2, 1]),
        ("BREAK", [2]),
    ):
        ours = encode(loaded, text)
        assert torch.equal(ours["prompt_embeds"], torch.cat([each[i] for i in wanted], 1)), text
    for text in ("a cat, break a dog", "BREAKFAST", "OUTBREAK", "a_BREAK"):
        assert_same(encode(loaded, text), by_diffusers(loaded[0], text))


def test_a_chunk_padded_with_another_token_and_masked(pipes: Pipes) -> None:
    """Some SD 2.x checkpoints pad with "!", and some text encoders mind the padding."""
    pipe, family = pipes("sd1")
    usual = pipe.tokenizer.pad_token
    try:
        pipe.tokenizer.pad_token = "!"
        pipe.text_encoder.config.use_attention_mask = True
        both = encode((pipe, family), "a cat BREAK a dog")["prompt_embeds"]
        for chunk, text in zip(both.split(LENGTH, dim=1), ("a cat", "a dog"), strict=True):
            assert torch.equal(chunk, by_diffusers(pipe, text)["prompt_embeds"])
    finally:
        pipe.tokenizer.pad_token = usual
        del pipe.text_encoder.config.use_attention_mask


@cache
def shipped(family: str, folder: str) -> Any:
    """The published tokenizer: 75 tokens a chunk."""
    import tempfile

    from transformers import CLIPTokenizer

    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch, folder)
        target.mkdir()
        for file in (CONFIGS / family / folder).iterdir():
            (target / file.name).write_bytes(file.read_bytes())
        write_clip_tokenizer(target)
        return CLIPTokenizer.from_pretrained(target)


TAGS = st.lists(
    st.sampled_from(["1girl", "long hair", "looking at viewer", "miku \\(vocaloid\\)", ",", "é",
                     "supercalifragilisticexpialidocious", ", ", " "]),
    max_size=90,
)  # fmt: skip


@settings(max_examples=60)
@given(tags=TAGS, separator=st.sampled_from([", ", " ", ","]))
def test_no_token_is_lost_or_moved(tags: list[str], separator: str) -> None:
    tokenizer = shipped("sdxl", "tokenizer_2")
    text = separator.join(tags)
    found = chunks(tokenizer, text)
    text = text.replace("\\", "")  # brackets are escaped
    assert sum(found, []) == tokenizer(text, add_special_tokens=False).input_ids
    assert all(0 < len(chunk) <= 75 for chunk in found) or found == [[]]
    comma = tokenizer(",").input_ids[1]
    for chunk, following in zip(found[:-1], found[1:], strict=True):
        # A chunk is full, or ends after its last comma so late that the next word moved on.
        if len(chunk) < 75:
            assert chunk[-1] == comma and len(chunk) >= 55
            assert comma not in following[: 75 - len(chunk)]
        elif following[0] != comma and chunk[-1] != comma:
            assert comma not in chunk[55:]


@settings(max_examples=40)
@given(parts=st.lists(st.sampled_from(["a cat", "a dog, ", "", "tag " * 80]), max_size=5))
def test_break_cuts_like_separate_prompts(parts: list[str]) -> None:
    tokenizer = shipped("sd1", "tokenizer")
    found = chunks(tokenizer, " BREAK ".join(parts))
    each = [chunks(tokenizer, part.strip()) for part in parts]
    if len(each) > 1 and each[-1] == [[]]:
        each.pop()  # nothing follows the last BREAK
    assert found == (sum(each, []) or [[]])


def test_a_chunk_ends_after_a_comma_that_is_near() -> None:
    tokenizer = shipped("sd1", "tokenizer")

    def sizes(*runs: int) -> list[int]:
        """Chunk sizes of runs of one-token words, a comma between the runs."""
        text = ", ".join(" ".join(["cat"] * run) for run in runs)
        return [len(chunk) for chunk in chunks(tokenizer, text)]

    assert sizes(75) == [75]
    assert sizes(76) == [75, 1]
    assert sizes(200) == [75, 75, 50]
    assert sizes(70, 10) == [71, 10]  # 70 words and their comma
    assert sizes(55, 30) == [56, 30]  # 20 back
    assert sizes(54, 30) == [75, 10]  # 21 back: too far
    assert sizes(74, 5) == [75, 5]
    assert sizes(75, 5) == [75, 6]  # the comma itself comes too late
    assert sizes(60, 14, 5) == [75, 6]  # and an earlier one then does not count
    assert sizes(60, 10, 10) == [72, 10]


# --- attention weights ---------------------------------------------------------------------------


def read(text: str) -> list[tuple[str, float]]:
    (part,) = prompts.attention(text)
    return [(piece.text, piece.weight) for piece in part]


def escaped(text: str) -> str:
    return re.sub(r"([\\()\[\]])", r"\\\1", text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        # The examples in A1111's parse_prompt_attention.
        ("normal text", [("normal text", 1)]),
        ("an (important) word", [("an ", 1), ("important", 1.1), (" word", 1)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [("a ", 1), ("house", 1.5730000000000004), (" ", 1.1), ("on", 1), (" a ", 1.1),
             ("hill", 0.55), (", sun, ", 1.1), ("sky", 1.4641000000000006), (".", 1.1)],
        ),
        # The cheat sheet in A1111's wiki, Features, "Attention/emphasis".
        ("a ((word))", [("a ", 1), ("word", 1.1 * 1.1)]),
        ("a [word]", [("a ", 1), ("word", 1 / 1.1)]),
        ("a (word:1.5)", [("a ", 1), ("word", 1.5)]),
        ("a (word:0.25)", [("a ", 1), ("word", 0.25)]),
        (r"anime_\(character\)", [("anime_(character)", 1)]),
        # What trainers paste.
        ("", []),
        ("(cat:1.0)", [("cat", 1)]),
        ("a (cat:1) b", [("a cat b", 1)]),
        (r"(miku \(vocaloid\):1.3)", [("miku (vocaloid)", 1.3)]),
        (r"a\\b", [("a\\b", 1)]),
        (r"a\b", [("ab", 1)]),
        ("a\\", [("a", 1)]),
        (":) x]", [(":) x]", 1)]),
        (":( a", [(":", 1), (" a", 1.1)]),
        ("[[a] b", [("a", 1 / 1.1 / 1.1), (" b", 1 / 1.1)]),
        ("([a)b]c", [("a", 1), ("b", 1 / 1.1), ("c", 1)]),
        ("a:1.2)", [("a:1.2)", 1)]),
        ("(a:b:1.2)", [("a:b", 1.2)]),
        ("(16:9)", [("16", 9)]),
        ("(a: 1.2 )", [("a", 1.2)]),
        ("(a:.5)(b:2.)", [("a", 0.5), ("b", 2)]),
        ("(a:-1)(b:+1.5)", [("a", -1), ("b", 1.5)]),
        ("(a:1.2.3)(b:.)", [("a:1.2.3b:.", 1.1)]),
        ("(a:1.2", [("a:1.2", 1.1)]),
        ("[a:1.2]", [("a:1.2", 1 / 1.1)]),
        ("[cat:dog:0.5]", [("cat:dog:0.5", 1 / 1.1)]),
        ("[cat|dog]", [("cat|dog", 1 / 1.1)]),
        ("a AND b :1.2", [("a AND b :1.2", 1)]),
        ("()[](:2)", []),
    ],
)  # fmt: skip
def test_weights_are_a1111s(text: str, wanted: list[tuple[str, float]]) -> None:
    found = read(text)
    assert [piece[0] for piece in found] == [piece[0] for piece in wanted]
    assert [piece[1] for piece in found] == pytest.approx([piece[1] for piece in wanted], rel=1e-15)


def test_weights_across_break() -> None:
    assert prompts.attention("a (b BREAK c:1.5) d BREAK") == [
        [("a ", 1), ("b", 1.5)], [("c", 1.5), (" d", 1)], [],
    ]  # fmt: skip
    assert prompts.attention("(a BREAK\nb") == [[("a", 1.1)], [("b", 1.1)]]
    assert prompts.attention("(a)BREAK(b)") == [[("a", 1.1)], [("b", 1.1)]]


WORDS = st.text(alphabet="ab ,.|1é", min_size=1, max_size=6)
TREES = st.recursive(
    st.lists(WORDS, min_size=1, max_size=1),
    lambda inner: st.lists(
        st.one_of(
            WORDS,
            st.tuples(st.sampled_from(["(", "[", "0.5", "1.3", "2"]), inner),
        ),
        max_size=4,
    ),
    max_leaves=12,
)
"""Nested lists of text and (bracket or explicit weight, list)."""


def written(tree: list[Any]) -> str:
    ends = {"(": "()", "[": "[]"}
    return "".join(
        item
        if isinstance(item, str)
        else ends[item[0]][0] + written(item[1]) + ends[item[0]][1]
        if item[0] in ends
        else f"({written(item[1])}:{item[0]})"
        for item in tree
    )


def meant(tree: list[Any], weight: float = 1) -> list[tuple[str, float]]:
    """Every letter with its weight."""
    found: list[tuple[str, float]] = []
    for item in tree:
        if isinstance(item, str):
            found += [(letter, weight) for letter in item]
        else:
            factor = {"(": 1.1, "[": 1 / 1.1}.get(item[0]) or float(item[0])
            found += meant(item[1], weight * factor)
    return found


@settings(max_examples=200)
@given(TREES)
def test_brackets_within_brackets_multiply(tree: list[Any]) -> None:
    found = [(letter, weight) for text, weight in read(written(tree)) for letter in text]
    wanted = meant(tree)
    assert [letter for letter, _ in found] == [letter for letter, _ in wanted]
    assert [w for _, w in found] == pytest.approx([w for _, w in wanted], rel=1e-12)


@settings(max_examples=200)
@given(st.text(alphabet=st.characters(blacklist_characters="\\()[]"), min_size=1, max_size=40))
def test_text_without_brackets_weighs_one(text: str) -> None:
    assert read(text) == [(text, 1)]


@settings(max_examples=300)
@given(st.text(alphabet="a1:.-,()[]|\\ \n", max_size=40))
def test_any_text_is_read(text: str) -> None:
    """Letters stay in order; escaped, everything stays and weighs one."""
    found = read(text)
    assert "".join(piece[0] for piece in found).count("a") == text.count("a")
    assert all(one[1] != two[1] for one, two in zip(found[:-1], found[1:], strict=True))
    assert read(escaped(text)) == ([(text, 1)] if text else [])


def by_hand(
    pipe: Any, encoder: Any, text_chunks: list[list[tuple[str, float]]], family: str
) -> torch.Tensor:
    """Hidden states in float64: of the encoder, times the weights, times old mean / new mean."""
    found = []
    for words in text_chunks:
        ids, weights = [709], [1.0]
        for text, weight in words:
            tokens = pipe.tokenizer(text, add_special_tokens=False).input_ids
            ids += tokens
            weights += [weight] * len(tokens)
        empty = LENGTH - len(ids)
        assert empty > 0
        with torch.inference_mode():
            output = encoder(torch.tensor([ids + [710] * empty]), output_hidden_states=True)
        z = (output.hidden_states[-2] if family == "sdxl" else output.last_hidden_state).double()
        new = z * torch.tensor(weights + [1.0] * empty, dtype=torch.float64).reshape(1, -1, 1)
        found.append(new * (z.mean() / new.mean()))
    return torch.cat(found, dim=1)


WEIGHTED = "red (green:1.5) blue ((cat, [dog])), (snow:0) (sunset:-0.4)"
MEANT = [
    ("red", 1), ("green", 1.5), ("blue", 1), ("cat,", 1.21), ("dog", 1.1), (",", 1), ("snow", 0),
    ("sunset", -0.4),
]  # fmt: skip


@pytest.mark.parametrize("name", ["demo", "sd1", "sd2"])
def test_weights_against_the_text_encoder(name: str, pipes: Pipes) -> None:
    pipe, family = pipes(name)
    ours = encode((pipe, family), WEIGHTED, "(blurry:1.4)")
    wanted = by_hand(pipe, pipe.text_encoder, [MEANT], family)
    assert ours["prompt_embeds"].dtype == torch.float32
    torch.testing.assert_close(ours["prompt_embeds"].double(), wanted, rtol=1e-4, atol=1e-5)
    wanted = by_hand(pipe, pipe.text_encoder, [[("blurry", 1.4)]], family)
    torch.testing.assert_close(
        ours["negative_prompt_embeds"].double(), wanted, rtol=1e-4, atol=1e-5
    )
    plain = by_diffusers(pipe, "red green blue cat, dog, snow sunset")
    assert not torch.allclose(ours["prompt_embeds"], plain["prompt_embeds"], atol=1e-2)
    assert prompts.blocks(pipe, family, WEIGHTED, guided=False) == 1


def test_weights_against_sdxls_text_encoders(pipes: Pipes) -> None:
    """Each encoder's mean is kept for itself; the pooled output is not weighted."""
    pipe, family = pipes("sdxl")
    ours = encode((pipe, family), WEIGHTED, "[blurry]")
    both = [by_hand(pipe, e, [MEANT], family) for e in (pipe.text_encoder, pipe.text_encoder_2)]
    torch.testing.assert_close(
        ours["prompt_embeds"].double(), torch.cat(both, dim=2), rtol=1e-4, atol=1e-5
    )
    plain = by_diffusers(pipe, "red green blue cat, dog, snow sunset", "blurry")
    for name in NAMES:
        same = torch.allclose(ours[name], plain[name], atol=1e-5)
        assert same == ("pooled" in name), name
    joint = plain["prompt_embeds"].mean() / ours["prompt_embeds"].mean()
    assert abs(joint - 1) < 1e-4  # as every part keeps its own mean


@pytest.mark.parametrize("name", WITH_UNET)
def test_long_weighted_prompts(name: str, pipes: Pipes) -> None:
    """Weights follow their tokens into the next chunk; chunks without any stay bit for bit."""
    pipe, family = pipes(name)
    # A comma among the last 20 tokens ends a chunk; here there is none, and 22 fit.
    text = "cat " * 20 + "(dog tree dog tree:1.5) BREAK a cat BREAK [snow]"
    cut: list[list[tuple[str, float]]] = [
        [("cat " * 20, 1), ("dog", 1.5), ("tree", 1.5)], [("dog tree", 1.5)],
        [("a cat", 1)], [("snow", 1 / 1.1)],
    ]  # fmt: skip
    assert all(len(pipe.tokenizer(word).input_ids) == 3 for word in ("cat", "dog", "tree"))
    ours = encode((pipe, family), text, "(blurry:1.4)")
    encoders = [pipe.text_encoder, getattr(pipe, "text_encoder_2", None)]
    wanted = [by_hand(pipe, encoder, cut, family) for encoder in encoders if encoder is not None]
    torch.testing.assert_close(
        ours["prompt_embeds"].double(), torch.cat(wanted, dim=2), rtol=1e-4, atol=1e-5
    )
    plain = by_diffusers(pipe, "a cat")
    assert torch.equal(ours["prompt_embeds"][:, 2 * LENGTH : 3 * LENGTH], plain["prompt_embeds"])
    if family == "sdxl":
        unweighted = encode((pipe, family), re.sub(r"[()\[\]]|:1\.5", "", text))
        assert torch.equal(ours["pooled_prompt_embeds"], unweighted["pooled_prompt_embeds"])
    assert ours["negative_prompt_embeds"].shape == ours["prompt_embeds"].shape
    blank = encode((pipe, family), "")["prompt_embeds"]
    assert torch.equal(ours["negative_prompt_embeds"][:, LENGTH : 2 * LENGTH], blank)


@pytest.mark.parametrize("skip", [0, 1])
@pytest.mark.parametrize("name", WITH_UNET)
def test_a_weight_of_one_is_none(name: str, skip: int, pipes: Pipes) -> None:
    loaded = pipes(name)
    for text, plain in (
        ("(cat:1.0)", "cat"),
        ("a (cat:1), on [(green)] grass", "a cat, on green grass"),
    ):
        ours = encode(loaded, text, text, skip=skip)
        assert_same(ours, encode(loaded, plain, plain, skip=skip))
        if not skip:
            assert_same(ours, by_diffusers(loaded[0], plain, plain))
    assert_same(encode(loaded, f"({LONG}:1)"), encode(loaded, LONG))


@pytest.mark.parametrize("name", WITH_UNET)
def test_blocks_count_text_and_not_brackets(name: str, pipes: Pipes) -> None:
    loaded = pipes(name)
    full = " ".join(f"(((cat:1.{i % 7}) [dog]))" for i in range(11))
    for text, count in ((full, 1), (full + " [cat]", 2), ("a BREAK (b BREAK c:1.2)", 3)):
        assert prompts.blocks(*loaded, text, guided=False) == count
        assert prompts.blocks(*loaded, "a", text, guided=True) == count
        assert encode(loaded, text)["prompt_embeds"].shape[1] == count * LENGTH


@pytest.mark.parametrize("name", WITH_T5)
def test_weights_are_text_for_families_with_t5(name: str, pipes: Pipes) -> None:
    loaded = pipes(name)
    text = "a (cat:1.5) [dog]"
    assert_same(encode(loaded, text, guided=False), by_diffusers(loaded[0], text, guided=False))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision(dtype: torch.dtype) -> None:
    """The mean is a hundredth of the states here, as in CLIP."""
    states = torch.randn(1, 77, 768, generator=torch.Generator().manual_seed(1)) - 0.01
    weights = [1.4, 0.5, 1.0]
    given = states.to(dtype).double()
    new = given * torch.tensor([1, *weights, *[1] * 73], dtype=torch.float64).reshape(1, -1, 1)
    wanted = new * given.mean() / new.mean()
    ours = prompts._weighted(states.to(dtype), weights)
    assert ours.dtype == dtype
    # Half a step: rounded once.
    half = torch.finfo(dtype).eps / 2
    torch.testing.assert_close(ours.double(), wanted, rtol=1.01 * half, atol=half / 100)


def test_weights_that_leave_nothing_are_refused(pipes: Pipes) -> None:
    for name in ("demo", "sdxl"):
        with pytest.raises(UserError, match=r"weights leave nothing of '\(cat:9.*\.\.\.'"):
            encode(pipes(name), f"(cat:{'9' * 300})")


def test_a_picture_changes_with_the_weight(model_folder: Path) -> None:
    import numpy as np

    from generation.cells import Case
    from generation.renderers.diffusers.engine import Engine

    engine = Engine(
        find_model(str(model_folder)), steps=3, guidance_scale=4.0, width=64, height=64,
        batch_size=5, sampler="euler",
    )  # fmt: skip
    words = ("red apple", "(red apple:1.0)", "(red apple:1.2)", "(red apple:2)", "[red apple]")
    cases = [
        Case(f"a picture of a {word} on green grass, pstr style", 1, name=f"p{i}")
        for i, word in enumerate(words)
    ]
    plain, one, more, much, less = (np.asarray(p, float) for p in engine.render(cases))
    assert np.array_equal(plain, one)
    change = [np.abs(picture - plain).mean() for picture in (less, more, much)]
    assert 0.1 < change[1] < change[2] and 0.1 < change[0] < change[2]


# --- planning ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt",
    [
        "(smile:1.2)", "a cat, ( green grass : .8 )", "((masterpiece))", "(((best quality)))",
        "(score_9:1.2)", "(miku \\(vocaloid\\):1.3)", "(miku_(vocaloid):1.1)", "(a, b, c:2)",
        "[(smile:0.5)]", ":( (smile:1.2)", "(smile \\:\\):1.2)", "\\\\(smile:1.2)",
    ],
)  # fmt: skip
def test_attention_weights_are_told_once(prompt: str) -> None:
    found = [prompts.check(["a cat", prompt, "((another))"], family) for family in WITH_T5]
    assert all(len(told) == 1 and told[0].endswith(": " + prompt) for told in found)
    assert not any(prompts.check([prompt], family) for family in CHUNKED)


@pytest.mark.parametrize(
    "prompt",
    [
        "", "a cat", "miku_(vocaloid)", "miku (vocaloid), saber (fate)", "\\(smile:1.2\\)",
        "\\(\\(a\\)\\)", ":) :( ;) :-)", "((", "))", ")(", "aspect ratio (16:9)", "at noon (12:30)",
        "(nier:automata)", "re:zero", "(a) (b)", "((a), (b))", "[word]", "()", "(())", "((:1.2",
        "smile:1.2", "2b_(nier:automata)", "\\(a:1.2)", "<3", "a <b> c", "< lora >", "trailing \\",
    ],
)  # fmt: skip
def test_names_and_faces_are_no_weights(prompt: str) -> None:
    assert prompts.check([prompt], "sd3") == []


@pytest.mark.parametrize(
    "prompt",
    [
        # Those that A1111's own examples schedule.
        "a [b:3]", "a [b: 3]", "a [[[b]]:2]", "[(a:2):3]", "a [b : c : 1] d", "a[b:[c:d:2]:1]e",
        "a [b:.5] c", "((a][:b:c [d:3]", "[a|(b:1.1)]", "[fe|]male", "[fe|||]male",
        "[in foreground::0.6]", "[cat:dog:0.5 ]", "[cat:dog:+1e1]", "\\\\[a|b]", "[a\\]:b:2]",
    ],
)  # fmt: skip
def test_prompt_editing_and_alternation_are_told_once(prompt: str) -> None:
    for family in (*CHUNKED, *WITH_T5):
        found = prompts.check(["a [cat]", prompt, "[another|one]"], family)
        assert [text.endswith("such prompt: " + prompt) for text in found if "editing" in text] == [
            True
        ]


@pytest.mark.parametrize(
    "prompt",
    [
        "", "[a]", "[[a]]", "(a|b)", "a | b", "[a:b]", "[a:b:c:0.5]", "[a|b:0.5]", "\\[a|b\\]",
        "[a\\|b]", "[a\\:2]", "[(a|b]", "[(a:2)]", "[a:2", "a:2]", "[a|b)", "(a:2)", "[a:2x]",
    ],
)  # fmt: skip
def test_other_square_brackets_are_no_editing(prompt: str) -> None:
    assert prompts.check([prompt], "sd1") == []


def test_and_is_told() -> None:
    (found,) = prompts.check(["a cat and a dog", "BRAND", "a cat AND a dog :1.2", "AND"], "sdxl")
    assert found.endswith(": a cat AND a dog :1.2")


def test_a_long_prompt_is_shortened_in_the_warning() -> None:
    (found,) = prompts.check(["(smile:1.2), " + "very " * 1000], "flux")
    assert len(found) < 250 and "(smile:1.2), very" in found


@settings(max_examples=200)
@given(st.text(alphabet="a1:.,()[]|\\ <>", max_size=40))
def test_any_text_can_be_checked(text: str) -> None:
    """Escaping all brackets leaves no weight."""
    assert len(prompts.check([text], "sd3")) <= 2
    assert len(prompts.check([text], "sd1")) <= 1
    assert prompts.check([escaped(text)], "sd3") == []


def test_many_brackets_do_not_take_long() -> None:
    text = "(" * 20_000 + "a b" + " )" * 20_000
    assert prompts.check([text, text.replace("(", "[").replace(")", "]")], "sd3") == []
    assert len(prompts.attention(text.replace(" )", ")"))[0]) == 1


@pytest.mark.parametrize(
    ("tag", "remedy"),
    [
        ("<lora:pastel:0.8>", "fixed pastel.safetensors:0.8"),
        ("<LoRA:pastel:0.8:0.5>", "fixed pastel.safetensors:0.8"),
        ("<lyco:pastel>", "fixed pastel.safetensors:1"),
        ("<lora:pastel_v1.2:te=0.5:unet=0.7>", "fixed pastel_v1.2.safetensors:1"),
        ("<hypernet:pastel:1>", "hypernetworks cannot be applied"),
    ],
)
def test_tags_of_networks_are_refused(tag: str, remedy: str) -> None:
    with pytest.raises(UserError) as error:
        prompts.check(["a cat", f"a dog {tag} on grass"], "sdxl")
    assert f"remove {tag}" in str(error.value) and remedy in str(error.value)


def test_checking_needs_no_torch() -> None:
    code = "import sys, generation.renderers.diffusers.prompts as p\n"
    code += "p.check(['(a)'], 'sd3'); p.attention('(a)')\n"
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_study_is_planned_with_the_warnings(tmp_path: Path, tiny_model: Tiny) -> None:
    from decimal import Decimal

    from rendering import planned
    from safetensors.torch import save_file

    from generation.prompts import PromptLine

    stem = "transformer.single_transformer_blocks.0.attn.to_q"
    flux = tmp_path / "flux.safetensors"
    save_file({f"{stem}.lora_{k}.weight": torch.zeros(32, 32) for k in "AB"}, flux)

    def warnings(prompt: str, negative: str = "", family: str = "demo") -> str:
        demo = sample_data.PATH / "lora" / "pstr.safetensors"
        return "\n".join(
            planned(
                "strength",
                loras=[demo if family == "demo" else flux],
                model="demo" if family == "demo" else str(tiny_model(family)),
                out=tmp_path / "run",
                strengths=[Decimal(1)],
                prompts=[PromptLine(prompt)],
                negative=negative,
            ).warnings
        )

    assert not any(word in warnings("a (cat:1.2)", "[x]") for word in ("weights", "editing", "AND"))
    assert "weights such as (smile:1.2) are read as plain" in warnings("a (cat:1.2)", "", "flux")
    assert "editing" in warnings("a [cat:dog:0.5]") and "editing" in warnings("a", "[b|c]")
    assert "AND is read as a word" in warnings("a cat AND a dog")
    for text in ("a __animal__", "a __colours/warm*__ cat", "a {red|blue} cat", "{2::red|blue}"):
        assert "not filled in" in warnings(text)
    for text in ("a {cat}", "snake__case", "__", "a | b"):
        assert "not filled in" not in warnings(text)
    with pytest.raises(UserError, match="remove <lora:pstr:1>"):
        warnings("a cat <lora:pstr:1>")
