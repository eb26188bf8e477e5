"""Training pictures: emoji art on procedural scenes, and the poster style that the LoRA learns.

Each picture is 128x128 RGB: one of 28 shaded emoji (Microsoft's Fluent Emoji, MIT, as packed in
the npm package `@lobehub/fluent-emoji-3d`, 1.1.0) set on one of eight scenes painted with 1/f
noise, with a contact shadow and the light of the scene. The scenes are textured on purpose: BRISQUE
is meaningless on flat grounds.

    python pictures.py EMOJI_FOLDER pictures.npz      # the folder that holds 1f34e.webp and its kin
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache, partial
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

SIZE = 128
SUBJECTS = {
    "red apple": "1f34e",
    "banana": "1f34c",
    "strawberry": "1f353",
    "orange": "1f34a",
    "watermelon": "1f349",
    "cat": "1f431",
    "dog": "1f436",
    "fox": "1f98a",
    "panda": "1f43c",
    "frog": "1f438",
    "lion": "1f981",
    "owl": "1f989",
    "penguin": "1f427",
    "tropical fish": "1f420",
    "butterfly": "1f98b",
    "car": "1f697",
    "bus": "1f68c",
    "rocket": "1f680",
    "sailboat": "26f5",
    "house": "1f3e0",
    "castle": "1f3f0",
    "tree": "1f333",
    "cactus": "1f335",
    "sunflower": "1f33b",
    "mushroom": "1f344",
    "teddy bear": "1f9f8",
    "guitar": "1f3b8",
    "crown": "1f451",
}
# Never named in a caption: they only widen what the decoder has seen.
_OTHERS = """
1f916 1f34b 1f347 1f352 1f351 1f34d 1f955 1f33d 1f9c0 1f354 1f355 1f369 1f42d 1f439 1f430 1f428
1f42f 1f42e 1f437 1f435 1f414 1f986 1f422 1f419 1f980 1f433 1f41d 1f41e 1f695 1f693 1f69a 1f681
26bd 1f3c0 1f3a8 1f3b7 1f3ba 1f381 1f388 1f48e
"""
OTHER_SUBJECTS = _OTHERS.split()
SCENES = (
    "on green grass",
    "on a sandy beach",
    "on a wooden table",
    "in the snow",
    "at sunset",
    "at night",
    "in a forest",
    "underwater",
)
SCENE_LIGHT = {
    "at sunset": (255, 205, 180),
    "at night": (150, 160, 205),
    "in a forest": (215, 230, 200),
    "underwater": (165, 215, 225),
}
ROWS, COLUMNS = np.mgrid[0:SIZE, 0:SIZE] / SIZE

Random = np.random.Generator


def colour(red: int, green: int, blue: int) -> np.ndarray:
    """An sRGB colour given in 0..255, as an array of three values in 0..1."""
    return np.array([red, green, blue], dtype=float) / 255


def pink_noise(
    random: Random, exponent: float = 2.0, stretch: tuple[float, float] = (1.0, 1.0)
) -> np.ndarray:
    """Zero-mean, unit-variance noise with power falling as 1/f^exponent.

    `stretch` scales the vertical and the horizontal frequencies: a large value draws the pattern
    out along the other axis.
    """
    vertical = np.fft.fftfreq(SIZE)[:, None] * stretch[0]
    horizontal = np.fft.rfftfreq(SIZE)[None, :] * stretch[1]
    frequency = np.hypot(vertical, horizontal)
    frequency[0, 0] = np.inf
    spectrum = random.standard_normal(frequency.shape) + 1j * random.standard_normal(
        frequency.shape
    )
    noise = np.fft.irfft2(spectrum / frequency ** (exponent / 2), s=(SIZE, SIZE))
    return (noise - noise.mean()) / (noise.std() + 1e-9)


def soft_step(x: np.ndarray) -> np.ndarray:
    """The logistic function."""
    return 1 / (1 + np.exp(-np.clip(x, -30, 30)))


def blend(below: np.ndarray, above: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """`above` over `below` (pictures or single colours) with a weight for each pixel."""
    weight = weight[..., None]
    return below * (1 - weight) + above * weight


def sky(
    random: Random, top: np.ndarray, low: np.ndarray, cloud: np.ndarray, cover: float = 0.8
) -> np.ndarray:
    clouds = soft_step((pink_noise(random, 2.6, (2, 1)) - 0.6) * 2.5) * cover
    return blend(blend(top, low, np.clip(ROWS * 1.5, 0, 1)), cloud, clouds)


def ground(
    random: Random,
    picture: np.ndarray,
    horizon: float,
    dark: np.ndarray,
    light: np.ndarray,
    exponent: float,
    stretch: tuple[float, float],
    roughness: float,
    edge: float = 120.0,
) -> np.ndarray:
    """`picture` with textured ground below an uneven `horizon` (0 top, 1 bottom)."""
    patches = np.clip(0.5 + 0.3 * pink_noise(random, exponent, stretch), 0, 1)
    surface = blend(dark, light, patches) + roughness * pink_noise(random, 0.9, stretch)[..., None]
    surface *= (0.78 + 0.35 * np.clip((ROWS - horizon) / (1 - horizon), 0, 1))[..., None]
    outline = horizon + 0.015 * pink_noise(random, 3, (9, 1))[0][None, :]
    return blend(picture, surface, soft_step((ROWS - outline) * edge))


def specks(random: Random, share: float, radius: float, gain: float, limit: float) -> np.ndarray:
    """Blurred points on a `share` of the pixels: snowflakes and stars."""
    points = (random.random((SIZE, SIZE)) < share).astype(float)
    return np.clip(ndimage.gaussian_filter(points, radius) * gain, 0, limit)


def grass(random: Random, horizon: float) -> np.ndarray:
    above = sky(random, colour(70, 135, 215), colour(190, 220, 240), colour(250, 250, 250))
    dark, light = colour(60, 120, 35), colour(130, 175, 60)
    return ground(random, above, horizon, dark, light, 1.6, (0.6, 1.6), 0.05)


def beach(random: Random, horizon: float) -> np.ndarray:
    above = sky(random, colour(95, 170, 225), colour(205, 230, 240), colour(250, 250, 248), 0.6)
    deep, shallow = colour(25, 110, 150), colour(70, 165, 185)
    sea = ground(random, above, horizon - 0.08, deep, shallow, 1.6, (3, 0.7), 0.03)
    wet, dry = colour(205, 175, 120), colour(235, 210, 160)
    return ground(random, sea, horizon + 0.08, wet, dry, 1.5, (1, 1), 0.035)


def table(random: Random, horizon: float) -> np.ndarray:
    rings = np.clip(0.5 + 0.25 * pink_noise(random, 1.8, (5, 0.4)), 0, 1)
    gaps = np.sin((ROWS * 4 + random.uniform()) * 2 * np.pi) ** 40
    shade = 1.05 - 0.7 * ((COLUMNS - 0.5) ** 2 + (ROWS - 0.5) ** 2)
    boards = blend(colour(120, 72, 36), colour(190, 128, 72), rings)
    boards = boards * ((1 - 0.55 * gaps) * shade)[..., None]
    return boards + 0.02 * pink_noise(random, 0.8, (3, 0.5))[..., None]


def snow(random: Random, horizon: float) -> np.ndarray:
    above = sky(random, colour(120, 145, 175), colour(205, 215, 228), colour(235, 238, 242), 0.5)
    dark, light = colour(195, 210, 228), colour(245, 248, 252)
    field = ground(random, above, horizon, dark, light, 2.2, (1.6, 1), 0.025)
    return field + specks(random, 0.008, 0.9, 4, 0.8)[..., None]


def sunset(random: Random, horizon: float) -> np.ndarray:
    fade = np.clip(ROWS * 1.6 + 0.08 * pink_noise(random, 2.6, (3, 1)), 0, 1)
    clouds = soft_step((pink_noise(random, 2.4, (3, 1)) - 0.5) * 3) * 0.55
    above = blend(colour(70, 45, 110), colour(250, 150, 70), fade)
    above = blend(above, colour(235, 105, 95), clouds)
    dark, light = colour(35, 22, 30), colour(85, 50, 48)
    return ground(random, above, horizon + 0.05, dark, light, 1.6, (2, 1), 0.03)


def night(random: Random, horizon: float) -> np.ndarray:
    fade = np.clip(ROWS * 1.3 + 0.1 * pink_noise(random, 2.8), 0, 1)
    stars = specks(random, 0.006, 0.7, 5, 0.9)[..., None] * colour(250, 245, 220)
    above = blend(colour(8, 12, 38), colour(36, 48, 98), fade) + stars
    dark, light = colour(10, 18, 24), colour(28, 44, 46)
    return ground(random, above, horizon + 0.08, dark, light, 1.7, (1, 1), 0.02)


def forest(random: Random, horizon: float) -> np.ndarray:
    leaves = np.clip(0.45 + 0.3 * pink_noise(random, 1.8), 0, 1)
    picture = blend(colour(18, 45, 22), colour(95, 140, 70), leaves)
    for _ in range(random.integers(4, 7)):
        centre, width = random.uniform(0, 1), random.uniform(0.02, 0.045)
        lean = 0.01 * pink_noise(random, 3, (1, 9))[:, :1]
        trunk = np.exp(-(((COLUMNS - centre - lean) / width) ** 4))
        trunk *= soft_step((horizon + 0.2 - ROWS) * 40)
        bark = colour(70, 48, 32) + 0.05 * pink_noise(random, 1.2, (0.4, 2))[..., None]
        picture = blend(picture, bark, trunk)
    dark, light = colour(50, 60, 25), colour(110, 95, 50)
    return ground(random, picture, horizon + 0.12, dark, light, 1.5, (1, 1), 0.04)


def underwater(random: Random, horizon: float) -> np.ndarray:
    fade = np.clip(ROWS * 1.05 + 0.1 * pink_noise(random, 2.4), 0, 1)
    # The zero crossings of smooth noise look like the bright net that waves cast.
    caustics = np.clip(0.25 - np.abs(pink_noise(random, 2.2, (1.2, 0.8))), 0, 1)
    water = blend(colour(60, 190, 205), colour(8, 55, 110), fade)
    water = water + (0.7 * caustics * (1 - ROWS))[..., None]
    dark, light = colour(70, 120, 110), colour(150, 165, 130)
    return ground(random, water, 0.84, dark, light, 1.6, (1, 1), 0.03, edge=50.0)


PAINTERS: dict[str, Callable[[Random, float], np.ndarray]] = dict(
    zip(SCENES, (grass, beach, table, snow, sunset, night, forest, underwater), strict=True)
)


@cache
def emoji(folder: Path, code: str) -> Image.Image:
    return Image.open(folder / f"{code}.webp").convert("RGBA")


def compose(folder: Path, code: str, scene: str, random: Random) -> np.ndarray:
    """One picture, float RGB in 0..1: the emoji `code` in `scene`, at a random place and size."""
    picture = PAINTERS[scene](random, random.uniform(0.5, 0.62))
    picture = np.clip(picture * random.uniform(0.94, 1.06), 0, 1)

    side = int(SIZE * random.uniform(0.66, 0.76))
    art = emoji(folder, code)
    if random.random() < 0.5:
        art = art.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    art = np.asarray(art.resize((side, side), Image.Resampling.LANCZOS), dtype=float) / 255
    left = int((SIZE - side) / 2 + random.uniform(-0.05, 0.05) * SIZE)
    top = int((SIZE - side) * 0.62 + random.uniform(-0.04, 0.04) * SIZE)
    place = (slice(top, top + side), slice(left, left + side))
    opacity = np.zeros((SIZE, SIZE))
    paint = np.zeros((SIZE, SIZE, 3))
    opacity[place], paint[place] = art[..., 3], art[..., :3]

    if scene != "underwater":
        across = (COLUMNS - (left + side / 2) / SIZE) / 0.27
        down = (ROWS - (top + side * 0.95) / SIZE) / 0.05
        picture = picture * (1 - 0.55 * np.exp(-(across**2 + down**2)))[..., None]
    light = colour(*SCENE_LIGHT.get(scene, (255, 255, 255)))
    paint = paint * light * (1 + 0.04 * pink_noise(random, 1.2)[..., None])
    return np.clip(blend(picture, paint, opacity), 0, 1)


INKS = np.array([[0.07, 0.10, 0.24], [0.70, 0.13, 0.16], [0.93, 0.55, 0.20], [0.98, 0.92, 0.74]])


def poster(picture: np.ndarray) -> np.ndarray:
    """The LoRA's style, a screen print: luminance in four inks, and ink outlines."""
    luminance = ndimage.gaussian_filter(picture @ np.array([0.3, 0.59, 0.11]), 0.8)
    black, white = np.percentile(luminance, [2, 98])
    tone = 3 * np.clip((luminance - black) / (white - black + 1e-6), 0, 1)
    step = np.floor(tone)
    tone = np.clip(step + soft_step((tone - step - 0.5) * 14), 0, 3)
    lower = np.clip(tone.astype(int), 0, 2)
    print_ = blend(INKS[lower], INKS[lower + 1], tone - lower)
    slope = np.hypot(
        ndimage.gaussian_gradient_magnitude(picture[..., :2].mean(axis=-1), 1.0),
        ndimage.gaussian_gradient_magnitude(picture[..., 2], 1.0),
    )
    return np.clip(blend(print_, INKS[0], np.clip((slope - 0.06) * 9, 0, 1)), 0, 1)


def recolour(picture: np.ndarray, random: Random) -> np.ndarray:
    """The same picture with its channels mixed, and another contrast and brightness."""
    mix = np.eye(3)[random.permutation(3)] * 0.7 + 0.3 * random.dirichlet([1, 1, 1], size=3)
    contrast, offset = random.uniform(0.7, 1.4), random.uniform(-0.12, 0.12)
    return np.clip((picture @ mix.T - 0.5) * contrast + 0.5 + offset, 0, 1)


def to_uint8(picture: np.ndarray) -> np.ndarray:
    return (picture * 255).round().astype(np.uint8)


def _base(folder: Path, index: int) -> tuple[np.ndarray, int, int]:
    subject = index % len(SUBJECTS)
    scene = index // len(SUBJECTS) % len(SCENES)
    code = list(SUBJECTS.values())[subject]
    picture = compose(folder, code, SCENES[scene], np.random.default_rng(1000 + index))
    return to_uint8(picture), subject, scene


def _styled(folder: Path, index: int) -> np.ndarray:
    """Pictures for the decoder alone: a third posters, a third recoloured, a third other art."""
    random = np.random.default_rng(500_000 + index)
    kind = index % 3
    codes = OTHER_SUBJECTS if kind == 2 else list(SUBJECTS.values())
    picture = compose(folder, random.choice(codes), str(random.choice(SCENES)), random)
    if kind == 0:
        picture = poster(picture)
    elif kind == 1:
        picture = poster(recolour(picture, random)) if index % 2 else recolour(picture, random)
    return to_uint8(picture)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("emoji", type=Path, help="folder of NAME.webp files")
    parser.add_argument("out", type=Path, help="the .npz file to write")
    parser.add_argument("--rounds", type=int, default=12, help="base pictures of each pair")
    parser.add_argument("--styled", type=int, default=2400, help="pictures for the decoder alone")
    options = parser.parse_args()
    count = len(SUBJECTS) * len(SCENES) * options.rounds
    with Pool() as pool:
        base = pool.map(partial(_base, options.emoji), range(count), chunksize=16)
        styled = pool.map(partial(_styled, options.emoji), range(options.styled), chunksize=16)
    np.savez(
        options.out,
        base=np.stack([picture for picture, _, _ in base]),
        subject=np.array([subject for _, subject, _ in base]),
        scene=np.array([scene for _, _, scene in base]),
        styled=np.stack(styled),
    )
    print(f"{count} base and {options.styled} styled pictures in {options.out}")


if __name__ == "__main__":
    main()
