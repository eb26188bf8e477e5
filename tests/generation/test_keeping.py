"""Checkpoints of a training that goes on are kept before trainers prune them."""

import errno
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from generation.errors import UserError
from generation.loras import keeping
from generation.loras.keeping import RECORD, Keeper

SOME = {
    "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": np.ones((2, 4), np.float32),
    "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": np.ones((4, 2), np.float32),
}


def lora(value: float = 1.0) -> bytes:
    return save({key: np.full_like(array, value) for key, array in SOME.items()})


def written(path: Path, content: bytes, ago: float = 60.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    when = path.stat().st_mtime - ago
    os.utime(path, (when, when))
    return path


def taken(keeper: Keeper) -> list[tuple[str, str]]:
    return [(one.path.name, one.what) for one in keeper.take()]


@pytest.fixture
def train(tmp_path: Path) -> Path:
    (tmp_path / "train").mkdir()
    return tmp_path / "train"


def test_a_finished_checkpoint_is_a_second_name_of_the_same_file(train, tmp_path):
    path = written(train / "my-000002.safetensors", lora())
    keeper = Keeper(train, tmp_path / "keep")
    assert taken(keeper) == [("my-000002.safetensors", "kept")]
    assert (tmp_path / "keep" / path.name).samefile(path)
    assert taken(keeper) == []


def test_pruning_by_the_trainer_loses_nothing(train, tmp_path):
    path = written(train / "my-000002.safetensors", lora())
    keeper = Keeper(train, tmp_path / "keep")
    list(keeper.take())
    path.unlink()
    assert [p.read_bytes() for p in keeper.kept] == [lora()]
    assert taken(keeper) == []


@pytest.mark.parametrize("cut", [0, 5, 40, 200, -1])
def test_a_file_that_is_still_being_written_waits_and_is_told_once(train, tmp_path, cut):
    whole = lora()
    path = written(train / "my-000002.safetensors", whole[:cut])
    keeper = Keeper(train, tmp_path / "keep")
    assert taken(keeper) == [(path.name, "unfinished")]
    assert taken(keeper) == []
    written(path, whole)
    assert taken(keeper) == [(path.name, "kept")]


def test_a_file_of_full_size_that_changed_a_moment_ago_waits(train, tmp_path):
    written(train / "my-000002.safetensors", lora(), ago=0.0)
    keeper = Keeper(train, tmp_path / "keep", settled=5.0)
    assert taken(keeper) == [("my-000002.safetensors", "unfinished")]
    keeper.now = lambda: (train / "my-000002.safetensors").stat().st_mtime + 6
    assert taken(keeper) == [("my-000002.safetensors", "kept")]


@pytest.mark.parametrize("ahead", [3600.0, 1.0])
def test_a_clock_in_the_future_or_set_back_is_not_waited_for(train, tmp_path, ahead):
    """A file of full size by a clock that is ahead may still be written: it counts as written once
    it has been seen unchanged for long enough, and not after an hour."""
    path = written(train / "my-000002.safetensors", lora(), ago=-ahead)
    ticks = [100.0]
    keeper = Keeper(train, tmp_path / "keep", tick=lambda: ticks[0])
    assert taken(keeper) == [(path.name, "unfinished")] and keeper.waiting
    ticks[0] += 1.5
    assert taken(keeper) == []
    written(path, lora(2), ago=-ahead - 5)  # goes on
    ticks[0] += 1.5
    assert taken(keeper) == []
    ticks[0] += 2.0
    assert taken(keeper) == [(path.name, "kept")]
    assert (tmp_path / "keep" / path.name).read_bytes() == lora(2)


def test_symbolic_links_are_kept_as_the_files_that_they_lead_to(train, tmp_path):
    real = written(tmp_path / "scratch" / "run-000003.safetensors", lora(3))
    latest = written(tmp_path / "scratch" / "latest.safetensors", lora(4))
    os.symlink("../scratch/run-000003.safetensors", train / "my-000003.safetensors")
    os.symlink(latest, train / "my-000004.safetensors")
    os.symlink(tmp_path / "nowhere.safetensors", train / "my-000005.safetensors")
    keeper = Keeper(train, tmp_path / "keep")
    assert {name for name, what in taken(keeper) if what == "kept"} == {
        "my-000003.safetensors", "my-000004.safetensors"
    }  # fmt: skip
    real.unlink()
    written(latest, lora(9))  # a name that is written again
    assert [(path.is_symlink(), path.read_bytes()) for path in sorted(keeper.kept)] == [
        (False, lora(3)), (False, lora(4)),
    ]  # fmt: skip


def test_a_checkpoint_that_is_written_again_is_kept_anew(train, tmp_path):
    """In place or by another file, numbered or not, also after it has been looked at."""
    keeper = Keeper(train, tmp_path / "keep")
    for value, ago in ((1, 60), (2, 50), (3, 40)):
        for name in ("my.safetensors", "my-000001.safetensors"):
            path = train / name
            if value == 3:
                written(train / "new", lora(value), ago)
                os.replace(train / "new", path)
            else:
                written(path, lora(value), ago)
        assert sorted(taken(keeper)) == [
            ("my-000001.safetensors", "kept"), ("my.safetensors", "kept")
        ]  # fmt: skip
        assert {path.read_bytes() for path in keeper.kept} == {lora(value)}
    with open(train / "my-000001.safetensors", "ab") as file:  # it grows again
        file.write(b"more")
    assert taken(keeper) == [("my-000001.safetensors", "unfinished")]
    assert not list((tmp_path / "keep").glob("*.tmp"))


class Killed(BaseException):
    pass


def killed_after(calls):
    """Wraps functions so that, all counted together, the one after so many calls raises Killed."""
    count = [0]

    def counted(real):
        def called(*arguments, **more):
            count[0] += 1
            if count[0] > calls:
                raise Killed
            return real(*arguments, **more)

        return called

    return counted


@pytest.mark.parametrize("name", ["my.safetensors", "my-000001.safetensors"])
@pytest.mark.parametrize("call", range(5))
def test_a_kill_while_it_is_kept_anew_leaves_the_old_one_or_the_new_one(
    train, tmp_path, monkeypatch, name, call
):
    path = written(train / name, lora(1))
    keep = tmp_path / "keep"
    list(Keeper(train, keep).take())
    written(train / "new", lora(2), ago=30)
    os.replace(train / "new", path)
    counted = killed_after(call)

    with monkeypatch.context() as patch:
        for one in ("link", "replace", "utime"):
            patch.setattr(os, one, counted(getattr(os, one)))
        with suppress(Killed):
            list(Keeper(train, keep).take())
        assert (keep / name).read_bytes() in (lora(1), lora(2))
    again = Keeper(train, keep)
    assert all(what == "kept" for _, what in taken(again)) and taken(again) == []
    assert [p.read_bytes() for p in again.kept] == [lora(2)]
    assert not [p for p in keep.iterdir() if p.suffix == ".tmp"]
    again.release(set())
    assert not list(keep.glob("*.safetensors")) and path.read_bytes() == lora(2)


def test_where_nothing_can_be_written_is_said_before_anything_is_judged(
    train, tmp_path, monkeypatch
):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match="nothing can be written into"):
        Keeper(train, tmp_path / "keep" / "deeper")


def test_a_name_without_a_place_is_copied_since_trainers_write_it_again(train, tmp_path):
    path = written(train / "my.safetensors", lora(1))
    keeper = Keeper(train, tmp_path / "keep")
    list(keeper.take())
    kept = tmp_path / "keep" / path.name
    assert not kept.samefile(path)
    path.write_bytes(lora(2)[:100])
    assert kept.read_bytes() == lora(1)
    written(path, lora(2))
    assert taken(keeper) == [("my.safetensors", "kept")]
    assert kept.read_bytes() == lora(2)


def test_folders_of_checkpoints_keep_their_names_and_what_lies_beside(train, tmp_path):
    for step in (100, 200):
        folder = train / f"checkpoint-{step}"
        written(folder / "adapter_model.safetensors", lora(step))
        (folder / "adapter_config.json").write_text('{"lora_alpha": 4}')
        (folder / "optimizer.bin").write_bytes(b"x" * 100)
    keeper = Keeper(train, tmp_path / "keep")
    list(keeper.take())
    found = sorted(p.relative_to(tmp_path / "keep").as_posix() for p in keeper.folder.rglob("*"))
    assert found == [
        RECORD,
        "checkpoint-100",
        "checkpoint-100/adapter_config.json",
        "checkpoint-100/adapter_model.safetensors",
        "checkpoint-200",
        "checkpoint-200/adapter_config.json",
        "checkpoint-200/adapter_model.safetensors",
    ]
    keeper.release({tmp_path / "keep/checkpoint-200/adapter_model.safetensors"})
    assert sorted(p.name for p in (tmp_path / "keep").iterdir()) == [RECORD, "checkpoint-200"]
    assert len(list((tmp_path / "keep/checkpoint-200").iterdir())) == 2
    assert (train / "checkpoint-100/adapter_model.safetensors").is_file()


def test_what_is_not_wanted_is_let_go_and_the_training_keeps_its_own(train, tmp_path):
    paths = [written(train / f"my-{n:06d}.safetensors", lora(n)) for n in (1, 2, 3)]
    keeper = Keeper(train, tmp_path / "keep")
    list(keeper.take())
    gone = keeper.release({tmp_path / "keep" / paths[1].name})
    assert [p.name for p in gone] == [paths[0].name, paths[2].name]
    assert [p.name for p in keeper.kept] == [paths[1].name]
    assert [p.read_bytes() for p in paths] == [lora(1), lora(2), lora(3)]


def test_files_that_are_not_ours_or_were_changed_are_never_removed(train, tmp_path):
    keep = tmp_path / "keep"
    own = written(keep / "notes.safetensors", b"mine")
    written(train / "my-000001.safetensors", lora(1))
    written(train / "my.safetensors", lora(2))
    keeper = Keeper(train, keep)
    list(keeper.take())
    (keep / "my.safetensors").write_bytes(b"the user's now")
    keeper.release(set())
    assert own.read_bytes() == b"mine"
    assert (keep / "my.safetensors").read_bytes() == b"the user's now"
    assert not (keep / "my-000001.safetensors").exists()


def test_a_users_file_under_the_same_name_is_not_replaced(train, tmp_path):
    keep = tmp_path / "keep"
    written(keep / "my-000001.safetensors", b"mine")
    written(train / "my-000001.safetensors", lora())
    keeper = Keeper(train, keep)
    assert taken(keeper) == [("my-000001.safetensors", "failed")]
    keeper.release(set())
    assert (keep / "my-000001.safetensors").read_bytes() == b"mine"


def test_the_record_survives_a_restart(train, tmp_path):
    path = written(train / "my-000001.safetensors", lora())
    list(Keeper(train, tmp_path / "keep").take())
    path.unlink()
    again = Keeper(train, tmp_path / "keep")
    assert [p.name for p in again.kept] == [path.name]
    assert taken(again) == []


def test_a_second_name_that_somebody_else_made_is_used_and_never_removed(train, tmp_path):
    path = written(train / "my-000001.safetensors", lora())
    (tmp_path / "keep").mkdir()
    os.link(path, tmp_path / "keep" / path.name)
    for _ in range(2):
        keeper = Keeper(train, tmp_path / "keep")
        assert taken(keeper) == [(path.name, "kept")] and taken(keeper) == []
        assert [p.name for p in keeper.kept] == [path.name]
    path.unlink()
    keeper.release(set())
    assert (tmp_path / "keep" / path.name).read_bytes() == lora()


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("call", range(1, 9))
def test_a_kill_at_any_call_of_the_system_is_mended(train, tmp_path, monkeypatch, links, call):
    """Whatever was last done, the next run keeps the checkpoint, and lets go of it as its own."""
    path = written(train / "checkpoint-1" / "adapter_model.safetensors", lora())
    (path.parent / "adapter_config.json").write_text("{}")
    counted = killed_after(call)

    def no_link(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", counted(os.link) if links else no_link)
    for name in ("replace", "utime", "mkdir"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    keep = tmp_path / "keep"
    with suppress(Killed):
        list(Keeper(train, keep).take())
    monkeypatch.undo()
    again = Keeper(train, keep)
    assert all(what == "kept" for _, what in taken(again)) and taken(again) == []
    assert [p.read_bytes() for p in again.kept] == [lora()]
    again.release(set())
    assert not list(keep.rglob("*.safetensors")) and path.read_bytes() == lora()


def test_on_a_full_disk_a_second_name_is_made_although_it_cannot_be_noted(
    train, tmp_path, monkeypatch
):
    path = written(train / "my-000001.safetensors", lora())
    last = written(train / "my.safetensors", lora(2))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    keeper = Keeper(train, tmp_path / "keep")
    monkeypatch.setattr(keeping, "write_text", full)
    assert taken(keeper) == [(path.name, "kept"), (last.name, "failed")]
    path.unlink()
    monkeypatch.undo()
    assert taken(keeper) == [(last.name, "kept")]
    assert {p.name for p in Keeper(train, tmp_path / "keep").kept} == {path.name, last.name}


def test_a_full_disk_is_said_and_tried_again_when_the_file_is_looked_at_anew(
    train, tmp_path, monkeypatch
):
    written(train / "my.safetensors", lora())
    keeper = Keeper(train, tmp_path / "keep")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    (one,) = keeper.take()
    assert one.what == "failed" and "full" in one.reason
    assert list(keeper.take()) == []
    monkeypatch.undo()
    assert taken(keeper) == [("my.safetensors", "kept")]


def test_without_hard_links_it_is_a_copy(train, tmp_path, monkeypatch):
    path = written(train / "my-000001.safetensors", lora())

    def no_link(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(keeping.os, "link", no_link)
    keeper = Keeper(train, tmp_path / "keep")
    assert taken(keeper) == [(path.name, "kept")]
    assert not (tmp_path / "keep" / path.name).samefile(path)
    assert (tmp_path / "keep" / path.name).read_bytes() == path.read_bytes()


def test_a_folder_inside_the_training_folder_is_not_taken_for_checkpoints(train):
    written(train / "my-000001.safetensors", lora())
    keeper = Keeper(train, train / "kept")
    list(keeper.take())
    assert taken(keeper) == []
    assert [p.name for p in keeper.kept] == ["my-000001.safetensors"]


def test_the_trainings_own_folder_and_a_foreign_record_are_refused(train, tmp_path):
    with pytest.raises(UserError, match="own folder"):
        Keeper(train, train)
    (tmp_path / RECORD).write_text(json.dumps(["no", "record"]))
    with pytest.raises(UserError, match="cannot be read"):
        Keeper(train, tmp_path)


def test_a_folder_that_is_not_there_yet_has_nothing_to_keep(tmp_path):
    assert taken(Keeper(tmp_path / "later", tmp_path / "keep")) == []


def test_optimizer_states_and_pickles_are_not_kept(train, tmp_path):
    written(train / "optimizer.safetensors", lora())
    written(train / "my.ckpt", b"PK")
    assert taken(Keeper(train, tmp_path / "keep")) == []
