"""How well the model itself explains a picture by a text: the error of its denoising.

A diffusion model that is told what is to be seen removes noise better: among texts, the one with
the lowest error is the likeliest (Li, Prabhudesai, Duggal, Brown, Pathak 2023, "Your Diffusion
Model is Secretly a Zero-Shot Classifier", https://arxiv.org/abs/2303.16203). The weights that are
set decide: judge under `Engine.without_lora` what is to be judged by the base.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from generation.errors import UserError
from generation.families import words
from generation.renderers.diffusers.samplers import flows, scheduler
from generation.renderers.diffusers.shares import share

if TYPE_CHECKING:
    from generation.renderers.diffusers.engine import Engine

TIMESTEP, NOISE_SHARE, NOISE = 600, 0.70, 1
"""Where errors are taken: a timestep of 1000 at which a picture is hardly seen, so that the text
says what is to be seen (with less noise its texture decides, which any LoRA changes); for flow
models sigma, noise and picture in the ratio of Stable Diffusion 1.x there; the noise's seed."""

ROWS = 4
"""How many rows the denoiser gets at once, or as many as it paints."""

T = TypeVar("T")

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
def errors(
    engine: Engine, pictures: Sequence[torch.Tensor], asked: Sequence[Sequence[str]]
) -> list[list[float]]:
    """The mean squared errors of what the denoiser tells of each picture's latents, for each text
    that is asked of it.

    They are noised with one noise, the same for all pictures of a size and all texts, so that
    differences are paired. The error is that of the noise for models that predict it, of the
    velocity for others. Whatever is asked beside it, the denoiser always gets equally many rows,
    as rounding depends on that.
    Raises UserError for a model that cannot be asked, ArithmeticError where numbers overflow.
    """
    predict = engine.traits.predict
    if predict is None or getattr(engine.denoiser.config, "time_cond_proj_dim", None) is not None:
        raise UserError(
            f"{engine.model.name} ({words(engine.model.family)}) cannot be asked how well a text "
            "explains a picture; leave adherence out.",
            field="metrics",
        )
    found: dict[tuple[int, str], float] = {}
    noised = [_noised(engine, z, NOISE, TIMESTEP, NOISE_SHARE) for z in pictures]
    questions = [(n, text) for n, each in enumerate(asked) for text in each]

    def alike(question: tuple[int, str]) -> tuple[torch.Size, int]:
        n, text = question
        return pictures[n].shape, engine.texts(text)["prompt_embeds"].shape[1]

    for group in _batches(questions, alike, min(ROWS, engine.rows)):
        parts = [noised[n] for n, _ in group]
        noisy, times, truth = (torch.cat(part) for part in zip(*parts, strict=True))
        texts = _texts(engine, [text for _, text in group])
        told = predict(engine.pipe, noisy.to(engine.denoiser.dtype), times, texts)
        errors = ((told.float() - truth) ** 2).mean((1, 2, 3)).tolist()
        found |= zip(group, errors, strict=True)
    if not np.isfinite([*found.values()]).all():
        raise ArithmeticError("the model's numbers overflowed; try another dtype")
    return [[found[n, text] for text in each] for n, each in enumerate(asked)]


@torch.inference_mode()
def features(
    engine: Engine, pictures: Sequence[torch.Tensor]
) -> list[list[npt.NDArray[np.float32]]]:
    """What the denoiser sees in each picture's latents, without a prompt: of each block on the way
    up of a UNet, of a transformer's middle block, (rows, columns, channels).

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
    found: dict[int, list[npt.NDArray[np.float32]]] = {}
    seen: dict[int, list[torch.Tensor]] = {}

    def keep(_block: Any, _given: Any, told: Any) -> None:
        # Transformers' blocks give the text's part first.
        rows = told if isinstance(told, torch.Tensor) else told[-1]
        seen.setdefault(share(), []).append(rows)

    hooks = [block.register_forward_hook(keep) for block in blocks]
    numbers = range(len(pictures))
    try:
        for group in _batches(numbers, lambda n: pictures[n].shape, min(ROWS, engine.rows)):
            parts = [_noised(engine, pictures[n], 0, FEATURES_AT, FEATURES_SHARE) for n in group]
            noisy, times, _ = (torch.cat(part) for part in zip(*parts, strict=True))
            seen.clear()
            texts = _texts(engine, [""] * len(group))
            predict(engine.pipe, noisy.to(engine.denoiser.dtype), times, texts)
            shares = [seen[number] for number in sorted(seen)]
            whole = [torch.cat(block).float() for block in zip(*shares, strict=True)]
            for row, n in enumerate(dict.fromkeys(group)):
                shape = pictures[n].shape[-2] / pictures[n].shape[-1]
                found[n] = [_plane(block[row], shape) for block in whole]
    finally:
        for hook in hooks:
            hook.remove()
    return [found[n] for n in numbers]


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


def _plane(seen: torch.Tensor, shape: float) -> npt.NDArray[np.float32]:
    """A UNet's (channels, rows, columns) or a transformer's (positions, channels), as (rows,
    columns, channels); `shape` is rows by columns. Raises ArithmeticError unless it is finite."""
    if not seen.isfinite().all():
        raise ArithmeticError("the model's numbers overflowed; try another dtype")
    if seen.ndim == 3:
        plane = seen.permute(1, 2, 0)
    else:
        rows = round((len(seen) * shape) ** 0.5)
        plane = seen.reshape(rows if len(seen) % rows == 0 else len(seen), -1, seen.shape[-1])
    return np.ascontiguousarray(plane.cpu().numpy())


def _noised(
    engine: Engine, z: torch.Tensor, seed: int, timestep: int, share: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The noisy picture, its time of the schedule (of 1000), and what the denoiser should tell.

    Raises UserError where the model's scheduler says what no denoiser here tells.
    """
    noise = torch.randn(z.shape, generator=torch.Generator("cpu").manual_seed(seed)).to(z.device)
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


def _batches(items: Sequence[T], alike: Callable[[T], Hashable], size: int) -> list[list[T]]:
    """Groups of just so many that are alike, filled up by repeating the last."""
    groups: list[list[T]] = []
    for _, some in groupby(sorted(items, key=lambda item: str(alike(item))), alike):
        queue = list(some)
        groups += [queue[start : start + size] for start in range(0, len(queue), size)]
    return [[*group, *[group[-1]] * (size - len(group))] for group in groups]
