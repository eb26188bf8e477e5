"""Prompt files as trainers write them; what is no list of prompts is refused."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generation import plan as grid
from generation import prompts
from generation.errors import UserError
from generation.prompts import PromptLine


def test_kohya_flags_of_a_prompt_line() -> None:
    line = prompts.parse_prompt(
        "a cat, sitting --n bad, ugly --w 768 --h 512 --d 42 --l 7.5 --s 30"
    )
    assert line == prompts.PromptLine("a cat, sitting", "bad, ugly", 42, 768, 512, 30, 7.5)
    with pytest.raises(UserError, match="not a number"):
        prompts.parse_prompt("a cat --s many")


def test_prompt_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("# heading\n\na cat\na dog --d 9\n", encoding="utf-8")
    lines = prompts.read_prompts(path)
    assert [line.prompt for line in lines] == ["a cat", "a dog"]
    made = grid.cases(lines, (1, 2), "blurry")
    assert [(c.prompt, c.seed, c.name) for c in made] == [
        ("a cat", 1, "p00_s1"),
        ("a cat", 2, "p00_s2"),
        ("a dog", 9, "p01_s9"),
    ]
    path.write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(UserError, match="no prompt"):
        prompts.read_prompts(path)
    with pytest.raises(UserError, match="absent"):
        prompts.read_prompts(tmp_path / "absent.txt")


TOML = """
[prompt]
negative_prompt = "ugly"
width = 512
height = 768
sample_steps = 20
scale = 7.5
sample_sampler = "euler_a"

[[prompt.subset]]
prompt = "a cat"
seed = 1

[[prompt.subset]]
prompt = "a dog"
scale = 5
negative_prompt = "blurry"
"""


@pytest.mark.parametrize("name", ["prompts.toml", "prompts.txt"])
def test_kohyas_toml(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(TOML, encoding="utf-8")
    assert prompts.read_prompts(path) == (
        PromptLine("a cat", "ugly", 1, 512, 768, 20, 7.5, "euler_a"),
        PromptLine("a dog", "blurry", None, 512, 768, 20, 5.0, "euler_a"),
    )


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (["a cat", "a dog --d 3"], [PromptLine("a cat"), PromptLine("a dog", seed=3)]),
        (
            [{"prompt": "a cat", "negative_prompt": "x", "sample_steps": 9, "scale": 3}],
            [PromptLine("a cat", "x", steps=9, guidance_scale=3.0)],
        ),
        ({"cat": "a cat", "dog": "a dog"}, [PromptLine("a cat"), PromptLine("a dog")]),
        ({"prompt": "a cat", "seed": 4}, [PromptLine("a cat", seed=4)]),
        ({"prompts": ["a cat"]}, [PromptLine("a cat")]),
        (  # OneTrainer
            [
                {"enabled": False, "prompt": "no"},
                {"enabled": True, "prompt": "a cat", "seed": 42, "random_seed": True,
                 "diffusion_steps": 20, "cfg_scale": 7, "noise_scheduler": "EULER_A"},
            ],
            [PromptLine("a cat", steps=20, guidance_scale=7.0, sampler="euler_a")],
        ),
        (  # musubi
            [{"prompt": "a cat", "guidance_scale": 3.5, "cfg_scale": 1.0, "frame_count": 1}],
            [PromptLine("a cat", guidance_scale=3.5, unused=("frame_count",))],
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["prompts.json", "prompts.txt"])
def test_json_of_kohya_simpletuner_onetrainer_and_musubi(tmp_path, name, data, wanted) -> None:
    path = tmp_path / name
    path.write_text(json.dumps(data), encoding="utf-8")
    assert list(prompts.read_prompts(path)) == wanted


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("p.yaml", "- a cat", "is YAML"),
        ("p.txt", "- a cat\n- a dog\n", "list of YAML"),
        ("p.md", "# Prompts\n\n* a cat\n* a dog\n", "list of YAML or Markdown"),
        ("p.txt", "[prompts]\na=a cat\nb = a dog\n", "INI"),
        ("p.txt", "sample:\n  prompts:\n    - a cat\n  width: 512\n  seed: 4\n", "is YAML"),
        ("p.csv", "a cat", "is a table"),
        ("p.txt", "prompt,seed\na cat,1\n", "is a table"),
        ("p.txt", "a cat\nNegative prompt: bad\nSteps: 20, Sampler: Euler", "A1111's text"),
        ("p.txt", "<!DOCTYPE html><p>a cat", "web page"),
        ("p.toml", "[general]\nresolution = 512", "without kohya's"),
        ("p.txt", '[prompt]\nwidth = 512\n[[prompt.subset]]\nprompt = "a', "not readable TOML"),
        ("p.json", "{", "not readable JSON"),
        ("p.json", '{"job": {"process": []}}', "JSON of another kind"),
        ("p.json", '[{"text": "a cat"}]', "prompt 1: it has no text"),
        ("p.json", "[" * 100_000, "not readable JSON"),
        ("p.json", '[{"prompt": "a", "seed": [1]}]', "seed '.1.' is not a number"),
        ("p.toml", "[prompt]\n[[prompt.subset]]\nprompt = 5", "no text under prompt"),
        ("p.txt", "a\0b", "no text"),
    ],
)
def test_a_structure_that_is_not_understood_is_refused(tmp_path, name, text, words) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=words) as problem:
        prompts.read_prompts(tmp_path / name)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    "text",
    [
        "[cat:dog:0.5] on a mat\n[blurry]",
        "{red|blue} dress, __colour__",
        "prompt: a poster that says prompt",
        "score_9, score_8_up, 1girl\na cat, a dog",
        "a cat\nscale = small, a model railway",
        "a cat; a dog",
    ],
)
def test_prompts_that_look_a_little_like_a_structure(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.txt").write_text(text, encoding="utf-8")
    assert [line.prompt for line in prompts.read_prompts(tmp_path / "p.txt")] == text.splitlines()


def test_flags_of_trainers_that_mean_nothing_here_are_named() -> None:
    line = prompts.parse_prompt("a cat --g 3.5 --fs 3 --f 25 --l 1.0")
    assert (line.prompt, line.guidance_scale) == ("a cat", 3.5)
    assert prompts.doubts([line]) == ("Not used here: --fs, --f of the prompts.",)


def test_an_empty_prompt_is_told() -> None:
    told = prompts.doubts([prompts.parse_prompt("a fox"), prompts.PromptLine("  ")])
    assert len(told) == 1 and told[0].startswith("One prompt is empty")
    assert prompts.doubts([prompts.parse_prompt("a fox")]) == ()
    both = prompts.parse_prompt("a cat --l 4 --g 3.5")
    assert both.guidance_scale == 4.0 and both.unused
    with pytest.raises(UserError, match="--ar is not a prompt flag"):
        prompts.parse_prompt("a cat --ar 16:9")


def test_samplers_of_prompts_have_one_spelling() -> None:
    lines = [prompts.parse_prompt(f"a --ss {s}") for s in ("Euler a", "k_euler_a", "euler_a")]
    assert {line.sampler for line in lines} == {"euler_a"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a cat " * 8_000_000, "characters, and 10,000 are the most"),
        ("a cat\n" * 4_000_000, "more than 1,000 prompts"),
        (" " * 30_000_000 + "a cat --n" + " " * 20_000_000, ""),
        ("a " + " -" * 20_000_000, "characters"),
    ],
    ids=["one line", "four million lines", "blanks", "dashes"],
)
def test_a_huge_file_ends_at_once(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "p.txt"
    path.write_text(text, encoding="utf-8")
    begin = time.perf_counter()
    if words:
        with pytest.raises(UserError, match=words):
            prompts.read_prompts(path)
    else:
        assert prompts.read_prompts(path) == (PromptLine("a cat", ""),)
    assert time.perf_counter() - begin < 10  # measured: 1


def test_more_prompts_are_read_where_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("".join(f"a cat {i}\n" for i in range(2000)), encoding="utf-8")
    with pytest.raises(UserError, match="raise max_prompts"):
        prompts.read_prompts(path)
    assert len(prompts.read_prompts(path, 2000)) == 2000


@given(st.text(max_size=200), st.sampled_from([".txt", ".toml", ".json", ""]))
def test_any_file_is_read_or_refused_in_a_sentence(
    tmp_path_factory, text: str, ending: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{ending}"
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        assert prompts.read_prompts(path)
    except UserError as problem:
        assert "\n" not in str(problem)
