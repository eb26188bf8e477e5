"""What scoring one 512x512 candidate costs on one core, against the obvious alternatives.

    pip install piq torch                                        # the second contestant
    pip install --no-deps image-quality libsvm-official          # the third
    python benchmarks/score.py [--before TREE]

A candidate is decoded from its PNG and gets its SSIM to the control and its BRISQUE. The
contestants take turns within one run, so that the machine's moods strike all of them alike:

- ours: the control's maps are kept, as they are for every candidate of a case;
- piq + scikit-image: `piq.brisque` in float32, with LIVE's weights handed over from memory in place
  of its download, and `structural_similarity`;
- image-quality + scikit-image: what the two ancestor scripts called, with the shims below;
- decoding alone, the floor under all of them;
- with `--before` what another checkout of this repository needs for ours, in a process of its own.

All use one thread and are bound to one core where the system can do that. What counts is processor
time, which other programs on the machine disturb least; on an idle machine it is wall time. Results
are written to benchmarks/results/score.json and score.md.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import json
import os
import pickle
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from machine import processor
from PIL import Image
from skimage import data
from skimage.metrics import structural_similarity

from analysers.metrics import brisque as our_brisque
from analysers.metrics.luma import luma
from analysers.metrics.ssim import ControlMaps

RESULTS = Path(__file__).with_name("results")
AIMS = {"image-quality + scikit-image": 40.0, "piq + scikit-image": 3.0}
AIM_DECODING = 4.0
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

Contestant = Callable[[], tuple[float, float]]


def decode(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def library_ssim(image: np.ndarray, control: np.ndarray) -> float:
    return float(
        structural_similarity(
            luma(image),
            luma(control),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
        )
    )


def ours(png: bytes, control: np.ndarray) -> Contestant:
    maps = ControlMaps.of(luma(control))

    def score() -> tuple[float, float]:
        grey = luma(decode(png))  # both look at luma only, and pass grey pictures through
        return maps.ssim(grey), our_brisque.brisque(grey)

    return score


class Earlier:
    """What another checkout does for `ours`, in a process of its own that tells its own time."""

    def __init__(self, tree: Path, png: bytes, control: np.ndarray) -> None:
        self._worker = subprocess.Popen(
            [sys.executable, "-c", _EARLIER, str(tree), str(Path(__file__).parent)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._send = pickle.dumps((png, control))
        self._ask(len(self._send).to_bytes(8, "big") + self._send)

    def _ask(self, what: bytes) -> tuple[float, float]:
        assert self._worker.stdin is not None and self._worker.stdout is not None
        self._worker.stdin.write(what)
        self._worker.stdin.flush()
        one, other = map(float, self._worker.stdout.readline().split())
        return one, other

    def __call__(self) -> tuple[float, float]:
        return self._ask(b"s")

    def clock(self) -> float:
        """Processor seconds of the process so far."""
        return self._ask(b"t")[0]


_EARLIER = """
import pickle, sys, time
sys.path[:0] = sys.argv[1:3]
import score
told = sys.stdin.buffer
png, control = pickle.loads(told.read(int.from_bytes(told.read(8), "big")))
one = score.ours(png, control)
print(0.0, 0.0, flush=True)
while what := told.read(1):
    print(*(one() if what == b"s" else (time.process_time(), 0.0)), flush=True)
"""


def with_piq(png: bytes, control: np.ndarray, double: bool) -> Contestant:
    import piq
    import torch

    torch.set_num_threads(1)
    model = our_brisque._model()
    weights = torch.tensor(model.weights[:, None], dtype=torch.float32)
    vectors = torch.tensor(model.vectors, dtype=torch.float32)
    # piq downloads these numbers on first use; it transposes the vectors in place, hence a copy.
    sys.modules["piq.brisque"].load_url = lambda *_, **__: (weights, vectors.clone())  # type: ignore[attr-defined]
    dtype = torch.float64 if double else torch.float32

    def score() -> tuple[float, float]:
        image = decode(png)
        tensor = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].to(dtype) / 255
        return library_ssim(image, control), float(piq.brisque(tensor))

    return score


def with_image_quality(png: bytes, control: np.ndarray) -> Contestant:
    """image-quality 1.2.7 (2020) with the shims that today's libraries ask for.

    - It needs `libsvm.svmutil` as the package `libsvm` 3.23 had it; in `libsvm-official` that
      module no longer holds `PRECOMPUTED` (now `kernel_names.PRECOMPUTED`) and `c_double`.
    - It calls `rgb2gray` on pictures that are grey already, an error since scikit-image 0.19.
    - It calls `rescale(..., multichannel=False)`; the argument went in scikit-image 0.21.
    """
    import ctypes

    import skimage.color
    import skimage.transform
    from libsvm import svm, svmutil

    if not hasattr(svmutil, "PRECOMPUTED"):
        svmutil.PRECOMPUTED = svm.kernel_names.PRECOMPUTED
    svmutil.c_double = ctypes.c_double

    rgb2gray, rescale = skimage.color.rgb2gray, skimage.transform.rescale

    def tolerant_rgb2gray(image: np.ndarray) -> np.ndarray:
        return image if image.ndim == 2 else rgb2gray(image)

    def tolerant_rescale(image: np.ndarray, *arguments: Any, **options: Any) -> np.ndarray:
        options.pop("multichannel", None)
        return rescale(image, *arguments, **options)

    skimage.color.rgb2gray = tolerant_rgb2gray
    skimage.transform.rescale = tolerant_rescale
    from imquality import brisque as theirs

    def score() -> tuple[float, float]:
        image = decode(png)
        return library_ssim(image, control), float(theirs.score(Image.fromarray(image)))

    return score


def contestants(png: bytes, control: np.ndarray, before: Path | None) -> dict[str, Contestant]:
    """Those whose packages are installed; the others are named with the reason."""
    found: dict[str, Contestant] = {
        "decoding alone": lambda: (float(decode(png).ndim), 0.0),
        "ours": ours(png, control),
    }
    if before is not None:
        found["before"] = Earlier(before.resolve(), png, control)
    for name, build in {
        "piq + scikit-image": lambda: with_piq(png, control, double=False),
        "piq float64 + scikit-image": lambda: with_piq(png, control, double=True),
        "image-quality + scikit-image": lambda: with_image_quality(png, control),
    }.items():
        try:
            found[name] = build()
        except ImportError as error:
            print(f"{name}: left out ({error}); see the head of {Path(__file__).name}")
    return found


def device() -> dict[str, str]:
    packages = ("numpy", "scipy", "scikit-image", "pillow", "piq", "torch", "image-quality")
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "absent"
    return {
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        **versions,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--before", type=Path, help="another checkout of this repository")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        # numpy and torch read these when they are loaded, so begin again.
        again = [sys.executable, __file__, *sys.argv[1:]]
        raise SystemExit(subprocess.call(again, env={**os.environ, **ONE_THREAD}))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    control = data.astronaut()
    image = np.roll(control, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    racing = contestants(buffer.getvalue(), control, options.before)

    values = {name: score() for name, score in racing.items()}  # the first call warms up
    took: dict[str, list[float]] = {name: [] for name in racing}
    for _ in range(options.rounds):
        for name, score in racing.items():
            clock = getattr(score, "clock", time.process_time)
            start = clock()
            score()
            took[name].append(1000 * (clock() - start))

    milliseconds = {name: statistics.median(times) for name, times in took.items()}
    rows = []
    for name, median in milliseconds.items():
        ssim, brisque = values[name]
        rows.append(
            {
                "contestant": name,
                "ms_median": round(median, 2),
                "ms_fastest": round(min(took[name]), 2),
                "times_ours": round(median / milliseconds["ours"], 2),
                "ssim": None if name == "decoding alone" else ssim,
                "brisque": None if name == "decoding alone" else brisque,
            }
        )
    record = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "picture": "scikit-image's astronaut, 512x512 RGB, rolled two rows; control: unrolled",
        "rounds": options.rounds,
        "load": f"{os.getloadavg()[1]:.1f}",
        "device": device(),
        "rows": rows,
    }
    text = to_markdown(record, milliseconds)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "score.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (options.out / "score.md").write_text(text, encoding="utf-8")
    print(text)


def to_markdown(record: dict[str, Any], milliseconds: dict[str, float]) -> str:
    lines = [
        "# One 512x512 candidate on one core",
        "",
        f"{record['date']}; {record['rounds']} rounds, contestants taking turns; load of the "
        f"machine {record['load']}.",
        f"Picture: {record['picture']}.",
        "",
        "; ".join(f"{key} {value}" for key, value in record["device"].items()) + ".",
        "",
        "| contestant | median CPU ms | fastest | times ours | SSIM | BRISQUE |",
        "|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        ssim = "" if row["ssim"] is None else f"{row['ssim']:.10f}"
        brisque = "" if row["brisque"] is None else f"{row['brisque']:.6f}"
        lines.append(
            f"| {row['contestant']} | {row['ms_median']:.2f} | {row['ms_fastest']:.2f} "
            f"| {row['times_ours']:.2f} | {ssim} | {brisque} |"
        )
    lines.append("")
    for name, aim in AIMS.items():
        if name in milliseconds:
            factor = milliseconds[name] / milliseconds["ours"]
            verdict = "reached" if factor >= aim else "missed"
            lines.append(f"- {factor:.1f} times as fast as {name}; aim {aim:g}: {verdict}.")
        else:
            lines.append(f"- {name} was not installed, so it was not measured.")
    factor = milliseconds["ours"] / milliseconds["decoding alone"]
    verdict = "reached" if factor <= AIM_DECODING else "missed"
    lines.append(
        f"- {factor:.2f} times the decoding (decoding included); aim {AIM_DECODING:g}: {verdict}."
    )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
