"""Whatever is asked for, and wherever: what was the user's before is there afterwards.

Random folders with links of both kinds, random options, `--out` in every awkward place; each file
that is opened for writing lies in the run folder, and nothing is opened beside what was named.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import sample_data
from analysers.commands.main import analyse_strength
from generation.folder import MARKER

SOURCE = sample_data.PATH / "pictures" / "strengths"
RESULTS = ("report.html", "scores.csv", "summary.csv", "study.json", "run.json", "measured.jsonl",
           "summary.md", "contact_sheet.png", "sweep.webp")  # fmt: skip

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links need rights there")

_opened: list[tuple[str, bool]] | None = None


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event == "open" and isinstance(arguments[0], str | bytes | Path):
        writes = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        _opened.append((os.path.realpath(os.fsdecode(arguments[0])), writes))


sys.addaudithook(_listen)


@contextmanager
def listening() -> Iterator[list[tuple[str, bool]]]:
    """Every file that is opened inside the block: its path, and whether for writing."""
    global _opened
    _opened = opened = []
    try:
        yield opened
    finally:
        _opened = None


def state(folder: Path) -> dict[str, str]:
    """What lies in the folder, links as links."""
    found = {}
    for path in folder.rglob("*"):
        if MARKER in path.parts:
            continue
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = "-> " + os.readlink(path)
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def users_world(tmp: Path, rng: random.Random) -> Path:
    """Pictures, LoRAs and secrets, with links among them."""
    home = tmp / "home"
    pictures, loras, secrets = home / "pictures", home / "loras", home / "secrets"
    for folder in (pictures, loras, secrets, home / "empty"):
        folder.mkdir(parents=True)
    for name in ("strength_0.1.png", "strength_0.5.png", "strength_0.9.png"):
        shutil.copy(SOURCE / name, pictures)
    shutil.copy(SOURCE / "control_01.png", home / "control.png")
    shutil.copy(sample_data.PATH / "lora" / "pstr.safetensors", loras)
    (loras / "pstr.json").write_text('{"notes": "mine"}')
    for name in (*RESULTS, "secret.png"):
        (secrets / name).write_bytes(rng.randbytes(60))
    odd = (
        lambda: (pictures / "more").symlink_to(secrets),
        lambda: (pictures / "strength_1.1.png").symlink_to(secrets / "secret.png"),
        lambda: os.link(secrets / "secret.png", pictures / "strength_1.3.png"),
        lambda: (pictures / "scan.tmp.png").write_bytes(b"mine"),
        lambda: (pictures / "strength_1.5.png").symlink_to("strength_1.5.png"),
        lambda: os.mkfifo(pictures / "pipe.png"),
    )
    for make in rng.sample(odd, rng.randint(0, len(odd))):
        make()
    return home


def places(home: Path, tmp: Path) -> dict[str, Path]:
    (tmp / "link to pictures").symlink_to(home / "pictures")
    (tmp / "link to nothing").symlink_to(tmp / "nothing")
    (tmp / "link to empty").symlink_to(home / "empty")
    return {
        "new": tmp / "run",
        "pictures": home / "pictures",
        "inside": home / "pictures" / "run",
        "parent": home,
        "loras": home / "loras",
        "file": home / "control.png",
        "link": tmp / "link to pictures",
        "dead link": tmp / "link to nothing",
        "link to empty": tmp / "link to empty",
        "secrets": home / "secrets",
    }


def tampered(out: Path, home: Path, rng: random.Random) -> None:
    """Results of ours that give way to links at the user's files, between two runs."""
    for name in rng.sample(RESULTS, 4):
        (out / name).unlink(missing_ok=True)
        target = home / "secrets" / name
        if rng.random() < 0.5:
            (out / name).symlink_to(target)
        else:
            os.link(target, out / name)
    if rng.random() < 0.5:
        for name in ("lock", "written"):
            (out / MARKER / name).unlink()
            os.link(home / "secrets" / "report.html", out / MARKER / name)


def run(*arguments: object) -> int:
    result = CliRunner().invoke(analyse_strength, [str(a) for a in arguments])
    assert result.exit_code in (0, 2, 3), result.output
    assert "Traceback" not in result.output
    return result.exit_code


PLACES = ("new", "pictures", "inside", "parent", "loras", "file", "link", "dead link",
          "link to empty", "secrets")  # fmt: skip


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("place", PLACES)
def test_nothing_of_the_users_changes(
    place: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(f"{place} {seed}")
    home = users_world(tmp_path, rng)
    out = places(home, tmp_path)[place]
    monkeypatch.chdir(tmp_path)
    before = state(home)
    asked = ["--images", home / "pictures", "--control", home / "control.png", "--jobs", 0]
    asked += rng.sample(["--single-file", "--share"], rng.randint(0, 2))
    others = place not in ("new", "link to empty") and seed
    asked += ["--allow-non-empty"] if others else []
    votes = tmp_path / "votes.json"
    votes.write_text(json.dumps({"kind": "lora-analysers votes", "format": 1, "settings": [],
                                 "votes": []}))  # fmt: skip
    with listening() as opened:
        assert run(*asked, "--out", out, "--dry-run") in (0, 2)
    assert not any(writes and path.startswith(str(tmp_path)) for path, writes in opened)
    assert state(home) == before, "a dry run writes nothing"
    with listening() as opened:
        code = run(*asked, "--out", out)
    inside = os.path.realpath(out)
    wrote = {path for path, writes in opened if writes and path.startswith(str(tmp_path))}
    assert all(path.startswith(inside + os.sep) for path in wrote), wrote
    secrets = str(home / "secrets")
    read = {Path(path).name for path, _ in opened if path.startswith(secrets)}
    assert place == "secrets" or read <= {"secret.png"}, "a link among the pictures leads there"
    if not others and place not in ("new", "inside", "link to empty"):
        assert code == 2
    if code == 2:
        assert state(home) == before
        return
    kept(before, home, out)
    if not (out / "scores.csv").is_file() or place != "new":
        return
    tampered(out, home, rng)
    before = state(home)
    assert run(*asked, "--out", out) in (0, 2, 3)
    kept(before, home, out)
    run("--report-only", out, "--votes", votes, *asked)
    kept(before, home, out)


def kept(before: dict[str, str], home: Path, out: Path) -> None:
    """All that was there is there, under its name or in the run folder's `previous`."""
    after = state(home)
    moved = set(state(out).values()) if out.exists() else set()
    for name, content in before.items():
        assert after.get(name) == content or content in moved, f"{name} was changed"
        if (home / name).parent.resolve() != out.resolve():
            assert after.get(name) == content, f"{name} was moved"
