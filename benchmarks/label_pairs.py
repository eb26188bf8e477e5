"""Pairs of a control and a picture with the LoRA, to be labelled blind: is the prompt still shown?

    python benchmarks/label_pairs.py RUN RUN SHEETS [--pairs 100] [--seed 0] [--without LABELS]

Writes contact sheets of numbered pairs in random order, control on the left, with the prompt and
nothing else, and `pairs.json`, which says what each number is: not to be looked at before the
labels are written down. Pairs that LABELS (a CSV file with run and image) holds are left out.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

ACROSS, DOWN = 5, 5
SIZE, GAP, LINE = 160, 8, 14


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="run folders, then the folder to write")
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without", type=Path, help="labels that are there already")
    options = parser.parse_args()
    *runs, sheets = options.runs
    known = csv.DictReader(options.without.open()) if options.without else ()
    labelled = {(row["run"], row["image"]) for row in known}
    sheets.mkdir(parents=True, exist_ok=True)
    found = []
    for run in runs:
        for row in json.loads((run / "study.json").read_text())["scores"]:
            if row["candidate"] is not None and (run.name, row["image"]) not in labelled:
                found.append((run, row))
    random = np.random.default_rng(options.seed)
    # as many of every candidate as of any other, near enough
    order = random.permutation(len(found))
    counts: dict[str, int] = {}
    turn = []
    for i in order:
        run, row = found[i]
        key = run.name + json.dumps(row["candidate"], sort_keys=True)
        counts[key] = counts.get(key, 0) + 1
        turn.append((counts[key], i))
    chosen = [found[i] for _, i in sorted(turn, key=lambda pair: pair[0])[: options.pairs]]
    chosen = [chosen[i] for i in random.permutation(len(chosen))]
    pairs = [
        {"number": n, "run": run.name, "image": row["image"], "case": row["case"]}
        for n, (run, row) in enumerate(chosen)
    ]
    (sheets / "pairs.json").write_text(json.dumps(pairs, indent=0) + "\n")
    each = ACROSS * DOWN
    width, height = 2 * SIZE + GAP, SIZE + 2 * LINE + GAP
    for page in range(0, len(chosen), each):
        sheet = Image.new("RGB", (ACROSS * width, DOWN * height), "white")
        pen = ImageDraw.Draw(sheet)
        for k, (run, row) in enumerate(chosen[page : page + each]):
            x, y = k % ACROSS * width, k // ACROSS * height
            said = row["prompt"].replace("a picture of a ", "").replace(", pstr style", "")
            pen.text((x + 2, y + 1), f"{page + k}: {said}", fill="black")
            for side, path in enumerate((row["control"], row["image"])):
                picture = Image.open(run / path).convert("RGB").resize((SIZE, SIZE))
                sheet.paste(picture, (x + side * SIZE, y + LINE))
        sheet.save(sheets / f"sheet{page // each}.png")


if __name__ == "__main__":
    main()
