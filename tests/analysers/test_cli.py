"""The two commands as people type them: real pictures, a real (tiny) model, real kills."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import sample_data
from analysers.commands import bar as bars
from analysers.commands.main import analyse_epochs, analyse_strength
from analysers.commands.tell import rendered
from analysers.intake.pairing import find_pictures
from analysers.study import Rendered
from generation.loras import container, inspection
from generation.loras.inspection import tensor_hash
from generation.pictures.pixels import read_image, read_text, write_png

LORA = sample_data.PATH / "lora" / "pstr-000006.safetensors"
IMPORT = "from analysers.commands.main import analyse_strength"
QUICK = ["--size", "64", "--steps", "2", "--jobs", "0"]
SCORES = "checkpoint epoch step strength prompt seed image control ssim brisque status reason"
SUMMARY = (
    "rank checkpoint epoch step strength n brisque_mean brisque_low brisque_high ssim_mean "
    "tied best"
)


def strength(*arguments: object) -> Result:
    return CliRunner().invoke(analyse_strength, [str(a) for a in arguments])


def epochs(*arguments: object) -> Result:
    return CliRunner().invoke(analyse_epochs, [str(a) for a in arguments])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def paint(path: Path, seed: int, *, noise: float = 5.0, size: int = 96) -> Path:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), float)
    pixels = pixels + np.random.default_rng(99).normal(0, noise, pixels.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
    return path


def ancestors_folder(folder: Path, noises: dict[str, float]) -> Path:
    for name, noise in noises.items():
        paint(folder / f"{name}.png", 1, noise=noise)
    return folder


# --- pictures made elsewhere ---------------------------------------------------------------------


def test_the_ancestors_layout_with_one_control(tmp_path: Path) -> None:
    noises = {"strength_0.1": 4.0, "strength_0.2": 9.0, "strength_0.3": 30.0}
    folder = ancestors_folder(tmp_path / "renders", noises)
    control = paint(tmp_path / "base.png", 1, noise=2)
    result = strength("--images", folder, "--control", control, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    table = rows(tmp_path / "run" / "scores.csv")
    assert list(table[0])[:12] == SCORES.split()
    pictures = [row for row in table if row["control"]]
    assert [row["strength"] for row in pictures] == ["0.1", "0.2", "0.3"]
    summary = rows(tmp_path / "run" / "summary.csv")
    assert list(summary[0])[:12] == SUMMARY.split()
    lowest = min(pictures, key=lambda row: float(row["brisque"]))
    assert summary[0]["strength"] == lowest["strength"] and summary[0]["best"] == "True"
    assert (tmp_path / "run" / "report.html").is_file()
    assert json.loads((tmp_path / "run" / "study.json").read_text())["format"] == 2


def test_the_ancestors_layout_with_a_control_for_each_epoch(tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    for number in (1, 2, 3):
        paint(folder / f"epoch_{number:02d}.png", number, noise=6)
        paint(folder / f"control_{number:02d}.png", number, noise=3)
    result = epochs("--images", folder, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    pictures = [r for r in rows(tmp_path / "run" / "scores.csv") if r["control"]]
    for row in pictures:
        assert row["control"].endswith(f"control_{int(row['epoch']):02d}.png")


@pytest.mark.parametrize(
    ("command", "names", "winner"),
    [
        (strength, ("strength_0.8", "strength_0.3"), ("strength", "0.3")),
        (epochs, ("epoch_07", "epoch_02"), ("epoch", "2")),
    ],
)
def test_of_two_identical_settings_the_lower_wins(
    tmp_path: Path, command: object, names: tuple[str, str], winner: tuple[str, str]
) -> None:
    for name in names:
        paint(tmp_path / "in" / f"{name}.png", 1)
    control = paint(tmp_path / "control.png", 1, noise=3)
    result = command(  # type: ignore[operator]
        "--images", tmp_path / "in", "--control", control, "--out", tmp_path / "run"
    )
    assert result.exit_code == 0, result.output
    summary = rows(tmp_path / "run" / "summary.csv")
    assert summary[0][winner[0]] == winner[1] and summary[0]["best"] == "True"
    assert all(row["tied"] == "True" for row in summary)


def test_bad_pictures_are_named_and_the_others_scored(tmp_path: Path) -> None:
    folder = ancestors_folder(tmp_path / "in", {"strength_0.1": 4, "strength_0.2": 9})
    good = (folder / "strength_0.1.png").read_bytes()
    (folder / "strength_0.3.png").write_bytes(good[:1500])
    (folder / "strength_0.4.png").write_bytes(b"this is text")
    Image.new("RGB", (96, 96), (7, 7, 7)).save(folder / "strength_0.5.png")
    paint(folder / "strength_0.6.png", 1, size=128)
    control = paint(tmp_path / "base.png", 1, noise=2)
    result = strength("--images", folder, "--control", control, "--out", tmp_path / "run")
    assert result.exit_code == 3, result.output
    assert "Traceback" not in result.output
    found = {row["strength"]: row for row in rows(tmp_path / "run" / "scores.csv")}
    assert found["0.1"]["status"] == found["0.2"]["status"] == "ok"
    for name in ("0.3", "0.4"):
        assert found[name]["status"] == "failed" and f"strength_{name}" in found[name]["reason"]
    assert found["0.5"]["status"] == "flagged" and found["0.5"]["brisque"] == ""
    assert found["0.6"]["status"] == "flagged" and "128x128" in found["0.6"]["reason"]
    ranks = {row["strength"]: row["rank"] for row in rows(tmp_path / "run" / "summary.csv")}
    assert ranks["0.3"] == ranks["0.4"] == ranks["0.5"] == "" and ranks["0.1"]


def test_pictures_without_a_control_are_scored_by_brisque_alone(tmp_path: Path) -> None:
    folder = ancestors_folder(tmp_path / "in", {"strength_0.1": 4, "strength_0.2": 30})
    result = strength("--images", folder, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    table = rows(tmp_path / "run" / "scores.csv")
    assert all(r["ssim"] == "" and "no control" in r["reason"] and r["brisque"] for r in table)


def webui_picture(
    path: Path, seed: int, lora: str, weight: str, lora_hash: str = "", prompt: str = "a castle"
) -> None:
    """A picture as A1111 saves it, with its infotext."""
    tag = f" <lora:{lora}:{weight}>" if lora else ""
    hashes = f', Lora hashes: "{lora}: {lora_hash}"' if lora_hash else ""
    text = (
        f"{prompt}{tag}\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 7, "
        f"Seed: {seed}, Size: 96x96, Model: base{hashes}, Version: v1.10.1"
    )
    noise = 3 + 9 * float(weight or 0)
    pixels = np.asarray(Image.open(paint(path, seed, noise=noise)))
    write_png(path, pixels, {"parameters": text})


def test_a_mixed_folder_is_split_into_a_study_per_lora(tmp_path: Path) -> None:
    folder = tmp_path / "outputs"
    for seed in (1, 2):
        webui_picture(folder / f"{seed}-base.png", seed, "", "")
        for lora in ("castle", "knight"):
            for weight in ("0.4", "0.8"):
                webui_picture(folder / f"{seed}-{lora}-{weight}.png", seed, lora, weight)
    result = strength("--images", folder, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    reports = sorted((tmp_path / "run").glob("*/summary.csv"))
    assert len(reports) == 2
    for report in reports:
        summary = rows(report)
        assert {row["strength"] for row in summary} == {"0.4", "0.8"}
        assert {row["n"] for row in summary} == {"2"} and len(
            {r["checkpoint"] for r in summary}
        ) == 1
        assert all(row["ssim_mean"] for row in summary)


def test_pictures_join_their_checkpoints_by_tensor_hash(tmp_path: Path) -> None:
    """The pictures were made when the files had other names; the hash still tells them."""
    train, folder = tmp_path / "train", tmp_path / "outputs"
    train.mkdir()
    for number in (2, 5):
        source = sample_data.PATH / "lora" / f"pstr-{number:06d}.safetensors"
        shutil.copy(source, train / f"style-{number:06d}.safetensors")
        short = tensor_hash(source)[:12]
        webui_picture(folder / f"{number}.png", 1, f"old{number}", "1.0", short)
    webui_picture(folder / "base.png", 1, "", "")
    result = epochs(train, "--images", folder, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    pictures = [row for row in rows(tmp_path / "run" / "scores.csv") if row["control"]]
    assert {(row["checkpoint"], row["epoch"]) for row in pictures} == {
        ("style-000002.safetensors", "2"),
        ("style-000005.safetensors", "5"),
    }


def test_a_trigger_word_amid_the_prompt_does_not_part_a_picture_from_its_control(
    tmp_path: Path,
) -> None:
    """The LoRA given beside --images says which words only prompts with it carry."""
    folder = tmp_path / "outputs"
    for seed in (1, 2):
        webui_picture(folder / f"{seed}-a.png", seed, "", "", prompt="a castle on a hill")
        for weight in ("0.4", "0.8"):
            webui_picture(folder / f"{seed}-{weight}.png", seed, "old", weight,
                          prompt="a pstr style castle on a hill")  # fmt: skip
    for loras, compared in (([], False), ([LORA], True)):
        result = strength(*loras, "--images", folder, "--out", tmp_path / "run", "--jobs", "0")
        assert result.exit_code == 0, result.output
        table = [r for r in rows(tmp_path / "run" / "scores.csv") if r["strength"]]
        assert len(table) == 4 and all(bool(row["ssim"]) == compared for row in table)


def test_an_empty_folder_says_which_names_were_looked_for(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    result = strength("--images", tmp_path / "in", "--out", tmp_path / "run")
    assert result.exit_code == 2 and "strength_0.6.png" in result.output
    assert result.output.count("\n") == 1


def test_pictures_are_judged_without_importing_torch(tmp_path: Path) -> None:
    folder = ancestors_folder(tmp_path / "in", {"strength_0.1": 4, "strength_0.2": 9})
    arguments = ["--images", str(folder), "--out", str(tmp_path / "run"), "--jobs", "0"]
    code = (
        "import sys; from analysers.commands.main import analyse_strength as run\n"
        "try:\n"
        f"    run({arguments!r})\n"
        "except SystemExit as stop:\n"
        "    assert stop.code == 0, stop.code\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'torchvision'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)


# --- rendering -----------------------------------------------------------------------------------


def test_a_rendered_study_from_prompts_to_report(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat at night, pstr style\na dog in the snow, pstr style\n")
    result = strength(
        LORA, "--model", "demo", "--prompts", prompts, "--seeds", "1:2", "--strengths", "0:1:0.5",
        "--out", tmp_path / "run", *QUICK,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    table = [row for row in rows(tmp_path / "run" / "scores.csv") if row["control"]]
    assert len(table) == 3 * 4
    for row in table:
        assert (tmp_path / "run" / row["image"]).is_file()
        assert row["checkpoint"] == LORA.name and row["epoch"] == "6"
    zero = [float(row["ssim"]) for row in table if row["strength"] == "0.0"]
    assert zero == [1.0] * 4, "strength 0 is the control"
    assert all(float(r["ssim"]) < 1 for r in table if r["strength"] != "0.0")
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert len(run["model"]["sha256"]) == 64 and run["settings"]["steps"] == 2
    assert len(run["loras"][0]["sha256"]) == 64


def test_a_study_with_a_fixed_lora_is_read_back_from_its_pictures(tmp_path: Path) -> None:
    """The pictures' infotext names both LoRAs; what is under study is told from what is not."""
    other = Path(shutil.copy(sample_data.PATH / "lora" / "pstr-000002.safetensors",
                             tmp_path / "light, soft.safetensors"))  # fmt: skip
    result = strength(
        LORA, "--with", f"{other}:0.5", "--model", "demo", "--prompt", "a cat", "--seeds", "1,2",
        "--strengths", "0.5,1", "--out", tmp_path / "run", *QUICK,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    images = tmp_path / "run" / "images"
    ours, theirs = tensor_hash(LORA), tensor_hash(other)
    (picture,) = images.glob("*/strength_1.00/p00_s1.png")
    text = read_text(picture)["parameters"]
    assert text.startswith("a cat <lora:light_ soft:0.5> <lora:pstr-000006:1.0>\n")
    assert f'Lora hashes: "light_ soft: {theirs[:12]}, pstr-000006: {ours[:12]}"' in text
    control = read_text(images / "control" / "p00_s1.png")["parameters"]
    assert control.startswith("a cat <lora:light_ soft:0.5>\n") and "pstr" not in control
    found = find_pictures(images, axis="strength")
    assert not found.rejected and len(found.pairs) == 4
    for pair in found.pairs:
        picture = pair.picture
        assert (picture.lora, picture.lora_hash) == ("pstr-000006", ours)
        assert picture.path.parent.name == f"strength_{picture.strength:.2f}"
        assert [(use.name, use.strength) for use in picture.background] == [
            ("light_ soft", Decimal("0.5"))
        ]
        assert pair.control == images / "control" / picture.path.name


def test_the_best_strength_is_noted_where_the_webui_reads_it(tmp_path: Path) -> None:
    lora = Path(shutil.copy(LORA, tmp_path / "my.safetensors"))
    result = strength(
        lora, "--model", "demo", "--prompt", "a cat", "--seeds", "1", "--strengths", "0.5,1",
        "--out", tmp_path / "run", "--write-weight", *QUICK,
    )  # fmt: skip
    assert result.exit_code == 2 and "One picture cannot decide." in result.output
    assert not (tmp_path / "my.json").exists()
    result = strength(
        lora, "--model", "demo", "--prompt", "a cat", "--prompt", "a dog", "--prompt", "a bird",
        "--seeds", "1", "--strengths", "0.5,1", "--out", tmp_path / "run", "--write-weight", *QUICK,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (best,) = (
        r
        for r in rows(tmp_path / "run" / "summary.csv")
        if r["recommended"].lower() in ("true", "1", "yes")
    )
    weight = json.loads((tmp_path / "my.json").read_text())["preferred weight"]
    assert weight == float(best["strength"])


def test_the_weight_is_noted_beside_the_checkpoint_that_won(tmp_path: Path) -> None:
    """diffusers' checkpoints all bear one file name, in folders of their own."""
    names = {1: "checkpoint-100", 6: "checkpoint-300"}
    for number, name in names.items():
        (tmp_path / "train" / name).mkdir(parents=True)
        shutil.copy(
            sample_data.PATH / "lora" / f"pstr-{number:06d}.safetensors",
            tmp_path / "train" / name / "pytorch_lora_weights.safetensors",
        )
    result = epochs(
        tmp_path / "train", "--model", "demo", "--prompt", "a cat", "--prompt", "a dog",
        "--prompt", "a bird", "--seeds", "1", "--strengths", "0.5,1",
        "--out", tmp_path / "run", "--write-weight", *QUICK,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    ranked = rows(tmp_path / "run" / "summary.csv")
    assert {Path(row["checkpoint"]).parent.name for row in ranked} == set(names.values())
    (card,) = (tmp_path / "train").rglob("pytorch_lora_weights.json")
    (best,) = (row for row in ranked if row["recommended"].lower() in ("true", "1", "yes"))
    assert card.parent.name == Path(best["checkpoint"]).parent.name


def test_epochs_times_strengths_with_one_unusable_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    folder.mkdir()
    for number in (1, 2, 3):
        shutil.copy(sample_data.PATH / "lora" / f"pstr-{number:06d}.safetensors", folder)
    broken = folder / "pstr-000002.safetensors"
    broken.write_bytes(broken.read_bytes()[:50_000])
    result = epochs(
        folder, "--model", "demo", "--prompt", "a cat, pstr style", "--seeds", "1",
        "--strengths", "0.5,1", "--out", tmp_path / "run", *QUICK,
    )  # fmt: skip
    assert result.exit_code == 3, result.output
    summary = rows(tmp_path / "run" / "summary.csv")
    assert len(summary) == 6
    failed = [row for row in summary if not row["rank"]]
    assert {row["checkpoint"] for row in failed} == {"pstr-000002.safetensors"}
    assert all("pstr-000002" in row["reason"] for row in failed)
    (last,) = (tmp_path / "run" / "images").glob("pstr-000003_*")
    assert (last / "strength_0.50").is_dir()


def test_each_of_ten_loras_is_parsed_inspected_and_hashed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(sample_data.PATH / "lora", tmp_path / "loras")
    later = time.time_ns() + 10**10  # what was written a moment ago is not remembered
    monkeypatch.setattr(container, "time_ns", lambda: later)
    counted: Counter[str] = Counter()

    def count(module: ModuleType, name: str, call: Callable[..., str]) -> None:
        real = getattr(module, name)

        def counting(*arguments: Any) -> Any:
            counted[call(*arguments)] += 1
            return real(*arguments)

        monkeypatch.setattr(module, name, counting)

    count(container, "_parse_header", lambda path, _: f"parsed {path.name}")
    count(inspection, "_stored_alphas", lambda header, _: f"inspected {header.path.name}")
    count(container, "_digest", lambda path, start: f"hashed from {min(start, 1)} {path.name}")
    result = epochs(
        folder, "--model", sample_data.PATH / "model", "--prompt", "a red house", "--seeds", "1",
        *QUICK, "--out", tmp_path / "run",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in folder.iterdir())
    once = ("parsed", "inspected", "hashed from 0", "hashed from 1")
    of_loras = {what: times for what, times in counted.items() if what.endswith(tuple(names))}
    assert len(names) == 10 and of_loras == {f"{what} {name}": 1 for what in once for name in names}


def test_a_dry_run_without_a_model_lists_the_checkpoints(tmp_path: Path) -> None:
    """In a process of its own, which must not import torch for it."""
    folder = tmp_path / "train"
    for step in (100, 300):
        (folder / f"checkpoint-{step}").mkdir(parents=True)
        shutil.copy(LORA, folder / f"checkpoint-{step}" / "pytorch_lora_weights.safetensors")
    last = folder / "checkpoint-300" / "pytorch_lora_weights.safetensors"
    last.write_bytes(last.read_bytes()[:-4] + bytes(4))
    code = (
        "import sys; from analysers.commands.main import analyse_epochs as run\n"
        "try: run()\n"
        "finally: print('torch' in sys.modules, 'diffusers' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, folder, "--dry-run"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "False False"
    assert "checkpoint-100/pytorch_lora_weights.safetensors  (position from" in done.stdout
    assert "Trigger words: pstr" in done.stdout and "Nothing was written" in done.stdout
    assert "give --model (Stable Diffusion 1.x)" in done.stdout
    assert not (tmp_path / "runs").exists()
    empty = epochs(tmp_path, "--dry-run")
    assert empty.exit_code == 2 and "its folder train does" in empty.output


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    result = epochs(
        sample_data.PATH / "lora", "--model", "demo", "--prompt", "a cat", "--out",
        tmp_path / "run", "--dry-run", *QUICK,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "To render: 22 of 22" in result.output and not (tmp_path / "run").exists()
    assert result.output.index("pstr-000001") < result.output.index("pstr.safetensors")


def test_a_dry_run_refuses_a_budget_that_pays_for_nothing(tmp_path: Path) -> None:
    asked = ["--demo", "--strengths", "0.5,1", "--out", tmp_path / "run", "--dry-run", "--budget"]
    assert "To render: at most " in strength(*asked, "3").output
    poor = strength(*asked, "2")
    assert poor.exit_code == 2 and "give at least 3." in poor.output


def test_the_noise_floor_is_measured_with_several_devices_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from generation.renderers.diffusers import engine
    from generation.renderers.diffusers.setup import Setup

    monkeypatch.setattr(engine, "devices", lambda _device: ["cpu", "cpu"])
    opened = []
    open_engine = Setup.__call__

    def counted(setup: Setup, settings: object, device: str = "") -> object:
        opened.append(device)
        return open_engine(setup, settings, device)  # type: ignore[arg-type]

    monkeypatch.setattr(Setup, "__call__", counted)
    command = [
        LORA, "--model", "demo", "--prompt", "a cat", "--prompt", "a dog", "--seeds", "1,2",
        "--strengths", "0.5,1", "--out", tmp_path / "run", *QUICK,
    ]  # fmt: skip
    result = strength(*command)
    assert result.exit_code == 0, result.output
    assert opened == ["cpu"], "here, once; the devices' own processes are not counted"
    record = json.loads((tmp_path / "run" / "noise.json").read_text())
    assert len(record["pairs"]) == 3 and all(0.99 < pair[0] <= 1 for pair in record["pairs"])
    for path in ("noise.json", "report.html"):
        assert (tmp_path / "run" / path).is_file()
    study = json.loads((tmp_path / "run" / "study.json").read_text())
    assert study["evidence"]["noise"]["floor"] == record["floor"]
    assert strength(*command).exit_code == 0 and opened == ["cpu"], "measured once"


def test_three_kills_and_a_resume_give_the_undisturbed_result(tmp_path: Path) -> None:
    def command(out: Path) -> list[str]:
        return [
            sys.executable, "-c", f"{IMPORT} as run; run()",
            str(LORA), "--model", "demo", "--prompt", "a cat, pstr style", "--prompt",
            "a fox in a forest", "--seeds", "1:4", "--strengths", "0.5:2:0.5", "--out", str(out),
            "--size", "64", "--steps", "3", "--quiet",
        ]  # fmt: skip

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = subprocess.run(command(whole), env=environment, capture_output=True, text=True)
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert not undisturbed.stderr, "libraries talk while they are imported"
    pictures = len(list((whole / "images").rglob("*.png")))
    assert pictures == 8 + 32
    random_moment = random.Random(5)
    written: dict[Path, int] = {}
    for _ in range(3):
        goal = len(written) + random_moment.randint(2, 9)
        process = subprocess.Popen(
            command(killed), env=environment, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        while process.poll() is None and len(list(killed.rglob("*_s*.png"))) < goal:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for path in killed.rglob("*_s?.png"):
            stamp = path.stat().st_mtime_ns
            assert written.setdefault(path, stamp) == stamp, f"{path.name} was rendered twice"
    assert 0 < len(written) < pictures
    finished = subprocess.run(command(killed), env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    for path, stamp in written.items():
        assert path.stat().st_mtime_ns == stamp, f"{path.name} was rendered twice"
    assert (killed / "scores.csv").read_bytes() == (whole / "scores.csv").read_bytes()
    for path in (whole / "images").rglob("*.png"):
        again = killed / path.relative_to(whole)
        assert np.array_equal(read_image(again), read_image(path)), path.name


def test_a_finished_run_is_reported_again_without_torch(tmp_path: Path) -> None:
    folder = ancestors_folder(tmp_path / "in", {"strength_0.1": 4, "strength_0.2": 9})
    assert strength("--images", folder, "--out", tmp_path / "run").exit_code == 0
    before = (tmp_path / "run" / "scores.csv").read_bytes()
    (tmp_path / "run" / "report.html").unlink()
    again = ("--report-only", tmp_path / "run", "--quiet", "--share", "--single-file")
    assert strength(*again).exit_code == 0
    # Pictures elsewhere are shown to whoever names their folder again, and to nobody else.
    assert "data:image/" not in (tmp_path / "run" / "report.html").read_text()
    result = strength(*again, "--images", folder)
    assert result.exit_code == 0 and result.output.strip().endswith("report.html")
    assert (tmp_path / "run" / "report.html").is_file()
    assert (tmp_path / "run" / "scores.csv").read_bytes() == before
    with Image.open(tmp_path / "run" / "sweep.webp") as sweep:
        assert sweep.n_frames >= 2  # type: ignore[attr-defined]
    with Image.open(tmp_path / "run" / "contact_sheet.png") as sheet:
        assert sheet.width > 2 * 96
    assert "| rank |" in (tmp_path / "run" / "summary.md").read_text()
    assert "data:image/" in (tmp_path / "run" / "report.html").read_text()


def test_a_picture_without_a_control_is_no_control(tmp_path: Path) -> None:
    """Its likeness to a control says nothing of how alike unrelated pictures are."""
    folder = ancestors_folder(
        tmp_path / "in",
        {"strength_0.1_castle": 9, "strength_0.2_castle": 12, "strength_0.1_dog": 2.5},
    )
    paint(folder / "control_castle.png", 1, noise=2)
    result = strength("--images", folder, "--out", tmp_path / "run")
    dogs = [r for r in rows(tmp_path / "run" / "scores.csv") if "dog" in r["image"]]
    assert [row["control"] for row in dogs] == [""]
    assert "unrelated picture would" not in result.output, result.output


# --- progress ------------------------------------------------------------------------------------


def test_the_pace_is_of_new_pictures_once_all_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(bars, "monotonic", lambda: now)
    bar = bars.Bar()
    bar.start("Rendering", 300)
    for _ in range(100):  # these lay there already
        bar.advance(timed=False)
    now = 60.0  # loading, compiling, the first batch
    for _ in range(4):
        bar.advance(timed=False)
    for batch in range(1, 49):
        now = 60.0 + 8 * batch
        for _ in range(4):
            bar.advance(timed=True)
    bar.finish()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Rendering: 101 of 300"
    # Told at the first picture of a batch, whose other three come in the same moment.
    rates = [float(line.split(", ")[1].split()[0]) for line in lines[1:]]
    assert len(lines) < 15 and 0.4 < rates[0] <= 0.5 and 0.48 < rates[-1] <= 0.5
    assert "296 of 300" not in lines[-1] and lines[-1].endswith("s to go")


def test_what_was_rendered_is_told_with_its_pace() -> None:
    assert rendered(Rendered(128, 16, kept=0, seconds=37.0)) == (
        "Rendered 128 pictures and 16 controls in 37 s (3.9 pictures/s, loading included)."
    )
    more = rendered(Rendered(1, 0, kept=7, seconds=50.0))
    assert more == (
        "Rendered 1 picture in 50 s (0.020 pictures/s, loading included); "
        "7 pictures lay there already."
    )
    none = rendered(Rendered(0, 0, kept=8, seconds=0.1))
    assert none == "Nothing to render: 8 pictures lay there already."


def test_ctrl_c_on_a_terminal_prints_a_command_that_goes_on(tmp_path: Path) -> None:
    """In a pseudo-terminal; the options have blanks, quotes and --no-resume in them."""
    import pty

    script = tmp_path / "analyse-strength"
    script.write_text(
        f"#!{sys.executable}\nimport sys; sys.path.insert(0, {str(Path.cwd())!r})\n"
        "from analysers.commands.main import analyse_strength as run; run()\n"
    )
    script.chmod(0o755)
    prompts = tmp_path / "my prompts.txt"
    prompts.write_text("a cat, pstr style\na dog, pstr style\n")
    words = [
        str(LORA), "--model", "demo", "--prompts", str(prompts), "--prompt", "it's a fox",
        "--no-resume", "--seeds", "1:2", "--strengths", "0.5,1", "--size", "64",
        "--steps", "12", "--batch-size", "2", "--jobs", "0", "--out", str(tmp_path / "my run"),
    ]  # fmt: skip
    terminal, side = pty.openpty()
    process = subprocess.Popen(
        [str(script), *words], stdin=side, stdout=side, stderr=side, start_new_session=True
    )
    os.close(side)
    shown, asked = b"", False
    while True:
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # the other side is closed
            break
        if b" to go" in shown and not asked:
            asked = True
            process.send_signal(signal.SIGINT)
    os.close(terminal)
    text = shown.decode()
    assert process.wait() == 130, text
    assert "0/18" in text and "loading ..." in text
    assert re.search(r"\d+/18  \d[\d.]* pictures/s, (\d+ min )?\d+ s to go", text)
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor is shown again"
    again = text.strip().splitlines()[-1].strip()
    started = shlex.split(again)[0]  # by name where the shell finds it, else by its path
    assert started in ("analyse-strength", str(script)) and "--no-resume" not in again
    kept = {path: path.read_bytes() for path in (tmp_path / "my run").rglob("*_s?.png")}
    assert 0 < len(kept) < 18
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(again, shell=True, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"; {len(kept)} pictures lay there already." in done.stdout
    assert all(path.read_bytes() == data for path, data in kept.items())
    assert len(list((tmp_path / "my run").rglob("*_s?.png"))) == 18


# --- what users get wrong ------------------------------------------------------------------------


def bad_lora(folder: Path, kind: str) -> Path:
    path = folder / "bad.safetensors"
    data = LORA.read_bytes()
    if kind == "text":
        path.write_text("<html>404</html>")
    elif kind == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "pickle in disguise":
        path.write_bytes(b"\x80\x02}q\x00.")
    elif kind in ("pt", "ckpt"):
        path = folder / f"bad.{kind}"
        path.write_bytes(b"PK\x03\x04" + b"\0" * 100)
    elif kind == "no LoRA":
        shutil.copy(sample_data.PATH / "model" / "text_encoder" / "model.safetensors", path)
    return path


@pytest.mark.parametrize(
    "kind",
    ["absent", "text", "truncated", "empty", "pickle in disguise", "pt", "ckpt", "no LoRA"],
)
def test_a_file_that_is_no_lora_is_one_sentence(tmp_path: Path, kind: str) -> None:
    path = bad_lora(tmp_path, kind)
    result = strength(path, "--model", "demo", "--prompt", "a cat", "--out", tmp_path / "run")
    assert result.exit_code == 2, result.output
    assert "bad" in result.output and "Traceback" not in result.output
    assert result.output.count("\n") == 1 and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--demo"),
        ([LORA], "--model"),
        ([LORA, "--model", "demo", "--strengths", "1:0:1", "--prompt", "a"], "--strengths"),
        ([LORA, "--model", "demo", "--seeds", "x", "--prompt", "a"], "--seeds"),
        ([LORA, "--model", "demo", "--size", "65", "--prompt", "a"], "--size"),
        ([LORA, "--model", "demo", "--size", "big", "--prompt", "a"], "--size"),
        ([LORA, "--model", "demo", "--size", "768x", "--prompt", "a"], "cannot read '768x'"),
        ([LORA, "--model", "demo", "--prompts", LORA], "is no UTF-8 text (byte "),
        ([LORA, "--model", "demo", "--metrics", "lpip"], "did you mean lpips or clip?"),
        ([LORA, "--url", "127.0.0.1:8188", "--renderer", "comfyui"], "http://127.0.0.1:8188"),
        (["absent", "--serve"], "LORA: there is no absent"),
        (["--serve", "--host", "300.1.1.1"], "--host: cannot listen"),
        ([LORA, "--model", "demo", "--sampler", "x", "--prompt", "a"], "--sampler"),
        ([LORA, "--model", "demo", "--prompts", "absent.txt"], "absent.txt"),
        ([LORA, "--model", "absent/", "--prompt", "a"], "--model"),
        ([LORA, "--model", "demo", "--prompt", "a", "--rank-by", "beauty"], "beauty"),
        ([LORA, "--model", "demo", "--prompt", "a", "--metrics", "beauty"], "beauty"),
        ([LORA, "--model", "demo", "--prompt", "a", "--te-strength", "x"], "--te-strength"),
        ([LORA, "--model", "demo", "--prompt", "a", "--te-strength", "1,0"], "has 1 text encoder"),
        ([LORA, "--model", "demo", "--prompt", "a <lora:x:1>"], "--with"),
        (["--images", "absent"], "absent"),
        (["--report-only", "."], "study.json"),
    ],
)
def test_a_mistake_is_one_sentence_with_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[object], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = strength(*arguments)
    assert result.exit_code == 2, result.output
    assert words in result.output and "Traceback" not in result.output
    lines = result.output.strip().splitlines()
    assert lines[-1].startswith("Error: ")
    assert len(lines) == 1 or not arguments, "only the bare command has examples above"
    assert not (tmp_path / "runs").exists()


def test_another_familys_lora_is_refused_before_anything_is_rendered(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    from safetensors.numpy import save_file

    tensors = {}
    stem = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    tensors[f"{stem}.lora_down.weight"] = np.ones((4, 2048), np.float16)
    tensors[f"{stem}.lora_up.weight"] = np.ones((640, 4), np.float16)
    save_file(tensors, tmp_path / "xl.safetensors", {"ss_base_model_version": "sdxl_base_v1-0"})
    result = strength(
        tmp_path / "xl.safetensors", "--model", "demo", "--prompt", "a", "--out", tmp_path / "run",
        *QUICK,
    )  # fmt: skip
    assert result.exit_code == 2, result.output
    assert "Stable Diffusion XL" in result.output and "Traceback" not in result.output


def test_an_unwritable_run_folder(tmp_path: Path) -> None:
    folder = ancestors_folder(tmp_path / "in", {"strength_0.1": 4})
    (tmp_path / "file").write_text("")
    result = strength("--images", folder, "--out", tmp_path / "file" / "run")
    assert result.exit_code == 2 and "--out" in result.output


def test_every_documented_option_exists() -> None:
    text = strength("--help").output + epochs("--help").output
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", readme)) - {"--editable"}:
        assert option in text, f"the README speaks of {option}"


def test_a_dry_run_over_pictures_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = strength("--images", sample_data.PATH / "pictures" / "strengths", "--dry-run")
    assert result.exit_code == 0 and "Nothing was written" in result.output
    assert not list(tmp_path.iterdir())


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("mine")
    for more in ((), ("--dry-run",)):
        result = strength(
            "--images", sample_data.PATH / "pictures" / "strengths", "--out", tmp_path, *more
        )
        assert result.exit_code == 2 and "--allow-non-empty" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": 2}', "NaN", '{"format": "1e9"}'])
def test_a_foreign_study_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "study.json").write_text(text)
    result = strength("--report-only", tmp_path)
    assert result.exit_code == 2 and len(result.output.strip().splitlines()) == 1
    assert "study.json" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["study.json"]
