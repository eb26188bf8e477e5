"""The run folder: one writer, nothing of the user's lost, nothing outside touched."""

import hashlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from generation.errors import UserError
from generation.files import TEMPORARY, replacing, sweep
from generation.folder import (
    MARKER,
    check_folder,
    is_run_folder,
    open_run_folder,
    write_result,
)

RESULTS = ("report.html", "scores.csv", "summary.csv", "study.json", "run.json", "summary.md")


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and MARKER not in path.parts
    }


@pytest.mark.parametrize("name", [*RESULTS, "notes.txt", "images", "batch.json", "noise.json"])
def test_a_folder_of_the_users_is_refused_and_left_alone(name, tmp_path):
    if name == "images":
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.png").write_bytes(b"mine")
    else:
        (tmp_path / name).write_text('{"mine": 1}')
    before = contents(tmp_path)
    with pytest.raises(UserError, match="allow_non_empty"), open_run_folder(tmp_path):
        pass
    assert contents(tmp_path) == before and not (tmp_path / MARKER).exists()


@pytest.mark.parametrize("name", RESULTS)
def test_with_the_option_what_stands_in_the_way_is_kept(name, tmp_path):
    (tmp_path / name).write_text("mine")
    with open_run_folder(tmp_path, others=True):
        write_result(tmp_path / name, "ours")
        write_result(tmp_path / name, "ours again")
    assert (tmp_path / name).read_text() == "ours again"
    assert [p.read_text() for p in (tmp_path / "previous").iterdir()] == ["mine"]
    (tmp_path / name).write_text("changed by hand")
    with open_run_folder(tmp_path):
        write_result(tmp_path / name, "new")
    kept = sorted(p.read_text() for p in (tmp_path / "previous").iterdir())
    assert kept == ["changed by hand", "mine"]


@pytest.mark.parametrize(
    "name, text",
    [
        ("run.json", '{"format": 1, "command": [], "versions": {}}'),
        ("batch.json", '{"abc 64x64 float32 cpu": {"size": 2, "mixed": false}}'),
        ("measured.jsonl", '{"format": 1, "content": "", "values": {}, "pixels": ""}\n'),
    ],
)
def test_folders_of_the_first_version_are_known(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    assert is_run_folder(tmp_path)
    with open_run_folder(tmp_path):
        pass


def test_checking_writes_nothing(tmp_path):
    check_folder(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["images", "cells", "previous", MARKER])
def test_links_that_lead_out_are_refused(name, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("mine")
    run = tmp_path / "run"
    with open_run_folder(run):
        pass
    if name == MARKER:
        (run / MARKER / "lock").unlink()
        (run / MARKER).rmdir()
    (run / name).symlink_to(outside, target_is_directory=True)
    with pytest.raises(UserError, match="no folder inside"), open_run_folder(run, others=True):
        pass
    assert contents(outside) == contents(outside) and len(list(outside.iterdir())) == 1


@pytest.mark.parametrize("name", ["lock", "written"])
def test_what_is_written_to_follows_no_link(name, tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / "run" / MARKER).mkdir(parents=True)
    (tmp_path / "run" / MARKER / name).symlink_to(mine)
    with pytest.raises(UserError, match="remove it"), open_run_folder(tmp_path / "run"):
        write_result(tmp_path / "run" / "report.html", "ours")
    assert mine.read_text() == "mine"


def test_a_result_in_the_place_of_a_link_leaves_its_target(tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    run = tmp_path / "run"
    with open_run_folder(run):
        (run / "report.html").symlink_to(mine)
        write_result(run / "report.html", "ours")
    assert mine.read_text() == "mine" and (run / "report.html").read_text() == "ours"


HOLDER = """
import sys, time
from pathlib import Path
from generation.folder import open_run_folder
with open_run_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_process_is_told_who_writes_and_a_killed_one_lets_go(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        said = f"process {holder.pid} on .* since 2"
        with pytest.raises(UserError, match=said), open_run_folder(tmp_path / "run"):
            pass
        holder.send_signal(signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
        holder.wait()
        with open_run_folder(tmp_path / "run"), open_run_folder(tmp_path / "run"):
            pass
    finally:
        holder.kill()
        holder.communicate()


def test_only_dead_temporaries_of_ours_are_swept(tmp_path):
    users = ("scan.tmp.png", ".report.html.123.tmp", ".lora-analysers-mine.tmp", "a.tmp")
    for name in users:
        (tmp_path / name).write_text("mine")
    dead = tmp_path / "images" / (".lora-analysers-" + "0" * 32 + ".tmp")
    dead.parent.mkdir()
    dead.write_text("half")
    with replacing(tmp_path / "alive.json") as file:
        file.write(b"whole")
        (alive,) = (p for p in tmp_path.iterdir() if TEMPORARY.fullmatch(p.name))
        child = "import sys; from generation.files import sweep; sweep(sys.argv[1])"
        subprocess.run([sys.executable, "-c", child, str(tmp_path)], check=True)
        assert alive.exists()
    assert not dead.exists() and (tmp_path / "alive.json").read_bytes() == b"whole"
    assert all((tmp_path / name).read_text() == "mine" for name in users)
    sweep(tmp_path)
    assert not [p for p in tmp_path.rglob("*") if TEMPORARY.fullmatch(p.name)]


@pytest.mark.parametrize("seed", range(60))
def test_nothing_of_the_users_is_changed_whatever_the_folder_holds(seed, tmp_path):
    """Random folders: every byte that was there is there afterwards, inside and outside."""
    rng = random.Random(seed)
    outside, run = tmp_path / "outside", tmp_path / "run"
    (outside / "deep").mkdir(parents=True)
    for name in ("secret.png", "deep/notes.txt", "report.html"):
        (outside / name).write_bytes(rng.randbytes(50))
    run.mkdir()
    names = (*RESULTS, "measured.jsonl", "images/a.png", "images/scan.tmp.png", "previous/run.json",
             "previous/report.html", "cells/x.png", ".x.tmp", "deep/report.html")  # fmt: skip
    for name in rng.sample(names, rng.randint(1, 8)):
        path = run / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if rng.random() < 0.3:
            path.symlink_to(outside / rng.choice(("secret.png", "deep", "missing", "report.html")))
        elif rng.random() < 0.1:
            path.mkdir()
        else:
            path.write_bytes(rng.randbytes(50))
    if rng.random() < 0.3 and not (run / "images").exists():
        (run / "images").symlink_to(outside)
    before = contents(tmp_path)
    try:
        with open_run_folder(run, others=rng.random() < 0.7):
            for name in RESULTS:
                for text in ("one", "two"):
                    write_result(run / name, text)
    except UserError:
        assert contents(tmp_path) == before
        return
    after = contents(tmp_path)
    assert {k: v for k, v in after.items() if k.startswith("outside")} == {
        k: v for k, v in before.items() if k.startswith("outside")
    }
    assert set(before.values()) <= set(after.values())
    assert np.all([(run / name).read_text() == "two" for name in RESULTS])
