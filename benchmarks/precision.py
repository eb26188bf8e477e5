"""What a device or a dtype does to pictures, scores and the answer of the demo study.

    python benchmarks/precision.py                                    # CPU: three dtypes
    python benchmarks/precision.py --on cuda:float16 cuda:bfloat16    # a GPU against the CPU

The first run (CPU, float32) is the reference. For every other one: how far pictures lie from its
pictures in grey levels, how far BRISQUE and SSIM lie from its scores, and whether the same setting
comes out.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from datetime import date
from decimal import Decimal
from math import isfinite, nan
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402
from machine import device_name  # noqa: E402

import sample_data  # noqa: E402
from analysers.runs.loop import run_study  # noqa: E402
from analysers.runs.plan import plan_study  # noqa: E402
from analysers.runs.request import StudyRequest  # noqa: E402
from analysers.study import Study  # noqa: E402
from generation.pictures.pixels import read_image  # noqa: E402
from generation.prompts import read_prompts  # noqa: E402


def study(where: str, out: Path, prompts: int, batch_size: int) -> Study:
    """The demo's strength study on a device in a dtype, such as "cpu:float32"."""
    device, dtype = where.rsplit(":", 1)
    demo = sample_data.DEMOS["strength"]
    request = StudyRequest.of(
        "strength", loras=[sample_data.PATH / demo["loras"]], model="demo", out=out,
        strengths=[Decimal(i) / 5 for i in range(1, 9)],
        prompts=read_prompts(sample_data.PATH / "prompts.txt")[:prompts], seeds=(1,),
        device=device, dtype=dtype, batch_size=batch_size,
        **json.loads((sample_data.PATH / "settings.json").read_text()),
    )  # fmt: skip
    return run_study(plan_study(request))


def against(reference: Study, other: Study, roots: tuple[Path, Path]) -> dict[str, Any]:
    """Differences of two runs of the same study, picture by picture."""
    theirs = {(s.candidate and s.candidate.strength, s.case): s for s in other.scores}
    pairs = [(s, theirs[s.candidate and s.candidate.strength, s.case]) for s in reference.scores]
    grey, worst = [], []
    for one, two in pairs:
        a, b = (read_image(root / s.image).astype(int)
                for root, s in zip(roots, (one, two), strict=True))  # fmt: skip
        grey.append(float(np.abs(a - b).mean()))
        worst.append(int(np.abs(a - b).max()))
    found: dict[str, Any] = {
        "grey_levels_mean": fmean(grey), "grey_levels_largest": max(worst),
        "failed": sum(s.status == "failed" for s in other.scores),
    }  # fmt: skip
    for metric in ("brisque", "ssim"):
        both = [(one.values.get(metric, nan), two.values.get(metric, nan)) for one, two in pairs]
        apart = [b - a for a, b in both if isfinite(b - a)]  # controls have no SSIM
        found[metric] = {"mean": fmean(apart), "mean_absolute": fmean(map(abs, apart)),
                         "largest": max(map(abs, apart))}  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--on", nargs="+", default=["cpu:float16", "cpu:bfloat16"])
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--note", default="")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    record: dict[str, Any] = {
        "date": date.today().isoformat(), "note": arguments.note,
        "device": {w: device_name(w.rsplit(":", 1)[0]) for w in ("cpu:float32", *arguments.on)},
        "reference": "cpu:float32", "against_it": {},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        count, size = arguments.prompts, arguments.batch_size
        reference = study("cpu:float32", root / "reference", count, size)
        record["answer"] = reference.verdict.answer
        # The same in other batches: what rounding alone does.
        for where, batch in (("cpu:float32", 1), *((w, size) for w in arguments.on)):
            name = where if batch == size else f"{where}, batches of {batch}"
            folder = root / name.replace(":", "_")
            other = study(where, folder, count, batch)
            record["against_it"][name] = {
                **against(reference, other, (root / "reference", folder)),
                **{
                    f"same_{name}": getattr(other.verdict, name) == getattr(reference.verdict, name)
                    for name in ("best", "strongest_clean", "breakdown")
                },
                "answer": other.verdict.answer,
            }
    text = json.dumps(record, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
