"""What is not certain is unknown: strengths, LoRAs, prompts, in texts as the tools write them."""

from __future__ import annotations

import json
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from analysers.intake.pairing import find_pictures
from analysers.intake.studies import split_studies
from generation.pictures.pixels import read_image, read_size, write_png
from generation.pictures.readers.facts import facts_from_texts
from generation.pictures.readers.picture import Facts, LoraUse

PIXELS = np.full((8, 8, 3), 128, np.uint8)
Nodes = dict[str, Any]


def facts(**texts: str) -> Facts:
    found = facts_from_texts(texts)
    assert found is not None
    return found


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def graph(**nodes: Any) -> Nodes:
    """Checkpoint, two prompts, sampler, saved picture; `model` and `clip` name the model's end."""
    plain = {
        "ckpt": node("CheckpointLoaderSimple", ckpt_name="dream.safetensors"),
        "pos": node("CLIPTextEncode", text="a castle", clip=["ckpt", 1]),
        "neg": node("CLIPTextEncode", text="ugly", clip=["ckpt", 1]),
        "latent": node("EmptyLatentImage", width=512, height=768, batch_size=1),
        "ks": node(
            "KSampler", seed=5, steps=20, cfg=8, sampler_name="euler", scheduler="normal",
            denoise=1, model=["ckpt", 0], positive=["pos", 0], negative=["neg", 0],
            latent_image=["latent", 0],
        ),
        "vae": node("VAEDecode", samples=["ks", 0], vae=["ckpt", 2]),
        "save": node("SaveImage", images=["vae", 0], filename_prefix="x"),
    }  # fmt: skip
    return plain | nodes


def behind(lora: dict[str, Any], **more: Any) -> Facts:
    """The facts of a graph whose sampler and prompts take what `lora` gives."""
    nodes = graph(lora=lora, **more)
    nodes["ks"]["inputs"]["model"] = ["lora", 0]
    for key in ("pos", "neg"):
        nodes[key]["inputs"]["clip"] = ["lora", 1]
    return facts(prompt=json.dumps(nodes))


def model(**inputs: Any) -> dict[str, Any]:
    return {"model": ["ckpt", 0], "clip": ["ckpt", 1], **inputs}


def stacked(stacker: dict[str, Any]) -> Facts:
    applied = node("CR Apply LoRA Stack", **model(lora_stack=["stack", 0]))
    return behind(applied, stack=stacker)


def used(found: Facts) -> list[tuple[str, str]]:
    return [(use.name, str(use.strength)) for use in found.loras]


def efficiency(mode: Any = "simple", count: Any = 1) -> dict[str, Any]:
    values: dict[str, Any] = {"input_mode": mode, "lora_count": count}
    for i, name in ((1, "my.safetensors"), (2, "stale.safetensors")):
        values |= {f"lora_name_{i}": name, f"lora_wt_{i}": 0.4, f"model_str_{i}": 1.0}
        values |= {f"clip_str_{i}": 0.7}
    return node("LoRA Stacker", **values)


# --- ComfyUI's LoRA nodes -------------------------------------------------------------------------


def test_efficiencys_stacker_by_mode_and_count() -> None:
    assert used(stacked(efficiency())) == [("my", "0.4")]
    advanced = stacked(efficiency("advanced", 2))
    assert used(advanced) == [("my", "1"), ("stale", "1")]
    assert advanced.loras[0].text_strength == Decimal("0.7")
    assert used(stacked(efficiency("simple", 0))) == []
    for odd in (efficiency("other"), efficiency("simple", ["x", 0])):
        assert "LoRA Stacker" in stacked(odd).unknown


@pytest.mark.parametrize(
    ("lora", "expected"),
    [
        (node("LoraLoader|pysssss", **model(lora_name={"content": "my.safetensors"},
              strength_model=0.6, strength_clip=0.6)), [("my", "0.6")]),
        (node("CR Load LoRA", **model(switch="On", lora_name="my.safetensors", strength_model=0.6,
              strength_clip=0.6)), [("my", "0.6")]),
        (node("CR Load LoRA", **model(switch="Off", lora_name="my.safetensors", strength_model=0.6,
              strength_clip=0.6)), []),
        (node("CR Load LoRA", **model(switch="On", lora_name="None", strength_model=0.6,
              strength_clip=0.6)), []),
        (node("Power Lora Loader (rgthree)", **model(lora_1={"on": False, "lora": "a",
              "strength": 1}, lora_2={"on": True, "lora": "my", "strength": 0.3})),
         [("my", "0.3")]),
        (node("Lora Loader (LoraManager)", **model(text="<lora:shown:1>", loras={"__value__": [
            {"name": "my", "strength": "0.70", "active": True},
            {"name": "off", "strength": 1.0, "active": False}]})), [("my", "0.7")]),
        (node("ImpactWildcardEncode", **model(wildcard_text="", seed=1, mode=True,
              populated_text="a castle <lora:my:0.9>")), [("my", "0.9")]),
        (node("LoraTagLoader", **model(text="a castle <lora:my:0.9:0.5>")), [("my", "0.9")]),
        (node("Lora Loader Stack (rgthree)", **model(lora_01="my.safetensors", strength_01=0.5,
              lora_02="None", strength_02=1.0, lora_03="None", strength_03=1.0, lora_04="None",
              strength_04=1.0)), [("my", "0.5")]),
        (node("LoraLoaderBlockWeight //Inspire", **model(lora_name="my.safetensors", A=4.0, B=1.0,
              strength_model=0.5, strength_clip=0.5, inverse=False, seed=0, bypass=False,
              block_vector="1,0,0", preset="Preset")), [("my", "0.5")]),
        (node("Efficient Loader", ckpt_name="d.safetensors", lora_name="my.safetensors",
              lora_model_strength=0.5, lora_clip_strength=0.5, positive="a", negative=""),
         [("my", "0.5")]),
        (node("NunchakuFluxLoraLoader", model=["ckpt", 0], lora_name="my.safetensors",
              lora_strength=0.5), [("my", "0.5")]),
    ],
    ids=lambda value: value["class_type"] if isinstance(value, dict) else "",
)  # fmt: skip
def test_lora_nodes_that_are_known(lora: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    found = behind(lora)
    if lora["class_type"] == "NunchakuFluxLoraLoader":  # gives no text encoder
        nodes = graph(lora=lora)
        nodes["ks"]["inputs"]["model"] = ["lora", 0]
        found = facts(prompt=json.dumps(nodes))
    assert used(found) == expected and found.unknown == ""


def test_easy_uses_stack_has_a_toggle_a_mode_and_a_count() -> None:
    values = {"lora_1_name": "my", "lora_1_strength": 0.3, "lora_1_model_strength": 1.0,
              "lora_1_clip_strength": 0.5, "lora_2_name": "stale",
              "lora_2_strength": 1}  # fmt: skip

    def stack(toggle: Any = True, mode: str = "simple", number: int = 1) -> Facts:
        found = node("easy loraStack", toggle=toggle, mode=mode, num_loras=number, **values)
        return stacked(found)

    assert used(stack()) == [("my", "0.3")] and used(stack(mode="advanced")) == [("my", "1")]
    assert used(stack(toggle=False)) == [] and stack(toggle=False).unknown == ""
    assert "easy loraStack" in stack(toggle=["x", 0]).unknown


@pytest.mark.parametrize(
    "lora",
    [
        node("SuperLoRALoaderXL", **model(name="my", power=0.4)),
        node("Mystery", **model(lora_file="my", strength=0.4)),
        node("Mystery", **model(a=1)),
        node("Mystery", anything=["ckpt", 0]),
        node("Mystery"),
        node("LoraLoader", **model(lora_name="my", strength_model=["m", 0], strength_clip=1)),
        node("LoraLoader", **model(lora_name="my", strength_model=1, strength_clip=["m", 0])),
        node("LoraLoader", **model(lora_name="my", strength_clip=1)),
        node("LoraLoader", **model(lora_name=["m", 0], strength_model=1, strength_clip=1)),
        node("LoraLoader", **model(lora_name="my", strength_model=["k", 0], strength_clip=1)),
        node("CR Load LoRA", **model(switch=["m", 0], lora_name="my", strength_model=1,
                                     strength_clip=1)),
        node("Power Lora Loader (rgthree)", **model(lora_1=["m", 0])),
        node("IPAdapterUnifiedLoaderFaceID", **model(lora_strength=0.6, preset="FACEID")),
        node("HypernetworkLoader", model=["ckpt", 0], hypernetwork_name="h", strength=1),
        node("ImpactWildcardEncode", **model(populated_text=["m", 0], wildcard_text="x")),
        node("ImpactWildcardEncode", **model(populated_text="{<lora:a:1>|x}", wildcard_text="x")),
        node("easy XYInputs: Lora", **model(input_mode="x")),
        node("Lora Loader (LoraManager)", **model(text="<lora:my:0.7>", loras=[])),
        node("LoraTagLoader", **model(string="<lora:my:0.7>")),
        node("Lora Loader Stack (rgthree)", **model(lora_1="my", strength_1=0.5)),
        node("Power Lora Loader (rgthree)", **model(lora_1={"on": "yes", "lora": "my"})),
    ],
    ids=lambda lora: f"{lora['class_type']} {sorted(lora['inputs'])}",
)  # fmt: skip
def test_what_is_not_known_is_named(lora: dict[str, Any]) -> None:
    found = behind(lora, m=node("Magic", x=0.5), k=node("FloatConstant", value=["m", 0]))
    assert lora["class_type"] in found.unknown, found


def test_a_stack_from_an_unknown_node_is_named() -> None:
    assert "Magic" in stacked(node("Magic", x=0.5)).unknown


def test_unknown_nodes_that_no_model_enters_do_no_harm() -> None:
    nodes = graph(
        words=node("Florist Floral Prompter", prompt="flora", color_a=1),
        film=node("FilmGrainColorAdjust", image=["vae", 0], strength=0.2),
    )
    nodes["save"]["inputs"]["images"] = ["film", 0]
    assert facts(prompt=json.dumps(nodes)).unknown == ""
    nodes["pos"]["inputs"]["text"] = ["words", 0]
    found = facts(prompt=json.dumps(nodes))
    assert found.unknown == "" and found.unread == ("prompt",) and found.prompt == ""
    nodes["film"]["inputs"]["model"] = ["ckpt", 0]
    assert "FilmGrainColorAdjust" in facts(prompt=json.dumps(nodes)).unknown


def test_strengths_through_constants_and_switches() -> None:
    def through(**source: Any) -> Facts:
        name, value = next(iter(source.items()))
        lora = node("LoraLoader", **model(lora_name="my", strength_model=[name, 0],
                                          strength_clip=[name, 0]))  # fmt: skip
        return behind(lora, **{name: value})

    for source in (
        node("PrimitiveFloat", value=0.35),
        node("FloatConstant", value=0.35),
        node("easy float", value=0.35),
        node("Float", Value=0.35),
        node("Primitive float [Crystools]", float=0.35),
    ):
        assert used(through(s=source)) == [("my", "0.35")] and not through(s=source).unknown
    for source in (
        node("SimpleMath+", value=0.35),
        node("FloatConstant", value=0.35, more=["ckpt", 0]),
        node("Float", value=0.35, number=0.5),
        node("RandomFloat", value=0.35),
    ):
        assert used(through(s=source)) == [("my", "None")] and through(s=source).unknown


def test_a_switch_chooses_the_model_with_or_without_the_lora() -> None:
    lora = node("LoraLoaderModelOnly", lora_name="my", strength_model=0.5, model=["ckpt", 0])
    for number, expected in ((1, []), (2, [("my", "0.5")])):
        switch = node("ImpactSwitch", select=number, input1=["ckpt", 0], input2=["lora", 0])
        nodes = graph(lora=lora, switch=switch)
        nodes["ks"]["inputs"]["model"] = ["switch", 0]
        found = facts(prompt=json.dumps(nodes))
        assert used(found) == expected and found.unknown == ""
        nodes["switch"]["inputs"]["select"] = ["elsewhere", 0]
        assert "ImpactSwitch" in facts(prompt=json.dumps(nodes)).unknown


def test_bypassed_and_muted_nodes_of_a_workflow() -> None:
    def workflow(mode: int) -> Facts:
        def one(number: int, kind: str, ins: str, outs: str, *values: Any) -> dict[str, Any]:
            return {
                "id": number, "type": kind, "widgets_values": list(values), "mode": 0,
                "inputs": [
                    {"name": n.split("=")[0], "type": n.split("=")[1], "link": int(n.split("=")[2])}
                    for n in ins.split()
                ],
                "outputs": [{"type": name} for name in outs.split()],
            }  # fmt: skip

        nodes = [
            one(1, "CheckpointLoaderSimple", "", "MODEL CLIP VAE", "dream.safetensors"),
            one(2, "LoraLoader", "model=MODEL=1 clip=CLIP=2", "MODEL CLIP", "my.safetensors", 0.6,
                0.6),
            one(3, "CLIPTextEncode", "clip=CLIP=3", "CONDITIONING", "a castle"),
            one(4, "CLIPTextEncode", "clip=CLIP=4", "CONDITIONING", "ugly"),
            one(5, "EmptyLatentImage", "", "LATENT", 512, 512, 1),
            one(6, "KSampler", "model=MODEL=5 positive=C=6 negative=C=7 latent_image=LATENT=8",
                "LATENT", 7, "fixed", 20, 8, "euler", "normal", 1.0),
            one(7, "VAEDecode", "samples=LATENT=9 vae=VAE=10", "IMAGE"),
            one(8, "SaveImage", "images=IMAGE=11", "", "x"),
        ]  # fmt: skip
        nodes[1]["mode"] = mode
        ends = [(1, 0), (1, 1), (2, 1), (2, 1), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0), (1, 2),
                (7, 0)]  # fmt: skip
        links = [[i, *end, 0, 0, "*"] for i, end in enumerate(ends, 1)]
        return facts(workflow=json.dumps({"nodes": nodes, "links": links}))

    for mode, expected in ((0, [("my", "0.6")]), (4, [])):
        found = workflow(mode)
        assert used(found) == expected and found.unknown == "", found
        assert (found.prompt, found.negative, found.seed) == ("a castle", "ugly", 7)
        assert found.settings["steps"] == "20" and found.settings["sampler"] == "euler"
    assert "leads to no checkpoint" in workflow(2).unknown


def workflow_of(lora: tuple[str, str, str, Any], *more: tuple[str, str, str, Any]) -> Facts:
    """The facts of a workflow alone: checkpoint, node 2 (and 9, ...), two prompts, sampler, save.

    A node is (class, inputs "name=TYPE=link", outputs, widget values); link 12 comes from node 9.
    """
    plain = [
        ("CheckpointLoaderSimple", "", "MODEL CLIP VAE", ["dream.safetensors"]),
        lora,
        ("CLIPTextEncode", "clip=CLIP=3", "CONDITIONING", ["a castle"]),
        ("CLIPTextEncode", "clip=CLIP=4", "CONDITIONING", ["ugly"]),
        ("EmptyLatentImage", "", "LATENT", [512, 512, 1]),
        ("KSampler", "model=MODEL=5 positive=C=6 negative=C=7 latent_image=LATENT=8", "LATENT",
         [7, "fixed", 20, 8, "euler", "normal", 1.0]),
        ("VAEDecode", "samples=LATENT=9 vae=VAE=10", "IMAGE", []),
        ("SaveImage", "images=IMAGE=11", "", ["x"]),
        *more,
    ]  # fmt: skip
    nodes = []
    for number, (kind, ins, outs, values) in enumerate(plain, 1):
        split = [each.split("=") for each in ins.split()]
        inputs = [{"name": n, "type": t, "link": int(link)} for n, t, link in split]
        outputs = [{"type": name} for name in outs.split()]
        nodes.append({"id": number, "type": kind, "widgets_values": values, "mode": 0,
                      "inputs": inputs, "outputs": outputs})  # fmt: skip
    ends = [(1, 0), (1, 1), (2, 1), (2, 1), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0), (1, 2), (7, 0)]
    links = [[i, *end, 0, 0, "*"] for i, end in enumerate([*ends, (9, 0)], 1)]
    return facts(workflow=json.dumps({"nodes": nodes, "links": links}))


THROUGH = "model=MODEL=1 clip=CLIP=2"


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("Power Lora Loader (rgthree)", [{}, {"on": True, "lora": "my.safetensors", "strength": 0.7,
                                              "strengthTwo": None}, {}, ""]),
        ("Lora Loader Stack (rgthree)", ["my.safetensors", 0.7, "None", 1, "None", 1, "None", 1]),
        ("LoraTagLoader", ["a <lora:my:0.7>"]),
        ("LoadLoraTag", ["a <lora:my:0.7>"]),
        ("LoRA Text Loader (LoraManager)", ["<lora:my:0.7>"]),
        ("Lora Loader (LoraManager)", ["<lora:my:0.7>", [{"name": "my", "strength": 0.7}]]),
        ("Power Prompt (rgthree)", ["a <lora:my:0.7>"]),
        ("ImpactWildcardEncode", ["a <lora:my:0.7>", "a <lora:my:0.7>", True, "", "", 1]),
        ("LoraLoader|pysssss", [{"content": "my.safetensors"}, 0.7, 0.7, "[none]"]),
        ("LoraLoader", ["my.safetensors", 0.7, 0.7, "new field"]),
        ("LoraLoader", []),
        ("GetNode", ["my model"]),
        ("6f2c1a5e-2a07-4c6b-8d6b-0123456789ab", [0.7]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_values_of_a_workflow_that_have_no_names_are_unread(kind: str, values: Any) -> None:
    found = workflow_of((kind, THROUGH, "MODEL CLIP", values))
    assert kind in found.unknown, found


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("CR LoRA Stack", ["On", "my", 0.7, 0.7, "Off", "None", 1, 1, "Off", "None", 1, 1]),
        ("LoRA Stacker", ["simple", 1, "my.safetensors", 0.7, 1, 1]),
        ("easy loraStack", [True, "simple", 1, "my.safetensors", 0.7, 1, 1]),
    ],
)
def test_stacks_of_a_workflow_that_have_no_names_are_unread(kind: str, values: Any) -> None:
    applied = ("CR Apply LoRA Stack", f"{THROUGH} lora_stack=LORA_STACK=12", "MODEL CLIP", [])
    found = workflow_of(applied, (kind, "", "LORA_STACK", values))
    assert kind in found.unknown, found


def test_prompts_and_settings_of_a_workflow_that_have_no_names_are_unread() -> None:
    values: list[Any] = [7, "fixed", 20, 8, "euler", "normal", 1.0]

    def unread(encoder: str, sampler: str, settings: list[Any]) -> set[str]:
        nodes = [
            {"id": 1, "type": "CheckpointLoaderSimple", "widgets_values": ["dream.safetensors"]},
            {"id": 2, "type": encoder, "widgets_values": ["a castle"], "inputs": [
                {"name": "clip", "link": 1}]},
            {"id": 3, "type": sampler, "widgets_values": settings, "inputs": [
                {"name": "model", "link": 2}, {"name": "positive", "link": 3}]},
            {"id": 4, "type": "VAEDecode", "inputs": [{"name": "samples", "link": 4}]},
            {"id": 5, "type": "SaveImage", "inputs": [{"name": "images", "link": 5}]},
        ]  # fmt: skip
        links = [[1, 1, 1], [2, 1, 0], [3, 2, 0], [4, 3, 0], [5, 4, 0]]
        found = facts(workflow=json.dumps({"nodes": nodes, "links": links}))
        assert found.unknown == "" and found.loras == ()
        return set(found.unread)

    assert unread("CLIPTextEncode", "KSampler", values) == set()
    assert unread("CLIPTextEncodeFlux", "KSampler", values) == {"prompt"}
    for sampler, settings in (
        ("KSampler (Efficient)", [*values, "auto", "true"]),
        ("KSampler", values[:1] + values[2:]),  # no word of what comes after the seed
        ("KSampler", []),
    ):
        assert unread("CLIPTextEncode", sampler, settings) == {
            "seed", "steps", "cfg", "sampler", "scheduler", "denoise"
        }  # fmt: skip


# --- ComfyUI's prompts and passes -----------------------------------------------------------------


def test_combined_prompts_hold_both_texts() -> None:
    for kind, one, two in (
        ("ConditioningCombine", "conditioning_1", "conditioning_2"),
        ("ConditioningConcat", "conditioning_to", "conditioning_from"),
        ("ConditioningAverage", "conditioning_to", "conditioning_from"),
    ):
        nodes = graph(
            more=node("CLIPTextEncode", text="at dusk", clip=["ckpt", 1]),
            both=node(kind, **{one: ["pos", 0], two: ["more", 0]}),
        )
        nodes["ks"]["inputs"]["positive"] = ["both", 0]
        assert facts(prompt=json.dumps(nodes)).prompt == "a castle + at dusk"
    sdxl = node("CLIPTextEncodeSDXL", text_g="a castle", text_l="stone", clip=["ckpt", 1], width=1)
    assert facts(prompt=json.dumps(graph(pos=sdxl))).prompt == "a castle + stone"


def test_of_two_saved_pictures_the_one_that_fits_in_size_counts() -> None:
    nodes = graph(
        up=node("LatentUpscaleBy", samples=["ks", 0], scale_by=2.0),
        lora=node("LoraLoaderModelOnly", lora_name="my", strength_model=0.5, model=["ckpt", 0]),
    )
    second = nodes["ks"]["inputs"] | {"model": ["lora", 0], "latent_image": ["up", 0], "seed": 9}
    nodes["ks2"] = node("KSampler", **second)
    nodes["vae2"] = node("VAEDecode", samples=["ks2", 0], vae=["ckpt", 2])
    nodes["save2"] = node("SaveImage", images=["vae2", 0], filename_prefix="y")
    texts = {"prompt": json.dumps(nodes)}
    small, large = (facts_from_texts(texts, size) for size in ((512, 768), (1024, 1536)))
    assert small is not None and large is not None
    assert small.loras == () and small.unknown == "" and "passes" not in small.settings
    assert used(large) == [("my", "0.5")] and "seed 9" in large.settings["passes"]
    unclear = facts_from_texts(texts)
    assert unclear is not None and "one of several pictures" in unclear.unknown


def test_a_lora_at_two_strengths_in_two_passes_is_unclear() -> None:
    nodes = graph(
        one=node("LoraLoaderModelOnly", lora_name="my", strength_model=0.5, model=["ckpt", 0]),
        two=node("LoraLoaderModelOnly", lora_name="my", strength_model=0.8, model=["ckpt", 0]),
    )
    nodes["ks"]["inputs"]["model"] = ["one", 0]
    second = nodes["ks"]["inputs"] | {"model": ["two", 0], "latent_image": ["ks", 0]}
    nodes["ks2"] = node("KSampler", **second)
    nodes["vae"]["inputs"]["samples"] = ["ks2", 0]
    assert "at two strengths" in facts(prompt=json.dumps(nodes)).unknown
    nodes["two"]["inputs"] |= {"model": ["one", 0]}
    nodes["ks"]["inputs"]["model"] = ["two", 0]
    nodes["vae"]["inputs"]["samples"] = ["ks", 0]
    assert "twice" in facts(prompt=json.dumps(nodes)).unknown


def custom(noise: dict[str, Any], **more: Any) -> Facts:
    """A graph sampled by SamplerCustomAdvanced; `more` replaces its parts."""
    nodes = graph(
        noise=noise,
        guider=node("CFGGuider", cfg=5, model=["ckpt", 0], positive=["pos", 0],
                    negative=["neg", 0]),
        by=node("KSamplerSelect", sampler_name="euler"),
        sigmas=node("BasicScheduler", scheduler="normal", steps=20, denoise=1, model=["ckpt", 0]),
        ks=node("SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0],
                sampler=["by", 0], sigmas=["sigmas", 0], latent_image=["latent", 0]),
    )  # fmt: skip
    return facts(prompt=json.dumps(nodes | more))


def test_noise_steps_and_samplers_of_nodes_that_are_not_known_are_unread() -> None:
    found = custom(node("RandomNoise", noise_seed=5))
    assert (found.seed, found.unread, found.unknown) == (5, (), "")
    assert found.settings["steps"] == "20" and found.settings["sampler"] == "euler"
    for part, told in (("noise", "seed"), ("by", "sampler"), ("sigmas", "steps")):
        parts = {part: node("Magic", value=5)}
        strange = custom(parts.pop("noise", node("RandomNoise", noise_seed=5)), **parts)
        assert strange.unread == (told,), part
    again = custom(node("Reroute", **{"": ["real", 0]}), real=node("RandomNoise", noise_seed=5))
    assert (again.seed, again.unread) == (5, ())
    explored = graph(explorer=node("SeedExplorer //Inspire", seed_prompt="5,6:0.1"))
    explored["ks"]["class_type"] = "KSampler //Inspire"
    explored["ks"]["inputs"]["noise_opt"] = ["explorer", 0]
    assert facts(prompt=json.dumps(explored)).unread == ("seed",)


def test_what_else_decides_the_sampling_counts_when_pairing() -> None:
    def plain(kind: str = "KSampler", **more: Any) -> Facts:
        nodes = graph()
        nodes["ks"]["class_type"] = kind
        nodes["ks"]["inputs"] |= more
        return facts(prompt=json.dumps(nodes))

    assert plain().settings == plain(preview_method="auto", vae_decode="true").settings
    for kind, one, two in (
        ("KSamplerAdvanced", {"start_at_step": 0}, {"start_at_step": 5}),
        ("KSampler //Inspire", {"noise_mode": "CPU"}, {"noise_mode": "GPU(=A1111)"}),
        ("KSampler //Inspire", {"variation_strength": 0.0}, {"variation_strength": 0.1}),
    ):
        assert plain(kind, **one).settings != plain(kind, **two).settings
    noise = node("RandomNoise", noise_seed=5)
    etas = [custom(noise, by=node("SamplerEulerAncestral", eta=eta, s_noise=1)) for eta in (0, 1)]
    assert etas[0].settings != etas[1].settings
    betas = [custom(noise, sigmas=node("BetaSamplingScheduler", steps=20, alpha=a)) for a in (1, 2)]
    assert betas[0].settings != betas[1].settings and betas[0].settings["steps"] == "20"


# --- A1111's text ---------------------------------------------------------------------------------

LINE = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 512x512, Model: dream"


def a1111(prompt: str = "a castle", more: str = "", after: str = "") -> Facts:
    return facts(parameters=f"{prompt}\nNegative prompt: ugly\n{LINE}{more}{after}")


def test_civitais_resources() -> None:
    found = a1111(
        more=', Civitai resources: [{"type":"checkpoint","modelVersionId":1},{"type":"lora",'
        '"weight":0.65,"modelVersionId":22,"modelName":"My, LoRA"}], Civitai metadata: {}'
    )
    assert used(found) == [("My, LoRA", "0.65")] and found.unknown == ""
    assert found.settings["model"] == "dream"
    for entry in ('{"type":"lora","modelVersionId":1}', '{"type":"newkind","weight":1}', "7"):
        assert a1111(more=f", Civitai resources: [{entry}]").unknown
    plain = a1111(more=', Civitai resources: [{"type":"checkpoint","modelVersionId":1}]')
    assert plain.loras == () and plain.unknown == ""
    both = a1111("a <lora:x:0.5>", ', Civitai resources: [{"type":"lora","weight":0.7}]')
    assert "Civitai" in both.unknown


@pytest.mark.parametrize(
    ("prompt", "more", "after"),
    [
        ("a castle <lora:my:strong>", "", ""),
        ("a castle <lora:my:0.5@0,1@0.5>", "", ""),
        ("a <lora:my:0.5> <lora:my:0.3>", "", ""),
        ("a castle <lora:my", "", ""),
        ("a castle <hypernet:h:0.5>", "", ""),
        ("a castle", ', Lora hashes: "my: 60129e9d06ab"', ""),
        ("a castle", ", AddNet Enabled: True, AddNet Model 1: my(abc), AddNet Weight A 1: 0.5", ""),
        ("a castle", ', ADetailer prompt: "face <lora:my:0.5>"', ""),
        ("a <lora:my:0.8>", ', Hires prompt: "a <lora:my:0.5>"', ""),
        ("a castle", ", LyCORIS: my", ""),
        ("a castle", ", Hypernet: anime", ""),
        ("a castle", "", "\nTemplate: a {castle|dog} <lora:my:0.5>"),
        ("a castle\nNegative prompt: <lora:my:-1>", "", ""),
        ("a castle", ', Hashes: {"model": "abc", "lora:my": "60129e9d06"}', ""),
        ("a castle", ', Hashes: {"LORA:my": "60129e9d06"}', ""),
        ("a castle", ', Hashes: "{\\"lyco:my\\": \\"60129e9d06\\"}"', ""),
        ("a castle # <lora:my:0.8>", "", ""),
        ("a castle", ', LoRA networks: "my:0.8"', ""),
        ("a <lora:my:0.8>", ', LoRA networks: "my:0.5"', ""),
        ("a castle", ", Lora_0 Model name: my, Lora_0 Strength model: 0.7", ""),
        ("a castle", ", Extra networks: lora my 0.5", ""),
        ("a castle", ", Style Selector Style: my LoRA", ""),
        ("a castle", ', Loras: ["my:0.8"]', ""),
        ("a <lora:my:0.8>", ', ADetailer prompt 2nd: "face <lora:detail:0.8>"', ""),
        ("a castle", ', Wildcard prompt: "__a/<lora:my:0.6>__"', ""),
    ],
)
def test_traces_in_a1111s_text_make_it_unknown(prompt: str, more: str, after: str) -> None:
    assert a1111(prompt, more, after).unknown


@pytest.mark.parametrize(
    ("prompt", "more", "expected"),
    [
        ("a castle", ", Diffusion in Low Bits: Automatic (fp16 LoRA), Module 1: ae", []),
        ("a castle", ", RP Active: True, RP LoRA Neg Te Ratios: 0", []),
        ("a castle", ', TI hashes: "easynegative: c74b4e810b03"', []),
        ("trained on a lora dataset", ', ADetailer prompt: "a lora"', []),
        ("a <lora:my:0.4>", ', Hashes: {"lora:my": "60129e9d06"}', [("my", "0.4")]),
        ("a <lora:my:0.8>", ', LoRA networks: "my:0.8"', [("my", "0.8")]),
        ("a <LORA:my:.5>", "", [("my", "0.5")]),
        ("a <lora:my:0.8>", ', Hires prompt: "b <lora:my:0.8>"', [("my", "0.8")]),
    ],
)
def test_what_a1111s_text_says_for_certain(
    prompt: str, more: str, expected: list[tuple[str, str]]
) -> None:
    found = a1111(prompt, more)
    assert found.unknown == "" and used(found) == expected


def invoke(metadata: dict[str, Any], *nodes: dict[str, Any], edges: Any = ()) -> Facts:
    drawn = {
        "nodes": {
            "noise": {"type": "noise", "seed": 0, "width": 512, "height": 512},
            "denoise": {"type": "denoise_latents", "steps": 30, "cfg_scale": 7},
            **{str(number): node for number, node in enumerate(nodes)},
        },
        "edges": list(edges),
    }
    texts = {"invokeai_metadata": json.dumps(metadata)} if metadata else {}
    return facts(invokeai_graph=json.dumps(drawn), **texts)


def test_invokeais_metadata_and_graph_must_agree_on_loras() -> None:
    entry = {"model": {"name": "my", "type": "lora"}, "weight": 0.75}
    node = {"type": "lora_selector", "lora": entry["model"], "weight": 0.75}
    told = {"positive_prompt": "a", "seed": 5, "loras": [entry]}
    both = invoke(told, node, {"type": "sdxl_lora_collection_loader"})
    assert used(both) == [("my", "0.75")] and both.unknown == "" and both.seed == 5
    for metadata in (told | {"loras": []}, {"positive_prompt": "a", "seed": 5}):
        assert "in its InvokeAI text alone" in invoke(metadata, node).unknown
        assert invoke(metadata).unknown == ""
    assert "two strengths" in invoke(told, node | {"weight": 0.5}).unknown


def test_a_seed_that_another_node_of_invokeais_graph_gives_is_unread() -> None:
    assert invoke({}).seed == 0 and invoke({}).unread == ()
    given = {"source": {"node_id": "x", "field": "value"},
             "destination": {"node_id": "noise", "field": "seed"}}  # fmt: skip
    found = invoke({}, edges=[given])
    assert found.seed is None and "seed" in found.unread


def test_other_tools_words_for_loras() -> None:
    for texts in (
        {"Dream": "a castle withLora(my,0.5) -s 50 -S 1"},
        {"sd-metadata": json.dumps({"image": {"prompt": "a withLora(my,0.5)", "seed": 1}})},
        {"UserComment": json.dumps({"mflux_version": "0.9", "prompt": "a", "lora_scales": [0.5]})},
        {"parameters": json.dumps({"Prompt": "a", "LoRA 1": "my : 0.5"})},
        {"prompt": json.dumps(graph(l=node("LoraLoader", lora_name="my")))[:-9]},
    ):
        assert "speaks of a LoRA" in facts(**texts).unknown
    section = {"prompt": "a <segment:face> smile <lora:my:0.5>", "seed": 1, "steps": 20}
    assert "section" in facts(parameters=json.dumps({"sui_image_params": section})).unknown


def test_a_control_that_tells_a_lora_is_none_for_pictures_that_tell_nothing(tmp_path: Path) -> None:
    for strength in ("0.4", "0.8"):
        write_png(tmp_path / f"strength_{strength}.png", PIXELS, {})
    for tag, serves in (("<lora:my:0.8>", False), ("<lora:my:0>", True), ("", True)):
        write_png(tmp_path / "control.png", PIXELS, {"parameters": f"a {tag}\n{LINE}"})
        found = find_pictures(tmp_path, axis="strength")
        assert [pair.control is not None for pair in found.pairs] == [serves] * 2
        assert serves or "a LoRA itself (my)" in " ".join(found.warnings)


def test_text_behind_the_settings_does_not_hide_them() -> None:
    found = a1111(
        "a castle <lora:my:0.8>",
        after="\nTemplate: a {castle|dog} <lora:my:0.8>\nNegative Template: ugly, bad: x, y",
    )
    assert used(found) == [("my", "0.8")] and found.seed == 5 and found.unknown == ""
    assert (found.prompt, found.negative) == ("a castle", "ugly")


def test_keys_in_any_capitals_and_the_settings_that_count() -> None:
    text = LINE.replace("CFG scale", "CFG Scale").replace("Steps", "steps")
    found = facts(parameters=f"a\n{text}, ADetailer model: face.pt, ADetailer prompt: smile, "
                  "Hires upscale: 2, Hires steps: 5, Sampler sigma: karras, App: SD.Next, "
                  'ControlNet 0: "Module: canny, Weight: 1"')  # fmt: skip
    assert found.settings["guidance"] == "7" and found.settings["upscale"] == "2"
    assert found.settings["adetailer prompt"] == "smile" and found.source == "SD.Next"
    assert found.settings["sampler sigma"] == "karras"
    assert found.settings["controlnet 0"] == "Module: canny, Weight: 1"
    assert facts(parameters=f"a\n{LINE}, App: SD.Next, Hires scale: 2").settings["upscale"] == "2"


@pytest.mark.parametrize("name", ["te,st1", "a: b", "my ", "my.v1.5", "城, 2", "x:0", "a, b: c"])
def test_names_are_read_back_as_written(name: str) -> None:
    tag = name if ":" not in name else "tag"
    hashes = json.dumps(f"{name}: 60129e9d06ab, other: ba9876543210", ensure_ascii=False)
    found = a1111(f"a <lora:{tag}:0.5> <lora:other:1>", f", Lora hashes: {hashes}")
    told = {use.name: use.hash for use in found.loras}
    assert told[name] == "60129e9d06ab" and told["other"] == "ba9876543210"
    swarm = {"prompt": "a", "seed": 1, "loras": [name], "loraweights": ["0.5"]}
    assert used(facts(parameters=json.dumps({"sui_image_params": swarm}))) == [(name, "0.5")]
    swarm |= {"loras": name, "loraweights": "0.5"}
    assert used(facts(parameters=json.dumps({"sui_image_params": swarm}))) == [(name, "0.5")]
    lora = node("LoraLoader", **model(lora_name=f"sub\\{name}.safetensors", strength_model=0.5,
                                      strength_clip=0.5))  # fmt: skip
    assert used(behind(lora)) == [(name, "0.5")]


@pytest.mark.parametrize("digest", ["e3b0c44298fc", "E3B0C44298", "000000000000", "d41d8cd98f00"])
def test_the_hash_of_nothing_is_none_and_merges_no_studies(tmp_path: Path, digest: str) -> None:
    for name in ("one", "two"):
        for strength in ("0.4", "0.8"):
            text = f'a <lora:{name}:{strength}>\n{LINE}, Lora hashes: "{name}: {digest}"'
            write_png(tmp_path / f"{name}{strength}.png", PIXELS, {"parameters": text})
    studies = split_studies(find_pictures(tmp_path, axis="strength"))
    assert sorted(study.label for study in studies) == ["one", "two"]


def test_one_hash_under_two_names_and_two_under_one(tmp_path: Path) -> None:
    for number, (name, digest) in enumerate((("a", "1" * 12), ("b", "1" * 12), ("b", "2" * 12))):
        text = f'a <lora:{name}:0.4>\n{LINE}, Lora hashes: "{name}: {digest}"'
        write_png(tmp_path / f"{number}.png", PIXELS, {"parameters": text})
    assert len(split_studies(find_pictures(tmp_path, axis="strength"))) == 3


# --- several texts, other tools -------------------------------------------------------------------


def test_all_texts_of_a_file_are_read_and_must_agree() -> None:
    plain = json.dumps(graph())
    assert facts(prompt=plain, parameters=f"a castle\n{LINE}").unknown == ""
    assert "'my'" in facts(prompt=plain, parameters=f"a castle <lora:my:0.9>\n{LINE}").unknown
    lora = node("LoraLoader", **model(lora_name="my", strength_model=0.9, strength_clip=0.9))
    nodes = graph(lora=lora)
    nodes["ks"]["inputs"]["model"] = ["lora", 0]
    text = json.dumps(nodes)
    assert facts(prompt=text, parameters=f"a <lora:my:0.9>\n{LINE}").unknown == ""
    assert "two strengths" in facts(prompt=text, parameters=f"a <lora:my:0.5>\n{LINE}").unknown
    seeds = facts(prompt=text, parameters=f"a\n{LINE.replace('Seed: 5', 'Seed: 6')}")
    assert "two seeds" in seeds.unknown
    assert "'my_lora'" in facts(parameters=f"a castle\n{LINE}", my_lora="0.7").unknown
    assert "LoRA" in facts(parameters=f"a castle\n{LINE}", extra='{"lora": "x"}').unknown
    floral = facts(parameters=f"a castle\n{LINE}", extra="floral exploration, coloration")
    assert floral.unknown == ""
    assert facts(prompt=json.dumps({"1": node("LoraMagic")})).unknown


def test_json_in_a_user_comment() -> None:
    nodes = graph()
    for text in (nodes, {"prompt": nodes}, {"prompt": json.dumps(nodes), "workflow": {}}):
        found = facts(UserComment=json.dumps(text))
        assert found.source == "ComfyUI" and found.prompt == "a castle" and found.unknown == ""
    assert facts(UserComment='{"loraName": "x", "weight": 1}').unknown
    assert facts_from_texts({"UserComment": '{"camera": "x"}'}) is None


def test_fooocus() -> None:
    data = {
        "prompt": "a castle", "full_prompt": ["a castle, cinematic"], "negative_prompt": "ugly",
        "seed": "5", "steps": 30, "sampler": "dpmpp_2m_sde_gpu", "scheduler": "karras",
        "guidance_scale": 4, "resolution": "(1152, 896)", "base_model": "juggernautXL",
        "base_model_hash": "aeb7e9e689", "loras": [["my", 0.5, "4852686128"]],
        "lora_combined_1": "my : 0.5", "performance": "Speed", "version": "Fooocus v2.5.5",
    }  # fmt: skip
    found = facts(parameters=json.dumps(data), fooocus_scheme="fooocus")
    assert found.source == "Fooocus" and used(found) == [("my", "0.5")] and found.unknown == ""
    assert (found.prompt, found.seed) == ("a castle", 5)
    assert found.settings["size"] == "1152x896" and found.settings["model"] == "juggernautXL"
    assert facts(parameters=json.dumps(data | {"loras": "my"})).unknown
    assert facts(parameters=json.dumps(data | {"loras": [["my", None, ""]]})).unknown
    text = f"a castle\n{LINE}, Lora hashes: \"my: 48526861\", Lora weights: \"my: 0.5\", " \
        "Version: Fooocus v2.5.5"  # fmt: skip
    assert facts(parameters=text).loras == (LoraUse("my", Decimal("0.5")),)


def test_ruined_fooocus_easy_diffusion_draw_things_and_novelai() -> None:
    ruined = {"Prompt": "a castle", "Negative": "", "steps": 20, "cfg": 7, "width": 512,
              "height": 512, "seed": 5, "software": "RuinedFooocus",
              "loras": [{"name": "my.safetensors", "weight": 0.5}]}  # fmt: skip
    found = facts(parameters=json.dumps(ruined))
    assert found.source == "RuinedFooocus" and used(found) == [("my", "0.5")]
    listed = ruined | {"loras": [["abc", "0.5 - my.safetensors"]]}
    assert used(facts(parameters=json.dumps(listed))) == [("my", "0.5")]
    assert facts(parameters=json.dumps(ruined | {"loras": ["my"]})).unknown
    easy = {"prompt": "a castle", "negative_prompt": "", "seed": "5", "num_inference_steps": "20",
            "guidance_scale": "7.5", "width": "512", "height": "512", "sampler_name": "euler",
            "use_stable_diffusion_model": "dream", "use_lora_model": "['my', 'b']",
            "lora_alpha": "[0.5, 1]"}  # fmt: skip
    for found in (facts_from_texts(easy), facts_from_texts({"UserComment": json.dumps(easy)})):
        assert found is not None and found.source == "Easy Diffusion" and found.unknown == ""
        assert used(found) == [("my", "0.5"), ("b", "1")]
    assert facts(**easy | {"lora_alpha": "0.5"}).unknown
    things = {"c": "a castle", "uc": "", "model": "dream.ckpt", "sampler": "Euler A", "scale": 7,
              "seed": 5, "size": "512x512", "steps": 20, "strength": 1,
              "lora": [{"model": "my_lora_f16.ckpt", "weight": 0.6}]}  # fmt: skip
    quoted = json.dumps(things).replace('"', "&quot;")
    xmp = f"<exif:UserComment><rdf:Alt><rdf:li xml:lang='x-default'>{quoted}</rdf:li></rdf:Alt>"
    drawn = facts_from_texts({"XML:com.adobe.xmp": xmp})
    assert drawn is not None and drawn.source == "Draw Things" and drawn.unknown == ""
    assert used(drawn) == [("my_lora_f16", "0.6")]
    comment = {"steps": 28, "sampler": "k_euler", "seed": 5, "scale": 5.0, "uc": "ugly"}
    nai = facts(Software="NovelAI", Description="a castle", Comment=json.dumps(comment))
    assert (nai.source, nai.prompt, nai.negative, nai.seed) == ("NovelAI", "a castle", "ugly", 5)
    assert nai.loras == () and nai.unknown == ""
    horde = {"params": {"loras": []}, "models": ["x"], "prompt": "a"}
    assert "AI Horde" in facts(UserComment=json.dumps(horde)).unknown
    assert "Stable Horde" in facts(Software="Stable Horde via x").unknown


# --- folders --------------------------------------------------------------------------------------


def test_an_unknown_picture_is_nobodys_control(tmp_path: Path) -> None:
    for strength in ("0.4", "0.8"):
        text = f"a castle <lora:my:{strength}>\nNegative prompt: ugly\n{LINE}"
        write_png(tmp_path / f"{strength}.png", PIXELS, {"parameters": text})
    text = f"a castle\nNegative prompt: ugly\n{LINE}"
    civitai = text + ', Civitai resources: [{"type":"lora","modelVersionId":3}]'
    write_png(tmp_path / "base.png", PIXELS, {"parameters": civitai})
    found = find_pictures(tmp_path, axis="strength")
    assert [pair.control for pair in found.pairs] == [None, None]
    assert [(one.path.name, one.reason) for one in found.rejected] == [
        ("base.png", "does not tell the strength of 'civitai 3'")
    ]
    named = find_pictures(tmp_path, axis="strength", control=tmp_path / "base.png")
    assert "perhaps a LoRA itself" in named.warnings[0]
    write_png(tmp_path / "base.png", PIXELS, {"parameters": text})
    found = find_pictures(tmp_path, axis="strength")
    assert all(pair.control == tmp_path / "base.png" for pair in found.pairs)


def test_a_lora_on_the_text_encoder_alone_is_no_control(tmp_path: Path) -> None:
    for name, tag in (("a", "<lora:my:0.8>"), ("b", "<lora:my:1:0>")):
        text = f"a castle {tag}\nNegative prompt: ugly\n{LINE}"
        write_png(tmp_path / f"{name}.png", PIXELS, {"parameters": text})
    found = find_pictures(tmp_path, axis="strength")
    assert all(pair.control is None for pair in found.pairs)


def test_a_prompt_that_cannot_be_read_pairs_with_nothing(tmp_path: Path) -> None:
    for name, strength in (("a", 0.5), ("b", 0)):
        lora = node("LoraLoaderModelOnly", lora_name="my", strength_model=strength,
                    model=["ckpt", 0])  # fmt: skip
        nodes = graph(lora=lora, words=node("Oneiric", seed=strength))
        nodes["ks"]["inputs"]["model"] = ["lora", 0]
        nodes["pos"]["inputs"]["text"] = ["words", 0]
        write_png(tmp_path / f"{name}.png", PIXELS, {"prompt": json.dumps(nodes)})
    found = find_pictures(tmp_path, axis="strength")
    assert len(found.pairs) == 2 and all(pair.control is None for pair in found.pairs)
    assert len({pair.case for pair in found.pairs}) == 2


def test_avif_carries_texts(tmp_path: Path) -> None:
    tag = Image.Exif()
    tag[0x8769] = {0x9286: b"UNICODE\0" + f"a <lora:my:0.8>\n{LINE}".encode("utf-16-be")}
    Image.fromarray(np.full((64, 64, 3), 128, np.uint8)).save(tmp_path / "a.avif", exif=tag)
    write_png(tmp_path / "control.png", PIXELS, {})
    found = find_pictures(tmp_path, axis="strength")
    assert [pair.picture.strength for pair in found.pairs] == [Decimal("0.8")]


def test_formats_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    write_png(tmp_path / "strength_0.5.png", PIXELS, {})
    for ending in ("jxl", "heic", "HEIF", "psd"):
        (tmp_path / f"strength_0.6.{ending}").write_bytes(b"x")
    found = find_pictures(tmp_path, axis="strength")
    assert len(found.rejected) == 4
    assert all("save it as PNG" in one.reason for one in found.rejected)


def test_links_in_a_circle_and_names_that_are_no_utf8(tmp_path: Path) -> None:
    write_png(tmp_path / "strength_0.5.png", PIXELS, {})
    (tmp_path / "strength_0.6.png").symlink_to("strength_0.7.png")
    (tmp_path / "strength_0.7.png").symlink_to("strength_0.6.png")
    (tmp_path / "folder").symlink_to("folder")
    try:
        odd = os.fsencode(tmp_path) + b"/strength_0.8_\xff.png"
        os.rename(os.fsencode(tmp_path / "strength_0.5.png"), odd)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    found = find_pictures(tmp_path, axis="strength")
    assert [pair.picture.strength for pair in found.pairs] == [Decimal("0.8")]
    assert [one.path.name for one in found.rejected] == ["strength_0.6.png", "strength_0.7.png"]
    assert all("cannot be looked at" in one.reason for one in found.rejected)


def test_a_grid_of_more_than_100_megapixels_is_cut(tmp_path: Path) -> None:
    size = (10_400, 5_000)
    line = LINE.replace("512x512", f"{size[0]}x{size[1]}")
    text = f'a <lora:my:0.2>\n{line}, Script: X/Y/Z plot, Y Type: Prompt S/R, Y Values: "0.2,0.4"'
    pixels = np.zeros((2 * size[1], size[0]), np.uint8)
    pixels[size[1] :] = 200
    write_png(tmp_path / "g.png", pixels, {"parameters": text})
    found = find_pictures(tmp_path, axis="strength", cells=tmp_path / "out" / "cells")
    assert [str(pair.picture.strength) for pair in found.pairs] == ["0.2", "0.4"]
    last = found.pairs[1].picture.path
    assert read_size(last) == size and int(read_image(last)[0, 0, 0]) == 200
