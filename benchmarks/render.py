"""The same study rendered three ways in one process: pictures per second and their ratios.

    python benchmarks/render.py                                    # the embedded model
    python benchmarks/render.py --architecture sd15 --device cuda   # real size, random weights
    python benchmarks/render.py --architecture sdxl --device cuda

"rebuild" loads the pipeline and the LoRA for every strength, as grid scripts do; "plain" is a
diffusers loop with `set_adapters` and one picture a call; "ours" is this engine. All three use the
same model, LoRA, sampler, steps, prompts and seeds, and write PNG files. On a GPU the share of the
measured matrix-product peak is told as well. Random weights cost the same time as trained ones.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from time import perf_counter
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import diffusers  # noqa: E402
import torch  # noqa: E402
from machine import device_name  # noqa: E402

import sample_data  # noqa: E402
from generation.cells import Case, Cell, Checkpoint, RenderSettings  # noqa: E402
from generation.pictures.store import Store  # noqa: E402
from generation.renderers.diffusers import engine as engines  # noqa: E402
from generation.renderers.diffusers.batches import balanced  # noqa: E402
from generation.renderers.diffusers.models import (  # noqa: E402
    CONFIGS,
    BaseModel,
    find_model,
    write_clip_tokenizer,
)
from generation.renderers.diffusers.render import DiffusersRenderer  # noqa: E402
from generation.renderers.renderer import land  # noqa: E402

SIZES = {"demo": 128, "sd15": 512, "sdxl": 1024}

TERAFLOP = {"sd15": 0.803 * 2, "sdxl": 6.761 * 2}
"""One guided denoising step of one picture at `SIZES`, two operations a multiply-add (measured with
torch's FlopCounter on the real configurations)."""

DECODE = {"sd15": 2.515, "sdxl": 10.470}


def random_model(architecture: str, folder: Path, device: str) -> Path:
    """A diffusers folder of real size with random half-precision weights, drawn on `device`."""
    import shutil

    import transformers

    family = {"sd15": "sd1", "sdxl": "sdxl"}[architecture]
    shutil.copytree(CONFIGS / family, folder)
    index = json.loads((folder / "model_index.json").read_text())
    torch.manual_seed(0)
    for part, (library, kind) in (
        (k, v) for k, v in index.items() if isinstance(v, list) and v[0] is not None
    ):
        if part.startswith("tokenizer"):
            write_clip_tokenizer(folder / part)
        elif part != "scheduler":
            maker = getattr(diffusers if library == "diffusers" else transformers, kind)
            with torch.device(device):
                if library == "diffusers":
                    module = maker.from_config(maker.load_config(folder, subfolder=part))
                else:
                    module = maker(maker.config_class.from_pretrained(folder, subfolder=part))
            module.to(torch.float16).save_pretrained(folder / part)
            del module
    return folder


def random_lora(model: BaseModel, folder: Path, rank: int = 16) -> Path:
    """A rank-16 LoRA on every attention matrix of the UNet, in kohya's layout."""
    from safetensors.torch import save_file

    with torch.device("meta"):
        config = diffusers.UNet2DConditionModel.load_config(model.path, subfolder="unet")
        unet = diffusers.UNet2DConditionModel.from_config(config)
    torch.manual_seed(1)
    tensors = {}
    for name, module in unet.named_modules():
        if isinstance(module, torch.nn.Linear) and (".attn1." in name or ".attn2." in name):
            stem = "lora_unet_" + name.replace(".", "_")
            tensors[f"{stem}.lora_down.weight"] = (
                torch.randn(rank, module.in_features).half() * 0.01
            )
            tensors[f"{stem}.lora_up.weight"] = torch.randn(module.out_features, rank).half() * 0.01
            tensors[f"{stem}.alpha"] = torch.tensor(float(rank))
    save_file(tensors, folder / "random.safetensors")
    return folder / "random.safetensors"


def matrix_peak(device: str, dtype: torch.dtype, size: int = 8192) -> float:
    """TFLOP/s of a large square product: the most that this device does in this type."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    start = perf_counter()
    for _ in range(20):
        a @ b
    torch.cuda.synchronize()
    return 20 * 2 * size**3 / (perf_counter() - start) / 1e12


def plain_pipeline(model: BaseModel, s: RenderSettings, lora: Path) -> Any:
    pipe = getattr(diffusers, model.traits.pipeline).from_pretrained(
        str(model.path), dtype=getattr(torch, s.dtype), local_files_only=True
    )
    pipe.scheduler = engines.scheduler(s.sampler, model)
    pipe.set_progress_bar_config(disable=True)
    pipe.to(s.device)
    pipe.load_lora_weights(str(lora), adapter_name="a")
    return pipe


def plain_picture(pipe: Any, s: RenderSettings, cell: Cell, folder: Path) -> None:
    picture = pipe(
        cell.case.prompt, negative_prompt="", width=s.width, height=s.height,
        num_inference_steps=s.steps, guidance_scale=s.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(cell.case.seed),
    ).images[0]  # fmt: skip
    name = f"{cell.strength}_{cell.case.name}.png"
    picture.save(folder / name)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    device = engines.choose_device(arguments.device)
    dtype = engines.choose_dtype(device, arguments.dtype)
    engines._quieten()
    size = arguments.size or SIZES[arguments.architecture]
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        root = Path(scratch)
        if arguments.architecture == "demo":
            model = find_model(str(sample_data.PATH / "model"))
            lora = sample_data.PATH / "lora" / "pstr.safetensors"
        else:
            model = find_model(str(random_model(arguments.architecture, root / "model", device)))
            lora = random_lora(model, root)
        cases = [
            Case(f"a picture of a {word} on green grass, pstr style", i, name=f"p{i:02d}_s{i}")
            for i, word in enumerate(["cat", "dog", "fox", "owl", "bee", "cow"] * 10)
        ][: arguments.cases]
        strengths = [Decimal(i + 1) / arguments.strengths for i in range(arguments.strengths)]
        checkpoint = Checkpoint(lora, lora.stem, tensor_hash="b" * 64)
        cells = [Cell(case, checkpoint, s) for s in strengths for case in cases]
        s = RenderSettings(
            "benchmark", "0", size, size, arguments.steps, 7.0, "dpmpp_2m_karras", dtype=dtype,
            device=device, compiled=arguments.compile, mixed=arguments.mixed,
            batch_size=balanced(len(cells if arguments.mixed else cases), arguments.batch_size),
        )  # fmt: skip

        def wait() -> None:
            if device.startswith("cuda"):
                torch.cuda.synchronize()

        def rebuild() -> int:
            few = strengths[: arguments.rebuilds]
            for strength in few:
                pipe = plain_pipeline(model, s, lora)
                pipe.set_adapters(["a"], [float(strength)])
                for cell in cells:
                    if cell.strength == strength:
                        plain_picture(pipe, s, cell, root)
            return len(few) * len(cases)

        kept: dict[str, Any] = {}

        def plain() -> int:
            for cell in cells:
                kept["pipe"].set_adapters(["a"], [float(cell.strength)])
                plain_picture(kept["pipe"], s, cell, root)
            return len(cells)

        def ours() -> int:
            store = Store(root / "run", s)
            renderer = DiffusersRenderer(s, lambda *_: kept["engine"])
            return sum(1 for _ in land(cells, renderer, store, resume=False))

        def timed(way: Callable[[], int]) -> dict[str, float]:
            wait()
            start = perf_counter()
            count = way()
            wait()
            seconds = perf_counter() - start
            return {"pictures": count, "seconds": seconds, "per_second": count / seconds}

        kept["pipe"] = plain_pipeline(model, s, lora)
        kept["engine"] = engines.Engine(
            model, device=device, dtype=dtype, sampler=s.sampler, steps=s.steps,
            guidance_scale=7.0, width=size, height=size, batch_size=s.batch_size,
            compiled=s.compiled, mixed=s.mixed,
        )  # fmt: skip
        plain_picture(kept["pipe"], s, cells[0], root)  # warm
        first = cells[: min(s.batch_size, len(cells if s.mixed else cases))]
        kept["engine"].prepare(first)
        kept["engine"].render([c.case for c in first], [c.strength for c in first if s.mixed])
        # The best of interleaved rounds: other work on the machine hits all ways alike.
        ways = {"plain": plain, "ours": ours} | ({"rebuild": rebuild} if arguments.rebuilds else {})
        rounds: list[dict[str, dict[str, float]]] = [
            {name: timed(way) for name, way in ways.items()} for _ in range(arguments.rounds)
        ]
        results = {
            name: max((r[name] for r in rounds), key=lambda result: result["per_second"])
            for name in rounds[0]
        }
    record: dict[str, Any] = {
        "date": date.today().isoformat(),
        "device": device_name(device),
        "note": arguments.note,
        "versions": engines.versions(),
        "architecture": arguments.architecture,
        "settings": {"size": size, "steps": s.steps, "dtype": dtype, "cases": len(cases),
                     "strengths": len(strengths), "batch_size": s.batch_size,
                     "compiled": s.compiled, "mixed": s.mixed, "threads": torch.get_num_threads()},
        "results": results,
        "rounds": [{name: r[name]["per_second"] for name in r} for r in rounds],
        "ratios": {name: results["ours"]["per_second"] / results[name]["per_second"]
                   for name in results if name != "ours"},
    }  # fmt: skip
    if device.startswith("cuda") and arguments.architecture in TERAFLOP:
        peak = matrix_peak(device, getattr(torch, dtype))
        scale = (size / SIZES[arguments.architecture]) ** 2  # attention grows faster; exact at 1
        work = s.steps * TERAFLOP[arguments.architecture] + DECODE[arguments.architecture]
        record["matrix_peak_tflops"] = peak
        record["share_of_peak"] = {
            name: result["per_second"] * work * scale / peak for name, result in results.items()
        }
    return record


def scoring(arguments: argparse.Namespace) -> dict[str, Any]:
    """What scoring adds to the wall time of the demo study."""
    from analysers.runs.loop import run_study
    from analysers.runs.plan import plan_study
    from analysers.runs.request import StudyRequest
    from generation.prompts import read_prompts

    settings = json.loads((sample_data.PATH / "settings.json").read_text())
    seconds: dict[str, list[float]] = {"painted": [], "painted and scored": []}
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:

        def plan(name: str) -> Any:
            request = StudyRequest.of(
                "strength", loras=[sample_data.PATH / "lora" / "pstr.safetensors"], model="demo",
                out=Path(scratch, name), strengths=[Decimal("0.5"), Decimal(1), Decimal("1.5")],
                prompts=read_prompts(sample_data.PATH / "prompts.txt")[: arguments.cases],
                seeds=(1,), device=arguments.device, **settings,
            )  # fmt: skip
            return plan_study(request)

        for turn in range(arguments.rounds):
            start = perf_counter()
            only = plan(f"a{turn}")
            renderer = only.renderer.begin(only.usable, only.out)
            for _ in land(only.cells, renderer, Store(only.out, renderer)):
                pass
            seconds["painted"].append(perf_counter() - start)
            start = perf_counter()
            run_study(plan(f"b{turn}"))
            seconds["painted and scored"].append(perf_counter() - start)
    painted, scored = (min(values) for values in seconds.values())
    return {
        "date": date.today().isoformat(), "device": device_name(arguments.device),
        "note": arguments.note, "settings": settings, "pictures": len(only.cells),
        "seconds": seconds, "scoring_adds": scored / painted - 1,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--architecture", choices=sorted(SIZES), default="demo")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--size", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--strengths", type=int, default=4)
    parser.add_argument(
        "--rebuilds", type=int, default=4, help="strengths of the slowest way; 0 leaves it out"
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--mixed", action="store_true", help="many strengths in one batch")
    parser.add_argument("--scratch", default=None, help="folder for the model and pictures")
    parser.add_argument("--note", default="")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--scoring", action="store_true", help="what scoring adds, instead")
    arguments = parser.parse_args()
    if arguments.scoring:
        text = json.dumps(scoring(arguments), indent=1)
        print(text)
        if arguments.out:
            arguments.out.write_text(text + "\n")
        return
    record = run(arguments)
    text = json.dumps(record, indent=1)
    print(text)
    for name, result in record["results"].items():
        print(f"{name:8} {result['per_second']:8.3f} pictures/s")
    print(", ".join(f"ours / {name} {ratio:.2f}" for name, ratio in record["ratios"].items()))
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
