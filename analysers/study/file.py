"""The finished study and its JSON.

History of the JSON format: 1 = first release; 2 = the summaries' metrics are named by what they are
("rms_contrast_ratio", "clipped_change"), and the verdict is data: a recommendation beside the best,
sentences with roles, codes and what they speak of. Format 1 is read as well.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Literal

from analysers.study.evidence import Evidence
from analysers.study.rows import Kind, Score, Summary
from analysers.study.run import RUN_FORMAT, RunRecord
from analysers.study.verdict import Verdict
from generation.records import build, parse, plain, shown

FORMAT = 2

_NAMES_OF_1 = {
    "rms_contrast": "rms_contrast_ratio",
    "colourfulness": "colourfulness_ratio",
    "laplacian_energy": "laplacian_energy_ratio",
    "clipped": "clipped_change",
}


@dataclass(frozen=True)
class Study:
    """A finished study. `summaries` are in rank order, failed candidates last.

    `run` is what was actually used to render and score.
    """

    kind: Kind
    title: str
    rank_by: str
    better: Literal["lower", "higher"]
    metrics: tuple[str, ...]
    scores: tuple[Score, ...]
    summaries: tuple[Summary, ...]
    verdict: Verdict
    tie_tolerance: float = 0.01
    margin: float = 5.0
    evidence: Evidence = field(default_factory=Evidence)
    run: RunRecord = field(default_factory=RunRecord)
    format: int = FORMAT


def to_json(study: Study) -> str:
    """The study as versioned JSON (UTF-8 text); NaN becomes null, strengths stay decimal text."""
    return json.dumps(plain(study), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def from_json(text: str) -> Study:
    """The study that `to_json` wrote, now or in format 1.

    Of a verdict in format 1 the sentences are left out; the study's `format` stays 1, which says
    that it is to be decided anew (`analysers.ranking.decide_again`). Raises ValueError, naming the
    place, for anything else.
    """
    data = parse(text)
    number = data.get("format") if isinstance(data, dict) else None
    if type(number) is not int or number not in (1, FORMAT):
        raise ValueError(f"it has format {shown(number)}, this version reads {FORMAT}")
    if number == 1 and isinstance(data.get("verdict"), dict):
        told = ("answer", "sentences", "warnings")
        data["verdict"] = {k: v for k, v in data["verdict"].items() if k not in told}
    study: Study = build(Study, data)
    if study.run.format not in (None, RUN_FORMAT):
        raise ValueError(f"run.format is {study.run.format}, this version reads {RUN_FORMAT}")
    if study.format == FORMAT:
        return study
    summaries = tuple(
        replace(s, metrics={_NAMES_OF_1.get(k, k): v for k, v in s.metrics.items()})
        for s in study.summaries
    )
    return replace(study, summaries=summaries)
