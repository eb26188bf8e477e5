"""The UNets of Stable Diffusion 1.x, 2.x and XL: their layers, Stability's names, their blocks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from generation.families.family import Aliases, BlockLists, Layers, blocks, linear


def unet(
    channels: Sequence[int],
    depths: Sequence[int],
    context: int,
    *,
    linear_projection: bool,
    added: int = 0,
    middle: int | None = None,
) -> Layers:
    """The convolutions and matrices of a UNet, in diffusers' names (`UNet2DConditionModel`).

    `channels` are the widths of its levels, `depths` the transformer blocks of each attention
    there (0 for levels without), `context` the width of the text embedding, `added` that of the
    additional embedding (SDXL's). Two residual blocks a level going down, three going up.
    """
    time = 4 * channels[0]
    found: dict[str, tuple[int, ...]] = {
        "conv_in": (channels[0], 4, 3, 3),
        "time_embedding.linear_1": (time, channels[0]),
        "time_embedding.linear_2": (time, time),
        "conv_out": (4, channels[0], 3, 3),
    }
    if added:
        found |= {"add_embedding.linear_1": (time, added), "add_embedding.linear_2": (time, time)}

    def resnet(name: str, out: int, inside: int) -> None:
        found[f"{name}.conv1"] = (out, inside, 3, 3)
        found[f"{name}.conv2"] = (out, out, 3, 3)
        found[f"{name}.time_emb_proj"] = (out, time)
        if out != inside:
            found[f"{name}.conv_shortcut"] = (out, inside, 1, 1)

    def attention(name: str, width: int, depth: int) -> None:
        kernel = () if linear_projection else (1, 1)
        found[f"{name}.proj_in"] = found[f"{name}.proj_out"] = (width, width, *kernel)
        layers = {
            **linear("attn1.to_q attn1.to_k attn1.to_v attn1.to_out.0", width, width),
            **linear("attn2.to_q attn2.to_out.0", width, width),
            **linear("attn2.to_k attn2.to_v", width, context),
            **linear("ff.net.0.proj", 8 * width, width),
            **linear("ff.net.2", width, 4 * width),
        }
        for block in range(depth):
            for layer, shape in layers.items():
                found[f"{name}.transformer_blocks.{block}.{layer}"] = shape

    inside = channels[0]
    left = [inside]  # widths that wait for the way up
    for level, (width, depth) in enumerate(zip(channels, depths, strict=True)):
        for at in range(2):
            resnet(f"down_blocks.{level}.resnets.{at}", width, inside)
            if depth:
                attention(f"down_blocks.{level}.attentions.{at}", width, depth)
            inside = width
            left.append(width)
        if level + 1 < len(channels):
            found[f"down_blocks.{level}.downsamplers.0.conv"] = (width, width, 3, 3)
            left.append(width)
    for at in range(2):
        resnet(f"mid_block.resnets.{at}", inside, inside)
    attention("mid_block.attentions.0", inside, middle or depths[-1] or 1)
    for level, (width, depth) in enumerate(zip(channels[::-1], depths[::-1], strict=True)):
        for at in range(3):
            resnet(f"up_blocks.{level}.resnets.{at}", width, inside + left.pop())
            if depth:
                attention(f"up_blocks.{level}.attentions.{at}", width, depth)
            inside = width
        if level + 1 < len(channels):
            found[f"up_blocks.{level}.upsamplers.0.conv"] = (width, width, 3, 3)
    return found


def predict(pipe: Any, latents: Any, times: Any, texts: Mapping[str, Any]) -> Any:
    """What the UNet tells; SDXL's is told that the picture was as big as it is, and not cropped."""
    added = {}
    if "pooled_prompt_embeds" in texts:
        count, _, high, wide = latents.shape
        size = [high * pipe.vae_scale_factor, wide * pipe.vae_scale_factor]
        pooled = texts["pooled_prompt_embeds"]
        ids = pooled.new_tensor([*size, 0, 0, *size]).repeat(count, 1)
        added = {"text_embeds": pooled, "time_ids": ids}
    # Not by a call: compiled UNets would be compiled again for batches of another size.
    return pipe.unet.forward(
        latents, times, texts["prompt_embeds"], added_cond_kwargs=added or None, return_dict=False
    )[0]


# Stability's residual block -> diffusers' (both name the same tensors).
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_SINGLE = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_BLOCK_NAME = re.compile(
    r"(?P<side>down|up)_blocks\.(?P<level>\d+)\.(?P<kind>resnets|attentions|downsamplers|upsamplers)"
    r"\.(?P<at>\d+)\.(?P<rest>.+)"
)
_MID_NAME = re.compile(r"mid_block\.(?P<kind>resnets|attentions)\.(?P<at>\d+)\.(?P<rest>.+)")


def stability_blocks(names: Iterable[str]) -> dict[str, tuple[str, int]]:
    """The input or output block, ("input_blocks", 4), of those of a whole UNet's modules or
    parameters, in diffusers' names, that lie in one.

    Each residual block, with its attention, is one; conv_in is input block 0, each downsampler is
    one more; an upsampler belongs to the output block before.
    """
    pieces = [match for name in names if (match := _BLOCK_NAME.fullmatch(name))]
    layers: dict[tuple[str, int], int] = {}
    for match in pieces:
        level = (match["side"], int(match["level"]))
        more = int(match["at"]) + 1 if match["kind"] == "resnets" else 0
        layers[level] = max(layers.get(level, 0), more)
    first: dict[tuple[str, int], int] = {}
    at = {"down": 1, "up": 0}
    for side, number in sorted(layers):
        first[side, number] = at[side]
        at[side] += layers[side, number] + (side == "down")  # only the last has no downsampler
    found = {}
    for match in pieces:
        level = (match["side"], int(match["level"]))
        ends = {"downsamplers": layers[level], "upsamplers": layers[level] - 1}
        inside = ends.get(match["kind"], int(match["at"]))
        stack = "input_blocks" if match["side"] == "down" else "output_blocks"
        found[match[0]] = stack, first[level] + inside
    return found


def stability_names(names: Sequence[str]) -> Aliases:
    """Stability's names (input_blocks.4.1...) of a whole UNet's modules in diffusers' names."""
    blocks = stability_blocks(names)
    attending = {name.partition(".attentions.")[0] for name in names}
    for name in names:
        if name in _SINGLE:
            yield _SINGLE[name], (name,), False
        elif middle := _MID_NAME.fullmatch(name):
            resnet = middle["kind"] == "resnets"
            rest = _RESNET.get(middle["rest"], "") if resnet else middle["rest"]
            if rest:
                yield f"middle_block.{2 * int(middle['at']) + (not resnet)}.{rest}", (name,), False
        elif match := _BLOCK_NAME.fullmatch(name):
            block, rest = "{}.{}".format(*blocks[name]), match["rest"]
            if match["kind"] == "resnets" and rest in _RESNET:
                yield f"{block}.0.{_RESNET[rest]}", (name,), False
            elif match["kind"] == "attentions":
                yield f"{block}.1.{rest}", (name,), False
            elif match["kind"] == "downsamplers":
                yield f"{block}.0.op", (name,), False
            elif match["kind"] == "upsamplers":
                level = name.partition(".upsamplers.")[0]
                yield f"{block}.{1 + (level in attending)}.conv", (name,), False


SD_BLOCKS = BlockLists(
    lists=(
        ("BASE", *blocks("IN", 1, 2, 4, 5, 7, 8), "M00", *blocks("OUT", *range(3, 12))),
        ("BASE", *blocks("IN", *range(12)), "M00", *blocks("OUT", *range(12))),
    ),
    kinds={"IN": "IN", "M": "M", "OUT": "OUT"},
    # DEF_WEIGHT_PRESET of lbw; "SD-..." of the Inspire pack has the same numbers.
    presets={
        "INS": "1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0",
        "IND": "1,0,0,0,1,1,1,0,0,0,0,0,0,0,0,0,0",
        "INALL": "1,1,1,1,1,1,1,0,0,0,0,0,0,0,0,0,0",
        "MIDD": "1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0",
        "OUTD": "1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0",
        "OUTS": "1,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1",
        "OUTALL": "1,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1",
    },
)
"""The blocks of Stable Diffusion 1.x and 2.x."""
