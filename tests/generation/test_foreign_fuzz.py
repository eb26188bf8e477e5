"""Hypothesis on names, texts and whole folders. `benchmarks/fuzz_pictures.py` does it at length."""

from __future__ import annotations

import json
import runpy
import time
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysers.intake.pairing import find_pictures
from analysers.intake.studies import split_studies
from generation.errors import UserError
from generation.loras.names import place_in_metadata
from generation.pictures.pixels import write_png
from generation.pictures.readers.facts import facts_from_texts
from generation.pictures.readers.names import parse_name
from generation.pictures.readers.picture import Facts

PARTS = st.sampled_from(
    [
        "strength_", "epoch_", "step_", "control", "base", "seed", "_", "-", ".", " ", "/",
        "e000004",
        "20240513150310", "1724104396637__000000250_0", "-training-sample-", "0.60", "-1", "007",
        "2024-05-01_10-00-00", "1024x1024", ".png", ".jpg", "p00_s1", "no-ema", "城", "9" * 40,
    ]
)  # fmt: skip
NAMES = st.lists(st.one_of(PARTS, st.text(max_size=4)), max_size=12).map("".join)

JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=6),
        st.sampled_from(["model", "<lora:x:0.5>", "KSampler", "LoraLoader", "3", "1e999"]),
        st.sampled_from([["3", 0], ["4", 0]]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(
                ["3", "4", "class_type", "inputs", "model", "positive", "latent_image", "seed",
                 "on", "steps", "lora_name", "text", "loras", "strength_model", "lora_1", "lora",
                 "nodes", "strength", "name", "weight", "edges", "loraweights", "prompt", "source",
                 "type", "destination", "width", "value", "sui_image_params", "sui_models", "param"]
            ),
            inner,
            max_size=6,
        ),
    ),
    max_leaves=25,
)  # fmt: skip

WORDS = st.sampled_from(
    [
        "<lora:", "x", ":0.5", ">", "Negative prompt:", "\n", "Steps: 20, ", "Seed: ",
        "Size: 1x2, ",
        "Lora hashes: ", '"', "\\", ",", ":", "CFG scale: 7, ", "--loras ", "--prompts ", ";scale=",
        "--inference-steps ", "{", "[", "\0", "NaN", "9" * 30,
    ]
)  # fmt: skip
TEXT = st.lists(st.one_of(WORDS, st.text(max_size=6)), max_size=20).map("".join)
KEYS = st.sampled_from(
    ["parameters", "UserComment", "comment", "prompt", "invokeai_metadata", "invokeai_graph",
     "DgenerateConfig", "lora_analysers", "sampler", "steps", "seed", "scale", "negative-prompt"]
)  # fmt: skip


def usable(facts: Facts | None) -> None:
    if facts is None:
        return
    assert facts.source and isinstance(facts.prompt, str) and isinstance(facts.negative, str)
    assert facts.seed is None or abs(facts.seed) < 2**64
    for use in facts.loras:
        assert isinstance(use.name, str) and isinstance(use.hash, str)
        assert use.strength is None or (use.strength.is_finite() and abs(use.strength) <= 1000)
    for value in facts.settings.values():
        assert isinstance(value, str) and 0 < len(value) <= 200


@given(NAMES)
def test_any_name(name: str) -> None:
    found = parse_name(PurePosixPath(name))
    assert found.strength is None or abs(found.strength) < 1000
    for number in (found.epoch, found.step, found.number):
        assert number is None or 0 <= number < 10**9
    place_in_metadata(name)


@given(st.dictionaries(KEYS, st.one_of(TEXT, JSON.map(json.dumps)), max_size=4))
def test_any_texts(texts: dict[str, str]) -> None:
    usable(facts_from_texts(texts))


NODES = st.dictionaries(
    st.sampled_from(["3", "4", "5"]),
    st.fixed_dictionaries(
        {
            "class_type": st.sampled_from(["KSampler", "LoraLoader", "SaveImage", "Reroute"]),
            "inputs": st.dictionaries(
                st.sampled_from(
                    ["model", "positive", "latent_image", "seed", "lora_name", "strength_model",
                     "lora_1", "text", "images", "guider", "width", "height"]
                ),
                st.one_of(st.sampled_from([["3", 0], ["4", 0], ["5", 1]]), JSON),
                max_size=7,
            ),
        }
    ),
)  # fmt: skip


@given(NODES)
def test_any_graph(nodes: dict[str, Any]) -> None:
    usable(facts_from_texts({"prompt": json.dumps(nodes)}))


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(NAMES, st.one_of(st.none(), TEXT, NODES.map(json.dumps))), min_size=1, max_size=5
    ),
    st.sampled_from(["strength", "epoch"]),
)
def test_any_folder(
    tmp_path_factory: pytest.TempPathFactory, files: list[tuple[str, str | None]], axis: Any
) -> None:
    folder: Path = tmp_path_factory.mktemp("any")
    for name, text in files:
        safe = "".join(c if c.isascii() and c.isprintable() and c != "/" else "_" for c in name)
        texts = {"parameters": text, "prompt": text} if text else {}
        texts = {key: value.encode("utf-8", "replace").decode() for key, value in texts.items()}
        write_png(folder / f"{safe[:80].lstrip('.')}.png", np.zeros((2, 2, 3), np.uint8), texts)
    try:
        found = find_pictures(folder, axis=axis)
    except UserError as error:
        assert "looked for" in str(error)
        return
    listed = [pair.picture.path for pair in found.pairs] + [one.path for one in found.rejected]
    assert len(listed) == len(set(listed))
    everything = {path for path in folder.iterdir() if not path.name.startswith(".")}
    assert set(listed) | {p.control for p in found.pairs if p.control} == everything
    assert sum(len(study.pairs) for study in split_studies(found)) == len(found.pairs)


def test_graphs_that_invite_quadratic_work_end_soon() -> None:
    wide: dict[str, Any] = {
        str(i): {
            "class_type": "EmptyLatent",
            "inputs": {"width": ["x", 0], "images": [str(i + 1), 0]},
        }
        for i in range(10_000)
    }
    wide |= {
        f"s{i}": {"class_type": "SaveImage", "inputs": {"images": ["0", 0]}} for i in range(9_000)
    }
    wide["x"] = {"class_type": "Any", "inputs": {str(i): ["x", 0] for i in range(50_000)}}
    wide["k"] = {"class_type": "KSampler", "inputs": {"latent_image": ["0", 0], "model": ["0", 0]}}
    start = time.process_time()
    assert facts_from_texts({"prompt": json.dumps(wide)}) is not None
    assert time.process_time() - start < 5


def test_a_graph_of_many_nodes_ends_soon() -> None:
    nodes: dict[str, Any] = {
        str(i): {
            "class_type": "LoraLoader",
            "inputs": {"model": [str(i + 1), 0], "lora_name": f"{i}"},
        }
        for i in range(15_000)
    }
    nodes["s"] = {"class_type": "KSampler", "inputs": {"model": ["0", 0], "latent_image": ["0", 0]}}
    nodes["v"] = {"class_type": "SaveImage", "inputs": {"images": ["s", 0]}}
    start = time.process_time()
    facts = facts_from_texts({"prompt": json.dumps(nodes)})
    assert facts is not None and len(facts.loras) == 64
    assert time.process_time() - start < 3


@pytest.mark.parametrize(("workflow", "share"), [(False, 0.9), (True, 0.6)])
def test_random_graphs_give_no_wrong_strength_and_no_false_control(
    workflow: bool, share: float
) -> None:
    """The same at length: `benchmarks/fuzz_graphs.py`."""
    fuzz = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "fuzz_graphs.py"))["fuzz"]
    told = fuzz(400, 1, workflow)
    assert told["wrong strength"] == told["false control"] == 0
    assert told["read rightly"] > share * told["graphs that can be read"]
