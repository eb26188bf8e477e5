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
from generation.renderers.diffusers.samplers import scheduler

if TYPE_CHECKING:
    from generation.renderers.diffusers.engine import Engine

TIMESTEPS = (350, 650)
"""Of 1000: where a picture is blurred by noise, and where it is hardly seen."""

NOISE_SHARES = (0.5, 0.73)
"""The same for flow models, sigma: noise and picture in the ratio of Stable Diffusion 1.x there."""

LEVELS = len(TIMESTEPS)


@torch.inference_mode()
def latents(engine: Engine, picture: npt.NDArray[np.uint8]) -> torch.Tensor:
    """A grey or RGB picture as the denoiser takes it (1 x C x H/8 x W/8, float32), the mean of
    what the encoder gives.
    """
    vae: Any = engine.pipe.vae
    rgb = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
    x = torch.from_numpy(np.ascontiguousarray(rgb).copy()).permute(2, 0, 1)[None]
    x = (x.to(torch.float32) / 127.5 - 1).to(engine.device)
    usual = vae.dtype
    z = vae.encode(x.to(usual)).latent_dist.mean.float()
    if usual != torch.float32 and not z.isfinite().all():
        # Some VAEs overflow float16 on some pictures only.
        vae.to(torch.float32)
        z = vae.encode(x).latent_dist.mean
        vae.to(usual)
    return engine.unit_latents(z)


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
    noised = [_noised(engine, z, level) for level in range(LEVELS)]
    for group in _batches(engine, asked):
        noisy, times, truth = (
            torch.cat([noised[level][part] for _, level in group]) for part in range(3)
        )
        texts = [engine.texts(text) for text, _ in group]
        told = predict(
            engine.pipe,
            noisy.to(engine.denoiser.dtype),
            times,
            {
                name: torch.cat([text[name] for text in texts]).to(engine.device)
                for name in texts[0]
                if not name.startswith("negative_")
            },
        )
        found += ((told.float() - truth) ** 2).mean((1, 2, 3)).tolist()
    if not np.isfinite(found).all():
        raise ArithmeticError("the model's numbers overflowed; try another dtype")
    return found


def _noised(
    engine: Engine, z: torch.Tensor, level: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The noisy picture, its time of the schedule (of 1000), and what the denoiser should tell."""
    noise = torch.randn(z.shape, generator=torch.Generator("cpu").manual_seed(level)).to(z.device)
    if engine.traits.flow:
        sigma = NOISE_SHARES[level]
        time = torch.tensor([1000 * sigma], device=z.device)
        return (1 - sigma) * z + sigma * noise, time, noise - z
    schedule = scheduler("ddpm", engine.model)
    step = TIMESTEPS[level] * schedule.config.num_train_timesteps // 1000
    kept = schedule.alphas_cumprod[step].item()
    signal, spread = kept**0.5, (1 - kept) ** 0.5
    noisy = signal * z + spread * noise
    truth = {
        "epsilon": noise,
        "v_prediction": signal * noise - spread * z,
        "sample": z,
    }[schedule.config.prediction_type]
    return noisy, torch.tensor([step], device=z.device), truth


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
