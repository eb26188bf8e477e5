"""Prompts and prompt files: one prompt a line with kohya's flags, and trainers' TOML and JSON.

A file of structure is read as such or refused: read line by line, every key would be a prompt.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from generation.errors import UserError, first_line, named
from generation.files import read_utf8
from generation.samplers import sampler_key

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MOST_PROMPTS = 1000
"""More prompts than this are taken for another kind of file, unless more are asked for."""

LONGEST_PROMPT = 10_000
"""Characters of one prompt with its flags; text encoders read some hundred tokens."""

MOST_STRUCTURE = 1 << 20
"""Bytes of a TOML or JSON file of prompts."""


@dataclass(frozen=True)
class PromptLine:
    """One prompt; the options are None where it does not set them.

    `picture` is the file that is to be edited. `unused` are options that trainers know and that
    mean nothing here.
    """

    prompt: str
    negative: str | None = None
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    picture: Path | None = None
    unused: tuple[str, ...] = ()


_KINDS = {
    "negative": str,
    "seed": int,
    "width": int,
    "height": int,
    "steps": int,
    "guidance_scale": float,
    "distilled": float,
    "sampler": str,
    "picture": Path,
}
_FLAGS = {
    "n": "negative",
    "d": "seed",
    "w": "width",
    "h": "height",
    "s": "steps",
    "l": "guidance_scale",
    "g": "distilled",
    "ss": "sampler",
    "ci": "picture",  # musubi's
    "ctrl_img": "picture",  # ai-toolkit's
}
# Of kohya's and musubi's samplers: negative guidance, LoRA multipliers, flow shift, frames, and the
# pictures and videos that other kinds of model start from.
_UNUSED_FLAGS = frozenset({"t", "am", "fs", "f", "i", "ei", "cip", "cv", "of", "cn", "ctr", "rcfg"})
# Keys of TOML and JSON: kohya's, musubi's, SimpleTuner's, OneTrainer's, ai-toolkit's.
_KEYS = {
    "negative_prompt": "negative",
    "negative": "negative",
    "seed": "seed",
    "width": "width",
    "height": "height",
    "sample_steps": "steps",
    "diffusion_steps": "steps",
    "num_inference_steps": "steps",
    "steps": "steps",
    "scale": "guidance_scale",
    "cfg_scale": "guidance_scale",
    "guidance_scale": "distilled",
    "sample_sampler": "sampler",
    "sampler": "sampler",
    "noise_scheduler": "sampler",
    "control_image_path": "picture",
    "ctrl_img": "picture",
    "input_picture": "picture",
}


def parse_prompt(line: str, where: str = "") -> PromptLine:
    """A prompt with the per-line flags of kohya's sample-prompt files.

    Known flags: `--n` negative, `--d` seed, `--w` `--h` size in pixels, `--s` steps, `--l`
    guidance scale, `--g` FLUX.1's guidance, `--ss` sampler, `--ci` the picture to edit; further
    ones of trainers' are kept as `unused`. `where` is the file and line, if there are any. Raises
    UserError for an unknown flag or a bad value.
    """
    if len(line) > LONGEST_PROMPT:
        raise _bad(
            f"a prompt has {len(line):,} characters, and {LONGEST_PROMPT:,} are the most; "
            "write one prompt a line.",
            where,
        )
    text, *flags = re.split(r"(?<!\s)\s+--(?=[A-Za-z])", " " + line.strip())
    options: dict[str, object] = {}
    unused = []
    for flag in flags:
        name, _, value = flag.partition(" ")
        if name.lower() in _UNUSED_FLAGS:
            unused.append("--" + name)
        elif name.lower() in _FLAGS:
            option = _FLAGS[name.lower()]
            if option == "picture" and option in options:
                raise _bad(_ONE_PICTURE, where)
            options[option] = value.strip()
        else:
            known = ", ".join("--" + f for f in _FLAGS)
            raise _bad(f"--{name} is not a prompt flag here; known are {known}.", where)
    return _line(text, options, unused, where)


def _line(
    prompt: str, options: Mapping[str, object], unused: Sequence[str], where: str
) -> PromptLine:
    """The prompt with its options as numbers and one spelling of the sampler."""
    told: dict[str, Any] = {}
    for name, value in options.items():
        kind = _KINDS[name]
        if kind is Path:
            only = value[0] if isinstance(value, list) and len(value) == 1 else value
            if not isinstance(only, str) or not only.strip():
                raise _bad(_ONE_PICTURE, where)
            told[name] = Path(only)
            continue
        try:
            if isinstance(value, (bool, list, dict)):
                raise ValueError
            told[name] = kind(value)
        except (ValueError, OverflowError):
            raise _bad(f"{name} {str(value)[:60]!r} is not a number.", where) from None
    # kohya's FLUX.1 has two guidances: the model's own, which is ours, and the classical one.
    distilled = told.pop("distilled", None)
    if distilled is not None:
        if told.get("guidance_scale") in (None, 1.0):
            told["guidance_scale"] = distilled
        else:
            unused = [*unused, "guidance_scale beside scale"]
    if "sampler" in told:
        told["sampler"] = sampler_key(told["sampler"]) or told["sampler"]
    return PromptLine(prompt.strip(), **told, unused=tuple(dict.fromkeys(unused)))


_ONE_PICTURE = "one picture is edited; name one file by --ci."


def _bad(sentence: str, where: str) -> UserError:
    return UserError(f"{where}: {sentence}") if where else UserError(sentence, field="prompt")


def read_prompts(path: Path, max_prompts: int = MOST_PROMPTS) -> tuple[PromptLine, ...]:
    """The prompts of a file, at most `max_prompts`.

    In a text file one a line (empty lines and lines starting with # are skipped); in a TOML file
    kohya's `[prompt]` with its `[[prompt.subset]]`; in a JSON file a list of prompts, as text or as
    objects, or SimpleTuner's {name: prompt}. What a file is, its content says, whatever its name.
    Raises UserError for a file of another structure, and where there is no prompt.
    """
    try:
        text = read_utf8(path)
    except UnicodeDecodeError as error:
        sentence = f"{path} is no UTF-8 text (byte {error.start:,}); save it as UTF-8."
        raise UserError(sentence, field="prompts") from error
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror or error}).", "prompts") from error
    kind = _structure(path, text)
    if kind in _READERS and len(text) > MOST_STRUCTURE:
        raise UserError(
            f"{path} has {len(text):,} characters of {kind}, and {MOST_STRUCTURE:,} are the most; "
            "write one prompt a line into a .txt file.",
            field="prompts",
        )
    if kind in _READERS:
        found = _READERS[kind](path, text)
    elif kind:
        raise UserError(
            f"{path} is {kind}, which is not read as prompts; write one prompt a line into a .txt "
            "file, or give kohya's TOML or JSON.",
            field="prompts",
        )
    else:
        found = _lines(path, text)
    prompts: list[PromptLine] = []
    for prompt in found:
        if len(prompts) == max_prompts:
            raise UserError(
                f"{path} has more than {max_prompts:,} prompts; give fewer, or raise "
                f"{named('max_prompts')}.",
                field="prompts",
            )
        prompts.append(_beside(path, prompt))
    if not prompts:
        raise UserError(f"{path} has no prompt; write one prompt a line.", field="prompts")
    return tuple(prompts)


def _beside(file: Path, prompt: PromptLine) -> PromptLine:
    """With its picture looked for beside the file of prompts first, then where we are."""
    if prompt.picture is None:
        return prompt
    beside = file.parent / prompt.picture.expanduser()
    return replace(prompt, picture=beside if beside.exists() else prompt.picture.expanduser())


def doubts(prompts: Sequence[PromptLine], *, edits: bool = False) -> tuple[str, ...]:
    """Warnings: options of prompts that are not used here, and prompts that say nothing.

    `edits` says that the model edits pictures.
    """
    names = dict.fromkeys(name for prompt in prompts for name in prompt.unused)
    if not edits and any(prompt.picture for prompt in prompts):
        names["--ci"] = None
    unused = f"Not used here: {', '.join(names)} of the prompts."
    empty = (
        "One prompt is empty: its pictures show what the model paints unasked. If that is not "
        "meant, look what was given as the prompt."
    )
    found = {unused: bool(names), empty: not all(prompt.prompt.strip() for prompt in prompts)}
    return tuple(text for text, true in found.items() if true)


def _lines(path: Path, text: str) -> Iterator[PromptLine]:
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line and not line.startswith("#"):
            yield parse_prompt(line, f"{path}, line {number}")


# ---------------------------------------------------------------------------------------------
# Files of structure

_ENDINGS = {
    ".toml": "TOML",
    ".json": "JSON",
    ".jsonl": "JSON",
    ".yaml": "YAML",
    ".yml": "YAML",
    ".csv": "a table",
    ".tsv": "a table",
    ".xml": "XML",
    ".html": "a web page",
    ".htm": "a web page",
    ".ini": "an INI file",
    ".py": "a program",
    ".rtf": "RTF",
}
_OPTION = (
    r"(?:prompts?|negative_prompt|width|height|seed|(?:sample_)?steps|scale|(?:cfg|guidance)_scale|"
    r"sample_sampler|sampler)"
)
_TOML_LINE = re.compile(
    rf"\s*(?:\[{{1,2}}prompt(?:\.\w+)?\]{{1,2}}\s*(?:#.*)?|{_OPTION}\s*=.*)", re.I
)
_YAML_LINE = re.compile(rf"\s*(?:-\s+)?{_OPTION}\s*:(?:\s.*|$)", re.I)
_A1111_LINE = re.compile(r"(?:Negative prompt: |Steps: \d+, )")
_FIRST_LINES = 400


def _structure(path: Path, text: str) -> str:
    """What structure a file has: TOML, JSON, another in words, or "" for lines of prompts."""
    if path.suffix.lower() in _ENDINGS:
        return _ENDINGS[path.suffix.lower()]
    start = text[:200_000].lstrip()
    if "\0" in start:
        return "no text"
    if start.startswith(("<?xml", "<!DOCTYPE", "<html", "<!doctype")):
        return "a web page or XML"
    if start.startswith("{\\rtf"):
        return "RTF"
    if start[:1] in ("{", "[") and _is_json(text):
        return "JSON"
    lines = [line for line in start.splitlines()[:_FIRST_LINES] if line.strip()]
    lines = [line for line in lines if not line.lstrip().startswith("#")]
    if any(_A1111_LINE.match(line) for line in lines):
        return "A1111's text of a picture"
    # One such line may be a prompt; the keys of a file are several, or begin it.
    toml = sum(_TOML_LINE.fullmatch(line) is not None for line in lines)
    yaml = sum(_YAML_LINE.fullmatch(line) is not None for line in lines)
    if toml and (toml > 1 or _TOML_LINE.fullmatch(lines[0])):
        return "TOML"
    if yaml and (yaml > 1 or (len(lines) > 1 and _YAML_LINE.fullmatch(lines[0]))):
        return "YAML"
    if len(lines) > 1 and all(re.match(r"\s*[-*+] \S", line) for line in lines):
        return "a list of YAML or Markdown"
    headed = len(lines) > 1 and re.fullmatch(r"\s*\[[\w .-]{1,80}\]\s*", lines[0])
    if headed and any(re.match(r"\s*[\w.-]{1,80}\s*=", line) for line in lines[1:]):
        return "an INI file"
    for mark in ",;\t":
        fields = (
            [field.strip().strip('"').lower() for field in lines[0].split(mark)] if lines else []
        )
        if len(fields) > 1 and len(lines) > 1 and {"prompt", "prompts"} & set(fields):
            return "a table"
    return ""


def _is_json(text: str) -> bool:
    """Whether a text that begins with a bracket is JSON or means to be: "[cat]" is a prompt."""
    if re.match(r'\s*(?:\[\s*)?\{\s*"', text) or re.match(r'\s*\[\s*"', text):
        return True
    return bool(re.fullmatch(r"\s*(?:\[\s*\]|\{\s*\})\s*", text[:1000]))


def _from_toml(path: Path, text: str) -> Iterator[PromptLine]:
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable TOML ({first_line(error)}).", "prompts") from error
    base = data.get("prompt")
    if isinstance(base, dict):
        common = {key: value for key, value in base.items() if key != "subset"}
        subset = base.get("subset", [{}] if "prompt" in common else [])
        if isinstance(subset, list) and all(isinstance(entry, dict) for entry in subset):
            return _entries(path, [{**common, **entry} for entry in subset])
    if isinstance(data.get("prompts"), list):
        return _entries(path, data["prompts"])
    raise UserError(
        f"{path} is TOML without kohya's [prompt] and [[prompt.subset]], so it holds no prompts "
        "that can be read.",
        field="prompts",
    )


def _from_json(path: Path, text: str) -> Iterator[PromptLine]:
    try:
        try:
            data = json.loads(text)
        except ValueError:
            lines = [line for line in text.splitlines() if line.strip()]
            data = [json.loads(line) for line in lines]  # one object a line
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable JSON ({first_line(error)}).", "prompts") from error
    if isinstance(data, dict) and isinstance(data.get("prompts"), list):
        data = data["prompts"]
    if isinstance(data, dict) and "prompt" in data:
        data = [data]
    if isinstance(data, dict) and data:  # SimpleTuner's library: {name: prompt}
        values = list(data.values())
        if all(isinstance(v, str) or (isinstance(v, dict) and "prompt" in v) for v in values):
            data = values
    if isinstance(data, list):
        return _entries(path, data)
    raise UserError(
        f"{path} is JSON of another kind; a list of prompts, of objects with a prompt, or an "
        "object of names and prompts is read.",
        field="prompts",
    )


_READERS = {"TOML": _from_toml, "JSON": _from_json}


def _entries(path: Path, entries: Sequence[object]) -> Iterator[PromptLine]:
    for number, entry in enumerate(entries, 1):
        where = f"{path}, prompt {number}"
        if isinstance(entry, str):
            yield parse_prompt(entry, where)
            continue
        if not isinstance(entry, dict) or not isinstance(entry.get("prompt"), str):
            raise UserError(f"{where}: it has no text under prompt.")
        if entry.get("enabled") is False:  # OneTrainer's
            continue
        options: dict[str, object] = {}
        unused = []
        for key, value in entry.items():
            if key in _KEYS and value is not None:
                options[_KEYS[key]] = value
            elif key not in {"prompt", "enabled", "random_seed", "enum"} and value is not None:
                unused.append(str(key)[:40])
        if entry.get("random_seed") is True:
            options.pop("seed", None)
        if len(entry["prompt"]) > LONGEST_PROMPT:
            parse_prompt(entry["prompt"], where)
        yield _line(entry["prompt"], options, unused, where)
