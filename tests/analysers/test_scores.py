"""Score rows as tables."""

from __future__ import annotations

from decimal import Decimal

import numpy as np

from analysers.scores import tabulate
from analysers.study import Candidate, Score

ONE = Candidate(strength=Decimal(1))


def row(candidate: Candidate | None, case: str, value: float, **more: str) -> Score:
    paths = {"image": "", "control": "", **more}
    return Score(candidate, case, case, 1, paths["image"], paths["control"], {"brisque": value})


def test_without_paths_the_case_tells_the_control():
    rows = [row(None, "a", 10.0), row(None, "b", 20.0), row(ONE, "a", 1.0), row(ONE, "b", 2.0)]
    tables = tabulate(rows, "strength")
    np.testing.assert_array_equal(tables.values["brisque"], [[1.0, 2.0]])
    np.testing.assert_array_equal(tables.control["brisque"], [[10.0, 20.0]])


def test_the_path_goes_before_the_case():
    rows = [
        row(None, "a", 10.0, image="a.png"),
        row(None, "b", 20.0, image="b.png"),
        row(ONE, "a", 1.0, control="b.png"),
    ]
    assert tabulate(rows, "strength").control["brisque"].tolist() == [[20.0]]
