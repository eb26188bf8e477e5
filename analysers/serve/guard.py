"""Who is answered: the browser of the person who started the program, and nobody else."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BODY = 1 << 20
"""Bytes of a request's body; a thousand long prompts have a fifth of it."""

PATIENCE = 10.0
"""Seconds in which a request, head or body, must have come."""

HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; img-src 'self'; script-src 'self'; "
    "style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Guard:
    """Lets a request through if all of this holds, in this order; else a short answer says why not.

    Its Host is an address, "localhost" or one of `hosts` (no other name can be made to mean this
    machine by somebody's DNS); the browser says that no other site sent it (Origin,
    Sec-Fetch-Site), and says so at all where something is to be done; it has the token, first in
    the address and from then on as a cookie; what is to be done is JSON of at most `MOST_BODY`.
    """

    def __init__(self, app: ASGIApp, token: str, cookie: str, hosts: Iterable[str] = ()) -> None:
        self._app = app
        self._token = token
        self._cookie = cookie
        self._hosts = {"localhost", *hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})
            return
        send = _with_headers(send)
        headers = Headers(scope=scope)
        answer = self._refusal(scope["method"], headers)
        if answer is None and (scope["query_string"] or not self._known(headers)):
            answer = self._greet(Request(scope), self._known(headers))
        if answer is None and scope["method"] not in ("GET", "HEAD"):
            body = await self._body(headers, receive)
            if isinstance(body, Response):
                answer = body
            else:
                receive = _again(body, receive)
        await (answer or self._app)(scope, receive, send)

    def _refusal(self, method: str, headers: Headers) -> Response | None:
        host = headers.get("host", "")
        if not self._is_here(host):
            return _no(403, "This page is not known by that name.")
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin is not None and origin.lower() != f"http://{host}".lower():
            return _no(403, "Another site asked for this.")
        if site not in (None, "same-origin", "none"):
            return _no(403, "Another site asked for this.")
        if method in ("GET", "HEAD"):
            return None
        if method != "POST":
            return _no(405, "This page is read (GET) and told (POST).")
        if origin is None:
            return _no(403, "The request does not say which page sent it.")
        if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return _no(415, "JSON is understood here.")
        return None

    def _is_here(self, host: str) -> bool:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if name.lower() in self._hosts:
            return True
        try:
            ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return True

    def _known(self, headers: Headers) -> bool:
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return False
        return found is not None and _same(found.value, self._token)

    def _greet(self, request: Request, known: bool) -> Response | None:
        """A cookie for who brings the token in the address, which then leaves the address."""
        given = request.query_params.get("token", "")
        if request.method != "GET" or request.url.path != "/" or not _same(given, self._token):
            return None if known else _no(403, "Open the address that the terminal shows.")
        answer = RedirectResponse("/", 303)
        answer.set_cookie(self._cookie, self._token, httponly=True, samesite="strict", path="/")
        return answer

    async def _body(self, headers: Headers, receive: Receive) -> bytes | Response:
        announced = headers.get("content-length", "0")
        if not announced.isdigit() or int(announced) > MOST_BODY:
            return _no(413, f"At most {MOST_BODY:,} bytes are read.")
        try:
            return await asyncio.wait_for(_read(receive), PATIENCE)
        except asyncio.TimeoutError:
            return _no(408, f"The request took longer than {PATIENCE:g} s.")


async def _read(receive: Receive) -> bytes | Response:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return _no(400, "The request ended early.")
        body += message.get("body", b"")
        if len(body) > MOST_BODY:
            return _no(413, f"At most {MOST_BODY:,} bytes are read.")
        if not message.get("more_body"):
            return bytes(body)


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives the body that was read, then what else comes."""
    told = False

    async def read() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return read


def _with_headers(send: Send) -> Send:
    """Adds `HEADERS` to every answer that does not say otherwise itself."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = {name.lower() for name, _ in message.get("headers", ())}
            more = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in given]
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        await send(message)

    return sent


def _same(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())


def _no(status: int, sentence: str) -> Response:
    return PlainTextResponse(sentence + "\n", status, headers={"connection": "close"})
