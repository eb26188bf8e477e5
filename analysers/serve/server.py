"""The process: a port on the loopback, a token, connections that are bounded in number and time."""

from __future__ import annotations

import errno
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from analysers.study import Kind
from generation.errors import UserError

try:
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    from analysers.serve.app import Live
    from analysers.serve.guard import PATIENCE, Guard
except ImportError as error:
    raise UserError(
        f"{error.name or error} is missing; install what the page needs: "
        'pip install -c constraints.txt ".[render,serve]".',
        "serve",
    ) from None

from analysers.serve.folders import Folders

MOST_CONNECTIONS = 200
"""Open connections; a further one takes the place of the one that has been idle longest."""


class Connection(H11Protocol):
    """A connection that must ask something within `PATIENCE`, and again after each answer."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._seen: Any = None
        self._since = self.loop.time()
        self._timer = self.loop.call_later(PATIENCE, self._look)
        others = [one for one in self.connections if not one.transport.is_closing()]
        if len(others) > MOST_CONNECTIONS:
            idle = (one for one in others if isinstance(one, Connection) and one.idle)
            min(idle, key=lambda one: one._since, default=self).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    @property
    def idle(self) -> bool:
        """Whether no answer is owed."""
        return self.cycle is None or self.cycle.response_complete

    def _look(self) -> None:
        if self.idle and self._seen is self.cycle:
            self.transport.abort()
        else:
            self._seen = self.cycle
            self._timer = self.loop.call_later(PATIENCE, self._look)


class Server:
    """The page at an address of its own; `run` serves it until Ctrl-C."""

    def __init__(
        self, kind: Kind, named: Sequence[Path], runs: Path, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.live = Live(kind, Folders(named, runs), lambda: self._server.should_exit)
        self._socket = _listen(host, port)
        self.host, self.port = host, self._socket.getsockname()[1]
        self.token = secrets.token_urlsafe(24)
        self.app = Guard(_with_end(self.live), self.token, f"live_{self.port}", {host.lower()})
        config = uvicorn.Config(
            self.app,
            http=Connection,
            ws="none",
            lifespan="on",
            log_level="critical",
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=3,
        )
        self._server = uvicorn.Server(config)

    @property
    def address(self) -> str:
        """Where to open it, the token included."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{name}:{self.port}/?token={self.token}"

    @property
    def connections(self) -> set[Any]:
        """Those that are open."""
        return self._server.server_state.connections

    def run(self) -> None:
        """Serve until Ctrl-C; a study under way ends first, with nothing lost."""
        self._server.run(sockets=[self._socket])

    def end(self) -> None:
        """What Ctrl-C does, from another thread."""
        self._server.should_exit = True


def _with_end(live: Live) -> Callable[..., Any]:
    app = live.app()

    @asynccontextmanager
    async def lifespan(_app: Any) -> AsyncIterator[None]:
        yield
        await live.close()

    app.router.lifespan_context = lifespan
    return app


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    place = socket.socket(family, socket.SOCK_STREAM)
    try:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind((host, port))
        place.listen(128)
    except OSError as error:
        place.close()
        unknown = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
        raise UserError(
            f"cannot listen on {host}, port {port} ({error.strerror}); choose another.",
            "host" if unknown else "port",
        ) from error
    return place
