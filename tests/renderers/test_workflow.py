"""Users' workflows: what is found in them, how a control differs, what is refused."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from generation.cells import Case, Cell, Checkpoint
from generation.errors import UserError
from generation.renderers.comfyui.graphs import built_in, comfy_sampler
from generation.renderers.comfyui.workflow import Workflow, analyse, read_workflow

CASE = Case("a cat", 7, "blur")
CELL = Cell(CASE, Checkpoint(Path("mine.safetensors"), "mine", tensor_hash="a"), Decimal("0.6"))


def plain(family: str = "sd1") -> dict[str, Any]:
    return built_in(
        family,
        "m.safetensors",
        width=512,
        height=768,
        steps=20,
        guidance=7.0,
        sampler="dpmpp_2m_karras",
        fixed=[("fixed.safetensors", Decimal("0.5"))],
    )


def node(kind: str, title: str = "", **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs, **({"_meta": {"title": title}} if title else {})}


def painted(workflow: Workflow, cell: Cell = CELL) -> dict[str, Any]:
    return workflow.painted(cell, "mine.safetensors", {"clip": Decimal("0.5")})


def test_a_cell_is_written_into_the_graph_and_a_control_bypasses_the_lora() -> None:
    workflow = analyse(plain())
    graph = painted(workflow)
    loader = graph["lora"]["inputs"]
    assert (loader["lora_name"], loader["strength_model"], loader["strength_clip"]) == (
        "mine.safetensors",
        0.6,
        0.3,
    )
    assert graph["prompt"]["inputs"]["text"] == "a cat"
    assert graph["negative"]["inputs"]["text"] == "blur"
    assert graph["sampler"]["inputs"]["seed"] == 7
    control = painted(workflow, Cell(CASE))
    assert "lora" not in control and control["sampler"]["inputs"]["model"] == ["lora1", 0]
    assert control["prompt"]["inputs"]["clip"] == ["lora1", 1]
    assert control["lora1"]["inputs"]["strength_model"] == 0.5, "other LoRAs stay"
    assert workflow.graph["sampler"]["inputs"]["seed"] == 0, "the template stays as it is"


def test_flux_has_a_guidance_and_no_negative_prompt() -> None:
    workflow = analyse(plain("flux"))
    assert not workflow.negative and workflow.prompt
    graph = painted(workflow)
    assert graph["guidance"]["inputs"]["guidance"] == 7.0
    assert graph["sampler"]["inputs"]["cfg"] == 1.0


def test_a_graph_split_into_guider_noise_and_schedule() -> None:
    graph = plain("flux")
    graph["sampler"] = node(
        "SamplerCustomAdvanced",
        guider=["guider", 0],
        noise=["noise", 0],
        sigmas=["sigmas", 0],
        sampler=["euler", 0],
        latent_image=["latent", 0],
    )
    graph["guider"] = node("BasicGuider", model=["lora", 0], conditioning=["guidance", 0])
    graph["noise"] = node("RandomNoise", noise_seed=1)
    graph["sigmas"] = node("BasicScheduler", model=["lora", 0], steps=8, scheduler="simple")
    graph["euler"] = node("KSamplerSelect", sampler_name="euler")
    workflow = analyse(graph).with_values({"steps": 9, "width": 640, "sampler_name": "heun"})
    told = painted(workflow)
    assert (
        told["noise"]["inputs"]["noise_seed"] == 7 and told["prompt"]["inputs"]["text"] == "a cat"
    )
    assert told["sigmas"]["inputs"]["steps"] == 9 and told["latent"]["inputs"]["width"] == 640
    assert told["euler"]["inputs"]["sampler_name"] == "heun"
    control = painted(workflow, Cell(CASE))
    assert (
        control["guider"]["inputs"]["model"] == control["sigmas"]["inputs"]["model"] == ["lora1", 0]
    )


def test_both_passes_get_the_seed_and_other_outputs_are_left_out() -> None:
    graph = plain()
    again = dict(graph["sampler"]["inputs"], latent_image=["bigger", 0], seed=99, denoise=0.5)
    graph["bigger"] = node("LatentUpscaleBy", samples=["sampler", 0], scale_by=1.5)
    graph["second"] = node("KSampler", **again)
    graph["decoded"]["inputs"]["samples"] = ["second", 0]
    graph["other"] = node("SomethingElse", value=["model", 0])
    graph["picture"] = node("SaveImage", images=["decoded", 0], filename_prefix="x")
    told = painted(analyse(graph))
    assert told["sampler"]["inputs"]["seed"] == told["second"]["inputs"]["seed"] == 7
    assert "other" not in told and told["picture"]["class_type"] == "PreviewImage"


def power(*rows: tuple[str, bool]) -> dict[str, Any]:
    graph = plain()
    held = {
        f"lora_{n}": {"on": on, "lora": name, "strength": 1.0}
        for n, (name, on) in enumerate(rows, 1)
    }
    graph["lora"] = node(
        "Power Lora Loader (rgthree)", model=["lora1", 0], clip=["lora1", 1], **held
    )
    graph["lora1"]["class_type"] = "CLIPSetLastLayer"
    del graph["lora1"]
    graph["lora"]["inputs"] |= {"model": ["model", 0], "clip": ["model", 1]}
    return graph


def test_a_row_of_a_power_loader_is_switched_off() -> None:
    workflow = analyse(
        power(("style.safetensors", True), ("mine.safetensors", False)), lora="mine.safetensors"
    )
    told, control = painted(workflow), painted(workflow, Cell(CASE))
    assert told["lora"]["inputs"]["lora_2"] == {
        "on": True,
        "lora": "mine.safetensors",
        "strength": 0.6,
    }
    assert control["lora"]["inputs"]["lora_2"]["on"] is False
    assert control["lora"]["inputs"]["lora_1"]["on"] is True


def test_the_file_or_a_title_tells_which_lora_is_meant() -> None:
    graph = plain()
    del graph["lora"]["_meta"]
    with pytest.raises(
        UserError, match="it loads several LoRAs .* title the node that loads it @lora"
    ):
        analyse(graph)
    assert analyse(graph, lora="fixed.safetensors").lora.node == "lora1"
    graph["lora1"]["_meta"] = {"title": "my @lora here"}
    assert analyse(graph).lora.node == "lora1"


def test_set_gives_values_and_places() -> None:
    graph = plain()
    graph["prompt"] = node("MyEncoder", clip=["lora", 1], words="x", more="y")
    with pytest.raises(UserError, match="not known; write .* NODE.INPUT=@prompt"):
        analyse(graph)
    workflow = analyse(graph, ["prompt.words=@prompt", "sampler.steps=9", "prompt.more=a=b"])
    told = painted(workflow)
    assert told["prompt"]["inputs"]["words"] == "a cat"
    assert told["prompt"]["inputs"]["more"] == "a=b" and told["sampler"]["inputs"]["steps"] == 9
    graph["lora"] = node("MyLora", "Mine", model=["lora1", 0], clip=["lora1", 1], file="", how=1.0)
    workflow = analyse(graph, ["prompt.words=@prompt", "Mine.file=@lora", "Mine.how=@strength"])
    told = painted(workflow)
    assert told["lora"]["inputs"]["file"] == "mine.safetensors"
    assert told["lora"]["inputs"]["how"] == 0.6


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps=3", "cannot read"),
        ("sampler.step=3", "has no input 'step'; it has model"),
        ("nobody.x=3", "no node has that number or title"),
        ("sampler.seed=@sed", "there is no @sed"),
    ],
)
def test_a_set_that_means_nothing_is_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        analyse(plain(), [text])


def change(where: str, **inputs: Any) -> dict[str, Any]:
    graph = plain()
    graph[where]["inputs"] |= inputs
    return graph


def two_pictures() -> dict[str, Any]:
    return {**plain(), "also": node("PreviewImage", images=["decoded", 0])}


def two_prompts() -> dict[str, Any]:
    graph = plain()
    graph["both"] = node(
        "ConditioningCombine", conditioning_1=["prompt", 0], conditioning_2=["third", 0]
    )
    graph["third"] = node("CLIPTextEncode", clip=["lora", 1], text="")
    graph["sampler"]["inputs"]["positive"] = ["both", 0]
    return graph


def differing_texts() -> dict[str, Any]:
    graph = plain("sdxl")
    graph["prompt"] = node("CLIPTextEncodeSDXL", clip=["lora", 1], text_g="a", text_l="b")
    return graph


def without_lora() -> dict[str, Any]:
    graph = plain()
    for kind in ("lora", "lora1"):
        del graph[kind]
    for key in ("prompt", "negative"):
        graph[key]["inputs"]["clip"] = ["model", 1]
    graph["sampler"]["inputs"]["model"] = ["model", 0]
    return graph


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (two_pictures(), "several nodes that save a picture .* title .* @picture"),
        (two_prompts(), "several prompt texts"),
        (differing_texts(), "several texts that differ"),
        (without_lora(), "no node that loads a LoRA; add a LoraLoader"),
        (change("sampler", seed=["what", 0]), "the seed of sampler KSampler .*@seed"),
        (
            {"a": node("SaveImage", images=["b", 0]), "b": node("LoadImage", image="x")},
            "no sampler",
        ),
    ],
)
def test_what_is_missing_or_ambiguous_is_refused(graph: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        analyse(graph)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no", "no JSON"),
        ("[]", "no ComfyUI graph"),
        ("{}", "no ComfyUI graph"),
        (json.dumps({"nodes": [], "links": []}), r"Export \(API\)"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_files_that_are_no_api_graph_are_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "w.json"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        read_workflow(path)


def test_samplers_have_comfyuis_names() -> None:
    assert comfy_sampler("dpmpp_2m_sde_exponential") == ("dpmpp_2m_sde", "exponential")
    assert comfy_sampler("euler_a") == ("euler_ancestral", "normal")
    with pytest.raises(UserError, match="ComfyUI has no nothing"):
        comfy_sampler("nothing")
    with pytest.raises(UserError, match="no built-in graph for wan"):
        built_in("wan", "m", width=64, height=64, steps=1, guidance=1, sampler="euler")
