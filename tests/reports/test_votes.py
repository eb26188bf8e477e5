"""Blind votes: the file is checked, Bradley-Terry and Kendall's tau against independent answers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from analysers.study import Study
from generation.errors import UserError
from reports import tables, votes
from reports.votes import KIND, bradley_terry, read_votes


def test_bradley_terry_is_the_maximum_of_its_likelihood() -> None:
    rng = np.random.default_rng(3)
    truth = np.array([0.0, 0.8, 1.6, -0.7])
    votes = []
    for _ in range(400):
        a, b = rng.choice(4, 2, replace=False)
        won = rng.random() < 1 / (1 + math.exp(truth[b] - truth[a]))
        votes.append((int(a), int(b), "tie" if rng.random() < 0.1 else "a" if won else "b"))

    def loss(x: np.ndarray) -> float:
        total = 0.5 * sum(np.log1p(np.exp(-x)) + np.log1p(np.exp(x)))  # one tie with ability 1
        for a, b, choice in votes:
            share = {"a": 1.0, "b": 0.0, "tie": 0.5}[choice]
            total += share * np.log1p(np.exp(x[b] - x[a]))
            total += (1 - share) * np.log1p(np.exp(x[a] - x[b]))
        return float(total)

    best = minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-8}).x
    ours = bradley_terry(4, votes)
    assert [i.mean for i in ours] == pytest.approx(best - best.mean(), abs=1e-5)
    assert all(i.low < i.mean < i.high for i in ours)
    assert np.argsort([i.mean for i in ours]).tolist() == np.argsort(truth).tolist()


def test_one_that_never_lost_stays_finite() -> None:
    ours = bradley_terry(2, [(0, 1, "a")] * 20)
    assert math.isfinite(ours[0].mean) and ours[0].mean == pytest.approx(-ours[1].mean)
    assert bradley_terry(0, []) == []
    assert bradley_terry(2, [])[0].mean == 0


def good() -> dict[str, Any]:
    settings = [{"heading": s, "checkpoint": "x", "strength": s} for s in ("0.2", "0.4", "0.6")]
    return {
        "kind": KIND,
        "format": 1,
        "settings": settings,
        "votes": [{"a": 0, "b": 1, "choice": "b", "case": "p"}, {"a": 1, "b": 0, "choice": "tie"}],
    }


def test_votes_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "v.json"
    path.write_text(json.dumps(good()))
    back = read_votes(path)
    assert back.votes == 2
    assert [(r.heading, r.wins, r.losses, r.ties) for r in back.rows] == [
        ("0.4", 1, 0, 1),
        ("0.2", 0, 1, 1),
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "x"}, "these are not votes"),
        ({"format": 2}, "format 2"),
        ({"settings": 1}, "missing"),
        ({"settings": [1, 2]}, "not an object"),
        ({"settings": [{"epoch": "one"}, {}]}, r"setting 1.epoch is .one., not an integer"),
        ({"votes": [{"a": 0, "b": 9, "choice": "a"}]}, "vote 1 is damaged"),
        ({"votes": [{"a": 0, "b": 0, "choice": "a"}]}, "vote 1 is damaged"),
        ({"votes": [{"a": True, "b": 0, "choice": "a"}]}, "vote 1 is damaged"),
        ({"votes": [{"a": 0, "b": 1, "choice": "c"}]}, "vote 1 is damaged"),
        ({"votes": ["x"]}, "vote 1 is damaged"),
    ],
)
def test_damaged_votes_are_one_sentence(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = tmp_path / "v.json"
    path.write_text(json.dumps({**good(), **change}))
    with pytest.raises(UserError, match=words):
        read_votes(path)


def test_what_is_not_json_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "v.json"
    for content in (b"", b"\xff\xfe", b"[" * 100_000, b"[1]"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="v.json"):
            read_votes(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_votes(tmp_path / "none.json")


def exported(path: Path, study: Study, run: str = "", strength: str = "") -> Path:
    """Votes as the page exports them, on the study's first two settings."""
    settings = [
        {"heading": c.heading(study.kind), "checkpoint": c.checkpoint, "epoch": c.epoch,
         "step": c.step, "strength": strength or str(c.strength)}
        for c in (s.candidate for s in study.summaries[:2])
    ]  # fmt: skip
    ballots = [{"a": 0, "b": 1, "choice": c} for c in ["a"] * 30 + ["bad", "tie"]]
    path.write_text(
        json.dumps({"kind": votes.KIND, "format": 1, "run": run, "settings": settings,
                    "votes": ballots})
    )  # fmt: skip
    return path


def test_what_people_say_stands_in_the_summary(
    strength_study: tuple[Study, Path], tmp_path: Path
) -> None:
    study, _ = strength_study
    judged = votes.with_votes(study, exported(tmp_path / "votes.json", study))
    found = judged.evidence.votes
    assert found is not None
    assert [(row.wins, row.ties, row.bad) for row in found.rows] == [
        (30, 1, 1),
        (0, 1, 1),
    ]
    best = study.summaries[0].candidate.heading(study.kind)
    said = f"People: in 32 blind comparisons strength {best} was preferred."
    assert votes.people(judged) == said and said in tables.markdown(judged)
    assert votes.people(study) == ""


def test_votes_of_another_study_are_refused(
    strength_study: tuple[Study, Path], tmp_path: Path
) -> None:
    study, _ = strength_study
    path = exported(tmp_path / "votes.json", study, strength="0.33")
    with pytest.raises(UserError, match="are of another study"):
        votes.with_votes(study, path)


def test_votes_find_the_run_they_were_given_in(
    strength_study: tuple[Study, Path], tmp_path: Path
) -> None:
    study, _ = strength_study
    run = tmp_path / "run"
    run.mkdir()
    (run / "study.json").write_text("{}")
    assert votes.run_of(exported(tmp_path / "votes.json", study, run=str(run))) == run
    assert votes.run_of(exported(run / "votes.json", study, run="/nowhere")) == run
    with pytest.raises(UserError, match="not known which run"):
        votes.run_of(exported(tmp_path / "votes.json", study))
