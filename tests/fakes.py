"""Servers that speak ComfyUI's, A1111's and SwarmUI's protocols, the embedded model behind them.

They run in this process on a loopback port, answer as the programs' own sources say (server.py and
execution.py; modules/api/api.py; docs/API.md and src/WebAPI), and can be told to misbehave:
`faults` is a list of names that are used up one by one by whatever part of the server they belong
to.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

import sample_data
from generation.cells import Case, Cell, Checkpoint
from generation.loras.inspection import tensor_hash
from generation.pictures.pixels import encode_png
from generation.pictures.readers.tags import parse_tags

LORAS = sample_data.PATH / "lora"
COMFY_SAMPLERS = {("euler", "normal"): "euler", ("dpmpp_2m", "karras"): "dpmpp_2m_karras",
                  ("euler_ancestral", "normal"): "euler_a"}  # fmt: skip


class Studio:
    """The embedded model: paints one picture after the other, whoever asks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engines: dict[Any, Any] = {}
        self.painted: Counter[str] = Counter()
        self.slow = 0.0
        self.applied = Decimal(1)
        """How much of a LoRA's strength is applied."""

    def paint(
        self, prompt: str, negative: str, seed: int, size: tuple[int, int], steps: int,
        guidance: float, sampler: str, lora: str = "", strength: Decimal = Decimal(0),
    ) -> Any:  # fmt: skip
        from generation.renderers.diffusers.engine import Engine, find_model

        with self._lock:
            key = (size, steps, guidance, sampler)
            if key not in self._engines:
                self._engines[key] = Engine(
                    find_model(str(sample_data.PATH / "model")), width=size[0], height=size[1],
                    steps=steps, guidance_scale=guidance, sampler=sampler, batch_size=1,
                )  # fmt: skip
            engine = self._engines[key]
            cell = Cell(Case(prompt, seed, negative))
            if lora:
                path = LORAS / lora
                checkpoint = Checkpoint(path, path.stem, tensor_hash=tensor_hash(path))
                cell = replace(cell, checkpoint=checkpoint, strength=strength * self.applied)
            engine.prepare([cell])
            pixels = engine.render([cell.case])[0]
            time.sleep(self.slow)
            self.painted[f"{prompt}|{seed}|{lora}|{strength}"] += 1
            return pixels


class Running:
    """An application on a loopback port, in a thread; it can be stopped and started again."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.asked: list[str] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def fault(self, *names: str) -> str:
        """The first of these faults that is still to come, which it then is not."""
        for name in self.faults:
            if name in names:
                self.faults.remove(name)
                return name
        return ""

    def app(self) -> Starlette:
        raise NotImplementedError

    def start(self) -> None:
        config = uvicorn.Config(
            self.app(), host="127.0.0.1", port=self.port, log_level="error", lifespan="off",
            timeout_graceful_shutdown=1, ws="websockets-sansio",
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),), daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive(), "the server did not start"
            time.sleep(0.01)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._server.serve()

    def _abort(self) -> None:
        for listening in self._server.servers:
            listening.close()
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()
        self._server.should_exit = self._server.force_exit = True

    def stop(self) -> None:
        """As a killed process: what is open breaks off."""
        self._loop.call_soon_threadsafe(self._abort)
        self._thread.join()

    def restart(self) -> None:
        self.stop()
        self.start()

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class ComfyServer(Running):
    """ComfyUI: one job after the other, a history, messages to the client that queued it."""

    def __init__(self, studio: Studio, version: str = "0.3.64") -> None:
        super().__init__()
        self.studio, self.version = studio, version
        self.files: dict[str, bytes] = {}
        self.loras = sorted(path.name for path in LORAS.glob("*.safetensors"))
        self.foreign: list[Any] = []

    def start(self) -> None:
        """As ComfyUI does, forget queue and history."""
        self.pending: list[Any] = list(self.foreign)
        self.running: list[Any] = []
        self.history: dict[str, Any] = {}
        self.sockets: dict[str, Any] = {}
        self.cache: dict[str, str] = {}
        self.interrupted = False
        self.deleted: list[str] = []
        self._stopping = False
        self._work = threading.Condition()
        super().start()
        self._worker = threading.Thread(target=self._run, args=(self._work,), daemon=True)
        self._worker.start()

    def stop(self) -> None:
        self._stopping = True
        with self._work:
            self._work.notify_all()
        super().stop()
        self._worker.join()

    def app(self) -> Starlette:
        return Starlette(routes=[
            Route("/prompt", self._prompt, methods=["POST"]),
            Route("/queue", self._queue, methods=["GET", "POST"]),
            Route("/history", self._history, methods=["GET", "POST"]),
            Route("/history/{ident}", self._history),
            Route("/view", self._view),
            Route("/view_metadata/loras", self._metadata),
            Route("/object_info/{kind}", self._info),
            Route("/system_stats", self._stats),
            Route("/interrupt", self._interrupt, methods=["POST"]),
            Route("/free", self._free, methods=["POST"]),
            WebSocketRoute("/ws", self._ws),
        ])  # fmt: skip

    # --- routes ---

    async def _prompt(self, request: Request) -> Response:
        self.asked.append("prompt")
        match self.fault("full", "redirect", "huge", "lost answer"):
            case "full":
                return Response("queue full", 503)
            case "redirect":
                return RedirectResponse("http://elsewhere.example/prompt", 307)
            case "huge":
                return Response(b" " * (65 << 20))
            case "lost answer":
                await self._enqueue(await request.json())
                return Response("gateway", 502)
        return await self._enqueue(await request.json())

    async def _enqueue(self, body: Mapping[str, Any]) -> Response:
        graph = body["prompt"]
        for key, node in graph.items():
            if node["class_type"] not in NODES:
                why = f"Cannot execute because node {node['class_type']} does not exist."
                error = {"type": "invalid_prompt", "message": why, "details": f"#{key}"}
                return JSONResponse({"error": error, "node_errors": {}}, 400)
            name = node["inputs"].get("lora_name")
            if name is not None and name not in self.loras:
                errors = [{"type": "value_not_in_list", "message": "Value not in list",
                           "details": f"lora_name: '{name}' not in list"}]  # fmt: skip
                return JSONResponse({
                    "error": {"message": "Prompt outputs failed validation"},
                    "node_errors": {key: {"errors": errors, "class_type": node["class_type"]}},
                }, 400)  # fmt: skip
        ident = str(body.get("prompt_id", uuid.uuid4()))
        extra = dict(body.get("extra_data", {}), client_id=body.get("client_id", ""))
        with self._work:
            self.pending.append([1, ident, graph, extra, ["picture"]])
            self._work.notify()
        return JSONResponse({"prompt_id": ident, "number": 1, "node_errors": {}})

    async def _queue(self, request: Request) -> Response:
        if request.method == "GET":
            return JSONResponse({"queue_running": self.running, "queue_pending": self.pending})
        body = await request.json()
        self.deleted += body.get("delete", [])
        self.pending = [item for item in self.pending if item[1] not in body.get("delete", [])]
        return Response()

    async def _history(self, request: Request) -> Response:
        if request.method == "POST":
            for ident in (await request.json()).get("delete", []):
                self.history.pop(ident, None)
            return Response()
        if self.fault("busy"):
            return Response("busy", 429)
        ident = request.path_params.get("ident")
        if ident is None:
            return JSONResponse(self.history)
        return JSONResponse({ident: self.history[ident]} if ident in self.history else {})

    async def _view(self, request: Request) -> Response:
        self.asked.append("view")
        data = self.files.get(request.query_params["filename"], b"")
        match self.fault("half", "cut", "no picture"):
            case "half":
                return Response(data[: len(data) // 2], media_type="image/png")
            case "cut":
                return Response(data[:-200], headers={"content-length": str(len(data))})
            case "no picture":
                return Response("not found", 404)
        return Response(data, media_type="image/png")

    async def _metadata(self, request: Request) -> Response:
        path = LORAS / request.query_params["filename"]
        if self.fault("another file"):
            return JSONResponse({"sshs_model_hash": "0" * 64})
        return JSONResponse({"sshs_model_hash": tensor_hash(path)})

    async def _info(self, request: Request) -> Response:
        kind = request.path_params["kind"]
        if kind not in NODES:
            return JSONResponse({})
        inputs: dict[str, Any] = {name: ["STRING", {}] for name in NODES[kind].split()}
        if "lora_name" in inputs:
            inputs["lora_name"] = [self.loras, {}]
        if "ckpt_name" in inputs:
            inputs["ckpt_name"] = ["COMBO", {"options": ["tiny.safetensors"]}]
        return JSONResponse({kind: {"input": {"required": inputs}}})

    async def _stats(self, request: Request) -> Response:
        system = {"comfyui_version": self.version, "pytorch_version": "2.8.0"}
        return JSONResponse({"system": system, "devices": [{"name": "cpu", "type": "cpu"}]})

    async def _interrupt(self, request: Request) -> Response:
        wanted = (await request.json()).get("prompt_id")
        self.interrupted = any(item[1] == wanted for item in self.running)
        return Response()

    async def _free(self, request: Request) -> Response:
        self.cache.clear()
        return Response()

    async def _ws(self, ws: WebSocket) -> None:
        await ws.accept()
        client = ws.query_params.get("clientId", "")
        self.sockets[client] = (ws, asyncio.get_running_loop())
        await ws.send_json({"type": "status", "data": {"sid": client}})
        try:
            while True:
                await ws.receive_text()
        except (WebSocketDisconnect, RuntimeError):
            self.sockets.pop(client, None)

    def _send(self, client: str, kind: str, data: Mapping[str, Any]) -> None:
        ws, loop = self.sockets.get(client, (None, None))
        if ws is None:
            return
        if self.fault("drop"):
            asyncio.run_coroutine_threadsafe(ws.close(), loop)
        elif not self.fault("silent"):
            message = ws.send_json({"type": kind, "data": data})
            asyncio.run_coroutine_threadsafe(message, loop)

    # --- painting ---

    def _run(self, work: threading.Condition) -> None:
        while not self._stopping:
            with work:
                while not self.pending and not self._stopping:
                    work.wait()
                if self._stopping:
                    return
                item = self.pending.pop(0)
                self.running = [item]
            status, outputs = self._execute(item)
            with work:
                if self._stopping:
                    return
                self.running = []
                if not self.fault("forget"):
                    self.history[item[1]] = {"prompt": item, "outputs": outputs, "status": status}
            done = {"prompt_id": item[1], "node": None}
            self._send(item[3]["client_id"], "executing", done)

    def _execute(self, item: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        ident, graph = item[1], item[2]
        signature = json.dumps(graph, sort_keys=True)
        error = {"prompt_id": ident, "node_id": "sampler", "node_type": "KSampler"}
        self.interrupted = False
        if self.fault("node error"):
            told = ["execution_error", error | {"exception_message": "CUDA out of memory\n"}]
            return {"status_str": "error", "messages": [told]}, {}
        if signature not in self.cache:
            name = f"ComfyUI_temp_{uuid.uuid4().hex[:8]}_.png"
            pixels = evaluate(graph, self.studio)
            text = {"prompt": json.dumps(graph)}
            self.files[name] = encode_png(pixels, text)
            self.cache[signature] = name
        if self.interrupted:
            told = ["execution_interrupted", error]
            return {"status_str": "error", "messages": [told]}, {}
        image = {"filename": self.cache[signature], "subfolder": "", "type": "temp"}
        end = next(key for key, node in graph.items() if node["class_type"] == "PreviewImage")
        return {"status_str": "success", "completed": True, "messages": []}, {
            end: {"images": [image]}
        }


NODES = {
    "CheckpointLoaderSimple": "ckpt_name",
    "LoraLoader": "model clip lora_name strength_model strength_clip",
    "CLIPTextEncode": "clip text",
    "EmptyLatentImage": "width height batch_size",
    "KSampler": "model positive negative latent_image seed steps cfg sampler_name scheduler "
    "denoise",
    "VAEDecode": "samples vae",
    "PreviewImage": "images",
    "PrimitiveInt": "value",
    "PrimitiveStringMultiline": "value",
    "ConditioningZeroOut": "conditioning",
}


def evaluate(graph: Mapping[str, Any], studio: Studio) -> Any:
    """What the graph's picture is, node by node, as ComfyUI would: links are followed, nothing
    else is known of the graph."""

    def value(link: Any) -> Any:
        return output(str(link[0]), link[1]) if isinstance(link, list) else link

    def output(key: str, number: int) -> Any:
        node = graph[key]
        given = node["inputs"]
        match node["class_type"]:
            case "CheckpointLoaderSimple":
                assert given["ckpt_name"] == "tiny.safetensors"
                return ()
            case "LoraLoader":
                strength = given[("strength_model", "strength_clip")[number]]
                under = value(given[("model", "clip")[number]])
                return (*under, (given["lora_name"], strength))
            case "CLIPTextEncode":
                return value(given["text"]), value(given["clip"])
            case "EmptyLatentImage":
                return value(given["width"]), value(given["height"])
            case "PrimitiveInt" | "PrimitiveStringMultiline":
                return given["value"]
            case "KSampler":
                (prompt, clip), (negative, _) = value(given["positive"]), value(given["negative"])
                loras = value(given["model"])
                assert loras == clip and len(loras) < 2, "one LoRA on model and clip alike"
                lora, strength = loras[0] if loras else ("", 0)
                sampler = COMFY_SAMPLERS[given["sampler_name"], given["scheduler"]]
                return studio.paint(
                    prompt, negative, value(given["seed"]), value(given["latent_image"]),
                    given["steps"], given["cfg"], sampler, lora, Decimal(str(strength)),
                )  # fmt: skip
            case "VAEDecode":
                return value(given["samples"])
            case "PreviewImage":
                return value(given["images"])
        raise AssertionError(node["class_type"])

    end = next(key for key, node in graph.items() if node["class_type"] == "PreviewImage")
    return output(end, 0)


class WebuiServer(Running):
    """A1111 with --api, and --api-auth where `login` is given; with `sdnext` SD.Next, and --auth.

    A checkpoint has no hash until it is painted with (`hashed`).
    """

    def __init__(self, studio: Studio, login: str = "", *, sdnext: bool = False) -> None:
        super().__init__()
        self.studio, self.login, self.sdnext = studio, login, sdnext
        self.options: dict[str, Any] = {
            "sd_model_checkpoint": "tiny.safetensors", "samples_format": "png",
            "quicksettings_list": ["a"],
        }  # fmt: skip
        if sdnext:
            self.options |= {"lora_fuse_native": False, "lora_apply_te": True}
        else:
            self.options |= {"randn_source": "CPU", "lora_add_hashes_to_infotext": True,
                             "sd_lora": "None"}  # fmt: skip
        self.loras = sorted(LORAS.glob("*.safetensors"))
        self.hashed = True
        self.task, self.interrupted, self.broken_off = "", 0, False
        self.bodies: list[dict[str, Any]] = []
        self._painting = threading.Lock()

    def app(self) -> Starlette:
        api = "/sdapi/v1"
        if self.sdnext:
            own = {api + "/version": {"app": "sd.next", "commit": "058a7f0cf", "branch": "master"},
                   api + "/options-info": {"options": SDNEXT_DEFAULTS},
                   api + "/schedulers": Response("not JSON-ready", 500)}  # fmt: skip
        else:
            own = {"/internal/sysinfo": {"Version": "v1.10.1"}, api + "/schedulers": SCHEDULES}
        return Starlette(routes=[
            Route(api + "/txt2img", self._guarded(self._txt2img), methods=["POST"]),
            Route(api + "/options", self._guarded(lambda r: self.options)),
            Route(api + "/sd-models", self._guarded(self._models)),
            Route(api + "/samplers", self._guarded(self._samplers)),
            Route(api + "/loras", self._guarded(self._loras)),
            Route(api + "/refresh-loras", self._guarded(lambda r: None), methods=["POST"]),
            Route(api + "/progress", self._guarded(self._progress)),
            Route(api + "/interrupt", self._guarded(self._stop), methods=["POST"]),
            Route("/internal/progress", self._guarded(self._active), methods=["POST"]),
            *(Route(path, self._guarded(lambda r, told=told: told)) for path, told in own.items()),
        ])  # fmt: skip

    def _guarded(self, work: Any) -> Any:
        async def route(request: Request) -> Response:
            wanted = "Basic " + base64.b64encode(self.login.encode()).decode()
            if self.login and request.headers.get("authorization") != wanted:
                return JSONResponse({"detail": "Incorrect username or password"}, 401)
            body = await request.json() if request.method == "POST" else {}
            answer = await asyncio.to_thread(work, body)
            return answer if isinstance(answer, Response) else JSONResponse(answer)

        return route

    @property
    def sha256(self) -> str | None:
        return "abc1234567" + "0" * 54 if self.hashed else None

    def _models(self, _: Any) -> Any:
        short = self.sha256[:10] if self.sha256 else None
        title = "tiny.safetensors" + (f" [{short}]" if short else "")
        return [{"title": title, "model_name": "tiny", "filename": "/models/tiny.safetensors",
                 "hash": short, "sha256": self.sha256}]  # fmt: skip

    def _samplers(self, _: Any) -> Any:
        names = ("DPM++ 2M", "Euler", "Euler a")
        if not self.sdnext:
            return [{"name": name, "aliases": [], "options": {}} for name in names]
        return [{"name": name, "options": {} if name == "Euler a" else {"use_karras_sigmas": False}}
                for name in names]  # fmt: skip

    def _loras(self, _: Any) -> Any:
        return [{"name": path.stem.replace(".", "_") if self.sdnext else path.stem, "alias": "pstr",
                 "path": str(path), "metadata": {}} for path in self.loras]  # fmt: skip

    def _progress(self, _: Any) -> Any:
        state = {"skipped": False, "interrupted": self.broken_off, "job_count": 0}
        return {"progress": 0.0, "state": state, "current_task": None}  # whatever it paints

    def _active(self, body: Mapping[str, Any]) -> Any:
        return {"active": not self.sdnext and body["id_task"] == self.task}

    def _stop(self, _: Any) -> Any:
        self.interrupted += 1
        return Response(status_code=204) if self.sdnext else {}

    def _txt2img(self, body: Mapping[str, Any]) -> Any:
        fault = self.fault("full", "half", "error", "cut", "jpeg", "another file", "starting",
                           "limit", "nothing", "without", "another checkpoint",
                           "interrupted")  # fmt: skip
        self.asked.append("txt2img")
        self.bodies.append(dict(body))
        if fault == "full":
            return Response("busy", 503)
        if fault == "starting":  # the port is open before the routes are there
            return JSONResponse({"detail": "Not Found"}, 404)
        if fault == "error":
            return JSONResponse({"error": "OutOfMemoryError", "errors": "CUDA out of memory"}, 500)
        if fault == "nothing":  # SD.Next without a checkpoint
            return {"images": [], "info": ""}
        tags = parse_tags(body["prompt"])
        prompt = body["prompt"].split("<lora:")[0].strip()
        lora, strength = (tags[0].name, tags[0].first) if tags else ("", Decimal(0))
        if fault == "without":
            lora = ""
        with self._painting:
            self.task = body["force_task_id"]
            pixels = self.studio.paint(
                prompt, body["negative_prompt"], body["seed"], (body["width"], body["height"]),
                body["steps"], body["cfg_scale"], self._sampler(body),
                f"{lora}.safetensors" if lora else "", Decimal(str(strength)),
            )  # fmt: skip
            self.task = ""
        self.hashed, self.broken_off = True, fault == "interrupted"
        if fault == "limit":  # SD.Next paints first and counts afterwards
            return JSONResponse({"error": "HTTPException", "detail": "rate limit exceeded"}, 429)
        infotext = f"{body['prompt']}\nSteps: {body['steps']}, Seed: {body['seed']}"
        if lora and self.sdnext:
            infotext += f", App: SD.Next, LoRA networks: {lora}"
        elif lora:
            short = tensor_hash(LORAS / f"{lora}.safetensors")[:12]
            if fault == "another file":
                short = hashlib.sha256(b"other").hexdigest()[:12]
            infotext += f', Lora hashes: "{lora}: {short}"'
        data = encode_png(pixels, {"parameters": infotext})
        if fault == "jpeg":
            data = b"\xff\xd8\xff" + data
        if fault == "half":
            data = data[: len(data) // 2]
        info = {"seed": body["seed"], "infotexts": [infotext], "version": "v1.10.1",
                "sd_model_hash": self.sha256 and self.sha256[:10]}  # fmt: skip
        if fault == "another checkpoint":
            info["sd_model_hash"] = "fedcba9876"
        answer = {"images": [base64.b64encode(data).decode()], "info": json.dumps(info)}
        if fault == "cut":
            return Response(json.dumps(answer)[:-300], media_type="application/json")
        return answer

    def _sampler(self, body: Mapping[str, Any]) -> str:
        """Our name of what is painted with; a schedule of the other program is not even read."""
        name = {"DPM++ 2M": "dpmpp_2m", "Euler": "euler", "Euler a": "euler_a"}[
            body["sampler_name"]
        ]
        karras = (body.get("schedulers_sigma") == "karras" if self.sdnext
                  else body.get("scheduler") == "Karras")  # fmt: skip
        return f"{name}_karras" if karras else name


SDNEXT_DEFAULTS = {
    key: {"default": value, "label": key}
    for key, value in (("samples_format", "jpg"), ("lora_fuse_native", True),
                       ("lora_fuse_diffusers", False), ("lora_apply_te", False),
                       ("lora_apply_tags", 0), ("schedulers_shift", 3))
}  # fmt: skip
"""/options tells what differs from these."""

SCHEDULES = [{"name": name.lower(), "label": name, "aliases": None}
             for name in ("Automatic", "Uniform", "Karras")]  # fmt: skip


class SwarmServer(Running):
    """SwarmUI: sessions, which a restart forgets; a picture comes over a websocket. Where `token`
    is given, sessions are begun with it only."""

    def __init__(self, studio: Studio, token: str = "") -> None:
        super().__init__()
        self.studio, self.token, self.version = studio, token, "0.9.7.4"
        self.loras = [f"styles/{path.stem}" for path in sorted(LORAS.glob("*.safetensors"))]
        self.bodies: list[dict[str, Any]] = []
        self.sent: dict[str, bytes] = {}
        self._queue = threading.Lock()

    def start(self) -> None:
        self.sessions: dict[str, threading.Event] = {}
        super().start()

    def app(self) -> Starlette:
        return Starlette(routes=[
            WebSocketRoute("/API/GenerateText2ImageWS", self._paint),
            Route("/API/{route}", self._api, methods=["POST"]),
            Route("/View/{path:path}", self._view),
        ])  # fmt: skip

    async def _api(self, request: Request) -> Response:
        route, body = request.path_params["route"], await request.json()
        self.asked.append(route)
        match self.fault("busy", "redirect", "page"):
            case "busy":
                return Response("busy", 503)
            case "redirect":
                return RedirectResponse(f"http://elsewhere.example/API/{route}", 307)
            case "page":
                return Response("<html>hello</html>")
        if route == "GetNewSession":
            if self.token and request.cookies.get("swarm_token") != self.token:
                return JSONResponse({"error": "Invalid or unauthorized."})
            ident = uuid.uuid4().hex.upper()
            self.sessions[ident] = threading.Event()
            return JSONResponse({"session_id": ident, "user_id": "local", "version": self.version})
        if body.get("session_id") not in self.sessions or self.fault("no session"):
            return JSONResponse(UNKNOWN_SESSION, 401)
        if route == "InterruptAll":
            self.sessions[body["session_id"]].set()
            return JSONResponse({"success": True})
        if route in ("ListT2IParams", "TriggerRefresh"):
            return JSONResponse({
                "list": [{"id": "sampler", "values": ["euler", "euler_ancestral", "dpmpp_2m"]},
                         {"id": "scheduler", "values": ["normal///Normal", "karras"]},
                         {"id": "steps", "values": None}],
                "models": {"Stable-Diffusion": [["tiny.safetensors", "stable-diffusion-v1"]],
                           "LoRA": [[name + ".safetensors", None] for name in self.loras]},
            })  # fmt: skip
        if route == "GetCurrentStatus":
            return JSONResponse({"status": {"waiting_gens": 0}})
        return JSONResponse({"error": "Unknown API route.", "error_id": "bad_route"}, 400)

    async def _view(self, request: Request) -> Response:
        return Response(self.sent[request.path_params["path"]], media_type="image/png")

    async def _paint(self, ws: WebSocket) -> None:
        await ws.accept()
        body = await ws.receive_json()
        session = self.sessions.get(body["session_id"])
        if session is None or self.fault("lost session"):
            await ws.send_json(UNKNOWN_SESSION)
            return await ws.close()
        self.asked.append("paint")
        self.bodies.append(body)
        session.clear()
        await ws.send_json({"status": {"waiting_gens": 1}, "supported_features": ["comfyui"]})
        fault = self.fault("drop", "half", "cut", "error", "jpeg", "another file", "another seed",
                           "another strength", "none", "elsewhere", "saved", "nested")  # fmt: skip
        if fault == "error":
            await ws.send_json({"error": "CUDA out of memory"})
            return await ws.close()
        await ws.send_json({"gen_progress": {"batch_index": "0", "overall_percent": 0.5}})
        data, metadata = await asyncio.to_thread(self._painted, body, fault)
        if fault == "drop":
            return await ws.close()
        if fault == "none" or session.is_set():
            await ws.send_json({"discard_indices": []})
            return await ws.close()
        text = "data:image/png;base64," + base64.b64encode(data).decode()
        if fault == "elsewhere":
            text = "http://elsewhere.example/picture.png"
        if fault == "saved":
            self.sent["local/raw/a cat #1.png"] = data
            text = "View/local/raw/a cat #1.png"
        told: dict[str, Any] = {"image": text, "batch_index": "0", "metadata": metadata}
        await ws.send_json({"image": text[:40], "batch_index": "-11", "metadata": None})
        if fault == "cut":
            await ws.send_text(json.dumps(told)[:-300])
            return await ws.close()
        await ws.send_json({"image": told} if fault == "nested" else told)
        await ws.send_json({"keep_alive": True})
        await ws.send_json({"discard_indices": []})
        await ws.send_json({"socket_intention": "close"})
        await ws.close()

    def _painted(self, body: Mapping[str, Any], fault: str) -> tuple[bytes, str]:
        names = [name for name in body.get("loras", "").split(",") if name]
        weights = [weight for weight in body.get("loraweights", "").split(",") if weight]
        assert body["model"] == "tiny" and len(names) == len(weights) < 2 and body["donotsave"]
        assert set(names) <= set(self.loras), "the engine knows models by their names"
        lora = names[0].rsplit("/", 1)[-1] + ".safetensors" if names else ""
        with self._queue:
            pixels = self.studio.paint(
                body["prompt"], body["negativeprompt"], body["seed"],
                (body["width"], body["height"]), body["steps"], body["cfgscale"],
                COMFY_SAMPLERS[body["sampler"], body["scheduler"]], lora,
                Decimal(weights[0]) if weights else Decimal(0),
            )  # fmt: skip
        data = encode_png(pixels, {})
        if fault == "half":
            data = data[: len(data) // 2]
        if fault == "jpeg":
            data = b"\xff\xd8\xff" + data
        used: dict[str, Any] = {"prompt": body["prompt"], "seed": body["seed"], "model": "tiny",
                                "swarm_version": self.version}  # fmt: skip
        if fault == "another seed":
            used["seed"] += 1
        models = [{"name": "tiny.safetensors", "param": "model", "hash": "0x" + "a" * 64}]
        if lora:
            used |= {"loras": names, "loraweights": weights}
            if fault == "another strength":
                used["loraweights"] = ["0.1"]
            digest = "ab" * 32 if fault == "another file" else tensor_hash(LORAS / lora)
            models.append({"name": names[0] + ".safetensors", "param": "loras",
                           "hash": "0x" + digest})  # fmt: skip
        return data, json.dumps({"sui_image_params": used, "sui_models": models}, indent=2)


UNKNOWN_SESSION = {"error": "Invalid session ID. You may need to refresh the page.",
                   "error_id": "invalid_session_id"}  # fmt: skip


def file(name: str) -> Path:
    return LORAS / name
