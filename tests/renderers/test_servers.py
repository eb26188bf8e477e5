"""Renderers of other programs' servers: their rules, their faults, and the same study as here."""

from __future__ import annotations

import json
import math
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("diffusers")
pytest.importorskip("httpx")
pytest.importorskip("starlette")

from click.testing import CliRunner  # noqa: E402
from fakes import LORAS, ComfyServer, Studio, SwarmServer, WebuiServer  # noqa: E402

from analysers.commands.main import analyse_strength  # noqa: E402
from analysers.runs.comparing import Comparison  # noqa: E402
from analysers.runs.conclude import load_study
from analysers.study import Interval  # noqa: E402
from generation.cells import Case, Cell, Checkpoint, Picture  # noqa: E402
from generation.errors import UserError  # noqa: E402
from generation.loras.inspection import tensor_hash  # noqa: E402
from generation.pictures.pixels import decode_image, read_image  # noqa: E402
from generation.renderers import a1111  # noqa: E402
from generation.renderers.comfyui import render as comfy  # noqa: E402
from generation.renderers.comfyui import swarmui
from generation.renderers.comfyui.graphs import built_in  # noqa: E402
from generation.renderers.comfyui.workflow import analyse  # noqa: E402
from generation.renderers.conformance import renderer_conforms  # noqa: E402
from generation.renderers.renderer import Renderer  # noqa: E402
from generation.renderers.servers import LOGIN, Asked, Server  # noqa: E402


def checkpoint(name: str) -> Checkpoint:
    path = LORAS / f"{name}.safetensors"
    return Checkpoint(path, name, tensor_hash=tensor_hash(path))


EARLY, LATE = checkpoint("pstr-000003"), checkpoint("pstr-000007")
ONE, TWO = (Case(f"a picture of a {s} on green grass", i, "blur", f"p{i:02d}_s{i}")
            for i, s in enumerate(("cat", "dog"), 1))  # fmt: skip
CELLS = [Cell(ONE), Cell(TWO), Cell(ONE, EARLY, Decimal(1)), Cell(TWO, EARLY, Decimal(1)),
         Cell(ONE, LATE, Decimal("0.5"))]  # fmt: skip
SETTINGS: dict[str, Any] = {"width": 64, "height": 64, "steps": 2}


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio()


@pytest.fixture
def comfyui(studio: Studio) -> Iterator[ComfyServer]:
    studio.slow = 0.0
    with ComfyServer(studio) as server:
        yield server


@pytest.fixture
def webui(studio: Studio) -> Iterator[WebuiServer]:
    studio.slow = 0.0
    with WebuiServer(studio) as server:
        yield server


@pytest.fixture
def sdnext(studio: Studio) -> Iterator[WebuiServer]:
    studio.slow = 0.0
    with WebuiServer(studio, sdnext=True) as server:
        yield server


@pytest.fixture
def swarm(studio: Studio) -> Iterator[SwarmServer]:
    studio.slow = 0.0
    with SwarmServer(studio) as server:
        yield server


def on_comfyui(*urls: str, patience: float = 5.0) -> comfy.ComfyUI:
    servers = [Server(url, patience) for url in urls]
    graph = built_in("sd1", "tiny.safetensors", guidance=4.0, sampler="euler_a", **SETTINGS)
    workflow = analyse(graph)
    names = {c.tensor_hash: c.path.name for c in (EARLY, LATE)}
    return comfy.ComfyUI(servers, workflow, names, comfy.look(servers, workflow))


def on_webui(*urls: str, patience: float = 5.0) -> a1111.A1111:
    servers = [Server(url, patience) for url in urls]
    asked = Asked(guidance_scale=4.0, sampler="euler_a", **SETTINGS)
    names = {c.tensor_hash: c.path.stem for c in (EARLY, LATE)}
    told = a1111.look(servers, "")
    return a1111.A1111(
        servers, asked, names, told, a1111.sampler_there(servers[0], "euler_a", told["version"])
    )


def on_swarm(*urls: str, patience: float = 5.0, model: str = "tiny") -> swarmui.SwarmUI:
    servers = [Server(url, patience, swarmui.COOKIE) for url in urls]
    asked = Asked(guidance_scale=4.0, sampler="euler_a", **SETTINGS)
    names = {c.tensor_hash: swarmui.lora_there(servers[0], c.path.name, "") for c in (EARLY, LATE)}
    told = swarmui.look(servers, model)
    sampler = swarmui.sampler_there(servers[0], "euler_a")
    return swarmui.SwarmUI(servers, asked, names, told, sampler)


def pixels(pictures: list[Picture]) -> dict[Cell, Any]:
    assert all(picture.png for picture in pictures), [p.reason for p in pictures if not p.png]
    return {picture.cell: decode_image(picture.png) for picture in pictures}


@pytest.fixture(scope="module")
def here(model_folder: Path) -> dict[Cell, Any]:
    """What the suite's own renderer paints."""
    from generation.cells import RenderSettings
    from generation.renderers.diffusers.engine import find_model
    from generation.renderers.diffusers.render import DiffusersRenderer
    from generation.renderers.diffusers.setup import Setup

    settings = RenderSettings("demo", "0", 64, 64, 2, 4.0, "euler_a", batch_size=1)
    renderer = DiffusersRenderer(settings, Setup(find_model(str(model_folder))))
    return pixels(list(renderer.render(CELLS)))


def test_comfyui_conforms(comfyui: ComfyServer) -> None:
    renderer_conforms(lambda: on_comfyui(comfyui.url), CELLS)
    assert not comfyui.pending and not comfyui.history, "no job of ours is left there"


@pytest.mark.parametrize("kind", ["webui", "sdnext"])
def test_a1111_conforms(kind: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(kind).url
    renderer_conforms(lambda: on_webui(url), CELLS)


def test_swarmui_conforms(swarm: SwarmServer) -> None:
    renderer_conforms(lambda: on_swarm(swarm.url), CELLS)


def test_all_paint_the_same_pixels(
    comfyui: ComfyServer, webui: WebuiServer, sdnext: WebuiServer, swarm: SwarmServer,
    here: dict[Cell, Any],
) -> None:  # fmt: skip
    for renderer in (on_comfyui(comfyui.url), on_webui(webui.url), on_webui(sdnext.url),
                     on_swarm(swarm.url)):  # fmt: skip
        painted = pixels(list(renderer.render(CELLS)))
        for cell in CELLS:
            assert np.array_equal(painted[cell], here[cell])


COMFY_FAULTS = ["full", "busy", "drop", "silent", "half", "cut", "forget", "lost answer"]


@pytest.mark.parametrize("fault", COMFY_FAULTS)
def test_a_passing_fault_of_comfyui_costs_nothing(
    fault: str, comfyui: ComfyServer, here: dict[Cell, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comfy, "LOOK", 0.3)
    comfyui.studio.painted.clear()
    comfyui.faults += [fault, fault]
    painted = pixels(list(on_comfyui(comfyui.url).render(CELLS)))
    assert all(np.array_equal(painted[cell], here[cell]) for cell in CELLS)
    assert fault not in comfyui.faults
    assert set(comfyui.studio.painted.values()) == {1}, "nothing is painted twice"


WEBUI_FAULTS = ["full", "half", "cut", "starting", "nothing"]


@pytest.mark.parametrize("fault", WEBUI_FAULTS)
def test_a_passing_fault_of_a1111_costs_no_picture(
    fault: str, webui: WebuiServer, here: dict[Cell, Any]
) -> None:
    webui.faults += [fault, fault]
    painted = pixels(list(on_webui(webui.url).render(CELLS)))
    assert all(np.array_equal(painted[cell], here[cell]) for cell in CELLS)
    assert not webui.faults


def test_a_limit_of_requests_is_waited_for(sdnext: WebuiServer, here: dict[Cell, Any]) -> None:
    sdnext.faults += ["limit"] * 5  # more often than a broken connection is tried again
    painted = pixels(list(on_webui(sdnext.url, patience=30.0).render(CELLS)))
    assert all(np.array_equal(painted[cell], here[cell]) for cell in CELLS)
    sdnext.faults += ["limit"] * 50
    with pytest.raises(UserError, match="no server answers any more: .*429"):
        list(on_webui(sdnext.url, patience=0.5).render(CELLS))


SWARM_FAULTS = ["busy", "no session", "lost session", "drop", "half", "cut"]


@pytest.mark.parametrize("fault", [*SWARM_FAULTS, "saved", "nested"])
def test_a_passing_fault_of_swarmui_costs_no_picture(
    fault: str, swarm: SwarmServer, here: dict[Cell, Any]
) -> None:
    renderer = on_swarm(swarm.url)
    swarm.faults += [fault, fault] if fault != "no session" else ["drop", fault]
    painted = pixels(list(renderer.render(CELLS)))
    assert all(np.array_equal(painted[cell], here[cell]) for cell in CELLS)
    assert not swarm.faults


def test_what_fails_for_good_on_swarmui_fails_its_cell_in_words(swarm: SwarmServer) -> None:
    renderer = on_swarm(swarm.url)
    for fault, count, words in (
        ("error", 1, "SwarmUI: CUDA out of memory"),
        ("none", 1, "ended without a picture"),
        ("half", 3, "damaged"),
        ("elsewhere", 1, "names no picture of its own (http://elsewhere.example"),
        ("jpeg", 1, "format to PNG"),
        ("another seed", 1, "painted seed 2 instead"),
    ):
        swarm.faults += [fault] * count
        told = reasons(renderer, CELLS[:1])
        assert len(told) == 1 and words in told[0], told
    for fault, words in (("another file", "is another file (abababababab, not"),
                         ("another strength", "at 0.1 instead of 1")):  # fmt: skip
        swarm.faults += [fault]
        told = reasons(renderer, CELLS[2:3])
        assert len(told) == 1 and words in told[0], told


def test_giving_up_stops_our_own_pictures_on_swarmui(swarm: SwarmServer) -> None:
    swarm.studio.slow = 0.3
    renderer = on_swarm(swarm.url)
    foreign = swarmui.Session(Server(swarm.url))
    foreign.opened()
    pictures = renderer.render(CELLS)
    next(pictures)
    pictures.close()  # type: ignore[attr-defined]
    assert not swarm.sessions[foreign.ident].is_set(), "another's pictures go on"


def test_a_token_of_swarmui_is_a_cookie_and_stands_in_no_error(
    swarm: SwarmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm.token = "6c6f63616c.aB3.cD4"
    with pytest.raises(UserError, match=f"put an account's token .* {LOGIN}"):
        on_swarm(swarm.url)
    monkeypatch.setenv(LOGIN, swarm.token)
    assert len(pixels(list(on_swarm(swarm.url).render(CELLS[:2])))) == 2
    monkeypatch.setenv(LOGIN, "line\nbreak")
    with pytest.raises(UserError) as error:
        on_swarm(swarm.url)
    assert "break" not in str(error.value).replace("line break", "")


def reasons(renderer: Renderer, cells: list[Cell] = CELLS) -> list[str]:
    return [picture.reason for picture in renderer.render(cells) if picture.reason]


def test_what_fails_for_good_fails_its_cell_with_the_servers_words(
    comfyui: ComfyServer, webui: WebuiServer
) -> None:
    comfyui.faults += ["node error"]
    assert reasons(on_comfyui(comfyui.url)) == ["ComfyUI: KSampler sampler: CUDA out of memory"]
    comfyui.faults += ["half"] * 3
    assert "damaged" in reasons(on_comfyui(comfyui.url), CELLS[:1])[0]
    comfyui.loras = comfyui.loras[:5]
    assert "lora_name: 'pstr-000007.safetensors' not in list" in reasons(on_comfyui(comfyui.url))[0]
    webui.faults += ["error"]
    assert "CUDA out of memory" in reasons(on_webui(webui.url))[0]
    webui.faults += ["jpeg"]
    assert "format to PNG" in reasons(on_webui(webui.url))[0]
    webui.faults += ["nothing"] * 3
    assert "has it loaded a checkpoint?" in reasons(on_webui(webui.url))[0]
    webui.faults += ["interrupted"]
    assert "somebody interrupted it" in reasons(on_webui(webui.url))[0]
    webui.faults += ["another checkpoint"]
    assert "another checkpoint (fedcba9876, not abc1234567)" in reasons(on_webui(webui.url))[0]
    webui.faults += ["another file"] * 20
    assert len(told := reasons(on_webui(webui.url))) == 3 and "another file" in told[0]


@pytest.mark.parametrize("kind", ["webui", "sdnext"])
def test_a_picture_without_its_lora_is_refused(kind: str, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(kind)
    server.faults += ["without"] * len(CELLS)
    told = reasons(on_webui(server.url))
    assert len(told) == 3 and "painted without pstr-000003" in "".join(told), "controls have none"
    assert not reasons(on_webui(server.url), [Cell(ONE, EARLY, Decimal(0))]), "nor has strength 0"
    if kind == "webui":  # which need not tell
        server.options["lora_add_hashes_to_infotext"] = False
        server.faults += ["without"] * len(CELLS)
        assert not reasons(on_webui(server.url))


@pytest.mark.parametrize("foreign", [False, True])
def test_only_our_own_picture_is_interrupted_on_a1111(webui: WebuiServer, foreign: bool) -> None:
    webui.studio.slow = 0.5
    with WebuiServer(webui.studio) as other:
        pictures = on_webui(webui.url, other.url).render(CELLS)
        next(pictures)  # one server has painted, the other one still does
        if foreign:
            webui.task = other.task = "task(of somebody else)"
        pictures.close()  # type: ignore[attr-defined]
        assert webui.interrupted + other.interrupted == (0 if foreign else 1)


@pytest.mark.parametrize(
    ("kind", "option", "value", "words"),
    [
        ("webui", "samples_format", "jpg", "sends jpg pictures"),
        ("webui", "sd_lora", "other", "adds other to every prompt"),
        ("sdnext", "samples_format", "webp", "sends webp pictures"),
        ("sdnext", "lora_fuse_native", True, "switch off 'LoRA native fuse"),
        ("sdnext", "lora_fuse_diffusers", True, "switch off 'LoRA native fuse"),
        ("sdnext", "lora_apply_tags", -1, "adds a LoRA's tags"),
        ("sdnext", "sd_model_checkpoint", "other", "select tiny.safetensors [abc1234567] there"),
    ],
)
def test_options_that_spoil_a_study_are_refused(
    kind: str, option: str, value: object, words: str, request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue(kind)
    a1111.look([Server(server.url)], "tiny")
    server.options[option] = value
    with pytest.raises(UserError) as error:
        a1111.look([Server(server.url)], "tiny")
    assert words in str(error.value)


def test_sdnext_tells_only_the_options_that_differ_from_its_defaults(sdnext: WebuiServer) -> None:
    servers = [Server(sdnext.url)]
    told = a1111.look(servers, "")
    sdnext.options["schedulers_shift"] = 3
    assert a1111.look(servers, "") == told
    sdnext.options["schedulers_shift"] = 4
    assert a1111.look(servers, "")["options"] != told["options"]
    del sdnext.options["samples_format"]
    with pytest.raises(UserError, match="sends jpg pictures"):
        a1111.look(servers, "")


def test_samplers_schedules_and_guidance_as_each_program_spells_them(
    webui: WebuiServer, sdnext: WebuiServer, swarm: SwarmServer
) -> None:
    there, other = Server(webui.url), Server(sdnext.url)
    version = {s.url: a1111.look([s], "")["version"] for s in (there, other)}
    for server, sampler, own in (
        (there, "dpmpp_2m_karras", ("DPM++ 2M", "Karras")),
        (other, "dpmpp_2m_karras", ("DPM++ 2M", "karras")),
        (other, "dpmpp_2m", ("DPM++ 2M", "default")),
    ):
        assert a1111.sampler_there(server, sampler, version[server.url]) == own
    for server, sampler in ((there, "dpmpp_2m_exponential"), (other, "euler_a_karras")):
        with pytest.raises(UserError, match="no schedule"):
            a1111.sampler_there(server, sampler, version[server.url])
    asked = Asked(64, 64, 2, 3.5, "euler", clip_skip=1)
    bodies = [
        a1111.A1111([server], asked, {}, a1111.look([server], ""), ("Euler", ""),
                    distilled=distilled).body(CELLS[0])
        for server, distilled in ((there, False), (there, True), (other, True))
    ]  # fmt: skip
    scales = [(body["cfg_scale"], body.get("distilled_cfg_scale")) for body in bodies]
    assert scales == [(3.5, None), (1.0, 3.5), (3.5, None)]
    assert bodies[2]["clip_skip"] == 2 and "clip_skip" not in bodies[0]
    told = swarmui.look([Server(swarm.url)], "tiny")
    flux = swarmui.SwarmUI([], asked, {}, told, ("euler", "normal"), distilled=True)
    plain = swarmui.SwarmUI([], asked, {}, told, ("euler", "normal"))
    scales = [
        (b["cfgscale"], b.get("fluxguidancescale")) for b in map(_body(CELLS[0]), (flux, plain))
    ]
    assert scales == [(1.0, 3.5), (3.5, None)]
    assert flux.identity(CELLS[0]) != plain.identity(CELLS[0])


def _body(cell: Cell) -> Any:
    return lambda renderer: renderer.body(cell)


def test_parts_that_sdnext_leaves_as_they_are_cannot_be_asked_for(sdnext: WebuiServer) -> None:
    server = Server(sdnext.url)
    asked = Asked(64, 64, 2, 4.0, "euler", factors=(("te", "0.5"), ("unet", "1")))
    a1111.A1111([server], asked, {}, a1111.look([server], ""), ("Euler", ""))
    sdnext.options["lora_apply_te"] = False
    with pytest.raises(UserError, match="gives nothing of a LoRA to text encoders"):
        a1111.A1111([server], asked, {}, a1111.look([server], ""), ("Euler", ""))


def test_sdnext_writes_dots_as_lines_and_tells_its_commit(sdnext: WebuiServer) -> None:
    sdnext.loras = [LORAS / "my.lora.v2.safetensors"]
    assert a1111.lora_there(Server(sdnext.url), "my.lora.v2.safetensors", "") == "my.lora.v2"
    assert a1111.look([Server(sdnext.url)], "")["version"] == "sd.next 058a7f0cf"


@pytest.mark.parametrize("kind", ["comfyui", "webui", "swarm"])
def test_a_restarted_server_is_waited_for(
    kind: str, here: dict[Cell, Any], request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue(kind)
    server.studio.slow = 0.2
    open_renderer = {"comfyui": on_comfyui, "webui": on_webui, "swarm": on_swarm}[kind]
    renderer: Renderer = open_renderer(server.url)
    found = []
    for number, picture in enumerate(renderer.render(CELLS)):
        found.append(picture)
        if number == 1:
            restarting = threading.Thread(target=server.restart)
            restarting.start()
    restarting.join()
    painted = pixels(found)
    assert all(np.array_equal(painted[cell], here[cell]) for cell in CELLS)


def test_the_cells_of_a_lost_server_are_painted_by_the_others(
    comfyui: ComfyServer, studio: Studio, here: dict[Cell, Any]
) -> None:
    with ComfyServer(studio) as other:
        renderer = on_comfyui(comfyui.url, other.url, patience=0.3)
        studio.slow = 0.2
        found = []
        for picture in renderer.render(CELLS):
            found.append(picture)
            if len(found) == 1:
                other.stop()
        other.start()
    assert Counter(picture.cell for picture in found) == Counter(CELLS)
    assert all(np.array_equal(p, here[cell]) for cell, p in pixels(found).items())


def test_without_any_server_the_study_says_so(comfyui: ComfyServer) -> None:
    renderer = on_comfyui(comfyui.url, patience=0.2)
    comfyui.stop()
    try:
        with pytest.raises(UserError, match=f"no server answers any more: {comfyui.url}"):
            list(renderer.render(CELLS))
    finally:
        comfyui.start()


def test_what_a_killed_client_left_is_taken_up(comfyui: ComfyServer, here: dict[Cell, Any]) -> None:
    comfyui.studio.painted.clear()
    renderer = on_comfyui(comfyui.url)
    for cell in CELLS[:3]:  # as a client that died after having queued them
        graph = renderer.graph(cell)
        body = {"prompt": graph, "extra_data": {comfy.MARK: comfy._digest(graph)}}
        Server(comfyui.url).json("/prompt", body)
    painted = pixels(list(on_comfyui(comfyui.url).render(CELLS)))
    assert all(np.array_equal(painted[cell], here[cell]) for cell in CELLS)
    assert sum(comfyui.studio.painted.values()) == len(CELLS)


def test_giving_up_frees_our_own_jobs_only(comfyui: ComfyServer) -> None:
    comfyui.studio.slow = 0.4
    foreign = [2, "foreign", on_comfyui(comfyui.url).graph(CELLS[0]), {"client_id": "x"}, []]
    pictures = on_comfyui(comfyui.url).render(CELLS)
    next(pictures)
    comfyui.pending.append(foreign)
    pictures.close()  # type: ignore[attr-defined]
    assert all(item[1] == "foreign" for item in comfyui.pending + comfyui.running) or (
        comfyui.interrupted
    )
    assert "foreign" not in comfyui.deleted


def test_the_noise_floor_is_painted_anew(comfyui: ComfyServer) -> None:
    renderer = on_comfyui(comfyui.url)
    comfyui.studio.painted.clear()
    list(renderer.render(CELLS[:1]))
    list(renderer.render(CELLS[:1]))
    assert sum(comfyui.studio.painted.values()) == 1, "the server answers from its cache"
    list(renderer.otherwise().render(CELLS[:1]))
    assert sum(comfyui.studio.painted.values()) == 2


# --- security -------------------------------------------------------------------------------------


def test_redirects_and_endless_answers_are_refused(
    comfyui: ComfyServer, swarm: SwarmServer
) -> None:
    for fault, words in (("redirect", "redirects to http://elsewhere.example"), ("huge", "64 MB")):
        comfyui.faults += [fault]
        with pytest.raises(UserError, match=words):
            list(on_comfyui(comfyui.url).render(CELLS[:1]))
    for fault, words in (("redirect", "redirects to http://elsewhere.example"), ("page", "JSON")):
        swarm.faults += [fault]
        with pytest.raises(UserError, match=words):
            on_swarm(swarm.url)


@pytest.mark.parametrize(
    "url",
    ["http://me:secret@127.0.0.1:8188", "ftp://x", "127.0.0.1:8188", "http://", "http://a?t=1"],
)
def test_addresses_that_are_none_or_hold_a_login_are_refused(url: str) -> None:
    with pytest.raises(UserError) as error:
        Server(url)
    assert "secret" not in str(error.value)


def test_certificates_are_verified() -> None:
    import ssl

    assert Server("https://127.0.0.1")._context.verify_mode == ssl.CERT_REQUIRED


# --- whole studies --------------------------------------------------------------------------------

STUDY = ["--prompt", "a picture of a cat on green grass", "--prompt", "a picture of a dog on snow",
         "--seeds", "1", "--strengths", "0.4,0.8,1.4", "--size", "64", "--steps", "2", "--cfg", "4",
         "--sampler", "euler a", "--jobs", "0"]  # fmt: skip


def study(tmp_path: Path, name: str, *arguments: str, code: int = 0) -> str:
    out = str(tmp_path / name)
    result = CliRunner().invoke(
        analyse_strength, [str(EARLY.path), *STUDY, "--out", out, *arguments]
    )
    assert result.exit_code == code, result.output
    return result.output


def differences(here: Path, there: Path) -> list[str]:
    """In what two finished studies differ, down to the pictures."""
    ours, theirs = (json.loads((one / "study.json").read_text()) for one in (here, there))
    found = [
        f"{there.name}: {key} is {theirs['verdict'][key]}, not {ours['verdict'][key]}"
        for key in ("best", "recommended") if ours["verdict"][key] != theirs["verdict"][key]
    ]  # fmt: skip
    assert len(ours["scores"]) == len(theirs["scores"])
    for one, other in zip(ours["scores"], theirs["scores"], strict=True):
        assert (one["case"], one["image"]) == (other["case"], other["image"])
        if one["values"] != other["values"]:
            pictures = (read_image(root / one["image"]).astype(int) for root in (here, there))
            apart = np.abs(np.subtract(*pictures))
            found.append(
                f"{there.name}: {one['image']} differs in {np.count_nonzero(apart)} values by up "
                f"to {apart.max()}: {other['values']} ({other['reason']}), not {one['values']} "
                f"({one['reason']})"
            )
    return found


def test_the_same_study_has_the_same_answer_everywhere(
    comfyui: ComfyServer, webui: WebuiServer, swarm: SwarmServer, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv(LOGIN, "me:secret")
    webui.login = "me:secret"
    study(tmp_path, "here", "--model", "demo", "--batch-size", "1")
    study(tmp_path, "comfyui", "--renderer", "comfyui", "--url", comfyui.url, "--model",
          "tiny.safetensors")  # fmt: skip
    study(tmp_path, "a1111", "--renderer", "a1111", "--url", webui.url)
    monkeypatch.setenv(LOGIN, "top.secret")
    swarm.token = "top.secret"
    study(tmp_path, "swarmui", "--renderer", "swarmui", "--url", swarm.url, "--model", "tiny")
    monkeypatch.setenv(LOGIN, "me:secret")
    for name in ("comfyui", "a1111", "swarmui"):
        assert not differences(tmp_path / "here", tmp_path / name)
    kept = "".join(
        path.read_text() for name in ("comfyui", "a1111", "swarmui")
        for path in (tmp_path / name).glob("*.*")
        if path.suffix in (".json", ".html", ".csv", ".jsonl")
    )  # fmt: skip
    assert "secret" not in kept and webui.url in kept
    before = len(webui.asked)
    study(tmp_path, "a1111", "--renderer", "a1111", "--url", webui.url)
    assert len(webui.asked) == before, "nothing is painted twice"
    webui.hashed = False  # a checkpoint that the server has not loaded yet
    study(tmp_path, "unloaded", "--renderer", "a1111", "--url", webui.url)
    assert not differences(tmp_path / "here", tmp_path / "unloaded")
    before = len(webui.asked)
    study(tmp_path, "unloaded", "--renderer", "a1111", "--url", webui.url)
    assert len(webui.asked) == before, "its hash is known before anything is painted for good"
    webui.options["randn_source"] = "GPU"
    study(tmp_path, "a1111", "--renderer", "a1111", "--url", webui.url)
    assert len(webui.asked) >= before + 8, "other options, other pictures"
    comfyui.version = "0.4.0"
    before = len(comfyui.asked)
    told = study(tmp_path, "comfyui", "--renderer", "comfyui", "--url", comfyui.url, "--model",
                 "tiny.safetensors")  # fmt: skip
    assert comfyui.asked[before:].count("prompt") >= 8 and "Rendered 6 pictures" in told


COMPARED = ["--compare-renderers", "demo", "--strengths", "0.5,1", "--batch-size", "1"]


@pytest.mark.parametrize(
    ("low", "mean", "high", "verdict", "sentence"),
    [
        (0.95, 1.0, 1.05, "same", "as strongly as this suite does"),
        (1.02, 1.04, 1.06, "same", "as strongly as this suite does"),
        (0.7, 1.0, 1.4, "unknown", "cannot be told from few cells: 0.70 to 1.40 times"),
        (0.98, 1.05, 1.13, "unknown", "cannot be told from few cells: 0.98 to 1.13 times"),
        (0.6, 0.8, 1.02, "unknown", "cannot be told from few cells: 0.60 to 1.02 times"),
        (0.9, 1.3, math.inf, "unknown", "0.90 to more than was tried times"),
        (1.02, 1.08, 1.14, "unknown", "cannot be told from few cells: 1.02 to 1.14 times"),
        (0.4, 0.5, 0.6, "differs", "at 0.50 times its strength (0.40 to 0.60)"),
        (1.1, 1.4, math.inf, "differs", "at 1.40 times its strength (1.10 to more than was tried)"),
        (0.0, 0.0, 0.0, "differs", "applies nothing of the LoRA"),
        (math.nan, math.nan, math.nan, "unknown", "no strength moves these pictures further"),
    ],
)
def test_a_wide_interval_says_nothing(
    low: float, mean: float, high: float, verdict: str, sentence: str
) -> None:
    found = Comparison((), Interval(mean, low, high), 1.0)
    record = found.record()
    assert record["verdict"] == verdict and sentence in found.answer
    assert found.told is (verdict != "unknown")
    words = {"same": "As strongly", "differs": f"{mean:.2f} times", "unknown": "Cannot be told"}
    assert found.headline == words[verdict]
    json.dumps(record, allow_nan=False)


@pytest.mark.parametrize("kind", ["comfyui", "a1111"])
def test_a_server_that_applies_half_the_lora_is_found_out(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    server = request.getfixturevalue("comfyui" if kind == "comfyui" else "webui")
    at = ["--renderer", kind, "--url", server.url, "--model", "tiny.safetensors", *COMPARED]
    told = study(tmp_path, "whole", *at)
    assert "applies the LoRA as strongly as this suite" in told and "same pixels" in told, told
    server.studio.applied = Decimal("0.5")
    try:
        told = study(tmp_path, "half", *at, code=4)
    finally:
        server.studio.applied = Decimal(1)
    assert "The server applies the LoRA at 0.50 times its strength (0.50 to 0.50)" in told, told
    table = (tmp_path / "half" / "comparison.csv").read_text().splitlines()
    assert table[-1].split(",")[0] == "1" and table[-1].split(",")[2] == "0.50"
    page = (tmp_path / "half" / "comparison.html").read_text()
    name = "ComfyUI" if kind == "comfyui" else "A1111"
    assert f"Does {name} apply as much of the LoRA?" in page and f"{name} · 1.0" in page
    settings = {"steps": 2, "width": 64, "height": 64, "guidance_scale": 4}
    told_of = load_study(tmp_path / "half" / "there").run.settings or {}
    assert {name: told_of.get(name) for name in settings} == settings
    assert str(told_of["model"]).startswith("tiny.safetensors")
    assert "there/report.html" in page and (tmp_path / "half/there/report.html").is_file()
    record = json.loads((tmp_path / "half" / "comparison.json").read_text())
    assert record["verdict"] == "differs" and record["factor"]["mean"] == pytest.approx(0.5)
    same = json.loads(study(tmp_path, "whole", *at, "--json"))
    assert same["verdict"] == "same" and [s["strength"] for s in same["strengths"]] == [0.5, 1]


def test_a_server_that_applies_nothing_is_found_out(webui: WebuiServer, tmp_path: Path) -> None:
    webui.studio.applied = Decimal(0)
    try:
        told = study(tmp_path, "none", "--renderer", "a1111", "--url", webui.url, *COMPARED, code=4)
    finally:
        webui.studio.applied = Decimal(1)
    assert "applies nothing of the LoRA" in told


def test_a_comparison_needs_a_server(tmp_path: Path) -> None:
    told = study(tmp_path, "x", "--model", "demo", *COMPARED, code=2)
    assert "--compare-renderers: there is no server to compare with" in told


def test_a_users_workflow(comfyui: ComfyServer, tmp_path: Path) -> None:
    graph = built_in("sd1", "tiny.safetensors", guidance=4.0, sampler="euler_a", **SETTINGS)
    graph["lora"]["inputs"]["lora_name"] = "mine.safetensors"
    graph["lora"]["_meta"] = {"title": "Load LoRA"}
    graph["value"] = {"class_type": "PrimitiveInt", "inputs": {"value": 5}}
    graph["sampler"]["inputs"]["seed"] = ["value", 0]
    graph["text"] = {"class_type": "PrimitiveStringMultiline", "inputs": {"value": "a bird"}}
    graph["prompt"]["inputs"]["text"] = ["text", 0]
    graph["picture"] = {"class_type": "SaveImage", "inputs": {"images": ["decoded", 0]}}
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps(graph))
    told = study(tmp_path, "run", "--renderer", "comfyui", "--url", comfyui.url, "--workflow",
                 str(path), "--dry-run")  # fmt: skip
    assert "LoRA: lora LoraLoader" in told and "Seed: value PrimitiveInt, value" in told
    study(tmp_path, "run", "--renderer", "comfyui", "--url", comfyui.url, "--workflow", str(path))
    study(tmp_path, "built", "--renderer", "comfyui", "--url", comfyui.url, "--model",
          "tiny.safetensors")  # fmt: skip
    for one in sorted((tmp_path / "run" / "images").rglob("*.png")):
        other = tmp_path / "built" / one.relative_to(tmp_path / "run")
        assert np.array_equal(read_image(one), read_image(other))


def test_what_a_server_has_not_is_said_before_anything_is_rendered(
    comfyui: ComfyServer, webui: WebuiServer, swarm: SwarmServer, tmp_path: Path
) -> None:
    at = ["--renderer", "comfyui", "--url", comfyui.url]
    assert "has no checkpoint 'other'" in study(tmp_path, "x", *at, "--model", "other", code=2)
    assert "--model is missing" in study(tmp_path, "x", *at, code=2)
    comfyui.loras = ["elsewhere.safetensors"]
    told = study(tmp_path, "x", *at, "--model", "tiny.safetensors", code=2)
    assert "has no pstr-000003.safetensors" in told
    comfyui.loras = ["a/pstr-000003.safetensors", "b\\pstr-000003.safetensors"]
    told = study(tmp_path, "x", *at, "--model", "tiny.safetensors", code=2)
    assert "more than once" in told
    comfyui.loras = ["pstr-000003.safetensors"]
    comfyui.faults += ["another file"]
    told = study(tmp_path, "x", *at, "--model", "tiny.safetensors", code=2)
    assert "is another file than the one given" in told
    at = ["--renderer", "swarmui", "--url", swarm.url]
    assert "no checkpoint named 'other'" in study(tmp_path, "x", *at, "--model", "other", code=2)
    assert "--model is missing: name one" in study(tmp_path, "x", *at, code=2)
    told = study(tmp_path, "x", *at, "--model", "tiny", "--sampler", "heun", code=2)
    assert "has no sampler heun; it has euler, " in told
    for names, words in (([], "has no LoRA pstr-000003"), (["a/pstr-000003", "pstr-000003"],
                         "more than once"), (["a,b/pstr-000003"], "comma")):  # fmt: skip
        swarm.loras = names
        assert words in study(tmp_path, "x", *at, "--model", "tiny", code=2)
    at = ["--renderer", "a1111", "--url", webui.url]
    assert "no checkpoint named 'other'" in study(tmp_path, "x", *at, "--model", "other", code=2)
    assert "has no Heun" in study(tmp_path, "x", *at, "--sampler", "heun", code=2)
    webui.login = "me:secret"
    assert LOGIN in study(tmp_path, "x", *at, code=2)
    webui.stop()
    assert "does not answer" in study(tmp_path, "x", *at, code=2)
    webui.start()


def test_thirty_random_faults_lose_nothing_and_paint_nothing_twice(
    comfyui: ComfyServer, tmp_path: Path, here: dict[Cell, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client gives up, or the server is restarted, at random moments."""
    monkeypatch.setattr(comfy, "LOOK", 0.2)
    rng = random.Random(13)
    comfyui.studio.slow = 0.02
    cells = [replace(cell, case=replace(cell.case, seed=seed)) for seed in range(6)
             for cell in CELLS[2:]]  # fmt: skip
    done: dict[Cell, Picture] = {}
    stops = 0
    while len(done) < len(cells) or stops < 30:
        if len(done) == len(cells):
            done.clear()
        rest = [cell for cell in cells if cell not in done]
        pictures = on_comfyui(comfyui.url).render(rest)
        for picture in pictures:
            assert picture.png, picture.reason
            assert picture.cell not in done
            done[picture.cell] = picture
            if stops < 30 and rng.random() < 0.3:
                stops += 1
                if rng.random() < 0.5:
                    pictures.close()  # type: ignore[attr-defined]
                    break
                time.sleep(rng.random() * 0.05)
                comfyui.restart()
    assert set(done) == set(cells) and not comfyui.pending


@pytest.mark.skipif("COMFYUI_URL" not in os.environ, reason="no server of one's own")
def test_a_real_comfyui_conforms() -> None:
    """COMFYUI_URL, COMFYUI_MODEL (its checkpoint) and the embedded LoRAs in its folder."""
    servers = [Server(os.environ["COMFYUI_URL"])]
    family = os.environ.get("COMFYUI_FAMILY", "sd1")
    model = os.environ["COMFYUI_MODEL"]
    workflow = analyse(built_in(family, model, guidance=4.0, sampler="euler_a", **SETTINGS))
    names = {c.tensor_hash: c.path.name for c in (EARLY, LATE)}
    told = comfy.look(servers, workflow)
    renderer_conforms(lambda: comfy.ComfyUI(servers, workflow, names, told), CELLS)


@pytest.mark.skipif("A1111_URL" not in os.environ, reason="no server of one's own")
def test_a_real_a1111_conforms() -> None:
    renderer_conforms(lambda: on_webui(os.environ["A1111_URL"]), CELLS)


@pytest.mark.skipif("SWARMUI_URL" not in os.environ, reason="no server of one's own")
def test_a_real_swarmui_conforms() -> None:
    """SWARMUI_URL, SWARMUI_MODEL (its checkpoint) and the embedded LoRAs in its folder."""
    url, model = os.environ["SWARMUI_URL"], os.environ["SWARMUI_MODEL"]
    renderer_conforms(lambda: on_swarm(url, model=model), CELLS)
