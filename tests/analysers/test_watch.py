"""A training is watched for real: a process writes checkpoints slowly, breaks and prunes them."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import sample_data
from analysers.commands.main import analyse_epochs
from analysers.commands.tell import followed
from analysers.runs import watch
from analysers.runs.conclude import load_study
from analysers.runs.request import StudyRequest
from analysers.study import Candidate, Summary, Verdict
from generation.errors import UserError
from generation.loras.keeping import Keeper

LORAS = sample_data.PATH / "lora"
QUICK = [
    "--model", "demo", "--prompt", "a cat, pstr style", "--prompt", "a boat, pstr style",
    "--seeds", "1", "--steps", "2", "--size", "64",
    "--device", "cpu",
]  # fmt: skip


def name(number: int) -> str:
    return f"pstr-{number:06d}.safetensors"


def old(path: Path) -> Path:
    """A file that was written a while ago."""
    os.utime(path, (time.time() - 60,) * 2)
    return path


def appear(folder: Path, number: int) -> Path:
    return old(Path(shutil.copy(LORAS / name(number), folder / name(number))))


def asked(folder: Path, out: Path) -> StudyRequest:
    return StudyRequest.of(
        "epochs", loras=folder, model="demo", prompts=["a cat, pstr style", "a dog, pstr style"],
        seeds="1", size="64x64", steps=2, device="cpu", out=out,
    )  # fmt: skip


@contextmanager
def watching(folder: Path, out: Path, *more: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", "from analysers.commands.main import analyse_epochs as run; run()",
         str(folder), "--watch", "--out", str(out), *QUICK, *map(str, more)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(true: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)


def judged(out: Path) -> set[str]:
    """The checkpoints of the study that lies there."""
    try:
        study = load_study(out)
    except UserError:
        return set()
    return {s.candidate.checkpoint for s in study.summaries if s.rank is not None}


def test_checkpoints_are_judged_as_they_come_and_outlive_the_trainers_pruning(
    tmp_path: Path,
) -> None:
    train, out = tmp_path / "train", tmp_path / "run"
    train.mkdir()
    appear(train, 1)
    with watching(train, out) as process:
        until(lambda: name(1) in judged(out))
        whole = (LORAS / name(2)).read_bytes()
        with open(train / name(2), "wb") as file:  # slowly, in pieces
            for start in range(0, len(whole), 1 + len(whole) // 5):
                file.write(whole[start : start + 1 + len(whole) // 5])
                file.flush()
                time.sleep(0.2)
        (train / name(1)).unlink()
        until(lambda: judged(out) == {name(1), name(2)})
        (train / name(3)).write_bytes(whole[:1000])  # a write that broke off
        part = train / "pstr-000004.tmp"
        shutil.copy(LORAS / name(4), part)
        part.rename(old(part).with_name(name(4)))  # a trainer that renames
        until(lambda: name(4) in judged(out))
        old(Path(shutil.copy(LORAS / "pstr.safetensors", train)))
        output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "its final file is there" in errors
    for number in (2, 3):
        assert errors.count(f"{name(number)}: still being written") == 1
    assert judged(out) >= {name(1), name(2)} and name(3) not in judged(out)
    assert (out / "report.html").is_file() and "BRISQUE" in output
    kept = {path.name for path in (out / "checkpoints").glob("*.safetensors")}
    assert kept and kept <= {name(1), name(2), name(4), "pstr.safetensors"}
    assert (train / name(3)).read_bytes() == whole[:1000]


def test_a_kill_loses_nothing_and_nothing_is_rendered_twice(tmp_path: Path) -> None:
    train, out = tmp_path / "train", tmp_path / "run"
    train.mkdir()
    appear(train, 1)
    with watching(train, out) as process:
        until(lambda: name(1) in judged(out))
        appear(train, 2)
        until(lambda: (out / "checkpoints" / name(2)).exists())
        time.sleep(0.5)
        process.kill()
        process.communicate()
    (train / name(1)).unlink()
    before = {path: path.stat().st_mtime_ns for path in (out / "images").rglob("*.png")}
    report = out / "report.html"  # published once the answer is there
    last = report.stat().st_mtime_ns
    with watching(train, out) as process:
        until(lambda: report.stat().st_mtime_ns > last)
        until(lambda: judged(out) == {name(1), name(2)})
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert {p.name for p in (out / "checkpoints").glob("*.safetensors")} == {name(1), name(2)}


def test_kept_once_without_watching(tmp_path: Path) -> None:
    train, keep, out = tmp_path / "train", tmp_path / "keep", tmp_path / "run"
    train.mkdir()
    for number in (1, 2):
        appear(train, number)
    result = subprocess.run(
        [sys.executable, "-c", "from analysers.commands.main import analyse_epochs as run; run()",
         str(train), "--keep-best", str(keep), "--out", str(out), *QUICK],
        capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert judged(out) == {name(1), name(2)}
    kept = {path.name for path in keep.glob("*.safetensors")}
    assert name(2) in kept, "the last one"
    assert f"keeps {len(kept)} checkpoint" in result.stderr
    assert {path.name for path in train.iterdir()} == {name(1), name(2)}


def test_patience_counts_what_lies_beyond_the_breakdown(tmp_path: Path) -> None:
    from analysers.runs.plan import plan_study
    from generation.cells import Checkpoint

    train = tmp_path / "train"
    train.mkdir()
    for number in range(1, 6):
        appear(train, number)
    candidates = [Candidate(name(n), n, strength=Decimal(1), place=n - 1) for n in range(1, 6)]
    plan = plan_study(asked(train, tmp_path / "run"))
    plan = replace(plan, checkpoints=tuple(replace(c, final=False) for c in plan.checkpoints))
    assert all(isinstance(c, Checkpoint) for c in plan.checkpoints)

    def study(breakdown: Candidate | None) -> Any:
        class Found:
            verdict = Verdict(breakdown=breakdown)
            summaries = tuple(Summary(c, 1, 3, {}) for c in candidates)

        return Found()

    assert watch._end(plan, study(candidates[2]), 2) == "patience"
    assert watch._end(plan, study(candidates[2]), 3) == ""
    assert watch._end(plan, study(candidates[2]), None) == ""
    assert watch._end(plan, study(None), 1) == ""
    last = replace(plan.checkpoints[-1], final=True)
    ended = replace(plan, checkpoints=(*plan.checkpoints[:-1], last))
    assert watch._end(ended, study(None), None) == "", "it says itself: step 120 of 240"
    shutil.copy(LORAS / "pstr.safetensors", train)
    assert watch._end(plan_study(asked(train, tmp_path / "run")), study(None), None) == "final"


def test_only_one_folder_can_be_watched(tmp_path: Path) -> None:
    for loras in ([tmp_path / "a.safetensors"], [tmp_path, tmp_path / "b"]):
        with pytest.raises(UserError, match="one folder"):
            watch.folder_of(StudyRequest.of("epochs", loras=loras))
    assert watch.folder_of(StudyRequest.of("epochs", loras=tmp_path)) == tmp_path


def test_a_folder_without_checkpoints_is_waited_for(tmp_path: Path) -> None:
    train = tmp_path / "later"
    waited: list[float] = []

    def wait(folder: Path, seconds: float) -> None:
        waited.append(seconds)
        train.mkdir(exist_ok=True)
        if len(waited) == 2:
            (train / name(1)).write_bytes((LORAS / name(1)).read_bytes())  # a moment ago
        if len(waited) == 3:
            old(train / name(1))
            raise KeyboardInterrupt

    request = asked(train, tmp_path / "run")
    keeper = Keeper(train, tmp_path / "keep")
    with pytest.raises(KeyboardInterrupt):
        watch.watch(request, keeper, lambda plan: pytest.fail("too early"), wait=wait)
    assert waited == [watch.LOOK, watch.LOOK, 2.0]


def test_what_comes_and_is_pruned_while_others_are_judged_is_kept(tmp_path: Path) -> None:
    train = tmp_path / "train"
    train.mkdir()
    appear(train, 1)
    keeper = Keeper(train, tmp_path / "keep")
    rounds: list[list[str]] = []
    told: list[Any] = []

    def judge(plan: Any) -> Any:
        rounds.append([checkpoint.file for checkpoint in plan.checkpoints])
        if len(rounds) == 1:
            appear(train, 2)
            until(lambda: (tmp_path / "keep" / name(2)).exists(), 20)
            (train / name(2)).unlink()
        else:
            old(Path(shutil.copy(LORAS / "pstr.safetensors", train)))

        class Found:
            verdict = Verdict()
            summaries = ()

        return Found()

    end = watch.watch(asked(train, tmp_path / "run"), keeper, judge, tell=told.append,
                      wait=lambda folder, seconds: None)  # fmt: skip
    assert end.end == "final"
    assert rounds == [[name(1)], [name(1), name(2)], [name(1), name(2), "pstr.safetensors"]]
    kept = [one.path.name for one in told if isinstance(one, watch.Taken) and one.what == "kept"]
    assert kept == [name(1), name(2), "pstr.safetensors"]


def test_a_full_disk_is_waited_for_while_checkpoints_are_kept(tmp_path: Path) -> None:
    train = tmp_path / "train"
    train.mkdir()
    appear(train, 1)
    keeper = Keeper(train, tmp_path / "keep")
    tries: list[int] = []
    told: list[Any] = []

    def judge(plan: Any) -> Any:
        tries.append(len(plan.checkpoints))
        if len(tries) < 3:
            try:
                raise OSError(errno.ENOSPC, "No space left on device")
            except OSError:
                raise UserError("cannot write a.png (No space left on device).") from None
        if len(tries) == 3:
            raise UserError("something else.")

    def wait(folder: Path, seconds: float) -> None:
        appear(train, 1 + len(tries))

    with pytest.raises(UserError, match="something else"):
        watch.watch(asked(train, tmp_path / "run"), keeper, judge, tell=told.append, wait=wait)
    assert tries == [1, 2, 3]
    waiting = [one for one in told if isinstance(one, watch.Waiting)]
    assert len(waiting) == 1 and "No space" in waiting[0].reason, "it is said once"
    assert len(keeper.kept) == 3


def test_what_cannot_be_planned_in_the_middle_does_not_end_it(tmp_path: Path) -> None:
    """A file of another training in the folder: checkpoints are kept on until it is gone."""
    train = tmp_path / "train"
    train.mkdir()
    appear(train, 1)
    keeper = Keeper(train, tmp_path / "keep")
    rounds: list[int] = []
    told: list[Any] = []

    def judge(plan: Any) -> Any:
        rounds.append(len(plan.checkpoints))
        if len(rounds) == 1:
            appear(train, 2).rename(train / "another-v2-000009.safetensors")

        class Found:
            verdict = Verdict()
            summaries = ()

        return Found()

    def wait(folder: Path, seconds: float) -> None:
        if any(isinstance(one, watch.Waiting) for one in told):
            appear(train, 3)
            (train / "another-v2-000009.safetensors").unlink(missing_ok=True)
            (keeper.folder / "another-v2-000009.safetensors").unlink(missing_ok=True)
        if len(rounds) > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch.watch(asked(train, tmp_path / "run"), keeper, judge, tell=told.append, wait=wait)
    (waiting,) = (one for one in told if isinstance(one, watch.Waiting))
    assert "several LoRAs" in waiting.reason and rounds == [1, 2]


class Nothing:
    """What a judge finds that looks at nothing."""

    verdict = Verdict()
    summaries = ()


def test_a_folder_that_is_renamed_meanwhile_is_missed_aloud_and_found_again(tmp_path: Path) -> None:
    train, away = tmp_path / "train", tmp_path / "moved"
    train.mkdir()
    appear(train, 1)
    told: list[Any] = []
    rounds: list[int] = []

    def wait(folder: Path, seconds: float) -> None:
        gone = [one for one in told if isinstance(one, watch.Waiting)]
        if len(rounds) == 1 and not away.exists():
            train.rename(away)
        elif gone and away.exists():
            appear(away, 2)
            away.rename(train)
        elif len(rounds) == 2:
            raise KeyboardInterrupt

    def judge(plan: Any) -> Any:
        rounds.append(len(plan.checkpoints))
        return Nothing()

    with pytest.raises(KeyboardInterrupt):
        watch.watch(
            asked(train, tmp_path / "run"), Keeper(train, tmp_path / "keep"), judge,
            tell=told.append, wait=wait,
        )  # fmt: skip
    (waiting,) = (one for one in told if isinstance(one, watch.Waiting))
    assert waiting.gone and f"{train} is not there any more" in followed(waiting)
    assert "\n" not in followed(waiting) and rounds == [1, 2]


def test_a_checkpoint_that_changes_after_it_was_judged_is_judged_again(tmp_path: Path) -> None:
    """In place, by another file, or by a trainer that was not done after all."""
    train = tmp_path / "train"
    train.mkdir()
    appear(train, 1)
    whole, rounds = (LORAS / name(3)).read_bytes(), []

    def wait(folder: Path, seconds: float) -> None:
        path = train / name(1)
        if len(rounds) == 1:
            path.write_bytes(whole[: len(whole) // 2])  # it grows again: nothing to judge yet
            old(path)
            rounds.append("half")
        elif rounds[-1] == "half":
            path.write_bytes(whole)
            old(path)
            os.utime(path, (time.time() - 30,) * 2)
        else:
            raise KeyboardInterrupt

    def judge(plan: Any) -> Any:
        rounds.append(plan.checkpoints[0].tensor_hash)
        return Nothing()

    with pytest.raises(KeyboardInterrupt):
        watch.watch(
            asked(train, tmp_path / "run"), Keeper(train, tmp_path / "keep"), judge, wait=wait
        )
    first, half, again = rounds
    assert half == "half" and first != again


def test_what_was_written_just_now_is_judged_without_watching_too(tmp_path: Path) -> None:
    train = tmp_path / "train"
    train.mkdir()
    appear(train, 1)
    shutil.copy(LORAS / name(2), train / name(2))  # a moment ago
    os.utime(train / name(2))
    keeper = Keeper(train, tmp_path / "keep", settled=0.5)
    plans: list[Any] = []

    def judge(plan: Any) -> Any:
        plans.append(plan)
        return Nothing()

    watch.judge_once(asked(train, tmp_path / "run"), keeper, judge)
    assert [one.file for one in plans[0].checkpoints] == [name(1), name(2)]


def test_what_cannot_be_kept_is_not_left_out_of_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = tmp_path / "train"
    train.mkdir()
    for number in (1, 2):
        appear(train, number)
    (train / name(3)).write_bytes((LORAS / name(3)).read_bytes()[:1000])
    old(train / name(3))
    told: list[Any] = []
    request = asked(train, tmp_path / "run")

    def keeper() -> Keeper:
        return Keeper(train, tmp_path / "keep", settled=0.1)

    judge = lambda plan: Nothing()  # noqa: E731
    watch.judge_once(request, keeper(), judge, told.append)
    assert [(one.path.name, one.what) for one in told] == [(name(3), "unfinished")]
    shutil.rmtree(tmp_path / "keep")

    def full(path: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr("generation.loras.keeping.link", full)
    with pytest.raises(UserError, match="cannot be kept") as caught:
        watch.judge_once(request, keeper(), judge)
    assert name(1) in str(caught.value) and "full" in str(caught.value)
    assert caught.value.field == "keep_best"


def test_a_folder_that_is_not_there_yet_is_said_once(tmp_path: Path) -> None:
    told: list[Any] = []

    def wait(folder: Path, seconds: float) -> None:
        if len(told) > 1 or folder.is_dir():
            raise KeyboardInterrupt
        folder.mkdir()

    train = tmp_path / "later"
    with pytest.raises(KeyboardInterrupt):
        watch.watch(
            asked(train, tmp_path / "run"), Keeper(train, tmp_path / "keep"),
            lambda plan: pytest.fail("too early"), tell=told.append, wait=wait,
        )  # fmt: skip
    assert [followed(one) for one in told] == [f"{train} is not there yet; it is waited for."]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["train", "--patience", "2"], "--patience: it belongs to --watch"),
        (["--images", "train", "--watch"], "--watch: nothing is trained in --images"),
        (["--images", "train", "--keep-best", "k"], "--keep-best: nothing is trained"),
    ],
)
def test_options_of_a_watch_without_one_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train").mkdir()
    appear(Path("train"), 1)
    result = CliRunner().invoke(analyse_epochs, [*typed, *QUICK, "--out", "run"])
    assert result.exit_code == 2 and said in result.output
    assert not Path("run").exists() and not Path("k").exists()


def test_nothing_to_keep_is_said_of_the_trainings_folder(tmp_path: Path) -> None:
    train = tmp_path / "train"
    keeper = Keeper(train, tmp_path / "keep", settled=0.1)
    for _ in range(2):
        with pytest.raises(UserError, match="train"):
            watch.judge_once(asked(train, tmp_path / "run"), keeper, lambda plan: Nothing())
        train.mkdir(exist_ok=True)
