import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from analysers.commands.main import analyse_epochs, analyse_strength
from analysers.commands.options import program
from analysers.commands.panels import PANELS, examples
from analysers.metrics.metric import ALWAYS, metric_names

COMMANDS = [analyse_strength, analyse_epochs]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_stands_in_one_panel_and_has_help(command: click.Command) -> None:
    named = [name for names in PANELS.values() for name in names]
    assert len(named) == len(set(named))
    text = CliRunner().invoke(command, ["--help"]).output
    rest = text.partition("\nMore:\n")[2].strip()
    # click keeps the help option of whoever asked first, with that caller's names
    assert rest.removeprefix("-h, ") == "--help  Show this message and exit.", rest
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.name in named and option.opts[0] in text
            assert option.help, option.name
    assert "<=" not in text and ">=" not in text, "limits are said in words"
    wrong = CliRunner().invoke(command, ["--steps", "0", "--budget", "x"]).output
    assert "'--steps': 0 is not in the range 1 to 500." in wrong
    assert "Sampling steps. [default: the model's; 1 to 500]" in " ".join(text.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_what_most_people_need_comes_first(command: click.Command) -> None:
    text = CliRunner().invoke(command, ["--help"]).output
    options = text.partition("What to test:")[2]
    at = [options.index(word) for word in ("--model ", "--strengths", "--prompts", "--images ")]
    assert at == sorted(at) and options.index("--strengths") < len(options) / 5


@pytest.mark.parametrize("command", COMMANDS)
def test_a_bare_command_shows_examples(command: click.Command) -> None:
    result = CliRunner().invoke(command, [])
    assert result.exit_code == 2
    shown = examples(command).splitlines()
    assert len(shown) >= 3 and all(line in result.output for line in shown)
    assert "--demo" in result.output and "nothing to analyse" in result.output


def test_the_metrics_that_can_be_asked_for_are_listed() -> None:
    result = CliRunner().invoke(analyse_strength, ["--metrics", "list"])
    assert result.exit_code == 0
    names = {line.split()[0] for line in result.output.splitlines() if line.startswith("  ")}
    assert {*metric_names()} - {*ALWAYS, "ssim", "brisque"} <= names
    narrow = CliRunner(env={"COLUMNS": "60"}).invoke(analyse_strength, ["--metrics", "list"])
    assert max(map(len, narrow.output.splitlines())) <= 60
    assert "training pictures (--references)" in " ".join(narrow.output.split())


def test_the_command_that_goes_on_is_one_that_the_shell_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "analyse-strength-elsewhere"
    script.write_text("")
    monkeypatch.setattr(sys, "argv", [str(script)])
    assert program() == [str(script)]
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program() == [script.name]
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "analysers" / "__main__.py")])
    assert program() == ["python", "-m", "analysers"]


def test_the_shell_completes_options() -> None:
    """As docs/commands.md says: what click writes for the shell asks the command so."""
    code = "from analysers.commands.main import analyse_strength as run\nrun(prog_name=%r)"
    asked = {
        "_ANALYSE_STRENGTH_COMPLETE": "bash_complete",
        "COMP_WORDS": "analyse-strength --stre",
        "COMP_CWORD": "1",
    }
    command = [sys.executable, "-c", code % "analyse-strength"]
    done = subprocess.run(command, env={**os.environ, **asked}, capture_output=True, text=True)
    assert "--strengths" in done.stdout, done.stderr
