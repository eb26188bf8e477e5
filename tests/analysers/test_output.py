"""Terminals that fail: nobody's study ends because nobody can be told."""

import io
import os
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from analysers.commands.bar import _ahead, _so_far
from analysers.commands.output import Forgiving, forgiving, full
from analysers.study import Candidate, Evidence, Left, Score, Study, Verdict

unix = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")

STUDY = """
import sys
from analysers.commands.options import one_sentence_errors
import click

@click.command()
@click.option("--json", "as_json", is_flag=True)
@click.option("--debug", is_flag=True)
@click.option("--prompt", default="")
@one_sentence_errors
def command(**o):
    for number in range(20000):
        click.echo(f"line {number} {o['prompt']}")
    open(sys.argv[-1] if sys.argv[-1].startswith("/") else "/dev/null", "w").write("done")
    sys.exit(3)

command(args=sys.argv[1:-1])
"""


def ran(tmp_path, *arguments, shell="", **environment):
    done = tmp_path / "done"
    (tmp_path / "study.py").write_text(STUDY)
    words = [sys.executable, str(tmp_path / "study.py"), *arguments, str(done)]
    line = " ".join(f"'{word}'" for word in words) + " " + shell + "; echo ${PIPESTATUS[0]} >&2"
    result = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, env={**os.environ, **environment}
    )
    return done.exists() and done.read_text(), result.stdout, result.stderr


@unix
@pytest.mark.parametrize("shell", ["> /dev/full", ">&-", "> /dev/null"])
def test_a_full_or_closed_output_does_not_stop_the_study(shell, tmp_path):
    done, _, errors = ran(tmp_path, shell=shell)
    assert done == "done" and errors.rstrip().endswith("3")
    assert "Traceback" not in errors and "Exception" not in errors
    assert ("No space left" in errors) == ("full" in shell)


@unix
def test_json_that_could_not_be_written_is_no_success(tmp_path):
    done, _, errors = ran(tmp_path, "--json", shell="> /dev/full")
    assert done == "done" and errors.rstrip().endswith("2")


@unix
@pytest.mark.parametrize("reader", ["| head -n 1", "| true"])
def test_a_reader_who_has_enough_is_no_error(reader, tmp_path):
    done, out, errors = ran(tmp_path, shell=reader)
    assert done == "done" and errors.strip() == "3"
    assert out in ("line 0 \n", "")


@unix
def test_errors_that_cannot_be_told_change_nothing(tmp_path):
    done, out, _ = ran(tmp_path, shell="2> /dev/full | tail -n 1")
    assert done == "done" and out == "line 19999 \n"


@unix
def test_a_prompt_in_utf8_is_read_under_the_c_locale(tmp_path):
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done, out, errors = ran(tmp_path, "--prompt", "café 猫", shell="| tail -n 1", **plain)
    assert done == "done" and errors.strip() == "3"
    assert out.strip() == "line 19999 café 猫"


def test_names_that_no_encoding_holds_are_spelled():
    raw = io.BytesIO()
    stream = Forgiving(io.TextIOWrapper(raw, "utf-8"))
    stream.write("na\udcffme")
    stream.flush()
    assert raw.getvalue() == rb"na\udcffme"


def test_the_streams_are_given_back():
    usual = sys.stdout
    with forgiving() as out:
        assert sys.stdout is out
    assert sys.stdout is usual and full(out) == ""


def test_one_picture_more_is_called_one():
    control = Score(None, "p0", "a fox", 1, "c.png", "", {})
    half, whole = (
        Score(Candidate(strength=Decimal(text)), "p0", "a fox", 1, "", "", {})
        for text in ("0.5", "1")
    )
    study = Study("strength", "", "brisque", "lower", (), (control, half), (), Verdict())
    assert _ahead(study, [whole]) == "Next: 1 picture, of 1 more setting."
    told = _ahead(study, [replace(control, case="p1"), replace(half, case="p1")])
    assert told.startswith(
        "Next: 2 pictures of strength 0.5, on which the answer turns; its interval will"
    )


def test_an_answer_so_far_says_how_sure_it_is():
    scored = tuple(Score(None, f"p{k}", "", 1, "", "", {}) for k in range(23))
    verdict = Verdict(recommended=Candidate(strength=Decimal("0.8")), confidence="low")
    race = Evidence(race=Left(144, 23, sure=0.834))
    study = Study("strength", "", "brisque", "lower", (), scored, (), verdict, evidence=race)
    told = _so_far(study)
    assert told.startswith("After 23 pictures: ")
    assert told.endswith(" All 144 would say so with a chance of about 83 %.")
    unknown = replace(study, evidence=Evidence(race=Left(144, 23)))
    assert _so_far(unknown).startswith("After 23 pictures (low confidence): ")
