"""Mutate LoRA files, their metadata and their names, and put them through every reader.

    python benchmarks/fuzz_loras.py [--count 200000] [--seed 0]

Stops with the offending input if anything but `UserError` escapes, a single input takes more than
`SLOW` seconds of processor time, or memory peaks above `MEMORY`.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from generation.errors import UserError
from generation.loras import deltas
from generation.loras import inspection as lora
from generation.loras.checkpoints import find_checkpoints

SLOW = 3.0
MEMORY = 1 << 30

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
TARGETS = {
    "unet": {f"{BLOCK}.weight": (8, 12), "conv_in.weight": (8, 4, 3, 3), "conv_in.bias": (8,)},
    "te": {"encoder.layers.0.mlp.fc1.weight": (8, 12), "encoder.layers.0.mlp.fc1.bias": (8,)},
}
STEMS = [
    "lora_unet_" + BLOCK.replace(".", "_"),
    "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k",
    "lora_te_text_model_encoder_layers_0_mlp_fc1",
    "unet." + BLOCK,
    "base_model.model." + BLOCK,
    "diffusion_model." + BLOCK,
    "lycoris_" + BLOCK.replace(".", "_"),
    "transformer.single_transformer_blocks.0.attn.to_q",
]
KINDS = [
    {"lora_down.weight": (2, 12), "lora_up.weight": (8, 2), "alpha": ()},
    {"lora_A.weight": (2, 12), "lora_B.weight": (8, 2), "lora_magnitude_vector": (8,)},
    {"lora_down.weight": (2, 12), "lora_up.weight": (8, 2), "dora_scale": (8, 1)},
    {"hada_w1_a": (8, 2), "hada_w1_b": (2, 12), "hada_w2_a": (8, 2), "hada_w2_b": (2, 12)},
    {"lokr_w1": (2, 3), "lokr_w2_a": (4, 2), "lokr_w2_b": (2, 4), "alpha": ()},
    {"lokr_w1": (2, 3), "lokr_w2": (4, 4)},
    {"diff": (8, 12), "diff_b": (8,)},
    {"w_norm": (8,), "b_norm": (8,)},
    {"oft_blocks": (2, 4, 4)},
    {"weight": (8,), "on_input": ()},
    {"lora_down.weight": (2, 4, 1, 1), "lora_mid.weight": (2, 2, 3, 3), "lora_up.weight": (8, 2)},
]
METADATA = {
    "ss_epoch": ["3", "None", "-1", "1e999", "7.5", ""],
    "ss_steps": ["150", "None", "nan", "9" * 400],
    "ss_session_id": ["1", "2", "None"],
    "ss_output_name": ["dog", "epoch", "a/b", "\ud800"],
    "ss_tag_frequency": ['{"a": {"b": 3}}', "[" * 5000, '{"a": [1]}', '{"a": {"": null}}'],
    "ss_datasets": ['[{"resolution": [512, 512], "tag_frequency": {"a": {"b": 2}}}]', "[[]]"],
    "ss_resolution": ["(512, 512)", "1,1", "None", "9" * 5000],
    "training_info": ['{"step": 10, "epoch": 1}', '{"step": [], "epoch": {}}', "null"],
    "software": ['{"name": "ai-toolkit"}', '{"name": []}'],
    "lora_adapter_metadata": [
        '{"unet.lora_alpha": 4, "unet.r": 2, "unet.alpha_pattern": {"attn2.to_k": 8}}',
        '{"lora_alpha": 1e400, "alpha_pattern": [], "use_rslora": true}',
        '{"unet.alpha_pattern": {"(a+)+$": 1}, "unet.lora_alpha": "x"}',
    ],
    "global_step": ["5", "x"],
    "trained_words": ["a, b", '["a", 1]', "{}"],
    "modelspec.architecture": ["stable-diffusion-v1/lora", "flux-1-dev", "x" * 2000],
}
NAMES = [
    "dog-000001",
    "dog-step00000150",
    "dog",
    "last",
    "epoch-000001",
    "dog_000000500",
    "dog_LoRA_000000500",
    "2024-05-01_10-00-00-save-400-4-0",
    "epoch_01",
    "dog ep12",
    "style_v2",
    "pytorch_lora_weights",
    "adapter_model",
    "optimizer",
]
FOLDERS = ["", "", "", "checkpoint-500", "checkpoint-500/ema", "epoch3", "step10", "save", "ema"]
PUNCTUATION = b'{}[]",:0123456789-eE.\\ u\x00\xff'


def lora_bytes(pick: random.Random) -> bytes:
    """A LoRA of one to three modules, mostly sound."""
    header: dict[str, object] = {}
    if pick.random() < 0.7:
        keys = pick.sample(list(METADATA), pick.randrange(4))
        header["__metadata__"] = {key: pick.choice(METADATA[key]) for key in keys}
    data = b""
    for _ in range(pick.randrange(1, 4)):
        stem, kind = pick.choice(STEMS), pick.choice(KINDS)
        for leaf, shape in kind.items():
            if pick.random() < 0.03:
                continue
            shape = tuple(size + (pick.random() < 0.02) for size in shape)
            values = np.full(shape, pick.choice([0.5, 0.0, -2.0]), "<f4")
            if pick.random() < 0.01:
                values = values * np.float32("nan")
            key = f"{stem}.{leaf}"
            raw = values.tobytes()
            offsets = [len(data), len(data) + len(raw)]
            header[key] = {"dtype": "F32", "shape": list(shape), "data_offsets": offsets}
            data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def mutated(pick: random.Random, content: bytes) -> bytes:
    """The file with one kind of damage, or none."""
    how = pick.randrange(6)
    new = bytearray(content)
    length = struct.unpack("<Q", content[:8])[0]
    if how == 0:
        for _ in range(pick.randrange(1, 6)):
            new[pick.randrange(len(new))] = pick.randrange(256)
    elif how == 1:
        del new[pick.randrange(len(new)) :]
    elif how == 2:
        for _ in range(pick.randrange(1, 4)):
            new[8 + pick.randrange(length)] = pick.choice(PUNCTUATION)
    elif how == 3:
        at = pick.randrange(8, 8 + length)
        piece = content[pick.randrange(8, 8 + length) :][: pick.randrange(40)]
        new[at:at] = piece
        new[:8] = struct.pack("<Q", length + len(piece))
    elif how == 4:
        new[:8] = struct.pack("<Q", pick.choice([0, 1, 2, 1 << 60, (1 << 64) - 1, length - 1]))
    return bytes(new)


def mutated_name(pick: random.Random) -> str:
    name = list(pick.choice(NAMES))
    for _ in range(pick.randrange(3)):
        at = pick.randrange(len(name) + 1)
        name[at : at + pick.randrange(2)] = pick.choice(["-", "_", "0", "9" * 30, "é", "step", " "])
    return "".join(name)[:120] or "x"


def resolve(path: Path) -> None:
    deltas.resolve(deltas.modules(path), TARGETS)


def attempt(what: Counter[str], name: str, call, *args) -> float:
    start = time.process_time()
    try:
        call(*args)
        what[f"{name}: read"] += 1
    except UserError as problem:
        assert "\n" not in str(problem), problem
        str(problem).encode()
        what[f"{name}: refused"] += 1
    took = time.process_time() - start
    assert took < SLOW, f"{took:.1f} s"
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pick = random.Random(options.seed)
    shared_memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(dir=shared_memory if shared_memory.is_dir() else None))
    counts: Counter[str] = Counter()
    slowest = 0.0
    started = time.perf_counter()
    done = 0
    content = b""
    names: list[str] = []
    try:
        while done < options.count:
            content = mutated(pick, lora_bytes(pick))
            path = root / "one.safetensors"
            path.write_bytes(content)
            for name, call in (
                ("inspect", lora.inspect),
                ("read_tensors", lora.read_tensors),
                ("resolve", resolve),
            ):
                slowest = max(slowest, attempt(counts, name, call, path))
            done += 1
            if done % 8 == 0:
                folder = root / "run"
                names = []
                for _ in range(pick.randrange(1, 6)):
                    place = folder / pick.choice(FOLDERS)
                    place.mkdir(parents=True, exist_ok=True)
                    file = place / (mutated_name(pick) + ".safetensors")
                    names.append(str(file.relative_to(root)))
                    whole = lora_bytes(pick)
                    file.write_bytes(whole if pick.random() < 0.8 else mutated(pick, whole))
                ema = pick.random() < 0.1
                slowest = max(
                    slowest, attempt(counts, "folder", find_checkpoints, [folder], None, ema)
                )
                shutil.rmtree(folder)
                done += len(names)
    except BaseException:
        print("seed", options.seed, "after", done, "inputs; file:", content, "names:", names)
        raise
    finally:
        shutil.rmtree(root, ignore_errors=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert peak < MEMORY, peak
    print(f"{done} inputs in {time.perf_counter() - started:.0f} s; only UserError came out")
    for name, count in sorted(counts.items()):
        print(f"  {name}: {count}")
    print(f"slowest input {slowest * 1000:.0f} ms, peak memory {peak / 2**20:.0f} MiB")


if __name__ == "__main__":
    sys.exit(main())
