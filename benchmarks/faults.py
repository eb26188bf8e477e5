"""Kill, starve and crowd the two commands, and say of each fault whether anything was lost.

    python benchmarks/faults.py [--quick] [--only WORDS] [--write benchmarks/results/faults.md]

Every line is one kind of fault: how often it struck, whether all folders ended as an undisturbed
run's does (the same scores.csv byte for byte, the same pixels, nothing rendered or measured twice,
no temporary file left, nothing of the user's changed), and what was said. Kills come at uniformly
random fractions of an undisturbed run's length, from the moment it takes its folder on (of one that
renders: until its last picture lies there), and count only if they ended the process. Linux; what
needs root, a C compiler, `unshare` or `setpriv` is left out where that is missing, and named.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Protocol

from machine import cpu_name

from generation.files import TEMPORARY
from generation.folder import MARKER
from generation.pictures.pixels import read_image

ROOT = Path(__file__).parents[1]
IMPORT = "from analysers.commands.main import analyse_strength as run"
COMMAND = [sys.executable, "-c", f"{IMPORT}; run()"]
LORA = ROOT / "sample_data" / "lora" / "pstr.safetensors"

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int lies_below(int fd, const char *name) {
    const char *below = getenv(name);
    char link[64], path[4096];
    if (!below) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    return n > 0 && (path[n] = 0, strstr(path, below) != NULL);
}

static void mark(void) {
    const char *path = getenv("FAULT_MARK");
    int fd = path ? open(path, O_CREAT | O_WRONLY, 0600) : -1;
    if (fd >= 0) close(fd);
}

static void slow(void) {
    if (getenv("FAULT_SLOW")) usleep(1000 * atoi(getenv("FAULT_SLOW")));
}

/* The disk takes FAULT_AFTER bytes (the last write in part, as a disk does), then FAULT_ERRNO. */
ssize_t write(int fd, const void *data, size_t size) {
    static ssize_t (*real)(int, const void *, size_t);
    static long budget = -1;
    if (!real) real = dlsym(RTLD_NEXT, "write");
    if (!lies_below(fd, "FAULT_BELOW")) return real(fd, data, size);
    slow();
    if (getenv("FAULT_AFTER")) {
        if (budget < 0) budget = atol(getenv("FAULT_AFTER"));
        if (budget == 0) { mark(); errno = atoi(getenv("FAULT_ERRNO")); return -1; }
        if ((size_t)budget < size) size = budget;
        budget -= size;
    }
    return real(fd, data, size);
}

ssize_t read(int fd, void *data, size_t size) {
    static ssize_t (*real)(int, void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "read");
    if (lies_below(fd, "FAULT_READ")) { mark(); errno = EIO; return -1; }
    return real(fd, data, size);
}

int rename(const char *old, const char *new) {
    static int (*real)(const char *, const char *);
    if (!real) real = dlsym(RTLD_NEXT, "rename");
    slow();
    return real(old, new);
}

int clock_gettime(clockid_t id, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int rc = real(id, at);
    if (getenv("FAULT_CLOCK") && id == CLOCK_REALTIME)
        at->tv_sec += (rand() % 20000 - 10000) * 86400L;
    return rc;
}
"""


class Polled(Protocol):
    """A process that tells whether it has ended."""

    def poll(self) -> int | None: ...


@dataclass(frozen=True)
class Line:
    """One kind of fault: what was done, how often it struck, whether all survived, what was said.

    `kills` of them ended a process.
    """

    fault: str
    tried: int
    survived: bool
    said: str
    kills: int = 0


@dataclass(frozen=True)
class Whole:
    """An undisturbed run: seconds until it took its folder, until the last picture lay there
    and until its end; what it left."""

    options: list[str]
    begin: float
    painted: float
    seconds: float
    scores: bytes
    pixels: dict[str, str]
    size: int


NAMES = {"judge": "measure, decide, report", "render": "render and measure"}


class Bench:
    """The undisturbed runs and everything that is compared with them."""

    def __init__(self, scratch: Path, quick: bool) -> None:
        self.scratch, self.quick = scratch, quick
        self.rng = random.Random(0)
        self.pictures = scratch / "pictures"
        self.pictures.mkdir()
        source = ROOT / "sample_data" / "pictures" / "strengths"
        for path in sorted(source.glob("strength_*.png"))[: 3 if quick else 6]:
            shutil.copy(path, self.pictures)
        self.control = Path(shutil.copy(source / "control_01.png", scratch / "control.png"))
        self.users = self.pictures / "scan.tmp.png"
        self.users.write_bytes(self.control.read_bytes())
        judge = ["--images", str(self.pictures), "--control", str(self.control)]
        render = [
            str(LORA), "--model", "demo", "--prompt", "pstr style, a cat", "--prompt",
            "pstr style, a dog", "--seeds", "1", "--strengths", "0.4,1.2", "--steps", "4",
            "--size", "64", "--device", "cpu", "--batch-size", "1",
        ]  # fmt: skip
        self.options = {"judge": judge, "render": render}
        self.shim = self._compiled()
        self.numbers = iter(range(10**6))
        self._whole: dict[tuple[str, int], Whole] = {}

    def _compiled(self) -> str:
        source, shim = self.scratch / "shim.c", self.scratch / "shim.so"
        source.write_text(SHIM)
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            return ""
        built = subprocess.run([compiler, "-shared", "-fPIC", "-o", shim, source, "-ldl"])
        return str(shim) if built.returncode == 0 else ""

    def faulty(self, **settings: object) -> dict[str, str]:
        """An environment in which the shim does as told: `below="/x"` is FAULT_BELOW=/x."""
        told = {f"FAULT_{name.upper()}": str(value) for name, value in settings.items()}
        return {**os.environ, "LD_PRELOAD": self.shim, **told}

    def whole(self, name: str, slow: int = 0) -> Whole:
        """The undisturbed run, on a disk that is so many milliseconds slower at each write."""
        if (name, slow) not in self._whole:
            options, out = self.options[name], self.folder()
            start, clock = time.perf_counter(), time.time()
            process = self.start([*options, "--out", str(out)], env=self.slowed(out, slow))
            begin = took_folder(process, out) - start
            _, errors = process.communicate()
            assert process.returncode == 0, errors
            seconds = time.perf_counter() - start
            size = sum(-(-p.stat().st_size // 4096) * 4096 for p in out.rglob("*") if p.is_file())
            scores = (out / "scores.csv").read_bytes()
            landed = [p.stat().st_mtime - clock for p in (out / "images").rglob("*.png")]
            self._whole[name, slow] = Whole(
                options, begin, max(landed, default=seconds), seconds, scores, pixels(out), size
            )
        return self._whole[name, slow]

    def slowed(self, out: Path, slow: int) -> dict[str, str]:
        return self.faulty(below=out, slow=slow) if slow else dict(os.environ)

    def folder(self) -> Path:
        """A new folder's path."""
        return self.scratch / f"run{next(self.numbers)}"

    def run(self, options: Sequence[str], **more: object) -> subprocess.CompletedProcess[str]:
        prefix = more.pop("prefix", [])
        assert isinstance(prefix, list)
        return subprocess.run(
            [*prefix, *COMMAND, *options], capture_output=True, text=True, cwd=self.scratch,
            timeout=600, **more,
        )  # type: ignore[call-overload,no-any-return]  # fmt: skip

    def start(self, options: Sequence[str], **more: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=self.scratch, **more,
        )  # type: ignore[call-overload,no-any-return]  # fmt: skip

    def finished(self, name: str, out: Path) -> str:
        """What is wrong after the run was allowed to end, "" if nothing."""
        whole = self.whole(name)
        before = {p: p.stat().st_mtime_ns for p in out.rglob("images/**/*.png")}
        result = self.run([*whole.options, "--out", str(out)])
        if result.returncode:
            return f"exit {result.returncode}: {plain(one_line(result.stderr), self)}"
        if (out / "scores.csv").read_bytes() != whole.scores:
            return "scores.csv differs"
        if pixels(out) != whole.pixels:
            return "the pictures differ"
        if self.users.read_bytes() != self.control.read_bytes():
            return "a picture of the user's was changed"
        if left := [p.name for p in out.rglob("*") if ".tmp" in p.name]:
            return f"left behind: {left[0]}"
        if any(not p.exists() or p.stat().st_mtime_ns != at for p, at in before.items()):
            return "a picture was rendered again"
        return measured_twice(out)


def pixels(out: Path) -> dict[str, str]:
    """SHA-256 of each decoded picture of the run folder, by its place there."""
    return {
        str(path.relative_to(out)): hashlib.sha256(read_image(path).tobytes()).hexdigest()
        for path in sorted((out / "images").rglob("*.png"))
    }


def measured_twice(out: Path) -> str:
    seen = set()
    for line in (out / "measured.jsonl").read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        for metric in record["values"]:
            key = (record["image"], record["control"], metric)
            if key in seen:
                return f"{metric} was measured twice"
            seen.add(key)
    return ""


def took_folder(process: Polled, out: Path) -> float:
    """When the process took its run folder (or ended)."""
    lock = out / MARKER / "lock"
    held = lock.stat().st_mtime_ns if lock.exists() else 0
    while process.poll() is None and not (lock.exists() and lock.stat().st_mtime_ns != held):
        time.sleep(0.005)
    return time.perf_counter()


def phase(out: Path, pictures: int) -> str:
    """What a run is at, told by what lies in its folder."""
    painted = len(list((out / "images").rglob("*.png")))
    if (out / "report.html").exists() or (out / "run.json").exists():
        return "writing results"
    if any(TEMPORARY.fullmatch(p.name) for p in (out / "images").rglob("*.tmp")):
        return "storing"
    if pictures and painted < pictures:
        return "painting" if painted else "opening the engine"
    return "measuring and deciding"


def one_line(text: str) -> str:
    """The last line that says something."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return (lines[-1] if lines else "nothing").replace("|", "/")


def plain(text: str, bench: Bench) -> str:
    """A sentence without this machine's folders and numbers."""
    text = re.sub(rf"{re.escape(str(bench.scratch))}/run\d+", "RUN", text)
    text = text.replace(str(bench.scratch), "").replace(str(ROOT), "")
    return re.sub(r"process \d+ on \S+ since [^\s;]+", "process PID on HOST since TIME", text)[:220]


def counted(words: Counter[str]) -> str:
    return ", ".join(f"{number} while {word}" for word, number in words.most_common())


def signalled(
    name: str, count: int, number: signal.Signals, slow: int = 0
) -> Callable[[Bench], Line]:
    """`count` kills, up to three after each other in one folder, which then may end."""

    def test(bench: Bench) -> Line:
        whole = bench.whole(name, slow)
        wrong, phases, late = [], Counter[str](), 0
        out, here = bench.folder(), 0
        while phases.total() < count and late < 3 * count:
            process = bench.start([*whole.options, "--out", str(out)], env=bench.slowed(out, slow))
            took_folder(process, out)
            time.sleep(bench.rng.random() * (whole.painted - whole.begin))
            at = phase(out, len(whole.pixels))
            process.send_signal(number)
            process.communicate()
            hit = process.returncode == -number
            here += hit
            late += not hit
            phases.update([at] * hit)
            if here == 3 or not hit or phases.total() == count:
                if problem := bench.finished(name, out):
                    wrong.append(problem)
                out, here = bench.folder(), 0
        wrong += [] if phases.total() == count else ["the signal did not strike"]
        said = "; ".join(sorted(set(wrong))) or "nothing lost"
        said += f" ({counted(phases)}; {late} runs had ended before and do not count)"
        where = " on a slow disk" if slow else ""
        hits = phases.total()
        return Line(f"{number.name}: {NAMES[name]}{where}", hits, not wrong, said, hits)

    return test


def killed_reports(bench: Bench) -> Line:
    count = 1 if bench.quick else 8
    whole, out, wrong = bench.whole("judge"), bench.folder(), []
    bench.run([*whole.options, "--out", str(out)])
    again = ["--report-only", str(out), "--single-file", "--share", *whole.options]
    process = bench.start(again)
    begin = took_folder(process, out)
    process.communicate()
    seconds, kills = time.perf_counter() - begin, 0
    while kills < count:
        process = bench.start(again)
        took_folder(process, out)
        time.sleep(bench.rng.random() * seconds)
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        page = (out / "report.html").read_text("utf-8")
        if not page.rstrip().endswith("</html>"):
            wrong.append("half a report")
        if (out / "scores.csv").read_bytes() != whole.scores:
            wrong.append("scores.csv differs")
    if problem := bench.finished("judge", out):
        wrong.append(problem)
    return Line("SIGKILL: a finished run's report is written again", count, not wrong,
                "; ".join(wrong) or "always the old page or the new one", count)  # fmt: skip


def children(process: subprocess.Popen[str]) -> list[int]:
    """The living measuring processes of this one."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = stat.read_text().rpartition(")")[2].split()[1]
            words = stat.with_name("cmdline").read_bytes()
        except OSError:
            continue
        if parent == str(process.pid) and b"spawn_main" in words:
            found.append(int(stat.parent.name))
    return found


def killed_children(bench: Bench) -> Line:
    """One of two measuring processes, at a random moment of its life."""
    count = 1 if bench.quick else 8
    whole = bench.whole("judge")
    wrong, hit, tries = [], 0, 0
    while hit < count and tries < 4 * count:
        tries += 1
        out = bench.folder()
        process = bench.start([*whole.options, "--jobs", "2", "--out", str(out)])
        took_folder(process, out)
        while process.poll() is None and not children(process):
            time.sleep(0.005)
        time.sleep(bench.rng.random() * (whole.seconds - whole.begin))
        if pids := children(process):
            os.kill(bench.rng.choice(pids), signal.SIGKILL)
            hit += 1
        _, errors = process.communicate(timeout=600)
        if process.returncode or (out / "scores.csv").read_bytes() != whole.scores:
            wrong.append(f"exit {process.returncode}: {one_line(errors)}")
        elif problem := measured_twice(out):
            wrong.append(problem)
    wrong += [] if hit == count else ["the processes were not found"]
    return Line("SIGKILL of one of two measuring processes", hit, not wrong,
                "; ".join(wrong) or "the others and the caller did its work", hit)  # fmt: skip


def crowd(count: int, name: str, rounds: int) -> Callable[[Bench], Line]:
    def test(bench: Bench) -> Line:
        whole = bench.whole(name)
        wrong, said, ended = [], set(), 0
        for _ in range(rounds):
            out = bench.folder()
            processes = [bench.start([*whole.options, "--out", str(out)]) for _ in range(count)]
            ends = [(p.communicate(timeout=600), p.returncode) for p in processes]
            if not any(code == 0 for _, code in ends):
                wrong.append("none ended well")
            for (_, errors), code in ends:
                ended += code == 0
                if code == 2:
                    said.add(plain(one_line(errors), bench))
                elif code:
                    wrong.append(one_line(errors))
            if (out / "scores.csv").read_bytes() != whole.scores:
                wrong.append("scores.csv differs")
            if problem := bench.finished(name, out):
                wrong.append(problem)
        told = "; ".join(sorted(set(wrong))) or " / ".join(sorted(said)) or "all ended"
        told += f" ({ended} of {rounds * count} ran)"
        return Line(f"{count} processes at once in one folder: {NAMES[name]}", rounds, not wrong,
                    told)  # fmt: skip

    return test


@contextmanager
def small_disk(bench: Bench, size: int) -> Iterator[Path | None]:
    place = bench.folder()
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place],
                             capture_output=True).returncode == 0  # fmt: skip
    try:
        yield place if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", place])


def full_disk(name: str, parts: Sequence[float]) -> Callable[[Bench], Line]:
    """A disk with room for a part of what an undisturbed run writes."""

    def test(bench: Bench) -> Line:
        whole = bench.whole(name)
        wrong, said, tried = [], set(), 0
        for part in parts[1:2] if bench.quick else parts:
            with small_disk(bench, int(part * whole.size) // 4096 * 4096) as place:
                if place is None:
                    return Line(f"disk full: {NAMES[name]}", 0, True, "left out: no mount here")
                out = place / "run"
                result = bench.run([*whole.options, "--out", str(out)])
                tried += 1
                said.add(plain(one_line(result.stderr), bench))
                if result.returncode != 2 or "Traceback" in result.stderr:
                    wrong.append(f"exit {result.returncode} with room for {part:.0%}")
                subprocess.run(["mount", "-o", "remount,size=50m", place], check=True)
                if problem := bench.finished(name, out):
                    wrong.append(problem)
        return Line(f"disk full, then room again: {NAMES[name]}", tried, not wrong,
                    "; ".join(wrong) or " / ".join(sorted(said)))  # fmt: skip

    return test


def broken_disk(name: str, error: str, number: int, count: int) -> Callable[[Bench], Line]:
    """Writing fails after a random number of bytes, in the middle of a write."""

    def test(bench: Bench) -> Line:
        label = f"{error} at a random byte written, then a whole disk: {NAMES[name]}"
        if not bench.shim:
            return Line(label, 0, True, "left out: no C compiler")
        whole = bench.whole(name)
        wrong, said, tried, tries = [], set(), 0, 0
        while tried < count and tries < 3 * count:
            tries += 1
            out, mark = bench.folder(), bench.folder()
            environment = bench.faulty(
                below=out, after=int(bench.rng.random() * whole.size), errno=number, mark=mark
            )
            result = bench.run([*whole.options, "--out", str(out)], env=environment)
            if mark.exists():
                tried += 1
                said.add(plain(one_line(result.stderr), bench))
                if result.returncode != 2 or "Traceback" in result.stderr:
                    wrong.append(f"exit {result.returncode}")
            elif result.returncode:
                wrong.append(f"exit {result.returncode} without a fault")
            if problem := bench.finished(name, out):
                wrong.append(problem)
        wrong += [] if tried == count else [f"the fault struck {tried} times only"]
        return Line(label, tried, not wrong, "; ".join(wrong) or " / ".join(sorted(said)))

    return test


def broken_picture(bench: Bench) -> Line:
    label = "EIO on reading one picture, then a whole disk"
    if not bench.shim:
        return Line(label, 0, True, "left out: no C compiler")
    whole, out, mark = bench.whole("judge"), bench.folder(), bench.folder()
    bad = sorted(bench.pictures.glob("strength_*.png"))[0]
    environment = bench.faulty(read=bad, mark=mark)
    result = bench.run([*whole.options, "--out", str(out)], env=environment)
    rows = (out / "scores.csv").read_text("utf-8") if result.returncode == 3 else ""
    said = next((line for line in rows.splitlines() if "failed" in line), "")
    good = mark.exists() and "cannot be read" in said
    problem = bench.finished("judge", out)
    return Line(label, 1, good and not problem,
                problem or "its row says so, and is measured the next time")  # fmt: skip


def jumping_clock(bench: Bench) -> Line:
    label = "clock jumps by up to 27 years at every look"
    if not bench.shim:
        return Line(label, 0, True, "left out: no C compiler")
    wrong = []
    for name in ("judge",) if bench.quick else ("judge", "render"):
        whole, out = bench.whole(name), bench.folder()
        result = bench.run([*whole.options, "--out", str(out)], env=bench.faulty(clock=1))
        if result.returncode or (out / "scores.csv").read_bytes() != whole.scores:
            wrong.append(plain(one_line(result.stderr), bench))
        elif problem := bench.finished(name, out):
            wrong.append(problem)
    return Line(label, 1 if bench.quick else 2, not wrong, "; ".join(wrong) or "the same scores")


def read_only(bench: Bench) -> Line:
    """A disk that is mounted read-only, for a run, dry runs and the report."""
    whole, out = bench.whole("judge"), bench.folder()
    bench.run([*whole.options, "--out", str(out)])
    new = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    prefix = ["unshare", "-m", "bash", "-c", new, str(bench.scratch)]
    if subprocess.run([*prefix, "true"], capture_output=True).returncode:
        return Line("read-only disk", 0, True, "left out: no unshare here")
    return refusals("read-only disk", bench, out, prefix)


def read_only_folder(bench: Bench) -> Line:
    """A folder without the right to write; root lays down its right to ignore that."""
    prefix: list[str] = []
    if os.geteuid() == 0:
        prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
        if subprocess.run([*prefix, "true"], capture_output=True).returncode:
            return Line("read-only folder", 0, True, "left out: no setpriv here")
    whole, out = bench.whole("judge"), bench.folder()
    bench.run([*whole.options, "--out", str(out)])
    places = [out, *out.rglob("*")]
    for place in places:
        place.chmod(0o555 if place.is_dir() else 0o444)
    try:
        return refusals("read-only folder", bench, out, prefix, fresh=False)
    finally:
        for place in places:
            place.chmod(0o755)


def refusals(label: str, bench: Bench, out: Path, prefix: list[str], *, fresh: bool = True) -> Line:
    """Dry runs work and say so; whatever would write is refused in one sentence."""
    options = bench.options["judge"]
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    works = [
        [*options, "--out", str(out), "--dry-run"],
        [*options, "--out", str(bench.folder()), "--dry-run"],
        [*bench.options["render"], "--out", str(bench.folder()), "--dry-run"],
        ["--report-only", str(out), "--dry-run"],
    ]
    refused = [
        [*options, "--out", str(out)],
        ["--report-only", str(out)],
    ]
    refused += [[*options, "--out", str(bench.folder())]] if fresh else []
    wrong, said = [], set()
    for command in works:
        result = bench.run(command, prefix=prefix)
        if result.returncode:
            wrong.append(f"{command[-1]}: {plain(one_line(result.stderr), bench)}")
    for command in refused:
        result = bench.run(command, prefix=prefix)
        said.add(plain(one_line(result.stderr), bench))
        if result.returncode != 2 or "Traceback" in result.stderr:
            wrong.append(f"exit {result.returncode}: {plain(one_line(result.stderr), bench)}")
    if before != {p: p.stat().st_mtime_ns for p in out.rglob("*")}:
        wrong.append("something was written")
    told = "; ".join(wrong) or f"dry runs work; others say: {' / '.join(sorted(said))}"
    return Line(label, len(works) + len(refused), not wrong, told)


def odd_entries(bench: Bench) -> Line:
    folder = bench.folder()
    shutil.copytree(bench.pictures, folder)
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "fifo.png")
    (folder / "strength_0.35.png").symlink_to("pipe")
    (folder / "strength_0.36.png").symlink_to("/dev/zero")
    (folder / "strength_0.37.png").symlink_to("strength_0.38.png")
    (folder / "strength_0.38.png").symlink_to("strength_0.37.png")
    (folder / "strength_0.40.png").symlink_to("nothing")
    (folder / "strength_0.41.png").mkdir()
    (folder / "around").symlink_to(".")
    (folder / "strength_0.39.png").write_text("this is text")
    shutil.copy(next(bench.pictures.glob("strength_*.png")),
                os.fsencode(folder) + b"/na\xffme_strength_0.45.png")  # fmt: skip
    out = bench.folder()
    result = bench.run(["--images", str(folder), "--control", str(bench.control), "--out",
                        str(out), "--share"])  # fmt: skip
    good = result.returncode in (0, 3) and (out / "report.html").exists()
    rows = (out / "scores.csv").read_text("utf-8") if good else ""
    names = ("fifo.png", "around", *(f"0.{number}" for number in (35, 36, 37, 38, 39, 40, 41)))
    unsaid = [name for name in names if name not in result.stderr]
    good = good and r"na\udcffme" in rows and len(rows.splitlines()) > 4 and not unsaid
    said = "scored or listed with their reason" if good else one_line(result.stderr)
    said += f"; not a word of {', '.join(unsaid)}" if unsaid else ""
    fault = "pipes, devices, loops, dead links, folders, text, names that are no UTF-8 in --images"
    return Line(fault, 11, good, said)


def crossing(bench: Bench) -> Line:
    """Pictures are written for a minute while the same folder is scanned."""
    seconds = 6 if bench.quick else 30
    folder = bench.folder()
    shutil.copytree(bench.pictures, folder)
    writer = subprocess.Popen([sys.executable, "-c", PICTURES, str(folder), str(seconds)])
    scans, wrong = 0, []
    try:
        while writer.poll() is None:
            result = bench.run(["--images", str(folder), "--control", str(bench.control), "--out",
                                str(bench.folder())])  # fmt: skip
            scans += 1
            if result.returncode != 0 or "Traceback" in result.stderr:
                wrong.append(plain(one_line(result.stderr), bench))
    finally:
        writer.kill()
        writer.wait()
    return Line(f"{seconds} s of scanning a folder while pictures are written there", scans,
                not wrong, "; ".join(sorted(set(wrong))) or "never half a picture")  # fmt: skip


PICTURES = """
import sys, time
from pathlib import Path
import numpy as np
from generation.pictures.pixels import write_png
folder, end = Path(sys.argv[1]), time.monotonic() + float(sys.argv[2])
rng, number = np.random.default_rng(0), 0
while time.monotonic() < end:
    number = (number + 1) % 5
    write_png(folder / f"strength_{2 + number / 10}.png", rng.integers(0, 255, (96, 96, 3)), {})
    time.sleep(0.05)
"""


def reading(bench: Bench) -> Line:
    """A run folder is written for a minute while all of it is read, and its report asked for."""
    from analysers.runs.conclude import load_study
    from generation.errors import UserError

    seconds = 6 if bench.quick else 60
    whole, out = bench.whole("judge"), bench.folder()
    bench.run([*whole.options, "--out", str(out)])
    page = (out / "report.html").stat().st_size
    writer = subprocess.Popen([sys.executable, "-c", RESULTS, str(out), str(seconds)])
    report = bench.start(["--report-only", str(out)])
    titles, wrong, reads, reports, waits = set(), [], 0, 0, 0
    try:
        while writer.poll() is None:
            try:
                titles.add(load_study(out).title)
                json.loads((out / "run.json").read_text("utf-8"))
            except (UserError, OSError, ValueError) as error:
                wrong.append(plain(str(error), bench))
            if not (out / "report.html").read_text("utf-8").rstrip().endswith("</html>"):
                wrong.append("half a report")
            if len((out / "scores.csv").read_bytes()) != len(whole.scores):
                wrong.append("half a scores.csv")
            reads += 4
            if report.poll() is not None:
                _, errors = report.communicate()
                reports += 1
                waits += report.returncode == 2 and "is being written by" in errors
                if report.returncode not in (0, 2) or "Traceback" in errors:
                    wrong.append(plain(one_line(errors), bench))
                report = bench.start(["--report-only", str(out)])
    finally:
        writer.kill()
        writer.wait()
        report.communicate()
    if len(titles) < 2 or not page:
        wrong.append("nothing was written meanwhile")
    if problem := bench.finished("judge", out):
        wrong.append(problem)
    said = "; ".join(sorted(set(wrong))) or "never half a file"
    said += f" ({reads:,} files read, {reports} --report-only, {waits} told who writes)"
    return Line(f"{seconds} s of reading a run folder that is written all the time", reads,
                not wrong, said)  # fmt: skip


RESULTS = """
import sys, time
from dataclasses import replace
from pathlib import Path
from analysers.runs.conclude import load_study, write
from generation.errors import UserError
from generation.folder import open_run_folder
from reports import html, tables
out, end, number = Path(sys.argv[1]), time.monotonic() + float(sys.argv[2]), 0
study = load_study(out)
while time.monotonic() < end:
    time.sleep(0.3)
    try:
        with open_run_folder(out):
            for _ in range(5):
                number += 1
                changed = replace(study, title=f"study {number}")
                write(changed, out)
                tables.write_tables(changed, out)
                html.write_report(changed, out)
    except UserError:
        continue  # --report-only holds it
"""


def tests(quick: bool) -> list[tuple[str, Callable[[Bench], Line]]]:
    def many(number: int) -> int:
        return max(2, number // 20) if quick else number

    kill, term, hup = signal.SIGKILL, signal.SIGTERM, signal.SIGHUP
    parts = (0.05, 0.2, 0.4, 0.6, 0.8, 0.95)
    return [
        ("kill judge", signalled("judge", many(40), kill)),
        ("kill render", signalled("render", many(18), kill)),
        ("kill slow", signalled("render", many(18), kill, slow=120)),
        ("kill report", killed_reports),
        ("kill child", killed_children),
        ("term", signalled("judge", many(4), term)),
        ("hup", signalled("judge", many(4), hup)),
        ("two judge", crowd(2, "judge", 1 if quick else 4)),
        ("four judge", crowd(4, "judge", 1 if quick else 3)),
        ("two render", crowd(2, "render", 1)),
        ("four render", crowd(4, "render", 1)),
        ("full judge", full_disk("judge", parts)),
        ("full render", full_disk("render", parts[1:])),
        ("broken judge", broken_disk("judge", "ENOSPC", 28, many(5))),
        ("broken judge", broken_disk("judge", "EIO", 5, many(5))),
        ("broken render", broken_disk("render", "EIO", 5, many(4))),
        ("broken picture", broken_picture),
        ("readonly disk", read_only),
        ("readonly folder", read_only_folder),
        ("clock", jumping_clock),
        ("odd", odd_entries),
        ("crossing", crossing),
        ("reading", reading),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--write", type=Path)
    o = parser.parse_args()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup, children would pass over it
    lines, begin = [], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        bench = Bench(Path(scratch), o.quick)
        for name, test in tests(o.quick):
            if not any(word in name for word in o.only.split(",")):
                continue
            lines.append(test(bench))
            print(row(lines[-1]), flush=True)
            if o.write:  # after each: a campaign may be cut short
                o.write.write_text(page(lines, time.monotonic() - begin), "utf-8")
    return 0 if all(line.survived for line in lines) else 1


def page(lines: Sequence[Line], seconds: float) -> str:
    return (
        f"# Faults\n\n`python benchmarks/faults.py`, {date.today()}, {cpu_name()}, "
        f"{seconds / 60:.0f} min, shared with other work. {sum(line.kills for line in lines)} "
        "processes were killed in all.\n\n"
        "| fault | struck | survived | what was said |\n|---|---|---|---|\n"
    ) + "".join(row(line) + "\n" for line in lines)


def row(line: Line) -> str:
    survived = "yes" if line.survived else "NO"
    return f"| {line.fault} | {line.tried} | {survived} | {line.said} |"


if __name__ == "__main__":
    sys.exit(main())
