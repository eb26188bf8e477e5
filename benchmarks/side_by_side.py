"""Five studies of the embedded model for real, each with the thrifty options and as a full grid.

    python benchmarks/side_by_side.py [--write benchmarks/results/side_by_side.md]

With the prompts, size and steps of the demo. Time (model loading, rendering, measuring, deciding;
by the clock and of the processor), pictures and the answer, one after the other on the same
machine, each in a fresh folder, after everything has been loaded and rendered once; then the
thrifty run is continued to the full grid, which must render exactly the rest and give the full
grid's scores. `--only 0 --prompts 4 --steps 2 --size 64` is a quick look at whether it works.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from machine import cpu_name

import sample_data
from analysers.runs.loop import run_study
from analysers.runs.plan import plan_study
from analysers.runs.request import StudyRequest
from analysers.study import Candidate, Kind, Study
from generation.prompts import read_prompts

LORA = sample_data.PATH / "lora"
SETTINGS = json.loads((sample_data.PATH / "settings.json").read_text(encoding="utf-8"))
PROMPTS = read_prompts(sample_data.PATH / "prompts.txt", 1000)
USUAL: Mapping[str, Any] = {
    "model": "demo", "prompts": PROMPTS, "seeds": "1", "device": "cpu",
    "size": f"{SETTINGS['width']}x{SETTINGS['height']}", "steps": SETTINGS["steps"],
    "guidance_scale": SETTINGS["guidance_scale"], "sampler": SETTINGS["sampler"],
}  # fmt: skip

STUDIES: Mapping[str, tuple[Kind, Mapping[str, Any], Mapping[str, Any]]] = {
    "strengths of epoch 6, --until-decided": (
        "strength",
        {"loras": LORA / "pstr-000006.safetensors", "strengths": "0.2:1.6:0.2"},
        {"until_decided": True},
    ),
    "strengths of the last epoch, --until-decided": (
        "strength",
        {"loras": LORA / "pstr.safetensors", "strengths": "0.25:2:0.25"},
        {"until_decided": True},
    ),
    "ten epochs at 1.0, --until-decided": (
        "epochs",
        {"loras": LORA, "strengths": "1"},
        {"until_decided": True},
    ),
    "twelve strengths of epoch 8, --refine --until-decided": (
        "strength",
        {"loras": LORA / "pstr-000008.safetensors", "strengths": "0.15:1.8:0.15"},
        {"refine": True, "until_decided": True},
    ),
    "ten epochs by four strengths, --refine --until-decided": (
        "epochs",
        {"loras": LORA, "strengths": "0.4:1.6:0.4"},
        {"refine": True, "until_decided": True},
    ),
}


def run(kind: Kind, out: Path, **fields: Any) -> tuple[Study, int, float, float]:
    """The study, the pictures painted for it, and seconds by the clock and of the processor, of
    the processes that measure too."""
    request = StudyRequest.of(kind, out=out, **{**USUAL, **fields})
    begin, worked = time.perf_counter(), _worked()
    study = run_study(plan_study(request), request)
    painted = study.run.rendered
    assert painted is not None
    spent = time.perf_counter() - begin, _worked() - worked
    return study, painted.pictures + painted.controls, *spent


def _worked() -> float:
    """Seconds of the processor that this process and its ended children have had."""
    return sum(os.times()[:4])


def named(study: Study, candidate: Candidate | None) -> str:
    return "none" if candidate is None else candidate.heading(study.kind)


def compared(name: str, place: Path, **changed: Any) -> str:
    """A table's row. Raises AssertionError where continuing paints anew or scores otherwise."""
    kind, subject, thrifty = STUDIES[name]
    subject = {**subject, **changed}
    less, few, quick, eased = run(kind, place / "less", **subject, **thrifty)
    full, all_of_it, slow, worked = run(kind, place / "full", **subject)
    rest, more, *_ = run(kind, place / "less", **subject)
    assert few + more == all_of_it, (few, more, all_of_it)
    assert [s.values for s in rest.scores] == [s.values for s in full.scores]
    uses = [named(study, study.verdict.recommended) for study in (full, less)]
    ends = [named(study, study.verdict.breakdown) for study in (full, less)]
    cells = (
        name, f"{all_of_it} / {few} ({few / all_of_it:.0%})",
        f"{slow:.0f} s / {quick:.0f} s", f"{worked:.0f} s / {eased:.0f} s", " / ".join(uses),
        " / ".join(ends),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path)
    parser.add_argument("--only", nargs="*", type=int, default=range(len(STUDIES)), metavar="N")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="so many of the demo's")
    parser.add_argument("--steps", type=int, default=USUAL["steps"])
    parser.add_argument("--size", default=USUAL["size"])
    o = parser.parse_args()
    changed = {"prompts": PROMPTS[: o.prompts], "steps": o.steps, "size": o.size}
    with tempfile.TemporaryDirectory() as warm:  # what is loaded or found out once is nobody's time
        run("strength", Path(warm), loras=LORA / "pstr.safetensors", strengths="1", **changed)
    begin = time.perf_counter()
    head = ("study", "pictures", "by the clock", "processor", "recommended", "breaks at")
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for name in [[*STUDIES][number] for number in o.only]:
        place = Path(tempfile.mkdtemp(prefix="side-"))
        try:
            lines.append(compared(name, place, **changed))
            print(lines[-1], flush=True)
        finally:
            shutil.rmtree(place, ignore_errors=True)
    took = (time.perf_counter() - begin) / 60
    what = f"{o.prompts} prompts, {o.steps} steps, {o.size}"
    where = f"{date.today()}, {cpu_name()}, {took:.0f} min"
    told = f"`python benchmarks/side_by_side.py`, {where}: {what}."
    text = "\n".join(["# Side by side, full grid / thrifty\n", told, "", *lines]) + "\n"
    print(text)
    if o.write:
        o.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
