"""The page that holds two renderers against each other, in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from driving import Page

from analysers.study import Study
from analysers.translation import translate
from reports.comparison import Side, write_comparison


@pytest.fixture(scope="module")
def comparison(make_study: Callable[..., Study], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A server whose pictures are ours; its page."""
    folder = tmp_path_factory.mktemp("comparison")
    prompts = ("a cat <b>", "a cup of coffee", "a rocket")
    there, here = (
        make_study(folder / name, prompts=prompts, seeds=(1,), size=96, failed=False)
        for name in ("there", "here")
    )
    there = replace(there, scores=tuple(s for s in there.scores if s.case != "p01_s1"))
    sides = Side("ComfyUI", "there", there), Side("this suite", "here", here)
    said = ["The server applies the LoRA as strongly.", "Without it both paint the same pixels."]
    found = translate(there, here)
    return write_comparison(folder, "my-style", "As strongly", said, found, sides, {})


def test_both_sides_stand_beside_each_other(page: Page, comparison: Path) -> None:
    page.open(comparison, script=False)
    page.wait("[...document.images].every((i) => i.naturalWidth > 0)")
    assert page.texts(".tag") == [
        f"{name} · {setting}"
        for _ in range(2)
        for setting in ("control", "1.4")
        for name in ("ComfyUI", "this suite")
    ]
    assert page.texts(".pair figcaption") == ["a cat <b>"] * 2 + ["a rocket"] * 2
    sources = page.js("[...document.images].map((i) => i.getAttribute('src'))")
    assert sources[:2] == ["there/images/control/p00_s1.png", "here/images/control/p00_s1.png"]
    links = page.js("[...document.querySelectorAll('nav a')].map((a) => a.getAttribute('href'))")
    assert links == ["there/report.html", "here/report.html"]
    assert len(page.texts("tbody tr")) == 7


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_it_is_read_anywhere(page: Page, comparison: Path, scheme: str, width: int) -> None:
    page.open(comparison, width=width, script=False, prefers_color_scheme=scheme)
    assert page.js("document.documentElement.scrollWidth") <= page.js("innerWidth")
    assert page.serious() == []
    paper = page.js("getComputedStyle(document.body).backgroundColor")
    drawn = page.js(
        "[...document.querySelectorAll('.drawing svg')].filter((s) => s.checkVisibility())"
        ".flatMap((s) => [s, ...s.querySelectorAll('rect, [id*=patch] path')])"
        ".map((e) => getComputedStyle(e).fill)"
    )
    light = "rgb(255, 255, 255)"
    assert scheme == "light" or light not in drawn, "no white sheet on the dark page"
    assert page.js(
        "getComputedStyle(document.querySelector('.drawing .s-accent')).stroke"
    ) != paper  # fmt: skip
    small = page.js(
        "[...document.querySelectorAll('.drawing text')].filter((t) => t.checkVisibility())"
        ".map((t) => t.getBoundingClientRect().height)"
    )
    assert min(small) >= 9
