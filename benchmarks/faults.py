"""Kill, starve and crowd the two commands, and say of each fault whether anything was lost.

    python benchmarks/faults.py [--quick] [--only WORDS] [--write benchmarks/results/faults.md]

Every line is one kind of fault: how often it was tried, whether all runs ended as an undisturbed
one does (the same scores.csv byte for byte, nothing rendered or measured twice, no temporary file
left), and what was said. Linux; what needs root, a C compiler or `unshare`
is left out where that is missing, and named.
"""

from __future__ import annotations

import argparse
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from machine import cpu_name

ROOT = Path(__file__).parents[1]
IMPORT = "from analysers.commands.main import analyse_strength as run"
COMMAND = [sys.executable, "-c", f"{IMPORT}; run()"]
LORA = ROOT / "sample_data" / "lora" / "pstr.safetensors"

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static int budget = -1;
ssize_t write(int fd, const void *data, size_t size) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "write");
    const char *below = getenv("FAULT_BELOW");
    if (below) {
        char link[64], path[4096];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t n = readlink(link, path, sizeof path - 1);
        if (n > 0 && (path[n] = 0, strstr(path, below))) {
            if (budget < 0) budget = atoi(getenv("FAULT_AFTER"));
            if (budget < (int)size) { errno = EIO; return -1; }
            budget -= (int)size;
        }
    }
    return real(fd, data, size);
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


@dataclass(frozen=True)
class Line:
    """One kind of fault: what was done, how often, whether all survived, what was said."""

    fault: str
    tried: int
    survived: bool
    said: str


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
        (self.pictures / "scan.tmp.png").write_bytes(self.control.read_bytes())
        self.judge = ["--images", str(self.pictures), "--control", str(self.control)]
        self.render = [
            str(LORA), "--model", "demo", "--prompt", "pstr style, a cat", "--prompt",
            "pstr style, a dog", "--seeds", "1", "--strengths", "0.4,0.8,1.2", "--steps", "2",
            "--size", "64", "--device", "cpu",
        ]  # fmt: skip
        self.shim = self._compiled()
        self.numbers = iter(range(10**6))
        self.kinds: dict[str, tuple[list[str], float, bytes]] = {}

    def _compiled(self) -> str:
        source, shim = self.scratch / "shim.c", self.scratch / "shim.so"
        source.write_text(SHIM)
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            return ""
        built = subprocess.run([compiler, "-shared", "-fPIC", "-o", shim, source, "-ldl"])
        return str(shim) if built.returncode == 0 else ""

    def undisturbed(self, name: str) -> tuple[list[str], float, bytes]:
        """The command's options, its seconds, its scores.csv."""
        if name not in self.kinds:
            options = self.judge if name == "judge" else self.render
            out = self.folder()
            begin = time.perf_counter()
            result = self.run([*options, "--out", str(out)])
            assert result.returncode == 0, result.stderr
            seconds = time.perf_counter() - begin
            self.kinds[name] = options, seconds, (out / "scores.csv").read_bytes()
        return self.kinds[name]

    def folder(self) -> Path:
        """A new folder's path."""
        return self.scratch / f"run{next(self.numbers)}"

    def run(self, options: list[str], **more: object) -> subprocess.CompletedProcess[str]:
        prefix = more.pop("prefix", [])
        assert isinstance(prefix, list)
        return subprocess.run(
            [*prefix, *COMMAND, *options], capture_output=True, text=True, cwd=self.scratch,
            timeout=600, **more,
        )  # type: ignore[call-overload,no-any-return]  # fmt: skip

    def start(self, options: list[str], **more: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=self.scratch, **more,
        )  # type: ignore[call-overload,no-any-return]  # fmt: skip

    def finished(self, name: str, out: Path) -> str:
        """What is wrong after the run was allowed to end, "" if nothing."""
        options, _, scores = self.undisturbed(name)
        before = {path: path.stat().st_mtime_ns for path in out.rglob("images/**/*.png")}
        result = self.run([*options, "--out", str(out)])
        if result.returncode:
            return f"exit {result.returncode}: {one_line(result.stderr)}"
        if (out / "scores.csv").read_bytes() != scores:
            return "scores.csv differs"
        if left := [p.name for p in out.rglob("*") if ".tmp" in p.name]:
            return f"left behind: {left[0]}"
        if any(not p.exists() or p.stat().st_mtime_ns != at for p, at in before.items()):
            return "a picture was rendered again"
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


def one_line(text: str) -> str:
    """The last line that says something."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return (lines[-1] if lines else "nothing").replace("|", "/")


def plain(text: str, bench: Bench) -> str:
    """A sentence without this machine's folders and numbers."""
    text = re.sub(rf"{re.escape(str(bench.scratch))}/run\d+", "RUN", text)
    text = text.replace(str(bench.scratch), "").replace(str(ROOT), "")
    return re.sub(r"process \d+ on \S+ since [^\s;]+", "process PID on HOST since TIME", text)[:220]


def signalled(name: str, count: int, number: int, label: str) -> Callable[[Bench], Line]:
    def test(bench: Bench) -> Line:
        options, seconds, _ = bench.undisturbed(name)
        wrong, out, done, early = [], bench.folder(), 0, 0
        while done < count:
            process = bench.start([*options, "--out", str(out)])
            try:
                process.wait(bench.rng.uniform(0.05, 0.9) * seconds)
                early += 1
                hit = False
            except subprocess.TimeoutExpired:
                process.send_signal(number)
                hit = True
            process.communicate()
            done += hit
            if done % 5 == 0 or done == count or not hit:
                if problem := bench.finished(name, out):
                    wrong.append(problem)
                out = bench.folder()
        said = "; ".join(sorted(set(wrong))) or f"nothing lost ({early} more had ended before)"
        return Line(f"{label} at a random moment: {NAMES[name]}", count, not wrong, said)

    return test


NAMES = {"judge": "measure, decide, report", "render": "render and measure"}


def killed_reports(bench: Bench) -> Line:
    count = 2 if bench.quick else 15
    options, _, scores = bench.undisturbed("judge")
    out, wrong = bench.folder(), []
    bench.run([*options, "--out", str(out)])
    begin = time.perf_counter()
    bench.run(["--report-only", str(out), "--single-file", "--share", *options])
    seconds = time.perf_counter() - begin
    for _ in range(count):
        process = bench.start(["--report-only", str(out), "--single-file", "--share", *options])
        try:
            process.wait(bench.rng.uniform(0.2, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
        page = (out / "report.html").read_text("utf-8")
        if not page.rstrip().endswith("</html>") or (out / "scores.csv").read_bytes() != scores:
            wrong.append("half a report")
    if problem := bench.finished("judge", out):
        wrong.append(problem)
    return Line("SIGKILL while the report is written again", count, not wrong,
                "; ".join(wrong) or "always the old page or the new one")  # fmt: skip


def killed_children(bench: Bench) -> Line:
    count = 1 if bench.quick else 6
    options, seconds, scores = bench.undisturbed("judge")
    wrong, hit = [], 0
    while hit < count:
        out = bench.folder()
        process = bench.start([*options, "--jobs", "2", "--out", str(out)])
        while not measuring(process.pid) and process.poll() is None:
            time.sleep(0.005)
        time.sleep(bench.rng.uniform(0.0, 0.5) * seconds)
        if pids := measuring(process.pid):
            os.kill(bench.rng.choice(pids), signal.SIGKILL)
            hit += 1
        _, errors = process.communicate(timeout=600)
        if process.returncode or (out / "scores.csv").read_bytes() != scores:
            wrong.append(f"exit {process.returncode}: {one_line(errors)}")
    return Line("SIGKILL of one measuring process", hit, not wrong,
                "; ".join(wrong) or "the others and the caller did its work")  # fmt: skip


def measuring(parent: int) -> list[int]:
    """The measuring processes of a command."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ancestor = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue  # ended just now
        if ancestor == parent and b"spawn_main" in command:
            found.append(int(folder.name))
    return found


def crowd(count: int, name: str = "judge") -> Callable[[Bench], Line]:
    def test(bench: Bench) -> Line:
        options, _, scores = bench.undisturbed(name)
        rounds, wrong, said = (1 if bench.quick else 4), [], set()
        for _ in range(rounds):
            out = bench.folder()
            processes = [bench.start([*options, "--out", str(out)]) for _ in range(count)]
            ends = [(p.communicate(timeout=600), p.returncode) for p in processes]
            if not any(code == 0 for _, code in ends):
                wrong.append("none ended well")
            for (_, errors), code in ends:
                if code == 2:
                    said.add(plain(one_line(errors), bench))
                elif code:
                    wrong.append(one_line(errors))
            if (out / "scores.csv").read_bytes() != scores:
                wrong.append("scores.csv differs")
            if problem := bench.finished(name, out):
                wrong.append(problem)
        told = "; ".join(sorted(set(wrong))) or " / ".join(sorted(said)) or "all ended"
        fault = f"{count} processes at once in one folder: {NAMES[name]}"
        return Line(fault, rounds, not wrong, told)

    return test


@contextmanager
def small_disk(bench: Bench, size: str) -> Iterator[Path]:
    place = bench.folder()
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place],
                             capture_output=True).returncode == 0  # fmt: skip
    try:
        yield place if mounted else Path()
    finally:
        if mounted:
            subprocess.run(["umount", place])


def full_disk(name: str, shares: tuple[float, ...]) -> Callable[[Bench], Line]:
    """`shares` of the bytes that an undisturbed run takes are all that there is."""

    def test(bench: Bench) -> Line:
        options, _, scores = bench.undisturbed(name)
        whole = bench.folder()
        bench.run([*options, "--out", str(whole)])
        pages = sum(-(-p.stat().st_size // 4096) for p in whole.rglob("*") if p.is_file())
        wrong, said, tried = [], set(), 0
        for share in shares[:1] if bench.quick else shares:
            with small_disk(bench, f"{max(1, int(share * pages)) * 4}k") as place:
                if place == Path():
                    return Line(f"disk full: {NAMES[name]}", 0, True, "left out: no mount here")
                out = place / "run"
                result = bench.run([*options, "--out", str(out)])
                tried += 1
                said.add(plain(one_line(result.stderr), bench))
                if result.returncode not in (1, 2) or "Traceback" in result.stderr:
                    wrong.append(f"exit {result.returncode}")
                subprocess.run(["mount", "-o", "remount,size=50m", place], check=True)
                if problem := bench.finished(name, out):
                    wrong.append(problem)
        return Line(f"disk full, then room again: {NAMES[name]}", tried, not wrong,
                    "; ".join(wrong) or " / ".join(sorted(said)))  # fmt: skip

    return test


def broken_disk(bench: Bench) -> Line:
    if not bench.shim:
        return Line("EIO on writing", 0, True, "left out: no C compiler")
    options, _, _ = bench.undisturbed("judge")
    wrong, said, tried = [], set(), 0
    for after in (3000,) if bench.quick else (0, 500, 3000, 20_000, 60_000, 200_000):
        out = bench.folder()
        environment = {**os.environ, "LD_PRELOAD": bench.shim, "FAULT_BELOW": str(out),
                       "FAULT_AFTER": str(after)}  # fmt: skip
        result = bench.run([*options, "--out", str(out)], env=environment)
        tried += 1
        if result.returncode:
            said.add(plain(one_line(result.stderr), bench))
            if result.returncode not in (1, 2) or "Traceback" in result.stderr:
                wrong.append(f"exit {result.returncode}")
        if problem := bench.finished("judge", out):
            wrong.append(problem)
    return Line("EIO on writing, then a whole disk", tried, not wrong,
                "; ".join(wrong) or " / ".join(sorted(said)))  # fmt: skip


def jumping_clock(bench: Bench) -> Line:
    if not bench.shim:
        return Line("clock jumps", 0, True, "left out: no C compiler")
    options, _, scores = bench.undisturbed("judge")
    out = bench.folder()
    environment = {**os.environ, "LD_PRELOAD": bench.shim, "FAULT_CLOCK": "1"}
    result = bench.run([*options, "--out", str(out)], env=environment)
    good = result.returncode == 0 and (out / "scores.csv").read_bytes() == scores
    return Line("clock jumps by up to 27 years at every look", 1, good,
                "the same scores" if good else one_line(result.stderr))  # fmt: skip


def read_only(bench: Bench) -> Line:
    options, _, _ = bench.undisturbed("judge")
    out = bench.folder()
    bench.run([*options, "--out", str(out)])
    new = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    prefix = ["unshare", "-m", "bash", "-c", new, str(bench.scratch)]
    if subprocess.run([*prefix, "true"], capture_output=True).returncode:
        return Line("read-only disk", 0, True, "left out: no unshare here")
    dry = bench.run([*options, "--out", str(out), "--dry-run"], prefix=prefix)
    fresh = bench.run([*options, "--out", str(bench.folder()), "--dry-run"], prefix=prefix)
    write = bench.run([*options, "--out", str(out)], prefix=prefix)
    rendering = bench.run([*bench.render, "--out", str(out), "--dry-run"], prefix=prefix)
    good = dry.returncode == fresh.returncode == rendering.returncode == 0 and write.returncode == 2
    said = f"dry runs work; a run says: {plain(one_line(write.stderr), bench)}"
    if not good:
        said = one_line(dry.stderr + fresh.stderr + rendering.stderr + write.stderr)
    return Line("read-only disk", 4, good, plain(said, bench))


def odd_entries(bench: Bench) -> Line:
    folder = bench.folder()
    shutil.copytree(bench.pictures, folder)
    os.mkfifo(folder / "pipe")
    (folder / "strength_0.35.png").symlink_to("pipe")
    (folder / "strength_0.36.png").symlink_to("/dev/zero")
    (folder / "strength_0.37.png").symlink_to("strength_0.38.png")
    (folder / "strength_0.38.png").symlink_to("strength_0.37.png")
    (folder / "strength_0.39.png").write_text("this is text")
    shutil.copy(next(bench.pictures.glob("strength_*.png")),
                os.fsencode(folder) + b"/na\xffme_strength_0.45.png")  # fmt: skip
    out = bench.folder()
    result = bench.run(["--images", str(folder), "--control", str(bench.control), "--out",
                        str(out), "--share"])  # fmt: skip
    good = result.returncode in (0, 3) and (out / "report.html").exists()
    rows = (out / "scores.csv").read_text("utf-8") if good else ""
    good = good and r"na\udcffme" in rows and len(rows.splitlines()) > 4
    said = "scored or listed with their reason" if good else one_line(result.stderr)
    fault = "pipes, devices, link loops, text, names that are no UTF-8 in --images"
    return Line(fault, 6, good, said)


def crossing(bench: Bench) -> Line:
    """Pictures are written for a minute while the same folder is scanned and reported on."""
    seconds = 8 if bench.quick else 60
    options, _, _ = bench.undisturbed("judge")
    folder, out = bench.folder(), bench.folder()
    shutil.copytree(bench.pictures, folder)
    bench.run([*options, "--out", str(out)])
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(folder), str(seconds)])
    scans, wrong = 0, []
    try:
        while writer.poll() is None:
            for command in (
                ["--images", str(folder), "--control", str(bench.control), "--out",
                 str(bench.folder())],
                ["--report-only", str(out), *options],
            ):  # fmt: skip
                result = bench.run(command)
                scans += 1
                if result.returncode not in (0, 3) or "Traceback" in result.stderr:
                    wrong.append(plain(one_line(result.stderr), bench))
    finally:
        writer.kill()
        writer.wait()
    return Line(f"{seconds} s of scanning and reporting while pictures are written", scans,
                not wrong, "; ".join(wrong) or "never half a picture")  # fmt: skip


WRITER = """
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


def tests(quick: bool) -> list[tuple[str, Callable[[Bench], Line]]]:
    many = (lambda n: max(2, n // 20)) if quick else (lambda n: n)
    kill, term, hup = signal.SIGKILL, signal.SIGTERM, signal.SIGHUP
    return [
        ("kill judge", signalled("judge", many(60), kill, "SIGKILL")),
        ("kill render", signalled("render", many(30), kill, "SIGKILL")),
        ("kill report", killed_reports),
        ("kill child", killed_children),
        ("term", signalled("judge", many(4), term, "SIGTERM")),
        ("hup", signalled("judge", many(4), hup, "SIGHUP")),
        ("two", crowd(2)),
        ("four", crowd(4)),
        ("two render", crowd(2, "render")),
        ("full judge", full_disk("judge", (0.02, 0.1, 0.3, 0.5, 0.7, 0.9))),
        ("full render", full_disk("render", (0.1, 0.5, 0.8))),
        ("broken", broken_disk),
        ("readonly", read_only),
        ("clock", jumping_clock),
        ("odd", odd_entries),
        ("crossing", crossing),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--write", type=Path)
    o = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        bench = Bench(Path(scratch), o.quick)
        for name, test in tests(o.quick):
            if not any(word in name for word in o.only.split(",")):
                continue
            lines.append(test(bench))
            print(row(lines[-1]), flush=True)
    if o.write:
        o.write.parent.mkdir(parents=True, exist_ok=True)
        head = (
            f"# Faults\n\n`python benchmarks/faults.py`, {date.today()}, {cpu_name()}, shared with "
            "other work.\n\n| fault | tried | survived | what was said |\n|---|---|---|---|\n"
        )
        o.write.write_text(head + "".join(row(line) + "\n" for line in lines), "utf-8")
    return 0 if all(line.survived for line in lines) else 1


def row(line: Line) -> str:
    survived = "yes" if line.survived else "NO"
    return f"| {line.fault} | {line.tried} | {survived} | {line.said} |"


if __name__ == "__main__":
    sys.exit(main())
