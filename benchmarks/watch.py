"""A training is watched while it does its worst, and the watcher is killed again and again.

    python benchmarks/watch.py [--kills 12] [--write benchmarks/results/watch.md]

One process plays the trainer: it writes checkpoints slowly, in pieces, to another name first, or
not to the end, writes one again with other weights, renames one, and prunes all but the last three.
Another is `analyse-epochs --watch`, killed (SIGKILL) at uniformly random moments and started again
at once; when it has been killed often enough the trainer writes its final file, and the watcher
ends by itself. Then the same without kills where the run folder's disk is too small, until room is
made. After every kill and in the end it is counted what was judged, kept, painted and measured.
Linux; the full disk needs root.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from machine import cpu_name

from analysers.runs.conclude import load_study
from generation.errors import UserError
from generation.files import TEMPORARY

ROOT = Path(__file__).parents[1]
LORAS = ROOT / "sample_data" / "lora"
QUICK = [
    "--model", "demo", "--prompt", "a cat, pstr style", "--prompt", "a boat, pstr style",
    "--seeds", "1", "--steps", "2", "--size", "64", "--device", "cpu",
]  # fmt: skip
FINAL = "pstr.safetensors"
BROKEN = 4
"""The checkpoint that is never written to its end."""


def name(number: int) -> str:
    return f"pstr-{number:06d}.safetensors"


def again(number: int) -> bytes:
    """The checkpoint with a few other weights."""
    return (LORAS / name(number)).read_bytes()[:-64] + bytes(64)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass
class Trainer:
    """Writes checkpoints to `folder` in all the ways that trainers do, and notes what it did."""

    folder: Path
    pause: float
    diary: Path

    def work(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        ways = {1: self.slowly, 2: self.renamed, 3: self.in_long_pieces, BROKEN: self.broken_off,
                6: self.renamed}  # fmt: skip
        for number in range(1, 10):
            ways.get(number, self.slowly)(number)
            if number == 6:  # what a resumed training does: the same checkpoint, other weights
                time.sleep(self.pause)
                self.renamed(6, again(6))
            if number == 7:
                (self.folder / name(7)).rename(self.folder / "pstr-0000007.safetensors")
            time.sleep(self.pause)
            self.prune()
        while not self.diary.with_name("go").exists():
            time.sleep(0.2)
        self._write(self.folder / FINAL, (LORAS / FINAL).read_bytes(), 4, 0.2)
        self._note()

    def slowly(self, number: int) -> None:
        self._write(self.folder / name(number), (LORAS / name(number)).read_bytes(), 6, 0.3)

    def in_long_pieces(self, number: int) -> None:
        self._write(self.folder / name(number), (LORAS / name(number)).read_bytes(), 3, 3.0)

    def renamed(self, number: int, content: bytes = b"") -> None:
        path = self.folder / f"{name(number)}.tmp"
        self._write(path, content or (LORAS / name(number)).read_bytes(), 3, 0.2)
        path.replace(self.folder / name(number))
        self._note()

    def broken_off(self, number: int) -> None:
        content = (LORAS / name(number)).read_bytes()
        self._write(self.folder / name(number), content[: len(content) // 3], 2, 0.2)

    def prune(self) -> None:
        """Remove all but the last three."""
        here = sorted(self.folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
        for path in here[:-3]:
            path.unlink()

    def _write(self, path: Path, content: bytes, pieces: int, pause: float) -> None:
        size = -(-len(content) // pieces)
        with open(path, "wb") as file:
            for start in range(0, len(content), size):
                file.write(content[start : start + size])
                file.flush()
                time.sleep(pause)
        self._note()

    def _note(self) -> None:
        found = {path.name: digest(path) for path in self.folder.glob("*.safetensors")}
        with open(self.diary, "a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")


@dataclass
class Watched:
    """A run folder that is looked at again and again: pictures, measurements, what was said."""

    folder: Path
    said: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    pictures: dict[str, tuple[int, str]] = field(default_factory=dict)

    def look(self) -> None:
        """Every picture that was there before is there, and was not painted again."""
        images = self.folder / "images"
        now = {
            path.relative_to(images).as_posix(): (path.stat().st_mtime_ns, digest(path))
            for path in images.rglob("*.png")
        }
        for path, state in self.pictures.items():
            if now.get(path) != state:
                self.wrong.append(f"{path} is {'not the same' if path in now else 'gone'}")
        self.pictures |= now

    def measured_twice(self) -> int:
        """Measurements in the log that it held already."""
        seen: Counter[str] = Counter()
        log = self.folder / "measured.jsonl"
        for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # cut off by a kill
            values = row.pop("values", {})
            of = json.dumps({k: row[k] for k in sorted(row) if isinstance(row[k], str)})
            seen.update(f"{of} {metric}" for metric in values)
        return sum(count - 1 for count in seen.values())

    def hear(self, text: str) -> None:
        """Keep the lines that say what became of checkpoints; numbers that differ aside."""
        for line in text.splitlines():
            line = line.replace(str(self.folder), "RUN")
            line = re.sub(r"/\S+/train/", "", line)
            if re.search(r"safetensors:|Judging waits|training has ended|Error|Traceback", line):
                self.said[re.sub(r"and \d+ are there", "and N are there", line.strip())] += 1

    def judged(self) -> set[str]:
        try:
            study = load_study(self.folder)
        except UserError:
            return set()
        return {s.candidate.checkpoint for s in study.summaries if s.rank is not None}


def start(train: Path, out: Path, log: Path) -> subprocess.Popen[bytes]:
    run = "from analysers.commands.main import analyse_epochs as run; run()"
    with open(log, "wb") as file:
        return subprocess.Popen(
            [sys.executable, "-c", run, str(train), "--watch", "--out", str(out), *QUICK],
            stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip


@contextmanager
def training(place: Path, pause: float) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, __file__, "--train", str(place), str(pause)])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def whole(place: Path) -> dict[str, set[str]]:
    """Every checkpoint that was ever wholly there, with the hashes that it had."""
    found: dict[str, set[str]] = {}
    good = {digest(path) for path in LORAS.glob("*.safetensors")}
    good.add(hashlib.sha256(again(6)).hexdigest())
    for line in (place / "diary").read_text(encoding="utf-8").splitlines():
        for file, sha in json.loads(line).items():
            if sha in good:
                found.setdefault(file, set()).add(sha)
    return found


def kills(place: Path, count: int, rng: random.Random, longest: float) -> tuple[Watched, list[str]]:
    """The campaign of kills: what was seen, and a table's rows."""
    train, log = place / "train", place / "log"
    run = Watched(place / "run")
    done, moments = 0, Counter[str]()
    with training(place, longest / 2):
        while done < count:
            process = start(train, run.folder, log)
            try:
                process.wait(rng.uniform(0.5, longest))
                run.wrong.append(f"it ended by itself with {process.returncode}")
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                done += 1
                moments[phase(log)] += 1
            run.hear(log.read_text("utf-8", "replace"))
            run.look()
        (place / "go").touch()
        process = start(train, run.folder, log)
        if process.wait(900) != 0:
            run.wrong.append(f"it ended with {process.returncode}")
        run.hear(log.read_text("utf-8", "replace"))
        run.look()
        found = whole(place)
        left = {path.name: digest(path) for path in train.glob("*.safetensors")}
    rows = [
        f"killed | {done} times: {', '.join(f'{n} {what}' for what, n in moments.most_common())}",
        *verdict(run, found, left),
    ]
    return run, rows


def phase(log: Path) -> str:
    """What the watcher was doing, by the last that it said."""
    text = log.read_text("utf-8", "replace")
    if "kept" not in text and "After" not in text and "Watching" not in text:
        return "while starting"
    last = text.strip().splitlines()[-1]
    return "while waiting" if last.startswith("After") or "being written" in last else "in a round"


def verdict(run: Watched, found: dict[str, set[str]], left: dict[str, str]) -> list[str]:
    """Rows of what was judged, kept, painted and measured; what is wrong is noted."""
    judged, names = run.judged(), set(found)
    seen = set[str]().union(*(found[file] for file in judged & names))
    judged |= {file for file in names if found[file] & seen}  # by another name
    lost = names - judged
    if lost:
        run.wrong.append(f"not judged: {', '.join(sorted(lost))}")
    if name(BROKEN) in judged:
        run.wrong.append("what broke off was judged")
    for file, sha in left.items():
        if file in found and sha not in found[file]:
            run.wrong.append(f"{file} of the training was changed")
    kept = {p.name: digest(p) for p in (run.folder / "checkpoints").glob("*.safetensors")}
    for file, sha in kept.items():
        if sha not in found.get(file, ()):
            run.wrong.append(f"{file} was kept otherwise than it was written")
    if FINAL not in kept:
        run.wrong.append("the last one is not kept")
    temporary = [p for p in run.folder.rglob("*") if TEMPORARY.fullmatch(p.name)]
    twice = run.measured_twice()
    if twice:
        run.wrong.append(f"{twice} measurements were made twice")
    if temporary:
        run.wrong.append(f"{len(temporary)} half-written files were left")
    return [
        f"checkpoints that were ever whole | {len(names)}, of which the trainer left "
        f"{len(names & set(left))}",
        f"judged in the end | {len(judged & names)}",
        f"kept in the end | {len(kept)}, byte for byte as they were written",
        f"pictures | {len(run.pictures)}, each painted once",
        f"measured twice | {twice}",
    ]


def full_disk(place: Path, room: str) -> tuple[Watched, list[str]] | None:
    """The run folder on a disk that is too small for long; None where none can be mounted."""
    disk = place / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", disk]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        return None
    train, log = place / "train", place / "log"
    run = Watched(disk / "run")
    try:
        with training(place, 4.0):
            (place / "go").touch()
            process = start(train, run.folder, log)
            until(lambda: "full" in log.read_text("utf-8", "replace"), 300, process)
            until(lambda: "Judging waits" in log.read_text("utf-8", "replace"), 120, process)
            alive = process.poll() is None
            subprocess.run(["mount", "-o", "remount,size=50m", disk], check=True)
            if process.wait(900) != 0:
                run.wrong.append(f"it ended with {process.returncode}")
            run.hear(log.read_text("utf-8", "replace"))
            run.look()
            found = whole(place)
            left = {path.name: digest(path) for path in train.glob("*.safetensors")}
        there = {file: shas for file, shas in found.items() if file in left or file in run.judged()}
        told = "went on" if alive else "ended"
        rows = [f"disk of {room} | full; the watcher {told}", *verdict(run, there, left)]
        return run, rows
    finally:
        subprocess.run(["umount", disk], check=False)


def until(true: Callable[[], bool], seconds: float, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end and process.poll() is None:
        time.sleep(0.2)


def told(title: str, run: Watched, rows: list[str]) -> str:
    lines = [f"## {title}\n", "| | |\n| --- | --- |", *(f"| {row} |" for row in rows)]
    lines.append(f"| wrong | {'; '.join(run.wrong) or 'nothing'} |")
    lines.append("\nWhat was said of checkpoints, and how often over all runs:\n")
    lines += [f"- {line} ({count})" for line, count in sorted(run.said.items())]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--longest", type=float, default=25.0, help="seconds until a kill, at most")
    parser.add_argument("--seed", type=int, default=20261126)
    parser.add_argument("--room", default="900k", help="of the small disk")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--only", choices=["kills", "disk"])
    parser.add_argument("--train", nargs=2, help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.train:
        place = Path(o.train[0])
        Trainer(place / "train", float(o.train[1]), place / "diary").work()
        return
    begin, parts, wrong = time.perf_counter(), [], False
    for kind in ("kills", "disk"):
        if o.only and kind != o.only:
            continue
        place = Path(tempfile.mkdtemp(prefix="watch-"))
        try:
            if kind == "kills":
                found = kills(place, o.kills, random.Random(o.seed), o.longest)
                parts.append(told("Killed at random moments", *found))
                wrong = wrong or bool(found[0].wrong)
            elif small := full_disk(place, o.room):
                parts.append(told("A disk that is full for a while", *small))
                wrong = wrong or bool(small[0].wrong)
            else:
                parts.append("No small disk could be mounted here.\n")
        finally:
            shutil.rmtree(place, ignore_errors=True)
    took = time.perf_counter() - begin
    head = f"`python benchmarks/watch.py`, {date.today()}, {cpu_name()}, {took / 60:.0f} min."
    text = "\n".join(["# A training is watched\n", head, "", *parts])
    print(text)
    if o.write:
        o.write.write_text(text, encoding="utf-8")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
