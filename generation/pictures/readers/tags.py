"""LoRA tags in prompts: <lora:name:0.8>, as A1111, Forge and the Impact pack read them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from generation.pictures.readers.picture import LoraUse
from generation.pictures.readers.traces import TAG as LORA_TAG
from generation.pictures.readers.values import LONGEST_TEXT, MOST_LORAS, decimal, tidy

_TAG = re.compile(r"<\s{0,9}(?:lora|lyco):([^<>:]{1,255})((?::[^<>:]{0,1024}){0,12})>", re.I)


@dataclass(frozen=True)
class Tag:
    """One `<lora:name:...>`. `first` and `second` are its positional numbers, None if absent.

    `named` holds te= and unet=; `parts` all that weighs blocks or steps (lbw=, start=, dyn=, ...).
    `problem` says why the strength cannot be told.
    """

    name: str
    first: Decimal | None
    second: Decimal | None
    named: Mapping[str, Decimal | None]
    parts: str = ""
    problem: str = ""


def parse_tags(text: str) -> list[Tag]:
    """Every LoRA tag in a text; without a number the strength is 1, as in A1111 and Impact."""
    text = text[:LONGEST_TEXT]
    tags: list[Tag] = []
    for name, rest in _TAG.findall(text):
        numbers: list[Decimal | None] = []
        named: dict[str, Decimal | None] = {}
        parts: list[str] = []
        for part in rest.split(":")[1:] if rest else []:
            key, equals, value = part.partition("=")
            if equals and key.strip().lower() in ("te", "unet"):
                named[key.strip().lower()] = decimal(value)
            elif equals or parts:  # lbw=PRESET:1,0,1 holds a colon
                parts.append(part.strip())
            elif len(numbers) < 2:
                numbers.append(decimal(part))
            else:
                parts.append(part.strip())
        odd = None in numbers or None in named.values()
        problem = f"holds a tag of {name[:60]!r} whose strength cannot be read" if odd else ""
        first = numbers[0] if numbers else Decimal(1)
        second = numbers[1] if len(numbers) > 1 else None
        tags.append(Tag(name, first, second, named, ":".join(parts)[:200], problem))
        if len(tags) >= MOST_LORAS:
            break
    if len(tags) < min(MOST_LORAS, len(LORA_TAG.findall(text))):
        tags.append(Tag("", None, None, {}, "", "holds a LoRA's tag that cannot be read"))
    return tags


@dataclass(frozen=True)
class Prompt:
    """A prompt without its tags, what they say, and why they do not say it with certainty."""

    text: str
    loras: tuple[LoraUse, ...] = ()
    parts: str = ""
    problem: str = ""


def read_prompt(prompt: str) -> Prompt:
    """A1111's extra_networks.py: name, text-encoder strength, denoiser strength (each defaulting
    to the one before, the first to 1); named te=, unet= win. A name that stands twice is unclear.
    """
    loras: dict[str, LoraUse] = {}
    parts, problem = [], ""
    for tag in parse_tags(prompt):
        te = tag.named.get("te", tag.first)
        unet = tag.named.get("unet", te if tag.second is None else tag.second)
        if tag.name in loras:
            problem = problem or f"names {tag.name[:60]!r} twice"
        problem = problem or tag.problem
        if tag.parts:
            parts.append(f"{tag.name}:{tag.parts}")
        if tag.name:
            loras[tag.name] = LoraUse(tag.name, unet, "", te if te != unet else None)
    rest = tidy(_TAG.sub(" ", prompt[:LONGEST_TEXT]))
    return Prompt(rest, tuple(loras.values()), " ".join(parts)[:200], problem)
