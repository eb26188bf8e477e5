"""What the name of a LoRA file tells of its run and place, and what it only seems to tell."""

from __future__ import annotations

import pytest

from generation.loras.names import place_in_metadata, place_of_stem


@pytest.mark.parametrize(
    ("stem", "run", "step", "epoch"),
    [
        ("style_v1.2-000003", "style_v1.2", None, 3),
        ("style_v2-step00000500", "style_v2", 500, None),
        ("cat_LoRA_000000250", "cat", 250, None),
        ("dog2024-05-01_10-00-00-save-400-4-0", "dog", 400, 4),
        ("char_epoch_2_final", "char", None, 2),
        ("char v2 (epoch 3)", "char v2", None, 3),
        ("char-500steps", "char", 500, None),
        ("1000steps", "step", 1000, None),
        ("step-00001000", "step", 1000, None),
        ("e10_s1500", "epoch", 1500, 10),
        ("ep05", "epoch", None, 5),
        ("char_e621-500steps", "char_e621", 500, None),
        ("epoch5_dog", "dog", None, 5),
        ("DogEpoch5", "Dog", None, 5),
        ("lora-2.5k", "lora", 2500, None),
        ("dog_5e-5_epoch3", "dog_5e-5", None, 3),
        ("style-000003_fp16", "style_fp16", None, 3),
        ("dog-000003 (1)", "dog", None, 3),
    ],
)
def test_places_in_names(stem, run, step, epoch):
    place = place_of_stem(stem)
    assert (place.run, place.step, place.epoch) == (run, step, epoch)


@pytest.mark.parametrize(
    "stem",
    [
        "style_v2",
        "style-v1.5",
        "dog_1e-4",
        "dog_5e-05",
        "dog_lr0.0001",
        "dog_20240513",
        "dog-20240513-1830",
        "dog-240513",
        "dog_1715600000",
        "dog_seed42",
        "dog_1024x1024",
        "dog_512px",
        "style_rank32",
        "style-dim64",
        "style_resized_dim8",
        "style_fp16",
        "style_sd15",
        "style_flux1",
        "dog_80s",
        "model-00001-of-00002",
    ],
)
def test_versions_ranks_rates_dates_and_seeds_are_no_places(stem):
    place = place_of_stem(stem)
    assert (place.run, place.united, place.number) == (stem, False, None)


@pytest.mark.parametrize(
    ("name", "run", "step", "epoch"),
    [
        ("my-000004", "my", None, 4),
        ("my-step00001050", "my", 1050, None),
        ("my_000000250", "my", 250, None),
        ("my_LoRA_000000250", "my", 250, None),
        ("run2024-05-01_10-00-00-save-1200-12-0", "run", 1200, 12),
        ("checkpoint-500-rolling", "", 500, None),
        ("epoch7", "", None, 7),
        ("my_epoch_03", "my", None, 3),
        ("my_10_epochs", "my", None, 10),
        ("my-000004_fp16", "my_fp16", None, 4),
        ("my", "my", None, None),
        ("version-2", "version-2", None, None),
        ("my_v3_768px", "my_v3_768px", None, None),
        ("my_e621", "my_e621", None, None),
        ("my-20240501", "my-20240501", None, None),
        ("my-12", "my-12", None, None),
    ],
)
def test_names_in_a_pictures_metadata_tell_only_certain_places(name, run, step, epoch):
    place = place_in_metadata(name)
    assert (place.run, place.step, place.epoch) == (run, step, epoch)
