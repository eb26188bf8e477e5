"""Cells painted by ComfyUI servers through the routes of its server.py.

POST /prompt queues a graph, the websocket says when it is done, /history what came of it, /view
hands out the picture. Every job carries a digest of its graph, by which it is found again after a
lost answer, a restarted client or a dropped websocket, so that nothing is painted twice.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from generation.cells import Cell, Picture, RendererRecord
from generation.errors import UserError
from generation.executors import never
from generation.renderers.comfyui.workflow import Workflow, without
from generation.renderers.renderer import Renderer
from generation.renderers.servers import (
    MOST_PICTURE,
    Damaged,
    Refused,
    Server,
    Unreachable,
    Waiting,
    alike,
    spread,
    whole,
)

AHEAD = 2
"""Jobs that a server holds at once, so that it paints one while the last picture is fetched."""

TRIES = 3
"""How often a job is queued that a server has forgotten, and a damaged picture is fetched."""

MARK = "lora_analysers"
"""Where a job's digest stands in its extra_data, which /queue and /history give back."""

INTERRUPTED = "somebody interrupted it; run the same command again"

LOOK = 2.0
"""Seconds between looks into /history while the websocket says nothing."""


class ComfyUI(Renderer):
    """Paints a workflow on servers that are alike.

    `names` are the LoRAs (tensor hash -> the server's name for the file), `factors` multiply the
    strength in "model" and "clip", `told` is what identifies the servers and their models. With
    `anew` nothing that a server remembers is taken, and its caches are emptied first.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        workflow: Workflow,
        names: Mapping[str, str],
        told: Mapping[str, Any],
        *,
        factors: Mapping[str, Decimal] | None = None,
        anew: bool = False,
    ) -> None:
        self.servers, self.workflow, self.names = tuple(servers), workflow, names
        self.told, self.factors, self._anew = told, dict(factors or {}), anew
        self._digest = _digest([workflow.graph, workflow.lora.node, workflow.lora.row])

    def identity(self, cell: Cell) -> Mapping[str, Any]:
        """The servers' versions and devices, the models' hashes where they tell, the workflow."""
        factors = {} if cell.is_control else {k: str(v) for k, v in self.factors.items()}
        return {"renderer": "comfyui", **self.told, "workflow": self._digest, "factors": factors}

    def record(self) -> RendererRecord:
        return RendererRecord(
            renderer={
                "name": "ComfyUI",
                "urls": [server.url for server in self.servers],
                **self.told,
                "workflow": self._digest,
                "found": list(self.workflow.found),
            }
        )

    @property
    def warm_up(self) -> int:
        return len(self.servers)

    def otherwise(self) -> Renderer:
        """The same, painted once more by servers that have forgotten everything."""
        return ComfyUI(
            self.servers, self.workflow, self.names, self.told, factors=self.factors, anew=True
        )

    def render(
        self, cells: Sequence[Cell], stopped: Callable[[], bool] = never
    ) -> Iterator[Picture]:
        jobs = _Jobs(self)
        try:
            for server in self.servers if cells else ():
                with suppress(Unreachable):
                    if self._anew:
                        server.json("/free", {"unload_models": True, "free_memory": True})
                    else:
                        jobs.left[server.url] = _marks(server)
            yield from spread(cells, self.servers, jobs.paint, ahead=AHEAD, stopped=stopped)
        finally:
            jobs.withdraw()

    def graph(self, cell: Cell) -> dict[str, Any]:
        """What is queued for a cell."""
        name = self.names.get(cell.checkpoint.tensor_hash, "") if cell.checkpoint else ""
        return self.workflow.painted(cell, name, self.factors)

    @property
    def anew(self) -> bool:
        return self._anew


@dataclass
class _Jobs:
    """The jobs of one call of `render`."""

    renderer: ComfyUI
    queued: dict[str, Server] = field(default_factory=dict)
    left: dict[str, Mapping[str, str]] = field(default_factory=dict)
    """What an earlier client left on a server, by mark."""

    def paint(self, server: Server, cell: Cell, cancelled: threading.Event) -> Picture:
        """Queue the cell's graph, wait until it is done, fetch the picture."""
        graph = self.renderer.graph(cell)
        mark = _digest(graph)
        if self.renderer.anew:
            mark += uuid.uuid4().hex
        begin = time.monotonic()
        job = _Job(server, graph, mark, uuid.uuid4().hex, Waiting(server, cancelled))
        fetched = 0
        try:
            for number in range(TRIES):
                try:
                    done = self._done(job, number, cancelled)
                except Refused as error:
                    if error.final:
                        raise
                    return Picture(cell, reason=_why_refused(error))
                if done is None:
                    continue
                reason = _why_failed(done)
                if reason == INTERRUPTED and number + 1 < TRIES:
                    self._forget(job)  # by an earlier client that gave up, or by hand
                    continue
                if reason:
                    self._forget(job)
                    return Picture(cell, reason=f"ComfyUI: {reason}")
                while fetched < TRIES:
                    fetched += 1
                    seconds = round(time.monotonic() - begin, 2)
                    picture = self._fetched(job, cell, done, seconds)
                    if picture.png:
                        self._forget(job)
                        return picture
                self._forget(job)
                return picture
        finally:
            job.close()
        return Picture(cell, reason=f"{server.url} forgot the job {TRIES} times; see its log")

    def _done(self, job: _Job, number: int, cancelled: threading.Event) -> Mapping[str, Any] | None:
        """The history of the job once it is done; None if the server has forgotten it."""
        job.listen()
        job.ident = "" if number else self.left.get(job.server.url, {}).get(job.mark, "")
        if not job.ident:
            job.ident = job.patiently(job.queue)
        self.queued[job.ident] = job.server
        while not cancelled.is_set():
            done: Mapping[str, Any] | None = job.patiently(job.history)
            if done is not None:
                return done
            if not job.patiently(job.waits) and job.patiently(job.history) is None:
                return None
            job.wait()
        raise Unreachable("nobody waits any more")

    def _fetched(self, job: _Job, cell: Cell, done: Mapping[str, Any], seconds: float) -> Picture:
        outputs = done.get("outputs")
        output = outputs.get(self.renderer.workflow.picture) if isinstance(outputs, dict) else None
        images = output.get("images") if isinstance(output, dict) else None
        if not isinstance(images, list) or not images or not isinstance(images[0], dict):
            return Picture(cell, reason="ComfyUI finished the job without a picture")
        where = {key: str(images[0].get(key, "")) for key in ("filename", "subfolder", "type")}
        try:
            data = job.patiently(lambda: job.server.ask("/view", most=MOST_PICTURE, query=where))
        except Refused as error:
            return Picture(cell, reason=str(error))
        try:
            return whole(cell, data, {"renderer": "ComfyUI", "seconds": seconds})
        except Damaged as error:
            return Picture(cell, reason=str(error))

    def _forget(self, job: _Job) -> None:
        """Take a fetched job out of the server's history, which is the user's."""
        self.queued.pop(job.ident, None)
        with suppress(Unreachable, Refused):
            job.server.json("/history", {"delete": [job.ident]})

    def withdraw(self) -> None:
        """Free the queues of our own jobs, and interrupt one of them that is being painted."""
        for ident, server in self.queued.items():
            with suppress(Unreachable, Refused):
                server.json("/queue", {"delete": [ident]}, seconds=5)
                running = server.json("/queue", seconds=5).get("queue_running", [])
                if any(_ident(item) == ident for item in running):
                    server.json("/interrupt", {"prompt_id": ident}, seconds=5)
        self.queued.clear()


@dataclass
class _Job:
    """One graph on one server."""

    server: Server
    graph: Mapping[str, Any]
    mark: str
    client: str
    waiting: Waiting
    ident: str = ""
    _socket: Any = None

    def patiently(self, ask: Callable[[], Any]) -> Any:
        """The answer, however often the server has to be asked within its patience."""
        while True:
            try:
                answer = ask()
            except Unreachable as error:
                self.close()
                self.waiting.again(error)
            else:
                self.waiting.answered()
                return answer

    def queue(self) -> str:
        """Queue the graph; what a lost answer may have queued already is found by its mark."""
        if self.ident == "?" and (ident := _marks(self.server).get(self.mark)):
            return ident
        self.ident = "?"
        body = {
            "prompt": self.graph,
            "client_id": self.client,
            "prompt_id": str(uuid.uuid4()),
            "extra_data": {MARK: self.mark},
        }
        answer = self.server.json("/prompt", body)
        ident = answer.get("prompt_id") if isinstance(answer, dict) else None
        if not isinstance(ident, str) or not ident:
            raise Refused(f"{self.server.url}/prompt does not answer as ComfyUI does.", 0, answer)
        return ident

    def history(self) -> Mapping[str, Any] | None:
        """What came of the job, None while nothing has."""
        found = self.server.json(f"/history/{self.ident}")
        entry = found.get(self.ident) if isinstance(found, dict) else None
        return entry if isinstance(entry, dict) else None

    def waits(self) -> bool:
        """Whether the job is queued or being painted."""
        return any(_ident(item) == self.ident for item in _queue(self.server))

    def listen(self) -> None:
        """Open the websocket; without it the history is looked at all the same."""
        if self._socket is None:
            with suppress(Unreachable):
                self._socket = self.server.socket(f"/ws?clientId={self.client}")

    def wait(self) -> None:
        """Until the server says that the job has ended, at most for `LOOK` seconds."""
        from websockets.exceptions import WebSocketException

        self.listen()
        end = time.monotonic() + LOOK
        if self._socket is None:
            self.waiting.cancelled.wait(LOOK)
            return
        while (left := end - time.monotonic()) > 0 and not self.waiting.cancelled.is_set():
            try:
                told = self._socket.recv(timeout=left)
            except TimeoutError:
                return
            except (OSError, WebSocketException):
                self.close()
                self.waiting.cancelled.wait(0.1)
                return
            if isinstance(told, str) and _ended(told, self.ident):
                return

    def close(self) -> None:
        if self._socket is not None:
            with suppress(Exception):
                self._socket.close()
            self._socket = None


def _queue(server: Server) -> list[Any]:
    """The jobs that are painted or wait."""
    queue = server.json("/queue")
    if not isinstance(queue, dict):
        return []
    return [*queue.get("queue_running", []), *queue.get("queue_pending", [])]


def _marks(server: Server) -> dict[str, str]:
    """The numbers of the jobs that the server holds, or has done, by their marks."""
    found: dict[str, str] = {}
    history = server.json("/history", query={"max_items": "200"})
    for ident, entry in history.items() if isinstance(history, dict) else ():
        if isinstance(entry, dict) and not _why_failed(entry):
            found[_marked(entry.get("prompt"))] = str(ident)
    found |= {_marked(item): _ident(item) for item in _queue(server)}
    found.pop("", None)
    return found


def look(servers: Sequence[Server], workflow: Workflow) -> dict[str, Any]:
    """What identifies the servers: versions, devices. Raises UserError where they are not alike,
    do not answer, or lack nodes or models that the workflow needs."""
    stats = {server.url: _stats(server) for server in servers}
    told: dict[str, Any] = {}
    for name, what in (("version", "version"), ("torch", "torch"), ("devices", "devices")):
        told[name] = alike(what, {url: one[name] for url, one in stats.items()})
    for server in servers:
        check_nodes(server, workflow)
    return told


def _stats(server: Server) -> dict[str, Any]:
    stats = server.first("/system_stats")
    try:
        system = stats["system"]
        return {
            "version": str(system.get("comfyui_version", "unknown")),
            "torch": str(system.get("pytorch_version", "unknown")),
            "devices": [str(one.get("name", ""))[:200] for one in stats.get("devices", [])],
        }
    except (KeyError, TypeError, AttributeError):
        raise UserError(
            f"{server.url} does not answer as ComfyUI does; mend the address.", field="urls"
        ) from None


def options(server: Server, kind: str, key: str) -> list[str] | None:
    """The values that a node's input may have on this server, None if they are not a list."""
    described = server.first(f"/object_info/{kind}")
    return _options(described.get(kind) if isinstance(described, dict) else None, key)


def _options(described: Any, key: str) -> list[str] | None:
    """Older servers list the values themselves, newer ones under "options" of a COMBO."""
    with suppress(AttributeError, TypeError, IndexError, KeyError):
        given = described["input"]
        form: Any = (given.get("required") or {}).get(key)
        form = form or (given.get("optional") or {}).get(key)
        if isinstance(form[0], list):
            return [str(one) for one in form[0]]
        if form[0] == "COMBO":
            return [str(one) for one in form[1]["options"]]
    return None


def check_nodes(server: Server, workflow: Workflow) -> None:
    """Raise UserError for nodes that the server has not, and for models that its nodes cannot
    find; the LoRA under study is looked for on its own."""
    lacks, unknown = [], []
    control = without(workflow.graph, workflow.lora)
    kinds = {node["class_type"] for node in workflow.graph.values()}
    described = {}
    for kind in sorted(kinds):
        answer = server.first(f"/object_info/{kind}")
        described[kind] = answer.get(kind) if isinstance(answer, dict) else None
        if described[kind] is None:
            lacks.append(kind)
    for key, node in control.items():
        for name, value in node["inputs"].items():
            allowed = _options(described.get(node["class_type"]), name)
            if isinstance(value, str) and allowed is not None and value not in allowed:
                unknown.append(f"{node['class_type']} {key}: {name} {value!r}")
    if lacks:
        raise UserError(
            f"{server.url} has no node {', '.join(lacks)}; install what brings it, or change the "
            "workflow.",
            field="workflow",
        )
    if unknown:
        raise UserError(
            f"{server.url} does not have {'; '.join(unknown[:5])}; put the file there, or name "
            "another one in the workflow.",
            field="workflow",
        )


def lora_metadata(server: Server, name: str) -> Mapping[str, Any]:
    """What the server's LoRA file says of itself, {} where it says nothing. Raises UserError for a
    server that does not answer."""
    with suppress(Refused):
        told = server.first("/view_metadata/loras", query={"filename": name})
        if isinstance(told, dict):
            return told
    return {}


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _ident(item: Any) -> str:
    """The job's number in an entry of /queue: [number, prompt_id, graph, extra_data, outputs]."""
    return str(item[1]) if isinstance(item, list) and len(item) > 1 else ""


def _marked(item: Any) -> str:
    if not isinstance(item, list) or len(item) < 4 or not isinstance(item[3], dict):
        return ""
    return str(item[3].get(MARK, ""))


def _ended(text: str, ident: str) -> bool:
    """Whether a message says that the job has ended, however."""
    try:
        message = json.loads(text)
        kind, data = message["type"], message["data"]
        if data.get("prompt_id") != ident:
            return False
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    return kind in ("execution_success", "execution_error", "execution_interrupted") or (
        kind == "executing" and data.get("node") is None
    )


def _why_failed(done: Mapping[str, Any]) -> str:
    """Why a job in the history has failed, "" if it has not."""
    status = done.get("status")
    if not isinstance(status, dict) or status.get("status_str") != "error":
        return ""
    for message in reversed(status.get("messages") or []):
        with suppress(ValueError, TypeError, KeyError, AttributeError):
            kind, data = message
            if kind == "execution_interrupted":
                return INTERRUPTED
            if kind == "execution_error":
                return f"{data['node_type']} {data['node_id']}: {_line(data['exception_message'])}"
    return "the job failed; see the server's log"


def _why_refused(error: Refused) -> str:
    """Why a graph was not queued, from the server's node_errors."""
    answer = error.answer
    with suppress(AttributeError, TypeError, KeyError, IndexError):
        for key, node in (answer.get("node_errors") or {}).items():
            first = node["errors"][0]
            said = f"{first['message']}: {first.get('details', '')}"
            return f"ComfyUI refuses {node['class_type']} {key}: {_line(said)}"
        return f"ComfyUI refuses the graph: {_line(answer['error']['message'])}"
    return str(error)


def _line(text: object) -> str:
    return " ".join(str(text).split())[:300]
