"""The loop itself, with a renderer that needs no model: events, choosers, pauses, stops, kills."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import LATER, LORA, Toy, toy_plan

from analysers.commands.early import FIRST as EARLY_FIRST
from analysers.commands.early import SHARE as EARLY_SHARE
from analysers.commands.early import EarlyReport
from analysers.racing import Asked
from analysers.runs import events
from analysers.runs.chooser import Chooser, FullGrid
from analysers.runs.conclude import load_study
from analysers.runs.conformance import chooser_conforms
from analysers.runs.control import Control
from analysers.runs.found import find_studies
from analysers.runs.loop import Run, run_study
from analysers.runs.race import Race
from analysers.runs.refine import Refine, coarse, halfway, passed_over, stronger
from analysers.runs.rendered import RenderedPictures
from analysers.runs.request import Judging, StudyRequest
from analysers.study import NOT_RENDERED, Candidate, Interval, Score, Study, Summary, Verdict
from generation.cells import Cell, Picture
from generation.errors import UserError
from generation.executors import never

HERE = Judging(workers=0)


def test_a_whole_study_without_a_model(tmp_path: Path) -> None:
    told: list[events.Event] = []
    study = run_study(toy_plan(tmp_path), HERE, observers=[told.append])
    assert [score.status for score in study.scores] == ["ok"] * 12
    assert study.verdict.best is not None and study.verdict.best.strength != Decimal("1.6")
    kinds = [type(event).__name__ for event in told]
    assert kinds[:2] == ["Planned", "Asked"] and kinds[-2:] == ["Decided", "Written"]
    assert kinds.count("Rendered") == kinds.count("Measured") == 12
    assert study.evidence.floor["ssim"] == 0, "the toy repeats itself exactly"
    assert load_study(tmp_path).summaries == study.summaries
    for score in study.scores:
        assert (tmp_path / score.image).is_file()


def test_a_finished_study_renders_and_measures_nothing_again(tmp_path: Path) -> None:
    first = run_study(toy_plan(tmp_path), HERE)
    toy = Toy()
    log = (tmp_path / "measured.jsonl").read_bytes()
    again = run_study(toy_plan(tmp_path, renderer=toy), HERE)
    assert not toy.painted and (tmp_path / "measured.jsonl").read_bytes() == log
    assert again.scores == first.scores and again.run.rendered.kept == 12


def test_no_picture_moves_when_axes_grow(tmp_path: Path) -> None:
    run_study(toy_plan(tmp_path, ["0.8"], count=2), HERE)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "images").rglob("*.png")}
    for wider in (
        toy_plan(tmp_path, ["0.4", "0.8"], count=2),
        toy_plan(tmp_path, ["0.4", "0.8"], count=4),
        toy_plan(tmp_path, ["0.4", "0.8"], count=4, checkpoints=(LORA, LATER)),
        toy_plan(tmp_path, ["0.8"], count=2, checkpoints=(LATER, LORA)),
    ):
        run_study(wider, HERE)
        assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())


class OneByOne(Chooser[Cell]):
    """The controls, then strength after strength upwards, until BRISQUE says that it is enough."""

    def __init__(self, cells: Sequence[Cell], limit: float) -> None:
        self._cells, self._limit = cells, limit

    def ask(self, scores: Mapping[Cell, Score]) -> Sequence[Cell]:
        if any(s.values["brisque"] > self._limit for c, s in scores.items() if not c.is_control):
            return ()
        rest = [cell for cell in self._cells if cell not in scores]
        return [cell for cell in rest if cell.strength == rest[0].strength] if rest else ()


def test_a_chooser_decides_what_is_rendered(tmp_path: Path) -> None:
    toy = Toy()
    plan = toy_plan(tmp_path, ["0.4", "0.8", "1.6", "2"], renderer=toy)
    asked: list[int] = []

    def observe(event: events.Event) -> None:
        if isinstance(event, events.Asked):
            asked.append(len(event.rows))

    chooser = OneByOne(plan.cells, limit=60)
    source = RenderedPictures(plan)
    study = Run(source, HERE, chooser=chooser, observers=[observe]).go()
    used = {score.candidate.strength for score in study.scores if score.candidate}
    limit = {s.candidate.strength for s in study.scores if s.candidate
             and s.values["brisque"] > 60}  # fmt: skip
    assert Decimal("0.4") in used and (not limit or max(used) == min(limit))
    assert asked == [3] * (1 + len(used)) and len(toy.painted) == 3 * (1 + len(used))
    whole = run_study(toy_plan(tmp_path, ["0.4", "0.8", "1.6", "2"], renderer=toy), HERE)
    assert len(toy.painted) == 15 == len(whole.scores), "continued to the full grid"


WILD = ("0.4", "0.8", "1.6", "2")


def racing(tmp_path: Path, **judging: Any) -> tuple[Study, Toy]:
    toy = Toy()
    plan = toy_plan(tmp_path, WILD, count=16, renderer=toy)
    return run_study(plan, Judging(workers=0, **judging)), toy


def test_a_race_renders_less_and_answers_as_the_full_grid_does(tmp_path: Path) -> None:
    study, toy = racing(tmp_path / "race", until_decided=True)
    whole, all_of_it = racing(tmp_path / "grid")
    assert len(all_of_it.painted) == 80 and len(toy.painted) < 60
    assert study.verdict.recommended == whole.verdict.recommended
    assert study.verdict.breakdown == whole.verdict.breakdown
    race = study.evidence.race
    assert race.cells == 80 and race.asked == len(study.scores) == len(toy.painted)
    wrecks = {one.candidate.strength for one in race.stopped if one.outcome == "beyond"}
    assert {Decimal("1.6"), Decimal("2")} == wrecks
    (told,) = (s for s in study.verdict.sentences if s.code == "settled")
    assert "1.6" in told.text and told.role == "how"
    assert not any(s.code == "missing" for s in study.verdict.sentences)
    assert all(s.missing == 0 for s in study.summaries)
    assert load_study(tmp_path / "race").evidence.race.asked == race.asked


def test_a_race_goes_on_where_it_was_and_can_be_completed(tmp_path: Path) -> None:
    study, toy = racing(tmp_path, until_decided=True)
    again, idle = racing(tmp_path, until_decided=True)
    assert not idle.painted and again.scores == study.scores
    whole, rest = racing(tmp_path)
    assert len(rest.painted) == 80 - len(toy.painted) and len(whole.scores) == 80
    assert whole.evidence.race is None


def test_a_budget_is_kept_by_whole_cases_and_said(tmp_path: Path) -> None:
    study, toy = racing(tmp_path, budget=23)
    assert 20 <= len(toy.painted) <= 23 and study.evidence.race.over_budget
    running = [s for s in study.summaries if s.n == max(s.n for s in study.summaries)]
    cases = {score.case for score in study.scores}
    assert running and all(s.n == len(cases) for s in running)
    more, rest = racing(tmp_path, budget=33)
    assert len(more.scores) <= 33 and len(rest.painted) == len(more.scores) - len(toy.painted)


def test_after_every_block_there_is_an_answer_so_far(tmp_path: Path) -> None:
    told: list[Study] = []

    def observe(event: events.Event) -> None:
        if isinstance(event, events.SoFar):
            told.append(event.study)

    plan = toy_plan(tmp_path, WILD, count=16)
    run_study(plan, Judging(workers=0, until_decided=True), observers=[observe])
    seen = [len({score.case for score in study.scores}) for study in told]
    assert seen and seen[0] == 4 and seen == sorted(seen)
    assert all(study.verdict.best is not None for study in told)


FINE = [str(Decimal(k) / 10) for k in range(1, 21)]


def test_refining_finds_the_breakdown_of_the_fine_grid_with_few_strengths(tmp_path: Path) -> None:
    toy = Toy()
    fine = run_study(toy_plan(tmp_path / "all", FINE, count=8, renderer=toy), HERE)
    few = Toy()
    plan = toy_plan(tmp_path / "few", FINE, count=8, renderer=few)
    study = run_study(plan, replace(HERE, refine=True))
    assert len(toy.painted) == 168 and len(few.painted) < 100
    ends = fine.verdict.breakdown, study.verdict.breakdown
    assert ends[0] is not None and ends[1] is not None
    assert ends[0].strength is not None and ends[1].strength is not None
    assert abs(ends[0].strength - ends[1].strength) <= Decimal("0.1")
    looked = {s.candidate.strength for s in study.summaries}
    assert {ends[1].strength - Decimal("0.1"), Decimal("2")} <= looked
    assert study.evidence.race.asked == len(few.painted) == len(study.scores)
    again = run_study(toy_plan(tmp_path / "few", FINE, count=8, renderer=few),
                      replace(HERE, refine=True))  # fmt: skip
    assert again.scores == study.scores and len(few.painted) == len(study.scores)


def test_refining_races_where_that_is_asked(tmp_path: Path) -> None:
    """Fewer pictures than a race of all, the breakdown within a step; it goes on after a cut."""
    toys = {}
    found = {}
    for name, judging in {
        "refine": {"refine": True},
        "both": {"refine": True, "until_decided": True},
        "race": {"until_decided": True},
    }.items():
        toys[name] = Toy()
        plan = toy_plan(tmp_path / name, FINE, count=12, renderer=toys[name])
        found[name] = run_study(plan, Judging(workers=0, **judging))
    painted = {name: len(toy.painted) for name, toy in toys.items()}
    assert painted["both"] < 0.5 * 252 and painted["both"] < painted["race"]
    ends = [found[name].verdict.breakdown for name in ("refine", "both")]
    assert ends[0] and ends[1] and ends[0].strength is not None and ends[1].strength is not None
    assert abs(ends[0].strength - ends[1].strength) <= Decimal("0.1")
    race = found["both"].evidence.race
    assert race and race.cells == 252 and race.asked == painted["both"] and race.looks
    idle = Toy()
    plan = toy_plan(tmp_path / "both", FINE, count=12, renderer=idle)
    again = run_study(plan, Judging(workers=0, refine=True, until_decided=True))
    assert not idle.painted and again.scores == found["both"].scores
    few = Toy()
    plan = toy_plan(tmp_path / "few", FINE, count=12, renderer=few)
    study = run_study(plan, Judging(workers=0, refine=True, budget=40))
    assert len(few.painted) <= 40 and study.evidence.race and study.evidence.race.over_budget


def test_automatic_strengths_are_a_fine_grid_that_is_refined() -> None:
    request = StudyRequest.of("strength", loras="my.safetensors", strengths="auto")
    assert request.judging.refine and len(request.subject.strengths) == 40
    coarser = StudyRequest.of("strength", loras="a.st", strengths="auto", resolution="0.1")
    assert len(coarser.subject.strengths) == 20
    with pytest.raises(UserError, match="auto"):
        StudyRequest.of("strength", loras="a.st", resolution="0.1")
    for step in ("5", "0", "-0.1", "1e-4", "fine", "nan", 0):
        with pytest.raises(UserError, match="no step") as caught:
            StudyRequest.of("strength", loras="a.st", strengths="auto", resolution=step)
        assert caught.value.field == "resolution"
    once = StudyRequest.of("strength", loras="a.st", strengths="auto", resolution="2")
    assert once.subject.strengths == (Decimal(2),)


@pytest.mark.parametrize("refine", [False, True])
def test_a_budget_too_small_for_anything_says_how_much_is_needed(
    tmp_path: Path, refine: bool
) -> None:
    toy = Toy()
    plan = toy_plan(tmp_path, FINE, count=4, renderer=toy)
    with pytest.raises(UserError, match="at least (21|6)") as caught:
        run_study(plan, Judging(workers=0, budget=5, refine=refine))
    assert caught.value.field == "budget" and not toy.painted
    least = int(re.findall("at least ([0-9]+)", str(caught.value))[0])
    study = run_study(plan, Judging(workers=0, budget=least, refine=refine))
    assert len(study.scores) == len(toy.painted) == least


@pytest.mark.parametrize("count", range(1, 45))
def test_the_first_look_is_at_few_and_at_the_last(count: int) -> None:
    line = [Candidate("l", strength=Decimal(k)) for k in range(1, count + 1)]
    first = coarse(line)
    assert line[-1] in first and len(first) <= 9
    steps = {line.index(b) - line.index(a) for a, b in pairwise(first)}
    assert len(steps) <= 1


@given(st.integers(-1, 30), st.integers(2, 40), st.dictionaries(
    st.integers(0, 40), st.floats(-1, 1), max_size=12))  # fmt: skip
def test_a_gap_is_halved_inside_of_it(low: int, width: int, effect: dict[int, float]) -> None:
    high = low + width
    assert low < halfway(low, high, effect) < high


def test_a_gap_is_halved_where_the_effect_is() -> None:
    effect = {0: 0.0, 10: 0.1, 20: 0.9, 30: 0.95}
    assert halfway(10, 20, effect) in range(14, 17)
    steep = {0: 0.0, 9: 0.01, 10: 0.02, 20: 0.9, 21: 0.9}
    assert halfway(0, 20, steep) > 11


def strengths(*mean: float | None) -> tuple[list[Candidate], list[Summary]]:
    """A line of strengths, and summaries of those whose change from the control is given."""
    line = [Candidate("l", strength=Decimal(k)) for k in range(1, len(mean) + 1)]
    return line, [
        Summary(one, 1, 8, {}, diff_control=Interval(change, change - 1, change + 1))
        for one, change in zip(line, mean, strict=True) if change is not None
    ]  # fmt: skip


def test_the_strongest_that_nobody_looked_at_comes_first() -> None:
    line, known = strengths(0.0, 0.1, None, 0.3, None, 3.0, None, 9.0, None, 12.0)
    asked, verdict = Asked("strength"), Verdict(recommended=line[1])
    # between 3 and 9 it is 6, beyond the margin of 5
    assert stronger(line, known, verdict, asked) == [line[4], line[2]]
    assert stronger(line, known, Verdict(recommended=line[3]), asked) == [line[4]]
    broken = [replace(s, state="broken") if s.candidate == line[3] else s for s in known]
    assert stronger(line, broken, verdict, asked) == [line[2]]
    for one in (Verdict(), Verdict(recommended=line[1], why=("most_likeness",))):
        assert stronger(line, known, one, asked) == []
    other = [replace(s, diff_control=Interval(-s.diff_control.mean)) for s in known]
    higher = Asked("strength", better="higher", margin=5.0)
    assert stronger(line, other, verdict, higher) == [line[4], line[2]]
    assert stronger(line, known, verdict, Asked("strength", rank_by="ssim")) == []


def test_why_settings_were_not_looked_at() -> None:
    line, known = strengths(None, 0.1, None, 0.3, None, 12.0, None)
    known = [replace(s, state="broken") if s.candidate == line[5] else s for s in known]
    told = [*passed_over(line, known, Verdict(recommended=line[3]), "strength")]
    assert told == ["less", "less", "more", "beyond"]


def as_refinement(cells: Sequence[Cell]) -> Chooser[Cell]:
    source = RenderedPictures(toy_plan(Path()))
    return Refine({cell: source.row(cell) for cell in cells}, Asked("strength", resamples=100))


def as_race(cells: Sequence[Cell]) -> Chooser[Cell]:
    source = RenderedPictures(toy_plan(Path()))
    return Race({cell: source.row(cell) for cell in cells}, Asked("strength", resamples=100))


CHOOSERS = [FullGrid, lambda cells: OneByOne(cells, 1e9), as_race, as_refinement]


@pytest.mark.parametrize("make", CHOOSERS)
def test_choosers_conform(make: Callable[[Sequence[Cell]], Chooser[Cell]], tmp_path: Path) -> None:
    cells = toy_plan(tmp_path).cells

    rows = {cell: RenderedPictures(toy_plan(tmp_path)).row(cell) for cell in cells}
    noise = np.random.Generator(np.random.PCG64(3)).normal(20, 15, len(rows))  # decides nothing
    values = dict(zip(rows, noise, strict=True))

    def scored(cell: Cell) -> Score:
        return replace(rows[cell], values={"brisque": float(values[cell])})

    asked = chooser_conforms(lambda: make(cells), scored, lambda cell: Cell(cell.case))
    assert set(asked) == set(cells)


class Endless(Chooser[Cell]):
    def ask(self, scores: Mapping[Cell, Score]) -> Sequence[Cell]:
        return list(scores) or [Cell(toy_plan(Path()).cases[0])]


class Orphans(Chooser[Cell]):
    def ask(self, scores: Mapping[Cell, Score]) -> Sequence[Cell]:
        return [cell for cell in toy_plan(Path()).cells if not cell.is_control and not scores]


@pytest.mark.parametrize("broken", [Endless, Orphans])
def test_each_broken_chooser_is_found(broken: Callable[[], Chooser[Cell]]) -> None:
    with pytest.raises(AssertionError):
        chooser_conforms(
            broken,
            lambda cell: RenderedPictures(toy_plan(Path())).row(cell),
            lambda cell: Cell(cell.case),
        )


def test_the_answer_so_far_can_be_had_at_any_time(tmp_path: Path) -> None:
    found = []

    def observe(event: events.Event) -> None:
        if isinstance(event, events.Measured):
            found.append(run.so_far())

    run = Run(RenderedPictures(toy_plan(tmp_path)), HERE, observers=[observe])
    with pytest.raises(ValueError, match="nothing is scored"):
        run.so_far()
    study = run.go()
    assert found[-1].verdict.best == study.verdict.best
    assert [sum(s.status == "ok" for s in early.scores) for early in found] == list(range(1, 13))
    assert [early.evidence.so_far.pictures for early in found] == list(range(1, 13))
    assert study.evidence.so_far is None


def test_the_report_is_rewritten_as_a_run_goes_on(tmp_path: Path) -> None:
    """From the first picture on: with controls alone, with some settings, with all."""
    now, pages = [0.0], []
    early = EarlyReport(clock=lambda: now[0])

    def observe(event: events.Event) -> None:
        now[0] += EARLY_FIRST + 10
        early(event)
        if isinstance(event, events.Measured):
            pages.append((tmp_path / "report.html").read_text())

    run_study(toy_plan(tmp_path), HERE, observers=[observe])
    for number, page in enumerate(pages, 1):
        assert f"So far, by {number} of 12 pictures: " in page
        assert page.rstrip().endswith("</html>")
        assert "with a remark" not in page, "what is still to come did not fail"
    assert "No setting has a picture yet." in pages[0]
    assert "So far" not in pages[-1].replace("So far, by 12 of 12", "")
    assert not list(tmp_path.glob("*.tmp*"))


def test_the_page_of_a_run_that_ended_stays_until_the_answer_rests_on_as_many_pictures(
    tmp_path: Path,
) -> None:
    run_study(toy_plan(tmp_path, ["0.4", "0.8"]), HERE)  # 9 pictures
    now, counts = [0.0], []

    def write(study: Study, folder: Path, **_: Any) -> None:
        counts.append(sum(bool(score.values) for score in study.scores))

    early = EarlyReport(clock=lambda: now[0], write=write)

    def observe(event: events.Event) -> None:
        now[0] += EARLY_FIRST + 10
        early(event)

    run_study(toy_plan(tmp_path, ["0.4", "0.8", "1.6"]), HERE, observers=[observe])
    assert counts == [9, 10, 11, 12]
    counts.clear()
    run_study(toy_plan(tmp_path, ["0.4"]), HERE, observers=[observe])
    assert counts == [6], "of a smaller study, once it is whole"


def test_an_early_report_takes_a_small_share_of_the_time(tmp_path: Path) -> None:
    now, written = [0.0], []

    def slow(study: Study, folder: Path, **_: Any) -> None:
        now[0] += 3
        written.append(now[0])

    early = EarlyReport(clock=lambda: now[0], write=slow)

    def observe(event: events.Event) -> None:
        now[0] += 15
        early(event)

    run_study(toy_plan(tmp_path, count=12), HERE, observers=[observe])
    assert written and len(written) * 3 <= EARLY_SHARE * now[0] + 3
    assert written[0] >= EARLY_FIRST


def test_a_full_disk_costs_the_early_report_and_not_the_run(tmp_path: Path) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise UserError("cannot write report.html (No space left on device).", "out")

    early = EarlyReport(clock=iter(range(0, 10**6, 100)).__next__, write=full)
    assert len(run_study(toy_plan(tmp_path), HERE, observers=[early]).scores) == 12


def test_a_pause_holds_rendering_and_a_stop_keeps_what_is_there(tmp_path: Path) -> None:
    toy, control = Toy(), Control()
    paused = threading.Event()

    def observe(event: events.Event) -> None:
        if isinstance(event, events.Rendered) and len(toy.painted) == 4 and not paused.is_set():
            control.pause()
            paused.set()

    plan = toy_plan(tmp_path, renderer=toy)
    run = Run(RenderedPictures(plan), HERE, observers=[observe], control=control)
    studies = []
    thread = threading.Thread(target=lambda: studies.append(run.go()))
    thread.start()
    assert paused.wait(30)
    thread.join(0.3)
    assert thread.is_alive() and control.paused and len(toy.painted) == 4
    assert run.so_far().scores, "asked while it pauses"
    control.stop()
    thread.join(30)
    reasons = [score.reason for score in studies[0].scores]
    assert reasons.count(NOT_RENDERED) == 8 and reasons.count("") == 4
    more = run_study(toy_plan(tmp_path, renderer=toy), HERE)
    assert len(toy.painted) == 12 and all(s.status == "ok" for s in more.scores)


def test_a_resumed_run_goes_on(tmp_path: Path) -> None:
    control = Control()

    def observe(event: events.Event) -> None:
        if isinstance(event, events.Rendered) and not control.paused and event.row.case:
            control.pause()
            threading.Timer(0.05, control.resume).start()

    plan = toy_plan(tmp_path, count=1)
    study = Run(RenderedPictures(plan), HERE, observers=[observe], control=control).go()
    assert all(score.status == "ok" for score in study.scores)


class Interrupted(Toy):
    """Ctrl-C comes while it paints the third picture, and again `times`."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self._times = times

    def render(
        self, cells: Sequence[Cell], stopped: Callable[[], bool] = never
    ) -> Iterator[Picture]:
        for picture in super().render(cells, stopped):
            if len(self.painted) == 3:
                for _ in range(self._times):
                    os.kill(os.getpid(), signal.SIGINT)
            yield picture


@pytest.mark.parametrize(("times", "kept"), [(1, 3), (2, 2)])
def test_ctrl_c_keeps_the_picture_in_flight_and_a_second_one_does_not_wait(
    times: int, kept: int, tmp_path: Path
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_study(toy_plan(tmp_path, renderer=Interrupted(times)), HERE)
    assert signal.getsignal(signal.SIGINT) is handler
    assert len(list((tmp_path / "images").rglob("*.png"))) == kept
    toy = Toy()
    study = run_study(toy_plan(tmp_path, renderer=toy), HERE)
    assert len(toy.painted) == 12 - kept and all(s.status == "ok" for s in study.scores)


def test_a_picture_that_failed_has_its_reason_and_takes_no_other_along(tmp_path: Path) -> None:
    class Failing(Toy):
        def render(
            self, cells: Sequence[Cell], stopped: Callable[[], bool] = never
        ) -> Iterator[Picture]:
            for picture in super().render(cells, stopped):
                bad = picture.cell.strength == Decimal("0.8") and picture.cell.case.seed == 1
                yield Picture(picture.cell, reason="the server ran away") if bad else picture

    study = run_study(toy_plan(tmp_path, renderer=Failing()), HERE)
    failed = [score for score in study.scores if score.status == "failed"]
    assert [score.reason for score in failed] == ["the server ran away"]


def test_the_loop_and_the_toy_import_no_torch() -> None:
    code = (
        "import sys, tempfile; from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from toy import toy_plan\n"
        "from analysers.runs.loop import run_study\n"
        "from analysers.runs.request import Judging\n"
        "run_study(toy_plan(Path(tempfile.mkdtemp())), Judging(workers=0))\n"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pictures_that_exist_already_cannot_race(tmp_path: Path) -> None:
    for asked in ({"until_decided": True}, {"budget": 5}, {"strengths": "auto"}):
        request = StudyRequest.of("strength", images=tmp_path, out=tmp_path / "run", **asked)
        with pytest.raises(UserError, match="exist already"):
            find_studies(request)
