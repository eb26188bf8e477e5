"""Finding pictures and pairing them with their controls, on real PNG files in real folders."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from analysers.intake.pairing import find_pictures
from generation.errors import UserError
from generation.pictures.infotext import parameters_text
from generation.pictures.pixels import write_png
from generation.pictures.readers.picture import PictureSet

GREY = np.full((8, 8, 3), 128, np.uint8)


def make(root: Path, *names: str, text: Mapping[str, str] | None = None, size: int = 8) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, np.full((size, size, 3), 128, np.uint8), text or {})


def infotext(
    lora: str = "",
    strength: str = "0.8",
    prompt: str = "a castle",
    digest: str = "",
    seed: int = 1,
    **more: object,
) -> dict[str, str]:
    values: dict[str, object] = {
        "negative": "",
        "steps": 20,
        "sampler": "euler",
        "guidance": 7.0,
        "width": 512,
        "height": 512,
        "model": "dream",
        "model_hash": "6ce0161689",
        **more,
    }
    return {
        "parameters": parameters_text(
            prompt=prompt,
            seed=seed,
            lora_name=lora,
            lora_hash=digest,
            strength=Decimal(strength),
            **values,  # type: ignore[arg-type]
        )
    }


def controls(found: PictureSet) -> list[str | None]:
    return [pair.control.name if pair.control else None for pair in found.pairs]


def strengths(found: PictureSet) -> list[str]:
    return [str(pair.picture.strength) for pair in found.pairs]


# --- the ancestors' names -------------------------------------------------------------------------


def test_one_control_for_all_strengths(tmp_path: Path) -> None:
    make(tmp_path, "strength_0.1.png", "strength_1.0.png", "strength_0.5.png", "control.png")
    found = find_pictures(tmp_path, axis="strength")
    assert strengths(found) == ["0.1", "0.5", "1.0"]
    assert controls(found) == ["control.png"] * 3
    assert {pair.case for pair in found.pairs} == {""}
    assert found.rejected == () and found.warnings == () and found.axis == "strength"


def test_numbered_controls_follow_the_strengths_in_order(tmp_path: Path) -> None:
    names = [f"strength_{i / 10}.png" for i in range(1, 12)]
    make(tmp_path, *names, *(f"control_{i:02d}.png" for i in range(1, 12)))
    found = find_pictures(tmp_path, axis="strength")
    assert strengths(found)[-3:] == ["0.9", "1.0", "1.1"]
    assert controls(found) == [f"control_{i:02d}.png" for i in range(1, 12)]


def test_numbered_controls_follow_the_epochs_by_number_or_by_order(tmp_path: Path) -> None:
    make(tmp_path / "a", *(f"epoch_{i:02d}.png" for i in (1, 2, 10)))
    make(tmp_path / "a", *(f"control_{i:02d}.png" for i in (1, 2, 10)))
    by_number = find_pictures(tmp_path / "a", axis="epoch")
    assert [pair.picture.epoch for pair in by_number.pairs] == [1, 2, 10]
    assert controls(by_number) == ["control_01.png", "control_02.png", "control_10.png"]
    make(tmp_path / "b", *(f"epoch_{i:02d}.png" for i in (4, 8, 12)))
    make(tmp_path / "b", *(f"control_{i:02d}.png" for i in (1, 2, 3)))
    by_order = find_pictures(tmp_path / "b", axis="epoch")
    assert controls(by_order) == ["control_01.png", "control_02.png", "control_03.png"]


def test_a_numbered_control_that_is_missing_leaves_one_picture_alone(tmp_path: Path) -> None:
    make(tmp_path, "strength_0.1.png", "strength_0.2.png", "strength_0.3.png")
    make(tmp_path, "control_01.png", "control_02.png")
    found = find_pictures(tmp_path, axis="strength")
    assert controls(found) == ["control_01.png", "control_02.png", None]
    assert "3 settings but 2 numbered controls" in found.warnings[0]
    assert "strength_0.3.png has no comparable control" in found.warnings[1]


def test_an_explicit_control_serves_all_and_is_no_picture_itself(tmp_path: Path) -> None:
    make(tmp_path, "strength_0.1.png", "strength_0.2.png", "strength_9.png")
    found = find_pictures(tmp_path, axis="strength", control=tmp_path / "strength_9.png")
    assert strengths(found) == ["0.1", "0.2"]
    assert controls(found) == ["strength_9.png"] * 2


@pytest.mark.parametrize(
    "names",
    [("01.png", "02.png"), ("strength_0.1.png", "strength_0.2.png"), ("0001.png", "0002.png")],
)
def test_a_folder_of_controls(tmp_path: Path, names: tuple[str, str]) -> None:
    make(tmp_path / "pictures", "strength_0.1.png", "strength_0.2.png")
    make(tmp_path / "base", *names)
    found = find_pictures(tmp_path / "pictures", axis="strength", controls=tmp_path / "base")
    assert controls(found) == list(names)


def test_cases_by_name(tmp_path: Path) -> None:
    make(tmp_path, "castle_strength_0.5.png", "dog_strength_0.5.png", "dog_strength_1.png")
    make(tmp_path, "control_castle.png", "control_dog.png")
    found = find_pictures(tmp_path, axis="strength")
    assert [(p.case, p.control.name if p.control else "") for p in found.pairs] == [
        ("castle", "control_castle.png"),
        ("dog", "control_dog.png"),
        ("dog", "control_dog.png"),
    ]


def test_no_control_at_all(tmp_path: Path) -> None:
    make(tmp_path, "strength_0.1.png", "strength_0.2.png")
    found = find_pictures(tmp_path, axis="strength")
    assert controls(found) == [None, None]
    assert found.warnings == (
        "2 pictures (strength_0.1.png, ...) have no comparable control: none was found",
    )


def test_strength_zero_is_the_control_where_there_is_none(tmp_path: Path) -> None:
    make(tmp_path, "strength_0.0.png", "strength_0.5.png", "strength_1.0.png")
    found = find_pictures(tmp_path, axis="strength")
    assert strengths(found) == ["0.5", "1.0"]
    assert controls(found) == ["strength_0.0.png"] * 2
    assert "strength 0" in found.warnings[0]
    make(tmp_path, "control.png")
    assert strengths(find_pictures(tmp_path, axis="strength")) == ["0.0", "0.5", "1.0"]


def test_strength_zero_per_case(tmp_path: Path) -> None:
    make(tmp_path, "dog_strength_0.png", "dog_strength_1.png", "dog_control.png")
    make(tmp_path, "cat_strength_0.png", "cat_strength_1.png")
    found = find_pictures(tmp_path, axis="strength", controls=None)
    pairs = [(p.picture.path.name, p.control.name if p.control else None) for p in found.pairs]
    assert pairs == [
        ("dog_strength_0.png", "dog_control.png"),
        ("cat_strength_1.png", "cat_strength_0.png"),
        ("dog_strength_1.png", "dog_control.png"),
    ]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_and_broken_links(tmp_path: Path) -> None:
    make(tmp_path, "strength_0.1.png", "control.png")
    os.mkfifo(tmp_path / "strength_0.2.png")
    (tmp_path / "strength_0.3.png").symlink_to(tmp_path / "gone.png")
    assert strengths(find_pictures(tmp_path, axis="strength")) == ["0.1", "0.3"]
    with pytest.raises(UserError, match="the folder of images itself"):
        find_pictures(tmp_path, axis="strength", controls=tmp_path)


def test_names_with_signs_commas_and_blanks(tmp_path: Path) -> None:
    make(tmp_path, "strength_-0.5.png", "Strength 0,25.png", "my weight=0.75.png", "baseball.png")
    found = find_pictures(tmp_path, axis="strength")
    assert strengths(found) == ["-0.5", "0.25", "0.75"]
    assert [r.path.name for r in found.rejected] == ["baseball.png"]
    assert found.rejected[0].reason == "neither its name nor its metadata tell the strength"


# --- our own run folder ---------------------------------------------------------------------------


def test_the_run_folder_without_metadata(tmp_path: Path) -> None:
    cases = ("p00_s1.png", "p00_s2.png", "p01_s1.png")
    for folder in ("control", "strength_0.60", "strength_0.80"):
        make(tmp_path / "images" / folder, *cases)
    make(tmp_path / "images" / "previous", *cases)
    found = find_pictures(tmp_path, axis="strength")
    assert strengths(found) == ["0.60"] * 3 + ["0.80"] * 3
    assert [pair.case for pair in found.pairs] == ["p00_s1", "p00_s2", "p01_s1"] * 2
    for pair in found.pairs:
        assert pair.control == tmp_path / "images" / "control" / pair.picture.path.name
    assert found.pairs[1].picture.seed == 2


def test_epochs_and_strengths_of_a_run_folder(tmp_path: Path) -> None:
    for epoch in (4, 7):
        make(tmp_path / "images" / f"epoch_{epoch:04d}", "p00_s1.png")
    make(tmp_path / "images" / "control", "p00_s1.png")
    found = find_pictures(tmp_path, axis="epoch")
    assert [pair.picture.epoch for pair in found.pairs] == [4, 7] and found.axis == "epoch"
    assert controls(found) == ["p00_s1.png"] * 2
    for epoch in (4, 7):
        (tmp_path / "images" / f"epoch_{epoch:04d}" / "p00_s1.png").unlink()
        for strength in ("0.60", "1.00"):
            make(tmp_path / "images" / f"epoch_{epoch:04d}" / f"strength_{strength}", "p00_s1.png")
    both = find_pictures(tmp_path, axis="epoch")
    assert both.axis == "both"
    assert [(p.picture.epoch, str(p.picture.strength)) for p in both.pairs] == [
        (4, "0.60"),
        (4, "1.00"),
        (7, "0.60"),
        (7, "1.00"),
    ]


def test_the_run_folder_with_its_metadata(tmp_path: Path) -> None:
    for number, prompt in enumerate(("a castle", "a dog")):
        name = f"p{number:02d}_s1.png"
        make(tmp_path / "control", name, text=infotext(prompt=prompt))
        for s in ("0.6", "0.8"):
            text = infotext("my", s, prompt, "ab" * 32)
            make(tmp_path / f"strength_{s}0", name, text=text)
    found = find_pictures(tmp_path, axis="strength")
    assert [(p.case, str(p.picture.strength)) for p in found.pairs] == [
        ("p00_s1", "0.6"),
        ("p01_s1", "0.6"),
        ("p00_s1", "0.8"),
        ("p01_s1", "0.8"),
    ]
    assert all(p.control and p.control.parent.name == "control" for p in found.pairs)
    assert found.pairs[0].picture.lora_hash == "abababababab"
    assert found.warnings == () and found.rejected == ()


# --- nothing usable -------------------------------------------------------------------------------


def test_nothing_found_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no pictures found in .*strength_0\.6\.png.*epoch_04"):
        find_pictures(tmp_path, axis="strength")
    make(tmp_path, "holiday.png")
    with pytest.raises(UserError, match=r"no usable pictures.*holiday\.png: neither"):
        find_pictures(tmp_path, axis="strength")
    with pytest.raises(UserError, match="images: .* does not exist"):
        find_pictures(tmp_path / "x", axis="strength")
    with pytest.raises(UserError, match="images: .* is not a folder"):
        find_pictures(tmp_path / "holiday.png", axis="strength")
    with pytest.raises(UserError, match="control: .* does not exist"):
        find_pictures(tmp_path, axis="strength", control=tmp_path / "x.png")
    with pytest.raises(UserError, match="controls: .* does not exist"):
        find_pictures(tmp_path, axis="strength", controls=tmp_path / "x")


def test_unreadable_pictures_are_left_for_the_scoring(tmp_path: Path) -> None:
    make(tmp_path, "strength_0.1.png", "control.png")
    (tmp_path / "strength_0.2.png").write_bytes(b"")
    (tmp_path / "strength_0.3.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    assert strengths(find_pictures(tmp_path, axis="strength")) == ["0.1", "0.2", "0.3"]


# --- the documentation ----------------------------------------------------------------------------


def test_every_test_that_the_documentation_names_exists() -> None:
    here = Path(__file__).parent
    text = (here.parents[1] / "docs" / "interfaces.md").read_text(encoding="utf-8")
    files = list(here.parent.glob("*/test_*.py"))
    code = "".join(path.read_text(encoding="utf-8") for path in files)
    known = set(re.findall(r"def (test_\w+)\(", code)) | {path.name for path in files}
    named = set(re.findall(r"`(test_[\w*]+(?:\.py)?)`", text))
    assert len(named) > 30
    assert [name for name in named if not fnmatch.filter(known, name)] == []


def test_among_strengths_what_tells_an_epoch_and_what_does_not_are_no_one_study(
    tmp_path: Path,
) -> None:
    """A picture without an epoch has no place among checkpoints, and is not the earliest."""
    plane = [f"epoch_{e}_strength_{s}.png" for e in (1, 2) for s in ("0.4", "0.8")]
    make(tmp_path / "plane", "control.png", "strength_0.6.png", *plane)
    found = find_pictures(tmp_path / "plane", axis="strength")
    assert found.axis == "both" and len(found.pairs) == 4
    assert [(r.path.name, r.reason) for r in found.rejected] == [
        ("strength_0.6.png", "neither its name nor its metadata tell the epoch or step")
    ]
    make(tmp_path / "line", "control.png", "strength_0.4.png", "strength_0.8.png", plane[0])
    found = find_pictures(tmp_path / "line", axis="strength")
    assert found.axis == "strength" and strengths(found) == ["0.4", "0.8"]
    assert [r.path.name for r in found.rejected] == [plane[0]]
    assert "tells an epoch or step" in found.rejected[0].reason
