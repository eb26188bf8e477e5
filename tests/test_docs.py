"""What the README and the docs say can be typed, linked and installed."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from analysers.commands.main import analyse_epochs, analyse_strength

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = {"analyse-strength": analyse_strength, "analyse-epochs": analyse_epochs}


def typed(text: str) -> list[list[str]]:
    """The words of every line that calls a command, continued lines as one."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = re.findall(r"^ {4}(analyse-[a-z]+ .*)$", joined, re.M)
    lines += re.findall(r"`(analyse-[a-z]+ [^`\n]+)`", joined)
    return [shlex.split(line, comments=True) for line in lines]


def options(command: click.Command) -> dict[str, click.Option]:
    made = [p for p in command.params if isinstance(p, click.Option)]
    names = {name: p for p in made for name in (*p.opts, *p.secondary_opts)}
    return {**names, "--help": click.Option(["--help"], is_flag=True)}


CALLS = [(page.name, words) for page in PAGES for words in typed(page.read_text(encoding="utf-8"))]


def test_the_readme_shows_both_commands() -> None:
    assert {words[0] for page, words in CALLS if page == "README.md"} == set(COMMANDS)
    assert sum(page == "README.md" for page, _ in CALLS) >= 7


@pytest.mark.parametrize(("page", "words"), CALLS, ids=lambda x: x if isinstance(x, str) else x[0])
def test_a_shown_command_has_these_options(page: str, words: list[str]) -> None:
    command, known = COMMANDS[words[0]], options(COMMANDS[words[0]])
    used = [word.partition("=")[0] for word in words[1:] if word.startswith("--")]
    assert set(used) <= set(known), f"{page}: {set(used) - set(known)}"
    parser = command.make_parser(click.Context(command))
    parser.parse_args([word for word in words[1:] if word not in ("...", "…")])  # values in place


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_linked_files_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_readme_installs_versions_that_were_tested() -> None:
    lines = re.findall(r"pip install .*", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert lines and all("-c constraints.txt" in line for line in lines)


def test_constraints_are_names_and_versions() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    shape = re.compile(r"[a-z0-9][a-z0-9.-]*==[0-9][0-9a-z.]*( ; python_full_version [^;]*)?")
    wrong = [line for line in lines if not line.startswith("#") and not shape.fullmatch(line)]
    assert not wrong
    assert not any(line.startswith("lora-analysers") for line in lines)


def test_what_is_promised_is_constrained() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    needed = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    names = {re.split(r"[<>=\[ ;]", line)[0] for line in needed} - {"lora-analysers"}
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert names <= set(re.findall(r"^([a-z0-9-]+)==", text, re.M))
    assert all(">=" in line for line in needed if "lora-analysers" not in line)


def test_the_docs_site_is_built_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="sphinx is missing: pip install '.[test]'")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", ROOT / "docs", tmp_path],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "commands.html").read_text(encoding="utf-8")
    for name, command in COMMANDS.items():
        shown = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
        for option in shown:
            assert f"cmdoption-{name}-{option.opts[0].lstrip('-')}" in page
