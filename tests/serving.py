"""The live page on a loopback port, with a folder of LoRAs beside what it must not show."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from analysers.serve.server import Server

LORA = "pstr-000006.safetensors"

TINY = {
    "kind": "strength",
    "model": "demo",
    "strengths": "0.2,0.6,1",
    "prompts": "a red apple, pstr style\na castle at sunset, pstr style",
    "seeds": "1",
    "size": "64",
    "steps": "2",
    "guidance_scale": "4",
    "run": "tiny",
}


class Site:
    """A server in a thread, and a client that has its cookie."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.begin()

    def begin(self) -> None:
        import httpx

        self.server = Server("strength", [self.root / "loras"], self.root / "runs")
        self._thread = threading.Thread(target=self.server.run)
        self._thread.start()
        self.base = f"http://127.0.0.1:{self.server.port}"
        self.client = httpx.Client(base_url=self.base, timeout=120)
        self.client.get(f"/?token={self.server.token}")

    def end(self) -> None:
        self.client.close()
        self.server.end()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def get(self, path: str, **more: Any) -> Any:
        return self.client.get(path, **more)

    def post(self, path: str, form: Any, **headers: str) -> Any:
        return self.client.post(path, json=form, headers={"origin": self.base, **headers})

    def wait(self) -> None:
        course = self.server.live.course
        assert course is not None
        course.join()

    @property
    def lora(self) -> str:
        return str(self.root / "loras" / LORA)
