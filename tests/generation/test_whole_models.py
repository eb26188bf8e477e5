"""Both libraries fill missing weights with random numbers after a warning; here is refused."""

import json
import shutil
from pathlib import Path

import pytest

import sample_data
from generation.errors import UserError
from generation.renderers.diffusers.models import find_model, load_pipeline

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from generation.renderers.diffusers.engine import Engine  # noqa: E402

WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
HARMS = {
    "missing": lambda weights, key: weights.pop(key),
    "renamed": lambda weights, key: weights.update({f"other.{key}": weights.pop(key)}),
    "cut": lambda weights, key: weights.update({key: weights[key][:-1].clone()}),
}


def harm(path: Path, key: str, how: str, target: Path | None = None) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(path)
    HARMS[how](weights, key)
    save_file(weights, target or path, metadata={"format": "pt"})


def load(path: Path, config: Path | None = None):
    return load_pipeline(find_model(str(path), config=config), torch.float32)


@pytest.mark.parametrize("how", HARMS)
@pytest.mark.parametrize(
    "part, key",
    [
        ("unet", "up_blocks.0.upsamplers.0.conv.weight"),
        ("unet", "conv_in.bias"),
        ("vae", "decoder.up_blocks.3.resnets.0.conv_shortcut.weight"),
        ("vae", "post_quant_conv.weight"),
        ("text_encoder", "encoder.layers.0.self_attn.v_proj.weight"),
        ("text_encoder", "final_layer_norm.weight"),
    ],
)
def test_a_folder_that_lacks_a_weight(part, key, how, tmp_path):
    model = Path(shutil.copytree(sample_data.PATH / "model", tmp_path / "model"))
    harm(model / part / f"{WEIGHTS[part]}.safetensors", key, how)
    with pytest.raises(UserError) as caught:
        load(model)
    assert part in str(caught.value) and key in str(caught.value)


@pytest.mark.parametrize("how", HARMS)
@pytest.mark.parametrize(
    "key, named",
    [
        ("model.diffusion_model.input_blocks.1.0.in_layers.2.weight", "down_blocks.0.resnets.0"),
        ("model.diffusion_model.out.2.bias", "conv_out.bias"),
        ("first_stage_model.decoder.conv_in.weight", "decoder.conv_in.weight"),
        ("first_stage_model.quant_conv.bias", "quant_conv.bias"),
        ("cond_stage_model.transformer.text_model.final_layer_norm.weight", "final_layer_norm"),
    ],
)
def test_a_single_checkpoint_that_lacks_a_weight(key, named, how, tiny_checkpoint, tmp_path):
    file, config = tiny_checkpoint("sd1")
    harm(file, key, how, tmp_path / "harmed.safetensors")
    with pytest.raises(UserError, match=named):
        load(tmp_path / "harmed.safetensors", config)


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_transformer_that_lacks_a_weight(family, tiny_checkpoint, tmp_path):
    from safetensors.torch import load_file

    file, config = tiny_checkpoint(family)
    load(file, config)
    key = next(key for key in load_file(file) if key.endswith("img_in.weight") or "x_embed" in key)
    harm(file, key, "missing", tmp_path / "harmed.safetensors")
    with pytest.raises(UserError, match=r"transformer.*\b(x_embedder|pos_embed)\b"):
        load(tmp_path / "harmed.safetensors", config)


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_the_encoders_of_a_single_transformers_folder(family, tiny_checkpoint, tmp_path):
    file, config = tiny_checkpoint(family)
    config = Path(shutil.copytree(config, tmp_path / "config"))
    key = "encoder.block.0.layer.0.SelfAttention.q.weight"
    part = "text_encoder_3" if family == "sd3" else "text_encoder_2"
    harm(config / part / "model.safetensors", key, "missing")
    with pytest.raises(UserError, match=f"{part}.*{key}"):
        load(file, config)


def without_t5(model: Path, to: Path) -> Path:
    shutil.copytree(model, to)
    index = json.loads((to / "model_index.json").read_text())
    for part in ("text_encoder_3", "tokenizer_3"):
        index[part] = [None, None]
        shutil.rmtree(to / part)
    (to / "model_index.json").write_text(json.dumps(index))
    return to


def test_prompts_of_which_a_part_is_read_are_named(tiny_model, tmp_path):
    """CLIP's 77 tokens without T5, T5's 256 with it; what follows changes nothing in the picture's
    texts, what is within does."""
    from generation.renderers.diffusers.prompts import cut

    bare = find_model(str(without_t5(tiny_model("sd3"), tmp_path / "model")))
    whole, flux, sd1 = (find_model(str(tiny_model(family))) for family in ("sd3", "flux", "sd1"))
    prompts = ["a cat", "a cat, " * 20, "a cat, " * 30, "a cat, " * 60, "a cat, " * 110]
    for model, most, within, without_it in (
        (bare, 77, prompts[0], " (it was saved without T5)"), (whole, 256, prompts[2], ""),
        (flux, 512, prompts[3], ""),
    ):  # fmt: skip
        assert cut([within], model) == []
        (said,) = cut(prompts, model)
        assert said.startswith(f"This model reads {most} tokens of a prompt{without_it}, and what ")
        first = next(p for p in prompts if f": {p[:77]}" in said and cut([p], model))
        told = Engine(model, width=64, height=64)
        same, other = first + "and a dog", "a dog, " + first
        texts, with_more, with_others = (told.texts(p) for p in (first, same, other))
        assert all(texts[name].equal(with_more[name]) for name in texts)
        assert not texts["prompt_embeds"].equal(with_others["prompt_embeds"])
    assert cut(prompts, sd1) == []  # which reads all


def test_stable_diffusion_3_saved_without_t5(tiny_model, tmp_path):
    """Which diffusers loads only where it is told so."""
    from generation.cells import Case

    model = without_t5(tiny_model("sd3"), tmp_path / "model")
    engine = Engine(find_model(str(model)), width=64, height=64, steps=2, batch_size=1)
    assert engine.pipe.text_encoder_3 is None
    one, other = (engine.render([Case(prompt, 1)])[0] for prompt in ("a cat", "a dog"))
    assert one is not None and (one != other).any()


def test_a_vae_from_the_folder_of_configurations(tiny_checkpoint, tiny_model, tmp_path):
    from safetensors.torch import load_file, save_file

    file, _ = tiny_checkpoint("sd1")
    config = Path(shutil.copytree(tiny_model("sd1"), tmp_path / "config"))
    weights = {k: w for k, w in load_file(file).items() if not k.startswith("first_stage")}
    save_file(weights, tmp_path / "no_vae.safetensors")
    load(tmp_path / "no_vae.safetensors", config)
    harm(config / "vae" / "diffusion_pytorch_model.safetensors", "encoder.conv_in.bias", "missing")
    with pytest.raises(UserError, match=r"vae.*encoder\.conv_in\.bias"):
        load(tmp_path / "no_vae.safetensors", config)


def test_what_the_libraries_read_under_other_names_is_whole(tiny_model, tmp_path):
    """Attention of old VAEs, and CLIP with and without its `text_model`."""
    from safetensors.torch import load_file, save_file

    model = Path(shutil.copytree(tiny_model("sd1"), tmp_path / "model"))
    file = model / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = load_file(file)
    renamed = {}
    for key, weight in weights.items():
        for new, name in old.items():
            key = key.replace(f".attentions.0.{new}.", f".attentions.0.{name}.")
        renamed[key] = weight
    assert renamed.keys() != weights.keys()
    save_file(renamed, file)
    file = model / "text_encoder" / "model.safetensors"
    bare = {key.removeprefix("text_model."): w for key, w in load_file(file).items()}
    for prefix in ("", "text_model."):
        save_file({prefix + k: w for k, w in bare.items()}, file, metadata={"format": "pt"})
        pipe = load(model)
        assert torch.equal(
            pipe.vae.decoder.mid_block.attentions[0].to_q.weight,
            weights["decoder.mid_block.attentions.0.to_q.weight"],
        )
        loaded = pipe.text_encoder.state_dict()
        (key,) = (k for k in loaded if k.endswith("final_layer_norm.weight"))
        assert torch.equal(loaded[key], bare["final_layer_norm.weight"])


def test_each_part_may_lie_in_half_precision_alone(tiny_model, tmp_path):
    model = Path(shutil.copytree(tiny_model("sd1"), tmp_path / "model"))
    file = model / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    load(model)
