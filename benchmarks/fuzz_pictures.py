"""Mutate names, metadata texts and picture files and put them through every parser.

    python benchmarks/fuzz_pictures.py [--count 200000] [--seed 0]

Counts what was tried, and stops with the offending input if anything but `UserError` escapes, a
single input takes more than `SLOW` seconds of processor time, or memory peaks above `MEMORY`.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import re
import resource
import shutil
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from PIL import Image

from analysers.intake.pairing import find_pictures
from analysers.intake.studies import join_checkpoints, split_studies
from generation.cells import Checkpoint
from generation.errors import UserError
from generation.loras.names import place_in_metadata
from generation.pictures.pixels import read_image, read_size, read_text, write_png
from generation.pictures.readers.facts import facts_from_texts
from generation.pictures.readers.grids import corners, read_grid
from generation.pictures.readers.names import parse_name
from generation.pictures.readers.picture import Facts

SLOW = 3.0
MEMORY = 1 << 30

NAMES = [
    "strength_0.1.png",
    "strength_0.60/p00_s1.png",
    "images/epoch_0007/strength_0.80/p00_s1.png",
    "control/control_01.png",
    "epoch_01.png",
    "my_lora_e000004_01_20240513150310_42.png",
    "vlengies_20240513150310_004500_00.png",
    "1724104396637__000000250_0.jpg",
    "0 - a castle - no-ema/run2024-05-01_10-00-00-training-sample-100-1-0.png",
    "step_500_castle_0_1024x1024.png",
    "benchmarks/base_model/castle_1024x1024.png",
    "my-step00001050.safetensors",
    "2024-05-01_10-00-00-save-1200-12-0",
]

A1111 = (
    "a castle <lora:castleLora:0.8> <lora:b:te=0.2:unet=0.9>\nNegative prompt: blurry, ugly\n"
    "Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 12345, Size: 512x768, Model hash: "
    '6ce0161689, Model: "a, \\"b\\"", Clip skip: 2, Lora hashes: "castleLora: 60129e9d06ab", '
    "Version: v1.10.1"
)
GRID = (
    A1111 + ', Script: X/Y/Z plot, X Type: Prompt S/R, X Values: "0.8,0.9", Y Type: Seed, '
    'Y Values: "-1, -1", Fixed Y Values: "1, 2"'
)
COMFY = json.dumps(
    {
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a\\b.safetensors"}},
        "10": {
            "class_type": "LoraLoader",
            "inputs": {
                "lora_name": "x-000004.safetensors",
                "strength_model": 0.8,
                "model": ["4", 0],
            },
        },
        "11": {
            "class_type": "Power Lora Loader (rgthree)",
            "inputs": {
                "lora_1": {"on": True, "lora": "c.safetensors", "strength": 0.75},
                "model": ["10", 0],
            },
        },
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 768}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["12", 0]}},
        "12": {"class_type": "PrimitiveString", "inputs": {"value": "a castle"}},
        "3": {
            "class_type": "KSampler",
            "inputs": {
                "seed": 5,
                "steps": 20,
                "cfg": 8,
                "sampler_name": "euler",
                "scheduler": "normal",
                "model": ["11", 0],
                "positive": ["6", 0],
                "latent_image": ["5", 0],
            },
        },
        "9": {"class_type": "SaveImage", "inputs": {"images": ["3", 0]}},
    }
)
SWARM = json.dumps(
    {
        "sui_image_params": {
            "prompt": "a castle",
            "seed": 1,
            "steps": 20,
            "cfgscale": 7,
            "width": 1024,
            "height": 1024,
            "loras": ["my_lora"],
            "loraweights": ["0.8"],
        },
        "sui_models": [{"name": "my_lora", "param": "loras", "hash": "0x" + "ab" * 32}],
    }
)
INVOKE = json.dumps(
    {
        "positive_prompt": "a castle",
        "seed": 42,
        "steps": 30,
        "cfg_scale": 7,
        "width": 64,
        "height": 64,
        "model": {"name": "sdxl"},
        "loras": [{"model": {"name": "my_lora"}, "weight": 0.75}],
    }
)
INVOKE_GRAPH = json.dumps(
    {
        "nodes": {
            "b": {"type": "lora_loader", "lora": {"model_name": "my_lora"}, "weight": 0.5},
            "c": {"type": "compel", "prompt": "a castle"},
            "e": {"type": "noise", "seed": 3, "width": 512, "height": 512},
            "f": {"type": "denoise_latents", "steps": 20, "cfg_scale": 7.5},
        },
        "edges": [
            {
                "source": {"node_id": "c", "field": "conditioning"},
                "destination": {"node_id": "f", "field": "positive_conditioning"},
            }
        ],
    }
)
DGENERATE = (
    "#! /usr/bin/env dgenerate --file\n\nmodel/sdxl --model-type sdxl \\\n"
    '--loras "my_lora.safetensors;scale=0.8" --prompts "a castle; ugly" --seeds 7 \\\n'
    "--inference-steps 30 --guidance-scales 5.0 --output-size 512x768\n"
)
TEXTS = [
    ("parameters", A1111),
    ("UserComment", A1111),
    ("parameters", GRID),
    ("prompt", COMFY),
    ("parameters", SWARM),
    ("invokeai_metadata", INVOKE),
    ("invokeai_graph", INVOKE_GRAPH),
    ("DgenerateConfig", DGENERATE),
    ("prompt", "a dog <lora:x:0.5>"),
]
PIECES = [
    *("<lora:", ":", ",", '"', "\\", "\n", "{", "}", "[", "]", "-", ".", "0", "9" * 30, "1e999"),
    *("NaN", "Infinity", "null", "true", "\0", "\ud800", "\u202e", "城", "/", "..", "=", ";", " "),
    *("Negative prompt:", "Steps: 1, Seed: 2, Size: 3x4", "[" * 2000, '{"a":' * 2000, "x" * 999),
    *('["3", 0]', '["10", 0]', "--loras", "e000000", "strength_", "epoch_99999999999", "control"),
]  # fmt: skip


def mutated_text(rng: random.Random, text: str) -> str:
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(text) + 1)
        end = min(len(text), at + rng.choice((0, 1, 1, 4, 40)))
        kind = rng.randrange(6)
        if kind == 0:
            piece = rng.choice(PIECES)
        elif kind == 1:
            piece = chr(rng.choice((rng.randrange(128), rng.randrange(0xD800))))
        elif kind == 2:
            start = rng.randrange(len(text) + 1)
            piece = text[start : start + rng.randrange(60)]
        elif kind == 3:
            piece = ""
        elif kind == 4:
            piece = rng.choice(PIECES) * rng.choice((2, 50))
        else:
            text, piece, end = text[: rng.randrange(len(text) + 1)], "", at
        text = (text[:at] + piece + text[end:])[:200_000]
    return text


def mutated_json(rng: random.Random, value: Any, depth: int = 0) -> Any:
    """Values swapped for others of any kind, somewhere in the tree."""
    strange: list[Any] = [
        *(None, True, -1, 2**70, 0.5, float("nan"), "", "x", [], {}, [[]], ["3", 0], ["3"]),
        *("9" * 50, "<lora:x:1>", ["12", 0], "..", "\ud800", [None] * 3, {"lora": 1, "on": True}),
    ]  # fmt: skip
    if rng.random() < 0.08:
        return rng.choice(strange)
    if isinstance(value, dict) and depth < 8:
        items = [(k, mutated_json(rng, v, depth + 1)) for k, v in value.items()]
        return {k: v for k, v in items if rng.random() > 0.03}
    if isinstance(value, list) and depth < 8:
        return [mutated_json(rng, entry, depth + 1) for entry in value]
    return value


def chunk(kind: bytes, data: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + crc


def exif(text: str, order: str) -> bytes:
    comment = b"UNICODE\0" + text.encode("utf-16-be")
    head = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(order + "I", 8)
    first = struct.pack(order + "HHHIII", 1, 0x8769, 4, 1, 26, 0)
    return head + first + struct.pack(order + "HHHIII", 1, 0x9286, 7, len(comment), 44, 0) + comment


def seeds() -> list[bytes]:
    """Small whole pictures of every container with texts of every kind."""
    pixels = Image.fromarray(np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3))
    plain = io.BytesIO()
    pixels.save(plain, "PNG")
    head, tail = plain.getvalue()[:33], plain.getvalue()[33:]
    files: list[bytes] = []
    for key, text in TEXTS:
        raw, name = text.encode(), key.encode()
        extra = [
            chunk(b"tEXt", name + b"\0" + raw),
            chunk(b"zTXt", name + b"\0\0" + zlib.compress(raw)),
            chunk(b"iTXt", name + b"\0\1\0\0\0" + zlib.compress(raw)),
            chunk(b"eXIf", exif(text, ">")),
        ]
        files.append(head + extra[len(files) % 4] + tail)
    for kind in ("JPEG", "WEBP"):
        for order in "<>":
            buffer = io.BytesIO()
            pixels.save(buffer, kind, exif=b"Exif\0\0" + exif(A1111, order))
            files.append(buffer.getvalue())
    for kind in ("BMP", "GIF", "TIFF"):
        buffer = io.BytesIO()
        pixels.save(buffer, kind)
        files.append(buffer.getvalue())
    return files


def mutated_bytes(rng: random.Random, data: bytes) -> bytes:
    body = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not body:
            break
        at = rng.randrange(len(body))
        kind = rng.randrange(6)
        if kind == 0:
            body[at] = rng.randrange(256)
        elif kind == 1:
            body[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            body[at : at + 4] = struct.pack(">I", rng.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1)))
        elif kind == 3:
            del body[at : at + rng.randrange(1, 40)]
        elif kind == 4:
            body[at:at] = body[at : at + rng.randrange(1, 40)]
        else:
            del body[at:]
    return bytes(body)


def check_facts(facts: Facts | None) -> None:
    """What is returned must be usable: strings, bounded, finite."""
    if facts is None:
        return
    assert isinstance(facts.prompt, str) and isinstance(facts.negative, str)
    assert facts.seed is None or abs(facts.seed) < 2**64
    assert len(facts.loras) <= 128
    for use in facts.loras:
        assert isinstance(use.name, str) and isinstance(use.hash, str)
        assert use.strength is None or abs(use.strength) <= 1000
    assert all(isinstance(value, str) and len(value) <= 200 for value in facts.settings.values())


def check_texts(texts: dict[str, str]) -> None:
    check_facts(facts_from_texts(texts))
    grid = read_grid(texts.get("parameters", ""))
    if not isinstance(grid, str):
        check_facts(facts_from_texts({"parameters": grid.text(-1, -1)}))
        corners(grid, 1000, 1000)


def watched(action: Callable[[], None], what: str, material: object) -> None:
    start = time.process_time()
    try:
        action()
    except UserError:
        pass
    except BaseException:
        print(f"FAILED on {what}: {material!r}"[:5000], file=sys.stderr)
        raise
    took = time.process_time() - start
    if took > SLOW:
        raise SystemExit(f"{what} took {took:.1f} s: {material!r}"[:5000])


def whole_folder(rng: random.Random, folder: Path) -> None:
    """Six pictures with mutated names and texts through finding, pairing and splitting."""
    shutil.rmtree(folder, ignore_errors=True)
    for _ in range(6):
        name = mutated_text(rng, rng.choice(NAMES)) if rng.random() < 0.5 else rng.choice(NAMES)
        parts = [re.sub(r"[^\x20-\x7e]|^\.+$|/", "_", part)[:60] for part in name.split("/")[:4]]
        path = folder.joinpath(*[part or "_" for part in parts[:-1]], (parts[-1] or "_") + ".png")
        key, text = rng.choice(TEXTS)
        text = mutated_text(rng, text) if rng.random() < 0.5 else text
        texts = {key: text.encode("utf-8", "replace").decode()} if rng.random() < 0.7 else {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_dir():
            write_png(path, np.zeros((2, 2, 3), np.uint8), texts)
    axis: Literal["strength", "epoch"] = rng.choice(("strength", "epoch"))
    found = find_pictures(folder, axis=axis, triggers=["a", "castle"], cells=folder / "cells")
    studies = split_studies(found)
    assert sum(len(study.pairs) for study in studies) == len(found.pairs)
    paths = [pair.picture.path for pair in found.pairs] + [one.path for one in found.rejected]
    assert len(paths) == len(set(paths))
    mine = Checkpoint(Path("my-000004"), "my", 4, tensor_hash="60129e9d06ab" + "0" * 52)
    join_checkpoints(found, [mine])


def fuzz(count: int, seed: int, folder: Path) -> Counter[str]:
    rng = random.Random(seed)
    files = seeds()
    tried: Counter[str] = Counter()
    path = folder / "mutated"
    for number in range(count):
        if number % 40 == 0:
            state = rng.getstate()
            watched(lambda: whole_folder(rng, folder / "pictures"), "a folder", hash(state))
            tried["folders"] += 1
            continue
        turn = number % 10
        if turn < 3:
            name = mutated_text(rng, rng.choice(NAMES))

            def names(name: str = name) -> None:
                parse_name(PurePosixPath(name))
                place_in_metadata(name)

            watched(names, "a name", name)
            tried["names"] += 1
        elif turn < 7:
            key, text = rng.choice(TEXTS)
            if turn == 6 and text.startswith("{"):
                text = json.dumps(mutated_json(rng, json.loads(text)))
            else:
                text = mutated_text(rng, text)
            texts = {key: text, rng.choice(TEXTS)[0]: mutated_text(rng, rng.choice(TEXTS)[1])}
            texts |= {key: text} if rng.random() < 0.5 else {}
            watched(lambda t=texts: check_texts(t), "a text", texts)  # type: ignore[misc]
            tried["texts"] += 1
        else:
            data = mutated_bytes(rng, rng.choice(files))
            path.write_bytes(data)

            def file() -> None:
                check_facts(facts_from_texts(read_text(path)))
                read_size(path)
                pixels = read_image(path)
                assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3

            watched(file, "a file", data)
            tried["files"] += 1
        if number % 1000 == 0 and memory() > MEMORY:
            raise SystemExit(f"memory reached {memory() / 2**20:.0f} MiB after {number} inputs")
    return tried


def memory() -> int:
    """The peak resident size in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--count", type=int, default=200_000)
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        tried = fuzz(chosen.count, chosen.seed, Path(folder))
    parts = ", ".join(f"{count:,} {what}" for what, count in tried.items())
    print(
        f"{chosen.count:,} mutations ({parts}), seed {chosen.seed}: nothing but UserError escaped; "
        f"{time.perf_counter() - start:.0f} s, peak memory {memory() / 2**20:.0f} MiB"
    )


if __name__ == "__main__":
    main()
