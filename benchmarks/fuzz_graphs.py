"""Random ComfyUI graphs whose LoRAs the generator knows, read back.

    python benchmarks/fuzz_graphs.py [--count 10000] [--seed 0] [--workflow]

A model passes through LoRA nodes that are known, nodes that are not (any of which may add a LoRA),
switches, reroutes and strengths behind links. Counted are wrong strengths, pictures called free of
LoRAs that may have one, and how many of the graphs that can be read are read. With --workflow the
graphs are as the user interface stores them: values without names, in the node's own order, and
stale ones where a link stands in their place.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from decimal import Decimal
from typing import Any

from generation.pictures.readers.facts import facts_from_texts

Link = list[Any]


class Graph:
    """Nodes, what the model's chain certainly holds, and whether that can be known."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.nodes = rng, dict[str, Any]()
        self.loras: dict[str, Decimal] = {}
        self.certain = True

    def add(self, kind: str, **inputs: Any) -> str:
        key = str(len(self.nodes) + 1)
        self.nodes[key] = {"class_type": kind, "inputs": inputs}
        return key

    def unknown(self, **inputs: Any) -> str:
        """A node of a class that nobody knows, with inputs of any name."""
        rng = self.rng
        word = "".join(rng.choice("bdgkmnprst") + rng.choice("aeiou") for _ in range(3)).title()
        more = {rng.choice("xyzwvu") * 2: rng.choice((0.5, 1, "text", True)) for _ in range(2)}
        if rng.random() < 0.2:
            more["strength_model"] = 1.0
        return self.add(
            word + rng.choice(("", "Pro", " (pack)", "LoRA", "Loader")), **inputs, **more
        )

    def strength(self) -> tuple[Any, Decimal | None]:
        """A raw input and the strength that it means, None where nobody can know."""
        number = round(self.rng.uniform(-1, 2), 2)
        turn = self.rng.random()
        if turn < 0.7:
            return number, Decimal(str(number))
        if turn < 0.85:
            kind = self.rng.choice(("FloatConstant", "PrimitiveFloat", "easy float"))
            link = [self.add(kind, value=number), 0]
            if self.rng.random() < 0.3:
                link = [self.add("Reroute", **{"": link}), 0]
            return link, Decimal(str(number))
        return [self.unknown(value=number), 0], None

    def lora(self, model: Link, clip: Link) -> tuple[Link, Link]:
        """A LoRA node of a known class; switched off, stale or at work."""
        rng = self.rng
        name = f"lora{len(self.nodes)}"
        raw, strength = self.strength()
        both = {"model": model, "clip": clip}
        kind = rng.randrange(6)
        if kind == 0:
            key = self.add(
                "LoraLoader", lora_name=name, strength_model=raw, strength_clip=raw, **both
            )
        elif kind == 1:
            key = self.add("LoraLoaderModelOnly", lora_name=name, strength_model=raw, model=model)
            self.note(name, strength)
            return [key, 0], clip
        elif kind == 2:
            on = rng.random() < 0.5
            key = self.add("CR Load LoRA", switch="On" if on else "Off", lora_name=name,
                           strength_model=raw, strength_clip=raw, **both)  # fmt: skip
            strength = strength if on else Decimal(0)
        elif kind == 3:
            raw, strength = 0.4, Decimal("0.4")
            on = rng.random() < 0.7
            row = {"on": on, "lora": name, "strength": raw}
            key = self.add("Power Lora Loader (rgthree)", lora_1=row, **both)
            strength = strength if on else Decimal(0)
        elif kind == 4:
            simple = rng.random() < 0.5
            rows = {"lora_name_1": name, "lora_name_2": "stale", "lora_wt_2": 1.0}
            rows |= {"lora_wt_1": raw if simple else 0.9, "model_str_1": 0.9 if simple else raw}
            rows |= {"clip_str_1": 0.9 if simple else raw, "model_str_2": 1.0, "clip_str_2": 1.0}
            mode = "simple" if simple else "advanced"
            stack = self.add("LoRA Stacker", input_mode=mode, lora_count=1, **rows)
            key = self.add("CR Apply LoRA Stack", lora_stack=[stack, 0], **both)
        else:
            raw, strength = 0.3, Decimal("0.3")
            active = rng.random() < 0.7
            listed = [{"name": name, "strength": 0.3, "active": active}]
            key = self.add("Lora Loader (LoraManager)", text="", loras=listed, **both)
            strength = strength if active else Decimal(0)
        self.note(name, strength)
        return [key, 0], [key, 1]

    def note(self, name: str, strength: Decimal | None) -> None:
        if strength is None:
            self.certain = False
        elif strength:
            self.loras[name] = strength

    def step(self, model: Link, clip: Link) -> tuple[Link, Link]:
        rng, turn = self.rng, self.rng.random()
        if turn < 0.45:
            return self.lora(model, clip)
        if turn < 0.6:
            return [self.add("ModelSamplingSD3", shift=3.0, model=model), 0], clip
        if turn < 0.75:
            return [self.add("Reroute", **{"": model}), 0], clip
        if turn < 0.88:
            number = rng.choice((1, 2))
            other = [self.unknown(), 0]
            inputs = {f"input{number}": model, f"input{3 - number}": other}
            raw: Any = number
            if rng.random() < 0.3:
                raw, self.certain = [self.unknown(value=number), 0], False
            return [self.add("ImpactSwitch", select=raw, **inputs), 0], clip
        self.certain = False
        return [self.unknown(model=model, clip=clip), 0], clip


def graph(rng: random.Random) -> Graph:
    """A whole graph from the checkpoint to the saved picture."""
    made = Graph(rng)
    ckpt = made.add("CheckpointLoaderSimple", ckpt_name="dream.safetensors")
    model, clip = [ckpt, 0], [ckpt, 1]
    for _ in range(rng.choice((0, 0, 1, 1, 2, 3))):
        model, clip = made.step(model, clip)
    idle = Graph(rng)
    idle.nodes = made.nodes  # nodes that the saved picture does not use
    if rng.random() < 0.3:
        idle.lora([ckpt, 0], [ckpt, 1])
    positive = made.add("CLIPTextEncode", text="a castle", clip=clip)
    negative = made.add("CLIPTextEncode", text="ugly", clip=clip)
    latent = made.add("EmptyLatentImage", width=512, height=512, batch_size=1)
    sampler = made.add(
        "KSampler", seed=5, steps=20, cfg=7, sampler_name="euler", scheduler="normal", denoise=1,
        model=model, positive=[positive, 0], negative=[negative, 0], latent_image=[latent, 0],
    )  # fmt: skip
    image: Link = [made.add("VAEDecode", samples=[sampler, 0], vae=[ckpt, 2]), 0]
    if rng.random() < 0.15:
        image = [made.add("Grain" + str(rng.randrange(99)), image=image, amount=0.2), 0]
    elif rng.random() < 0.1:  # a detailer that nobody knows, with a model of its own
        image = [made.unknown(image=image, model=model), 0]
        made.certain = False
    made.add("SaveImage", images=image)
    return made


def as_workflow(nodes: dict[str, Any]) -> dict[str, Any]:
    """The same graph as the user interface stores it."""
    links: list[list[Any]] = []
    stored = []
    for key, node in nodes.items():
        inputs, values = [], []
        for name, value in node["inputs"].items():
            linked = isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
            if linked:
                links.append([len(links) + 1, value[0], value[1], key, len(inputs), "*"])
                inputs.append({"name": name, "type": "*", "link": len(links)})
            if not linked or name.startswith("strength"):
                values.append(0.123 if linked else value)
            if name == "seed":
                values.append("randomize")
        stored.append(
            {"id": key, "type": node["class_type"], "mode": 0, "inputs": inputs,
             "widgets_values": values}
        )  # fmt: skip
    return {"nodes": stored, "links": links}


def fuzz(count: int, seed: int, workflow: bool = False) -> Counter[str]:
    """What became of `count` graphs: "wrong strength", "false control", "read", "unknown", ..."""
    rng = random.Random(seed)
    told: Counter[str] = Counter()
    for _ in range(count):
        made = graph(rng)
        # An unknown class may speak of LoRAs without a model entering it: unknown is right as well.
        texts = {"prompt": json.dumps(made.nodes)}
        if workflow:
            texts = {"workflow": json.dumps(as_workflow(made.nodes))}
        found = facts_from_texts(texts)
        loras = (
            {use.name: use.strength for use in found.loras if use.strength != 0} if found else {}
        )
        vague = found is None or getattr(found, "unknown", "") or None in loras.values()
        told["graphs that can be read"] += made.certain
        if vague:
            told["readable, called unknown" if made.certain else "unknown, called unknown"] += 1
        elif made.certain and loras == made.loras:
            told["read rightly"] += 1
        else:
            told["wrong strength" if loras else "false control"] += 1
    return told


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--count", type=int, default=10_000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--workflow", action="store_true", help="as the user interface stores it")
    chosen = options.parse_args()
    told = fuzz(chosen.count, chosen.seed, chosen.workflow)
    for what in ("wrong strength", "false control", "graphs that can be read", "read rightly"):
        print(f"{what}: {told[what]:,}")
    print(f"readable, called unknown: {told['readable, called unknown']:,}")
    sys.exit(1 if told["wrong strength"] or told["false control"] else 0)


if __name__ == "__main__":
    main()
