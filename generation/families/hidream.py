"""HiDream-I1 (Full, Dev, Fast): blocks with experts, and four text encoders, the last one Llama 3.1
(8B)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from generation.errors import UserError
from generation.families.family import (
    BlockLists,
    Config,
    Family,
    Layers,
    blocks,
    flow_rendering,
    linear,
    stack,
)
from generation.families.text import CLIP_L, LLAMA_8B, OPEN_CLIP_G, T5_XXL

_DOUBLE, _SINGLE = 16, 32


def _gated(wide: int, width: int) -> Layers:
    return {**linear("w1 w3", wide, width), **linear("w2", width, wide)}


def _layers(width: int, text: int) -> Layers:
    """Each expert is a feed-forward layer of its own; which of them see a patch, a gate decides."""
    experts = {
        f"block.ff_i.{expert}.{layer}": shape
        for expert, wide in (
            ("shared_experts", 3584),
            *((f"experts.{number}", 6912) for number in range(4)),
        )
        for layer, shape in _gated(wide, width).items()
    }
    both = {
        **linear("block.attn1.to_q block.attn1.to_k", width, width),
        **linear("block.attn1.to_v block.attn1.to_out", width, width),
        **experts,
    }
    of_text = {
        **linear("block.attn1.to_q_t block.attn1.to_k_t", width, width),
        **linear("block.attn1.to_v_t block.attn1.to_out_t", width, width),
        **{f"block.ff_t.{layer}": shape for layer, shape in _gated(6912, width).items()},
        **linear("block.adaLN_modulation.1", 12 * width, width),
    }
    alone = linear("block.adaLN_modulation.1", 6 * width, width)
    return {
        **stack("double_stream_blocks", _DOUBLE, {**both, **of_text}),
        **stack("single_stream_blocks", _SINGLE, {**both, **alone}),
        **stack("caption_projection", _DOUBLE + _SINGLE + 1, linear("linear", width, text)),
        **linear("x_embedder.proj", width, 64),
        **linear("t_embedder.timestep_embedder.linear_1", width, 256),
        **linear("p_embedder.pooled_embedder.linear_1", width, 2048),
        **linear("t_embedder.timestep_embedder.linear_2", width, width),
        **linear("p_embedder.pooled_embedder.linear_2", width, width),
        **linear("final_layer.linear", 64, width),
        **linear("final_layer.adaLN_modulation.1", 2 * width, width),
    }


_CALLED = {"prompt_embeds": "prompt_embeds_t5", "llama": "prompt_embeds_llama3"}
"""What the pipeline calls T5's and Llama's embeddings."""


def encode(
    pipe: Any, prompt: str, negative: str, device: Any, guided: bool, _clip_skip: int
) -> Mapping[str, Any]:
    """As diffusers encodes: every text encoder sees 128 tokens; the denoiser takes all of Llama's
    layers (here with the batch before them)."""
    t5, other_t5, llama, other_llama, pooled, other_pooled = pipe.encode_prompt(
        prompt=prompt,
        negative_prompt=negative,
        device=device,
        do_classifier_free_guidance=guided,
    )
    found = {
        "prompt_embeds": t5,
        "llama": llama.transpose(0, 1),
        "pooled_prompt_embeds": pooled,
    }
    if guided:
        found |= {
            "negative_prompt_embeds": other_t5,
            "negative_llama": other_llama.transpose(0, 1),
            "negative_pooled_prompt_embeds": other_pooled,
        }
    return found


def call(texts: Mapping[str, Any], guidance_scale: float) -> Mapping[str, Any]:
    """The pipeline takes Llama's layers before the batch."""
    found: dict[str, Any] = {"guidance_scale": guidance_scale}
    for name, embeds in texts.items():
        plain = name.removeprefix("negative_")
        called = name.removesuffix(plain) + _CALLED.get(plain, plain)
        found[called] = embeds.transpose(0, 1) if plain == "llama" else embeds
    return found


def fit(pipe: Any, width: int, height: int) -> None:
    """Keep the pipeline from scaling every size to the area of its own; a little more than this
    one's, so that no side is rounded down."""
    patches = (width // 16) * (height // 16)
    if width != height and patches > pipe.transformer.max_seq:
        raise UserError(
            f"HiDream paints at most {pipe.transformer.max_seq * 256} pixels where the sides "
            f"differ, and {width} x {height} are {width * height}; choose a smaller size, such as "
            "1152 x 896.",
            field="width",
        )
    pipe.default_sample_size = (width * height) ** 0.5 * (1 + 1e-6) / pipe.vae_scale_factor


def predict(pipe: Any, latents: Any, times: Any, texts: Mapping[str, Any]) -> Any:
    """The velocity, which the model itself tells with the other sign."""
    return -pipe.transformer.forward(
        latents,
        timesteps=times.expand(len(latents)),
        encoder_hidden_states_t5=texts["prompt_embeds"],
        encoder_hidden_states_llama3=texts["llama"].transpose(0, 1),
        pooled_embeds=texts["pooled_prompt_embeds"],
        return_dict=False,
    )[0]


def _is_distilled(_index: Config, _denoiser: Config, scheduler: Config) -> bool:
    """Dev and Fast are sampled as consistency models are: by diffusers' scheduler, or by the one of
    the original code that it stands for."""
    return scheduler.get("_class_name") in {
        "FlowMatchLCMScheduler",
        "FlashFlowMatchEulerDiscreteScheduler",
    }


HIDREAM = Family(
    id="hidream",
    words="HiDream",
    models=(_layers(2560, 4096),),
    stated=r"hidream(?![._ -]?o1)",  # O1 is another model
    encoders={"te": CLIP_L, "te2": OPEN_CLIP_G, "te3": T5_XXL, "te4": LLAMA_8B},
    rendering=flow_rendering(
        "HiDreamImagePipeline",
        "transformer",
        16,
        5.0,  # steps and guidance of the Full model's card
        BlockLists(
            lists=(("BASE", *blocks("D", *range(_DOUBLE)), *blocks("S", *range(_SINGLE))),),
            kinds={"D": "D", "DOUBLE": "D", "S": "S", "SINGLE": "S"},
            stacks={"double_stream_blocks": "D", "single_stream_blocks": "S"},
        ),
        model="HiDreamImageTransformer2DModel",
        marks=(r"double_stream_blocks\.0\.block\.", r"caption_projection\.0\."),
        side=1024,
        steps=50,
        encoders=("te", "te2", "te3", "te4"),
        encode=encode,
        reads=(("tokenizer_4", 128),),
        call=call,
        fit=fit,
        apart="HiDream is published without Llama 3.1 8B Instruct, so give that to diffusers' "
        "HiDreamImagePipeline as tokenizer_4 and text_encoder_4, save the whole with "
        "save_pretrained, and name its folder",
        predict=predict,
        # Experts compute the patches of a whole batch at once, so that neighbours would round.
        rows=False,
        alone=True,
        few={"steps": 28, "guidance_scale": 0.0},  # as Dev's card has it; Fast's has 16 steps
        distilled=_is_distilled,
    ),
)
