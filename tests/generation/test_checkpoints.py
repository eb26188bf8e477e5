"""Training folders as each trainer leaves them, built byte by byte, read back in order."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from generation.errors import UserError
from generation.loras.checkpoints import find_checkpoints

STEM = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


def write(path: Path, seed: int, metadata: dict[str, str] | None = None, keys=None) -> Path:
    """A safetensors file with one rank-2 module whose values depend on ``seed``."""
    generator = np.random.default_rng(seed)
    down, up = keys or (f"{STEM}.lora_down.weight", f"{STEM}.lora_up.weight")
    arrays = {down: generator.standard_normal((2, 8)), up: generator.standard_normal((4, 2))}
    header: dict[str, object] = {"__metadata__": metadata} if metadata is not None else {}
    data = b""
    for key, array in arrays.items():
        raw = array.astype("<f4").tobytes()
        header[key] = {
            "dtype": "F32",
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


PEFT_KEYS = (
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight",
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_B.weight",
)


def kohya(epoch: int, step: int, name: str = "dog", session: str = "77") -> dict[str, str]:
    return {
        "ss_output_name": name,
        "ss_session_id": session,
        "ss_epoch": str(epoch),
        "ss_steps": str(step),
        "ss_network_module": "networks.lora",
        "ss_base_model_version": "sd_v1",
    }


def kohya_folder(folder: Path) -> Path:
    for epoch in range(1, 12):
        write(folder / f"dog-{epoch:06d}.safetensors", epoch, kohya(epoch, 150 * epoch))
    write(folder / "dog.safetensors", 12, kohya(12, 1800))
    (folder / "dog-000002-state").mkdir()
    (folder / "dog-000002-state" / "model.safetensors").write_bytes(b"junk")
    (folder / "sample").mkdir()
    (folder / "sample" / "dog_e000001_00_20240501120000.png").write_bytes(b"")
    return folder


def places(found):
    return [(c.name, c.epoch, c.step, c.final) for c in found.checkpoints]


def test_kohya_epochs_with_the_unnumbered_file_last(tmp_path):
    found = find_checkpoints([kohya_folder(tmp_path)])
    assert found.trainer == "kohya" and found.warnings == ()
    assert places(found) == [(f"dog-{e:06d}", e, 150 * e, False) for e in range(1, 12)] + [
        ("dog", 12, 1800, True)
    ]
    assert found.checkpoints[6].label == "epoch 7"
    assert found.checkpoints[-1].label == "epoch 12"
    assert {c.position_source for c in found.checkpoints} == {"metadata"}


def test_file_times_change_nothing(tmp_path):
    folder = kohya_folder(tmp_path)
    before = places(find_checkpoints([folder]))
    for age, path in enumerate(sorted(folder.glob("*.safetensors"), reverse=True)):
        os.utime(path, (age, age))
    assert places(find_checkpoints([folder])) == before


def test_kohya_step_saves_ignore_the_running_epoch(tmp_path):
    for step, epoch in ((500, 0), (1000, 1), (1500, 1)):
        metadata = kohya(epoch, step)
        write(tmp_path / f"dog-step{step:08d}.safetensors", step, metadata)
    write(tmp_path / "dog-000001.safetensors", 1, kohya(1, 750))
    write(tmp_path / "dog.safetensors", 9, kohya(3, 1800))
    found = find_checkpoints([tmp_path])
    assert places(found) == [
        ("dog-step00000500", None, 500, False),
        ("dog-000001", 1, 750, False),
        ("dog-step00001000", None, 1000, False),
        ("dog-step00001500", None, 1500, False),
        ("dog", 3, 1800, True),
    ]


def test_kohya_without_metadata_goes_by_name(tmp_path):
    kept = {"ss_v2": "False", "ss_network_module": "networks.lora", "ss_network_dim": "2"}
    for epoch in (10, 2, 1):
        write(tmp_path / f"dog-{epoch:06d}.safetensors", epoch, kept)
    write(tmp_path / "dog.safetensors", 11, kept)
    found = find_checkpoints([tmp_path])
    assert places(found) == [
        ("dog-000001", 1, None, False),
        ("dog-000002", 2, None, False),
        ("dog-000010", 10, None, False),
        ("dog", None, None, True),
    ]
    assert found.checkpoints[0].position_source == "name"
    assert found.checkpoints[-1].label == "final"


def test_kohya_default_names(tmp_path):
    write(tmp_path / "epoch-000001.safetensors", 1, {})
    write(tmp_path / "epoch-000002.safetensors", 2, {})
    write(tmp_path / "last.safetensors", 3, {})
    found = find_checkpoints([tmp_path])
    assert [c.name for c in found.checkpoints] == ["epoch-000001", "epoch-000002", "last"]
    assert found.checkpoints[-1].final


def test_checkpoints_that_share_a_file_name_are_told_apart(tmp_path):
    folder = tmp_path / "out"
    for step in (100, 300):
        inner = folder / f"checkpoint-{step}"
        write(inner / "pytorch_lora_weights.safetensors", step, {}, PEFT_KEYS)
        write(inner / "ema" / "pytorch_lora_weights.safetensors", step + 1, {}, PEFT_KEYS)
    found = find_checkpoints([folder]).checkpoints
    assert [c.file for c in found] == [
        "checkpoint-100/pytorch_lora_weights.safetensors",
        "checkpoint-300/pytorch_lora_weights.safetensors",
    ]
    averaged = find_checkpoints([folder], ema=True).checkpoints
    assert [c.name for c in averaged] == [
        "checkpoint-100/ema/pytorch_lora_weights",
        "checkpoint-300/ema/pytorch_lora_weights",
    ]
    twins = [write(tmp_path / run / "dog-000001.safetensors", 5 + i) for i, run in enumerate("ab")]
    found = find_checkpoints(twins).checkpoints
    assert [(c.file, c.label) for c in found] == [
        ("a/dog-000001.safetensors", "epoch 1 (a/dog-000001)"),
        ("b/dog-000001.safetensors", "epoch 1 (b/dog-000001)"),
    ]


def test_final_with_the_last_numbers_tensors_is_evaluated_once(tmp_path):
    """Renaming and re-tagging do not change the tensors, so they are one checkpoint."""
    write(tmp_path / "dog-000001.safetensors", 1, kohya(1, 100))
    write(tmp_path / "dog-000002.safetensors", 2, kohya(2, 200))
    write(tmp_path / "dog.safetensors", 2, kohya(2, 200) | {"note": "re-tagged"})
    found = find_checkpoints([tmp_path])
    assert [c.name for c in found.checkpoints] == ["dog-000001", "dog-000002"]
    last = found.checkpoints[-1]
    assert last.aliases == ("dog",) and last.final
    assert last.label == "epoch 2"


def test_fluxgym_folder(tmp_path):
    folder = tmp_path / "my-dog"
    for epoch in (4, 8):
        write(folder / f"my-dog-{epoch:06d}.safetensors", epoch, kohya(epoch, 50 * epoch, "my-dog"))
    write(folder / "my-dog.safetensors", 16, kohya(16, 800, "my-dog"))
    for name in ("dataset.toml", "sample_prompts.txt", "train.sh", "README.md"):
        (folder / name).write_text("")
    found = find_checkpoints([folder])
    assert found.trainer == "fluxgym"
    assert [c.epoch for c in found.checkpoints] == [4, 8, 16]


def ai_toolkit(step: int, epoch: int) -> dict[str, str]:
    return {
        "format": "pt",
        "training_info": json.dumps({"step": step, "epoch": epoch}),
        "ss_base_model_version": "sd_1.5",
        "ss_output_name": "cat",
        "software": json.dumps({"name": "ai-toolkit", "version": "0.3"}),
    }


@pytest.mark.parametrize("infix", ["", "_LoRA"])
def test_ai_toolkit_folder(tmp_path, infix):
    for step in (250, 500, 750):
        metadata = ai_toolkit(step, step // 100)
        write(tmp_path / f"cat{infix}_{step:09d}.safetensors", step, metadata)
    write(tmp_path / "cat.safetensors", 1, ai_toolkit(1000, 10))
    write(tmp_path / "CRITIC_cat_000000500.safetensors", 2, ai_toolkit(500, 5))
    write(tmp_path / "cat_000000500_refiner.safetensors", 3, ai_toolkit(500, 5))
    (tmp_path / "optimizer.pt").write_bytes(b"PK\x03\x04")
    found = find_checkpoints([tmp_path])
    assert found.trainer == "ai-toolkit" and found.warnings == ()
    assert [(c.step, c.epoch, c.final) for c in found.checkpoints] == [
        (250, 2, False),
        (500, 5, False),
        (750, 7, False),
        (1000, 10, True),
    ]


def test_ai_toolkit_stale_unnumbered_file_goes_where_it_belongs(tmp_path):
    for step in (1250, 1500):
        write(tmp_path / f"cat_{step:09d}.safetensors", step, ai_toolkit(step, 3))
    write(tmp_path / "cat.safetensors", 1, ai_toolkit(1000, 2))
    found = find_checkpoints([tmp_path])
    assert [c.step for c in found.checkpoints] == [1000, 1250, 1500]
    assert not any(c.final for c in found.checkpoints)
    assert any("before the last numbered" in warning for warning in found.warnings)


ONETRAINER = {"modelspec.sai_model_spec": "1.0.0", "ot_branch": "master", "ot_revision": "abc"}


def test_onetrainer_workspace(tmp_path):
    for hour, (step, epoch) in enumerate([(400, 4), (1200, 12), (800, 8)]):
        name = f"dog2024-05-0{hour + 1}_10-00-00-save-{step}-{epoch}-0.safetensors"
        write(tmp_path / "save" / name, step, ONETRAINER)
    backup = tmp_path / "backup" / "2024-05-01_10-30-00-backup-400-4-0" / "lora"
    write(backup / "lora.safetensors", 400, ONETRAINER)
    found = find_checkpoints([tmp_path])
    assert found.trainer == "onetrainer"
    assert [(c.step, c.epoch) for c in found.checkpoints] == [(400, 4), (800, 8), (1200, 12)]
    assert {c.position_source for c in found.checkpoints} == {"name"}


def test_onetrainer_backups_serve_where_no_saves_are(tmp_path):
    for step, epoch in ((400, 4), (1200, 12)):
        backup = tmp_path / "backup" / f"2024-05-01_10-30-00-backup-{step}-{epoch}-0" / "lora"
        write(backup / "lora.safetensors", step, ONETRAINER)
    assert [c.epoch for c in find_checkpoints([tmp_path]).checkpoints] == [4, 12]


def test_onetrainer_final_beside_its_saves(tmp_path):
    for step, epoch in ((400, 4), (800, 8)):
        write(tmp_path / f"2024-05-01_10-00-00-save-{step}-{epoch}-0.safetensors", step, ONETRAINER)
    write(tmp_path / "lora.safetensors", 9, ONETRAINER)
    found = find_checkpoints([tmp_path])
    assert [c.final for c in found.checkpoints] == [False, False, True]


def simpletuner_folder(folder: Path) -> Path:
    for step, epoch in ((500, 3), (1000, 6)):
        inner = folder / f"checkpoint-{step}"
        metadata = {"modelspec.title": "dog", "trained_words": "sks dog"}
        write(inner / "pytorch_lora_weights.safetensors", step, metadata, PEFT_KEYS)
        state = {"global_step": step, "epoch_step": 1, "epoch": epoch}
        (inner / "training_state.json").write_text(json.dumps(state))
        write(inner / "ema" / "pytorch_lora_weights.safetensors", step + 1, metadata, PEFT_KEYS)
        (inner / "optimizer.bin").write_bytes(b"\x80\x04")
    shutil.copytree(folder / "checkpoint-500", folder / "checkpoint-750-tmp")
    write(folder / "checkpoint-800-rolling" / "pytorch_lora_weights.safetensors", 8, {}, PEFT_KEYS)
    write(folder / "pytorch_lora_weights.safetensors", 1000, {}, PEFT_KEYS)
    return folder


def test_simpletuner_output(tmp_path):
    found = find_checkpoints([simpletuner_folder(tmp_path / "out")])
    assert found.trainer == "simpletuner"
    assert [(c.name, c.step, c.epoch) for c in found.checkpoints] == [
        ("checkpoint-500", 500, 3),
        ("checkpoint-800-rolling", 800, None),
        ("checkpoint-1000", 1000, 6),
    ]
    last = found.checkpoints[-1]
    assert last.final and last.aliases == ("pytorch_lora_weights",)
    assert found.checkpoints[0].position_source == "epoch: training_state.json, step: name"


def test_simpletuner_ema_is_taken_only_when_asked(tmp_path):
    found = find_checkpoints([simpletuner_folder(tmp_path / "out")], ema=True)
    assert [(c.path.parent.name, c.step, c.epoch) for c in found.checkpoints] == [
        ("ema", 500, 3),
        ("ema", 1000, 6),
    ]
    with pytest.raises(UserError, match="no EMA weights"):
        find_checkpoints([kohya_folder(tmp_path / "kohya")], ema=True)


def test_diffusers_output(tmp_path):
    folder = tmp_path / "trained-dog"
    for step in (500, 1000):
        inner = folder / f"checkpoint-{step}"
        write(inner / "pytorch_lora_weights.safetensors", step, {"format": "pt"}, PEFT_KEYS)
        write(inner / "model.safetensors", 1, {"format": "pt"}, PEFT_KEYS)
    write(folder / "pytorch_lora_weights.safetensors", 7, {"format": "pt"}, PEFT_KEYS)
    write(folder / "pytorch_lora_weights_kohya.safetensors", 7, {})
    found = find_checkpoints([folder])
    assert found.trainer == "diffusers"
    assert [(c.step, c.final) for c in found.checkpoints] == [
        (500, False),
        (1000, False),
        (None, True),
    ]
    single = find_checkpoints([folder / "checkpoint-500"])
    assert [c.step for c in single.checkpoints] == [500]


@pytest.mark.parametrize("unit", ["epoch", "step"])
def test_diffusion_pipe_output(tmp_path, unit):
    keys = tuple(key.replace("unet.", "diffusion_model.") for key in PEFT_KEYS)
    for number in (1, 10, 2):
        write(tmp_path / f"{unit}{number}" / "adapter_model.safetensors", number, {}, keys)
    found = find_checkpoints([tmp_path])
    assert found.trainer == "diffusion-pipe"
    assert [getattr(c, unit) for c in found.checkpoints] == [1, 2, 10]
    assert [c.label for c in found.checkpoints][-1] == f"{unit} 10"


@pytest.mark.parametrize(
    ("names", "expected", "warned"),
    [
        (["epoch_01", "epoch_02", "epoch_10"], [(1, None), (2, None), (10, None)], False),
        (["dog-ep3", "dog-ep12"], [(3, None), (12, None)], False),
        (["dog_step500", "dog_step1500"], [(None, 500), (None, 1500)], False),
        (["dog-e2", "dog-e4"], [(2, None), (4, None)], False),
        (["dog 1", "dog 2", "dog 11"], [(1, None), (2, None), (11, None)], True),
        (["dog500", "dog1000"], [(None, 500), (None, 1000)], True),
    ],
)
def test_plain_numbered_names(tmp_path, names, expected, warned):
    for seed, name in enumerate(names):
        write(tmp_path / f"{name}.safetensors", seed, {})
    found = find_checkpoints([tmp_path])
    assert [(c.epoch, c.step) for c in found.checkpoints] == expected
    assert any("taken as" in warning for warning in found.warnings) == warned


def test_a_version_number_is_no_epoch(tmp_path):
    write(tmp_path / "style_v2.safetensors", 1, {})
    (only,) = find_checkpoints([tmp_path]).checkpoints
    assert (only.epoch, only.step, only.label) == (None, None, "style_v2")


def test_several_runs_are_listed_and_one_can_be_named(tmp_path):
    for name in ("dog", "cat"):
        for epoch in (1, 2):
            metadata = kohya(epoch, epoch * 10, name, session=name)
            write(tmp_path / f"{name}-{epoch:06d}.safetensors", hash(name) % 97 + epoch, metadata)
    with pytest.raises(UserError, match=r"cat \(2\), dog \(2\); choose one with name"):
        find_checkpoints([tmp_path])
    assert [c.name for c in find_checkpoints([tmp_path], name="CAT").checkpoints] == [
        "cat-000001",
        "cat-000002",
    ]
    (one,) = find_checkpoints([tmp_path], name="dog-000002.safetensors").checkpoints
    assert one.epoch == 2
    with pytest.raises(UserError, match="no LoRA named bird; it holds"):
        find_checkpoints([tmp_path], name="bird")


def test_a_collection_of_single_loras_is_no_series(tmp_path):
    for seed, name in enumerate(("add_detail", "anime", "film")):
        write(tmp_path / f"{name}.safetensors", seed, {})
    with pytest.raises(UserError, match="several LoRAs"):
        find_checkpoints([tmp_path])


def test_renamed_epochs_of_one_session_are_ordered_by_metadata(tmp_path):
    for name, epoch in (("good", 3), ("better", 1), ("best", 2)):
        write(tmp_path / f"{name}.safetensors", epoch, kohya(epoch, epoch * 100))
    found = find_checkpoints([tmp_path])
    assert [c.name for c in found.checkpoints] == ["better", "best", "good"]


def test_metadata_win_over_a_misleading_name(tmp_path):
    write(tmp_path / "dog-000001.safetensors", 1, kohya(5, 500))
    write(tmp_path / "dog-000002.safetensors", 2, kohya(2, 200))
    found = find_checkpoints([tmp_path])
    assert [c.epoch for c in found.checkpoints] == [2, 5]
    assert any("epoch 1 by its name but 5" in warning for warning in found.warnings)


def test_resumed_runs_and_unplaced_files_are_warned_of(tmp_path):
    write(tmp_path / "dog-000001.safetensors", 1, kohya(1, 100, session="1"))
    write(tmp_path / "dog-000002.safetensors", 2, kohya(2, 200, session="2"))
    odd = write(tmp_path / "elsewhere" / "odd.safetensors", 3, {})
    found = find_checkpoints(
        [tmp_path / "dog-000001.safetensors", tmp_path / "dog-000002.safetensors", odd]
    )
    assert [c.name for c in found.checkpoints] == ["dog-000001", "dog-000002", "odd"]
    assert any("2 training sessions" in warning for warning in found.warnings)
    assert any("odd has no step" in warning for warning in found.warnings)


def test_files_named_one_by_one_are_one_series_with_its_final(tmp_path):
    folder = kohya_folder(tmp_path)
    found = find_checkpoints(sorted(folder.glob("*.safetensors"), reverse=True))
    assert places(found) == places(find_checkpoints([folder]))


def test_a_file_named_twice_is_read_once(tmp_path):
    folder = kohya_folder(tmp_path)
    file = folder / "dog-000003.safetensors"
    found = find_checkpoints([folder, file, file])
    assert len(found.checkpoints) == 12 and not any(c.aliases for c in found.checkpoints)


def test_strangers_beside_the_run_are_skipped_aloud(tmp_path):
    folder = kohya_folder(tmp_path)
    (folder / "vae.safetensors").write_bytes(b"<!DOCTYPE html><html></html>")
    found = find_checkpoints([folder])
    assert len(found.checkpoints) == 12 and not found.unreadable
    assert any("vae.safetensors is a web page" in warning for warning in found.warnings)


def test_damaged_files_and_pickles_are_skipped_aloud(tmp_path):
    write(tmp_path / "dog-000001.safetensors", 1, {})
    whole = write(tmp_path / "dog-000002.safetensors", 2, {}).read_bytes()
    (tmp_path / "dog-000002.safetensors").write_bytes(whole[:-5])
    (tmp_path / "dog-000003.pt").write_bytes(b"PK\x03\x04rest")
    found = find_checkpoints([tmp_path])
    assert [c.name for c in found.checkpoints] == ["dog-000001"]
    ((broken, reason),) = found.unreadable
    assert (broken.name, broken.epoch) == ("dog-000002", 2) and "truncated" in reason
    assert any("pickle" in w for w in found.warnings)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: None, "does not exist"),
        (lambda p: p.mkdir(), "no LoRA files"),
        (lambda p: write(p / "inner" / "a.safetensors", 1, {}), "its folder inner does"),
        (lambda p: (p.mkdir(), (p / "a.pt").write_bytes(b"PK\x03\x04")), "only pickles"),
        (lambda p: (p.mkdir(), (p / "a.safetensors").write_bytes(b"x")), "no usable LoRA"),
    ],
)
def test_unusable_paths_are_one_sentence(tmp_path, make, words):
    make(tmp_path / "out")
    with pytest.raises(UserError, match=words):
        find_checkpoints([tmp_path / "out"])


def test_nothing_named(tmp_path):
    with pytest.raises(UserError, match="Name a LoRA file"):
        find_checkpoints([])
    with pytest.raises(UserError):
        find_checkpoints(["a\0b"])


def folder_of(folder: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        write(folder / f"{name}.safetensors", seed, {})
    return folder


def kohya_run(folder: Path, name: str, seed: int, said: bool) -> list[str]:
    """Two epochs and the final file of a run; ``said``: with metadata. Returns the order."""
    stems = [f"{name}-000001", f"{name}-000002", name]
    for at, stem in enumerate(stems, 1):
        metadata = kohya(at, 100 * at, name, session=name) if said else {}
        write(folder / f"{stem}.safetensors", seed + at, metadata)
    return stems


@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("names", [("style_v1", "style_v2"), ("style1", "style2"), ("a_512", "a")])
def test_two_runs_whose_names_end_in_numbers(tmp_path, names, said):
    wanted = {name: kohya_run(tmp_path, name, 10 * i, said) for i, name in enumerate(names)}
    with pytest.raises(UserError) as problem:
        find_checkpoints([tmp_path])
    assert all(f"{name} (3)" in str(problem.value) for name in names)
    for name, stems in wanted.items():
        assert [c.name for c in find_checkpoints([tmp_path], name=name).checkpoints] == stems


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["dog_512", "dog_768"], "places in training or resolutions"),
        (["dog_8", "dog_16"], "places in training or ranks"),
        (["dog_2023", "dog_2024"], "places in training or years"),
        (["dog_s1", "dog_s42"], "places in training or seeds"),
        (["style_v1", "style_v2"], r"several LoRAs: style_v1 \(1\), style_v2 \(1\)"),
        (["dog_1e-4", "dog_5e-5"], r"several LoRAs: dog_1e-4 \(1\)"),
        (["dog_20240513", "dog_20240514"], "several LoRAs"),
        (["dog-000001", "dog", "dog_fp16"], r"dog \(2\), dog_fp16 \(1\)"),
        (["wan_000000250_high_noise", "wan_000000250_low_noise"], "high-noise and the low-noise"),
        (["wan_high_noise-000001", "wan_low_noise-000001"], "high-noise and the low-noise"),
        (["dog", "dog (1)"], r"dog \(1\) is a copy of dog by its name"),
        (["dog (1)", "dog (2)"], "copies or places"),
        (["dog-000001", "dog-step00000500"], "tells its (step|epoch) and .* which came first"),
        (["dog-000001", "dog", "dog_final"], "final file's name and differ"),
    ],
)
def test_what_names_alone_leave_open_is_refused_in_a_sentence(tmp_path, names, words):
    with pytest.raises(UserError, match=words) as problem:
        find_checkpoints([folder_of(tmp_path, *names)])
    assert "\n" not in str(problem.value) and "name" in str(problem.value)
    # Naming the files says the order, and the list says so.
    files = [tmp_path / f"{name}.safetensors" for name in reversed(names)]
    found = find_checkpoints(files)
    if "high-noise" not in words and "dog_fp16" not in names:
        assert [c.path for c in found.checkpoints] == files
        assert any("order of naming" in warning for warning in found.warnings)


def test_who_names_a_run_says_that_its_numbers_are_places(tmp_path):
    folder_of(tmp_path, "dog_512", "dog_1024")
    found = find_checkpoints([tmp_path], name="dog")
    assert [c.step for c in found.checkpoints] == [512, 1024]
    (only,) = find_checkpoints([tmp_path], name="dog_1024").checkpoints
    assert only.name == "dog_1024"


def test_some_files_of_a_run_by_pattern(tmp_path):
    folder_of(tmp_path, "dog-000001", "dog-step00000500", "dog-step00001000")
    found = find_checkpoints([tmp_path], name="dog-step*")
    assert [c.step for c in found.checkpoints] == [500, 1000]


def test_a_copy_is_an_alias(tmp_path):
    for name, seed in (("dog-000001", 1), ("dog-000001 (1)", 1), ("dog-000002", 2)):
        write(tmp_path / f"{name}.safetensors", seed, {})
    found = find_checkpoints([tmp_path])
    assert [(c.name, c.aliases) for c in found.checkpoints] == [
        ("dog-000001", ("dog-000001 (1)",)),
        ("dog-000002", ()),
    ]


def test_deepspeed_folders(tmp_path):
    for step in (5, 20, 10):
        write(tmp_path / f"global_step{step}" / "adapter_model.safetensors", step, {})
    found = find_checkpoints([tmp_path])
    assert [(c.name, c.step) for c in found.checkpoints] == [
        ("global_step5", 5),
        ("global_step10", 10),
        ("global_step20", 20),
    ]


def test_a_resumed_run_whose_steps_begin_anew_goes_by_epoch(tmp_path):
    for epoch in range(1, 7):
        metadata = kohya(epoch, 100 * ((epoch - 1) % 3 + 1), session=str((epoch - 1) // 3))
        write(tmp_path / f"dog-{epoch:06d}.safetensors", epoch, metadata)
    assert [c.epoch for c in find_checkpoints([tmp_path]).checkpoints] == [1, 2, 3, 4, 5, 6]


def test_last_files_of_two_sessions_under_one_name_are_two(tmp_path):
    for session in "12":
        write(
            tmp_path / f"style_{session}.safetensors", int(session), kohya(9, 900, "style", session)
        )
    with pytest.raises(UserError, match=r"style_1 \(1\), style_2 \(1\)"):
        find_checkpoints([tmp_path])


SCHEMES = {
    "kohya epochs": ("{run}-{n:06d}", True),
    "kohya steps": ("{run}-step{n:08d}", True),
    "ai-toolkit": ("{run}_{n:09d}", True),
    "onetrainer": ("{run}2024-05-01_10-00-00-save-{n}-{n}-0", False),
    "epochs": ("{run}_epoch_{n}", True),
    "steps": ("{run}-{n}steps", False),
    "both": ("{run} e{n}_s{n}", False),
}
RUNS = [
    "dog",
    "style_v1",
    "style_v2",
    "style1",
    "style2",
    "dog_512",
    "my_20240513",
    "char_e621",
    "x-fp16",
    "a.b",
    "v2",
    "run_final",
    "lora_1e-4",
    "my_dog_rank32",
    "éclair",
    "girl_(series)",
    "3d",
    "ss-2024",
]


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.dictionaries(
        st.sampled_from(RUNS),
        st.tuples(
            st.sampled_from(sorted(SCHEMES)),
            st.sets(st.integers(1, 9999), min_size=2, max_size=4),
            st.booleans(),
            st.booleans(),
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_every_run_is_found_whole_or_named(tmp_path, runs):
    """Runs of any trainers' schemes, with and without metadata and final file, in one folder."""
    folder = tmp_path / "mixed"
    shutil.rmtree(folder, ignore_errors=True)
    wanted: dict[str, list[str]] = {}
    seed = 0
    for run, (scheme, numbers, said, final) in runs.items():
        pattern, closes = SCHEMES[scheme]
        stems = [pattern.format(run=run, n=n) for n in sorted(numbers)]
        places = sorted(numbers)
        if final and closes:
            stems, places = [*stems, run], [*places, max(places) + 1]
        wanted[run] = stems
        for stem, place in zip(stems, places, strict=True):
            seed += 1
            metadata = kohya(place, place, run, session=run) if said and "kohya" in scheme else {}
            write(folder / f"{stem}.safetensors", seed, metadata)
    if len(runs) > 1:
        with pytest.raises(UserError) as problem:
            find_checkpoints([folder])
        for run, stems in wanted.items():
            assert f"{run} ({len(stems)})" in str(problem.value)
    for run, stems in wanted.items():
        found = find_checkpoints([folder], name=run if len(runs) > 1 else None)
        assert [c.name for c in found.checkpoints] == stems


FRAGMENTS = st.sampled_from(
    [
        "dog",
        "-",
        "_",
        "000001",
        "000000500",
        "step00000100",
        "step",
        "epoch",
        "e",
        "12",
        "2024-05-01_10-00-00",
        "-save-4-1-0",
        "LoRA",
        "checkpoint-5",
        "ema",
        "last",
        ".",
        "é",
        "１",
        "99999999999999999999",
    ]
)
NAMES = st.lists(FRAGMENTS, min_size=1, max_size=5).map("".join)
VALUES = st.one_of(
    st.sampled_from(
        ["None", "", "1e400", "nan", "-1", "7", "7.5", "[" * 500, '{"step": []}', "{}"]
    ),
    st.text(max_size=8),
)
KEYS = st.sampled_from(
    [
        "ss_epoch",
        "ss_steps",
        "ss_session_id",
        "ss_output_name",
        "training_info",
        "global_step",
        "software",
        "ss_tag_frequency",
        "ss_resolution",
        "trained_words",
        "ss_datasets",
    ]
)


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.lists(st.tuples(NAMES, st.dictionaries(KEYS, VALUES, max_size=4)), min_size=1, max_size=4)
)
def test_any_names_and_metadata_give_an_order_or_a_user_error(tmp_path, files):
    folder = tmp_path / "fuzz"
    shutil.rmtree(folder, ignore_errors=True)
    for seed, (name, metadata) in enumerate(files):
        write(folder / f"{name}.safetensors", seed, metadata)
    try:
        found = find_checkpoints([folder])
    except UserError as problem:
        assert "\n" not in str(problem)
    else:
        assert found.checkpoints and all(c.label and c.tensor_hash for c in found.checkpoints)
