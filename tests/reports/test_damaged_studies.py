"""study.json from somebody else: a valid study that every report can be written of, or a sentence.

A real study is changed in random places; what comes of it may not be a third thing.
"""

import copy
import json
import random
import time
import tracemalloc
from pathlib import Path

import pytest

from analysers.study import from_json, to_json
from reports import html, pictures, tables

SCHEMA = Path(__file__).parents[2] / "docs" / "study.schema.json"

ODD = (
    None, True, False, 0, -1, 1.5, 10**30, -(10**400), 1e300, -1e308, 2**63, 2**64, "", "abc",
    "1e999999999", "NaN", "0.6", "-0.0", "9" * 200, "\ud800", "\udcff.png", "a\0b", "\u202e",
    "<script>", "=1+1", "../../etc/passwd", "/etc/passwd", "x" * 100_000, [], {}, [[]], {"a": 1},
    [1, "a", None], {"mean": 1, "low": "a"}, ["0.6"] * 3, {"kind": "strength"}, [{"a": {"b": [0]}}],
)  # fmt: skip


def nested(depth, kind):
    value = 1
    for _ in range(depth):
        value = [value] if kind == "list" else {"a": value}
    return value


def places(value, path=()):
    yield path
    if isinstance(value, dict):
        for key, part in value.items():
            yield from places(part, (*path, key))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from places(part, (*path, index))


def changed(data, rng):
    """The data with one to three places changed, removed, doubled or given another's value."""
    data = copy.deepcopy(data)
    for _ in range(rng.randint(1, 3)):
        spots = [path for path in places(data) if path]
        path = rng.choice(spots)
        parent = data
        for key in path[:-1]:
            parent = parent[key]
        last = path[-1]
        way = rng.randrange(5)
        if way == 0:
            del parent[last]
        elif way == 1:
            odd = rng.choice((*ODD, nested(rng.choice((30, 300)), rng.choice(("list", "object")))))
            parent[last] = copy.deepcopy(odd)
        elif way == 2:
            other = data
            for key in rng.choice(spots):
                other = other[key]
            parent[last] = copy.deepcopy(other)
        elif way == 3 and isinstance(parent, dict):
            parent[rng.choice(("x", "", "mean", "kind", "\ud800", "a" * 999))] = parent[last]
        elif isinstance(parent, list):
            parent.insert(rng.randint(0, len(parent)), copy.deepcopy(rng.choice(ODD)))
    return data


def written(study, folder):
    """All that is written of a study."""
    tables.write_tables(study, folder)
    tables.markdown(study)
    tables.terminal_table(study, 100)
    html.write_report(study, folder)


@pytest.mark.parametrize("kind", ["strength", "epochs", "plane"])
def test_a_changed_study_is_a_study_or_a_sentence(kind, make_study, tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    schema = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    study = make_study(
        tmp_path, kind, strengths=("0.4", "1.2"), epochs=3, prompts=("a cat", "a cup"), seeds=(1,),
        size=32,
    )  # fmt: skip
    data = json.loads(to_json(study))
    rng = random.Random(kind)
    read = refused = 0
    for _ in range(40):
        one = changed(data, rng)
        text = json.dumps(one)
        begin = time.perf_counter()
        try:
            found = from_json(text)
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 300
        else:
            read += 1
            assert not sorted(map(str, schema.iter_errors(json.loads(to_json(found)))))
            if read <= 6:
                written(found, tmp_path)
        assert time.perf_counter() - begin < 20
    assert read and refused


HOSTILE = (
    ("kind", "seven", "kind"),
    ("kind", ["strength"], "kind"),
    ("scores", {"a": 1}, "scores is an object, not a list"),
    ("scores.0", [], r"scores\[0\] is a list, not an object"),
    ("scores.1.candidate.strength", "abc", r"scores\[1\].candidate.strength is \"abc\""),
    ("scores.1.candidate.strength", "1e999999999", "strength"),
    ("scores.1.candidate.strength", "1e9", "strength"),
    ("scores.1.candidate.strength", "9" * 4000, "strength"),
    ("scores.1.candidate.strength", 0.6, "strength"),
    ("scores.1.seed", 1.5, "seed"),
    ("scores.1.seed", True, "seed"),
    ("scores.1.seed", 10**30, "seed"),
    ("scores.1.values", [["brisque", 1]], "values"),
    ("scores.1.values.brisque", "12", "brisque"),
    ("scores.1.values.brisque", 1e300, "brisque"),
    ("scores.1.status", "fine", "status"),
    ("scores.1.extra", 1, "extra is not known"),
    ("summaries.0.metrics", 3, "metrics"),
    ("summaries.0.rank", "first", "rank"),
    ("verdict", None, "verdict"),
    ("verdict.best", "0.6", "best"),
    ("verdict.sentences", "one", "sentences"),
    ("metrics", "ssim", "metrics"),
    ("evidence", [], "evidence"),
    ("evidence.deep", 1, "evidence.deep is not known"),
    ("evidence.noise.floor", 0.5, "evidence.noise.floor is 0.5, not an object"),
    ("evidence.weights", {"rows": [{"a": nested(200, "list")}]}, "nested too deeply"),
    ("run.deep", 1, "run.deep is not known"),
    ("run.settings", {"deep": nested(200, "object")}, "nested too deeply"),
    ("run.format", 3, "run.format is 3, this version reads 1"),
    ("run.loras", [{"file": "a", "sha256": 7, "format": "kohya"}], r"run.loras\[0\].sha256 is 7"),
    ("run.cases", [{"prompt": "a fox"}], r"run.cases\[0\].seed is missing"),
    ("run.rendered", {"pictures": 1}, "run.rendered.controls is missing"),
    ("run.strengths", [0.6], r"run.strengths\[0\] is 0.6, not a text"),
    ("format", "1", "format"),
)


@pytest.mark.parametrize("place, value, said", HOSTILE)
def test_the_sentence_names_the_place(place, value, said, strength_study):
    data = json.loads(to_json(strength_study[0]))
    *path, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    parent = data
    for key in path:
        parent = parent[key]
    parent[last] = value
    with pytest.raises(ValueError, match=said):
        from_json(json.dumps(data))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "null", "[" * 100_000, '{"a":' * 100_000, "NaN", '{"format": 1}', "\ufeff{}",
     '{"format": 1, "kind": Infinity}', '{"format": ' + "1" * 5000 + "}"],
)  # fmt: skip
def test_what_is_no_study_is_refused(text):
    with pytest.raises(ValueError):
        from_json(text)


def test_reading_takes_little_more_than_the_file(strength_study):
    text = to_json(strength_study[0])
    data = json.loads(text)
    data["scores"] = data["scores"] * 200
    text = json.dumps(data)
    tracemalloc.start()
    begin = time.perf_counter()
    from_json(text)
    seconds = time.perf_counter() - begin
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * len(text) and seconds < 60


def test_pictures_are_drawn_of_odd_names(strength_study, tmp_path):
    study, folder = strength_study
    data = json.loads(to_json(study))
    for row in (*data["scores"], *data["summaries"]):
        if row["candidate"]:
            row["candidate"]["checkpoint"] = row["candidate"]["label"] = "na\udcffme\u202e\0.x"
    data["verdict"]["best"] = data["summaries"][0]["candidate"]
    found = from_json(json.dumps({**data, "kind": "epochs", "title": "\udcfftitle"}))
    written(found, tmp_path)
    pictures.write_contact_sheet(found, folder, tmp_path / "sheet.png")
    pictures.write_animation(found, folder, tmp_path / "sweep.webp")
    for name in ("scores.csv", "summary.csv", "report.html"):
        assert "na\\udcffme" in (tmp_path / name).read_text("utf-8")
