"""Other programs' servers: asked carefully, and given cells until all are painted.

An address is used as it was typed, and nothing that a server, a picture or its metadata names is
ever asked instead: a redirect is an error. Answers are bounded in size and time, certificates are
verified, and a login comes from the environment, so that it stands in no file of a study.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import os
import re
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from generation.cells import Cell, Picture, RendererRecord
from generation.errors import UserError, named
from generation.executors import never
from generation.pictures.pixels import decode_image
from generation.renderers.renderer import Renderer

if TYPE_CHECKING:
    import httpx

LOGIN = "LORA_ANALYSERS_LOGIN"
"""The environment variable that holds "user:password" for servers that ask for one, or a token."""

PIP_REMOTE = "pip install 'lora-analysers[remote]'"

MOST_JSON = 64 << 20
MOST_PICTURE = 256 << 20
"""Bytes of an answer; ComfyUI's description of all its nodes takes a few MB."""

SECONDS = 60.0
"""For an answer that needs no painting."""

PATIENCE = 120.0
"""Seconds that a server may be away, as while it is restarted."""

TRIES = 3
"""How often a picture is asked for when the connection breaks or half of it arrives."""

MOST_SECONDS = 3600.0
"""For one picture, the time in the server's queue included."""

_BUSY, _AWAY = (429, 503), (502, 504)


class Unreachable(Exception):
    """The server does not answer, or not now."""


class Busy(Unreachable):
    """The server answers that it has too much to do."""


class Damaged(Exception):
    """A picture came, but not whole."""


class Refused(UserError):
    """The server answers with an error; `status` is HTTP's number, `answer` its JSON or text."""

    def __init__(self, sentence: str, status: int, answer: Any) -> None:
        super().__init__(sentence, "urls")
        self.status, self.answer = status, answer

    @property
    def final(self) -> bool:
        """Whether the server would answer every question so: a login, a redirect, no JSON."""
        return self.status in (0, 401, 403) or 300 <= self.status < 400


@dataclass(frozen=True)
class Server:
    """One server by its address, such as http://127.0.0.1:8188. `cookie` is the name under which
    its program takes a token. Raises UserError for addresses that hold a login or lead elsewhere
    than to a server's root."""

    url: str
    patience: float = PATIENCE
    cookie: str = ""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.username or parts.password:
            raise UserError(
                f"an address that holds a login would be written into run.json; put user:password "
                f"into the environment variable {LOGIN} instead.",
                field="urls",
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(
                f"{self.url!r} is no server's address; write one such as http://127.0.0.1:8188.",
                field="urls",
            )
        if parts.query or parts.fragment:
            raise UserError(f"{self.url!r}: leave out what follows ? or #.", field="urls")
        object.__setattr__(self, "url", self.url.rstrip("/"))

    @property
    def exposed(self) -> bool:
        """Whether a login would travel readable over a network."""
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        try:
            near = ipaddress.ip_address(host).is_loopback
        except ValueError:
            near = host == "localhost"
        return bool(os.environ.get(LOGIN)) and parts.scheme == "http" and not near

    @cached_property
    def _context(self) -> ssl.SSLContext:
        return ssl.create_default_context()

    @property
    def _login(self) -> dict[str, str]:
        """The header of the login: a token goes into the program's cookie, all else is Basic.
        Raises UserError, without the login in it, for one that no header can hold."""
        login = os.environ.get(LOGIN, "")
        if not login:
            return {}
        if ":" in login or not self.cookie:
            login = login if ":" in login else login + ":"
            return {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}
        if not re.fullmatch(r"[!-~]+", login) or re.search(r'[",;\\]', login):
            raise UserError(f"{LOGIN} holds no token (a blank, a quote, a line break?); mend it.")
        return {"Cookie": f"{self.cookie}={login}"}

    @cached_property
    def _client(self) -> httpx.Client:
        try:
            import httpx
        except ModuleNotFoundError:
            raise UserError(
                f"Rendering on a server needs httpx, which is missing: {PIP_REMOTE}"
            ) from None
        return httpx.Client(
            headers=self._login,
            follow_redirects=False,
            trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0),
            verify=self._context,
            timeout=httpx.Timeout(SECONDS, connect=5.0),
        )

    def ask(
        self,
        path: str,
        body: Any = None,
        *,
        most: int = MOST_JSON,
        seconds: float = SECONDS,
        query: Mapping[str, str] | None = None,
    ) -> bytes:
        """The answer to GET, or to POST with a JSON body.

        Raises Unreachable where it may be tried again, and Refused for any other error.
        """
        import httpx

        method = "GET" if body is None else "POST"
        deadline = time.monotonic() + seconds
        timeout = httpx.Timeout(seconds, connect=min(5.0, seconds))
        try:
            with self._client.stream(
                method, self.url + path, json=body, params=query, timeout=timeout
            ) as answer:
                data = bytearray()
                for piece in answer.iter_bytes():
                    data += piece
                    if len(data) > most:
                        raise Refused(
                            f"{self.url}{path} answers with more than {most >> 20} MB.", 0, ""
                        )
                    if time.monotonic() > deadline:
                        raise Unreachable(f"took longer than {seconds:g} s")
        except (httpx.TransportError, httpx.DecodingError) as error:
            why = re.sub(r"^\[Errno -?\d+\] ", "", str(error))
            raise Unreachable(why or type(error).__name__) from None
        if answer.status_code in _BUSY + _AWAY:
            kind = Busy if answer.status_code in _BUSY else Unreachable
            raise kind(f"answers {answer.status_code}: busy, or not ready yet")
        if not answer.is_success:
            raise self._refused(path, answer.status_code, bytes(data), answer.headers)
        return bytes(data)

    def _refused(self, path: str, status: int, data: bytes, headers: Mapping[str, str]) -> Refused:
        where = f"{self.url}{path}"
        if 300 <= status < 400:
            to = headers.get("location", "elsewhere")[:200]
            sentence = f"{where} redirects to {to}; give the address that answers itself."
        elif status in (401, 403):
            what = "user:password, or a token," if self.cookie else "user:password"
            sentence = (
                f"{where} asks for a login ({status}); put {what} into the environment variable "
                f"{LOGIN}."
            )
        elif data.lstrip()[:1] == b"<":
            sentence = f"{where} answers {status} with a web page; is it the right kind of server?"
        else:
            sentence = f"{where} answers {status}: {data[:300].decode('utf-8', 'replace')}"
        try:
            told = _json(data)
        except ValueError:
            told = data[:2000].decode("utf-8", "replace")
        return Refused(sentence, status, told)

    def json(
        self,
        path: str,
        body: Any = None,
        *,
        seconds: float = SECONDS,
        query: Mapping[str, str] | None = None,
    ) -> Any:
        """As `ask`, read as JSON ({} for an empty answer)."""
        data = self.ask(path, body, seconds=seconds, query=query)
        try:
            return _json(data) if data.strip() else {}
        except ValueError:
            raise Refused(
                f"{self.url}{path} does not answer in JSON; is this the right kind of server?",
                0,
                "",
            ) from None

    def first(self, path: str, body: Any = None, *, query: Mapping[str, str] | None = None) -> Any:
        """As `json`; a server that does not answer is a UserError."""
        try:
            return self.json(path, body, query=query)
        except Unreachable as error:
            raise UserError(
                f"{self.url} does not answer ({error}); start the server, or mend the address.",
                field="urls",
            ) from None

    def socket(self, path: str, seconds: float = 10.0) -> Any:
        """A websocket to the server. Raises Unreachable."""
        from websockets.exceptions import WebSocketException
        from websockets.sync.client import connect

        secure = self.url.startswith("https")
        try:
            opened: Any = connect(
                "ws" + self.url.removeprefix("http") + path,
                additional_headers=self._login,
                ssl=self._context if secure else None,
                open_timeout=seconds,
                close_timeout=1,
                max_size=MOST_JSON,
                proxy=None,
            )
            return opened.__enter__()  # as websockets asks for since 17.1; `close` ends it
        except (OSError, WebSocketException, TimeoutError) as error:
            raise Unreachable(str(error)) from None


@dataclass(frozen=True)
class Asked:
    """What every picture is asked for, in our words; `fixed` are LoRAs by the server's names."""

    width: int
    height: int
    steps: int
    guidance_scale: float
    sampler: str
    clip_skip: int = 0
    fixed: tuple[tuple[str, str], ...] = ()
    factors: tuple[tuple[str, str], ...] = ()

    @property
    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {name: _listed(value) for name, value in vars(self).items()}


def _listed(value: Any) -> Any:
    return [_listed(one) for one in value] if isinstance(value, tuple) else value


class BySettings(Renderer):
    """Paints on servers of one program that are alike and are asked by settings, not by a graph.

    `names` are the LoRAs (tensor hash -> the server's name), `told` is what identifies the servers
    (version, checkpoint with its hash), `sampler` is the program's own (sampler, scheduler). A
    `distilled` model reads the guidance scale itself, beside a scale of 1 for the sampler (FLUX).
    `key` stands in the identity, `title` in run.json.
    """

    key: ClassVar[str]
    title: ClassVar[str]

    def __init__(
        self, servers: Sequence[Server], asked: Asked, names: Mapping[str, str],
        told: Mapping[str, Any], sampler: tuple[str, str], *, distilled: bool = False,
    ) -> None:  # fmt: skip
        self.servers, self.asked, self.names = tuple(servers), asked, names
        self.told, self._sampler, self._distilled = told, sampler, distilled

    def identity(self, cell: Cell) -> Mapping[str, Any]:
        """What identifies the servers, and what is asked of them."""
        settings = self.asked.plain | ({"factors": []} if cell.is_control else {})
        distilled = {"distilled": True} if self._distilled else {}
        return {"renderer": self.key, **self.told, "settings": settings, **distilled}

    def record(self) -> RendererRecord:
        return RendererRecord(
            renderer={
                "name": self.title,
                "urls": [server.url for server in self.servers],
                **self.told,
                "settings": self.asked.plain,
            }
        )

    @property
    def warm_up(self) -> int:
        return len(self.servers)

    def patiently(
        self, cell: Cell, waiting: Waiting, ask: Callable[[], Picture], alive: Callable[[], Any]
    ) -> Picture:
        """The picture that `ask` gets. It is asked again after a broken connection, once `alive`
        is answered, and for half a picture, `TRIES` times in all; and as long as the server is
        busy for no longer than its patience. Raises Unreachable, and Refused that is final."""
        tries = 0
        while True:
            tries += 1
            try:
                return ask()
            except Busy as error:
                tries -= 1
                waiting.again(error)
            except Unreachable as error:
                if tries >= TRIES:
                    raise
                waiting.until(alive, error)
            except Damaged as error:
                if tries >= TRIES or waiting.cancelled.is_set():
                    return Picture(cell, reason=str(error))
            except Refused as error:
                if error.final:
                    raise
                return Picture(cell, reason=self.why(error))

    def why(self, error: Refused) -> str:
        """What the server says of a picture that it could not paint."""
        return str(error)


def _json(data: bytes) -> Any:
    import json

    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("too deep") from None


@dataclass
class Waiting:
    """Tries again, ever more slowly, until a server has been away for its patience."""

    server: Server
    cancelled: threading.Event
    _since: float | None = None
    _pause: float = field(default=0.2)

    def again(self, error: Unreachable) -> None:
        """Wait a little; raise the error once it has lasted too long, or nobody waits any more."""
        now = time.monotonic()
        self._since = self._since or now
        if now - self._since > self.server.patience or self.cancelled.wait(self._pause):
            raise error
        self._pause = min(2 * self._pause, 10.0)

    def answered(self) -> None:
        self._since, self._pause = None, 0.2

    def until(self, ask: Callable[[], Any], error: Unreachable) -> Any:
        """The answer, once the server gives one again."""
        while True:
            self.again(error)
            try:
                answer = ask()
            except Unreachable as again:
                error = again
            else:
                self.answered()
                return answer


Paint = Callable[[Server, Cell, threading.Event], Picture]
"""Paints a cell on a server, until the event says that nobody wants it any more."""


def spread(
    cells: Sequence[Cell],
    servers: Sequence[Server],
    paint: Paint,
    *,
    ahead: int = 1,
    stopped: Callable[[], bool] = never,
    give_up: Callable[[], object] = lambda: None,
) -> Iterator[Picture]:
    """Pictures as they come from any of the servers, each of which holds `ahead` cells at once.

    The cells of a server that stays away are painted by the others. `give_up` is called when nobody
    wants what is being painted any more; what is in flight is waited for after that. Raises
    UserError once no server is left.
    """
    todo = deque(cells)
    if not todo:
        return
    free = deque(server for _ in range(ahead) for server in servers)
    away: dict[str, Unreachable] = {}
    flying: dict[Future[Picture], tuple[Server, Cell]] = {}
    cancelled = threading.Event()
    halted = False
    with ThreadPoolExecutor(len(free)) as pool:
        try:
            while True:
                while todo and free and not (halted := halted or stopped()):
                    server = free.popleft()
                    if server.url in away:
                        continue
                    cell = todo.popleft()
                    flying[pool.submit(paint, server, cell, cancelled)] = server, cell
                if not flying:
                    break
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    server, cell = flying.pop(future)
                    try:
                        picture = future.result()
                    except Unreachable as error:
                        away[server.url] = error
                        todo.appendleft(cell)
                    else:
                        away.pop(server.url, None)
                        free.append(server)
                        yield picture
        finally:
            cancelled.set()
            if flying:
                give_up()
    if todo and not halted:
        told = "; ".join(f"{url} ({error})" for url, error in away.items())
        raise UserError(
            f"no server answers any more: {told}. Start it again and run the same command; what "
            "was rendered is kept.",
            field="urls",
        )


def whole(cell: Cell, data: bytes, facts: Mapping[str, Any]) -> Picture:
    """The picture that a server sent, or the reason why it is none: another format. Raises Damaged
    for half a file."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return Picture(cell, reason="the server sent no PNG file; set its picture format to PNG")
    try:
        decode_image(data)
    except UserError as error:
        raise Damaged(f"the server's picture is damaged: {error}") from None
    return Picture(cell, data, facts=facts)


def decoded(cell: Cell, text: str, facts: Mapping[str, Any]) -> Picture:
    """As `whole`, of a picture in base64, with or without what a data address begins with."""
    try:
        data = base64.b64decode(text.split(",", 1)[-1], validate=True)
    except (binascii.Error, ValueError):
        raise Damaged("the server's picture is damaged: it is no base64") from None
    return whole(cell, data, facts)


def file_on_server(name: str, listed: Sequence[str], where: str) -> str:
    """The entry of a server's list that is the file of this name, whatever folder it lies in.

    Raises UserError if there is none, or more than one.
    """
    found = [one for one in listed if one.replace("\\", "/").rsplit("/", 1)[-1] == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"{where} has {name} more than once ({', '.join(found[:4])}); rename all but one."
        )
    raise UserError(
        f"{where} has no {name}; put it into the server's folder for LoRAs (and let it look "
        "there again)."
    )


def check_login(servers: Sequence[Server]) -> tuple[str, ...]:
    """What to warn of: a login that travels readable."""
    return tuple(
        f"The login for {server.url} travels readable over the network; use https."
        for server in servers
        if server.exposed
    )


def open_servers(
    urls: Sequence[str], usual: str, patience: float = PATIENCE, cookie: str = ""
) -> tuple[Server, ...]:
    """The servers at these addresses, each once; at the usual address if none is given."""
    found = dict.fromkeys(url.strip() for url in urls or (usual,))
    if not all(found):
        raise UserError(f"an address is empty; write one such as {usual}.", field="urls")
    return tuple(Server(url, patience, cookie) for url in found)


def alike(what: str, told: Mapping[str, Any]) -> Any:
    """What all servers say (by address). Raises UserError where they differ."""
    values = list(told.values())
    if any(value != values[0] for value in values[1:]):
        said = "; ".join(f"{url}: {value}" for url, value in told.items())
        raise UserError(
            f"the servers differ in {what} ({said}), so that their pictures would; give servers "
            f"that are alike, or one {named('urls')}.",
            field="urls",
        )
    return values[0]
