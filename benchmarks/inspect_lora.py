"""Time and memory of reading a 200 MB LoRA: header, inspection, hash, factors, analysis.

    python benchmarks/inspect_lora.py [--rank 38]

Writes an SDXL-shaped kohya LoRA (722 modules, fp16) to a temporary folder; every operation runs in
a fresh process, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

OPERATIONS = {
    "import numpy and the readers": "pass",
    "read_header": "lora.read_header(path)",
    "inspect": "lora.inspect(path)",
    "tensor_hash": "lora.tensor_hash(path)",
    "read all factors": "deltas.modules(path)",
    "weight analysis": "weights.weight_report([Checkpoint(Path(path), 'x')])",
}
CHILD = """
import sys, time, resource
from pathlib import Path
import numpy
from analysers import weights
from generation.loras import deltas
from generation.loras import inspection as lora
from generation.cells import Checkpoint
path = sys.argv[1]
start = time.perf_counter()
{call}
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
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


def write(path: Path, rank: int) -> int:
    generator = np.random.default_rng(0)
    header: dict[str, object] = {"__metadata__": {"ss_base_model_version": "sdxl_base_v1-0"}}
    shapes = []
    for stem, inside, out in linears():
        shapes.append((f"{stem}.lora_down.weight", (rank, inside)))
        shapes.append((f"{stem}.lora_up.weight", (out, rank)))
        shapes.append((f"{stem}.alpha", ()))
    at = 0
    for key, shape in shapes:
        size = 2 * int(np.prod(shape))
        header[key] = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, shape in shapes:
            file.write(
                (generator.standard_normal(shape, np.float32) * 0.02).astype("<f2").tobytes()
            )
    return path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rank", type=int, default=38)
    rank = parser.parse_args().rank
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.safetensors"
        size = write(path, rank)
        print(f"{size / 1e6:.0f} MB, {sum(1 for _ in linears())} modules, rank {rank}, F16")
        print("| operation | seconds | peak memory (MiB) |\n|---|---|---|")
        for name, call in OPERATIONS.items():
            answer = subprocess.run(
                [sys.executable, "-c", CHILD.format(call=call), str(path)],
                check=True,
                capture_output=True,
                text=True,
                cwd=Path(__file__).parents[1],
            ).stdout.split()
            print(f"| {name} | {float(answer[0]):.3f} | {float(answer[1]):.0f} |", flush=True)


if __name__ == "__main__":
    main()
