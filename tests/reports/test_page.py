"""The report in a real headless Chromium: each control and key, no error, nothing off the disk."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from driving import Page
from PIL import Image

from analysers.metrics.ssim import ssim
from analysers.ranking import decide
from analysers.study import (
    Candidate,
    Evidence,
    Interval,
    RunRecord,
    Score,
    Sentence,
    Study,
    Summary,
    Told,
    Verdict,
    Weights,
)
from reports import html, votes


@pytest.fixture(scope="session")
def report(strength_study: tuple[Study, Path]) -> Path:
    return html.write_report(*strength_study)


@pytest.fixture(scope="session")
def single(strength_study: tuple[Study, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The single-file report, moved away from its pictures."""
    study, folder = strength_study
    path = html.write_report(study, folder, single_file=True, name="single.html")
    return Path(shutil.move(path, tmp_path_factory.mktemp("mail") / "report.html"))


@pytest.fixture(scope="session")
def plane(plane_study: tuple[Study, Path]) -> Path:
    return html.write_report(*plane_study)


@pytest.fixture(scope="session")
def epochs(make_study: Callable[..., Study], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of a training with what they learnt of its pictures, and their weights."""
    folder = tmp_path_factory.mktemp("epochs")
    study = make_study(folder, "epochs", epochs=10, prompts=("a cat",), seeds=(1, 2), size=64)
    settings = [f"epoch {i}" for i in range(1, 11)]
    rows = tuple({"setting": s, "likeness": 0.1 * i, "low": 0.1 * i - 0.1, "high": 0.1 * i + 0.1}
                 for i, s in enumerate(settings))  # fmt: skip
    gaps = tuple({"setting": s, "gap": 0.01 * i - 0.1, "low": -0.1, "high": 0.1}
                 for i, s in enumerate(settings))  # fmt: skip
    told = dataclasses.replace(
        study.evidence, likeness=Told("Likeness.", rows), by_heart=Told("By heart.", gaps)
    )
    return html.write_report(dataclasses.replace(study, evidence=told), folder)


def test_the_answer_comes_first_with_its_pictures(page: Page, report: Path) -> None:
    page.open(report)
    assert page.find("h1").text == "Use 0.6."
    assert "It has the lowest mean BRISQUE." in page.find(".rest").text
    assert page.texts(".chips li") == [
        "strongest clean: 1.0", "breaks at 1.2", "moderate confidence", "1 caution"
    ]  # fmt: skip
    page.click(".chips .caution a")
    page.wait("document.getElementById('why').open")
    assert "1 setting lost 2 pictures" in page.find(".warnings").text
    page.open(report)
    page.wait("[...document.querySelectorAll('.showcase img')].every((i) => i.naturalWidth > 0)")
    assert page.js("document.querySelectorAll('.showcase img').length") == 8
    assert page.js("document.querySelectorAll('.showcase')[0].getBoundingClientRect().top") < 860


def test_curves_have_their_numbers_and_lines_on_demand(page: Page, report: Path) -> None:
    page.open(report)
    page.click("#why summary")
    assert page.texts(".plot h3") == [
        "Quality and effect",
        "Quality against effect",
        "Signs of over-cooking",
    ]
    shown = "[...document.querySelectorAll('#plot-curves .drawing > div')].filter((d) => d.offsetHeight).map((d) => d.className)"  # noqa: E501
    assert page.js(shown) == ["plain"]
    page.click("[data-percase]")
    assert page.js(shown) == ["cases"]
    page.click("#plot-curves details summary")
    assert page.texts("#plot-curves tbody th")[0] == "0.2"
    assert page.js("document.querySelectorAll('.plot [style]').length") == 0


def test_every_grid_control(page: Page, report: Path) -> None:
    page.open(report)
    natural = ["control", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert page.columns()[:6] == natural
    page.choose("#sort", "rank")
    ranked = page.columns()
    assert ranked[:2] == ["control", "0.6"] and ranked != natural
    page.choose("#sort", "effect")
    assert page.columns()[:3] == natural[:3]
    page.choose("#sort", "natural")

    page.choose("#filter", "clean")
    assert page.columns() == natural
    page.choose("#filter", "flagged")
    assert page.columns() == ["control", "1.4"]
    assert "truncated file" in page.find("#grid").text
    page.choose("#filter", "tied")
    assert set(page.columns()) == {"control", "0.4", "0.6", "0.8"}
    page.choose("#filter", "all")

    page.find("#find").send_keys("coffee seed 2")
    page.wait("document.querySelectorAll('#grid .rowhead .clamp').length === 1")
    assert "1 of 8 cases" in page.find("#shown").text
    page.js("(document.getElementById('find').value = 'no such words',"
            "document.getElementById('find').dispatchEvent(new Event('input')))")  # fmt: skip
    assert "Nothing matches" in page.find("#grid").text
    page.js("(document.getElementById('find').value = '',"
            "document.getElementById('find').dispatchEvent(new Event('input')))")  # fmt: skip

    width = "document.querySelector('#grid .cell img').getBoundingClientRect().width"
    before = page.js(width)
    page.click("#larger")
    assert page.js(width) > before
    page.click("#smaller")
    page.click("#smaller")
    assert page.js(width) < before
    page.click("#fit")
    assert page.js("document.querySelector('.scroller').scrollWidth") <= page.js(
        "document.querySelector('.scroller').clientWidth"
    )
    assert len(page.columns()) == 8

    page.click('#grid [aria-label="Hide 0.4"]')
    assert "0.4" not in page.columns()
    page.click("#unhide")
    assert "0.4" in page.columns()

    page.choose("#layout", "settings")
    heads = page.texts("#grid .row:not(.track) .rowhead .text")
    assert heads[:3] == ["control", "0.2", "0.4"]
    page.choose("#layout", "seeds")
    assert len(page.texts("#grid .rowhead .clamp")) == 2
    page.choose("#page", "2")
    assert "cat" in page.texts("#grid .rowhead .clamp")[0]


PLACE = (
    "(() => { const b = document.querySelector(arguments[0]).getBoundingClientRect();"
    "const g = document.getElementById('grid').getBoundingClientRect();"
    "return [b.left - g.left, b.top]; })()"
)


def test_headers_and_control_stay_in_view(page: Page, report: Path) -> None:
    page.open(report, width=900)
    page.click("#larger")
    page.click("#larger")
    bar = page.js("document.querySelector('.top').getBoundingClientRect().bottom")
    page.js("document.querySelector('.scroller').scrollTo(500, 0)")
    page.js("document.getElementById('grid').scrollIntoView({behavior: 'instant'})")
    page.js("window.scrollBy({top: 900, behavior: 'instant'})")
    page.wait("document.querySelector('.scroller').scrollLeft > 300")
    time.sleep(0.1)
    assert page.js(PLACE, "#grid .gridhead")[1] == pytest.approx(bar, abs=1)
    assert page.js(PLACE, "#grid .row:not(.track) .rowhead")[0] == pytest.approx(1, abs=1)
    assert page.js(PLACE, "#grid .pinned.cell")[0] == pytest.approx(191, abs=2)
    assert page.js(PLACE, "#grid .pinned.colhead")[0] == pytest.approx(191, abs=2)
    # A heading stands over its column, and no picture shows beside the heads.
    number = page.js(
        "document.querySelector('#grid .row:not(.track) .cell:not(.pinned)').dataset.at"
    )
    column = number.split(",")[1]
    heads = page.js(
        "[...document.querySelectorAll('.colhead:not(.pinned)')].map((h) => [h.getAttribute('aria-colindex'), h.getBoundingClientRect().left])"  # noqa: E501
    )
    left = dict(heads)[str(int(column) + 3)]
    assert page.js(
        f"document.querySelector('.cell[data-at=\"{number}\"]').getBoundingClientRect().left"
    ) == pytest.approx(left, abs=1)
    under = (
        "(() => { const b = document.getElementById('grid').getBoundingClientRect(); const found = [];"  # noqa: E501
        "for (let x = b.left - 6; x < b.left + 180; x += 6) for (let y = 160; y < innerHeight; y += 20)"  # noqa: E501
        "  if (document.elementFromPoint(x, y)?.closest('.cell')) found.push([x, y]); return found; })()"  # noqa: E501
    )
    assert page.js(under) == []
    page.click("#pin")
    page.js("document.querySelector('.scroller').scrollTo(500, 0)")
    time.sleep(0.1)
    assert page.js(PLACE, "#grid .pinned.cell")[0] < 0


def test_the_wheel_is_not_caught_by_the_grid(page: Page, report: Path) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    page.open(report)
    page.js("document.getElementById('grid').scrollIntoView({behavior: 'instant'})")
    before = page.js("scrollY")
    # A wheel turns what is painted: the frame that has been scrolled to has to be there.
    page.js("requestAnimationFrame(() => requestAnimationFrame(() => { window.painted = true; }))")
    page.wait("window.painted")
    origin = ScrollOrigin.from_viewport(640, 500)
    ActionChains(page.driver).scroll_from_origin(origin, 0, 300).perform()
    page.wait(f"scrollY >= {before + 250}")


@pytest.mark.parametrize("layout", ["cases", "settings", "plane", "planeT"])
def test_no_heading_is_clipped_at_any_size(page: Page, plane: Path, layout: str) -> None:
    page.open(plane)
    page.choose("#layout", layout)
    clipped = (
        "[...document.querySelectorAll('#grid [data-setting] .text, #grid .group span, #grid [data-setting] .clamp')]"  # noqa: E501
        ".filter((e) => e.offsetHeight && (e.scrollWidth > e.parentNode.clientWidth + 1 ||"
        " e.scrollHeight > e.clientHeight + 1)).map((e) => e.textContent)"
    )
    page.click("#fit")
    for _ in range(8):
        page.click("#smaller") if page.js("!document.getElementById('smaller').disabled") else None
    sizes = []
    for _ in range(6):
        sizes.append(page.find("#size").text)
        assert page.js(clipped) == []
        page.click("#larger") if page.js("!document.getElementById('larger').disabled") else None
    assert sizes == ["XS", "S", "M", "L", "XL", "XXL"]


def test_the_plane_has_two_levels_of_headings(page: Page, plane: Path) -> None:
    page.open(plane, width=1600)
    assert page.texts("#grid .group")[:3] == ["epoch 1", "epoch 2", "epoch 3"]
    assert page.columns()[:6] == ["control", "0.4", "0.7", "1.0", "1.3", "0.4"]
    page.choose("#layout", "settings")
    page.js("document.getElementById('grid').scrollIntoView({behavior: 'instant'})")
    page.wait("document.querySelectorAll('#grid .row:not(.track) .rowhead .text').length > 2")
    assert page.texts("#grid .row:not(.track) .rowhead .text")[1:3] == ["epoch 10.4", "epoch 10.7"]


def test_rows_and_columns_are_chosen_and_settings_ticked(page: Page, report: Path) -> None:
    page.open(report)
    page.click("#choose summary")
    page.click("#choose-settings label:nth-of-type(2) input")
    page.click("#choose-cases label:nth-of-type(1) input")
    assert "0.4" not in page.columns()
    assert page.find("#shown").text == "6 of 7 settings, 7 of 8 cases"
    page.click("h1")
    page.click("#unhide")
    for strength in ("0.4", "0.8", "1.0"):
        page.click(f'#grid [aria-label="Compare {strength}"]')
    assert page.find("#compare").text == "Compare 3 settings"
    page.click("#compare")
    assert page.texts("#layers .tag") == ["0.4", "0.8", "1.0"]
    assert page.js("document.getElementById('stage').dataset.mode") == "side"


def test_settings_cycle_by_themselves(page: Page, report: Path) -> None:
    page.open(report)
    page.click("#cycle")
    first = page.js("document.getElementById('page').value")
    page.wait(f"document.getElementById('page').value !== '{first}'", 4)
    page.click("#cycle")
    assert page.find("#cycle").text == "Cycle settings"


def test_few_reasons_are_shown_and_the_rest_folds(
    page: Page, strength_study: tuple[Study, Path]
) -> None:
    study, folder = strength_study
    codes = ("effect", "zone", "frontier", "unsure", "content", "clean", "breakdown_by")
    more = tuple(Sentence("why", code, f"About {code}.") for code in codes)
    verdict = dataclasses.replace(study.verdict, sentences=(*study.verdict.sentences, *more))
    study = dataclasses.replace(study, verdict=verdict)
    page.open(html.write_report(study, folder, name="reasons.html"))
    page.click("#why summary")
    shown = [text for text in page.texts(".argument > h3, .argument > p") if text]
    assert shown[0] == "For it" and "Against it" in shown and len(shown) <= 8
    assert page.texts(".argument > .warnings li") and not page.js(
        "document.querySelector('#more p').checkVisibility()"
    )
    page.js("window.dispatchEvent(new Event('beforeprint'))")
    assert page.js("document.querySelector('#more p').checkVisibility()"), "all is printed"
    page.js("window.dispatchEvent(new Event('afterprint'))")
    assert not page.js("document.getElementById('more').open")


@pytest.mark.parametrize("width", [360, 390])
def test_on_a_phone_control_and_two_settings_stand_beside_each_other(
    page: Page, report: Path, width: int
) -> None:
    page.open(report, width=width, height=844)
    page.js("document.getElementById('pictures').scrollIntoView({behavior: 'instant'})")
    page.wait("document.querySelectorAll('.colhead[data-setting]').length > 2")
    visible = page.js(
        "[...document.querySelectorAll('.colhead')].filter((c) => { const b = "
        "c.getBoundingClientRect(); return b.left >= 0 && b.right <= innerWidth; })"
        ".map((c) => [c.getBoundingClientRect().left, c.querySelector('.text').textContent])"
    )
    edge = next(left for left, text in visible if text == "control")
    shown = [text for left, text in sorted(visible) if text == "control" or left > edge + 50]
    assert shown[:3] == ["control", "0.6", "0.8"], "beside the control the recommended comes first"
    row = "document.querySelectorAll('.row:not(.track)')[0]"
    head, cell = (
        page.js(f"{row}.querySelector('{part}').getBoundingClientRect().toJSON()")
        for part in (".rowhead", ".cell:not(.pinned)")
    )
    assert head["bottom"] <= cell["top"] + 1 and head["width"] <= width


@pytest.mark.parametrize("width", [360, 390, 768])
def test_on_a_phone_the_grids_controls_are_one_row(page: Page, plane: Path, width: int) -> None:
    from selenium.webdriver.common.keys import Keys

    page.open(plane, width=width, height=780)
    assert page.find("#tools").size["height"] < 50
    assert not page.find("#sort").is_displayed()
    page.tab_to("#more-tools")
    page.press(Keys.ENTER, Keys.TAB)
    assert page.js("document.activeElement.id") == "fit"
    assert page.find("#more-tools").get_attribute("aria-expanded") == "true"
    cut = (
        "[...document.querySelectorAll('#tools select, #tools button, #tools input, #tools summary')]"  # noqa: E501
        ".filter((e) => e.checkVisibility()).filter((e) => { const b = e.getBoundingClientRect();"
        "return b.left < 0 || b.right > innerWidth; }).map((e) => e.id)"
    )
    assert page.find("#save").is_displayed() and page.js(cut) == []
    page.click("#more-tools")
    page.choose("#layout", "plane")
    page.js("document.querySelector('#page option').textContent = 'long words '.repeat(9)")
    assert page.find("#page").is_displayed() and page.js(cut) == []
    assert page.js("document.documentElement.scrollWidth") <= width
    assert page.find("#tools").size["height"] < 100


def test_the_grid_by_keyboard(page: Page, report: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    page.open(report)
    page.js("document.querySelector('#grid .cell button[tabindex=\"0\"]').focus()")
    name = "document.activeElement.textContent + document.activeElement.querySelector('img')?.alt"
    assert "control, portrait" in page.js(name)
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert "0.2, a cup of coffee on a wooden table, seed 1" in page.js(name)
    page.press(Keys.END, Keys.PAGE_DOWN)
    assert "1.4, a cat looking into the camera, seed" in page.js(name)
    assert page.js("document.querySelectorAll('#grid button[tabindex=\"0\"]').length") == 1
    page.press(Keys.HOME, Keys.ARROW_RIGHT, Keys.ENTER)
    assert page.js("document.getElementById('viewer').open")
    page.press(Keys.ESCAPE)
    page.wait("!document.getElementById('viewer').open")
    assert "0.2, a cat" in page.js(name)


def test_all_of_the_page_by_keyboard_alone(page: Page, report: Path) -> None:
    """Nothing is clicked: from the top of the page through grid, viewer and vote."""
    from selenium.webdriver.common.keys import Keys

    page.open(report)
    page.js("localStorage.clear()")
    page.open(report)
    page.press(Keys.TAB)
    assert page.js("document.activeElement.textContent") == "Skip to the answer"
    page.tab_to(".chips .term")
    assert page.find("#tip").is_displayed()
    page.press(Keys.ESCAPE)
    assert page.js("document.getElementById('tip').hidden")
    page.tab_to(".chips .caution a")
    page.press(Keys.ENTER)
    page.wait("document.getElementById('why').open")
    page.tab_to("[data-percase]")
    page.press(Keys.SPACE)
    assert page.js("document.querySelectorAll('.show-cases').length") == 1
    page.tab_to("#ranks th:nth-child(2) button")
    page.press(Keys.ENTER)
    assert page.js("document.querySelector('#ranks tbody th').textContent") == "0.2"

    page.tab_to("#layout")
    page.press(Keys.ARROW_DOWN)
    assert page.js("document.getElementById('layout').value") == "settings"
    page.press(Keys.ARROW_UP)
    page.tab_to("#choose summary")
    page.press(Keys.ENTER)
    page.tab_to("#choose-settings label:nth-of-type(2) input")
    page.press(Keys.SPACE)
    assert "0.4" not in page.columns()
    page.press(Keys.ESCAPE)
    assert not page.js("document.getElementById('choose').open")
    assert page.js("document.activeElement.matches('#choose summary')")
    page.tab_to("#unhide")
    page.press(Keys.ENTER)
    assert "0.4" in page.columns()
    assert page.js("document.activeElement !== document.body"), "the focus is not lost"

    page.tab_to("#grid .cell button")
    page.press(Keys.HOME, Keys.ARROW_RIGHT, "t", Keys.ARROW_RIGHT, "t", Keys.ENTER)
    page.wait("document.getElementById('viewer').open")
    title = "document.getElementById('viewer-title').textContent"
    assert page.js(title) == "control | 0.4"
    page.tab_to("[data-mode=side]")
    page.press(Keys.ENTER)
    assert page.js("document.getElementById('stage').dataset.mode") == "side"
    page.tab_to("#pane0")
    page.press(*[Keys.ARROW_DOWN] * 2)
    assert page.js(title) == "0.4 | 0.4"
    assert page.js("document.activeElement.id") == "pane0"
    page.tab_to("#pane-add")
    page.press(Keys.ENTER)
    assert len(page.texts("#layers .tag")) == 3
    page.tab_to("#viewer-copy")
    page.press(Keys.ENTER)
    page.wait("document.getElementById('viewer-copied').textContent")
    page.tab_to("#viewer-close")  # Tab stays inside of the viewer
    page.press(Keys.ENTER)
    page.wait("!document.getElementById('viewer').open")
    assert "0.4" in page.js("document.activeElement.querySelector('img').alt")
    page.press([Keys.SHIFT, Keys.TAB])
    while not page.js("document.activeElement.id === 'compare'"):
        page.press([Keys.SHIFT, Keys.TAB])
    page.press(Keys.ENTER)
    assert page.texts("#layers .tag") == ["0.2", "0.4"]
    page.press(Keys.ESCAPE)
    assert page.js("document.activeElement.id") == "compare"

    page.tab_to("#ab-start")
    page.press(Keys.ENTER, Keys.ARROW_LEFT, Keys.ARROW_RIGHT, Keys.ARROW_DOWN, "b", "u", "s")
    assert page.find("#ab-count").text.startswith("3 comparisons so far")
    page.tab_to("#ab-bad")
    page.press(Keys.ENTER)
    page.tab_to("#ab-close")
    page.press(Keys.ENTER)
    assert page.find("#ab-result").text.startswith("4 comparisons.")
    page.tab_to("#ab-export")
    page.press(Keys.ENTER)
    target = page.downloads / "votes.json"
    end = time.monotonic() + 10
    while not target.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert len(json.loads(target.read_text(encoding="utf-8"))["votes"]) == 4
    target.unlink()
    page.js("localStorage.clear()")


def test_viewer_keys_scores_and_reproduction(page: Page, report: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    page.open(report)
    page.click(".open")
    title = "document.getElementById('viewer-title').textContent"
    prompt = "document.getElementById('viewer-prompt').textContent"
    at = "document.getElementById('viewer-at').textContent"
    assert page.js(title) == "control | 0.6"
    assert page.js(at) == "case 1 of 8 · setting 3 of 7 · rank 1"
    page.press(Keys.ARROW_UP)
    assert page.js(title) == "control | 0.8"
    page.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert page.js(title) == "control | 0.4"
    page.press(*[Keys.ARROW_DOWN] * 5)
    assert page.js(title) == "control | 0.2"
    page.press(Keys.ARROW_RIGHT)
    assert page.js(prompt) == "portrait of an astronaut, studio light\nseed 2"
    page.press(Keys.ARROW_RIGHT)
    assert page.js(prompt) == "a cup of coffee on a wooden table\nseed 1"
    page.press(Keys.ARROW_LEFT)
    assert page.js(prompt).endswith("light\nseed 2")
    for button, expected in ((3, "0.4"), (3, "0.6"), (2, "0.4"), (2, "0.2")):
        page.click(f"[data-move='{button}']")
        assert page.js(title).endswith(expected)
    page.click("[data-move='1']")
    assert "coffee" in page.js(prompt) and page.js(at).startswith("case 3 of 8")
    page.click("[data-move='0']")
    assert "astronaut" in page.js(prompt)
    assert "BRISQUE" in page.find("#viewer-scores").text
    assert "of 7 by BRISQUE" in page.find("#viewer-scores").text
    assert page.js("document.getElementById('viewer-repro').textContent") == (
        "portrait of an astronaut, studio light <lora:my-style-v3:0.2>\n"
        "Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 4, Seed: 2, Size: 160x160, Model: demo"
    )
    page.press("c")
    page.wait("document.getElementById('viewer-copied').textContent")
    assert page.find("#viewer-copied").text == "Copied."
    page.press(*[Keys.ARROW_RIGHT] * 2, *[Keys.ARROW_UP] * 6)
    assert "truncated file" in page.find("#viewer-reason").text
    page.press(Keys.ESCAPE)
    page.wait("!document.getElementById('viewer').open")


def test_viewer_modes(page: Page, report: Path, strength_study: tuple[Study, Path]) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select

    page.open(report)
    page.click(".open")
    page.wait("[...document.querySelectorAll('.layer img')].every((i) => i.naturalWidth > 0)")
    clip = "document.querySelectorAll('.layer')[1].style.clipPath"
    mode = "document.getElementById('stage').dataset.mode"
    assert page.js(mode) == "slider" and "50%" in page.js(clip)
    stage = page.find("#stage")
    width = stage.size["width"]
    ActionChains(page.driver).drag_and_drop_by_offset(stage, width // 4, 0).perform()
    assert float(page.js("document.getElementById('divider').value")) == pytest.approx(75, abs=1)
    page.press(Keys.SHIFT + Keys.ARROW_LEFT)
    assert "73" in page.js(clip) or "72" in page.js(clip)

    page.press("v")
    ActionChains(page.driver).drag_and_drop_by_offset(stage, 0, stage.size["height"] // 4).perform()
    assert page.js(clip).startswith("inset(7") and page.js(clip).endswith("% 0px 0px)")
    page.press("v")

    page.press("2")
    assert page.js(mode) == "side"
    page.press("+", "+")
    transforms = "[...document.querySelectorAll('.layer img')].map((i) => i.style.transform)"
    both = page.js(transforms)
    assert both[0] == both[1] and "scale(2.25)" in both[0]
    ActionChains(page.driver).drag_and_drop_by_offset(stage, -40, -30).perform()
    panned = page.js(transforms)
    assert panned[0] == panned[1] != both[0]
    page.press("0")
    assert "scale(1)" in page.js(transforms)[0]

    page.press("z")
    assert page.find("#zoom-at").text == "100 %"
    assert page.js(
        "document.querySelector('.layer img').getBoundingClientRect().width"
    ) == pytest.approx(
        page.js("document.querySelector('.layer').clientWidth * 160 /"
                " Math.min(document.querySelector('.layer').clientWidth,"
                " document.querySelector('.layer').clientHeight)"), abs=1
    )  # fmt: skip
    page.press("0")

    page.press("3")
    visible = "[...document.querySelectorAll('.layer')].map((l) => l.style.visibility).join()"
    page.wait(f"{visible} === 'hidden,'", 3)
    page.wait(f"{visible} === ',hidden'", 3)

    page.press("4")
    assert page.js(mode) == "difference"
    time.sleep(0.2)
    seen = page.shot("#stage")
    folder = strength_study[1]
    control = np.asarray(Image.open(folder / "images/control/p00_s1.png"), dtype=int)
    candidate = np.asarray(Image.open(folder / "images/c002/p00_s1.png"), dtype=int)
    # Gain 1, on one ramp of luminance (the weights of CSS's grayscale).
    expected = (np.abs(control - candidate) @ [0.2126, 0.7152, 0.0722]).mean()
    assert np.ptp(seen[200:-200, 400:-400].astype(int), axis=2).max() <= 1
    edge = min(seen.shape[:2])
    left, top = (seen.shape[1] - edge) // 2, (seen.shape[0] - edge) // 2
    middle = seen[top : top + edge, left : left + edge]
    assert middle.mean() == pytest.approx(expected, rel=0.08)

    page.press("5")
    page.wait("document.getElementById('stage-mapped').naturalWidth > 0")
    assert "structure changed" in page.find("#stage-note").text
    assert page.js("document.getElementById('stage-map').hidden")
    Select(page.find("#pane0")).select_by_visible_text("0.2")
    assert "maps are written against the control" in page.find("#stage-note").text
    Select(page.find("#pane0")).select_by_visible_text("control")
    for button in ("slider", "side", "flicker", "difference", "ssim"):
        page.click(f".modes [data-mode={button}]")
        assert (
            page.js("document.querySelector('.modes [aria-pressed=true]').dataset.mode") == button
        )


def test_reduced_motion_stops_the_flicker(page: Page, report: Path) -> None:
    page.open(report, prefers_reduced_motion="reduce")
    page.click(".open")
    page.press("3")
    time.sleep(1.0)
    visible = "[...document.querySelectorAll('.layer')].map((l) => l.style.visibility).join()"
    assert page.js(visible) == ",hidden"
    page.press(" ")
    assert page.js(visible) == "hidden,"


def test_any_settings_side_by_side_and_the_view_in_the_address(page: Page, report: Path) -> None:
    from selenium.webdriver.support.ui import Select

    page.open(report)
    page.click(".open")
    Select(page.find("#pane0")).select_by_visible_text("1.0")
    page.click("#pane-add")
    page.click("#pane-add")
    tags = page.texts("#layers .tag")
    assert tags[:2] == ["1.0", "0.6"] and len(set(tags)) == 4
    assert page.js("document.getElementById('pane-add') === null")
    boxes = page.js(
        "[...document.querySelectorAll('.layer')].map((l) => { const b = l.getBoundingClientRect(); return [Math.round(b.left), Math.round(b.top)].join(); })"  # noqa: E501
    )
    assert len(set(boxes)) == 4
    page.js("document.getElementById('viewer-title').focus()")
    page.press("+", "+")
    transforms = page.js(
        "[...document.querySelectorAll('.layer img')].map((i) => i.style.transform)"
    )
    assert len(set(transforms)) == 1 and "scale(2.25)" in transforms[0]
    address = page.js("location.href")
    assert "#view=p00_s1;1.0;0.6" in address and address.endswith(";side")
    page.driver.get("about:blank")
    page.driver.get(address)
    page.wait("document.documentElement.dataset.ready === 'yes'")
    assert page.js("document.getElementById('viewer').open") and page.texts("#layers .tag") == tags


def test_on_the_plane_arrows_walk_epochs_and_strengths(page: Page, plane: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    page.open(plane)
    page.driver.get(page.js("location.href") + "#view=p00_s1;control;epoch%202%20at%200.7;slider")
    page.wait("document.getElementById('viewer').open")
    title = "document.getElementById('viewer-title').textContent"
    for key, expected in (
        (Keys.ARROW_RIGHT, "epoch 3 at 0.7"), (Keys.ARROW_UP, "epoch 3 at 1.0"),
        (Keys.ARROW_LEFT, "epoch 2 at 1.0"), (Keys.ARROW_DOWN, "epoch 2 at 0.7"),
    ):  # fmt: skip
        page.press(key)
        assert page.js(title) == f"control | {expected}"
    page.press(Keys.PAGE_DOWN)
    assert page.js("document.getElementById('viewer-at').textContent").startswith("case 2 of 2")


def test_the_written_map_is_the_scores_own(
    strength_study: tuple[Study, Path], report: Path
) -> None:
    study, folder = strength_study
    data = json.loads(report.read_text("utf-8").split('id="study">')[1].split("</script>")[0])
    cell = data["cells"][3][0]
    shown = np.asarray(Image.open(folder / data["pictures"][cell[5]]).convert("L"), float)
    control, image = (
        np.asarray(Image.open(folder / data["pictures"][i]).convert("RGB"))
        for i in (data["cases"][0]["control"], cell[0])
    )
    assert shown.shape == control.shape[:2]
    inner = 1 - shown[5:-5, 5:-5].mean() / 255
    assert inner == pytest.approx(ssim(image, control), abs=0.02)


def test_the_view_is_saved_as_one_picture(page: Page, report: Path) -> None:
    page.open(report)
    page.click("#save")
    target = page.downloads / "my-style-v3-pictures.png"
    end = time.monotonic() + 15
    while not target.exists() and time.monotonic() < end:
        time.sleep(0.05)
    seen = np.asarray(Image.open(target).convert("RGB"))
    target.unlink()
    assert seen.shape[1] == 220 + 8 * 232 and seen.shape[0] > 8 * 232
    assert seen[120:340, 230:440].std() > 20, "the first picture is drawn"


def test_single_file_needs_no_other_file(page: Page, single: Path) -> None:
    page.open(single)
    assert "img-src data:;" in page.js("document.querySelector('meta[http-equiv]').content")
    page.wait("[...document.images].filter((i) => i.src).every((i) => i.naturalWidth > 0)")
    assert (
        page.js("[...document.images].filter((i) => i.src && !i.src.startsWith('data:')).length")
        == 0
    )
    page.click(".open")
    page.press("5")
    page.wait("!document.getElementById('stage-map').hidden")
    assert "structure changed" in page.find("#stage-note").text
    mean = page.js(
        "(() => { const c = document.getElementById('stage-map'), d = c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data; let s = 0;"
        "for (let i = 0; i < d.length; i += 4) s += d[i + 2]; return s / (d.length / 4); })()"
    )
    # Every channel carries 1 - SSIM: a real map is neither flat nor saturated.
    assert 15 < mean < 200


def test_blind_votes_export_and_come_back(
    page: Page, report: Path, strength_study: tuple[Study, Path]
) -> None:
    from scipy.stats import kendalltau
    from selenium.webdriver.common.keys import Keys

    page.open(report)
    page.js("localStorage.clear()")
    page.open(report)
    page.choose("#ab-pool", "ranked")
    page.click("#ab-start")
    assert page.js("document.getElementById('ab').open")
    shown = page.js("document.getElementById('ab').innerText")
    assert "0.6" not in shown and "0.4" not in shown, "the test must stay blind"
    used = page.js(
        "[...document.querySelectorAll('#ab-stage img')].map((i) => i.getAttribute('src'))"
    )
    assert not any("c005" in src or "c006" in src for src in used), "broken settings are left out"
    page.press(Keys.ARROW_LEFT, Keys.ARROW_RIGHT, Keys.ARROW_DOWN, "s", "u")
    assert "2 comparisons so far, at least" in page.find("#ab-count").text
    page.click("#ab-left")
    page.click("#ab-right")
    for i in range(30):
        page.press((Keys.ARROW_LEFT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT, Keys.ARROW_DOWN)[i % 4])
    page.click("#ab-bad")
    page.press(Keys.ESCAPE)
    page.wait("document.getElementById('ab-result').textContent")
    assert page.find("#ab-result").text.startswith("35 comparisons.")

    page.click("#ab-export")
    target = page.downloads / "votes.json"
    end = time.monotonic() + 10
    while not target.exists() and time.monotonic() < end:
        time.sleep(0.05)
    data = json.loads(target.read_text(encoding="utf-8"))
    assert len(data["votes"]) == 35 and data["votes"][0]["prompt"]

    study, folder = strength_study
    back = votes.read_votes(target)
    in_page = page.js(
        "[...document.querySelectorAll('#ab-table tbody tr')].map((r) => [r.cells[0].textContent,"
        "parseFloat(r.cells[5].textContent), Number(r.cells[1].textContent)])"
    )
    assert [row.heading for row in back.rows] == [row[0] for row in in_page]
    for ours, (_, share, won) in zip(back.rows, in_page, strict=True):
        assert 100 / (1 + np.exp(-ours.ability)) == pytest.approx(share, abs=0.51)
        assert ours.wins == won
    assert sum(row.bad for row in back.rows) == 2 and Path(data["run"]) == folder
    assert page.find("#people").text.startswith("People: ")
    assert "(35 comparisons)" in page.find("#people").text

    judged = votes.with_votes(study, target)
    table = votes.votes_table(judged)
    assert table is not None and table["unknown"] == 0
    expected = kendalltau(
        [r["ability"] for r in table["rows"]], [-r["metric"] for r in table["rows"]]
    ).statistic
    assert table["tau"] == pytest.approx(expected)
    assert f"order to {expected:.2f}" in page.find("#ab-result").text
    page.open(html.write_report(judged, folder, name="judged.html"))
    assert "35 blind comparisons" in (folder / "judged.html").read_text(encoding="utf-8")
    assert len(page.texts("#votes tbody tr")) == len(back.rows)
    target.unlink()

    page.open(report)
    assert "35 comparisons" in page.find("#ab-result").text, "a reload must keep the votes"
    page.click("#ab-clear")
    page.driver.switch_to.alert.accept()
    assert page.find("#ab-result").text == ""


def test_plane_layouts(page: Page, plane: Path) -> None:
    page.open(plane)
    assert [t for t in page.texts(".plot h3") if "over training" in t]
    assert "24" in page.find("#plot-hero").text, "a heat map shows its values"
    assert "The same effect elsewhere" in page.texts(".plot h3")
    page.choose("#layout", "plane")
    assert page.columns()[:3] == ["control", "epoch 1", "epoch 2"]
    assert page.texts("#grid .row:not(.track) .rowhead .text")[0] == "0.4"
    page.choose("#layout", "planeT")
    assert page.columns() == ["control", "0.4", "0.7", "1.0", "1.3"]
    page.choose("#page", "1")
    page.click("#grid .cell[data-at='1,2'] button")
    assert page.find("#viewer-title").text == "control | epoch 2 at 1.0"
    assert page.find("#viewer-prompt").text.startswith("a cat")


def test_ranking_sorts(page: Page, report: Path) -> None:
    page.open(report)
    page.click("#why summary")
    page.click("#ranks th:nth-child(2) button")
    first = "document.querySelector('#ranks tbody th').textContent"
    assert page.js(first) == "0.2"
    page.click("#ranks th:nth-child(2) button")
    assert page.js(first) == "1.4"
    page.click("#ranks th:nth-child(1) button")
    assert page.js(first) == "0.6"


INJECTIONS = [
    "<script>window.pwned=1</script>",
    "</script><script>window.pwned=2</script>",
    '" onerror="window.pwned=3" x="',
    "' onerror='window.pwned=4",
    "</template><img src=x onerror=window.pwned=5>",
    "<!--<script>",
    "{{ 7*7 }}{% raw %}",
    "javascript:window.pwned=6",
    "\u202egnp.txet\u202c",
    "line\u2028separator\u2029end",
    "&lt;b&gt; &amp;",
    "$\\frac{a}{b}$ \x1b[31m",
    "</title></style><svg onload=window.pwned=7>",
    "prompt " * 14_286,
]


def hostile_study(folder: Path) -> Study:
    """Every untrusted text of a study says something nasty, file names included."""
    scores: list[Score] = []
    candidates = [
        Candidate(text[:150], None, None, Decimal(i), i, text[:200])
        for i, text in enumerate(INJECTIONS)
    ]
    for k, text in enumerate(INJECTIONS):
        name = f'p{k} " onerror=x #?%41 {text[:24]}'.replace("/", "∕").replace("\x00", "") + ".png"
        Image.new("RGB", (16, 16), (20 * k % 255, 90, 120)).save(folder / name)
        scores.append(Score(None, text[:90], text, k, name, name, {"brisque": 1.0, "ssim": 1.0}))
        scores += [
            Score(
                c,
                text[:90],
                text,
                k,
                name,
                name,
                {"brisque": float(i), "ssim": 0.5},
                "flagged",
                text[:300],
            )
            for i, c in enumerate(candidates)
        ]
    metrics = {"brisque": Interval(3.0, 2.0, 4.0), "ssim": Interval(0.5)}
    summaries = tuple(
        Summary(c, i + 1, 3, metrics, best=i == 0, safe=i < 5, reason=INJECTIONS[i][:300])
        for i, c in enumerate(candidates)
    )
    nasty = INJECTIONS[0]
    return Study(
        "epochs", nasty, "brisque", "lower", ("ssim", "brisque", INJECTIONS[2]),
        tuple(scores), summaries,
        Verdict(candidates[0], candidates[0], contenders=tuple(candidates),
                strongest_clean=candidates[3], breakdown=candidates[6],
                sentences=tuple(Sentence(role, "found", text) for text in INJECTIONS[:-1]
                                for role in ("answer", "why", "caution"))),
        evidence=Evidence(leak=Told(nasty, tuple({t[:80]: t[:80], "x": t} for t in INJECTIONS)),
                          weights=Weights(tuple({"label": t[:80], t[:60]: 1.5, "norm": 2.0}
                                                for t in INJECTIONS))),
        run=RunRecord(settings={"sampler": nasty, "model": INJECTIONS[1],
                                nasty: {nasty: [nasty, 1]}}),
    )  # fmt: skip


@pytest.mark.parametrize("single_file", [False, True])
def test_untrusted_text_stays_text(page: Page, tmp_path: Path, single_file: bool) -> None:
    from selenium.webdriver.common.keys import Keys

    path = html.write_report(hostile_study(tmp_path), tmp_path, single_file=single_file)
    page.open(path)
    page.click("#why summary")
    assert page.js("document.scripts.length") == 2
    assert page.js("document.querySelectorAll('[onerror], [onload], template').length") == 0
    assert INJECTIONS[0] in page.find("h1").text
    page.click("#more summary")
    seen = page.texts(".warnings li, #more p")
    cautions = [html.visible(text) for text in INJECTIONS[:-1]]
    assert page.texts(".warnings li") == cautions[:3]
    assert [text for text in seen if text in cautions][: len(cautions)] == cautions
    assert "\u202e" not in page.js("document.body.innerText")
    page.wait("[...document.images].filter((i) => i.src).every((i) => i.complete)")
    assert page.js(
        "[...document.querySelectorAll('.showcase img')].every((i) => i.naturalWidth === 16)"
    )
    page.click(".open")
    for text in INJECTIONS:
        assert page.js("document.querySelector('#viewer-prompt bdi').textContent") == html.visible(
            text
        )
        exact = page.js("document.getElementById('viewer-repro').textContent")
        assert exact.startswith(text), "the text to copy must be exact"
        page.wait("document.querySelectorAll('.layer img')[1].naturalWidth === 16")
        page.press(Keys.ARROW_RIGHT)
    page.press(Keys.ESCAPE)
    assert page.js("window.pwned === undefined")


def test_the_policy_stops_what_the_page_did_not_bring(page: Page, report: Path) -> None:
    page.open(report)
    page.js(
        "(() => { const s = document.createElement('script'); s.textContent = 'window.pwned = 1';"
        "document.body.append(s); const i = new Image(); i.src = 'http://127.0.0.1:9/x.png';"
        "document.body.append(i); fetch('http://127.0.0.1:9/').catch(() => {}); })()"
    )
    time.sleep(0.3)
    assert page.js("window.pwned === undefined")
    blocked = " ".join(page.problems())
    assert blocked.count("Content Security Policy") >= 3 and "request: http" not in blocked


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(page: Page, report: Path, plane: Path, scheme: str) -> None:
    found = []
    for path, width in ((report, 1280), (report, 390), (plane, 1280)):
        page.open(path, width=width, prefers_color_scheme=scheme)
        for selector in (None, "#why summary", ".open", "#ab-start"):
            if selector:
                page.click(selector)
            found += page.serious()
            page.js("document.querySelectorAll('dialog[open]').forEach((d) => d.close())")
    assert found == []


def test_pictures_without_a_prompt_are_named_by_their_case(page: Page, tmp_path: Path) -> None:
    """As those that were found: every control of the page has a name all the same."""
    Image.new("RGB", (32, 32), (90, 120, 60)).save(tmp_path / "a.png")
    found = [Candidate("x", strength=Decimal(n)) for n in (1, 2)]
    scores = tuple(
        Score(one, "castle", "", None, "a.png", "a.png", {"brisque": 20.0, "ssim": 0.9})
        for one in (None, *found)
    )
    summaries = tuple(Summary(one, 1, 1, {"brisque": Interval(20.0)}, best=True) for one in found)
    study = Study(
        "strength", "found", "brisque", "lower", ("ssim", "brisque"), scores, summaries,
        Verdict(found[0]),
    )  # fmt: skip
    page.open(html.write_report(study, tmp_path))
    assert page.texts("#grid .rowhead .clamp") == ["castle"]
    page.js("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    page.wait("document.querySelector('#choose-cases label')")
    assert "castle" in page.find("#choose-cases label").text
    assert page.serious() == []


@pytest.mark.parametrize("width", [360, 390, 768, 1440, 1920])
def test_nothing_is_wider_than_the_window(
    page: Page, report: Path, plane: Path, epochs: Path, width: int
) -> None:
    for path in (report, plane, epochs):
        page.open(path, width=width, height=844)
        page.js("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        assert page.js("document.documentElement.scrollWidth") <= page.js("innerWidth")
        page.click(".open")
        assert page.js("document.getElementById('viewer').scrollWidth") <= width
        page.js("document.getElementById('viewer').close()")


CUT_OFF = """
(() => { const found = [];
  for (const svg of document.querySelectorAll('.drawing svg, .hero-chart svg')) {
    const frame = svg.getBoundingClientRect();
    for (const text of svg.querySelectorAll('text')) {
      const box = text.getBoundingClientRect();
      if (box.width && (box.left < frame.left - 2 || box.right > frame.right + 2
          || box.top < frame.top - 2 || box.bottom > frame.bottom + 2)) {
        found.push([svg.innerHTML.slice(0, 60), text.textContent]);
      }
    }
  }
  return found; })()
"""


@pytest.mark.parametrize("width", [390, 1440])
def test_no_text_of_a_drawing_is_cut_off(
    page: Page, report: Path, plane: Path, epochs: Path,
    make_study: Callable[..., Study], tmp_path: Path, width: int,
) -> None:  # fmt: skip
    """Neither numbers, nor names beside, nor such as are so long that they are turned."""
    study = make_study(tmp_path, "epochs", epochs=9, prompts=("a cat",), seeds=(1, 2), size=48)
    summaries = tuple(
        dataclasses.replace(
            one, candidate=dataclasses.replace(one.candidate, label=f"a long long name {i}")
        )
        for i, one in enumerate(study.summaries)
    )
    named = html.write_report(dataclasses.replace(study, summaries=summaries), tmp_path)
    for path in (report, plane, epochs, named):
        page.open(path, width=width, height=844)
        page.js("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        assert page.js(CUT_OFF.strip()) == []


MANY_WORDS = " ".join(f"word{i}" for i in range(300))

UNUSUAL = {
    "one setting": {"strengths": ("0.8",), "failed": False},
    "one case": {"prompts": ("a cat",), "seeds": (1,), "aspect": 0.5},
    "wide": {"prompts": (MANY_WORDS, "x" * 400, "قطة على النافذة", "👩‍🚀 一只猫"), "seeds": (1,),
             "aspect": 3.0, "strengths": ("-1", "0.05", "0.1", "0.5", "1.0", "4")},
    "many": {"strengths": tuple(f"{i / 40:.3f}" for i in range(1, 61)), "seeds": (1,),
             "prompts": ("a cat",), "title": "<b>スタイル</b> " + "long" * 40, "failed": False},
    "failed": {"prompts": ("a cat", "a fox"), "seeds": (1,)},
}  # fmt: skip


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_studies_are_read_as_well(
    page: Page, make_study: Callable[..., Study], tmp_path: Path, name: str
) -> None:
    study = make_study(tmp_path, size=48, **UNUSUAL[name])
    if name == "failed":
        lost = [s if s.candidate is None else dataclasses.replace(
            s, image="", values={}, status="failed", reason="CUDA out of memory") for s in study.scores]  # fmt: skip  # noqa: E501
        summaries, verdict = decide(lost, kind="strength")
        study = dataclasses.replace(study, scores=tuple(lost), summaries=summaries, verdict=verdict)
    path = html.write_report(study, tmp_path)
    collide = (
        "(() => { for (const svg of document.querySelectorAll('.drawing svg')) {"
        "  if (!svg.checkVisibility()) continue;"
        "  const found = [...svg.querySelectorAll('[id*=xtick] text')].map((t) => t.getBoundingClientRect());"  # noqa: E501
        "  const line = found.filter((b) => b.width).sort((a, b) => a.top - b.top || a.left - b.left);"  # noqa: E501
        "  for (let i = 1; i < line.length; i++)"
        "    if (line[i].top === line[i - 1].top && line[i].left < line[i - 1].right) return svg.textContent; }"  # noqa: E501
        "return ''; })()"
    )
    for width in (360, 1440):
        page.open(path, width=width, height=900)
        assert page.js(collide) == ""
        if page.js("document.querySelector('.showcase')"):
            words = page.js(WORDS)
            assert len(words) <= 60, words
            seen = page.js(
                "[...document.querySelectorAll('.half img')].filter((i) => i.checkVisibility())"
                ".map((i) => { const b = i.getBoundingClientRect(); return [b.width / b.height, b.height]; })"  # noqa: E501
            )
            aspect = UNUSUAL[name].get("aspect", 1)
            assert all(abs(w - aspect) < 0.1 * aspect and high < 900 for w, high in seen), seen
        page.js("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        assert page.js("document.documentElement.scrollWidth") <= page.js("innerWidth")
    assert page.serious() == []
    assert page.find("#blind").is_displayed() is (name not in ("one setting", "failed"))
    if name == "failed":
        assert page.find(".rest").text == "All pictures with the LoRA failed: CUDA out of memory."


WORDS = (
    "(() => { const first = document.querySelector('.showcase img'), found = [];"
    "const walk = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);"
    "while (walk.nextNode()) { const node = walk.currentNode, box = node.parentElement;"
    "  if (first && !(node.compareDocumentPosition(first) & 4)) break;"
    "  if (box.checkVisibility()) found.push(...node.textContent.split(/\\s+/).filter((w) => /\\p{L}/u.test(w))); }"  # noqa: E501
    "return found; })()"
)


@pytest.mark.parametrize("width", [390, 1440])
def test_five_seconds_to_the_answer(page: Page, report: Path, plane: Path, width: int) -> None:
    """Headline, one sentence, one chart, the pictures: at most 60 words, on the first screen."""
    for path in (report, plane):
        page.open(path, width=width, height=900)
        words = page.js(WORDS)
        assert 10 < len(words) <= 60, words
        assert page.js("document.querySelector('.showcase img').getBoundingClientRect().top") < 900
        order = page.js(
            "['h1', '.rest', '.hero-chart', '.pair', '#why'].map((s) => document.querySelector(s).getBoundingClientRect().top)"  # noqa: E501
        )
        if width == 390:
            assert order == sorted(order)
            assert (
                page.js(
                    "[...document.querySelectorAll('.pair')].filter((p) => p.offsetHeight).length"
                )
                == 1
            )
        else:
            assert order[3] > max(order[:3]) and order[4] > order[3]
        small = page.js(
            "[...document.querySelectorAll('.hero-chart text')].filter((t) => t.checkVisibility()).map((t) => t.getBoundingClientRect().height)"  # noqa: E501
        )
        assert min(small) >= 9, "the chart's text can be read"


@pytest.mark.parametrize("width", [360, 390, 768, 1440])
def test_the_text_of_every_drawing_can_be_read(
    page: Page, report: Path, plane: Path, epochs: Path, width: int
) -> None:
    small = (
        "[...document.querySelectorAll('.drawing text')].filter((t) => t.checkVisibility() && t.textContent.trim())"  # noqa: E501
        ".map((t) => [parseFloat(getComputedStyle(t).fontSize) * t.ownerSVGElement.getScreenCTM().a, t.textContent])"  # noqa: E501
        ".filter(([size]) => size < 8.4)"
    )
    for path in (report, plane, epochs):
        page.open(path, width=width, height=900)
        page.js("(document.getElementById('why').open = true)")
        assert len(page.texts(".plot")) > 2
        assert page.js(small) == []


def test_without_its_script_the_page_shows_nothing_dead(page: Page, report: Path) -> None:
    page.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.open(report, script=False)
        assert page.find("h1").text == "Use 0.6."
        assert page.find("noscript .callout").is_displayed() and page.find("#why").is_displayed()
        for selector in ("#tools", "#grid", "#blind", "#theme"):
            assert not page.find(selector).is_displayed(), selector
    finally:
        page.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_words_are_explained_where_they_stand(page: Page, report: Path) -> None:
    page.open(report)
    page.js("document.querySelector('.chips .term').focus()")
    assert page.find("#tip").text.startswith("Surely not worse than the control")
    assert (
        page.js("document.querySelector('.chips .term').getAttribute('aria-describedby')") == "tip"
    )
    page.js("document.activeElement.blur()")
    assert page.js("document.getElementById('tip').hidden")


def test_printing_ends_with_a_full_page(page: Page, report: Path) -> None:
    import base64

    pypdf = pytest.importorskip("pypdf", reason="pypdf is missing: pip install '.[test]'")
    page.open(report)
    pdf = base64.b64decode(
        page.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
    )
    pages = pypdf.PdfReader(io.BytesIO(pdf)).pages
    texts = [p.extract_text() for p in pages]
    assert "Use 0.6." in texts[0] and "Ranking" in "".join(texts)
    assert len(texts[-1].split()) > 5


def test_print_shows_the_argument_on_white(page: Page, report: Path) -> None:
    page.open(report, prefers_color_scheme="dark")
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert page.js("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.js("getComputedStyle(document.getElementById('pictures')).display") == "none"
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_colours_can_be_chosen(page: Page, report: Path) -> None:
    page.open(report, prefers_color_scheme="light")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.js(paper)
    page.click("#theme")
    assert page.js(paper) == light
    page.click("#theme")
    assert page.js(paper) != light
    page.click("#theme")
    assert page.js(paper) == light


def test_ten_thousand_cells_scroll_without_blanks(page: Page, tmp_path: Path) -> None:
    for k in range(4):
        Image.new("RGB", (64, 64), (60 * k, 120, 90)).save(tmp_path / f"{k}.png")
    candidates = [Candidate("x.safetensors", strength=Decimal(i) / 50) for i in range(100)]
    scores = [
        Score(c, f"case {k}", f"prompt {k}", k, f"{k % 4}.png", f"{k % 4}.png",
              {"brisque": abs(i - 40) + k % 7, "ssim": 1 - i / 200})
        for k in range(100)
        for i, c in enumerate([None, *candidates])
    ]  # fmt: skip
    summaries = tuple(
        Summary(c, i + 1, 100, {"brisque": Interval(float(i)), "ssim": Interval(0.5)}, best=i == 0)
        for i, c in enumerate(candidates)
    )
    study = Study("strength", "big", "brisque", "lower", ("ssim", "brisque"), tuple(scores),
                  summaries, Verdict(candidates[0], candidates[0]))  # fmt: skip
    page.open(html.write_report(study, tmp_path))
    page.js("document.getElementById('grid').scrollIntoView({behavior: 'instant'})")
    start = page.js("scrollY")
    for x, y in ((0, 0), (5000, 7000), (1e6, 1e5), (300, 0), (9000, 9000)):
        page.js("document.querySelector('.scroller').scrollTo(arguments[0], 0)", x)
        page.js("window.scrollTo({top: arguments[0], behavior: 'instant'})", start + y)
        page.js("window.scrollTo({top: Math.min(scrollY, document.getElementById('grid')"
                ".getBoundingClientRect().bottom + scrollY - innerHeight), behavior: 'instant'})")  # fmt: skip  # noqa: E501
        time.sleep(0.15)
        covered, cells = page.js(
            "(() => { const g = document.getElementById('grid'), b = g.getBoundingClientRect();"
            "let hit = 0, all = 0;"
            "for (let i = 1; i < 12; i++) for (let j = 1; j < 12; j++) {"
            "  const x = b.left + 200 + (g.clientWidth - 202) * i / 12;"
            "  const y = 170 + (innerHeight - 190) * j / 12;"
            "  all++; if (document.elementFromPoint(x, y)?.closest('.cell')) hit++; }"
            "return [hit / all, g.querySelectorAll('.cell').length]; })()"
        )
        assert covered == 1.0
        assert cells < 320


def test_the_same_study_gives_the_same_bytes(strength_study: tuple[Study, Path]) -> None:
    study, folder = strength_study
    first = html.write_report(study, folder, name="a.html").read_bytes()
    assert html.write_report(study, folder, name="b.html").read_bytes() == first


def test_a_study_with_nothing_in_it_still_has_a_page(page: Page, tmp_path: Path) -> None:
    failed = Candidate("x.safetensors", strength=Decimal("0.5"))
    study = Study(
        "strength", "", "brisque", "lower", ("ssim", "brisque"),
        (Score(failed, "p0", "a", 1, "", "", {}, "failed", "no picture"),),
        (Summary(failed, None, 0, {}, reason="nothing was scored"),),
        Verdict(sentences=(Sentence("answer", "none", "Nothing could be ranked."),)),
    )  # fmt: skip
    page.open(html.write_report(study, tmp_path))
    assert page.find("h1").text == "Nothing could be ranked."
    page.click("#why summary")
    assert "nothing was scored" in page.find("#ranking").text
    empty = dataclasses.replace(study, scores=(), summaries=())
    page.open(html.write_report(empty, tmp_path))
    assert "Nothing matches" in page.find("#grid").text
