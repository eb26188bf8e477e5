"""Work on a Ray cluster: an executor whose workers are actors on any of its nodes.

Each actor opens its worker once. Only the caller's machine writes results: tasks go out and
results come back through Ray. A file or folder that a task names is used where the node sees it
under the same path with the same content; else it travels: small files with each task, for as long
as it takes, larger ones and folders through the object store, once for each node.
"""

from __future__ import annotations

import hashlib
import io
import platform
import tarfile
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from generation.errors import UserError, first_line
from generation.executors import never

T = TypeVar("T")
R = TypeVar("R")

PIP_CLUSTER = "pip install 'lora-analysers[cluster]'"

TRIES = 3
"""How many workers may die over a task before it is given up."""

SMALL = 16 << 20
"""Bytes up to which a file travels with the task that names it, such as a picture."""

_COMPARED = ("lora-analysers", "torch", "diffusers", "transformers", "numpy", "pillow", "ray")


def import_ray() -> Any:
    """Ray; UserError with the pip command where it is missing."""
    try:
        import ray
    except ModuleNotFoundError:
        raise UserError(f"A cluster needs ray, which is missing: {PIP_CLUSTER}") from None
    return ray


@dataclass(frozen=True)
class RayCluster:
    """Runs tasks on the nodes of a Ray cluster.

    `address` is "auto" (the cluster that this machine belongs to, or one of this machine alone) or
    that of a head node. Every worker asks for so many `cpus` and `gpus`; one that asks for neither
    works beside others, and there is one for each core, spread over the nodes. `workers` 0 is as
    many as the cluster has room for, and more as nodes come. `piece` is how many small tasks are
    worth a journey.
    """

    address: str = "auto"
    cpus: float = 1
    gpus: float = 0
    workers: int = 0
    piece: int = 1

    def map(
        self,
        open_worker: Callable[[], Callable[[T], R]],
        tasks: Iterable[T],
        stopped: Callable[[], bool] = never,
    ) -> Iterator[R]:
        """Results as they come, each task's once. A task whose worker dies is done by another.

        Once no task is left, idle workers do over again what others still have at work, so that a
        slow node holds nothing up. Raises UserError for nodes whose versions are not this one's,
        and what a task raises.
        """
        ray = connected(self.address)
        source = iter(tasks)
        first = next(source, None)
        if first is None or stopped():
            return
        crew = _Crew(ray, self, open_worker)
        todo: deque[tuple[int, T, int]] = deque([(0, first, 0)])
        number, more = 1, True
        done: set[int] = set()
        try:
            while True:
                while more and len(todo) < crew.size and not stopped():
                    try:
                        todo.append((number, next(source), 0))
                        number += 1
                    except StopIteration:
                        more = False
                if stopped():
                    more = False
                    todo = deque(one for one in todo if one[2])  # only what a dead worker left
                crew.give(todo, again=not more)
                if not todo and crew.at_work <= done:
                    return
                for index, result in crew.finished(todo, done):
                    if index not in done:
                        done.add(index)
                        yield result
        finally:
            crew.dismiss()


def connected(address: str) -> Any:
    """Ray, connected to the cluster at the address. Raises UserError."""
    ray = import_ray()
    if ray.is_initialized():
        return ray
    quiet = {"log_to_driver": False, "logging_level": "error"}
    try:
        if address == "auto":
            with suppress(ConnectionError):
                ray.init(address="auto", **quiet)
                return ray
            ray.init(include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except Exception as error:  # Ray's own, gRPC's and the operating system's
        raise UserError(
            f"{address} is no Ray cluster that answers ({first_line(error)}); start one with "
            "`ray start --head`, or mend the address.",
            field="cluster",
        ) from None
    return ray


def versions() -> dict[str, str]:
    """What must be alike on all nodes, so that pictures are."""
    found = {"python": platform.python_version()}
    for name in _COMPARED:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


class _Crew:
    """The actors of one call of `map`, and what each has at work."""

    def __init__(self, ray: Any, cluster: RayCluster, open_worker: Callable[[], Any]) -> None:
        self._ray, self._cluster, self._open = ray, cluster, open_worker
        beside = {} if cluster.cpus or cluster.gpus else {"scheduling_strategy": "SPREAD"}
        asked = {"num_cpus": cluster.cpus, "num_gpus": cluster.gpus, **beside}
        self._actor = ray.remote(max_restarts=0, max_concurrency=1, **asked)(_Worker)
        self._apart: list[Any] = []
        self._actors: list[Any] = []
        self._work: dict[Any, tuple[Any, tuple[int, Any, int]]] = {}
        self._files: dict[Path, tuple[str, Any]] = {}
        self._mine = versions()

    @property
    def size(self) -> int:
        """How many workers the cluster has room for."""
        if self._cluster.workers:
            return self._cluster.workers
        has = self._ray.cluster_resources()
        by_cpu = has.get("CPU", 1) / (self._cluster.cpus or 1)
        if not self._cluster.cpus and self._cluster.gpus:
            by_cpu = 1e9
        by_gpu = has.get("GPU", 0) / self._cluster.gpus if self._cluster.gpus else 1e9
        return max(1, int(min(by_cpu, by_gpu)))

    @property
    def at_work(self) -> set[int]:
        """The numbers of the tasks at work."""
        return {one[0] for _, one in self._work.values()}

    def give(self, todo: deque[tuple[int, Any, int]], again: bool) -> None:
        """Give tasks to idle workers; with `again`, tasks of others where none is left."""
        while len(self._actors) < min(self.size, len(todo) + len(self._work)):
            self._actors.append(self._actor.remote())
        at_work = [id(actor) for actor, _ in self._work.values()]
        for actor in self._actors:
            if id(actor) in at_work:
                continue
            if todo:
                self._begin(actor, todo.popleft())
            elif again and self._work:
                counts = [one[0] for _, one in self._work.values()]
                slow = next((o for _, o in self._work.values() if counts.count(o[0]) == 1), None)
                if slow is not None:
                    self._begin(actor, slow)

    def _begin(self, actor: Any, one: tuple[int, Any, int]) -> None:
        named = dict.fromkeys(paths_in(one[1]))
        lasting = dict.fromkeys(paths_in(self._open))
        files = {path: self._file(path)[0] for path in (*lasting, *named)}
        apart = any(actor is other for other in self._apart)
        small = [path for path in named if apart and path not in lasting and _is_small(path)]
        posted = {path: path.read_bytes() for path in small}
        # References are resolved by Ray only at the top level of arguments: hence the list.
        sent = {path: entry for path, entry in self._files.items() if entry[1] is not None}
        refs = {path: [entry[1]] for path, entry in sent.items() if path in files}
        ref = actor.work.remote(self._mine, self._open, one[1], files, refs, posted)
        self._work[ref] = actor, one

    def _file(self, path: Path) -> tuple[str, Any]:
        """Its digest, and its reference in the object store, where it has one."""
        return self._files[path] if path in self._files else (digest(path), None)

    def finished(
        self, todo: deque[tuple[int, Any, int]], done: set[int]
    ) -> Iterator[tuple[int, Any]]:
        """What is finished by now; what was lost goes back to `todo`."""
        from ray.exceptions import RayActorError, RayTaskError

        refs, _ = self._ray.wait(list(self._work), num_returns=1, timeout=1.0)
        for ref in refs:
            actor, one = self._work.pop(ref)
            number, task, tries = one
            try:
                kind, answer = self._ray.get(ref)
            except RayTaskError as error:
                cause = error.cause
                if isinstance(cause, ModuleNotFoundError):
                    raise UserError(
                        f"a node of the cluster lacks {cause.name}; install the same packages on "
                        "every node.",
                        field="cluster",
                    ) from None
                raise cause from None
            except RayActorError:
                self._actors = [other for other in self._actors if other is not actor]
                if number in done or any(o[0] == number for _, o in self._work.values()):
                    continue
                if tries + 1 >= TRIES:
                    raise UserError(
                        f"{TRIES} workers of the cluster died over the same task (too little "
                        "memory?); what was done is kept.",
                        field="cluster",
                    ) from None
                todo.appendleft((number, task, tries + 1))
                continue
            if kind == "missing":
                self._apart.append(actor)
                lasting = set(paths_in(self._open))
                for path in answer:
                    if path in lasting or not _is_small(path):
                        self._files[path] = self._file(path)[0], self._ray.put(packed(path))
                todo.appendleft((number, task, max(tries, 1)))
            elif kind == "versions":
                raise UserError(
                    f"a node of the cluster has {answer}; install the same versions on every node.",
                    field="cluster",
                )
            else:
                yield number, answer

    def dismiss(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)


class _Worker:
    """In an actor: opens its worker once, finds files, does tasks."""

    def __init__(self) -> None:
        self._worker: Callable[[Any], Any] | None = None
        self._here: dict[Path, Path] = {}

    def work(
        self,
        wanted: Mapping[str, str],
        open_worker: Callable[[], Callable[[Any], Any]],
        task: Any,
        files: Mapping[Path, str],
        refs: Mapping[Path, Sequence[Any]],
        posted: Mapping[Path, bytes],
    ) -> tuple[str, Any]:
        """("done", result), ("missing", paths) or ("versions", in words); `posted` are files that
        came with the task and leave with it."""
        if differing := differences(wanted, versions()):
            return "versions", differing
        missing = [
            path for path in files if path not in posted and not self._find(path, files[path], refs)
        ]
        if missing:
            return "missing", missing
        if self._worker is None:
            self._worker = relocated(open_worker, self._here)()
        with tempfile.TemporaryDirectory(prefix="lora-analysers-") as folder:
            here = self._here | unposted(posted, Path(folder))
            result = self._worker(relocated(task, here))
        return "done", relocated(result, {there: path for path, there in here.items()})

    def _find(self, path: Path, wanted: str, refs: Mapping[Path, Sequence[Any]]) -> bool:
        if path in self._here or (path.exists() and digest(path) == wanted):
            return True
        if path not in refs:
            return False
        import ray

        folder = Path(tempfile.gettempdir(), "lora-analysers", wanted)
        self._here[path] = unpacked(ray.get(refs[path][0]), folder, path.name)
        return True


def unposted(posted: Mapping[Path, bytes], folder: Path) -> dict[Path, Path]:
    """Write files that came with a task into a folder, each under its name; where each lies."""
    found = {}
    for number, (path, data) in enumerate(posted.items()):
        found[path] = folder / str(number) / path.name
        found[path].parent.mkdir()
        found[path].write_bytes(data)
    return found


def _is_small(path: Path) -> bool:
    return path.is_file() and path.stat().st_size <= SMALL


def differences(wanted: Mapping[str, str], found: Mapping[str, str]) -> str:
    """In words: "torch 2.8.0 where this machine has 2.9.0"; "" for none."""
    return ", ".join(
        f"{name} {found.get(name, 'missing')} where this machine has {value}"
        for name, value in wanted.items()
        if found.get(name) != value
    )


def paths_in(thing: Any) -> Iterator[Path]:
    """The files and folders that exist here and that a task names, wherever in it."""
    if isinstance(thing, Path):
        if thing.exists():
            yield thing
    elif isinstance(thing, partial):
        yield from paths_in((thing.func, *thing.args, *thing.keywords.values()))
    elif is_dataclass(thing) and not isinstance(thing, type):
        yield from paths_in([getattr(thing, one.name) for one in fields(thing)])
    elif isinstance(thing, Mapping):
        yield from paths_in(list(thing.values()))
    elif isinstance(thing, (list, tuple)):
        for one in thing:
            yield from paths_in(one)


def relocated(thing: Any, places: Mapping[Path, Path]) -> Any:
    """The same with other paths."""
    if not places:
        return thing
    again = partial(relocated, places=places)
    if isinstance(thing, Path):
        return places.get(thing, thing)
    if isinstance(thing, partial):
        return partial(
            again(thing.func), *map(again, thing.args), **{k: again(v) for k, v in
            thing.keywords.items()}
        )  # fmt: skip
    if is_dataclass(thing) and not isinstance(thing, type):
        return replace(thing, **{f.name: again(getattr(thing, f.name)) for f in fields(thing)})
    if isinstance(thing, Mapping):
        return {key: again(value) for key, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return type(thing)(map(again, thing))
    return thing


def digest(path: Path) -> str:
    """SHA-256 of a file, or of a folder's names and contents; remembered while it is unchanged."""
    parts = [(p, p.stat()) for p in _inside(path)]
    return _digest(path, tuple((p, s.st_mtime_ns, s.st_size) for p, s in parts))


@lru_cache(maxsize=4096)
def _digest(path: Path, parts: tuple[tuple[Path, int, int], ...]) -> str:
    whole = hashlib.sha256()
    for part, _, size in parts:
        name = part.relative_to(path).as_posix() if part != path else ""
        whole.update(f"{name}\0{size}\0".encode())
        with part.open("rb") as file:
            while piece := file.read(1 << 20):
                whole.update(piece)
    return whole.hexdigest()


def _inside(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def packed(path: Path) -> bytes:
    """A file or a folder as one tar archive."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for part in _inside(path):
            archive.add(part.resolve(), part.relative_to(path.parent).as_posix())
    return file.getvalue()


def unpacked(data: bytes, folder: Path, name: str) -> Path:
    """The file or folder out of an archive, in a folder that is complete or is not there."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        half = Path(tempfile.mkdtemp(dir=folder.parent))
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            archive.extractall(half, filter="data")
        with suppress(OSError):  # another worker of this node was first
            half.rename(folder)
    return folder / name
