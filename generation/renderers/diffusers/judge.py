"""How well the model itself explains a picture by a text: the error of its denoising.

A diffusion model that is told what is to be seen removes noise better: among texts, the one with
the lowest error is the likeliest (Li, Prabhudesai, Duggal, Brown, Pathak 2023, "Your Diffusion
Model is Secretly a Zero-Shot Classifier", https://arxiv.org/abs/2303.16203). The weights that are
set decide: judge under `Engine.without_lora` what is to be judged by the base.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from generation.errors import UserError
from generation.families import words
from generation.renderers.diffusers.samplers import flows, scheduler

if TYPE_CHECKING:
    from generation.renderers.diffusers.engine import Engine

TIMESTEPS = (350, 650)
"""Of 1000: where a picture is blurred by noise, and where it is hardly seen."""

NOISE_SHARES = (0.5, 0.73)
"""The same for flow models, sigma: noise and picture in the ratio of Stable Diffusion 1.x there."""

LEVELS = len(TIMESTEPS)

FEATURES_AT, FEATURES_SHARE = 250, 0.41
"""Where features are taken: a timestep of 1000, and the same for flow models."""


@torch.inference_mode()
def latents(engine: Engine, picture: npt.NDArray[np.uint8]) -> torch.Tensor:
    """A grey or RGB picture as the denoiser takes it (1 x C x H/8 x W/8, float32), the mean of
    what the encoder gives.
    """
    vae: Any = engine.pipe.vae
    rgb = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
    x = torch.from_numpy(np.ascontiguousarray(rgb).copy()).permute(2, 0, 1)[None]
    x = (x.to(torch.float32) / 127.5 - 1).to(engine.device)
    if engine.traits.frames:
        x = x.unsqueeze(2)
    usual = vae.dtype
    z = vae.encode(x.to(usual)).latent_dist.mean.float()
    if usual != torch.float32 and not z.isfinite().all():
        # Some VAEs overflow float16 on some pictures only.
        vae.to(torch.float32)
        z = vae.encode(x).latent_dist.mean
        vae.to(usual)
    return engine.unit_latents(z.squeeze(2) if engine.traits.frames else z)


@torch.inference_mode()
def errors(engine: Engine, z: torch.Tensor, asked: Sequence[tuple[str, int]]) -> list[float]:
    """The mean squared error of what the denoiser tells of `z`, for each (text, level) asked.

    `z` is noised to the level (an index of `TIMESTEPS`) with that level's one noise, the same for
    all pictures of a size and all texts, so that differences are paired. The error is that of
    the noise for models that predict it, of the velocity for others.
    Raises UserError for a model that cannot be asked, ArithmeticError where numbers overflow.
    """
    predict = engine.traits.predict
    if predict is None or getattr(engine.denoiser.config, "time_cond_proj_dim", None) is not None:
        raise UserError(
            f"{engine.model.name} ({words(engine.model.family)}) cannot be asked how well a text "
            "explains a picture; leave adherence out.",
            field="metrics",
        )
    found = []
    noised = [
        _noised(engine, z, level, TIMESTEPS[level], NOISE_SHARES[level]) for level in range(LEVELS)
    ]
    for group in _batches(engine, asked):
        noisy, times, truth = (
            torch.cat([noised[level][part] for _, level in group]) for part in range(3)
        )
        texts = _texts(engine, [text for text, _ in group])
        told = predict(engine.pipe, noisy.to(engine.denoiser.dtype), times, texts)
        found += ((told.float() - truth) ** 2).mean((1, 2, 3)).tolist()
    if not np.isfinite(found).all():
        raise ArithmeticError("the model's numbers overflowed; try another dtype")
    return found


@torch.inference_mode()
def features(engine: Engine, z: torch.Tensor) -> list[npt.NDArray[np.float32]]:
    """What the denoiser sees in `z`, without a prompt: of each block on the way up of a UNet, of a
    transformer's middle block, (rows, columns, channels).

    Activations at one timestep: Tang, Jia, Wang, Phoo, Hariharan (2023), "Emergent Correspondence
    from Image Diffusion", https://arxiv.org/abs/2306.03881, whose timestep (261) this is, from one
    noise, the same for all pictures of a size. All blocks of the way up instead of one, as coarse
    ones tell what is seen and fine ones how it looks (Luo, Dunlap, Park, Holynski, Darrell 2023,
    "Diffusion Hyperfeatures", https://arxiv.org/abs/2305.14334). Raises what `errors` raises.
    """
    predict, blocks = engine.traits.predict, _blocks(engine.denoiser)
    if predict is None or not blocks:
        raise UserError(
            f"{engine.model.name} ({words(engine.model.family)}) cannot be asked what it sees in a "
            "picture; leave it out.",
            field="references",
        )
    noisy, time, _ = _noised(engine, z, 0, FEATURES_AT, FEATURES_SHARE)
    seen: list[torch.Tensor] = []

    def keep(_block: Any, _given: Any, told: Any) -> None:
        # Transformers' blocks give the text's part first.
        seen.append(told if isinstance(told, torch.Tensor) else told[-1])

    hooks = [block.register_forward_hook(keep) for block in blocks]
    try:
        predict(engine.pipe, noisy.to(engine.denoiser.dtype), time, _texts(engine, [""]))
    finally:
        for hook in hooks:
            hook.remove()
    found = [_plane(one[0].float(), z.shape[-2] / z.shape[-1]) for one in seen]
    if not all(one.isfinite().all() for one in found):
        raise ArithmeticError("the model's numbers overflowed; try another dtype")
    return [np.ascontiguousarray(one.cpu().numpy()) for one in found]


def _texts(engine: Engine, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
    """The prompts' embeddings in one batch, where the denoiser takes them; no negative ones."""
    each = [engine.texts(prompt) for prompt in prompts]
    return {
        name: torch.cat([text[name] for text in each]).to(engine.device)
        for name in each[0]
        if not name.startswith("negative_")
    }


def _blocks(denoiser: Any) -> list[Any]:
    """The blocks whose outputs are the features; none where the denoiser has no such blocks."""
    if (way_up := getattr(denoiser, "up_blocks", None)) is not None:
        return list(way_up)
    if (blocks := getattr(denoiser, "transformer_blocks", None)) is not None:
        return [blocks[(len(blocks) - 1) // 2]]
    return []


def _plane(seen: torch.Tensor, shape: float) -> torch.Tensor:
    """A UNet's (channels, rows, columns) or a transformer's (positions, channels), as (rows,
    columns, channels); `shape` is rows by columns."""
    if seen.ndim == 3:
        return seen.permute(1, 2, 0)
    rows = round((len(seen) * shape) ** 0.5)
    return seen.reshape(rows if len(seen) % rows == 0 else len(seen), -1, seen.shape[-1])


def _noised(
    engine: Engine, z: torch.Tensor, level: int, timestep: int, share: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The noisy picture, its time of the schedule (of 1000), and what the denoiser should tell.

    Raises UserError where the model's scheduler says what no denoiser here tells.
    """
    noise = torch.randn(z.shape, generator=torch.Generator("cpu").manual_seed(level)).to(z.device)
    if flows(engine.model):
        time = torch.tensor([1000 * share], device=z.device)
        return (1 - share) * z + share * noise, time, noise - z
    schedule = scheduler("ddpm", engine.model)
    step = timestep * schedule.config.num_train_timesteps // 1000
    kept = schedule.alphas_cumprod[step].item()
    signal, spread = kept**0.5, (1 - kept) ** 0.5
    noisy = signal * z + spread * noise
    predicted = {
        "epsilon": noise,
        "v_prediction": signal * noise - spread * z,
        "sample": z,
    }
    if (kind := schedule.config.prediction_type) not in predicted:
        raise UserError(
            f"{engine.model.name} predicts {kind!r} by its scheduler_config.json, which cannot be "
            f"judged; correct the file ({', '.join(predicted)}), or leave adherence and references "
            "out.",
            field="metrics",
        )
    return noisy, torch.tensor([step], device=z.device), predicted[kind]


def _batches(engine: Engine, asked: Sequence[tuple[str, int]]) -> list[list[tuple[str, int]]]:
    """Neighbours whose texts are equally long, at most as many as pictures are painted at once."""
    groups: list[list[tuple[str, int]]] = []
    length = 0
    for text, level in asked:
        tokens = engine.texts(text)["prompt_embeds"].shape[1]
        if not groups or tokens != length or len(groups[-1]) == engine.batch_size:
            groups.append([])
        groups[-1].append((text, level))
        length = tokens
    return groups
