"""The finished study: score rows, one summary per candidate, the verdict, what argues for and
against it, what it was made with, and their JSON.

Everything that reports read is here; nothing here knows how it was rendered or computed.
"""

from analysers.study.evidence import (
    Copies,
    Copy,
    Evidence,
    KindOfPicture,
    KindsOfPicture,
    Ladder,
    Left,
    Likeness,
    Noise,
    Rows,
    Share,
    Stopped,
    Told,
    TrustResult,
    Vote,
    Votes,
    Weights,
    row_of,
)
from analysers.study.file import FORMAT, Study, from_json, to_json
from analysers.study.rows import (
    NOT_RENDERED,
    Candidate,
    Interval,
    Kind,
    Score,
    State,
    Status,
    Summary,
)
from analysers.study.run import RUN_FORMAT, CaseRecord, InputRecord, LoraRecord, Rendered, RunRecord
from analysers.study.verdict import Confidence, Criterion, Role, Sentence, Verdict

__all__ = [
    "Candidate",
    "CaseRecord",
    "Confidence",
    "Copies",
    "Copy",
    "Criterion",
    "Evidence",
    "FORMAT",
    "InputRecord",
    "Interval",
    "Kind",
    "KindOfPicture",
    "KindsOfPicture",
    "Ladder",
    "Left",
    "Likeness",
    "LoraRecord",
    "NOT_RENDERED",
    "Noise",
    "RUN_FORMAT",
    "Rendered",
    "Role",
    "Rows",
    "RunRecord",
    "Score",
    "Sentence",
    "Share",
    "State",
    "Status",
    "Stopped",
    "Study",
    "Summary",
    "Told",
    "TrustResult",
    "Verdict",
    "Vote",
    "Votes",
    "Weights",
    "from_json",
    "row_of",
    "to_json",
]
