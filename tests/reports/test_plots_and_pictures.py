"""Figures, addresses, thumbnails, contact sheet and animation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from analysers.study import Candidate, Interval, Study, Summary, Verdict
from generation.errors import UserError
from reports import html, pictures, plots


def test_pareto_front_against_the_definition() -> None:
    rng = np.random.default_rng(0)
    for better, sign in (("lower", 1), ("higher", -1)):
        for _ in range(30):
            points = [(float(e), float(q)) for e, q in rng.integers(0, 6, (12, 2))]
            front = [points[i] for i in plots.pareto(points, better)]
            for e, q in points:
                beaten = any(
                    a >= e and sign * b <= sign * q and (a, b) != (e, q) for a, b in points
                )
                assert ((e, q) in front) is not beaten
            assert front == sorted(front)


def test_figures_are_clean_themed_and_deterministic(
    strength_study: tuple[Study, Path], plane_study: tuple[Study, Path]
) -> None:
    ids: set[str] = set()
    for study in (strength_study[0], plane_study[0]):
        drawn = plots.draw_all(study)
        assert [p.svg for p in plots.draw_all(study)] == [p.svg for p in drawn]
        for plot in drawn:
            tree = ElementTree.fromstring(plot.svg)
            assert (
                "style=" not in plot.svg and "#00000" not in plot.svg and "<image" not in plot.svg
            )
            assert any("accent" in e.get("class", "") for e in tree.iter()) or "heat" in plot.name
            assert plot.rows and all(len(r) == len(plot.columns) for r in plot.rows)
            ids |= {plot.name}
    assert {"curves", "tradeoff", "signs", "heat-brisque", "heat-effect", "weights"} <= ids


def test_labels_are_text_not_mathematics_nor_markup(strength_study: tuple[Study, Path]) -> None:
    study = strength_study[0]
    nasty = "$x^2$ <b>&\u202e"
    summaries = tuple(
        dataclasses.replace(s, candidate=dataclasses.replace(s.candidate, label=nasty, place=i))
        for i, s in enumerate(study.summaries)
    )
    for plot in plots.draw_all(dataclasses.replace(study, kind="epochs", summaries=summaries)):
        text = "".join(ElementTree.fromstring(plot.svg).itertext())
        assert "\u202e" not in text and "<b>" not in plot.svg
        if plot.name == "curves":
            assert "$x^2$ <b>&<U+202E>" in text


def test_the_equal_effect_strength_lies_on_the_curve(plane_study: tuple[Study, Path]) -> None:
    study = plane_study[0]
    best = next(s for s in study.summaries if s.best)
    found = dict(plots.equal_effect(study))
    assert found[best.candidate.label] == f"{best.candidate.strength:.2f}"
    strengths = [float(v) for v in found.values()]
    assert strengths == sorted(strengths, reverse=True), "later epochs need less strength"


def test_addresses_are_quoted_and_relative(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    run = tmp_path / "run"
    assert pictures.address("images/a b.png", run) == "images/a%20b.png"
    assert pictures.address('" onerror="x#?.png', run) == "%22%20onerror%3D%22x%23%3F.png"
    assert pictures.address("javascript:alert(1).png", run) == "javascript%3Aalert%281%29.png"
    assert pictures.address(str(tmp_path / "else/where.png"), run) == "../else/where.png"
    assert pictures.address("caf\udce9.png", run) == "caf%E9.png"


def test_unreadable_pictures_are_none(tmp_path: Path) -> None:
    (tmp_path / "t.png").write_bytes(b"\x89PNG\r\n\x1a\n truncated")
    Image.new("RGB", (400, 300)).save(tmp_path / "whole.png")
    half = (tmp_path / "whole.png").read_bytes()[:60]
    (tmp_path / "half.png").write_bytes(half)
    for name in ("t.png", "half.png", "none.png"):
        assert pictures.data_uri(tmp_path / name) is None
    assert pictures.size_of(tmp_path / "whole.png") == (400, 300)
    uri = pictures.data_uri(tmp_path / "whole.png", edge=100)
    assert uri is not None and uri.startswith("data:image/webp;base64,")


def test_contact_sheet_shows_control_settings_and_the_pick(
    strength_study: tuple[Study, Path], tmp_path: Path
) -> None:
    study, folder = strength_study
    path = pictures.write_contact_sheet(study, folder, tmp_path / "sheet.png", cases=3, settings=4)
    with Image.open(path) as sheet:
        # The prompts at the left, title, settings and headings above, the answer below.
        left, top = 198, 129
        assert sheet.width == left + 5 * (256 + 8) and sheet.height > top + 3 * (256 + 8)
        tile = np.asarray(sheet.convert("RGB"))[top : top + 256, left : left + 256].astype(int)
        words = np.asarray(sheet.convert("L"))
        for box in (words[:36], words[40:70], words[top:, : left - 8], words[-30:]):
            assert (box < 128).sum() > 50
        assert (np.asarray(sheet.convert("RGB")) == (0x1F, 0x4F, 0xA3)).all(-1).sum() > 2000
    with Image.open(folder / "images/control/p00_s1.png") as control:
        original = np.asarray(control.convert("RGB").resize((256, 256))).astype(int)
    assert np.abs(tile - original).mean() < 6, "the first tile is the control"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lora-analysers", "sheet.png"]


def test_animation_sweeps_forth_and_back(
    strength_study: tuple[Study, Path], plane_study: tuple[Study, Path], tmp_path: Path
) -> None:
    study, folder = strength_study
    with Image.open(pictures.write_animation(study, folder, tmp_path / "a.webp")) as film:
        assert film.n_frames == 2 * (7 + 1) - 2
        assert film.width == 720 and film.height > 2 * 360 + 2 * 46 and film.info["loop"] == 0
    study, folder = plane_study
    with Image.open(pictures.write_animation(study, folder, tmp_path / "b.webp")) as film:
        assert film.n_frames == 2 * (4 + 1) - 2


def test_nothing_to_show_is_one_sentence(
    strength_study: tuple[Study, Path], tmp_path: Path
) -> None:
    empty = dataclasses.replace(strength_study[0], scores=(), summaries=())
    for write in (pictures.write_contact_sheet, pictures.write_animation):
        with pytest.raises(UserError, match="no pictures"):
            write(empty, tmp_path)


def test_a_large_single_file_is_announced(
    strength_study: tuple[Study, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, folder = strength_study
    estimate = pictures.estimate_single_file(study, folder)
    said: list[str] = []
    path = html.write_report(
        study, folder, single_file=True, announce=said.append, name="single.html"
    )
    bare = html.write_report(study, tmp_path)  # where none of its pictures lie
    assert said == []
    pictured = path.stat().st_size - bare.stat().st_size
    assert pictured == pytest.approx(estimate, rel=0.35)
    monkeypatch.setattr(pictures, "ANNOUNCE_ABOVE", estimate - 1)
    html.write_report(study, folder, single_file=True, announce=said.append, name="single.html")
    assert len(said) == 1 and "MB" in said[0]
    path.unlink()


def test_one_candidate_or_one_case_still_draws(
    make_study: Callable[..., Study], tmp_path: Path
) -> None:
    for kind in ("strength", "epochs", "plane"):
        for change in ({"strengths": ("0.5",), "epochs": 1}, {"prompts": ("x",), "seeds": (1,)}):
            study = make_study(tmp_path / kind, kind, size=24, failed=False, **change)
            assert html.write_report(study, tmp_path / kind).stat().st_size > 10_000


def test_the_equal_effect_is_sought_on_the_picks_side_among_known_ones() -> None:
    def summary(place: int, strength: str, effect: float) -> Summary:
        candidate = Candidate("", place + 1, None, Decimal(strength), place, f"epoch {place + 1}")
        return Summary(candidate, 1, 4, {"ssim": Interval(1 - effect)})

    summaries = tuple(
        summary(place, strength, effect)
        for place, line in enumerate(
            (
                {"0.2": 0.4, "0.4": math.nan, "0.6": 0.6},
                {"-0.4": 0.5, "-0.2": 0.3, "0.2": 0.3, "0.4": 0.5},
            )
        )
        for strength, effect in line.items()
    )
    verdict = Verdict(recommended=summaries[0].candidate)
    study = Study("plane", "", "brisque", "lower", ("ssim",), (), summaries, verdict)
    assert plots.equal_effect(study) == [("epoch 1", "0.20"), ("epoch 2", "0.30")]
