"""Where work runs: one method, so that callers say what is done and never where.

`map` pulls tasks only as fast as there is room for them. When `tasks` is a generator that
renders, pictures are measured in other processes while the next ones are being rendered.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures import Executor as PoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def never() -> bool:
    """Nobody wants to stop."""
    return False


class Executor(Protocol):
    """Runs a worker over tasks. `open_worker` is called once wherever work is done.

    Results are plain data and come back to the caller, who alone writes files: workers need no
    disk that they share with him. Once `stopped` says yes, no task is begun any more, and the
    results of those at work still come.
    """

    def map(
        self,
        open_worker: Callable[[], Callable[[T], R]],
        tasks: Iterable[T],
        stopped: Callable[[], bool] = never,
    ) -> Iterator[R]: ...


@dataclass(frozen=True)
class InProcess:
    """One task after the other, here."""

    def map(
        self,
        open_worker: Callable[[], Callable[[T], R]],
        tasks: Iterable[T],
        stopped: Callable[[], bool] = never,
    ) -> Iterator[R]:
        worker = open_worker()
        for task in tasks:
            if stopped():
                return
            yield worker(task)


@dataclass(frozen=True)
class ProcessPool:
    """`workers` processes of this machine; results come as they are finished.

    `open_worker` and the tasks must be picklable. Processes are spawned, not forked: a forked
    copy of a process that has started CUDA or BLAS threads can hang. If a process dies, the tasks
    it took along are done here. Ctrl-C is left to the caller: workers finish their task. A worker
    whose caller has died ends too.
    """

    workers: int

    def map(
        self,
        open_worker: Callable[[], Callable[[T], R]],
        tasks: Iterable[T],
        stopped: Callable[[], bool] = never,
    ) -> Iterator[R]:
        context = multiprocessing.get_context("spawn")
        numbers = context.SimpleQueue()
        for number in range(self.workers):
            numbers.put(number)
        pool = ProcessPoolExecutor(
            self.workers, mp_context=context, initializer=_open, initargs=(open_worker, numbers)
        )
        lost: list[T] = []
        yield from _through(pool, _work, tasks, stopped, 4 * self.workers, lost)
        if lost:
            yield from InProcess().map(open_worker, lost, stopped)


@dataclass(frozen=True)
class ThreadPool:
    """`workers` threads of this process, each with a worker of its own; results come as they are
    finished. For work that lets go of the interpreter's lock, as most of numpy and Pillow does:
    nothing has to be started, loaded or pickled, but beyond a few threads they wait for each other.
    """

    workers: int

    def map(
        self,
        open_worker: Callable[[], Callable[[T], R]],
        tasks: Iterable[T],
        stopped: Callable[[], bool] = never,
    ) -> Iterator[R]:
        here = threading.local()

        def work(task: T) -> R:
            if not hasattr(here, "worker"):
                here.worker = open_worker()
            result: R = here.worker(task)
            return result

        pool = ThreadPoolExecutor(self.workers)
        yield from _through(pool, work, tasks, stopped, 4 * self.workers, [])


def _through(
    pool: PoolExecutor,
    work: Callable[[T], R],
    tasks: Iterable[T],
    stopped: Callable[[], bool],
    most: int,
    lost: list[T],
) -> Iterator[R]:
    """The results of the tasks, of which about `most` wait at a time; what a process that died took
    along is added to `lost`. The pool is shut in the end."""
    pending: dict[Future[R], T] = {}
    try:
        for task in tasks:
            if stopped():
                break
            try:
                pending[pool.submit(work, task)] = task
            except BrokenProcessPool:
                lost.append(task)
            done = [future for future in pending if future.done()]
            if not done and len(pending) > most:
                done = list(wait(pending, return_when=FIRST_COMPLETED).done)
            yield from _results(done, pending, lost)
        while pending:
            if stopped():
                pending = {future: pending[future] for future in pending if not future.cancel()}
            done = list(wait(pending, return_when=FIRST_COMPLETED).done)
            yield from _results(done, pending, lost)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def default_workers(*, beside: bool = True) -> int:
    """One process per core this process may use, less one for what runs `beside` them; none on a
    single core, where a process more would only have to be started."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    return cores - beside if cores > 1 else 0


def _results(done: Iterable[Future[R]], pending: dict[Future[R], T], lost: list[T]) -> Iterator[R]:
    for future in done:
        task = pending.pop(future)
        try:
            result = future.result()
        except BrokenProcessPool:
            lost.append(task)
        else:
            yield result


def worker_number() -> int:
    """This process's number among its pool's workers, from 0; 0 outside of a pool."""
    return _number


_worker: Callable[[Any], Any] | None = None
_number = 0


def _open(open_worker: Callable[[], Callable[[Any], Any]], numbers: Any) -> None:
    global _worker, _number
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_caller, daemon=True).start()
    _number = numbers.get()
    _worker = open_worker()


def _end_with_the_caller() -> None:
    """Without this, the workers of a killed process would wait for tasks for ever."""
    caller = multiprocessing.parent_process()
    if caller is not None:
        caller.join()
        os._exit(1)


def _work(task: Any) -> Any:
    assert _worker is not None
    return _worker(task)
