"""Who is answered by the live page, and what it gives away: nothing to anybody else."""

from __future__ import annotations

import http.client
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest
from serving import TINY, Site

from analysers.serve import guard, server
from analysers.serve.app import MOST_STREAMS
from analysers.serve.form import spelled
from analysers.serve.guard import MOST_BODY
from generation.folder import open_run_folder


def raw(site: Site, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, str]:
    """An answer to exactly these headers; the path is sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", site.server.port, timeout=20)
    try:
        connection.putrequest(method, path, skip_host="host" in headers)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        if body:
            connection.putheader("content-length", str(len(body)))
        connection.endheaders(body or None)
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace")
    finally:
        connection.close()


def cookie(site: Site) -> str:
    return f"live_{site.server.port}={site.server.token}"


def test_without_the_token_nothing_is_told(site: Site) -> None:
    for path in (
        "/",
        "/live.js",
        "/folder",
        "/runs/tiny/",
        "/?token=",
        "/?token=wrong",
        "/?token=%C3%A9%00",
    ):
        status, text = raw(site, "GET", path)
        assert (status, text) == (403, "Open the address that the terminal shows.\n")
    for wrong in ("x", f"live_{site.server.port}=x", site.server.token, 'a="\\'):
        assert raw(site, "GET", "/", cookie=wrong)[0] == 403
    assert raw(site, "GET", f"/folder?token={site.server.token}")[0] == 403
    assert raw(site, "POST", f"/?token={site.server.token}", origin=site.base)[0] == 415
    assert raw(site, "GET", "/", cookie=cookie(site))[0] == 200


def test_the_token_leaves_the_address_and_the_cookie_is_kept_from_scripts(site: Site) -> None:
    answer = site.get(f"/?token={site.server.token}")
    assert answer.status_code == 303 and answer.headers["location"] == "/"
    told = answer.headers["set-cookie"].lower()
    assert "httponly" in told and "samesite=strict" in told and "path=/" in told
    page = site.get("/")
    assert site.server.token not in page.text
    policy = page.headers["content-security-policy"]
    assert "script-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil", "", "@"]
)
def test_other_names_of_this_machine_are_refused(site: Site, host: str) -> None:
    assert raw(site, "GET", "/", host=host, cookie=cookie(site))[0] in (400, 403)


def test_names_through_a_tunnel_are_answered(site: Site) -> None:
    for host in ("localhost:9999", "127.0.0.1", "[::1]:8080", "LOCALHOST"):
        assert raw(site, "GET", "/", host=host, cookie=cookie(site))[0] == 200


def test_other_sites_can_ask_for_nothing(site: Site) -> None:
    form, kind = b'{"kind": "strength"}', "application/json"
    mine = {"cookie": cookie(site), "content_type": kind}
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{site.server.port}",
                   f"http://127.0.0.1:{site.server.port + 1}", ""):  # fmt: skip
        assert raw(site, "POST", "/start", form, origin=origin, **mine)[0] == 403
        assert raw(site, "GET", "/folder", origin=origin, cookie=cookie(site))[0] == 403
    assert raw(site, "POST", "/start", form, **mine)[0] == 403, "no Origin"
    for where in ("cross-site", "same-site"):
        assert raw(site, "GET", "/", cookie=cookie(site), sec_fetch_site=where)[0] == 403
    for other in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        mine["content_type"] = other
        assert raw(site, "POST", "/start", form, origin=site.base, **mine)[0] == 415
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE"):
        assert raw(site, method, "/start", origin=site.base, cookie=cookie(site))[0] == 405
    assert site.server.live.course is None


def test_only_the_named_folders_are_shown(site: Site) -> None:
    loras, secret = site.root / "loras", site.root / "secret.safetensors"
    (loras / "out").symlink_to(site.root)
    (loras / "file.safetensors").symlink_to(secret)
    (loras / "circle").symlink_to(loras / "circle")
    listed = site.get("/folder", params={"path": str(loras)}).json()
    assert [entry["name"] for entry in listed] == ["pstr-000006.safetensors"]
    (loras / "graph.json").write_text("{}")
    for field, names in (("workflow", ["graph.json"]), ("references", []),
                         ("model", ["pstr-000006.safetensors"])):  # fmt: skip
        listed = site.get("/folder", params={"path": str(loras), "for": field}).json()
        assert [entry["name"] for entry in listed] == names, field
    for path in (site.root, loras / "..", loras / "out", "/", "/etc", "~", ".", "loras", "\0",
                 f"{loras}/../secret.safetensors", f"{loras}-not", "x" * 9000):  # fmt: skip
        assert site.get("/folder", params={"path": str(path)}).status_code == 422, path
    for path in (secret, loras / "out" / "secret.safetensors", loras / "file.safetensors", "\0"):
        for answer in (
            site.get("/proposals", params={"path": str(path)}),
            site.post("/plan", {**TINY, "loras": str(path)}),
            site.post("/start", {**TINY, "loras": str(path)}),
        ):
            assert answer.status_code == 422
            assert "outside of the folders named" in answer.json()["sentence"], path
    for model in (str(site.root), "../x", "~/model", "/etc/passwd"):
        told = site.post("/plan", {**TINY, "loras": site.lora, "model": model}).json()
        assert told["field"] == "model" and "outside" in told["sentence"]
    told = site.post("/plan", {**TINY, "loras": site.lora, "prompts": "red --ci /etc/x.png"}).json()
    assert told["field"] == "prompts" and "outside of the folders named" in told["sentence"]
    for field in ("references", "held_out", "metrics"):
        place = f"reference_likeness:{site.root}" if field == "metrics" else str(site.root)
        form = {**TINY, "loras": site.lora, "references": str(loras), field: place}
        told = site.post("/plan", form).json()
        assert told["field"] == field and "outside" in told["sentence"]
    for field in ("workflow", "model_config", "input_picture", "fixed", "rank_by"):
        for place in (f"{site.root}/secret.safetensors", "/etc/nothing", "../x"):
            for end in (":nonsense", ":0.8") if field == "fixed" else ("",):
                named = f"reference_likeness:{place}" if field == "rank_by" else place + end
                told = site.post("/plan", {**TINY, "loras": site.lora, field: named}).json()
                assert told["field"] == ("metrics" if field == "rank_by" else field)
                assert "outside of the folders named" in told["sentence"], "there or not"
    for field in ("control", "out", "images", "cluster", "watch"):
        told = site.post("/plan", {**TINY, "loras": site.lora, field: "/etc"}).json()
        assert told["sentence"] == f"{spelled(field)}: the form has no field '{field}'."
    for name in ("../x", "a/b", ".hidden", "..", "a\0b", "/abs", "x" * 200, "dot.", 7):
        told = site.post("/plan", {**TINY, "loras": site.lora, "run": name}).json()
        assert told["field"] == "run", name


def test_only_pictures_of_runs_are_served(site: Site) -> None:
    runs = site.root / "runs"
    with open_run_folder(runs / "mine"):
        pass
    (runs / "mine" / "images").mkdir()
    (runs / "mine" / "images" / "a.png").write_bytes(b"picture")
    (runs / "mine" / "page.html").write_text("<script>alert(1)</script>")
    (site.root / "secret.png").write_bytes(b"secret")
    (runs / "mine" / "link.png").symlink_to(site.root / "secret.png")
    (runs / "mine" / "up").symlink_to(site.root)
    (runs / "other").mkdir()
    (runs / "other" / "a.png").write_bytes(b"secret")
    (runs / "linked").symlink_to(runs / "mine")
    os.mkfifo(runs / "mine" / "pipe.png")
    mine = {"cookie": cookie(site)}
    assert raw(site, "GET", "/runs/mine/images/a.png", **mine) == (200, "picture")
    for path in ("mine/link.png", "mine/up/secret.png", "mine/../../secret.png", "mine/page.html",
                 "mine/%2e%2e/%2e%2e/secret.png", "mine/..%2f..%2fsecret.png", "../secret.png",
                 "%2e%2e/secret.png", "mine//etc/passwd", f"mine/{site.root}/secret.png",
                 "mine/.lora-analysers/lock", "other/a.png", "linked/images/a.png", "mine/a%00.png",
                 "mine/..%5c..%5csecret.png", "mine/pipe.png", "mine/images"):  # fmt: skip
        status, text = raw(site, "GET", f"/runs/{path}", **mine)
        assert status == 404 and "secret" not in text and "script" not in text, path
    assert [e.name for e in runs.iterdir() if f'/runs/{e.name}/"' in site.get("/").text] == ["mine"]


def test_bodies_are_small_and_forms_are_forms(site: Site) -> None:
    mine = {"cookie": cookie(site), "origin": site.base, "content_type": "application/json"}
    announced = {**mine, "content_length": str(MOST_BODY + 1)}
    assert raw(site, "POST", "/plan", **announced)[0] == 413
    mine["transfer_encoding"] = "chunked"
    chunk = b"%x\r\n" % 65536 + b"y" * 65536 + b"\r\n"
    connection = socket.create_connection(("127.0.0.1", site.server.port), timeout=20)
    head = "".join(f"{k.replace('_', '-')}: {v}\r\n" for k, v in mine.items())
    connection.sendall(f"POST /plan HTTP/1.1\r\nhost: localhost\r\n{head}".encode()
                       .replace(site.base.encode(), b"http://localhost") + b"\r\n")  # fmt: skip
    try:
        for _ in range(200):
            connection.sendall(chunk)
        answer = connection.recv(100)
    except OSError:
        answer = b"HTTP/1.1 413"  # closed while it was being sent
    assert b" 413" in answer
    connection.close()
    for body in ("[]", "1", '"x"', "null", "{", "[" * 100_000, '{"kind": ["x"], "loras": "x"}'):
        answer = site.client.post(
            "/plan", content=body, headers={"origin": site.base, "content-type": "application/json"}
        )
        assert answer.status_code == 422, body[:20]
    for field, value in (("loras", ["x"]), ("prompts", {}), ("steps", True), ("seeds", {"a": 1}),
                         ("until_decided", "yes"), ("model", 5), ("size", {}),
                         ("kind", 3)):  # fmt: skip
        told = site.post("/plan", {**TINY, "loras": site.lora, field: value})
        assert (told.status_code, told.json().get("field")) == (422, field), (field, told.text)


def test_slow_clients_are_let_go_and_the_others_are_answered(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "PATIENCE", 0.4)
    monkeypatch.setattr(guard, "PATIENCE", 0.4)
    place = ("127.0.0.1", site.server.port)
    silent, head, body = (socket.create_connection(place, timeout=10) for _ in range(3))
    head.sendall(b"GET / HTTP/1.1\r\nHost: local")
    body.sendall(
        f"POST /plan HTTP/1.1\r\nHost: 127.0.0.1:{site.server.port}\r\nOrigin: {site.base}\r\n"
        f"Cookie: {cookie(site)}\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{{"
        .encode()
    )  # fmt: skip
    assert b"408" in body.recv(200)
    for one in (silent, head):
        with suppress(ConnectionResetError):
            assert one.recv(10) == b""
    for one in (silent, head, body):
        one.close()
    assert site.get("/").status_code == 200


def test_connections_are_bounded_and_idle_ones_make_place(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 10)
    idle = [socket.create_connection(("127.0.0.1", site.server.port)) for _ in range(50)]
    begin = time.monotonic()
    assert raw(site, "GET", "/", cookie=cookie(site))[0] == 200
    assert time.monotonic() - begin < 2
    assert len(site.server.connections) <= 10
    for one in idle:
        one.close()


def test_so_many_pages_watch_and_no_more(site: Site) -> None:
    site.post("/start", {**TINY, "loras": site.lora})
    site.wait()
    place = ("127.0.0.1", site.server.port)
    ask = f"GET /runs/tiny/log HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie(site)}\r\n\r\n"

    def watch() -> socket.socket:
        one = socket.create_connection(place, timeout=20)
        one.sendall(ask.encode())
        return one

    pages = [watch() for _ in range(MOST_STREAMS + 16)]  # at once, so that none waits for another
    told = [one.recv(15).decode() for one in pages]
    assert told.count("HTTP/1.1 200 OK") == MOST_STREAMS == 64
    assert told.count("HTTP/1.1 503 Se") == 16
    assert site.get("/").status_code == 200, "the others are answered"
    pages.pop(told.index("HTTP/1.1 200 OK")).close()
    end = time.monotonic() + 10
    while True:  # its place is free as soon as the program has seen that it went
        pages.append(watch())
        if pages[-1].recv(15).decode() == "HTTP/1.1 200 OK":
            break
        assert time.monotonic() < end
        time.sleep(0.1)
    for one in pages:
        one.close()


def test_a_foreign_run_cannot_speak_for_the_page(site: Site) -> None:
    folder: Path = site.root / "runs" / "foreign"
    with open_run_folder(folder):
        pass
    (folder / "request.json").write_text('{"subject": 1}')
    assert site.post("/runs/foreign/continue", {}).status_code == 422
    (folder / "report.html").write_text("<script>alert(1)</script>")
    assert "alert" not in site.get("/runs/foreign/report.html").text
    assert site.get("/runs/foreign/study.json").status_code == 404
