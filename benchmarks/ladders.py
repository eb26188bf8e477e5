"""How BRISQUE takes known degradations: the figures behind the trust check and the margin.

    python benchmarks/ladders.py

Photographs (those that scikit-image, matplotlib and, where installed, scikit-learn ship) and flat
drawings made here go down the ladders of analysers/trust.py. Written to
benchmarks/results/ladders.json and ladders.md: tau per picture, which justifies the threshold of
the trust check; what each step costs on photographs, how much degradation five points are, and how
far a score moves when nothing is wrong (a shifted crop, a mirrored picture), which justify the
default of --margin.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from analysers import trust
from analysers.metrics.brisque import brisque
from analysers.metrics.metric import load_metric

RESULTS = Path(__file__).with_name("results")
MARGIN = 5.0
Pixels = np.ndarray


def photographs() -> dict[str, Pixels]:
    import matplotlib.cbook
    from skimage import data

    names = "astronaut brick camera chelsea coffee coins grass gravel hubble_deep_field moon "
    found = {name: getattr(data, name)() for name in (names + "retina rocket").split()}
    found["motorcycle"] = data.stereo_motorcycle()[0]
    hopper = matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    found["grace_hopper"] = np.asarray(Image.open(hopper).convert("RGB"))
    try:
        from sklearn.datasets import load_sample_images
    except ImportError:
        pass
    else:
        found["china"], found["flower"] = load_sample_images().images
    return {name: np.ascontiguousarray(image) for name, image in sorted(found.items())}


def drawing(seed: int, filled: bool) -> Pixels:
    """Shapes on a plain ground: a flat illustration when `filled`, else a line drawing."""
    generator = np.random.default_rng(seed)
    ground = tuple(generator.integers(180, 256, 3).tolist()) if filled else (255, 255, 255)
    image = Image.new("RGB", (512, 512), ground)
    pen = ImageDraw.Draw(image)
    for _ in range(14):
        x, y, size = (int(value) for value in generator.integers(0, 420, 3))
        box = [x, y, x + size // 3 + 30, y + size // 3 + 30]
        fill = tuple(generator.integers(0, 256, 3).tolist()) if filled else None
        shape = pen.ellipse if generator.random() < 0.5 else pen.rectangle
        shape(box, fill=fill, outline=(0, 0, 0), width=3)
    for _ in range(6):
        pen.line([int(v) for v in generator.integers(0, 512, 4)], fill=(0, 0, 0), width=3)
    return np.asarray(image)


def soft_drawing(seed: int) -> Pixels:
    """The flat illustration as an upscaler would have it: antialiased, with a soft gradient."""
    flat = Image.fromarray(drawing(seed, filled=True)).resize(
        (1024, 1024), Image.Resampling.NEAREST
    )
    small = np.asarray(flat.resize((512, 512), Image.Resampling.LANCZOS)).astype(float)
    ramp = np.linspace(-20, 20, 512)[:, None, None]
    return np.clip(np.rint(small + ramp), 0, 255).astype(np.uint8)


def five_points(
    pictures: dict[str, Pixels], degrade: Callable[..., Pixels], levels: list[float]
) -> tuple[float, list[float]]:
    """The level at which the median cost over the pictures reaches the margin, interpolated."""
    costs = []
    starts = {name: brisque(picture) for name, picture in pictures.items()}
    for level in levels:
        costs.append(
            float(np.median([brisque(degrade(p, level)) - starts[n] for n, p in pictures.items()]))
        )
    at = float(np.interp(MARGIN, costs, levels)) if max(costs) > MARGIN else float("nan")
    return at, costs


def shifted(picture: Pixels) -> list[float]:
    """How far BRISQUE moves when the frame moves by up to 8 pixels, which harms nothing."""
    height, width = picture.shape[:2]
    start = brisque(picture[8 : height - 8, 8 : width - 8])
    crops = [picture[y : y + height - 16, x : x + width - 16] for y in (0, 8, 15) for x in (3, 13)]
    return [brisque(crop) - start for crop in crops]


def mirrored(picture: Pixels) -> list[float]:
    """How far BRISQUE moves when the picture is mirrored, which harms nothing either."""
    return [brisque(picture[:, ::-1]) - brisque(picture)]


def main() -> None:
    photos = photographs()
    kinds = {
        "photograph": photos,
        "flat illustration": {f"#{i}": drawing(i, True) for i in range(10)},
        "soft illustration": {f"#{i}": soft_drawing(i) for i in range(10)},
        "line drawing": {f"#{i}": drawing(i, False) for i in range(10)},
    }
    rows = []
    metric = load_metric("brisque")
    for kind, pictures in kinds.items():
        for name, picture in pictures.items():
            ladders = [trust.ladder_scores(picture, metric)]
            found = trust.judge(ladders, better="lower", name="BRISQUE")
            rows.append(
                {
                    "kind": kind,
                    "picture": name,
                    "tau": found.tau,
                    "trusted": found.trusted,
                    **{ladder.name: ladder.tau for ladder in found.ladders},
                    "scores": {ladder.name: list(ladder.means) for ladder in found.ladders},
                }
            )
    fine: dict[str, tuple[Callable[..., Pixels], list[float]]] = {
        "blur, sigma in pixels": (trust.blurred, [0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),
        "white noise, sigma in grey levels": (trust.noisy, [1, 2, 4, 6, 8, 12]),
        "JPEG, 100 - quality": (trust.compressed, [5, 10, 20, 30, 40, 50, 60, 70]),
    }
    margins = {}
    for name, (degrade, levels) in fine.items():
        at, costs = five_points(photos, degrade, levels)
        margins[name] = {"levels": levels, "median_cost": costs, "five_points_at": at}
    record = {"pictures": rows, "margin": margins}
    for harmless in (shifted, mirrored):
        moved = np.abs([value for picture in photos.values() for value in harmless(picture)])
        record[harmless.__name__] = {
            "median": float(np.median(moved)),
            "95 %": float(np.quantile(moved, 0.95)),
            "most": float(moved.max()),
        }
    RESULTS.mkdir(exist_ok=True)
    text = to_markdown(record)
    (RESULTS / "ladders.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "ladders.md").write_text(text, encoding="utf-8")
    print(text)


def to_markdown(record: dict) -> str:
    ladders = [ladder[0] for ladder in trust._LADDERS]
    lines = [
        "# BRISQUE on ladders of known degradation",
        "",
        "| kind | pictures | called trusted | tau, lowest | median | highest | "
        + " | ".join(f"median tau, {ladder}" for ladder in ladders)
        + " |",
        "|---" * (6 + len(ladders)) + "|",
    ]
    kinds = list(dict.fromkeys(row["kind"] for row in record["pictures"]))
    for kind in kinds:
        rows = [row for row in record["pictures"] if row["kind"] == kind]
        taus = [row["tau"] for row in rows]
        each = " | ".join(f"{np.median([row[ladder] for row in rows]):.2f}" for ladder in ladders)
        lines.append(
            f"| {kind} | {len(rows)} | {sum(row['trusted'] for row in rows)} | {min(taus):.2f} "
            f"| {np.median(taus):.2f} | {max(taus):.2f} | {each} |"
        )
    lines += ["", "Median BRISQUE per step (untouched first):", ""]
    lines += ["| kind | " + " | ".join(ladders) + " |", "|---" * (1 + len(ladders)) + "|"]
    for kind in kinds:
        rows = [row for row in record["pictures"] if row["kind"] == kind]
        cells = [
            " ".join(
                f"{value:.0f}"
                for value in np.median([row["scores"][ladder] for row in rows], axis=0)
            )
            for ladder in ladders
        ]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "What gentle degradation costs on photographs, median in BRISQUE points:",
        "",
        "| ladder | level: cost | five points at |",
        "|---|---|---|",
    ]
    for name, found in record["margin"].items():
        steps = ", ".join(
            f"{level:g}: {cost:.1f}"
            for level, cost in zip(found["levels"], found["median_cost"], strict=True)
        )
        lines.append(f"| {name} | {steps} | {found['five_points_at']:.2f} |")
    lines += [
        "",
        "What harmless changes move the score by, in points:",
        "",
        "| change | median | 95 % | most |",
        "|---|---|---|---|",
        *(
            f"| {title} | " + " | ".join(f"{value:.2f}" for value in record[key].values()) + " |"
            for key, title in (
                ("shifted", "frame shifted by up to 8 pixels"),
                ("mirrored", "mirrored"),
            )
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
