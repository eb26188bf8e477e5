"""Cells painted by A1111, Forge or SD.Next through /sdapi/v1 (modules/api/api.py of each).

The LoRA is a tag in the prompt, a control has none. What the server answers in `info` is what the
picture's facts hold; a picture whose infotext names another LoRA file, checkpoint or seed, or no
LoRA, is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

from generation.cells import Cell, Picture, strength_text
from generation.errors import UserError, named
from generation.executors import never
from generation.renderers.servers import (
    MOST_PICTURE,
    MOST_SECONDS,
    SECONDS,
    Asked,
    BySettings,
    Damaged,
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

SIGMAS = {"Karras": "karras", "Exponential": "exponential", "Beta": "betas"}
"""SD.Next's `schedulers_sigma`, where a sampler's options have `use_..._sigmas`."""

_SDNEXT = {"LMS": "LMSD", "DPM2": "KDPM2", "DPM2 a": "KDPM2 a", "PLMS": "PNDM"}
"""SD.Next's names of samplers (sd_samplers_diffusers.py), where they differ from A1111's."""

_DECIDING = re.compile(
    r"^(sd_vae|sd_vae_.*|sd_unet|upcast_attn|randn_source|emphasis|comma_padding_backtrack|tiling"
    r"|auto_vae_precision.*|use_old_.*|no_dpmpp_sde_batch_determinism|dont_fix_second_order.*"
    r"|lora_functional|cross_attention_optimization|s_(min_uncond.*|churn|tmin|tmax|noise)"
    r"|skip_early_cond|token_merging_.*|negative_guidance_.*|pad_cond_uncond.*|batch_cond_uncond"
    r"|fp8_storage|cache_fp16_weight|eta_.*|ddim_discretize|sigma_(min|max)|rho"
    r"|always_discard_next_to_last_sigma|sgm_noise_multiplier|uni_pc_.*|sd_noise_schedule"
    r"|use_downcasted_alpha_bar|refiner_switch_by_sample_steps|extra_networks_default_multiplier"
    r"|extra_networks_add_text_separator|sd_hypernetwork.*|sdxl_.*|sd3_.*|forge_(unet|additional).*"
    r"|beta_dist_.*|prompt_(attention|mean_norm)|diffusers_.*|lora_.*(fuse|apply|precision|force).*"
    r"|schedulers?_.*|uni_pc_.*|sd_text_?enc.*|te_.*|initial_noise_multiplier|wildcards_enabled"
    r"|(freeu|hypertile|hidiffusion|pag|pab|teacache|cache_dit|faster_cache|fc|para|cfgzero|ras"
    r"|linfusion|deep_cache|sdnq|layerwise|nunchaku|model)_.*|tome_ratio|todo_ratio|enable_linfusion"
    r"|precision|cuda_dtype|no_half.*|upcast_sampling|transformers_version|image_watermark.*)$"
)
"""Options that change a picture (A1111's shared_options.py; Forge's and SD.Next's additions)."""


_ASIDE = ("tells_loras", "leaves_texts")
"""What is told of a server beside its identity: whether the infotext tells the LoRAs' hashes, and
whether LoRAs leave the text encoders as they are."""


def refresh(server: Server) -> None:
    """Let the server look for LoRAs; those without that route list what they found at the start."""
    with suppress(Refused, Unreachable):
        server.json(API + "/refresh-loras", {})


class A1111(BySettings):
    """Paints on servers that are alike; `told` holds the options that change pictures too."""

    key, title = "a1111", "A1111"

    def __init__(
        self, servers: Sequence[Server], asked: Asked, names: Mapping[str, str],
        told: Mapping[str, Any], sampler: tuple[str, str], *, distilled: bool = False,
    ) -> None:  # fmt: skip
        kept = {key: value for key, value in told.items() if key not in _ASIDE}
        self._tells_loras = bool(told.get("tells_loras"))
        if asked.factors and told.get("leaves_texts"):
            raise UserError(
                f"{servers[0].url} gives nothing of a LoRA to text encoders; switch on 'LoRA "
                "native apply to text encoder' there, or leave this out.",
                field="te_strength",
            )
        self._next = _is_next(kept["version"])  # SD.Next's guidance scale is the model's own
        distilled = distilled and not self._next
        super().__init__(servers, asked, names, kept, sampler, distilled=distilled)

    def begin(self, cells: Sequence[Cell], out: Path) -> A1111:
        """A server hashes a checkpoint when it first loads it, which a picture of one step makes it
        do: found out later only, the hash would change the identity of what is painted now."""
        if self.told["sha256"] != "unknown" or not cells:
            return self
        small = {**self.body(Cell(cells[0].case)), "steps": 1, "width": 64, "height": 64}
        for server in self.servers:
            with suppress(Unreachable, Refused):
                _told(server, small)
        told = look(self.servers, str(self.told["model"]))
        return A1111(
            self.servers, self.asked, self.names, told, self._sampler, distilled=self._distilled
        )

    def render(
        self, cells: Sequence[Cell], stopped: Callable[[], bool] = never
    ) -> Iterator[Picture]:
        tasks: dict[str, Server] = {}

        def paint(server: Server, cell: Cell, cancelled: threading.Event) -> Picture:
            task = f"task({uuid.uuid4().hex})"
            tasks[task] = server
            try:
                return self.patiently(
                    cell,
                    Waiting(server, cancelled),
                    lambda: self._painted(server, cell, task),
                    lambda: _progress(server),
                )
            finally:
                tasks.pop(task, None)

        return spread(
            cells, self.servers, paint, stopped=stopped, give_up=lambda: _interrupt(tasks)
        )

    def _painted(self, server: Server, cell: Cell, task: str) -> Picture:
        begin = time.monotonic()
        answer = _told(server, self.body(cell, task))
        picture = self._picture(cell, answer, round(time.monotonic() - begin, 2))
        if picture.png and _interrupted(server):
            return Picture(cell, reason="somebody interrupted it; run the same command again")
        return picture

    def body(self, cell: Cell, task: str = "") -> dict[str, Any]:
        """What /txt2img is sent."""
        asked = self.asked
        tags = [f"<lora:{name}:{weight}>" for name, weight in asked.fixed]
        if cell.checkpoint is not None:
            tags.append(self._tag(self.names[cell.checkpoint.tensor_hash], cell.strength))
        sampler, schedule = self._sampler
        key = "schedulers_sigma" if self._next else "scheduler"
        guidance = {"cfg_scale": asked.guidance_scale}
        if self._distilled:
            guidance = {"cfg_scale": 1.0, "distilled_cfg_scale": asked.guidance_scale}
        return {
            "prompt": " ".join([cell.case.prompt, *tags]),
            "negative_prompt": cell.case.negative,
            "seed": cell.case.seed,
            "subseed_strength": 0,
            "steps": asked.steps,
            **guidance,
            "width": asked.width,
            "height": asked.height,
            "sampler_name": sampler,
            **({key: schedule} if schedule else {}),
            **({"clip_skip": asked.clip_skip + 1} if self._next else {}),
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
            raise Damaged("the server answers without a picture; has it loaded a checkpoint?")
        info = _info(answer)
        infotext = str((info.get("infotexts") or [""])[0])
        if wrong := self._another(cell, info, infotext):
            return Picture(cell, reason=wrong)
        facts = {
            "renderer": "A1111",
            "seconds": seconds,
            "infotext": infotext[:20_000],
            "version": str(info.get("version", ""))[:100],
            "model_hash": str(info.get("sd_model_hash", ""))[:64],
        }
        return decoded(cell, images[0], facts)

    def _another(self, cell: Cell, info: Mapping[str, Any], infotext: str) -> str:
        """Why `info` says that something else was painted; "" where it does not, or where the
        server does not tell."""
        if info.get("seed") not in (None, cell.case.seed):
            return f"the server painted seed {info['seed']} instead"
        painted, wanted = str(info.get("sd_model_hash") or ""), str(self.told["sha256"])
        if len(wanted) >= len(painted) >= 8 and not wanted.startswith(painted):
            return f"the server painted with another checkpoint ({painted}, not {wanted[:10]})"
        if cell.checkpoint is None or not cell.strength:
            return ""
        name, digest = self.names[cell.checkpoint.tensor_hash], cell.checkpoint.tensor_hash
        if self._next:
            used = re.search(r'LoRA networks: ("[^"]*"|[^,\n]*)', infotext)
            if name not in (used[1].strip('"').split(", ") if used else ()):
                return f"the server painted without {name}; its log may say why"
        match = re.search(rf'[" ]{re.escape(name)}: ([0-9a-f]{{8,64}})', infotext)
        if match and not digest.startswith(match[1]):
            return (
                f"the server's {name} is another file ({match[1]}, not {digest[:12]}); copy this "
                "one there"
            )
        if self._tells_loras and not self._next and not match:
            return f"the server painted without {name}; its log may say why"
        return ""

    def why(self, error: Refused) -> str:
        answer = error.answer
        if isinstance(answer, dict):
            told = answer.get("detail") or answer.get("errors") or answer.get("error")
            if told:
                return f"the server answers {error.status}: {' '.join(str(told).split())[:300]}"
        return str(error)


@contextmanager
def _starting() -> Iterator[None]:
    """While a server starts, it answers before its routes are there: not yet, rather than never."""
    try:
        yield
    except Refused as error:
        if error.status in (404, 405) and _no_route(error):
            raise Unreachable("answers 404, as while it starts") from None
        raise


def _no_route(error: Refused) -> bool:
    """Whether the server knows no such route."""
    told = error.answer.get("detail") if isinstance(error.answer, dict) else ""
    return told in ("Not Found", "Method Not Allowed")


def _told(server: Server, body: Mapping[str, Any]) -> Any:
    with _starting():
        data = server.ask(API + "/txt2img", body, most=MOST_PICTURE, seconds=MOST_SECONDS)
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise Unreachable("half an answer") from None


def _progress(server: Server, seconds: float = SECONDS) -> Any:
    query = {"skip_current_image": "true"}
    with _starting():
        return server.json(API + "/progress", query=query, seconds=seconds)


def _interrupted(server: Server) -> bool:
    """Whether the last picture was broken off, and came all the same, half painted."""
    with suppress(Unreachable, Refused):
        state = _progress(server).get("state")
        return isinstance(state, dict) and bool(state.get("interrupted") or state.get("skipped"))
    return False


def _interrupt(tasks: Mapping[str, Server]) -> None:
    """Interrupt our own pictures. A server that does not tell whose it paints is left alone."""
    for task, server in list(tasks.items()):
        with suppress(Unreachable, Refused):
            body = {"id_task": task, "live_preview": False}
            told = server.json("/internal/progress", body, seconds=5)
            if isinstance(told, dict) and told.get("active") is True:
                server.json(API + "/interrupt", {}, seconds=5)


def _info(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    info = answer.get("info")
    with suppress(ValueError, RecursionError):
        info = json.loads(info) if isinstance(info, str) else info
    return info if isinstance(info, dict) else {}


def look(servers: Sequence[Server], model: str) -> dict[str, Any]:
    """What identifies the servers: version, checkpoint, options that change pictures.

    `model` names one of the server's checkpoints, "" is the one it has loaded. Raises UserError.
    """
    looks = {server.url: _look(server, model) for server in servers}
    words = {
        "version": "version", "model": "checkpoint", "sha256": "checkpoint",
        "options": "options that change pictures", **dict.fromkeys(_ASIDE, "options"),
    }  # fmt: skip
    return {key: alike(words[key], {url: one[key] for url, one in looks.items()}) for key in words}


def _look(server: Server, model: str) -> dict[str, Any]:
    try:
        options = server.first(API + "/options")
        models = server.first(API + "/sd-models")
    except Refused as error:
        if not _no_route(error):
            raise
        options = models = None
    if not isinstance(options, dict) or not isinstance(models, list):
        raise UserError(
            f"{server.url} does not answer as A1111 does; start it with --api, or mend the "
            "address.",
            field="urls",
        )
    version = _version(server)
    if _is_next(version):
        options = {**_defaults(server), **options}
    selected = str(options.get("sd_model_checkpoint", ""))
    wanted = model or selected
    found = [one for one in models if isinstance(one, dict) and _is(one, wanted)]
    titles = sorted(str(one.get("title", "")) for one in models if isinstance(one, dict))
    if len(found) != 1:
        raise UserError(
            f"{server.url} has {'several checkpoints' if found else 'no checkpoint'} named "
            f"{wanted!r}; it has {', '.join(titles[:8]) or 'none'}.",
            field="model",
        )
    title = str(found[0].get("title", ""))
    _fit(server.url, options, _is_next(version), "" if _is(found[0], selected) else title)
    deciding = {key: value for key, value in options.items() if _DECIDING.match(key)}
    text = json.dumps(deciding, sort_keys=True)
    return {
        "version": version,
        "model": title,
        "sha256": str(found[0].get("sha256") or found[0].get("hash") or "unknown"),
        "options": hashlib.sha256(text.encode()).hexdigest()[:16],
        "tells_loras": options.get("lora_add_hashes_to_infotext") is True,
        "leaves_texts": _is_next(version) and not options.get("lora_apply_te"),
    }


def _defaults(server: Server) -> dict[str, Any]:
    """What SD.Next's options are where it does not say: /options tells what differs from these,
    all of it only until the first restart."""
    known = {"samples_format": "jpg", "lora_fuse_native": True}
    with suppress(Refused):
        told = server.first(API + "/options-info")
        options = told.get("options") if isinstance(told, dict) else None
        if isinstance(options, dict):
            known |= {k: one.get("default") for k, one in options.items() if isinstance(one, dict)}
    return known


def _fit(url: str, options: Mapping[str, Any], is_next: bool, other: str) -> None:
    """Raise UserError for options with which no study can be painted; `other` is the checkpoint
    that is to be painted with, where another one is selected.

    SD.Next, when it fuses, takes a LoRA off again at the strength of the next picture, and so
    leaves the difference in the model (modules/lora/networks.py keeps one and the same network).
    It loads two checkpoints for each picture that is not painted with the selected one.
    """
    kind = str(options.get("samples_format", "png"))
    added = str(options.get("sd_lora") or "None")
    settings = [
        (kind.lower() != "png", f"sends {kind} pictures; set the file format of images to png"),
        (added != "None", f"adds {added} to every prompt; set 'Add network to prompt' to None"),
    ]
    if is_next:
        settings += [
            (bool(options.get("lora_fuse_native") or options.get("lora_fuse_diffusers")),
             "fuses LoRAs with the model, and another strength of the same LoRA leaves a rest in "
             "it; switch off 'LoRA native fuse with model' (and 'diffusers fuse') and load the "
             "checkpoint anew"),
            (options.get("lora_apply_tags") not in (0, None),
             "adds a LoRA's tags to the prompt; set 'LoRA auto-apply tags' to 0"),
            (bool(other), f"has another checkpoint selected; select {other} there"),
        ]  # fmt: skip
    for unfit, words in settings:
        if unfit:
            raise UserError(f"{url} {words}.", field="urls")


def _is_next(version: object) -> bool:
    """Whether a version is SD.Next's."""
    return str(version).startswith("sd.next")


def _is(model: Mapping[str, Any], wanted: str) -> bool:
    """Whether a checkpoint is meant: by its title, name, hash or file."""
    title, file = str(model.get("title", "")), str(model.get("filename", ""))
    names = {
        title, re.sub(r" \[[0-9a-f]+\]$", "", title), str(model.get("model_name", "")),
        str(model.get("hash", "")), file, _file(file),
    }  # fmt: skip
    return wanted in names - {"", "None"}


def _file(path: object) -> str:
    """A file's name from a path of any system."""
    return str(path or "").replace("\\", "/").rsplit("/", 1)[-1]


def _version(server: Server) -> str:
    """SD.Next tells its version, A1111 and Forge within their system report; "unknown" only where
    neither route is there. Raises UserError for a server that does not answer."""
    with suppress(Refused):
        told = server.first(API + "/version")
        if isinstance(told, dict) and told:
            keys = ("app", "version", "commit", "hash")
            return " ".join(str(told[key]) for key in keys if told.get(key))[:100]
    with suppress(Refused):
        told = server.first("/internal/sysinfo", query={"attachment": "false"})
        if isinstance(told, dict) and told.get("Version"):
            return str(told["Version"])[:100]
    return "unknown"


def sampler_there(server: Server, sampler: str, version: object) -> tuple[str, str]:
    """The (sampler, scheduler) of a server of this version for one of our names; "" for servers
    without schedulers.

    Raises UserError for one that the server has not.
    """
    name, schedule = a1111_sampler(sampler)
    listed = server.first(API + "/samplers")
    named_so = {str(one.get("name")): one for one in listed if isinstance(one, dict)}
    if _is_next(version):
        name, schedules = _SDNEXT.get(name, name), _sigmas(named_so)
        schedule = SIGMAS.get(schedule, "default" if schedule in _PLAIN else schedule)
    else:
        if f"{name} {schedule}" in named_so:  # before 1.9 a sampler and its schedule were one
            return f"{name} {schedule}", ""
        schedules = dict.fromkeys(named_so, _schedules(server))
    if name not in named_so:
        raise UserError(
            f"{server.url} has no {name}; it has {', '.join([*named_so][:12])}.", field="sampler"
        )
    there = schedules[name]
    if there is None and schedule in _PLAIN:
        return name, ""
    if there is None or schedule not in there:
        raise UserError(
            f"{server.url} has no schedule {schedule} for {name}; it has "
            f"{', '.join(there or ()) or 'none'}.",
            field="sampler",
        )
    return name, schedule


_PLAIN = ("Automatic", "Uniform")


def _schedules(server: Server) -> Sequence[str] | None:
    """The labels of the schedules; None for servers without schedules."""
    try:
        listed = server.first(API + "/schedulers")
    except Refused:
        return None
    return [str(one["label"]) for one in listed if isinstance(one, dict) and "label" in one]


def _sigmas(samplers: Mapping[str, Mapping[str, Any]]) -> dict[str, Sequence[str] | None]:
    """SD.Next's sigma schedules of each sampler."""
    flags = {"karras": "karras", "exponential": "exponential", "betas": "beta"}
    return {
        name: ["default", *(sigma for sigma, flag in flags.items()
                            if f"use_{flag}_sigmas" in (one.get("options") or {}))]
        for name, one in samplers.items()
    }  # fmt: skip


def lora_there(server: Server, file: str, digest: str) -> str:
    """The name for a LoRA's tag on this server. Raises UserError where the server has no file of
    that name, several, or another one of the same name."""
    listed = server.first(API + "/loras")
    stem = file.rsplit(".", 1)[0]
    entries = [one for one in listed if isinstance(one, dict)]
    found = [one for one in entries if one.get("name") == stem]  # SD.Next writes a dot as _
    found = found or [one for one in entries if _file(one.get("path")) == file]
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
