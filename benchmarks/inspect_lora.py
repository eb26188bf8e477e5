"""Time and memory of reading a LoRA of a real size: header, inspection, hash, factors, analysis.

    python benchmarks/inspect_lora.py [--rank 38]
    python benchmarks/inspect_lora.py --family flux2 klein qwen zimage --rank 32

Writes an SDXL-shaped kohya LoRA (722 modules, fp16) to a temporary folder; with `--family` one on
every matrix of the published model (its largest), whose keys are also placed in the structure that
diffusers builds on torch's meta device. Every operation runs in a fresh process, so that its peak
memory is its own; times are the processor's.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402

from generation.families import ALL  # noqa: E402

Shapes = Iterable[tuple[str, tuple[int, ...]]]

OPERATIONS = {
    "import numpy and the readers": "pass",
    "read_header": "lora.read_header(path)",
    "inspect": "lora.inspect(path)",
    "tensor_hash": "lora.tensor_hash(path)",
    "read all factors": "deltas.modules(path)",
    "weight analysis": "weights.weight_report([Checkpoint(Path(path), 'x')])",
}
PLACED = "deltas.resolve(deltas.outlines(path), {'transformer': shapes})"
CHILD = """
import sys, time, resource
from pathlib import Path
import numpy
from analysers import weights
from generation.loras import deltas
from generation.loras import inspection as lora
from generation.cells import Checkpoint
path = sys.argv[1]
{first}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
start = time.process_time()
{call}
seconds = time.process_time() - start
print(before, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def linears() -> Iterator[tuple[str, int, int]]:
    """(kohya stem, in, out) of SDXL's 722 adapted layers: 70 transformer blocks and their ends."""
    attentions = [(f"input_blocks_{n}_1", 640, 2) for n in (4, 5)]
    attentions += [(f"input_blocks_{n}_1", 1280, 10) for n in (7, 8)]
    attentions += [("middle_block_1", 1280, 10)]
    attentions += [(f"output_blocks_{n}_1", 1280, 10) for n in (0, 1, 2)]
    attentions += [(f"output_blocks_{n}_1", 640, 2) for n in (3, 4, 5)]
    for name, width, depth in attentions:
        yield f"lora_unet_{name}_proj_in", width, width
        yield f"lora_unet_{name}_proj_out", width, width
        for block in range(depth):
            stem = f"lora_unet_{name}_transformer_blocks_{block}"
            for attention, context in (("attn1", width), ("attn2", 2048)):
                yield f"{stem}_{attention}_to_q", width, width
                yield f"{stem}_{attention}_to_k", context, width
                yield f"{stem}_{attention}_to_v", context, width
                yield f"{stem}_{attention}_to_out_0", width, width
            yield f"{stem}_ff_net_0_proj", width, 8 * width
            yield f"{stem}_ff_net_2", 4 * width, width


# The classes and configurations of the published models, where the classes' own are not those.
MODELS = {
    "flux": ("FluxTransformer2DModel", "guidance_embeds=True"),
    "chroma": ("ChromaTransformer2DModel", ""),
    "flux2": ("Flux2Transformer2DModel", ""),
    "klein": (
        "Flux2Transformer2DModel",
        "num_layers=8, num_single_layers=24, num_attention_heads=32, joint_attention_dim=12288, "
        "guidance_embeds=False",
    ),
    "hidream": (
        "HiDreamImageTransformer2DModel",
        "patch_size=2, in_channels=16, caption_channels=[4096, 4096], axes_dims_rope=(64, 32, 32)",
    ),
    "lumina2": ("Lumina2Transformer2DModel", "cap_feat_dim=2304"),
    "qwen": ("QwenImageTransformer2DModel", ""),
    "zimage": ("ZImageTransformer2DModel", ""),
}
STRUCTURE = """
import diffusers, torch
with torch.device("meta"):
    module = diffusers.{kind}({config})
shapes = {{name: tuple(weight.shape) for name, weight in module.named_parameters()}}
"""


def kohya(rank: int) -> Shapes:
    """An SDXL LoRA in kohya's keys."""
    for stem, inside, out in linears():
        yield f"{stem}.lora_down.weight", (rank, inside)
        yield f"{stem}.lora_up.weight", (out, rank)
        yield f"{stem}.alpha", ()


def whole(family: str, rank: int) -> Shapes:
    """A LoRA on every matrix that the family's table has, in diffusers' keys."""
    for name, (out, *inside) in ALL[family].models[-1].items():
        yield f"transformer.{name}.lora_A.weight", (rank, *inside)
        yield f"transformer.{name}.lora_B.weight", (out, rank)


def write(path: Path, shapes: Shapes) -> int:
    generator = np.random.default_rng(0)
    header: dict[str, object] = {}
    shapes = list(shapes)
    at = 0
    for key, shape in shapes:
        size = 2 * int(np.prod(shape))
        header[key] = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, shape in shapes:
            numbers = generator.standard_normal(shape, np.float32) * 0.02
            file.write(numbers.astype("<f2").tobytes())
    return path.stat().st_size


def run(call: str, path: Path, first: str = "") -> tuple[float, float, float]:
    """Memory before (MiB), seconds of processor time, peak memory (MiB) of a call in a process of
    its own."""
    answer = subprocess.run(
        [sys.executable, "-c", CHILD.format(call=call, first=first), str(path)],
        check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1],
    ).stdout.split()  # fmt: skip
    before, seconds, peak = map(float, answer)
    return before, seconds, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rank", type=int, default=38)
    parser.add_argument("--family", nargs="*", choices=MODELS, default=[])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.safetensors"
        if not asked.family:
            size = write(path, kohya(asked.rank))
            print(f"{size / 1e6:.0f} MB, 722 modules, rank {asked.rank}, F16")
            print("| operation | seconds | peak memory (MiB) |\n|---|---|---|")
            for name, call in OPERATIONS.items():
                _, seconds, peak = run(call, path)
                print(f"| {name} | {seconds:.3f} | {peak:.0f} |", flush=True)
            return
        print("| for | matrices | file | recognised | placed | memory | all read | memory |")
        print("|---|---|---|---|---|---|---|---|")
        for family in asked.family:
            size = write(path, whole(family, asked.rank))
            kind, config = MODELS[family]
            _, known, _ = run(OPERATIONS["inspect"], path)
            before, placed, peak = run(PLACED, path, STRUCTURE.format(kind=kind, config=config))
            bare, read, most = run(OPERATIONS["read all factors"], path, "import torch")
            print(
                f"| {ALL[family].words}, rank {asked.rank} | {len(ALL[family].models[-1])} | "
                f"{size / 1e6:.0f} MB | {known:.2f} s | {placed:.2f} s | {peak - before:.0f} MiB | "
                f"{read:.2f} s | {most - bare:.0f} MiB |",
                flush=True,
            )


if __name__ == "__main__":
    main()
