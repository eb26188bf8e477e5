"""Save the posters that the sample LoRA was trained on, and eight of the kind that it was not.

    python make_references.py EMOJI_FOLDER ..

`references/` gets the 24 pictures of `train_lora.py` as JPEG, with their captions beside them;
`held_out/` gets subjects and scenes in other pairs, drawn from another seed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from pictures import SCENES, SUBJECTS, compose, poster
from PIL import Image
from train_lora import TRIGGER, training_set


def held_out(folder: Path, taken: list[str], count: int = 8) -> tuple[np.ndarray, list[str]]:
    """Posters as in `training_set`, of captions that are not `taken`."""
    random = np.random.default_rng(12)
    names = list(SUBJECTS)
    pairs = [(names[(5 * i + 2) % len(names)], SCENES[(i + 3) % len(SCENES)]) for i in range(count)]
    captions = [f"a picture of a {name} {scene}, {TRIGGER}" for name, scene in pairs]
    assert not set(captions) & set(taken)
    posters = [poster(compose(folder, SUBJECTS[name], scene, random)) for name, scene in pairs]
    return np.stack(posters), captions


def save(posters: np.ndarray, captions: list[str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, (picture, caption) in enumerate(zip(posters, captions, strict=True), 1):
        image = Image.fromarray(np.rint(picture * 255).astype(np.uint8))
        image.save(folder / f"{number:02d}.jpg", quality=90, subsampling=0)
        (folder / f"{number:02d}.txt").write_text(caption + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("emoji", type=Path, help="folder of NAME.webp files")
    parser.add_argument("out", type=Path, help="the folder to write")
    options = parser.parse_args()
    posters, captions = training_set(options.emoji)
    save(posters, captions, options.out / "references")
    save(*held_out(options.emoji, captions), options.out / "held_out")


if __name__ == "__main__":
    main()
