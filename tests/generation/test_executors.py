"""Work in other processes: order, numbers, deaths, Ctrl-C."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from generation.executors import (
    InProcess,
    ProcessPool,
    ThreadPool,
    default_workers,
    worker_number,
)

PARENT = os.getpid()


def open_squares() -> Callable[[int], tuple[int, int]]:
    return lambda n: (n * n, worker_number())


def open_suicidal() -> Callable[[int], int]:
    def work(n: int) -> int:
        if n == 3 and multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return n

    return work


def test_every_task_is_done_once_and_workers_have_numbers() -> None:
    results = list(ProcessPool(2).map(open_squares, range(20)))
    assert sorted(n for n, _ in results) == [n * n for n in range(20)]
    assert {number for _, number in results} <= {0, 1}
    assert [n for n, _ in InProcess().map(open_squares, range(3))] == [0, 1, 4]
    assert worker_number() == 0


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores are counted otherwise")
@pytest.mark.parametrize(("cores", "beside", "alone"), [(1, 0, 0), (2, 1, 2), (8, 7, 8)])
def test_a_single_core_starts_no_process(
    cores: int, beside: int, alone: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert (default_workers(), default_workers(beside=False)) == (beside, alone)


def test_what_a_dead_worker_took_along_is_done_here() -> None:
    assert sorted(ProcessPool(2).map(open_suicidal, range(8))) == list(range(8))


def test_each_thread_has_a_worker_of_its_own() -> None:
    opened = []

    def open_worker() -> Callable[[int], tuple[int, int]]:
        opened.append(threading.get_ident())

        def work(n: int) -> tuple[int, int]:
            time.sleep(0.01)
            return n, threading.get_ident()

        return work

    results = list(ThreadPool(3).map(open_worker, range(30)))
    assert sorted(n for n, _ in results) == list(range(30))
    assert {by for _, by in results} == set(opened)
    assert len(opened) == len(set(opened)) == 3


@pytest.mark.parametrize("pool", [ThreadPool(2), InProcess()])
def test_an_exception_is_the_callers(pool: ThreadPool | InProcess) -> None:
    with pytest.raises(ZeroDivisionError):
        list(pool.map(lambda: lambda n: 1 // n, [1, 0, 2]))


@pytest.mark.parametrize("pool", [ThreadPool(2), ProcessPool(1), InProcess()])
def test_who_stops_gets_what_is_under_way(pool: ThreadPool | ProcessPool | InProcess) -> None:
    found: list[int] = []
    for n, _ in pool.map(open_squares, range(1000), lambda: len(found) > 4):
        found.append(n)
    assert 4 < len(found) < 30


@pytest.mark.parametrize("pool", [ProcessPool(1), ThreadPool(1)])
def test_tasks_are_pulled_only_as_fast_as_there_is_room(pool: ProcessPool | ThreadPool) -> None:
    pulled = []

    def tasks() -> object:
        for n in range(100):
            pulled.append(n)
            yield n

    results = pool.map(open_squares, tasks())  # type: ignore[arg-type]
    next(results)
    assert len(pulled) < 20
    assert len(list(results)) == 99


@pytest.mark.skipif(not hasattr(os, "fork"), reason="reads /proc")
def test_workers_end_with_a_killed_caller() -> None:
    code = (
        "import os, time\n"
        "from generation.executors import ProcessPool\n"
        "from tests_helper import open_slow\n"
        "if __name__ == '__main__':\n"
        "    for r in ProcessPool(1).map(open_slow, range(2)):\n"
        "        print(r, flush=True)\n"
        "        time.sleep(60)\n"
    )
    helper = "import os\ndef open_slow():\n    return lambda n: os.getpid()\n"
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "tests_helper.py").write_text(helper)
        Path(folder, "main.py").write_text(code)
        paths = os.pathsep.join([folder, os.getcwd()])
        caller = subprocess.Popen(
            [sys.executable, str(Path(folder, "main.py"))], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": paths},
        )  # fmt: skip
        assert caller.stdout is not None
        worker = int(caller.stdout.readline())
        caller.kill()
        caller.wait()
        caller.stdout.close()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and _alive(worker):
            time.sleep(0.1)
        assert not _alive(worker)


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
