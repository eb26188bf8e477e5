"""Cells painted by A1111, Forge or SD.Next through /sdapi/v1 (modules/api/api.py of A1111).

The LoRA is a tag in the prompt, a control has none. What the server answers in `info` is what the
picture's facts hold; a picture whose infotext names another LoRA file is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any

from generation.cells import Cell, Picture, strength_text
from generation.errors import UserError, named
from generation.executors import never
from generation.renderers.servers import (
    MOST_PICTURE,
    SECONDS,
    BySettings,
    Refused,
    Server,
    Unreachable,
    Waiting,
    alike,
    decoded,
    spread,
)
from generation.samplers import a1111_sampler

API = "/sdapi/v1"

TRIES = 3
"""How often a picture is asked for when the connection breaks or half of it arrives."""

MOST_SECONDS = 3600.0
"""For one picture, the time in the server's queue included."""

_DECIDING = re.compile(
    r"^(sd_vae|sd_vae_.*|sd_unet|upcast_attn|randn_source|emphasis|comma_padding_backtrack|tiling"
    r"|auto_vae_precision.*|use_old_.*|no_dpmpp_sde_batch_determinism|dont_fix_second_order.*"
    r"|lora_functional|cross_attention_optimization|s_(min_uncond.*|churn|tmin|tmax|noise)"
    r"|skip_early_cond|token_merging_.*|negative_guidance_.*|pad_cond_uncond.*|batch_cond_uncond"
    r"|fp8_storage|cache_fp16_weight|eta_.*|ddim_discretize|sigma_(min|max)|rho"
    r"|always_discard_next_to_last_sigma|sgm_noise_multiplier|uni_pc_.*|sd_noise_schedule"
    r"|use_downcasted_alpha_bar|refiner_switch_by_sample_steps|extra_networks_default_multiplier"
    r"|extra_networks_add_text_separator|sd_hypernetwork.*|sdxl_.*|sd3_.*|forge_(unet|additional).*"
    r"|beta_dist_.*|prompt_attention|diffusers_.*|lora_.*(fuse|apply|precision).*)$"
)
"""Options that change a picture (A1111's shared_options.py; Forge's and SD.Next's additions)."""


def refresh(server: Server) -> None:
    """Let the server look for LoRAs; those without that route list what they found at the start."""
    with suppress(Refused, Unreachable):
        server.json(API + "/refresh-loras", {})


class A1111(BySettings):
    """Paints on servers that are alike; `told` holds the options that change pictures too."""

    key, title = "a1111", "A1111"

    def render(
        self, cells: Sequence[Cell], stopped: Callable[[], bool] = never
    ) -> Iterator[Picture]:
        tasks: dict[str, Server] = {}

        def paint(server: Server, cell: Cell, cancelled: threading.Event) -> Picture:
            task = f"task({uuid.uuid4().hex})"
            tasks[task] = server
            try:
                return self._paint(server, cell, task, cancelled)
            finally:
                tasks.pop(task, None)

        finished = False
        try:
            yield from spread(cells, self.servers, paint, stopped=stopped)
            finished = True
        finally:
            if not finished:
                _interrupt(tasks)

    def _paint(self, server: Server, cell: Cell, task: str, cancelled: threading.Event) -> Picture:
        waiting, tries = Waiting(server, cancelled), 0
        while True:
            begin = time.monotonic()
            try:
                answer = _told(server, self.body(cell, task))
            except Unreachable as error:
                tries += 1
                if tries >= TRIES:
                    raise
                waiting.until(lambda: _progress(server), error)
                continue
            except Refused as error:
                if error.status in (0, 401, 403) or 300 <= error.status < 400:
                    raise
                return Picture(cell, reason=_why(error))
            picture = self._picture(cell, answer, round(time.monotonic() - begin, 2))
            tries += 1
            if picture.png or tries >= TRIES:
                return picture

    def body(self, cell: Cell, task: str = "") -> dict[str, Any]:
        """What /txt2img is sent."""
        asked = self.asked
        tags = [f"<lora:{name}:{weight}>" for name, weight in asked.fixed]
        if cell.checkpoint is not None:
            tags.append(self._tag(self.names[cell.checkpoint.tensor_hash], cell.strength))
        sampler, schedule = self._sampler
        return {
            "prompt": " ".join([cell.case.prompt, *tags]),
            "negative_prompt": cell.case.negative,
            "seed": cell.case.seed,
            "subseed_strength": 0,
            "steps": asked.steps,
            "cfg_scale": asked.guidance_scale,
            "width": asked.width,
            "height": asked.height,
            "sampler_name": sampler,
            **({"scheduler": schedule} if schedule else {}),
            "batch_size": 1,
            "n_iter": 1,
            "styles": [],
            "override_settings": {
                "sd_model_checkpoint": self.told["model"],
                "CLIP_stop_at_last_layers": asked.clip_skip + 1,
            },
            "override_settings_restore_afterwards": True,
            "send_images": True,
            "save_images": False,
            "force_task_id": task,
        }

    def _tag(self, name: str, strength: Decimal) -> str:
        factors = {part: Decimal(value) for part, value in self.asked.factors}
        if not factors:
            return f"<lora:{name}:{strength_text(strength)}>"
        te, unet = (
            strength_text(strength * factors.get(part, Decimal(1))) for part in ("te", "unet")
        )
        return f"<lora:{name}:te={te}:unet={unet}>"

    def _picture(self, cell: Cell, answer: Any, seconds: float) -> Picture:
        images = answer.get("images") if isinstance(answer, dict) else None
        if not isinstance(images, list) or not images or not isinstance(images[0], str):
            return Picture(cell, reason="the server answers without a picture")
        info = _info(answer)
        infotext = str((info.get("infotexts") or [""])[0])
        if info.get("seed") not in (None, cell.case.seed):
            return Picture(cell, reason=f"the server painted seed {info['seed']} instead")
        if wrong := self._another_lora(cell, infotext):
            return Picture(cell, reason=wrong)
        facts = {
            "renderer": "A1111",
            "seconds": seconds,
            "infotext": infotext[:20_000],
            "version": str(info.get("version", ""))[:100],
            "model_hash": str(info.get("sd_model_hash", ""))[:64],
        }
        return decoded(cell, images[0], facts)

    def _another_lora(self, cell: Cell, infotext: str) -> str:
        """Why the infotext's "Lora hashes" say that another file was applied, or none; "" where
        they do not, or where the server does not tell."""
        if cell.checkpoint is None:
            return ""
        if re.search(r"Networks not found: ", infotext):
            return "the server did not find the LoRA; let it look at its folder again"
        name = self.names[cell.checkpoint.tensor_hash]
        match = re.search(rf'[" ]{re.escape(name)}: ([0-9a-f]{{8,64}})', infotext)
        if match and not cell.checkpoint.tensor_hash.startswith(match[1]):
            return (
                f"the server's {name} is another file ({match[1]}, not "
                f"{cell.checkpoint.tensor_hash[:12]}); copy this one there"
            )
        return ""


def _told(server: Server, body: Mapping[str, Any]) -> Any:
    data = server.ask(API + "/txt2img", body, most=MOST_PICTURE, seconds=MOST_SECONDS)
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise Unreachable("half an answer") from None


def _progress(server: Server, seconds: float = SECONDS) -> Any:
    query = {"skip_current_image": "true"}
    return server.json(API + "/progress", query=query, seconds=seconds)


def _interrupt(tasks: Mapping[str, Server]) -> None:
    """Interrupt our own pictures. A server that does not tell whose it paints is left alone."""
    for task, server in list(tasks.items()):
        with suppress(Unreachable, Refused):
            progress = _progress(server, seconds=5)
            if isinstance(progress, dict) and progress.get("current_task") == task:
                server.json(API + "/interrupt", {}, seconds=5)


def _info(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    info = answer.get("info")
    with suppress(ValueError, RecursionError):
        info = json.loads(info) if isinstance(info, str) else info
    return info if isinstance(info, dict) else {}


def _why(error: Refused) -> str:
    answer = error.answer
    if isinstance(answer, dict):
        told = answer.get("detail") or answer.get("errors") or answer.get("error")
        if told:
            return f"the server answers {error.status}: {' '.join(str(told).split())[:300]}"
    return str(error)


def look(servers: Sequence[Server], model: str) -> dict[str, Any]:
    """What identifies the servers: version, checkpoint, options that change pictures.

    `model` names one of the server's checkpoints, "" is the one it has loaded. Raises UserError.
    """
    looks = {server.url: _look(server, model) for server in servers}
    words = {"version": "version", "model": "checkpoint", "sha256": "checkpoint", "options":
             "options that change pictures"}  # fmt: skip
    return {key: alike(words[key], {url: one[key] for url, one in looks.items()}) for key in words}


def _look(server: Server, model: str) -> dict[str, Any]:
    options = server.first(API + "/options")
    models = server.first(API + "/sd-models")
    if not isinstance(options, dict) or not isinstance(models, list):
        raise UserError(
            f"{server.url} does not answer as A1111 does; start it with --api, or mend the "
            "address.",
            field="urls",
        )
    wanted = model or str(options.get("sd_model_checkpoint", ""))
    found = [one for one in models if isinstance(one, dict) and _is(one, wanted)]
    titles = sorted(str(one.get("title", "")) for one in models if isinstance(one, dict))
    if len(found) != 1:
        raise UserError(
            f"{server.url} has {'several checkpoints' if found else 'no checkpoint'} named "
            f"{wanted!r}; it has {', '.join(titles[:8]) or 'none'}.",
            field="model",
        )
    deciding = {key: value for key, value in options.items() if _DECIDING.match(key)}
    text = json.dumps(deciding, sort_keys=True)
    return {
        "version": _version(server),
        "model": str(found[0].get("title", "")),
        "sha256": str(found[0].get("sha256") or found[0].get("hash") or "unknown"),
        "options": hashlib.sha256(text.encode()).hexdigest()[:16],
    }


def _is(model: Mapping[str, Any], wanted: str) -> bool:
    """Whether a checkpoint is meant: by its title, name, hash or file."""
    title, file = str(model.get("title", "")), str(model.get("filename", ""))
    names = {
        title, re.sub(r" \[[0-9a-f]+\]$", "", title), str(model.get("model_name", "")),
        str(model.get("hash", "")), file, file.replace("\\", "/").rsplit("/", 1)[-1],
    }  # fmt: skip
    return wanted in names - {"", "None"}


def _version(server: Server) -> str:
    """SD.Next tells its version, A1111 and Forge within their system report; "unknown" only where
    neither route is there. Raises UserError for a server that does not answer."""
    with suppress(Refused):
        told = server.first(API + "/version")
        if isinstance(told, dict) and told:
            return " ".join(str(told[k]) for k in ("app", "version", "hash") if told.get(k))[:100]
    with suppress(Refused):
        told = server.first("/internal/sysinfo", query={"attachment": "false"})
        if isinstance(told, dict) and told.get("Version"):
            return str(told["Version"])[:100]
    return "unknown"


def sampler_there(server: Server, sampler: str) -> tuple[str, str]:
    """The server's (sampler, scheduler) of one of our names; "" for servers without schedulers.

    Raises UserError for one that the server has not.
    """
    name, schedule = a1111_sampler(sampler)
    listed = server.first(API + "/samplers")
    names = [one.get("name") for one in listed if isinstance(one, dict)]
    together = f"{name} {schedule}"
    if together in names:  # before 1.9 a sampler and its schedule were one
        return together, ""
    if name in names:
        return name, schedule
    raise UserError(
        f"{server.url} has no {name}; it has {', '.join(map(str, names[:12]))}.", field="sampler"
    )


def lora_there(server: Server, file: str, digest: str) -> str:
    """The name for a LoRA's tag on this server. Raises UserError where the server has no file of
    that name, several, or another one of the same name."""
    listed = server.first(API + "/loras")
    stem = file.rsplit(".", 1)[0]
    entries = [one for one in listed if isinstance(one, dict)]
    found = [one for one in entries if one.get("name") == stem]
    if not found:
        raise UserError(
            f"{server.url} has no LoRA {stem}; put {file} into its folder for LoRAs, and let it "
            "look there again."
        )
    if len(found) > 1:
        raise UserError(f"{server.url} has {stem} more than once; rename all but one.")
    if re.search(r"[:<>,]", stem):
        raise UserError(f"{file}: a name with : < > or , cannot be a tag; rename the file.")
    metadata = found[0].get("metadata")
    check_hash(metadata if isinstance(metadata, dict) else {}, digest, file, server.url)
    return stem


def check_hash(metadata: Mapping[str, Any], digest: str, file: str, url: str) -> None:
    """Raise UserError if the server's file tells another hash of its tensors than ours has."""
    told = metadata.get("sshs_model_hash")
    if isinstance(told, str) and re.fullmatch("[0-9a-f]{64}", told) and told != digest:
        raise UserError(
            f"{file} on {url} is another file than the one given; copy this one there, or "
            f"leave out the other {named('loras')}."
        )
