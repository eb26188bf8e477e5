"""Metadata pairing, trainers' samples, mixed folders, joining to checkpoints, A1111's card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from analysers.intake.pairing import find_pictures
from analysers.intake.studies import join_checkpoints, split_studies
from generation.cells import Checkpoint
from generation.errors import UserError
from generation.loras.card import write_recommended_weight
from generation.pictures.infotext import parameters_text
from generation.pictures.pixels import write_png
from generation.pictures.readers.picture import Pair, Picture, PictureSet


def make(
    root: Path, *names: str, text: Mapping[str, str] | None = None, size: tuple[int, int] = (8, 8)
) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((size[1], size[0], 3), 128, np.uint8)
        if path.suffix == ".png":
            write_png(path, pixels, text or {})
        else:
            Image.fromarray(pixels).save(path)


def infotext(prompt: str, seed: int = 1, **more: str) -> dict[str, str]:
    """A1111's text with its usual settings; `more` replaces or adds some."""
    settings = {
        "Steps": "20",
        "Sampler": "Euler a",
        "Schedule type": "Automatic",
        "CFG scale": "7",
        "Seed": str(seed),
        "Size": "512x512",
        "Model hash": "6ce0161689",
        "Model": "dream",
    } | {key.replace("_", " "): value for key, value in more.items()}
    line = ", ".join(f"{key}: {value}" for key, value in settings.items())
    return {"parameters": f"{prompt}\nNegative prompt: ugly\n{line}"}


def hashes(text: str) -> dict[str, str]:
    return {"Lora_hashes": f'"{text}"'}


def table(found: PictureSet) -> list[tuple[object, object, object, str | None]]:
    return [
        (p.picture.epoch, p.picture.step, p.case, p.control.name if p.control else None)
        for p in found.pairs
    ]


# --- pairing by metadata --------------------------------------------------------------------------


def test_a_folder_of_a1111_pictures(tmp_path: Path) -> None:
    number = 0
    for seed in (1, 2):
        for prompt in ("a castle", "a dog, on a hill"):
            for strength in ("", "0.4", "0.8"):
                tag = f" <lora:my:{strength}>" if strength else ""
                make(tmp_path, f"{number:05d}-{seed}.png", text=infotext(prompt + tag, seed))
                number += 1
    found = find_pictures(tmp_path, axis="strength")
    assert len(found.pairs) == 8 and not found.warnings and not found.rejected
    assert len({pair.case for pair in found.pairs}) == 4
    assert {pair.case for pair in found.pairs} >= {"a-castle_s1", "a-dog-on-a-hill_s2"}
    for pair in found.pairs:
        assert pair.control is not None
        index = int(pair.picture.path.name[:5])
        assert pair.control.name.startswith(f"{index - index % 3:05d}-")
    assert found.pairs[0].picture.source == "A1111" and found.pairs[0].picture.lora == "my"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"Seed": "2"}, "seed 2 instead of 1"),
        ({"Steps": "30"}, "steps 30 instead of 20"),
        ({"Size": "768x512"}, "size 768x512 instead of 512x512"),
        ({"Sampler": "DDIM"}, "sampler DDIM instead of Euler a"),
        ({"CFG_scale": "5"}, "guidance 5 instead of 7"),
        ({"Model_hash": "0000000000", "Model": "other"}, "model other instead of dream"),
        ({"Clip_skip": "2"}, "clip skip 2 instead of 1"),
        ({"Hires_upscale": "2"}, "upscaling 2 instead of none"),
        ({"Clip_skip": "1"}, ""),
        ({"CFG_scale": "7.0"}, ""),
        ({"Model": "the same model renamed"}, ""),
    ],
)
def test_what_makes_a_control_not_comparable(
    tmp_path: Path, change: dict[str, str], reason: str
) -> None:
    make(tmp_path, "a.png", text=infotext("a castle <lora:my:0.8>"))
    make(tmp_path, "b.png", text=infotext("a castle", **change))
    found = find_pictures(tmp_path, axis="strength")
    if reason:
        assert found.pairs[0].control is None
        assert found.warnings == (f"a.png has no comparable control: b.png has {reason}",)
        assert found.rejected[0].path.name == "b.png"
        assert found.rejected[0].reason.startswith("has no LoRA, and no picture shares")
    else:
        assert found.pairs[0].control == tmp_path / "b.png" and not found.warnings


def test_a_trigger_is_taken_from_the_prompt(tmp_path: Path) -> None:
    for strength in ("0.4", "0.8"):
        text = infotext(f"pstr style, a castle, at dusk <lora:my:{strength}>")
        make(tmp_path, f"{strength}.png", text=text)
    make(tmp_path, "base.png", text=infotext("a castle, at dusk"))
    found = find_pictures(tmp_path, axis="strength")
    assert all(pair.control and pair.control.name == "base.png" for pair in found.pairs)
    assert found.warnings == ('"pstr style" is taken for the trigger: 2 controls lack only that',)
    told = find_pictures(tmp_path, axis="strength", triggers=["PSTR style"])
    assert all(pair.control for pair in told.pairs) and not told.warnings
    make(tmp_path, "base.png", text=infotext("a castle, at dusk, in rain"))
    other = find_pictures(tmp_path, axis="strength")
    assert [pair.control for pair in other.pairs] == [None, None]
    assert "base.png has another prompt" in other.warnings[0]


def test_an_explicit_control_that_differs_is_used_with_a_warning(tmp_path: Path) -> None:
    make(tmp_path, "a.png", text=infotext("a castle <lora:my:0.8>"))
    make(tmp_path, "b.png", text=infotext("a castle", 2))
    found = find_pictures(tmp_path, axis="strength", control=tmp_path / "b.png")
    assert found.pairs[0].control == tmp_path / "b.png"
    assert found.warnings == (
        "the control b.png is not quite comparable: it has seed 2 instead of 1",
    )


def test_background_loras_and_pictures_with_too_many(tmp_path: Path) -> None:
    detail = "<lora:detail:0.3>"
    make(tmp_path, "base.png", text=infotext(f"a castle {detail}"))
    for strength in ("0.4", "0.8"):
        text = infotext(f"a castle {detail} <lora:my:{strength}>")
        make(tmp_path, f"{strength}.png", text=text)
    make(tmp_path, "both.png", text=infotext(f"a castle {detail} <lora:my:1> <lora:third:1>"))
    make(tmp_path, "plain.png", text=infotext("a dog"))
    make(tmp_path, "twin.png", text=infotext(f"a castle {detail}"))
    found = find_pictures(tmp_path, axis="strength")
    assert [(p.picture.lora, str(p.picture.strength)) for p in found.pairs] == [
        ("my", "0.4"),
        ("my", "0.8"),
    ]
    assert all(p.control and p.control.name == "base.png" for p in found.pairs)
    assert found.pairs[0].picture.background[0].name == "detail"
    assert {r.path.name: r.reason.split(",")[0] for r in found.rejected} == {
        "both.png": "uses 2 LoRAs at once (my",
        "plain.png": "has no LoRA",
        "twin.png": "is a second control of the case that base.png is the control of",
    }


def test_grids_and_duplicates_are_listed(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "again.png", text=infotext("a castle <lora:my:0.8>"))
    grid = infotext("a castle <lora:my:0.8>", Script="X/Y/Z plot", X_Type="Prompt S/R")
    make(tmp_path, "grid.png", text=grid)
    make(tmp_path, "control.png")
    found = find_pictures(tmp_path, axis="strength")
    assert [pair.picture.path.name for pair in found.pairs] in (["a.png"], ["again.png"])
    assert {r.reason for r in found.rejected} == {
        "is a grid (X/Y/Z plot); give the single pictures",
        f"shows the same setting and case as {found.pairs[0].picture.path.name}",
    }


@pytest.mark.parametrize("damaged", ["strength_0.5.png", "strength_0.50.png", "strength_.5.png"])
def test_a_damaged_picture_takes_no_others_place(tmp_path: Path, damaged: str) -> None:
    make(tmp_path, "strength_0.5.png", "strength_0.50.png", "strength_.5.png", "control.png")
    (tmp_path / damaged).write_text("no picture")
    found = find_pictures(tmp_path, axis="strength")
    assert len(found.pairs) == 1 and found.pairs[0].picture.path.name != damaged
    assert damaged in {one.path.name for one in found.rejected}


def test_metadata_wins_over_names(tmp_path: Path) -> None:
    make(tmp_path, "strength_0.5.png", text=infotext("a castle <lora:my:0.8>"))
    make(tmp_path, "control.png", text=infotext("a castle"))
    found = find_pictures(tmp_path, axis="strength")
    assert found.pairs[0].picture.strength == Decimal("0.8")
    assert "strength_0.5.png has 0.8" in found.warnings[0]


def test_epochs_by_the_loras_name_the_final_one_last(tmp_path: Path) -> None:
    for name in ("run", "run-000004", "run-000008"):
        make(tmp_path, f"x{name}.png", text=infotext(f"a castle <lora:{name}:1>"))
    make(tmp_path, "y.png", text=infotext("a castle"))
    found = find_pictures(tmp_path, axis="epoch")
    assert [(p.picture.lora, p.picture.epoch) for p in found.pairs] == [
        ("run-000004", 4),
        ("run-000008", 8),
        ("run", None),
    ]
    assert found.axis == "epoch" and all(p.control for p in found.pairs)
    make(tmp_path, "z.png", text=infotext("a castle <lora:run-000004:0.5>"))
    assert find_pictures(tmp_path, axis="strength").axis == "both"


# --- trainers' samples ----------------------------------------------------------------------------


def test_kohya_samples(tmp_path: Path) -> None:
    for epoch in (0, 2, 4):
        for i in (0, 1):
            make(tmp_path, f"my_lora_e{epoch:06d}_{i:02d}_20240513150310_42.png")
    found = find_pictures(tmp_path, axis="epoch")
    first = "my_lora_e000000_{:02d}_20240513150310_42.png".format
    assert table(found) == [
        (2, None, "sample 00_s42", first(0)),
        (2, None, "sample 01_s42", first(1)),
        (4, None, "sample 00_s42", first(0)),
        (4, None, "sample 01_s42", first(1)),
    ]
    assert found.pairs[0].picture.lora == "my_lora" and found.pairs[0].picture.source == "kohya"
    with pytest.raises(UserError, match="neither its name nor its metadata tell the strength"):
        find_pictures(tmp_path, axis="strength")


def test_kohya_samples_with_the_time_first_and_without_seed(tmp_path: Path) -> None:
    make(tmp_path, "vlengies_20240513150310_e000000_00.png")
    make(tmp_path, "vlengies_20240513150310_004500_00.png", "20240513150310_005000_00.png")
    found = find_pictures(tmp_path, axis="epoch")
    assert [(p.picture.step, p.control) for p in found.pairs] == [(4500, None), (5000, None)]
    assert "2 samples have no seed in their names" in found.warnings[-1]
    assert "noise of its own" in found.warnings[0]


def test_a_resumed_run_keeps_the_later_sample(tmp_path: Path) -> None:
    make(tmp_path, "m_e000002_00_20240513150310_1.png", "m_e000002_00_20240514150310_1.png")
    found = find_pictures(tmp_path, axis="epoch")
    assert [p.picture.path.name for p in found.pairs] == ["m_e000002_00_20240514150310_1.png"]
    assert found.rejected[0].reason.startswith("shows the same setting")


def test_ai_toolkit_samples(tmp_path: Path) -> None:
    for number, step in enumerate((0, 250, 500)):
        make(tmp_path / "samples", f"172410439663{number}__{step:09d}_0.jpg")
    found = find_pictures(tmp_path, axis="epoch")
    assert table(found) == [
        (None, 250, "sample 00", "1724104396630__000000000_0.jpg"),
        (None, 500, "sample 00", "1724104396630__000000000_0.jpg"),
    ]
    assert found.warnings == ("2 pictures are JPEG: BRISQUE sees the compression as well",)


def test_onetrainer_samples(tmp_path: Path) -> None:
    stamp = "run2024-05-01_10-00-0{}-training-sample-{}-{}-0.png"
    for folder in ("0 - a castle, strength 3", "0 - a castle, strength 3 - no-ema", "1 - a dog"):
        for number, (step, epoch) in enumerate(((0, 0), (100, 1), (200, 2))):
            make(tmp_path / "samples" / folder, stamp.format(number, step, epoch))
    found = find_pictures(tmp_path, axis="epoch")
    base = stamp.format(0, 0, 0)
    assert table(found) == [
        (1, 100, "0 - a castle, strength 3", base),
        (1, 100, "1 - a dog", base),
        (2, 200, "0 - a castle, strength 3", base),
        (2, 200, "1 - a dog", base),
    ]
    for pair in found.pairs:
        assert pair.control is not None and pair.control.parent == pair.picture.path.parent
    unaveraged = [r for r in found.rejected if "without EMA" in r.reason]
    assert len(unaveraged) == 3
    assert all(r.path.parent.name.endswith("no-ema") for r in unaveraged)


def test_simpletuner_samples_stitched_ones_refused(tmp_path: Path) -> None:
    make(tmp_path / "benchmarks" / "base_model", "castle_64x64.png", size=(64, 64))
    folder = tmp_path / "validation_images"
    make(folder, "step_250_castle_0_64x64.png", "step_500_castle_0_64x64.png", size=(64, 64))
    make(folder, "step_750_castle_0_64x64.png", size=(133, 64))
    found = find_pictures(tmp_path, axis="epoch")
    assert table(found) == [
        (None, 250, "castle 64x64", "castle_64x64.png"),
        (None, 500, "castle 64x64", "castle_64x64.png"),
    ]
    assert [r.path.name for r in found.rejected] == ["step_750_castle_0_64x64.png"]
    assert "is 133 x 64 instead of 64 x 64" in found.rejected[0].reason
    assert "--disable_benchmark" in found.rejected[0].reason


# --- studies --------------------------------------------------------------------------------------


def test_a_mixed_folder_is_split_by_lora_and_settings(tmp_path: Path) -> None:
    for lora, digest in (("one", "a" * 12), ("two", "b" * 12)):
        for strength in ("0.4", "0.8"):
            for size in ("512x512", "768x512"):
                if (lora, size) == ("two", "768x512"):
                    continue
                more = {"Size": size, **hashes(f"{lora}: {digest}")}
                text = infotext(f"a castle <lora:{lora}:{strength}>", **more)
                make(tmp_path, f"{lora}{strength}{size}.png", text=text)
    make(tmp_path, "base512.png", text=infotext("a castle"))
    make(tmp_path, "base768.png", text=infotext("a castle", Size="768x512"))
    found = find_pictures(tmp_path, axis="strength")
    studies = split_studies(found)
    assert [(study.label, len(study.pairs)) for study in studies] == [
        ("one, 512x512", 2),
        ("one, 768x512", 2),
        ("two, 512x512", 2),
    ]
    assert all(pair.control for study in studies for pair in study.pairs)
    assert studies[1].pairs[0].control == tmp_path / "base768.png"


def test_epochs_of_one_run_stay_together(tmp_path: Path) -> None:
    for name in ("run-000004", "run", "other-000004", "other"):
        make(tmp_path, f"{name}.png", text=infotext(f"a castle <lora:{name}:1>"))
    studies = split_studies(find_pictures(tmp_path, axis="epoch"))
    assert [(s.label, [p.picture.lora for p in s.pairs]) for s in studies] == [
        ("other", ["other-000004", "other"]),
        ("run", ["run-000004", "run"]),
    ]


def test_pictures_join_their_checkpoints_by_hash() -> None:
    whole = "60129e9d06ab" + "5" * 52
    pictures = [
        Picture(Path("a.png"), lora="alias", lora_hash="60129e9d06ab"),
        Picture(Path("b.png"), lora="alias", lora_hash=whole.upper()),
        Picture(Path("c.png"), lora="alias", lora_hash="ffffffffffff", epoch=3),
        Picture(Path("d.png"), lora="alias"),
        Picture(Path("e.png"), lora="alias", lora_hash="60129e9d"),
    ]
    seven = Checkpoint(Path("run.safetensors"), "run", epoch=7, tensor_hash="0x" + whole)
    found = PictureSet(tuple(Pair(picture, None, "") for picture in pictures), axis="epoch")
    joined = [pair.picture for pair in join_checkpoints(found, [seven]).pairs]
    assert [(p.path.name, p.lora, p.epoch) for p in joined] == [
        ("c.png", "alias", 3),
        ("a.png", "run.safetensors", 7),
        ("b.png", "run.safetensors", 7),
        ("d.png", "alias", None),
        ("e.png", "alias", None),
    ]


def test_joined_pictures_have_the_places_that_only_metadata_tell() -> None:
    """Files under any names: the checkpoints were ordered by what is inside them."""
    hashes = ["a" * 64, "b" * 64, "c" * 64]
    checkpoints = [
        Checkpoint(Path(f"{name}.safetensors"), name, epoch, 100 * epoch, tensor_hash=digest)
        for name, epoch, digest in zip("zyx", (1, 2, 3), hashes, strict=True)
    ]
    pairs = [
        Pair(Picture(Path(f"{i}.png"), Decimal(1), lora="my", lora_hash=hashes[i][:12]), None, "")
        for i in (2, 0, 1)
    ]
    joined = join_checkpoints(PictureSet(tuple(pairs), axis="epoch"), checkpoints)
    assert [(p.picture.lora, p.picture.epoch, p.picture.step) for p in joined.pairs] == [
        ("z.safetensors", 1, 100),
        ("y.safetensors", 2, 200),
        ("x.safetensors", 3, 300),
    ]


# --- the card beside the LoRA ---------------------------------------------------------------------


def test_recommended_weight(tmp_path: Path) -> None:
    lora = tmp_path / "my.v2.safetensors"
    lora.write_bytes(b"")
    card = write_recommended_weight(lora, Decimal("0.60"))
    assert card == tmp_path / "my.v2.json" and json.loads(card.read_text()) == {
        "preferred weight": 0.6
    }
    card.write_text('{"activation text": "château", "preferred weight": 1}', encoding="utf-8")
    write_recommended_weight(lora, 0.8)
    assert json.loads(card.read_text(encoding="utf-8")) == {
        "activation text": "château",
        "preferred weight": 0.8,
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == ["my.v2.json", "my.v2.safetensors"]


def test_a_card_kept_elsewhere_is_written_there(tmp_path: Path) -> None:
    (tmp_path / "cards").mkdir()
    (tmp_path / "my.safetensors").write_bytes(b"")
    kept = tmp_path / "cards" / "my.json"
    kept.write_text('{"notes": "mine"}')
    (tmp_path / "my.json").symlink_to(kept)
    write_recommended_weight(tmp_path / "my.safetensors", 0.8)
    assert (tmp_path / "my.json").is_symlink()
    assert json.loads(kept.read_text()) == {"notes": "mine", "preferred weight": 0.8}


@pytest.mark.parametrize("content", ["{broken", "[1]", "[" * 100_000, "\xff"])
def test_a_card_that_is_not_understood_is_left_alone(tmp_path: Path, content: str) -> None:
    (tmp_path / "my.safetensors").write_bytes(b"")
    card = tmp_path / "my.json"
    card.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"my\.json is no JSON object"):
        write_recommended_weight(tmp_path / "my.safetensors", 0.8)
    assert card.read_bytes() == content.encode("latin-1")


@pytest.mark.parametrize("weight", [0.0, float("nan"), float("inf"), 1000.0])
def test_a_weight_that_is_none(tmp_path: Path, weight: float) -> None:
    (tmp_path / "my.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="no weight to recommend"):
        write_recommended_weight(tmp_path / "my.safetensors", weight)
    with pytest.raises(UserError, match="does not exist"):
        write_recommended_weight(tmp_path / "gone.safetensors", 0.5)


# --- properties -----------------------------------------------------------------------------------


@given(
    strength=st.decimals(-10, 10, places=2),
    # The format itself cannot hold a prompt with a tag or a line that starts the negative prompt.
    prompt=st.text(st.characters(codec="ascii", exclude_characters="<>\r"), max_size=40).filter(
        lambda text: "Negative prompt:" not in text
    ),
    seed=st.integers(0, 2**64 - 1),
    lora=st.from_regex(r"[A-Za-z0-9_. -]{1,20}", fullmatch=True).filter(lambda s: s == s.strip()),
)
def test_every_strength_seed_and_lora_survives_our_own_text(
    strength: Decimal, prompt: str, seed: int, lora: str
) -> None:
    from generation.pictures.readers.facts import facts_from_texts

    text = parameters_text(
        prompt, "bad", 20, "euler", 7.0, seed, 64, 64, "m", "", lora, "ab" * 32, strength
    )
    facts = facts_from_texts({"parameters": text})
    assert facts is not None and facts.seed == seed
    assert [(u.name, u.strength, u.hash) for u in facts.loras] == [(lora, strength, "ab" * 6)]
