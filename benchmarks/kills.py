"""Kill clients, servers and Ray nodes while they render for each other; is anything lost?

    python benchmarks/kills.py [--kills 30] [--only comfyui,a1111,swarmui,ray] [--write FILE]

ComfyUI, A1111 and SwarmUI are the tests' servers (`tests/fakes.py`), each a process of its own with
the embedded model behind it; Ray is a real cluster of a head and two nodes on this machine. Clients
and servers are forked from this process, which has imported everything and started nothing. A kill
(SIGKILL) strikes the client, the server or a node at a uniformly random moment of an undisturbed
run's painting. A killed server or node comes back at once, a killed client is started again by the
same command. After three kills a run may end; then its scores.csv must be the undisturbed run's
byte for byte, every picture too, no picture that lay there at a kill may have been touched, and
nothing may be measured twice. A server notes what it paints: what it painted more than once can
only have been in flight.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import random
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from faults import LORA, ROOT, measured_twice, one_line, pixels, took_folder
from machine import cpu_name

from analysers.commands.main import analyse_strength

sys.path.insert(0, str(ROOT / "tests"))

STUDY = [
    str(LORA), "--prompt", "pstr style, a cat", "--prompt", "pstr style, a dog", "--prompt",
    "pstr style, a bird", "--seeds", "1", "--strengths", "0.4,0.8,1.2,1.6", "--steps", "2", "--cfg",
    "4", "--sampler", "euler a", "--size", "64", "--jobs", "0",
]  # fmt: skip

NOISE = 3
"""Controls that are painted once more for the noise floor."""

SLOW = 0.2
"""Seconds that a server takes longer for a picture, so that kills find one in flight."""

NAMES = {"comfyui": "ComfyUI", "a1111": "A1111", "swarmui": "SwarmUI", "ray": "Ray"}


class Forked:
    """A process that does one thing; its standard error lies in a file."""

    def __init__(self, work: Callable[[], object], errors: Path) -> None:
        self.errors, self.returncode = errors, -1
        self._ended = False
        self.pid = os.fork()
        if not self.pid:
            os.setsid()
            told = os.open(errors, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            os.dup2(told, 1)
            os.dup2(told, 2)
            code = 1
            try:
                work()
                code = 0
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 1
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)

    def poll(self, options: int = os.WNOHANG) -> int | None:
        if not self._ended:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self._ended, self.returncode = True, os.waitstatus_to_exitcode(status)
        return self.returncode if self._ended else None

    def wait(self) -> int:
        self.poll(0)
        return self.returncode

    def kill(self) -> int:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        return self.wait()


class Served:
    """A server in a process of its own, on one port, that notes what it paints."""

    other = "server"

    def __init__(self, kind: str, scratch: Path) -> None:
        self.kind, self.notes = kind, scratch / f"{kind}.txt"
        self.notes.touch()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start()
        self.options = ["--renderer", kind, "--url", f"http://127.0.0.1:{self.port}",
                        "--model", "tiny.safetensors"]  # fmt: skip

    def start(self) -> None:
        work = partial(serve, self.kind, self.port, self.notes)
        self.process = Forked(work, self.notes.with_suffix(".err"))
        while self.process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.02)
        raise AssertionError(self.process.errors.read_text())

    def kill(self) -> None:
        self.process.kill()
        self.start()

    def stop(self) -> None:
        self.process.kill()

    def painted(self) -> Counter[str]:
        return Counter(self.notes.read_text().splitlines())


class Nodes:
    """A Ray cluster of a head and two nodes, in the hands of a process of its own."""

    other = "node"

    def __init__(self, scratch: Path) -> None:
        self.here, there = multiprocessing.Pipe()
        self.keeper = Forked(partial(keep, there), scratch / "ray.err")
        address = self.here.recv()
        self.options = ["--model", "demo", "--device", "cpu", "--batch-size", "1", "--cluster",
                        address]  # fmt: skip

    def kill(self) -> None:
        self.here.send("kill")
        self.here.recv()

    def stop(self) -> None:
        self.here.send("stop")
        self.keeper.wait()

    def painted(self) -> Counter[str]:
        return Counter()


def keep(asked: Any) -> None:
    """Start a cluster, kill a node when asked and start another, until it is to stop."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    asked.send(cluster.address)
    while asked.recv() == "kill":
        cluster.remove_node(nodes.pop(0), allow_graceful=False)
        while len(nodes) < 2:  # a busy machine may be too slow for Ray's patience with new nodes
            with suppress(Exception):
                nodes.append(cluster.add_node(num_cpus=1))
        asked.send("killed")
    cluster.shutdown()


@dataclass
class Campaign:
    """Kills of one kind of pair; `wrong` is what went wrong."""

    kind: str
    scratch: Path
    rng: random.Random
    struck: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    pictures: int = 0
    again: int = 0

    def go(self, count: int) -> None:
        there: Any = Nodes(self.scratch) if self.kind == "ray" else Served(self.kind, self.scratch)
        try:
            whole, begin, until = self.undisturbed(there)
            while self.struck.total() < count:
                self.one(there, whole, until - begin, min(3, count - self.struck.total()))
        finally:
            there.stop()

    def undisturbed(self, there: Any) -> tuple[Path, float, float]:
        """Its folder, and when it had taken it and had its last picture."""
        out, clock = self.scratch / self.kind / "whole", time.time()
        process = self.client(there, out)
        begin = took_folder(process, out) - time.perf_counter() + time.time()
        assert process.wait() == 0, process.errors.read_text()
        last = max(path.stat().st_mtime for path in (out / "images").rglob("*.png"))
        return out, begin - clock, last - clock

    def client(self, there: Any, out: Path) -> Forked:
        arguments = [*STUDY, *there.options, "--out", str(out)]
        out.parent.mkdir(parents=True, exist_ok=True)
        return Forked(lambda: analyse_strength(arguments), out.with_suffix(".err"))

    def one(self, there: Any, whole: Path, seconds: float, kills: int) -> None:
        """A run that is struck so often, or until it has ended."""
        out = self.scratch / self.kind / f"run{self.struck.total()}"
        before, lay = there.painted(), {}
        process = self.client(there, out)
        took_folder(process, out)
        while kills:
            time.sleep(self.rng.random() * seconds)
            if process.poll() is not None:
                break
            lay |= {p: p.stat().st_mtime_ns for p in (out / "images").rglob("*.png")}
            victim = self.rng.choice(("client", there.other))
            if victim == "client":
                if process.kill() != -signal.SIGKILL:
                    break
                process = self.client(there, out)
                took_folder(process, out)
            else:
                there.kill()
            self.struck[victim] += 1
            kills -= 1
        code, errors = process.wait(), process.errors.read_text()
        self.pictures += len(pixels(whole))
        extra = there.painted() - before
        self.again += max(0, extra.total() - len(extra) - NOISE) if extra else 0
        if problem := self.problem(code, errors, out, whole, lay):
            self.wrong.append(problem)

    def problem(self, code: int, errors: str, out: Path, whole: Path, lay: dict[Path, int]) -> str:
        """What is wrong with a run that ended, "" if nothing."""
        if code:
            return f"exit {code}: {one_line(errors)}".replace(str(self.scratch), "")
        if pixels(out) != pixels(whole):
            return "the pictures differ"
        if (out / "scores.csv").read_bytes() != (whole / "scores.csv").read_bytes():
            return "scores.csv differs"
        if any(not p.exists() or p.stat().st_mtime_ns != at for p, at in lay.items()):
            return "a picture was rendered again"
        return measured_twice(out)

    def row(self) -> str:
        struck = ", ".join(f"{n} {what}{'s' * (n > 1)}" for what, n in self.struck.most_common())
        again = "not counted" if self.kind == "ray" else str(self.again)
        lost = "; ".join(sorted(set(self.wrong))) or "nothing"
        return f"| {NAMES[self.kind]} | {struck} | {self.pictures} | {lost} | {again} |"


def serve(kind: str, port: int, notes: Path) -> None:
    """Be a server until killed."""
    from fakes import ComfyServer, Studio, SwarmServer, WebuiServer

    class Noting(Studio):
        def paint(self, *asked: Any, **more: Any) -> Any:
            found = super().paint(*asked, **more)
            line = "|".join(map(str, (*asked, *more.values()))) + "\n"
            with notes.open("a") as file:
                file.write(line)
            return found

    studio = Noting()
    studio.slow = SLOW
    kinds: dict[str, Callable[[Studio], Any]] = {
        "comfyui": ComfyServer, "a1111": WebuiServer, "swarmui": SwarmServer,
    }  # fmt: skip
    server = kinds[kind](studio)
    server.port = port
    server.start()
    signal.pause()


def page(campaigns: Sequence[Campaign], seconds: float) -> str:
    total = sum(one.struck.total() for one in campaigns)
    return (
        f"# Kills\n\n`python benchmarks/kills.py`, {date.today()}, {cpu_name()}, "
        f"{seconds / 60:.0f} min, shared with other work. {total} kills in all.\n\n"
        "Lost is what differs from an undisturbed run in scores or pixels, what was rendered "
        "though it lay in the folder,\nand what was measured twice. *Painted again* are pictures "
        "that were in flight at a kill: the server had painted\nthem, and they had not reached "
        "the run folder.\n\n"
        "| renders | killed | pictures | lost, or rendered twice | painted again |\n"
        "|---|---|---|---|---|\n"
    ) + "".join(one.row() + "\n" for one in campaigns)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--only", default="comfyui,a1111,swarmui,ray")
    parser.add_argument("--write", type=Path)
    o = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    for name in ("fakes", "generation.renderers.diffusers.render", "analysers.runs.loop",
                 "generation.renderers.diffusers.engine", "reports.html"):  # fmt: skip
        importlib.import_module(name)
    importlib.import_module("diffusers").StableDiffusionPipeline  # noqa: B018 - loaded when asked
    kinds, begin, campaigns = o.only.split(","), time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="kills-", dir="/tmp") as scratch:
        for number, kind in enumerate(kinds):
            share = o.kills // len(kinds) + (number < o.kills % len(kinds))
            campaigns.append(Campaign(kind, Path(scratch), random.Random(number)))
            campaigns[-1].go(share)
            print(campaigns[-1].row(), flush=True)
            if o.write:
                o.write.write_text(page(campaigns, time.monotonic() - begin), "utf-8")
    return 1 if any(one.wrong for one in campaigns) else 0


if __name__ == "__main__":
    sys.exit(main())
