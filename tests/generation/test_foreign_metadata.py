"""Every interface's metadata, with the texts as the interfaces write them."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from generation.pictures.infotext import parameters_text
from generation.pictures.pixels import read_text, write_png
from generation.pictures.readers.facts import facts_from_texts
from generation.pictures.readers.picture import Facts, LoraUse
from generation.pictures.readers.tags import read_prompt
from generation.pictures.readers.values import decimal, load_json, whole

PIXELS = np.zeros((8, 8, 3), np.uint8)

A1111 = (
    "a castle on a hill <lora:castleLora:0.8>\n"
    "Negative prompt: blurry, ugly\n"
    "Steps: 20, Sampler: Euler a, Schedule type: Karras, CFG scale: 7, Seed: 12345, "
    "Size: 512x768, Model hash: 6ce0161689, Model: dreamshaper_8, Clip skip: 2, "
    'Lora hashes: "castleLora: 60129e9d06ab", Version: v1.10.1'
)


def facts(**texts: str) -> Facts:
    found = facts_from_texts({key.replace("_", "-"): value for key, value in texts.items()})
    assert found is not None
    return found


def through_png(tmp_path: Path, key: str, value: str) -> Facts:
    """The text written into a real PNG by Pillow and read from its bytes."""
    write_png(tmp_path / "a.png", PIXELS, {key: value})
    found = facts_from_texts(read_text(tmp_path / "a.png"))
    assert found is not None
    return found


# --- A1111 and Forge ------------------------------------------------------------------------------


def test_a1111(tmp_path: Path) -> None:
    found = through_png(tmp_path, "parameters", A1111)
    assert found == Facts(
        source="A1111",
        prompt="a castle on a hill",
        negative="blurry, ugly",
        seed=12345,
        loras=(LoraUse("castleLora", Decimal("0.8"), "60129e9d06ab"),),
        settings={
            "size": "512x768",
            "steps": "20",
            "sampler": "Euler a",
            "schedule": "Karras",
            "guidance": "7",
            "model": "dreamshaper_8",
            "model_hash": "6ce0161689",
            "clip_skip": "2",
        },
    )


@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-16-le"])
@pytest.mark.parametrize("ending", ["jpg", "webp"])
def test_a1111_in_jpeg_and_webp(tmp_path: Path, ending: str, encoding: str) -> None:
    tag = Image.Exif()
    tag[0x8769] = {0x9286: b"UNICODE\0" + A1111.encode(encoding)}
    Image.fromarray(PIXELS).save(tmp_path / f"a.{ending}", exif=tag)
    assert facts_from_texts(read_text(tmp_path / f"a.{ending}")) == facts(parameters=A1111)


@pytest.mark.parametrize(
    ("tag", "name", "strength", "text_strength"),
    [
        ("<lora:x>", "x", "1", None),
        ("<lora:x:0.60>", "x", "0.6", None),
        ("<lora:x:-1.5>", "x", "-1.5", None),
        ("<lora:x:.5>", "x", "0.5", None),
        ("<lora:x:0.5:0.8>", "x", "0.8", "0.5"),
        ("<lora:x:0.5:0.5>", "x", "0.5", None),
        ("<lora:x:te=0.2:unet=0.9>", "x", "0.9", "0.2"),
        ("<lora:x:0.7:unet=0.9:dyn=8>", "x", "0.9", "0.7"),
        ("<lora:x:1:lbw=OUTALL>", "x", "1", None),
        ("<lyco:my file-v1.2_000004:0.4>", "my file-v1.2_000004", "0.4", None),
        ("<LORA:x:0.4>", "x", "0.4", None),
    ],
)
def test_tags(tag: str, name: str, strength: str, text_strength: str | None) -> None:
    prompt = read_prompt(f"a dog, {tag}, on a  hill")
    assert prompt.text == "a dog, on a hill" and not prompt.problem
    assert prompt.loras == (
        LoraUse(name, Decimal(strength), "", Decimal(text_strength) if text_strength else None),
    )


def test_a1111s_odd_cases() -> None:
    # Quoted values with commas and escapes, an empty negative prompt, several LoRAs.
    found = facts(
        parameters="a <lora:one:0.5> b <lora:two:1>\nsecond line\nNegative prompt: \nSteps: 20, "
        'Sampler: DPM++ 2M Karras, CFG scale: 7.0, Seed: 1, Model: "odd, \\"name\\": 1", '
        'Lora hashes: "one: 0123456789ab, two: ba9876543210", Template: "x\\ny, Steps: 99"'
    )
    assert found.prompt == "a b second line" and found.negative == ""
    assert [use.hash for use in found.loras] == ["0123456789ab", "ba9876543210"]
    assert (found.settings["sampler"], found.settings["schedule"]) == ("DPM++ 2M", "Karras")
    assert found.settings["guidance"] == "7" and found.settings["steps"] == "20"
    assert found.settings["model"] == 'odd, "name": 1'
    # dgenerate's --output-auto1111-metadata: a hash, no tag, no weight.
    found = facts(
        parameters='a dog\nSteps: 20, Seed: 1, CFG scale: 7, Lora hashes: "x: 60129e9d06ab"'
    )
    assert found.loras == (LoraUse("x", None, "60129e9d06ab"),)


def test_a_prompt_may_begin_with_a_brace() -> None:
    found = facts(parameters=A1111.replace("a castle on", "{old|new} castle on"))
    assert found.prompt == "{old|new} castle on a hill" and found.seed == 12345
    assert facts_from_texts({"parameters": '{"Steps: 1, Seed: 2, Size: 3x4": 1}'}) is None


def test_fewer_than_three_settings_are_no_settings() -> None:
    assert facts_from_texts({"parameters": "a dog\nSteps: 20, Seed: 1"}) is None
    assert facts_from_texts({"parameters": "just, a: prompt"}) is None
    assert facts_from_texts({}) is None


def test_a_grid_is_known() -> None:
    text = A1111 + ', Script: X/Y/Z plot, X Type: Prompt S/R, X Values: "0.1, 0.2"'
    assert facts(parameters=text).grid and not facts(parameters=A1111).grid


def test_what_we_write_we_read() -> None:
    text = parameters_text(
        "a dog", "bad", 20, "dpmpp_2m_karras", 4.0, 7, 128, 96, "tiny", "ab" * 5, "pstr-000004",
        "cd" * 32, Decimal("0.60"), 1,
    )  # fmt: skip
    own = json.dumps({"key": "k", "tensor_hash": "cd" * 32, "strength": "0.6"})
    found = facts_from_texts({"parameters": text, "lora_analysers": own})
    assert found is not None and found.source == "lora-analysers"
    assert found.loras == (LoraUse("pstr-000004", Decimal("0.6"), "cd" * 32),)
    assert (found.prompt, found.negative, found.seed) == ("a dog", "bad", 7)
    assert found.settings["sampler"] == "DPM++ 2M" and found.settings["clip_skip"] == "2"


# --- ComfyUI --------------------------------------------------------------------------------------


def graph(**changes: Any) -> dict[str, Any]:
    nodes: dict[str, Any] = {
        "4": {
            "class_type": "CheckpointLoaderSimple",
            "inputs": {"ckpt_name": "sub\\dream.safetensors"},
        },
        "10": {
            "class_type": "LoraLoader",
            "inputs": {
                "lora_name": "styles\\my-000004.safetensors",
                "strength_model": 0.8,
                "strength_clip": 0.8,
                "model": ["4", 0],
                "clip": ["4", 1],
            },
        },
        "5": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": 512, "height": 768, "batch_size": 1},
        },
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a castle", "clip": ["10", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "ugly", "clip": ["10", 1]}},
        "3": {
            "class_type": "KSampler",
            "inputs": {
                "seed": 5,
                "steps": 20,
                "cfg": 8,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1,
                "model": ["10", 0],
                "positive": ["6", 0],
                "negative": ["7", 0],
                "latent_image": ["5", 0],
            },
        },
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "C", "images": ["8", 0]}},
    }
    for key, value in changes.items():
        nodes[key.removeprefix("n")] = value
    return nodes


def comfy(nodes: dict[str, Any]) -> Facts:
    return facts(prompt=json.dumps(nodes))


def test_comfyui(tmp_path: Path) -> None:
    assert through_png(tmp_path, "prompt", json.dumps(graph())) == Facts(
        source="ComfyUI",
        prompt="a castle",
        negative="ugly",
        seed=5,
        loras=(LoraUse("my-000004", Decimal("0.8")),),
        settings={
            "size": "512x768",
            "steps": "20",
            "sampler": "euler",
            "schedule": "normal",
            "guidance": "8",
            "denoising": "1",
            "model": "dream",
        },
    )


def test_comfyui_in_webp(tmp_path: Path) -> None:
    tag = Image.Exif()
    tag[0x0110] = "prompt:" + json.dumps(graph())
    Image.fromarray(PIXELS).save(tmp_path / "a.webp", exif=tag)
    assert facts_from_texts(read_text(tmp_path / "a.webp")) == comfy(graph())


def test_comfyui_model_only_and_a_chain_of_two() -> None:
    nodes = graph(
        n11={
            "class_type": "LoraLoaderModelOnly",
            "inputs": {
                "lora_name": "detail.safetensors",
                "strength_model": 0.25,
                "model": ["10", 0],
            },
        },
        n12={"class_type": "ModelSamplingSD3", "inputs": {"shift": 3, "model": ["11", 0]}},
    )
    nodes["3"]["inputs"]["model"] = ["12", 0]
    assert comfy(nodes).loras == (
        LoraUse("detail", Decimal("0.25")),
        LoraUse("my-000004", Decimal("0.8")),
    )


def test_comfyui_rgthree_power_loader_ignores_rows_switched_off() -> None:
    nodes = graph(
        n10={
            "class_type": "Power Lora Loader (rgthree)",
            "inputs": {
                "PowerLoraLoaderHeaderWidget": {"type": "PowerLoraLoaderHeaderWidget"},
                "lora_1": {"on": True, "lora": "a\\b.safetensors", "strength": 0.75},
                "lora_2": {"on": False, "lora": "off.safetensors", "strength": 1},
                "lora_3": {"on": True, "lora": "c.safetensors", "strength": 1, "strengthTwo": 0.5},
                "model": ["4", 0],
                "clip": ["4", 1],
            },
        }
    )
    assert comfy(nodes).loras == (
        LoraUse("b", Decimal("0.75")),
        LoraUse("c", Decimal(1), "", Decimal("0.5")),
    )


def test_comfyui_links_where_values_are_expected() -> None:
    nodes = graph(
        n20={"class_type": "PrimitiveFloat", "inputs": {"value": 0.55}},
        n21={"class_type": "Seed (rgthree)", "inputs": {"seed": 99}},
        n22={"class_type": "PrimitiveString", "inputs": {"value": "a linked castle"}},
        n23={"class_type": "Reroute", "inputs": {"": ["20", 0]}},
    )
    nodes["10"]["inputs"]["strength_model"] = ["23", 0]
    nodes["10"]["inputs"]["strength_clip"] = ["23", 0]
    nodes["3"]["inputs"]["seed"] = ["21", 0]
    nodes["6"]["inputs"]["text"] = ["22", 0]
    found = comfy(nodes)
    assert (found.seed, found.prompt) == (99, "a linked castle")
    assert found.loras == (LoraUse("my-000004", Decimal("0.55")),)


def test_comfyui_flux_with_a_guider() -> None:
    nodes = {
        "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "flux1-dev.safetensors"}},
        "2": {
            "class_type": "LoraLoaderModelOnly",
            "inputs": {"lora_name": "f.safetensors", "strength_model": 0.9, "model": ["1", 0]},
        },
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["9", 0]}},
        "4": {"class_type": "FluxGuidance", "inputs": {"guidance": 3.5, "conditioning": ["3", 0]}},
        "5": {"class_type": "BasicGuider", "inputs": {"model": ["2", 0], "conditioning": ["4", 0]}},
        "6": {"class_type": "RandomNoise", "inputs": {"noise_seed": 12345678901234567890}},
        "7": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
        "8": {
            "class_type": "BasicScheduler",
            "inputs": {"scheduler": "simple", "steps": 20, "denoise": 1, "model": ["2", 0]},
        },
        "10": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 1024, "height": 1024}},
        "11": {
            "class_type": "SamplerCustomAdvanced",
            "inputs": {
                "noise": ["6", 0],
                "guider": ["5", 0],
                "sampler": ["7", 0],
                "sigmas": ["8", 0],
                "latent_image": ["10", 0],
            },
        },
        "12": {"class_type": "VAEDecode", "inputs": {"samples": ["11", 0]}},
        "13": {"class_type": "SaveImage", "inputs": {"images": ["12", 0]}},
    }
    found = comfy(nodes)
    assert found.loras == (LoraUse("f", Decimal("0.9")),)
    assert (found.prompt, found.seed) == ("a fox", 12345678901234567890)
    assert found.settings == {
        "size": "1024x1024",
        "steps": "20",
        "sampler": "euler",
        "schedule": "simple",
        "distilled_guidance": "3.5",
        "denoising": "1",
        "model": "flux1-dev",
    }


def test_comfyui_second_pass() -> None:
    nodes = graph(
        n30={
            "class_type": "LatentUpscale",
            "inputs": {"samples": ["3", 0], "width": 1024, "height": 1536},
        },
    )
    nodes["31"] = json.loads(json.dumps(nodes["3"]))
    nodes["31"]["inputs"] |= {"seed": 77, "latent_image": ["30", 0], "denoise": 0.5}
    nodes["8"]["inputs"]["samples"] = ["31", 0]
    found = comfy(nodes)
    assert found.seed == 5 and found.settings["passes"] == "seed 77, 20 steps, denoising 0.5"
    assert found.settings["size"] == "512x768" and found.settings["denoising"] == "1"


def test_comfyui_base_and_refiner() -> None:
    """The refiner samples last and has no LoRA; the base model's counts."""
    nodes = graph(
        n50={"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "refiner.ckpt"}}
    )
    nodes["51"] = json.loads(json.dumps(nodes["3"]))
    nodes["51"]["class_type"] = "KSamplerAdvanced"
    nodes["51"]["inputs"] |= {"model": ["50", 0], "latent_image": ["3", 0], "noise_seed": 5}
    nodes["8"]["inputs"]["samples"] = ["51", 0]
    found = comfy(nodes)
    assert [use.name for use in found.loras] == ["my-000004"] and found.settings["model"] == "dream"


def test_comfyui_prompts_behind_a_controlnet_and_in_the_loader() -> None:
    nodes = graph(
        n60={
            "class_type": "ControlNetApplyAdvanced",
            "inputs": {"positive": ["6", 0], "negative": ["7", 0], "strength": 1},
        }
    )
    nodes["3"]["inputs"] |= {"positive": ["60", 0], "negative": ["60", 1]}
    assert (comfy(nodes).prompt, comfy(nodes).negative) == ("a castle", "ugly")
    loader = {
        "ckpt_name": "dream.safetensors",
        "lora_name": "my.safetensors",
        "lora_model_strength": 0.6,
        "lora_clip_strength": 0.6,
        "positive": "a fox",
        "negative": "bad",
    }
    nodes["61"] = {"class_type": "Efficient Loader", "inputs": loader}
    nodes["3"]["inputs"] |= {"positive": ["61", 1], "negative": ["61", 2], "model": ["61", 0]}
    found = comfy(nodes)
    assert (found.prompt, found.negative) == ("a fox", "bad")
    assert found.loras == (LoraUse("my", Decimal("0.6")),)
    nodes["62"] = {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["61", 1]}}
    nodes["3"]["inputs"]["negative"] = ["62", 0]
    assert comfy(nodes).negative == ""
    loader["lora_name"] = "None"
    assert comfy(nodes).loras == ()


def test_comfyui_ignores_loras_that_the_saved_picture_does_not_use() -> None:
    nodes = graph(
        n40={
            "class_type": "LoraLoader",
            "inputs": {"lora_name": "idle.safetensors", "strength_model": 1, "model": ["4", 0]},
        }
    )
    assert [use.name for use in comfy(nodes).loras] == ["my-000004"]
    nodes["3"]["inputs"]["model"] = ["4", 0]
    assert "on the text encoder alone" in comfy(nodes).unknown
    nodes["6"]["inputs"]["clip"] = nodes["7"]["inputs"]["clip"] = ["4", 1]
    assert comfy(nodes).loras == () and comfy(nodes).unknown == ""


def test_comfyui_loops_and_rubbish_end() -> None:
    nodes = graph()
    nodes["10"]["inputs"]["model"] = ["10", 0]
    nodes["6"]["inputs"]["text"] = ["6", 0]
    nodes["5"]["inputs"]["width"] = ["5", 0]
    found = comfy(nodes)
    assert [use.name for use in found.loras] == ["my-000004"] and found.prompt == ""
    # A graph without a sampler gives way to the A1111 text beside it.
    assert facts(prompt='{"1": {"inputs": {}}}', parameters=A1111).source == "A1111"
    assert facts_from_texts({"prompt": '{"1": [], "2": {"class_type": 3, "inputs": {}}}'}) is None


# --- SwarmUI --------------------------------------------------------------------------------------


def swarm(**changes: Any) -> str:
    image: dict[str, Any] = {
        "prompt": "a castle",
        "negativeprompt": "",
        "model": "OfficialStableDiffusion/sd_xl_base_1.0",
        "seed": 1,
        "steps": 20,
        "cfgscale": 7,
        "width": 1024,
        "height": 1024,
        "loras": ["my_lora"],
        "loraweights": ["0.8"],
        "swarm_version": "0.9.7.0",
        **changes,
    }
    models = [{"name": "my_lora.safetensors", "param": "loras", "hash": "0x" + "AB" * 32}]
    return json.dumps({"sui_image_params": image, "sui_extra_data": {}, "sui_models": models})


def test_swarmui(tmp_path: Path) -> None:
    found = through_png(tmp_path, "parameters", swarm())
    assert found.source == "SwarmUI" and found.prompt == "a castle" and found.seed == 1
    assert found.loras == (LoraUse("my_lora", Decimal("0.8"), "ab" * 32),)
    assert found.settings == {
        "size": "1024x1024",
        "steps": "20",
        "guidance": "7",
        "model": "sd_xl_base_1.0",
    }
    assert facts(UserComment=swarm()) == found
    assert facts(parameters=swarm(loras="my_lora", loraweights="0.8")) == found
    assert facts(parameters=swarm(loras="my_lora", loraweights=0.8)) == found
    old = facts(parameters=swarm(comfyuisampler="euler", comfyuischeduler="karras")).settings
    assert (old["sampler"], old["schedule"]) == ("euler", "karras")
    two = facts(parameters=swarm(loras="a/my_lora.safetensors, other", loraweights="0.8,1.0"))
    assert [(use.name, use.strength) for use in two.loras] == [
        ("my_lora", Decimal("0.8")),
        ("other", Decimal(1)),
    ]


# --- InvokeAI -------------------------------------------------------------------------------------


def test_invokeai(tmp_path: Path) -> None:
    data: dict[str, Any] = {
        "generation_mode": "sdxl_txt2img",
        "positive_prompt": "a castle",
        "negative_prompt": "ugly",
        "width": 1024,
        "height": 1024,
        "seed": 42,
        "steps": 30,
        "cfg_scale": 7,
        "scheduler": "euler",
        "model": {"key": "k", "hash": "blake3:00", "name": "sdxl", "base": "sdxl", "type": "main"},
        "loras": [
            {
                "model": {
                    "key": "k",
                    "hash": "h",
                    "name": "my_lora",
                    "base": "sdxl",
                    "type": "lora",
                },
                "weight": 0.75,
            }
        ],
    }
    found = through_png(tmp_path, "invokeai_metadata", json.dumps(data))
    assert found.source == "InvokeAI" and (found.prompt, found.negative) == ("a castle", "ugly")
    assert found.seed == 42 and found.loras == (LoraUse("my_lora", Decimal("0.75")),)
    assert found.settings == {
        "size": "1024x1024",
        "steps": "30",
        "sampler": "euler",
        "guidance": "7",
        "model": "sdxl",
        "mode": "sdxl_txt2img",
    }
    data["loras"] = [{"lora": {"model_name": "my_lora", "base_model": "sdxl"}, "weight": 0.75}]
    data["model"] = {"model_name": "sdxl", "base_model": "sdxl"}
    assert facts_from_texts({"invokeai_metadata": json.dumps(data)}) == found


def test_invokeai_graph_alone() -> None:
    nodes = {
        "a": {"type": "main_model_loader", "model": {"model_name": "dream"}},
        "b": {"type": "lora_loader", "lora": {"model_name": "my_lora"}, "weight": 0.5},
        "c": {"type": "compel", "prompt": "a castle"},
        "d": {"type": "compel", "prompt": "ugly"},
        "e": {"type": "noise", "seed": 3, "width": 512, "height": 512},
        "f": {"type": "denoise_latents", "steps": 20, "cfg_scale": 7.5, "scheduler": "euler"},
    }
    edges = [
        {"source": {"node_id": source, "field": "conditioning"},
         "destination": {"node_id": "f", "field": field}}
        for source, field in (("c", "positive_conditioning"), ("d", "negative_conditioning"))
    ]  # fmt: skip
    found = facts_from_texts({"invokeai_graph": json.dumps({"nodes": nodes, "edges": edges})})
    assert found is not None and found.loras == (LoraUse("my_lora", Decimal("0.5")),)
    assert (found.prompt, found.negative, found.seed) == ("a castle", "ugly", 3)
    assert found.settings["model"] == "dream" and found.settings["size"] == "512x512"


# --- dgenerate and kohya gen_img ------------------------------------------------------------------


def test_dgenerate(tmp_path: Path) -> None:
    config = (
        "#! /usr/bin/env dgenerate --file\n#! dgenerate 4.5.1\n\n"
        "stabilityai/sdxl --model-type sdxl \\\n--dtype float16 \\\n"
        '--loras "sub/my_lora.safetensors;scale=0.8" \\\n'
        '--prompts "a castle, at dusk; ugly" --seeds 7 --inference-steps 30 \\\n'
        "--guidance-scales 5.0 --output-size 512x768\n"
    )
    found = through_png(tmp_path, "DgenerateConfig", config)
    assert found.source == "dgenerate" and found.seed == 7
    assert (found.prompt, found.negative) == ("a castle, at dusk", "ugly")
    assert found.loras == (LoraUse("my_lora", Decimal("0.8")),)
    assert found.settings["model"] == "sdxl" and found.settings["size"] == "512x768"
    assert found.settings["steps"] == "30" and found.settings["guidance"] == "5"
    assert facts_from_texts({"UserComment": config}) == found


def test_kohya_gen_img() -> None:
    found = facts(
        prompt="a dog", negative_prompt="bad", seed="4", sampler="ddim", steps="20", scale="7.5"
    )
    assert found.source == "kohya gen_img" and not found.lists_loras
    assert (found.prompt, found.negative, found.seed) == ("a dog", "bad", 4)
    assert found.settings == {"steps": "20", "sampler": "ddim", "guidance": "7.5"}


# --- hostile values -------------------------------------------------------------------------------


def test_numbers() -> None:
    assert decimal(0.7500000000000001) == Decimal("0.75")
    assert decimal("0.80") == Decimal("0.8") and decimal(" -1 ") == -1 and decimal(0) == 0
    for value in (
        True,
        None,
        [],
        {},
        "NaN",
        "inf",
        "1e999",
        1e300,
        "",
        "0,8",
        "9" * 100,
        float("nan"),
    ):
        assert decimal(value) is None, value
    assert whole("12345678901234567890") == 12345678901234567890 and whole(3.0) == 3
    for bad in (True, 2**64, "9" * 30, 1.5, None, [], "1 2"):
        assert whole(bad) is None, bad


def test_deep_long_and_broken_json() -> None:
    for text in ("[" * 100_000, '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000, "{", "", "nul"):
        assert load_json(text) is None
    assert load_json('{"a": ' + "9" * 100_000 + ', "b": NaN}') == {"a": None, "b": None}
    assert load_json('"' + "x" * (5 << 20) + '"') is None


@pytest.mark.parametrize(
    "text",
    [
        "a: " * 300_000,
        "<lora:" * 300_000,
        "<lora:x" + ":" * 500_000,
        " " * 2_000_000,
        "a" * 2_000_000,
        'a: "' * 300_000,
        'a: "\\' * 300_000,
        "\n" * 2_000_000,
        "a, " * 500_000 + ": ",
        "--inference-steps '" * 100_000,
        "--inference-steps " + "\\\n" * 500_000,
        '{"sui_image_params": ' * 50_000,
    ],
    ids=range(12),
)
def test_no_text_takes_long(text: str) -> None:
    start = time.process_time()
    for key in ("parameters", "UserComment", "DgenerateConfig", "prompt", "invokeai_metadata"):
        facts_from_texts({key: text, "sampler": "x"})
    assert time.process_time() - start < 5
