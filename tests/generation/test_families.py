"""Every family from each of its sources, with no network: tiny models with random weights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("diffusers")
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

import sample_data  # noqa: E402
from generation.cells import Case, Checkpoint  # noqa: E402
from generation.errors import UserError  # noqa: E402
from generation.renderers.diffusers.engine import Engine, scheduler_record  # noqa: E402
from generation.renderers.diffusers.models import (  # noqa: E402
    CONFIGS,
    FAMILIES,
    PARTS,
    BaseModel,
    find_model,
    hub_problem,
    write_clip_tokenizer,
)

CASES = [Case("a cat on green grass", 3), Case("a dog in yellow sand", 4)]  # equally long
Tiny = Callable[[str], Path]
Single = Callable[[str], tuple[Path, Path]]


def open_engine(model: BaseModel, **options: object) -> Engine:
    few = {"steps": 2, "guidance_scale": 4.0, "width": 64, "height": 64, "batch_size": 2}
    return Engine(model, **{**few, **options})  # type: ignore[arg-type]


def hub_cache(folder: Path, root: Path, name: str) -> Path:
    """The folder as the hub's client would have left it in its cache."""
    repository = root / ("models--" + name.replace("/", "--"))
    snapshot = repository / "snapshots" / ("0" * 40)
    shutil.copytree(folder, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    return root


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_family_renders_and_takes_a_lora(family: str, tiny_model: Tiny, tmp_path: Path) -> None:
    """Random LoRAs on the denoiser and on each text encoder change the picture, and go again."""
    model = find_model(str(tiny_model(family)))
    assert model.family == family and model.width == model.height
    assert model.width in {64, 1024, 1328}
    engine = open_engine(model)
    base = engine.render(CASES)
    assert all(picture is not None and np.ptp(picture) > 20 for picture in base)
    assert not np.array_equal(base[0], base[1])
    for part in engine._parts:
        lora = random_lora(engine, part, tmp_path / f"{part}.safetensors")
        engine.apply(lora, Decimal(1))
        assert engine.modules_merged
        changed = engine.render(CASES)
        assert not np.array_equal(base, changed), part
        engine.apply(lora, Decimal(0))
        assert np.array_equal(base, engine.render(CASES)), part
        if part.startswith("te"):  # each text encoder has a strength of its own
            assert part in model.traits.encoders
            without = open_engine(model, part_strengths={part: Decimal(0)})
            without.apply(lora, Decimal(1))
            assert without.modules_merged == 0
    if FAMILIES[family].negative:
        other = engine.render([Case(CASES[0].prompt, CASES[0].seed, "blurry")])
        assert not np.array_equal(base[0], other[0])


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_single_checkpoint_renders_the_same_pictures(
    family: str, tiny_model: Tiny, tiny_checkpoint: Single
) -> None:
    file, config = tiny_checkpoint(family)
    theirs = open_engine(find_model(str(tiny_model(family)))).render(CASES)
    single = find_model(str(file), config=config)
    assert single.family == family
    assert np.array_equal(theirs, open_engine(single).render(CASES))


def test_a_hub_id_is_found_in_the_cache(tiny_model: Tiny, tmp_path: Path) -> None:
    """Of every family; in a process of its own, as the client reads the cache's place when it is
    imported."""
    for family in FAMILIES:
        hub_cache(tiny_model(family), tmp_path, f"somebody/{family}")
    code = (
        "from generation.renderers.diffusers.models import find_model\n"
        "import sys\n"
        "for family in sys.argv[1:]:\n"
        "    m = find_model(f'somebody/{family}')\n"
        "    print(family, m.family, m.digest, m.path)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *FAMILIES], capture_output=True, text=True,
        env={**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in found] == list(FAMILIES)
    for family, told, digest, path in found:
        assert told == family and "snapshots" in path
        assert digest == find_model(str(tiny_model(family))).digest
    last = found[-1]
    theirs = open_engine(find_model(str(tiny_model(last[0])))).render(CASES[:1])
    assert np.array_equal(theirs, open_engine(find_model(last[3])).render(CASES[:1]))


def random_lora(engine: Engine, part: str, path: Path) -> Checkpoint:
    """A rank-2 LoRA on some attention matrices of one part, in diffusers' layout."""
    wanted = (
        "attn1.to_q", "attn2.to_k", "attn.to_q", "attention.to_q", "self_attn.v_proj",
        "SelfAttention.v",
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, module in engine._parts[part].named_modules():
        if name.endswith(wanted):
            out, inner = module.weight.shape
            stem = f"{PARTS[part]}.{name}"
            tensors[f"{stem}.lora_A.weight"] = torch.randn(2, inner, generator=generator)
            tensors[f"{stem}.lora_B.weight"] = torch.randn(out, 2, generator=generator)
    assert tensors
    save_file(tensors, path)
    return Checkpoint(path, path.stem, tensor_hash=path.stem)


def test_prediction_type_and_scheduler_are_the_models_own(
    tiny_model: Tiny, tiny_checkpoint: Single
) -> None:
    v = find_model(str(tiny_model("sd2")))
    assert scheduler_record(v, "euler_a")["prediction_type"] == "v_prediction"
    assert scheduler_record(v, "")["class"] == "DDIMScheduler"
    epsilon = find_model(str(tiny_model("sd2")), prediction_type="epsilon")
    assert scheduler_record(epsilon, "euler_a")["prediction_type"] == "epsilon"
    one, two = (open_engine(m, sampler="euler").render(CASES[:1]) for m in (v, epsilon))
    assert not np.array_equal(one, two)
    file, _ = tiny_checkpoint("sd2")
    with pytest.raises(UserError, match="prediction_type v_prediction"):
        find_model(str(file))
    assert find_model(str(file), prediction_type="v_prediction").width == 768
    assert find_model(str(file), prediction_type="epsilon").width == 512


def test_rescaled_guidance_is_the_pipelines(
    tiny_model: Tiny, tiny_checkpoint: Single, tmp_path: Path
) -> None:
    """On a v-prediction SDXL with zero terminal SNR, as NoobAI's checkpoints mark theirs."""
    import diffusers

    from generation.cells import Cell, RenderSettings

    file, config = tiny_checkpoint("sdxl")
    marked = tmp_path / "noob.safetensors"
    save_file({**load_file(file), "v_pred": torch.zeros(1), "ztsnr": torch.zeros(1)}, marked)
    model = find_model(str(marked), config=config)
    assert model.scheduler["prediction_type"] == "v_prediction"
    assert model.scheduler["rescale_betas_zero_snr"] is True
    plain, rescaled = (
        open_engine(model, sampler="euler", guidance_rescale=phi, batch_size=1).render(CASES[:1])[0]
        for phi in (0.0, 0.7)
    )
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(
        tiny_model("sdxl"), local_files_only=True, add_watermarker=False
    )
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(dict(model.scheduler))
    theirs = pipe(
        prompt=CASES[0].prompt, negative_prompt="", guidance_scale=4.0, guidance_rescale=0.7,
        num_inference_steps=2, width=64, height=64,
        generator=[torch.Generator("cpu").manual_seed(CASES[0].seed)],
    ).images[0]  # fmt: skip
    assert plain is not None and rescaled is not None
    assert np.abs(rescaled.astype(int) - np.asarray(theirs).astype(int)).max() <= 1
    assert np.abs(rescaled.astype(int) - plain.astype(int)).max() > 2
    settings = RenderSettings("m", "0", 64, 64, 2, 4.0, "euler")
    kept = settings.identity(Cell(CASES[0]))["settings"]
    assert "guidance_rescale" not in kept  # so that pictures of older runs stay found
    other = RenderSettings("m", "0", 64, 64, 2, 4.0, "euler", guidance_rescale=0.7)
    assert other.identity(Cell(CASES[0]))["settings"]["guidance_rescale"] == 0.7


def test_what_checkpoints_of_sdxls_descendants_say_of_themselves(
    tiny_checkpoint: Single, tmp_path: Path
) -> None:
    """By keys, by metadata, by the option, which overrules both; EDM's are refused."""
    file, config = tiny_checkpoint("sdxl")
    weights = load_file(file)

    def scheduler(
        keys: tuple[str, ...] = (), option: str | None = None, **metadata: str
    ) -> tuple[str, bool]:
        told = {name.replace("__", "."): value for name, value in metadata.items()}
        path = tmp_path / "x.safetensors"
        path.unlink(missing_ok=True)
        save_file({**weights, **{key: torch.zeros(1) for key in keys}}, path, metadata=told)
        found = find_model(str(path), config=config, prediction_type=option).scheduler
        zero = bool(found.get("rescale_betas_zero_snr"))
        assert not zero or found["timestep_spacing"] == "trailing"
        return str(found.get("prediction_type")), zero

    noise, velocity, zero = ("epsilon", False), ("v_prediction", False), ("v_prediction", True)
    assert scheduler() == noise
    assert scheduler(("v_pred",)) == velocity and scheduler(("v_pred", "ztsnr")) == zero
    assert scheduler(("ztsnr",)) == noise  # a schedule without a signal at its end wants velocity
    assert scheduler(modelspec__prediction_type="v") == velocity
    assert scheduler(("ztsnr",), modelspec__prediction_type="V-Pred") == zero
    assert scheduler(modelspec__prediction_type="epsilon", ss_v_parameterization="True") == noise
    assert scheduler(ss_v_parameterization="true") == velocity
    assert scheduler(option="v_prediction") == velocity
    assert scheduler(option="v_prediction_zsnr") == zero
    assert scheduler(("v_pred", "ztsnr"), "epsilon") == noise
    assert scheduler(("v_pred",), "v_prediction_zsnr") == zero
    for keys, told, said in (
        (("edm_mean", "edm_std"), {}, r"EDM's noise levels \(edm_mean: Playground"),
        (("edm_vpred.sigma_max",), {}, "EDM's noise levels"),
        ((), {"modelspec__prediction_type": "sample"}, "says that it predicts 'sample'"),
        ((), {"modelspec__prediction_type": "flow"}, "prediction_type: .*'flow', which is not"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            scheduler(keys, **told)


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_flow_matching_models_keep_their_scheduler(family: str, tiny_model: Tiny) -> None:
    model = find_model(str(tiny_model(family)))
    assert scheduler_record(model, "euler")["class"] == "FlowMatchEulerDiscreteScheduler"
    with pytest.raises(UserError, match=r"DPM\+\+ 2M does not fit .* flow matching"):
        scheduler_record(model, "dpmpp_2m")
    with pytest.raises(UserError, match="prediction_type"):
        find_model(str(tiny_model(family)), prediction_type="epsilon")


def test_flux_takes_what_it_has_and_schnell_four_steps_without_guidance(
    tiny_model: Tiny, tiny_checkpoint: Single, tmp_path: Path
) -> None:
    """FLUX.1 schnell is FLUX.1 dev without the guidance embedding, in both layouts."""
    from rendering import planned

    from generation.prompts import PromptLine

    dev = find_model(str(tiny_model("flux")))
    folder = Path(shutil.copytree(tiny_model("flux"), tmp_path / "schnell"))
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "guidance_embeds": False}))
    weights = next((folder / "transformer").glob("*.safetensors"))
    kept = {k: v for k, v in load_file(weights).items() if "guidance_embedder" not in k}
    assert len(kept) < len(load_file(weights))
    save_file(kept, weights)
    schnell = find_model(str(folder))
    engine = open_engine(schnell, steps=4, guidance_scale=0.0)
    pictures = engine.render(CASES)
    assert all(picture is not None and np.ptp(picture) > 20 for picture in pictures)
    save_file(kept, tmp_path / "schnell.safetensors")
    single = find_model(str(tmp_path / "schnell.safetensors"), config=folder)
    assert np.array_equal(pictures, open_engine(single, steps=4, guidance_scale=0.0).render(CASES))
    assert find_model(str(tiny_checkpoint("flux")[0]), config=folder).traits == dev.traits
    lora = random_lora(engine, "transformer", tmp_path / "lora.safetensors").path
    for model, steps, guidance in (
        (str(folder), 4, 0.0),
        (str(tmp_path / "schnell.safetensors"), 4, 0.0),
        (str(tiny_model("flux")), 25, 3.5),
    ):
        plan = planned(
            "strength", loras=[lora], model=model, out=tmp_path, strengths=[Decimal(1)],
            prompts=[PromptLine("a cat")], width=64, height=64,
            model_config=folder if model.endswith(".safetensors") else None,
        )  # fmt: skip
        assert (plan.settings.steps, plan.settings.guidance_scale) == (steps, guidance)
    for option, sentence in (
        ("negative", "negative: FLUX.1"),
        ("clip_skip", "clip_skip: FLUX"),
    ):
        with pytest.raises(UserError, match=sentence):
            planned(
                "strength", loras=[lora], model=str(folder), out=tmp_path, strengths=[Decimal(1)],
                prompts=[PromptLine("a cat")], **{option: "blur" if option == "negative" else 1},
            )  # fmt: skip


def test_the_shipped_configurations_are_the_published_models() -> None:
    """Parameter counts as published; the tokenizer's known numbers of CLIP's first tokens."""
    import diffusers
    import transformers

    counts = {
        "sd1": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
        "sd2": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
        "sdxl": {"unet": 2_567_463_684, "vae": 83_653_863, "text_encoder": 123_060_480,
                 "text_encoder_2": 694_659_840},
    }  # fmt: skip
    for family, parts in counts.items():
        index = json.loads((CONFIGS / family / "model_index.json").read_text())
        for part, count in parts.items():
            kind = getattr(diffusers if index[part][0] == "diffusers" else transformers,
                           index[part][1])  # fmt: skip
            with torch.device("meta"):
                if index[part][0] == "diffusers":
                    module = kind.from_config(kind.load_config(CONFIGS / family, subfolder=part))
                else:
                    config = kind.config_class.from_pretrained(CONFIGS / family, subfolder=part)
                    module = kind(config)
            assert sum(p.numel() for p in module.parameters()) == count, (family, part)


def test_the_shipped_tokenizer_is_clips(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    for family, folder, pad in (("sd1", "tokenizer", 49407), ("sdxl", "tokenizer_2", 0)):
        target = Path(shutil.copytree(CONFIGS / family / folder, tmp_path / folder))
        write_clip_tokenizer(target)
        tokenizer = CLIPTokenizer.from_pretrained(target)
        assert len(tokenizer) == 49408 and tokenizer.pad_token_id == pad
        # From the documentation of OpenAI's CLIP and of transformers' CLIPTokenizer.
        assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]


def test_models_that_cannot_be_used_are_refused_in_one_sentence(
    tiny_model: Tiny, tiny_checkpoint: Single, tmp_path: Path
) -> None:
    file, config = tiny_checkpoint("sd1")
    with pytest.raises(UserError, match="is a LoRA, not a base model"):
        find_model(str(sample_data.PATH / "lora" / "pstr.safetensors"))
    with pytest.raises(UserError, match="model_config: .* is not Stable Diffusion 1.x"):
        find_model(str(file), config=tiny_model("sdxl"))
    with pytest.raises(UserError, match="model_config is for single checkpoints"):
        find_model(str(tiny_model("sd1")), config=config)
    flux, _ = tiny_checkpoint("flux")
    with pytest.raises(UserError, match="model_config FOLDER"):
        find_model(str(flux))
    weights = load_file(file)
    inpaint = dict(weights)
    key = "model.diffusion_model.input_blocks.0.0.weight"
    inpaint[key] = torch.zeros(32, 9, 3, 3)
    save_file(inpaint, tmp_path / "inpaint.safetensors")
    with pytest.raises(UserError, match="9 input channels"):
        find_model(str(tmp_path / "inpaint.safetensors"))
    no_text = {k: v for k, v in weights.items() if not k.startswith("cond_stage")}
    save_file(no_text, tmp_path / "no_text.safetensors")
    with pytest.raises(UserError, match="no text encoder"):
        find_model(str(tmp_path / "no_text.safetensors"))
    no_vae = {k: v for k, v in weights.items() if not k.startswith("first_stage")}
    save_file(no_vae, tmp_path / "no_vae.safetensors")
    with pytest.raises(UserError, match="model_config FOLDER"):
        open_engine(find_model(str(tmp_path / "no_vae.safetensors"), config=config))
    (tmp_path / "page.safetensors").write_text("<!doctype html><html></html>")
    with pytest.raises(UserError, match="web page"):
        find_model(str(tmp_path / "page.safetensors"))


def test_hub_problems_are_told_apart() -> None:
    from huggingface_hub import errors

    offline = errors.LocalEntryNotFoundError("not there")
    assert "hub cannot be reached" in hub_problem(offline)
    for kind, words in (
        (errors.GatedRepoError, "gated"),
        (errors.RepositoryNotFoundError, "private"),
    ):
        error = kind.__new__(kind)  # its constructor wants an HTTP response
        outer = OSError("wrapped")
        outer.__cause__ = error
        assert words in hub_problem(outer)


@pytest.mark.parametrize("family", ["sd1", "sdxl", "flux"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_renders_close_to_full(family: str, dtype: str, tiny_model: Tiny) -> None:
    model = find_model(str(tiny_model(family)))
    full, half = open_engine(model), open_engine(model, dtype=dtype)
    assert (half.pipe.vae.dtype == torch.float32) == (family == "sdxl" and dtype == "float16")
    pictures = full.render(CASES[:1])[0], half.render(CASES[:1])[0]
    assert pictures[0] is not None and pictures[1] is not None
    difference = np.abs(pictures[0].astype(float) - pictures[1].astype(float)).mean()
    assert 0 < difference < (1.0 if dtype == "float16" else 8.0)
