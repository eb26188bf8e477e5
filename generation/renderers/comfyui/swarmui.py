"""Cells painted by SwarmUI through its API (docs/API.md and docs/APIRoutes of its repository).

Every question belongs to a session. GenerateText2ImageWS paints: progress and the picture come over
one websocket, with the metadata by which a picture of another LoRA, seed or strength is found out.
Nothing is saved on the server. A session paints one picture at a time, so that interrupting it
interrupts no other one.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from generation.cells import Cell, Picture, strength_text
from generation.errors import UserError, named
from generation.executors import never
from generation.pictures.readers.metadata import swarmui as read_metadata
from generation.pictures.readers.picture import LoraUse
from generation.pictures.readers.values import model_name
from generation.renderers.comfyui.graphs import comfy_sampler
from generation.renderers.servers import (
    LOGIN,
    MOST_PICTURE,
    MOST_SECONDS,
    SECONDS,
    BySettings,
    Refused,
    Server,
    Unreachable,
    Waiting,
    alike,
    decoded,
    spread,
    whole,
)

COOKIE = "swarm_token"
"""The cookie that holds an account's token, where the server asks for accounts."""

AHEAD = 2
"""Pictures that a server is asked for at once: one is fetched while another is painted, and a
server with two backends keeps both busy."""

SILENCE = 120.0
"""Seconds without a message after which a connection is given up; the server tells every 30 that
it is alive."""


class _Forgotten(Exception):
    """The server knows the session no more, as after a restart."""


@dataclass
class Session:
    """A session of ours on a server; another one is begun when the server has forgotten it."""

    server: Server
    ident: str = ""

    def ask(self, route: str, seconds: float = SECONDS, **body: Any) -> dict[str, Any]:
        """What a route answers. Raises Unreachable, and Refused for an error in its words."""
        for last in (False, True):
            try:
                return self._ask(route, seconds, {**body, "session_id": self.opened()})
            except _Forgotten:
                self.ident = ""
                if last:
                    raise Unreachable("it forgets every session at once") from None
        raise AssertionError

    def opened(self) -> str:
        """Its number; begun where it is not."""
        if not self.ident:
            told = self._ask("GetNewSession", SECONDS, {})
            if not isinstance(told.get("session_id"), str):
                raise _other_program(self.server, told)
            self.ident = told["session_id"]
        return self.ident

    def version(self) -> str:
        """The server's version, as a new session is told it."""
        told = self._ask("GetNewSession", SECONDS, {})
        if not isinstance(told.get("version"), str):
            raise _other_program(self.server, told)
        return str(told["version"])[:100]

    def interrupt(self) -> None:
        """Stop what this session paints, and nothing else."""
        if self.ident:
            with suppress(Unreachable, Refused, _Forgotten):
                body = {"session_id": self.ident, "other_sessions": False}
                self._ask("InterruptAll", 5.0, body)

    def _ask(self, route: str, seconds: float, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            told = self.server.json(f"/API/{route}", body, seconds=seconds)
        except Refused as error:
            _recognise(error.answer)
            raise
        _recognise(told)
        if not isinstance(told, dict):
            raise _other_program(self.server, told)
        if "error" in told:
            sentence = f"{self.server.url}/API/{route} answers: {_line(told['error'])}"
            if route == "GetNewSession":  # it has no other error
                sentence += f"; put an account's token into the environment variable {LOGIN}."
            raise Refused(sentence, 401 if route == "GetNewSession" else 0, told)
        return told


def _recognise(told: Any) -> None:
    """Raise _Forgotten where an answer says that the session is not known."""
    if isinstance(told, dict) and told.get("error_id") == "invalid_session_id":
        raise _Forgotten


def _other_program(server: Server, told: Any) -> Refused:
    return Refused(f"{server.url} does not answer as SwarmUI does; mend the address.", 0, told)


class SwarmUI(BySettings):
    """Paints on servers that are alike."""

    key, title = "swarmui", "SwarmUI"

    def render(
        self, cells: Sequence[Cell], stopped: Callable[[], bool] = never
    ) -> Iterator[Picture]:
        sessions = _Sessions()

        def paint(server: Server, cell: Cell, cancelled: threading.Event) -> Picture:
            session = sessions.take(server)
            try:
                return self.patiently(
                    cell,
                    Waiting(server, cancelled),
                    lambda: self._asked(session, cell, cancelled),
                    lambda: session.ask("GetCurrentStatus"),
                )
            finally:
                sessions.give(session)

        return spread(
            cells, self.servers, paint, ahead=AHEAD, stopped=stopped, give_up=sessions.interrupt
        )

    def _asked(self, session: Session, cell: Cell, cancelled: threading.Event) -> Picture:
        begin = time.monotonic()
        try:
            told = self._painted(session, cell, cancelled)
        except _Forgotten:
            session.ident = ""
            raise Unreachable("it has forgotten the session") from None
        except Unreachable:
            session.interrupt()  # what is painted still is asked for once more
            raise
        if isinstance(told, str):
            return Picture(cell, reason=told)
        return self._picture(session, cell, told, round(time.monotonic() - begin, 2))

    def _painted(
        self, session: Session, cell: Cell, cancelled: threading.Event
    ) -> Mapping[str, Any] | str:
        """What the server tells of the painted picture, or why it painted none."""
        from websockets.exceptions import WebSocketException

        body = json.dumps({**self.body(cell), "session_id": session.opened()})
        socket = session.server.socket("/API/GenerateText2ImageWS")
        found: Mapping[str, Any] | None = None
        try:
            socket.send(body)
            for told in _messages(socket, cancelled):
                _recognise(told)
                if "error" in told:
                    return f"SwarmUI: {_line(told['error'])}"
                if image := _image(told):
                    found = found or image
                elif "discard_indices" in told or told.get("socket_intention") == "close":
                    break
        except (OSError, WebSocketException) as error:
            raise Unreachable(str(error) or type(error).__name__) from None
        finally:
            with suppress(Exception):
                socket.close()
        return found or "the server ended without a picture; somebody may have interrupted it"

    def body(self, cell: Cell) -> dict[str, Any]:
        """What GenerateText2ImageWS is sent, besides the session."""
        asked = self.asked
        used = [(name, weight, weight) for name, weight in asked.fixed]
        if cell.checkpoint is not None:
            factors = {part: Decimal(value) for part, value in asked.factors}
            model, texts = (
                strength_text(cell.strength * factors.get(part, Decimal(1)))
                for part in ("unet", "te")
            )
            used.append((self.names[cell.checkpoint.tensor_hash], model, texts))
        keys = ("loras", "loraweights", "loratencweights")[: 3 if asked.factors else 2]
        columns = zip(*used, strict=True)
        sampler, schedule = self._sampler
        guidance = {"cfgscale": asked.guidance_scale}
        if self._distilled:
            guidance = {"cfgscale": 1.0, "fluxguidancescale": asked.guidance_scale}
        return {
            "images": 1,
            "prompt": cell.case.prompt,
            "negativeprompt": cell.case.negative,
            "model": self.told["model"],
            "seed": cell.case.seed,
            "steps": asked.steps,
            **guidance,
            "width": asked.width,
            "height": asked.height,
            "sampler": sampler,
            "scheduler": schedule,
            **({"clipstopatlayer": -1 - asked.clip_skip} if asked.clip_skip else {}),
            **{key: ",".join(column) for key, column in zip(keys, columns, strict=False)},
            "imageformat": "PNG",
            "donotsave": True,
            "nopreviews": True,
        }

    def _picture(
        self, session: Session, cell: Cell, told: Mapping[str, Any], seconds: float
    ) -> Picture:
        text = told.get("metadata")
        text = text if isinstance(text, str) else ""
        if wrong := self._another(cell, text):
            return Picture(cell, reason=wrong)
        facts = {"renderer": "SwarmUI", "seconds": seconds, "infotext": text[:20_000]}
        image = told["image"]
        if image.startswith("data:"):
            return decoded(cell, image, facts)
        path = image.lstrip("/")
        if not re.match(r"(View|Output)/", path) or ".." in path.split("/"):
            return Picture(cell, reason=f"the server names no picture of its own ({image[:80]})")
        try:
            data = session.server.ask("/" + quote(path), most=MOST_PICTURE)
        except (Refused, Unreachable) as error:
            return Picture(cell, reason=f"the picture cannot be fetched: {error}")
        return whole(cell, data, facts)

    def _another(self, cell: Cell, text: str) -> str:
        """Why the metadata says that something else was painted; "" where it does not, or where the
        server does not tell."""
        facts = read_metadata(text)
        if facts is None or facts.unknown:
            return ""
        if facts.seed not in (None, cell.case.seed):
            return f"the server painted seed {facts.seed} instead"
        if cell.checkpoint is None:
            return ""
        name = self.names[cell.checkpoint.tensor_hash]
        used = next((one for one in facts.loras if _same(one.name, name)), None)
        if used is None:
            return f"the server painted without {name}"
        return _differs(used, name, cell, plain=not self.asked.factors)


def _differs(used: LoraUse, name: str, cell: Cell, *, plain: bool) -> str:
    """In what the LoRA that was used differs from the cell's, its file or its strength."""
    digest = cell.checkpoint.tensor_hash if cell.checkpoint else ""
    if len(used.hash) >= 8 and not digest.startswith(used.hash):
        return (
            f"the server's {name} is another file ({used.hash[:12]}, not {digest[:12]}); copy "
            "this one there"
        )
    if plain and used.strength not in (None, cell.strength):
        wanted = strength_text(cell.strength)
        return f"the server painted {name} at {used.strength} instead of {wanted}"
    return ""


def _messages(socket: Any, cancelled: threading.Event) -> Iterator[dict[str, Any]]:
    """What comes over the websocket. Raises Unreachable once it is silent for too long, or nobody
    waits any more; and what the connection raises."""
    begin = heard = time.monotonic()
    while not cancelled.is_set():
        try:
            text = socket.recv(timeout=1.0)
        except TimeoutError:
            if time.monotonic() - heard > SILENCE:
                raise Unreachable(f"silent for {SILENCE:g} s") from None
            continue
        heard = time.monotonic()
        if heard - begin > MOST_SECONDS:
            raise Unreachable(f"took longer than {MOST_SECONDS:g} s")
        try:
            told = json.loads(text)
        except (ValueError, RecursionError):
            raise Unreachable("half an answer") from None
        if isinstance(told, dict):
            yield told
    raise Unreachable("nobody waits any more")


def _image(told: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """A finished picture of a message, as it is documented or flat as it is sent; intermediate
    pictures have negative numbers."""
    image: Any = told.get("image")
    if isinstance(image, str):
        image = told
    if not isinstance(image, dict) or not isinstance(image.get("image"), str):
        return None
    return None if str(image.get("batch_index", "0")).startswith("-") else image


@dataclass
class _Sessions:
    """The sessions of one call of `render`, each used by one picture at a time."""

    _idle: dict[str, list[Session]] = field(default_factory=dict)
    _busy: list[Session] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, server: Server) -> Session:
        with self._lock:
            idle = self._idle.setdefault(server.url, [])
            session = idle.pop() if idle else Session(server)
            self._busy.append(session)
            return session

    def give(self, session: Session) -> None:
        with self._lock:
            self._busy = [other for other in self._busy if other is not session]
            self._idle[session.server.url].append(session)

    def interrupt(self) -> None:
        """Stop our own pictures, and no others."""
        with self._lock:
            busy = list(self._busy)
        for session in busy:
            session.interrupt()


def refresh(server: Server) -> None:
    """Let the server look for models; without the right to it, it lists what it knows."""
    with suppress(UserError, Unreachable):
        Session(server).ask("TriggerRefresh", strong=True)


def look(servers: Sequence[Server], model: str) -> dict[str, Any]:
    """What identifies the servers: version and checkpoint, by the server's name. Raises UserError.

    GetModelHash is not asked: it writes into a model's file where that has no hash yet.
    """
    versions = {server.url: _first(server, Session.version) for server in servers}
    models = {server.url: _model(server, model) for server in servers}
    return {"version": alike("version", versions), "model": alike("checkpoint", models)}


def _first(server: Server, ask: Callable[[Session], Any]) -> Any:
    """The answer of a server that must be there. Raises UserError."""
    try:
        return ask(Session(server))
    except Unreachable as error:
        raise UserError(
            f"{server.url} does not answer ({error}); start the server, or mend the address.",
            field="urls",
        ) from None


def _params(server: Server) -> Mapping[str, Any]:
    told: Mapping[str, Any] = _first(server, lambda session: session.ask("ListT2IParams"))
    return told


def _models(server: Server, kind: str) -> list[str]:
    """The names of a kind of models; newer servers list them as [name, class]."""
    models = _params(server).get("models")
    listed = models.get(kind) if isinstance(models, dict) else None
    found = [one[0] if isinstance(one, list) and one else one for one in listed or ()]
    return [one for one in found if isinstance(one, str)]


def _model(server: Server, wanted: str) -> str:
    listed = _models(server, "Stable-Diffusion")
    told = f"it has {', '.join(listed[:8]) or 'none'}"
    if not wanted:
        raise UserError(
            f"{named('model')} is missing: name one of the server's checkpoints; {told}."
        )
    exact = [one for one in listed if _stem(one) == _stem(wanted)]
    found = exact or [one for one in listed if _same(one, wanted)]
    if len(found) != 1:
        several = "several checkpoints" if found else "no checkpoint"
        raise UserError(f"{server.url} has {several} named {wanted!r}; {told}.", field="model")
    return _stem(found[0])


def sampler_there(server: Server, sampler: str, _version: object = "") -> tuple[str, str]:
    """ComfyUI's (sampler, scheduler) of one of our names. Raises UserError for what the server has
    not."""
    method, schedule = comfy_sampler(sampler)
    listed = _params(server).get("list")
    values: dict[str, list[str]] = {}
    for one in listed if isinstance(listed, list) else ():
        if isinstance(one, dict) and isinstance(one.get("values"), list):
            values[str(one.get("id"))] = [str(v).split("///")[0] for v in one["values"]]
    for key, value in (("sampler", method), ("scheduler", schedule)):
        if value not in values.get(key, []):
            has = (
                ", ".join(values.get(key, [])[:12]) or "none to choose from (no ComfyUI behind it)"
            )
            raise UserError(f"{server.url} has no {key} {value}; it has {has}.", field="sampler")
    return method, schedule


def lora_there(server: Server, file: str, digest: str) -> str:
    """The server's name for a LoRA file. Raises UserError where it has none of that name, several,
    or one that a list cannot hold. Another file of that name shows with its first picture."""
    found = [one for one in _models(server, "LoRA") if _same(one, file)]
    if not found:
        raise UserError(
            f"{server.url} has no LoRA {file}; put it into its folder for LoRAs, and let it look "
            "there again."
        )
    if len(found) > 1:
        raise UserError(
            f"{server.url} has {file} more than once ({', '.join(found[:4])}); rename all but one."
        )
    if "," in found[0]:
        raise UserError(f"{found[0]}: a name with a comma cannot stand in a list; rename the file.")
    return _stem(found[0])


def _stem(name: str) -> str:
    return name.replace("\\", "/").removesuffix(".safetensors")


def _same(name: str, other: str) -> bool:
    """Whether both are a file of the same name, whatever folder it lies in."""
    return model_name(name) == model_name(other)


def _line(text: object) -> str:
    return " ".join(str(text).split())[:300]
