"""Train the sample model's autoencoder, or sharpen the decoder of one that exists.

From nothing, encoder and decoder learn together, without an adversary. With `--start VAE` the
encoder stays frozen, so that latents (and the UNet that knows them) stay valid, and the decoder
alone goes on against a small PatchGAN. Both learn from base and styled pictures:

    python train_vae.py pictures.npz vae --minutes 2.5 --batch 96
    python train_vae.py pictures.npz vae-sharp --start vae --minutes 3 --batch 48

The minutes are a GPU's; a processor needs twenty times as many for the same steps.

A decoder with pixel losses only is soft, and softness costs BRISQUE dozens of points. The adversary
(hinge loss and feature matching, both weighed against the pixel loss as in Esser et al., 2021,
"Taming Transformers", equation 7) brings texture back.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name everybody uses)
from torch.nn.utils.parametrizations import spectral_norm


class PatchDiscriminator(nn.Module):
    """A hinge critic of 16-pixel patches; it keeps its features for the feature-matching loss."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                # The first layer keeps the resolution: grain is a matter of neighbouring pixels.
                spectral_norm(nn.Conv2d(3, width, 3, padding=1)),
                spectral_norm(nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)),
                spectral_norm(nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1)),
            ]
        )
        self.verdict = spectral_norm(nn.Conv2d(4 * width, 1, 3, padding=1))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.verdict(x), features


def new_autoencoder() -> AutoencoderKL:
    """8x down, 4 latent channels, 0.95 million weights."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=128,
        mid_block_add_attention=False,
    )


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def load_pictures(file: Path, *, styled: bool) -> Tensor:
    """uint8 pictures, shape (n, 3, 128, 128); the base ones, and with `styled` the others too."""
    arrays = np.load(file)
    stack = arrays["base"]
    if styled:
        stack = np.concatenate([stack, arrays["styled"]])
    return torch.from_numpy(stack).to(DEVICE).permute(0, 3, 1, 2).contiguous()


def half() -> torch.autocast:
    """bfloat16 where the device is fast in it."""
    return torch.autocast(DEVICE, torch.bfloat16)


def to_signed(pictures: Tensor) -> Tensor:
    """uint8 to the [-1, 1] that the autoencoder works in."""
    return pictures.float() / 127.5 - 1


@torch.no_grad()
def encode_all(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Unscaled latents of the pictures (index 0) and of their mirror images (index 1)."""
    sides = []
    for mirrored in (False, True):
        latents = []
        for part in pictures.split(64):
            x = to_signed(part.flip(-1) if mirrored else part)
            with half():
                latents.append(vae.encode(x).latent_dist.mode().float())
        sides.append(torch.cat(latents))
    return torch.stack(sides)


def slopes(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def pixel_loss(target: Tensor, output: Tensor) -> Tensor:
    """L1 of the pixels, half that of their slopes, and that of the picture at a quarter size."""
    loss = (target - output).abs().mean()
    for a, b in zip(slopes(target), slopes(output), strict=True):
        loss = loss + 0.5 * (a - b).abs().mean()
    return loss + (F.avg_pool2d(target, 4) - F.avg_pool2d(output, 4)).abs().mean()


def balance(pixel: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    """The factor that makes `other`'s gradient at the last layer as long as the pixel loss's."""
    (a,) = torch.autograd.grad(pixel, weight, retain_graph=True)
    (b,) = torch.autograd.grad(other, weight, retain_graph=True)
    return (a.norm() / (b.norm() + 1e-4)).clamp(max=1e3).detach()


@torch.no_grad()
def follow(ema: nn.Module, live: nn.Module, decay: float) -> None:
    for a, b in zip(ema.parameters(), live.parameters(), strict=True):
        a.lerp_(b, 1 - decay)


@torch.no_grad()
def report(vae: AutoencoderKL, pictures: Tensor, sheet: Path) -> str:
    """Mean BRISQUE of pictures and of their round trips, PSNR, and a sheet of both to look at."""
    from analysers.metrics.brisque import brisque

    output = vae.decode(vae.encode(to_signed(pictures)).latent_dist.mode()).sample.clamp(-1, 1)
    round_trip = ((output + 1) * 127.5).round().to(torch.uint8)
    psnr = 10 * math.log10(4 / F.mse_loss(output, to_signed(pictures)).item())
    scores, pictures, round_trip = [], pictures.cpu(), round_trip.cpu()
    for stack in (pictures, round_trip):
        each = [brisque(x.permute(1, 2, 0).numpy()) for x in stack]
        scores += [np.mean(each[:24]), np.mean(each[24:]) if each[24:] else np.nan]
    rows = torch.cat(
        [torch.cat([a, b], 1) for a, b in zip(pictures[::3], round_trip[::3], strict=True)], 2
    )
    Image.fromarray(rows.permute(1, 2, 0).numpy()).save(sheet)
    return (
        f"BRISQUE base {scores[0]:.1f} -> {scores[2]:.1f}, "
        f"styled {scores[1]:.1f} -> {scores[3]:.1f}, PSNR {psnr:.1f} dB"
    )


def train_from_nothing(options: argparse.Namespace, vae: AutoencoderKL, pictures: Tensor) -> None:
    """Encoder and decoder, pixel losses and a faint KL term."""
    vae.to(memory_format=torch.channels_last)
    ema = copy.deepcopy(vae)
    optimiser = torch.optim.AdamW(vae.parameters(), 2e-3, betas=(0.9, 0.98), weight_decay=0)
    start, step = time.time(), 0
    while (done := (time.time() - start) / (60 * options.minutes)) < 1:
        warm = min(1.0, (step + 1) / 100)
        optimiser.param_groups[0]["lr"] = (
            2e-3 * warm * (0.5 + 0.5 * math.cos(math.pi * done) + 0.01)
        )
        x = to_signed(pictures[torch.randint(0, len(pictures), (options.batch,), device=DEVICE)])
        x = x.flip(-1) if torch.rand(()) < 0.5 else x
        with half():
            posterior = vae.encode(x).latent_dist
            y = vae.decode(posterior.sample()).sample
        loss = pixel_loss(x, y.float()) + 2e-6 * posterior.kl().float().mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        follow(ema, vae, min(0.998, (step + 1) / (step + 10)))
        step += 1
        if step % 500 == 0:
            print(f"step {step}, {time.time() - start:.0f} s, loss {loss.item():.4f}", flush=True)
    vae.load_state_dict(ema.state_dict())
    scale = 1 / encode_all(vae, pictures[:1024])[0].std().item()  # base pictures come first
    vae.register_to_config(scaling_factor=scale)
    print(f"{step} steps", flush=True)


def sharpen_decoder(
    options: argparse.Namespace, vae: AutoencoderKL, pictures: Tensor, held_out: Tensor
) -> None:
    """The decoder alone, against the critic, on latents as inexact as the UNet's will be."""
    vae.requires_grad_(False)
    trained = nn.ModuleList([vae.post_quant_conv, vae.decoder]).requires_grad_(True)
    trained.to(memory_format=torch.channels_last)
    ema = copy.deepcopy(trained)
    critic = PatchDiscriminator().to(DEVICE, memory_format=torch.channels_last)
    generator_step = torch.optim.AdamW(
        trained.parameters(), options.rate, betas=(0.8, 0.98), weight_decay=0
    )
    critic_step = torch.optim.AdamW(critic.parameters(), 4e-4, betas=(0.5, 0.98), weight_decay=0)
    last_layer = vae.decoder.conv_out.weight
    start, step, logged = time.time(), 0, 0
    seen: dict[str, float] = {}
    while (done := (time.time() - start) / (60 * options.minutes)) < 1:
        warm = min(1.0, (step + 1) / 50)
        rate = options.rate * warm * (0.5 + 0.5 * math.cos(math.pi * done) + 0.02)
        generator_step.param_groups[0]["lr"] = rate
        index = torch.randint(0, len(pictures), (options.batch,), device=DEVICE)
        side = int(torch.rand(()) < 0.5)
        x = to_signed(pictures[index].flip(-1) if side else pictures[index])
        x = x.to(memory_format=torch.channels_last)
        with torch.no_grad(), half():
            z = vae.encode(x).latent_dist.mode().float()
        inexact = torch.rand(len(z), 1, 1, 1, device=DEVICE)
        z = z + options.noise / vae.config.scaling_factor * inexact * torch.randn_like(z)
        with half():
            y = vae.decode(z).sample
        y = y.float()
        pixel = pixel_loss(x, y)
        loss = pixel
        if step >= options.head_start:
            critic.requires_grad_(False)
            with half():
                verdict, fake_features = critic(y)
                with torch.no_grad():
                    _, real_features = critic(x)
            adversarial = -verdict.float().mean()
            matching = sum(
                (a.float() - b.float()).abs().mean()
                for a, b in zip(fake_features, real_features, strict=True)
            )
            if step % 10 == 0 or "balance" not in seen:
                now = balance(pixel, adversarial, last_layer).item()
                seen["balance"] = 0.8 * seen.get("balance", now) + 0.2 * now
            ramp = min(1.0, (step - options.head_start) / options.head_start)
            loss = pixel + ramp * (
                options.adversary * seen["balance"] * adversarial + options.matching * matching
            )
            seen["matching"] = matching.item()
        generator_step.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        generator_step.step()
        if step >= options.head_start // 2:
            critic.requires_grad_(True)
            with half():
                verdict, _ = critic(torch.cat([x, y.detach()]))
            real, fake = verdict.float().chunk(2)
            hinge = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
            critic_step.zero_grad()
            hinge.backward()
            critic_step.step()
            seen["critic"] = 0.95 * seen.get("critic", 2.0) + 0.05 * hinge.item()
        follow(ema, trained, min(0.997, (step + 1) / (step + 10)))
        seen["pixel"] = 0.95 * seen.get("pixel", pixel.item()) + 0.05 * pixel.item()
        step += 1
        if (time.time() - start) // options.log_seconds > logged:
            logged += 1
            live = copy.deepcopy(trained.state_dict())
            trained.load_state_dict(ema.state_dict())
            sheet = options.out.with_name(f"{options.out.name}_{logged:02d}.png")
            text = report(vae, held_out, sheet)
            vae.save_pretrained(sheet.with_suffix(""))
            trained.load_state_dict(live)
            figures = " ".join(f"{k} {v:.3f}" for k, v in seen.items())
            print(f"step {step}, {time.time() - start:.0f} s: {text}; {figures}", flush=True)
    trained.load_state_dict(ema.state_dict())
    print(f"{step} steps", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path, help="the .npz file of pictures.py")
    parser.add_argument("out", type=Path, help="the folder to write")
    parser.add_argument("--start", type=Path, help="folder of the autoencoder to sharpen")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=8e-4)
    parser.add_argument("--noise", type=float, default=0.1, help="most, as share of the latents")
    parser.add_argument("--adversary", type=float, default=0.6)
    parser.add_argument("--matching", type=float, default=0.5)
    parser.add_argument(
        "--head-start",
        type=int,
        default=250,
        help="steps of pixel losses alone; the critic begins to learn after half of them",
    )
    parser.add_argument("--log-seconds", type=float, default=120)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    pictures = load_pictures(options.pictures, styled=True)
    base = len(np.load(options.pictures, mmap_mode="r")["subject"])
    order = np.random.default_rng(0)
    aside = np.sort(order.choice(base, 24, replace=False))
    others = base + order.choice(len(pictures) - base, 24, replace=False)
    aside = np.concatenate([aside, np.sort(others)])
    held_out, learnt = pictures[aside], np.delete(np.arange(len(pictures)), aside)
    if options.start is None:
        vae = new_autoencoder().to(DEVICE)
        train_from_nothing(options, vae, pictures[learnt])
    else:
        vae = AutoencoderKL.from_pretrained(options.start, dtype=torch.float32).to(DEVICE)
        sharpen_decoder(options, vae, pictures[learnt], held_out)
    print(report(vae, held_out, options.out.with_name(f"{options.out.name}_final.png")))
    vae.save_pretrained(options.out)


if __name__ == "__main__":
    main()
