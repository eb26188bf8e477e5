"""What a report shows of a picture besides itself: made in measuring, or else by the report."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analysers import views
from analysers.measure import Task, measure
from analysers.metrics.ssim import ControlMaps, ssim
from generation.executors import Executor, InProcess, ProcessPool
from generation.pictures.pixels import read_image
from reports import pictures


def paint(path: Path, seed: int, mode: str = "RGB", size: tuple[int, int] = (300, 260)) -> Path:
    rng = np.random.default_rng(seed)
    smooth = Image.fromarray(rng.integers(0, 256, (9, 9, 4), dtype=np.uint8)).resize(size, 3)
    smooth.convert(mode).save(path)
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def opened(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.mark.parametrize("executor", [InProcess(), ProcessPool(1)])
def test_views_are_written_where_pictures_are_measured(executor: Executor, tmp_path: Path) -> None:
    control = paint(tmp_path / "control.png", 0)
    image = paint(tmp_path / "image.png", 1)
    run = tmp_path / "run"
    run.mkdir()
    tasks = [Task(control, views=True), Task(image, control, views=True)]
    found = list(measure(tasks, ["ssim"], executor, run / "measured.jsonl"))
    assert len(found) == 2

    changed = opened((run / views.map_name(digest(image), digest(control))).read_bytes())
    assert changed.shape == (260, 300)
    inside = 1 - changed[5:-5, 5:-5] / 255
    assert inside.mean() == pytest.approx(ssim(read_image(image), read_image(control)), abs=0.02)
    small = opened(views.read_small(run, digest(image)))
    assert small.shape == (194, 224, 3)
    assert views.read_small(run, digest(control))

    without = tmp_path / "without"
    without.mkdir()
    list(measure([Task(image, control)], ["ssim"], InProcess(), without / "measured.jsonl"))
    assert not (without / views.FOLDER).exists()


@pytest.mark.parametrize("mode, size", [("RGB", (300, 260)), ("RGBA", (300, 260)), ("L", (31, 17)),
                                        ("RGB", (299, 520))])  # fmt: skip
def test_the_report_makes_the_same_views(
    mode: str, size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the picture holds, and where its size is not the control's."""
    control = paint(tmp_path / "control.png", 0)
    image = paint(tmp_path / "image.png", 1, mode, size)
    names, contents = [], []
    for folder, by in ((tmp_path / "a", "measuring"), (tmp_path / "b", "report")):
        folder.mkdir()
        if by == "measuring":
            tasks = [Task(image, control, views=True)]
            list(measure(tasks, ["ssim"], InProcess(), folder / "measured.jsonl"))
            with monkeypatch.context() as patch:
                patch.setattr(pictures, "decode_image", None)  # nothing is decoded once more
                told = pictures._views_beside(str(control), [str(image)], folder, True)
        else:
            told = pictures._views_beside(str(control), [str(image)], folder, True)
        names.append(told[0])
        contents.append({path.name: path.read_bytes() for path in (folder / "maps").iterdir()})
        assert told[1][str(image)] == views.read_small(folder, digest(image)) != b""
    assert names[0] == names[1]
    assert contents[0] == contents[1]
    assert len(contents[0]) == 2


def test_nothing_is_written_for_one_who_only_looks(tmp_path: Path) -> None:
    control, image = paint(tmp_path / "control.png", 0), paint(tmp_path / "image.png", 1)
    run = tmp_path / "run"
    run.mkdir()
    assert pictures._views_beside(str(control), [str(image)], run, False) == ({}, {})
    assert pictures._small(str(image), run, False).startswith(b"\xff\xd8")
    assert not list(run.iterdir())


def test_a_small_copy_that_is_a_link_or_no_picture_is_not_read(tmp_path: Path) -> None:
    image = paint(tmp_path / "image.png", 1)
    run = tmp_path / "run"
    (run / views.FOLDER).mkdir(parents=True)
    place = run / views.small_name(digest(image))
    secret = tmp_path / "secret.jpg"
    Image.new("RGB", (8, 8)).save(secret)
    place.symlink_to(secret)
    assert views.read_small(run, digest(image)) == b""
    place.unlink()
    for content in (b"", b"<script>", b"\xff\xd8" + bytes(1 << 18)):
        place.write_bytes(content)
        assert views.read_small(run, digest(image)) == b""
    place.write_bytes(secret.read_bytes())
    assert views.read_small(run, digest(image)) == secret.read_bytes()


def test_a_full_disk_loses_no_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(views, "write_atomically", full)
    image = paint(tmp_path / "image.png", 1)
    (found,) = measure([Task(image, views=True)], ["brisque"], InProcess(), tmp_path / "m.jsonl")
    assert found.status == "ok"


def test_the_map_is_framed_in_black_and_ends_at_white() -> None:
    rng = np.random.default_rng(0)
    control = rng.integers(0, 256, (40, 50), dtype=np.uint8)
    changed = np.full(control.shape, 7, np.uint8)
    assert ControlMaps.of(control).ssim(control, changed) == 1.0
    assert not changed.any()
    changed[:] = 7
    ControlMaps.of(control).ssim(255 - control, changed)  # a negative SSIM
    assert changed[5:-5, 5:-5].max() == 255
    changed[5:-5, 5:-5] = 0
    assert not changed.any()
