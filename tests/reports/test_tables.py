"""Tables: columns exactly as documented, a lossless round trip, text that stays text."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest

from analysers.study import (
    Candidate,
    Criterion,
    Interval,
    Score,
    Sentence,
    Study,
    Summary,
    Verdict,
)
from generation.files import write_atomically
from reports import html, tables

HOSTILE = [
    '=HYPERLINK("http://evil/","x")',
    "+1",
    "-1",
    "@SUM(A1)",
    "\tcmd",
    "'=already guarded",
    "''@twice",
    "it's fine",
    'quote " comma , newline\nreturn\rend',
    " leading and trailing ",
    "NA",
    "null",
    "",
    "\u202eevil",
    "猫, 犬",
    "<script>alert(1)</script>",
    "0.5",
]


def hostile_study() -> Study:
    candidate = Candidate("=x.safetensors", None, 1050, Decimal("-0.60"))
    rows = tuple(
        Score(candidate, text, text, 2**53 + 1, text, text, {"ssim": 0.1 + 0.2}, "flagged", text)
        for text in HOSTILE
    )
    summary = Summary(candidate, None, 0, {"brisque": Interval(math.nan)}, reason="=no pictures")
    return Study(
        "strength", "t", "brisque", "lower", ("ssim", "brisque"), rows, (summary,), Verdict()
    )


def test_columns_come_in_the_documented_order(strength_study: tuple[Study, Path]) -> None:
    study, _ = strength_study
    scores = " ".join(list(tables.scores_frame(study))[:12])
    assert scores == (
        "checkpoint epoch step strength prompt seed image control ssim brisque status reason"
    )
    summary = " ".join(list(tables.summary_frame(study))[:12])
    assert summary == (
        "rank checkpoint epoch step strength n brisque_mean brisque_low brisque_high ssim_mean"
        " tied best"
    )


def test_tables_round_trip_exactly(strength_study: tuple[Study, Path], tmp_path: Path) -> None:
    for number, study in enumerate((strength_study[0], hostile_study())):
        scores, summary = tables.write_tables(study, tmp_path / str(number))
        pd.testing.assert_frame_equal(
            tables.read_scores(scores), tables.scores_frame(study), check_exact=True
        )
        pd.testing.assert_frame_equal(
            tables.read_summary(summary), tables.summary_frame(study), check_exact=True
        )
        left = sorted(p.name for p in scores.parent.iterdir())
        assert left == [".lora-analysers", "scores.csv", "summary.csv"]


def test_plain_pandas_reads_the_numbers(strength_study: tuple[Study, Path], tmp_path: Path) -> None:
    study, _ = strength_study
    path, _ = tables.write_tables(study, tmp_path)
    frame = pd.read_csv(path)
    expected = [s.values.get("brisque", math.nan) for s in study.scores]
    assert frame["brisque"].tolist() == pytest.approx(expected, rel=1e-14, abs=0, nan_ok=True)
    assert set(frame["role"]) == {"control", "candidate"}
    assert frame["strength"].dropna().min() == 0.2


def test_no_cell_starts_a_formula(tmp_path: Path) -> None:
    import csv

    scores, summary = tables.write_tables(hostile_study(), tmp_path)
    for path in (scores, summary):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.reader(file):
                for cell in row:
                    assert not cell.startswith(("=", "+", "@", "\t", "\r"))
                    assert not cell.startswith("-") or float(cell) < 0


def test_one_byte_sequence_whatever_the_order_of_calls(
    strength_study: tuple[Study, Path], tmp_path: Path
) -> None:
    first = tables.write_tables(strength_study[0], tmp_path / "a")
    second = tables.write_tables(strength_study[0], tmp_path / "b")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.csv"
    write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_terminal_table_is_aligned_and_complete(strength_study: tuple[Study, Path]) -> None:
    study, _ = strength_study
    for width in (60, 80, 120):
        text = tables.terminal_table(study, width)
        lines = text.splitlines()
        assert all(len(line) <= width for line in lines)
        assert "lowest" in text and "Lower BRISQUE is better" in text
    assert "breakdown" in text and "strongest clean" in text
    assert [line.split()[0] for line in lines[2:4]] == ["1", "2"]


@pytest.mark.parametrize("width", [60, 80])
def test_on_the_plane_both_are_whole_at_any_width(
    plane_study: tuple[Study, Path], width: int
) -> None:
    study, _ = plane_study
    lines = tables.terminal_table(study, width).splitlines()
    assert all(len(line) <= width for line in lines) and "…" not in "".join(lines)
    assert lines[0].split()[:3] == ["rank", "checkpoint", "strength"]
    pick = next(line for line in lines if "recommended" in line)
    chosen = study.verdict.recommended
    assert chosen is not None
    assert pick.split()[1:4] == ["epoch", str(chosen.epoch), str(chosen.strength)]
    assert ("95 % interval" in lines[0]) == (width >= tables.NARROW)


def test_terminal_table_shows_controls_as_text() -> None:
    study = dataclasses.replace(
        hostile_study(),
        summaries=(Summary(Candidate("\x1b[2Jx\u202e"), None, 0, {}, reason="it broke\x07\nhere"),),
    )
    text = tables.terminal_table(study, 80)
    assert "\x1b" not in text and "\u202e" not in text and "\x07" not in text
    assert "<U+001B>" in text and "it broke" in text


def test_markdown_escapes_markup(strength_study: tuple[Study, Path]) -> None:
    study = dataclasses.replace(
        strength_study[0],
        title="<img src=x onerror=alert(1)> | *bold*",
        verdict=dataclasses.replace(
            strength_study[0].verdict,
            sentences=(Sentence("answer", "use", "Use 0.6 | [x](http://y)"),),
        ),
    )
    text = tables.markdown(study)
    assert "<img" not in text.replace("\\<", "") and "[x](" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1
    assert len(rows) == 2 + len(study.summaries)
    assert "**1**" in text


def test_importing_the_module_loads_no_pandas() -> None:
    code = "import sys, reports.tables; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_race_says_where_it_rendered_nothing(strength_study: tuple[Study, Path]) -> None:
    study = strength_study[0]
    stopped = study.summaries[0].candidate
    told = Sentence("how", "settled", "Settled early: 1.4 after 4.", (stopped,))
    verdict = replace(study.verdict, sentences=(*study.verdict.sentences, told))
    for found, expected in ((study, set()), (replace(study, verdict=verdict), {stopped})):
        marked = {
            s.candidate
            for s in found.summaries
            if html._candidate(found, s.candidate, s)["settled"]
        }
        assert marked == expected


def test_what_a_sentence_only_counts_stands_in_the_notes(
    strength_study: tuple[Study, Path],
) -> None:
    study, _ = strength_study
    every = [s.candidate for s in study.summaries]
    signs = Sentence("caution", "second_opinion", "6 settings show signs.", tuple(every[1:]))
    verdict = replace(
        study.verdict,
        sentences=(*study.verdict.sentences, signs),
        criteria=(Criterion("brisque", tuple(every[:2])), Criterion("adherence", tuple(every[:3]))),
        front=(every[0],),
    )
    study = replace(study, verdict=verdict)
    told = {s.candidate: tables.notes(study, s) for s in study.summaries}
    assert [c for c in every if "signs of over-cooking" in told[c]] == every[1:]
    out = [c for c in every if "out of range in adherence" in told[c]]
    assert out == every[3:] and not any("range in BRISQUE" in n for n in map(str, told.values()))
    assert [c for c in every if "surpassed by none in all" in told[c]] == every[:1]
