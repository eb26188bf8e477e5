"""The live page in a real browser, with the embedded model rendering for real."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from driving import Page
from serving import LORA, TINY, Site

from analysers.commands.main import analyse_epochs, analyse_strength
from analysers.runs.conclude import load_study
from analysers.runs.request import StudyRequest
from analysers.serve import app, course, form
from analysers.study import Study
from generation.samplers import sampler_key
from reports import votes

SLOW = {**TINY, "steps": "60", "run": "slow", "prompts": "a fox\na castle\na boat\na lamp"}


@pytest.fixture
def live(page: Page, site: Site) -> Page:
    """The form, opened by the address that the terminal shows."""
    page.own = site.base
    page.driver.delete_all_cookies()
    return page.open(site.server.address, height=1000)


def write(page: Page, **fields: str) -> None:
    for name, value in fields.items():
        box = page.find(f"#{name}")
        box.clear()
        box.send_keys(value)


def fill(page: Page, fields: dict[str, str]) -> None:
    page.js("(document.getElementById('more').open = true)")
    write(page, **{name: value for name, value in fields.items() if name != "kind"})


def state(page: Page, wanted: str, seconds: float = 60) -> None:
    page.wait(f"document.getElementById('state').className === 'state {wanted}'", seconds)


def ballot(study: Study) -> dict[str, Any]:
    """Nine votes for the first setting against the second, as the report exports them."""
    settings = [
        {"heading": one.heading(study.kind), "checkpoint": one.checkpoint, "epoch": one.epoch,
         "step": one.step, "strength": str(one.strength)}
        for one in (summary.candidate for summary in study.summaries)
    ]  # fmt: skip
    clicks = [{"a": 0, "b": 1, "choice": "a"}] * 9
    return {"kind": votes.KIND, "format": 1, "settings": settings, "votes": clicks}


def rendered(site: Site, run: str) -> list[Path]:
    return sorted((site.root / "runs" / run / "images").rglob("*.png"))


def test_from_the_form_to_the_answer(live: Page, site: Site, tmp_path: Path) -> None:
    assert live.driver.current_url == f"{site.base}/"
    live.click("#browse-loras")
    live.wait("document.querySelector('#entries .name')")
    live.press(["\ue007"])  # Enter: into the folder, where the first button has the focus
    live.wait("document.querySelectorAll('#entries .name').length === 2")
    live.press(["\ue004"], ["\ue007"])  # Tab, Enter
    live.wait("document.getElementById('take')")
    assert live.js("document.getElementById('loras').value") == site.lora
    assert live.js("document.activeElement.id") == "loras"
    live.click("#take")
    proposed = live.js("document.getElementById('prompts').value").splitlines()
    assert len(proposed) == 6 and all(line.startswith("pstr style, ") for line in proposed)

    fill(live, {**TINY, "steps": "many"})
    live.click("#plan")
    live.wait("document.getElementById('steps-error').textContent")
    assert "give a whole number" in live.find("#steps-error").text
    assert live.js("document.activeElement.id") == "steps"
    write(live, steps=TINY["steps"])
    live.press(["\ue007"])
    live.wait("document.getElementById('start')", 60)
    plan = live.find("#planned").text
    assert "6 pictures and 2 controls" in plan and "two measured renders" in plan
    assert "2 steps" in plan and "64×64" in plan and "a castle at sunset" in plan
    assert not (site.root / "runs" / "tiny").exists(), "a plan writes nothing"

    live.click("#start")
    live.wait("document.body.dataset.page === 'run'", 60)
    state(live, "finished")
    live.wait("document.querySelector('#answer h1')")
    study = load_study(site.root / "runs" / "tiny")
    assert live.texts("#answer h1") == [study.verdict.headline]
    assert len(rendered(site, "tiny")) == 8
    live.wait("document.querySelectorAll('.shot img').length === 8")
    live.wait("[...document.querySelectorAll('.shot img')].every((i) => i.naturalWidth > 0)")
    assert live.js("document.getElementById('map').getAttribute('aria-label')") == (
        "2 cases by 4 settings: 8 of 8 rendered, 8 scored, 0 failed"
    )
    before = live.texts(".shot figcaption b")
    live.driver.refresh()
    state(live, "finished")
    live.wait("document.querySelectorAll('.shot img').length === 8")
    assert live.texts(".shot figcaption b") == before

    (tmp_path / "votes.json").write_text(json.dumps({"kind": "no votes"}))
    live.find("#votes").send_keys(str(tmp_path / "votes.json"))
    live.wait("document.getElementById('voted').textContent")
    assert "the file: these are not votes" in live.find("#voted").text
    assert not (site.root / "runs" / "tiny" / "votes.json").exists()
    live.problems()  # the browser notes the refused file (422) as an error
    (tmp_path / "votes.json").write_text(json.dumps(ballot(study)))
    live.find("#votes").send_keys(str(tmp_path / "votes.json"))
    live.wait("document.querySelector('#answer .people')")
    assert live.find("#answer .people").text == live.find("#voted").text != ""
    assert (site.root / "runs" / "tiny" / "votes.json").is_file()

    live.click("#report")
    live.wait("document.documentElement.dataset.ready === 'yes' && document.querySelector('#grid')")
    assert live.texts("h1") == [study.verdict.headline]
    live.wait("[...document.querySelectorAll('.showcase img')].every((i) => i.naturalWidth > 0)")


def test_exports(site: Site) -> None:
    assert site.post("/start", {**TINY, "loras": site.lora}).json() == {"run": "tiny"}
    site.wait()
    for name, begins in (("scores.csv", b"checkpoint,"), ("summary.csv", b"rank,"),
                         ("summary.md", b""), ("report.html", b"<!doctype html>"),
                         ("contact_sheet.png", b"\x89PNG"), ("sweep.webp", b"RIFF")):  # fmt: skip
        answer = site.get(f"/runs/tiny/export/{name}")
        assert answer.status_code == 200 and answer.content.startswith(begins) and answer.content
        assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'
    assert site.get("/runs/tiny/export/study.json").status_code == 404
    shutil.rmtree(site.root / "runs" / "tiny" / "maps")
    there = {path: path.stat().st_mtime_ns for path in (site.root / "runs").rglob("*")}
    assert site.get("/runs/tiny/report.html").status_code == 200
    assert {p: p.stat().st_mtime_ns for p in (site.root / "runs").rglob("*")} == there, "only reads"
    single = site.get("/runs/tiny/export/report.html").text
    assert 'src="data:image/webp' in single and 'src="images/' not in single


def test_a_study_by_keyboard_alone(live: Page, site: Site) -> None:
    """Nothing is clicked: pick, fill, plan, start, pause, resume, stop, go on, read."""
    from selenium.webdriver.common.keys import Keys

    def type_in(field: str, text: str) -> None:
        live.tab_to(f"#{field}")
        live.press([Keys.CONTROL, "a"])
        live.driver.switch_to.active_element.send_keys(text)

    live.press(Keys.TAB)
    assert live.js("document.activeElement.textContent") == "Skip to the page"
    live.tab_to("#browse-loras")
    live.press(Keys.ENTER)
    live.wait("document.activeElement.matches('#entries .name')")
    live.press(Keys.ESCAPE)
    assert live.js("document.activeElement.id") == "browse-loras"
    live.press(Keys.ENTER)
    live.wait("document.activeElement.matches('#entries .name')")
    live.press(Keys.ENTER)
    live.wait("document.querySelectorAll('#entries .name').length === 2")
    live.press(Keys.TAB, Keys.ENTER)
    live.wait("document.getElementById('take')")
    live.tab_to("#take")
    live.press(Keys.ENTER)
    assert live.js("document.activeElement.id") == "prompts"
    assert live.js("document.getElementById('prompts').value").count("\n") == 5
    live.press([Keys.CONTROL, "a"])
    live.driver.switch_to.active_element.send_keys(SLOW["prompts"])
    type_in("model", SLOW["model"])
    live.tab_to("#more summary")
    live.press(Keys.ENTER)
    for field in ("size", "steps", "guidance_scale", "run"):
        type_in(field, SLOW[field])
    live.press([Keys.SHIFT, Keys.TAB])
    for field in ("strengths", "seeds"):  # on, round the end of the page
        type_in(field, SLOW[field])
    live.tab_to("#plan")
    live.press(Keys.ENTER)
    live.wait("document.getElementById('start')", 60)
    assert "12 pictures and 4 controls" in live.find("#planned").text
    live.tab_to("#start")
    live.press(Keys.ENTER)
    live.wait("document.body.dataset.page === 'run'", 60)
    live.wait("document.querySelector('.shot')", 60)
    live.tab_to("#pause")
    live.press(Keys.ENTER)
    state(live, "paused")
    assert live.js("document.activeElement.id") == "resume", "the key goes on"
    live.press(Keys.ENTER)
    state(live, "running")
    assert live.js("document.activeElement.id") == "pause"
    live.tab_to("#stop")
    live.press(Keys.ENTER)
    state(live, "stopped")
    assert live.js("document.activeElement.id") == "continue"
    live.press(Keys.ENTER)
    state(live, "finished", 120)
    live.wait("document.querySelector('#answer h1')")
    live.tab_to("#report")
    live.press(Keys.ENTER)
    live.wait("document.querySelector('#grid .cell')")


def settled(site: Site, name: str, seconds: float = 60) -> list[Path]:
    """The pictures once none has come for three seconds: the batch in flight is finished."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        there = rendered(site, name)
        time.sleep(3)
        if rendered(site, name) == there:
            return there
    raise AssertionError("pictures go on coming")


def test_pause_resume_stop_go_on(live: Page, site: Site) -> None:
    site.post("/start", {**SLOW, "loras": site.lora})
    live.open(f"{site.base}/runs/slow/")
    live.wait("document.querySelector('.shot')", 60)
    live.click("#pause")
    state(live, "paused")
    so_far = site.get("/runs/slow/answer")
    assert so_far.status_code == 204 or "So far, by" in so_far.text
    there = settled(site, "slow")
    assert 0 < len(there) < 16
    told = site.post("/start", {**TINY, "loras": site.lora})
    assert told.status_code == 422 and "slow goes on" in told.json()["sentence"]
    live.click("#resume")
    state(live, "running")
    live.click("#stop")
    state(live, "stopped")
    kept = {path: path.stat().st_mtime_ns for path in rendered(site, "slow")}
    assert len(kept) < 16
    assert load_study(site.root / "runs" / "slow").verdict.headline
    live.click("#continue")
    state(live, "finished", 120)
    assert len(rendered(site, "slow")) == 16
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())


def test_the_run_folder_is_the_state(live: Page, site: Site) -> None:
    site.post("/start", {**SLOW, "loras": site.lora})
    live.open(f"{site.base}/runs/slow/")
    live.wait("document.querySelector('.shot')", 60)
    site.end()
    kept = {path: path.stat().st_mtime_ns for path in rendered(site, "slow")}
    assert 0 < len(kept) < 16
    live.wait("!document.getElementById('lost').hidden")
    live.driver.get("about:blank")
    live.problems()  # the connection that ended
    site.begin()
    live.own = site.base
    live.open(site.server.address)
    assert live.texts(".runs a") == ["slow"]
    live.click(".runs a")
    live.wait("document.body.dataset.page === 'run'")
    live.wait("!document.getElementById('continue').hidden")
    assert live.find("#state").text == "stopped"
    live.click("#continue")
    state(live, "finished", 120)
    assert len(rendered(site, "slow")) == 16
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())


def test_hidden_tabs_hold_no_connection(live: Page, site: Site) -> None:
    site.post("/start", {**TINY, "loras": site.lora})
    tabs = [live.driver.current_window_handle]
    try:
        for _ in range(8):
            live.driver.switch_to.new_window("tab")
            tabs.append(live.driver.current_window_handle)
            live.open(f"{site.base}/runs/tiny/")
            state(live, "finished")
    finally:
        for tab in tabs[1:]:
            live.driver.switch_to.window(tab)
            live.driver.close()
        live.driver.switch_to.window(tabs[0])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_axe_finds_nothing_serious_and_nothing_overflows(
    live: Page, site: Site, scheme: str, width: int
) -> None:
    found: list[Any] = []

    def look() -> None:
        found.extend(live.serious())
        for wide in (360, 768, 1440, 1920, width):
            live.resize(wide)
            assert live.js("document.documentElement.scrollWidth") <= wide

    look_at = {"width": width, "prefers_color_scheme": scheme}
    live.open(site.base + "/", **look_at)  # type: ignore[arg-type]
    fill(live, {**TINY, "loras": site.lora})
    live.click("#browse-loras")
    live.wait("document.querySelector('#entries .name')")
    look()
    live.click("#plan")
    live.wait("document.getElementById('start')", 60)
    look()
    write(live, steps="0")
    live.click("#plan")
    live.wait("document.getElementById('steps-error').textContent")
    look()
    live.problems()  # the browser notes the refused plan (422) as an error
    site.post("/start", {**TINY, "loras": site.lora})
    live.open(f"{site.base}/runs/tiny/", **look_at)  # type: ignore[arg-type]
    look()
    state(live, "finished")
    live.wait("document.querySelector('#answer h1')")
    look()
    assert found == []


def test_the_demo_is_that_of_the_command_line(site: Site) -> None:
    for kind in ("strength", "epochs"):
        filled = site.get(f"/demo?kind={kind}").json()
        asked = form.request({**filled, "kind": kind}, site.server.live.folders)
        wanted = StudyRequest.demo(kind)  # type: ignore[arg-type]
        assert asked.rendering.sampler == "DPM++ 2M Karras", "as people write it"
        rendering = dataclasses.replace(asked.rendering, sampler=wanted.rendering.sampler)
        assert sampler_key(str(asked.rendering.sampler)) == rendering.sampler
        assert dataclasses.replace(asked, rendering=rendering, output=wanted.output) == wanted
        assert asked.judging.references and asked.judging.held_out


LEFT_OUT = {
    "images", "control", "controls", "votes", "report_only", "write_weight",  # of finished pictures
    "watch", "patience", "keep_best", "compare_renderers",  # that stay at a terminal
    "allow", "compiled", "cluster", "workers", "max_prompts", "prompt",  # for few, or of a file
    "out", "resume", "allow_non_empty", "demo", "dry_run", "single_file", "share",  # done elsewhere
    "as_json", "quiet", "debug", "serve", "host", "port",  # on the page
}  # fmt: skip
"""Options that the form has not, on purpose (docs/live.md)."""


def test_the_form_asks_for_what_the_command_line_does(live: Page, site: Site) -> None:
    options = {
        one.name for command in (analyse_strength, analyse_epochs) for one in command.params
        if one.name not in ("help", "version")
    }  # fmt: skip
    assert options - form.LABELS.keys() == LEFT_OUT and not LEFT_OUT & form.LABELS.keys()
    named = live.js("[...document.getElementById('form').elements].map((e) => e.name)")
    assert set(filter(None, named)) == form.LABELS.keys()
    given = {
        "refine": True, "until_decided": True, "budget": "40", "guidance_rescale": "0.7",
        "clip_skip": "1", "fixed": f"{site.lora}:0.3\n{site.lora}", "block_weights": "OUT=0.5",
        "unet_strength": "0.5", "te_strength": "1,0.5", "name": "pstr", "ema": True,
        "rank_by": "ssim", "margin": "0.1", "tie_tolerance": "0.02", "trigger": "pstr style",
        "leak_test": True, "class_word": "woman", "prediction_type": "epsilon", "device": "cpu",
        "dtype": "float32", "batch_size": "2", "low_vram": True,
    }  # fmt: skip
    asked = form.request({**TINY, "loras": site.lora, **given}, site.server.live.folders)
    typed = {**TINY, **given, "loras": [site.lora], "out": site.root / "runs" / "tiny"}
    typed |= {"fixed": given["fixed"].splitlines(), "prompts": TINY["prompts"].splitlines()}
    typed = {name: value for name, value in typed.items() if name not in ("kind", "run")}
    assert asked == StudyRequest.of("strength", **typed)
    auto = {**TINY, "loras": site.lora, "strengths": "auto", "resolution": "0.1"}
    assert len(form.request(auto, site.server.live.folders).subject.strengths) == 20


def test_what_belongs_to_another_renderer_is_neither_shown_nor_sent(live: Page) -> None:
    live.js("(document.getElementById('more').open = true)")
    write(live, device="cpu")
    shown = "document.getElementById(arguments[0]).checkVisibility()"
    sent = "JSON.parse(sessionStorage.getItem('live-draft')).device"
    assert live.js(shown, "device") and not live.js(shown, "workflow")
    assert live.js(sent) == "cpu"
    live.choose("#renderer", "comfyui")
    assert live.js(shown, "workflow") and live.js(shown, "urls") and not live.js(shown, "device")
    write(live, urls="http://127.0.0.1:9")
    assert live.js(sent) is None
    live.choose("#renderer", "a1111")
    assert live.js(shown, "urls") and not live.js(shown, "workflow")


def test_a_run_that_fails_says_why_and_what_is_known(
    live: Page, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(course.RenderedPictures, "record", full)
    site.post("/start", {**TINY, "loras": site.lora})
    site.wait()
    live.open(f"{site.base}/runs/tiny/")
    live.wait("document.querySelector('#answer h1')")
    assert "No space left on device" in live.find("#sentence").text
    assert live.find("#continue").is_displayed() and not live.find("#run-error").text
    monkeypatch.setattr(course.RenderedPictures, "pictures", full)
    site.post("/start", {**TINY, "loras": site.lora, "run": "none"})
    site.wait()
    assert site.get("/runs/none/answer").status_code == 204
    live.open(f"{site.base}/runs/none/")
    live.wait("document.querySelector('#answer .lead').textContent.startsWith('It ended before')")
    assert live.find("#continue").is_displayed() and not live.find("#run-error").text
    live.driver.get("about:blank")


def test_a_page_too_many_says_so_and_comes_in_later(
    live: Page, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "MOST_STREAMS", 1)
    site.post("/start", {**TINY, "loras": site.lora})
    with site.client.stream("GET", "/runs/tiny/log") as first:
        told = first.iter_raw()
        assert next(told).startswith(b"retry")
        live.open(f"{site.base}/runs/tiny/")
        live.wait("document.getElementById('lost').textContent.startsWith('1 pages watch')")
    state(live, "finished")
    assert live.js("document.getElementById('lost').hidden")
    live.problems()  # the browser notes the refused log (503) as an error


def test_the_lora_is_named(site: Site) -> None:
    found = site.get("/proposals", params={"path": site.lora}).json()
    assert found["words"] == ["pstr style"] and LORA.startswith("pstr")
    assert site.get("/demo?kind=epochs").json()["loras"].endswith("lora")


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent as a POSIX signal")
def test_ctrl_c_ends_the_program_and_nothing_is_lost(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "analysers", "strength", "--serve", "--out", "out"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[1]
        base = address.partition("/?")[0]
        with httpx.Client(base_url=base, timeout=120) as client:
            client.get(address)
            lora = client.get("/demo?kind=strength").json()["loras"]
            asked = {**SLOW, "loras": lora}
            assert client.post("/start", json=asked, headers={"origin": base}).status_code == 200
        end = time.monotonic() + 60
        while not list((tmp_path / "out").rglob("*.png")):
            assert time.monotonic() < end
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in (0, 130)
    there = list((tmp_path / "out" / "slow" / "images").rglob("*.png"))
    study = load_study(tmp_path / "out" / "slow")
    assert 0 < sum(score.status != "failed" for score in study.scores) == len(there) < 16
