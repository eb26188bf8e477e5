"""A run folder from somebody else shows what came with it, and nothing else of this machine."""

import base64
import hashlib
import json
import os
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analysers.study import to_json
from reports import html, pictures


def secret(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((32, 32, 3), (1, 254, 1), np.uint8)).save(path)
    return path


def is_secret(picture: Image.Image) -> bool:
    pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
    return bool((np.abs(pixels - (1, 254, 1)).sum(axis=1) < 60).sum() > 100)


def shown(folder: Path) -> bool:
    """Whether the secret is in anything that was written."""
    page = (folder / "report.html").read_text("utf-8")
    for part in page.split("data:image/webp;base64,")[1:]:
        import io

        data = base64.b64decode(part.split('"')[0])
        if is_secret(Image.open(io.BytesIO(data))):
            return True
    sweep = Image.open(folder / "sweep.webp")
    return is_secret(Image.open(folder / "contact_sheet.png")) or is_secret(sweep)


def written(study, folder, also=()):
    html.write_report(study, folder, single_file=True, also=also)
    pictures.write_contact_sheet(study, folder, also=also)
    pictures.write_animation(study, folder, also=also)


WAYS = ("absolute", "up", "linked file", "linked folder", "prefix", "control", "device", "pipe")


@pytest.mark.parametrize("way", WAYS)
def test_pictures_outside_are_left_out_and_counted(way, make_study, tmp_path):
    run, outside = tmp_path / "run", secret(tmp_path / "outside" / "secret.png")
    study = make_study(run, strengths=("0.4", "0.8"), prompts=("a cat",), seeds=(1,), size=64)
    if way == "linked file":
        (run / "images" / "x.png").symlink_to(outside)
    if way == "linked folder":
        (run / "images" / "y").symlink_to(outside.parent)
    if way == "prefix":
        secret(tmp_path / "run-other" / "secret.png")
    if way == "pipe":
        os.mkfifo(tmp_path / "pipe")
    path = {
        "absolute": str(outside),
        "control": str(outside),
        "up": "images/../../outside/secret.png",
        "linked file": "images/x.png",
        "linked folder": "images/y/secret.png",
        "prefix": str(tmp_path / "run-other" / "secret.png"),
        "device": "/dev/zero",
        "pipe": str(tmp_path / "pipe"),
    }[way]
    field = "control" if way == "control" else "image"
    study = replace(study, scores=tuple(replace(s, **{field: path}) for s in study.scores))
    written(study, run)
    assert not shown(run)
    page = html.build(pictures.only_inside(study, run), run)
    told = [text for side in page.argument for text in (*side.cautions, *side.more)]
    assert any("outside the run folder" in text for text in told)
    assert "secret.png" not in page.data and "outside/" not in page.data
    if way in ("absolute", "up", "linked file"):
        written(study, run, also=[outside.parent])
        assert shown(run), "asked for by name"


def test_pictures_of_the_run_folder_itself_are_all_shown(strength_study):
    study, folder = strength_study
    assert pictures.only_inside(study, folder) is study


@pytest.mark.parametrize("seed", range(12))
def test_nothing_outside_is_read_or_changed(seed, make_study, tmp_path, monkeypatch):
    """Random paths in a study: whatever is opened lies in the run folder."""
    rng = random.Random(seed)
    run = tmp_path / "run"
    study = make_study(run, strengths=("0.4", "0.8"), prompts=("a cat",), seeds=(1,), size=64)
    places = [secret(tmp_path / name) for name in ("a.png", "b/c.png", "run2/d.png")]
    (run / "link").symlink_to(tmp_path)

    def path(usual):
        return rng.choice(
            (usual, "", str(rng.choice(places)), f"../{rng.choice(places).relative_to(tmp_path)}",
             "link/a.png", "link/../a.png", "./../run/../a.png", "\0", "x" * 5000, "images", ".",
             "..", "/", "//" + str(places[0]), "~/a.png", "file:///etc/passwd", "\ud800")
        )  # fmt: skip

    scores = tuple(replace(s, image=path(s.image), control=path(s.control)) for s in study.scores)
    before = {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in places}
    opened = []
    usual = os.open
    monkeypatch.setattr(
        os, "open", lambda name, *a, **k: opened.append(name) or usual(name, *a, **k)
    )
    study = replace(study, scores=scores)
    json.loads(to_json(study))
    written(study, run)
    inside = os.path.realpath(run)
    for name in map(str, opened):
        real = os.path.realpath(name)
        assert not real.startswith(str(tmp_path)) or real.startswith(inside + os.sep), name
    assert before == {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in places}
