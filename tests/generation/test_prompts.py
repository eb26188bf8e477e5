"""Long prompts against the text encoders themselves; A1111's markup at planning."""

from __future__ import annotations

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
from generation import prompts  # noqa: E402
from generation.errors import UserError  # noqa: E402
from generation.models import CONFIGS, find_model, load_pipeline, write_clip_tokenizer  # noqa: E402

Tiny = Callable[[str], Path]
Encoded = Mapping[str, torch.Tensor]

WITH_UNET = ["demo", "sd1", "sd2", "sdxl"]
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
    tail = ", a picture" * 30
    for end in ("", tail):
        escaped = encode(loaded, r"miku \(vocaloid\), \[x\]" + end, r"\(")
        plain = encode(loaded, "miku (vocaloid), [x]" + end, "(")
        assert_same(escaped, plain)
        assert not torch.equal(escaped["prompt_embeds"], encode(loaded, end)["prompt_embeds"])
    many = (prompts.blocks(*loaded, text * 30, guided=False) for text in (r"\(", "("))
    assert len(set(many)) == 1


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
        with pytest.raises(UserError, match="--clip-skip: 2 .* 2 layers"):
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


@settings(max_examples=60, deadline=None)
@given(tags=TAGS, separator=st.sampled_from([", ", " ", ","]))
def test_no_token_is_lost_or_moved(tags: list[str], separator: str) -> None:
    tokenizer = shipped("sdxl", "tokenizer_2")
    text = separator.join(tags)
    found = prompts._chunks(tokenizer, text)
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


@settings(max_examples=40, deadline=None)
@given(parts=st.lists(st.sampled_from(["a cat", "a dog, ", "", "tag " * 80]), max_size=5))
def test_break_cuts_like_separate_prompts(parts: list[str]) -> None:
    tokenizer = shipped("sd1", "tokenizer")
    found = prompts._chunks(tokenizer, " BREAK ".join(parts))
    each = [prompts._chunks(tokenizer, part.strip()) for part in parts]
    if len(each) > 1 and each[-1] == [[]]:
        each.pop()  # nothing follows the last BREAK
    assert found == (sum(each, []) or [[]])


def test_a_chunk_ends_after_a_comma_that_is_near() -> None:
    tokenizer = shipped("sd1", "tokenizer")

    def sizes(*runs: int) -> list[int]:
        """Chunk sizes of runs of one-token words, a comma between the runs."""
        text = ", ".join(" ".join(["cat"] * run) for run in runs)
        return [len(chunk) for chunk in prompts._chunks(tokenizer, text)]

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
    found = prompts.check(["a cat", prompt, "((another))"])
    assert len(found) == 1 and found[0].endswith(": " + prompt)


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
    assert prompts.check([prompt]) == []


def test_a_long_prompt_is_shortened_in_the_warning() -> None:
    (found,) = prompts.check(["(smile:1.2), " + "very " * 1000])
    assert len(found) < 250 and "(smile:1.2), very" in found


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="a1:.,()[]\\ <>", max_size=40))
def test_any_text_can_be_checked(text: str) -> None:
    """Escaping all brackets leaves no weight."""
    assert len(prompts.check([text])) <= 1
    plain = text.replace("\\", "").replace("(", "\\(").replace(")", "\\)")
    assert prompts.check([plain]) == []


def test_many_brackets_do_not_take_long() -> None:
    assert prompts.check(["(" * 20_000 + "a b" + " )" * 20_000]) == []


@pytest.mark.parametrize(
    ("tag", "remedy"),
    [
        ("<lora:pastel:0.8>", "--with pastel.safetensors:0.8"),
        ("<LoRA:pastel:0.8:0.5>", "--with pastel.safetensors:0.8"),
        ("<lyco:pastel>", "--with pastel.safetensors:1"),
        ("<lora:pastel_v1.2:te=0.5:unet=0.7>", "--with pastel_v1.2.safetensors:1"),
        ("<hypernet:pastel:1>", "hypernetworks cannot be applied"),
    ],
)
def test_tags_of_networks_are_refused(tag: str, remedy: str) -> None:
    with pytest.raises(UserError) as error:
        prompts.check(["a cat", f"a dog {tag} on grass"])
    assert f"remove {tag}" in str(error.value) and remedy in str(error.value)


def test_checking_needs_no_torch() -> None:
    code = "import sys, generation.prompts as p; p.check(['a']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_study_is_planned_with_the_warning(tmp_path: Path) -> None:
    from decimal import Decimal

    from analysers.api import plan_study
    from generation.grid import PromptLine

    def warnings(prompt: str, negative: str = "") -> tuple[str, ...]:
        return plan_study(
            "strength",
            [sample_data.PATH / "lora" / "pstr.safetensors"],
            model="demo",
            out=tmp_path / "run",
            strengths=[Decimal(1)],
            prompts=[PromptLine(prompt)],
            negative=negative,
        ).warnings

    assert not any("weights" in text for text in warnings("a cat"))
    assert any("(cat:1.2)" in text for text in warnings("a (cat:1.2)"))
    assert any("(blurry:1.4)" in text for text in warnings("a cat", "(blurry:1.4)"))
    with pytest.raises(UserError, match="remove <lora:pstr:1>"):
        warnings("a cat <lora:pstr:1>")
