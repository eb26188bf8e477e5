"""One idea has one name, wherever it is said: templates, sentences, terminal, summary, pictures."""

from __future__ import annotations

import ast
import random
import re
from decimal import Decimal
from pathlib import Path

import pytest

from analysers.argument import SIDES, reasons
from analysers.phrases import GLOSSARY
from analysers.ranking import decide
from analysers.study import Candidate, Kind, Score, Study
from reports import html, tables

ROOT = Path(__file__).resolve().parents[2]

OTHER_NAMES = {
    "tied": r"contender|maybe best|cannot be told (from|apart)|can be told from|told apart|\blevel (with|in)\b",  # noqa: E501
    "recommended": r"\bwinners?\b|\bpick(ed)?\b|best overall",
    "clean": r"\bsafe\b|still clean",
    "broken": r"worse than control\b|breaks from here",
    "unsure": r"can be called neither",
    "control": r"\bbaseline\b",
    "setting": r"\bcandidates?\b|\b(every|no|such a) (strength|epoch)\b",
    "chance to be first": r"\bp_best\b|^first in$",
    "plain words": r"resampl|bootstrap|log-odds|\btau\b|kendall|\d\.\d+e-\d",
    "epoch 10": r"final \(epoch|epoch \d+ · step",
}


def wrong(text: str) -> list[tuple[str, str]]:
    return [(name, m.group()) for name, pattern in OTHER_NAMES.items()
            for m in re.finditer(pattern, text, re.IGNORECASE)]  # fmt: skip


def written(path: Path) -> list[str]:
    """The texts of a module that people may read: string constants of several words."""
    tree = ast.parse(path.read_text("utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docstrings
        and " " in node.value.strip()
    ]


MODULES = [
    *(
        ROOT / "analysers" / f"{name}.py"
        for name in ("argument", "phrases", "wording", "trust", "checks", "ranking")
    ),
    *sorted((ROOT / "analysers" / "commands").glob("*.py")),
    *sorted((ROOT / "analysers" / "serve").glob("*.py")),
    *sorted((ROOT / "reports").glob("*.py")),
]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_the_sentences_of_each_module(path: Path) -> None:
    assert [(text, found) for text in written(path) if (found := wrong(text))] == []


TEMPLATES = ROOT / "reports" / "templates", ROOT / "analysers" / "serve" / "templates"


def test_the_templates_and_their_scripts() -> None:
    texts = []
    for template in (path for place in TEMPLATES for path in place.glob("*.j2")):
        page = template.read_text("utf-8")
        texts += re.findall(r"(?:check|field)\([^)]*\)", page)
        page = re.sub(r"\{[{%#].*?[}%#]\}", " ", page, flags=re.S)
        texts += re.findall(r">([^<]+)<", page)
        texts += re.findall(r'(?:aria-label|placeholder|title)="([^"]*)"', page)
    for path in (path for place in TEMPLATES for path in place.glob("*.js")):
        script = re.sub(r"^\s*//.*$", "", path.read_text("utf-8"), flags=re.M)
        found = re.findall(r'["`]((?:[^"`\\\n]|\\.)*)["`]', script)
        texts += [text for text in found if " " in text.strip()]
    assert len(texts) > 250
    assert [(text, found) for text in texts if (found := wrong(text))] == []
    page = (TEMPLATES[0] / "report.html.j2").read_text("utf-8")
    assert set(re.findall(r'term\("([^"]+)"', page)) <= set(GLOSSARY)
    assert set(html._TERMS.values()) <= set(GLOSSARY)


def studies() -> list[Study]:
    found = []
    for seed in range(24):
        draw = random.Random(seed)
        kind: Kind = ("strength", "epochs", "plane")[seed % 3]  # type: ignore[assignment]
        epochs = range(1, 6) if kind != "strength" else [1]
        strengths = ["0.4", "0.8", "1.2"] if kind != "epochs" else ["1.0"]
        steep = draw.choice([0, 2, 9])
        rows = []
        for k in range(draw.choice([1, 2, 8, 14])):
            base = 25 + draw.gauss(0, 2)
            rows.append(Score(None, f"p{k}", f"prompt {k}", 1, "c.png", "c.png",
                              {"brisque": base, "ssim": 1.0}))  # fmt: skip
            for e in epochs:
                for s in strengths:
                    amount = e * float(s) / 3
                    values = {
                        "brisque": base - 2 * amount + steep * amount**3 + draw.gauss(0, 1.5),
                        "ssim": 1 - amount / 8,
                    }
                    label = f"epoch {e}" if kind != "strength" else ""
                    candidate = Candidate("x.safetensors", e, None, Decimal(s), e - 1, label)
                    rows.append(
                        Score(candidate, f"p{k}", f"prompt {k}", 1, "x.png", "c.png", values)
                    )
        summaries, verdict = decide(rows, kind=kind, noise_floor={"brisque": 5.8e-07})
        found.append(Study(kind, "x", "brisque", "lower", ("ssim", "brisque"), tuple(rows),
                           summaries, verdict))  # fmt: skip
    return found


def test_what_is_said_of_studies_of_many_kinds(tmp_path: Path) -> None:
    codes = set()
    for study in studies():
        codes |= {s.code for s in study.verdict.sentences}
        page = html.render(html.build(study, tmp_path))
        surface = re.sub(r"<(script|style|svg).*?</\1>", " ", page, flags=re.S)
        surface = re.sub(r"<[^>]+>", " ", surface)
        texts = [s.text for s in study.verdict.sentences]
        texts += [surface, tables.markdown(study), tables.terminal_table(study, 80)]
        assert [(t[:80], found) for t in texts if (found := wrong(t))] == []
        headline = study.verdict.headline
        assert len(headline.split()) <= 9, headline
        assert len(" ".join(study.verdict.texts("answer")[:2]).split()) <= 35
    assert len(codes) >= 12, codes


def test_the_terminal_gives_few_reasons_and_the_report_all(tmp_path: Path) -> None:
    for study in studies():
        few, all_of_them = reasons(study.verdict, 3), study.verdict.arguments
        assert len(few) == min(3, len(all_of_them)) and set(few) <= set(all_of_them)
        page = html.build(study, tmp_path)
        sides = page.argument
        said = [t for side in sides for t in (*side.cautions, *side.sentences, *side.more)]
        headline_and_reason = study.verdict.texts("answer")[:2]
        assert sorted([*headline_and_reason, *said]) == sorted(
            s.text for s in study.verdict.sentences
        )
        told = [t for side in sides for t in (*side.cautions, *side.sentences, *side.more)]
        assert few == [text for text in told if text in few], "in the report's order"
        assert sum(len(side.sentences) for side in sides) <= 5
        assert page.warnings == sum(len(s.cautions) for s in sides) or any(s.more for s in sides)
        shared = tables.markdown(study)
        assert all(tables._md(text) in shared for text in all_of_them)


def test_the_glossary_explains_each_word_once() -> None:
    assert len({meaning for meaning in GLOSSARY.values()}) == len(GLOSSARY)
    assert all(
        meaning.endswith(".") and len(meaning.split()) <= 25 for meaning in GLOSSARY.values()
    )


def test_every_sentence_has_its_side() -> None:
    """A sentence of a code that is not placed would argue for the answer."""
    known = {code for codes in SIDES.values() for code in codes}
    assert len(known) == sum(map(len, SIDES.values()))
    codes = {s.code for study in studies() for s in study.verdict.sentences if s.role != "answer"}
    assert codes <= known
    for module in ("wording", "runs/conclude", "ranking"):
        tree = ast.parse((ROOT / "analysers" / f"{module}.py").read_text("utf-8"))
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") in ("say", "Sentence"):
                role, code = (getattr(one, "value", None) for one in call.args[:2])
                assert role == "answer" or not isinstance(code, str) or code in known, code
