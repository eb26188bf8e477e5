"""What has a picture's name and is none: one entry left out, with its reason, and never a wait."""

import os
import shutil
from pathlib import Path

import pytest

import sample_data
from analysers.intake.pairing import find_pictures
from generation.errors import UserError

from .test_files import strange, unix

SOURCE = sample_data.PATH / "pictures" / "strengths"

REASONS = {
    "pipe": "is a pipe, a socket or a device",
    "socket": "is a pipe, a socket or a device",
    "device": "is a pipe, a socket or a device",
    "terminal": "is a pipe, a socket or a device",
    "linked pipe": "is a pipe, a socket or a device",
    "loop": "Too many levels of symbolic links",
    "itself": "Too many levels of symbolic links",
    "dangling": "No such file or directory",
    "folder": "is a folder",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("strength_0.1.png", "strength_0.3.png"):
        shutil.copy(SOURCE / name, tmp_path)
    return tmp_path


@unix
@pytest.mark.parametrize("kind, reason", REASONS.items())
def test_each_is_left_out_with_its_reason(kind: str, reason: str, folder: Path) -> None:
    place = strange(kind, folder)
    found = find_pictures(folder, axis="strength", control=SOURCE / "control_01.png")
    assert len(found.pairs) == 2
    told = {one.path.name: one.reason for one in found.rejected}
    assert reason in told.pop(place.name)
    assert set(told) <= {"other.png"}  # the other half of the loop


@unix
@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".heic", ".JXL", ".Png"])
def test_so_under_every_ending_of_pictures(suffix: str, folder: Path) -> None:
    os.mkfifo(folder / f"strength_0.5{suffix}")
    found = find_pictures(folder, axis="strength", control=SOURCE / "control_01.png")
    assert len(found.pairs) == 2 and "is a pipe" in found.rejected[0].reason


@unix
@pytest.mark.parametrize("target", [".", "..", "elsewhere"])
def test_links_to_folders_are_named_and_not_followed(target: str, folder: Path) -> None:
    inside = folder / "in"
    inside.mkdir()
    for name in ("strength_0.1.png", "strength_0.3.png"):
        shutil.move(folder / name, inside / name)
    (folder / "elsewhere").mkdir()
    shutil.copy(SOURCE / "strength_0.5.png", folder / "elsewhere")
    link = "../elsewhere" if target == "elsewhere" else target
    (inside / "linked").symlink_to(link, target_is_directory=True)
    found = find_pictures(inside, axis="strength", control=SOURCE / "control_01.png")
    assert len(found.pairs) == 2
    assert [(r.path.name, "not followed" in r.reason) for r in found.rejected] == [("linked", True)]


def test_folders_too_far_down_are_named(folder: Path) -> None:
    deep = folder / "a" / "b" / "c" / "d" / "e"
    deep.mkdir(parents=True)
    shutil.copy(SOURCE / "strength_0.5.png", deep)
    found = find_pictures(folder, axis="strength", control=SOURCE / "control_01.png")
    assert len(found.pairs) == 2
    assert [r.path for r in found.rejected] == [deep]


@unix
@pytest.mark.parametrize("name", ["strength_0.5.png", "locked.png"])
def test_what_may_not_be_read(name: str, folder: Path) -> None:
    shutil.copy(SOURCE / "strength_0.5.png", folder / name)
    (folder / name).chmod(0)
    if os.access(folder / name, os.R_OK):
        pytest.skip("root reads everything")
    found = find_pictures(folder, axis="strength", control=SOURCE / "control_01.png")
    listed = [r for r in found.rejected if "Permission denied" in r.reason]
    assert len(found.pairs) + len(listed) == 3  # with a strength it is a row that failed


@unix
@pytest.mark.parametrize("kind", REASONS)
def test_a_folder_of_nothing_else_is_a_sentence(kind: str, tmp_path: Path) -> None:
    strange(kind, tmp_path)
    with pytest.raises(UserError, match="pictures found"):
        find_pictures(tmp_path, axis="strength")
