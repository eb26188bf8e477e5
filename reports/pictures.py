"""The study's pictures for the report: addresses, thumbnails, the contact sheet, the animation.

Nothing here trusts a picture: one that is missing or cannot be decoded yields None or an empty
frame, never an exception, since the report must be written all the same.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from analysers.study import Candidate, CaseRecord, Score, Sentence, Study
from analysers.views import MOST, NO_VIEWS, compared, map_name, read_small, views
from generation.errors import UserError
from generation.files import open_file, read_file
from generation.folder import write_result
from generation.pictures.pixels import MOST_BYTES, decode_image
from reports.plots import natural_order
from reports.tables import about, one_line

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

THUMBNAIL_EDGE = 384
LARGE_EDGE = 768
ANNOUNCE_ABOVE = 50_000_000
_MOST_PIXELS = 100_000_000


def locate(path: str, folder: Path) -> Path:
    """Where the picture of a score row lies: inside the run folder unless the path is absolute."""
    return Path(folder) / path


def address(path: str, folder: Path) -> str:
    """The picture's URL for a page in `folder`: relative where one exists, every byte quoted.

    Quoting `:` as well keeps a file called `javascript:x.png` a file.
    """
    place = locate(path, folder)
    try:
        relative = os.path.relpath(place.absolute(), Path(folder).absolute())
    except ValueError:  # another drive on Windows
        return place.absolute().as_uri()
    return quote(os.fsencode(Path(relative).as_posix()), safe="/")


def only_inside(study: Study, folder: Path, also: Sequence[Path] = ()) -> Study:
    """The study with only the pictures that lie in the run folder, or in the places of `also`.

    study.json may be anybody's and name any file; what it shows must not be more than what was
    sent with it, or what the user names again. The others are left out, and a warning counts them.
    Links are followed before it is decided.
    """
    roots = [os.path.realpath(place) for place in (folder, *also)]
    known: dict[str, str] = {"": ""}

    def kept(path: str) -> str:
        if path not in known:
            try:
                real = os.path.realpath(locate(path, folder))
            except (OSError, ValueError):
                real = ""
            inside = any(real == root or real.startswith(root.rstrip(os.sep) + os.sep)
                         for root in roots)  # fmt: skip
            known[path] = path if real and inside else ""
        return known[path]

    scores = tuple(replace(s, image=kept(s.image), control=kept(s.control)) for s in study.scores)
    lost = sum(1 for path, found in known.items() if path and not found)
    if not lost:
        return study
    warning = (
        f"{lost} picture{'s lie' if lost > 1 else ' lies'} outside the run folder and "
        f"{'are' if lost > 1 else 'is'} not shown; if they are your own, name their folder again."
    )
    sentences = (*study.verdict.sentences, Sentence("caution", "outside", warning))
    verdict = replace(study.verdict, sentences=sentences)
    return replace(study, scores=scores, verdict=verdict)


def size_of(path: Path) -> tuple[int, int] | None:
    """Width and height from the file's header, None when it cannot be read."""
    from PIL import Image

    try:
        with open_file(path) as file, Image.open(file) as picture:
            size: tuple[int, int] = picture.size
            return size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def load(path: Path, edge: int) -> Image.Image | None:
    """The picture as RGB, at most `edge` pixels on its longer side; None when it is unreadable."""
    from PIL import Image

    try:
        with open_file(path) as file, Image.open(file) as picture:
            if picture.width * picture.height > _MOST_PIXELS:
                return None
            picture.draft("RGB", (edge, edge))
            return _shrunk(picture.convert("RGB"), edge)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _shrunk(picture: Image.Image, edge: int) -> Image.Image:
    """The same picture, which is made smaller in place."""
    from PIL import Image

    picture.thumbnail((edge, edge), Image.Resampling.LANCZOS)
    return picture


def data_uri(path: Path, edge: int = THUMBNAIL_EDGE, quality: int = 75) -> str | None:
    """The picture as a WebP data URI, None when it is unreadable."""
    small = load(path, edge)
    if small is None:
        return None
    buffer = io.BytesIO()
    # Method 2 takes half the time of 3 and gives files 3 % larger.
    small.save(buffer, "WEBP", quality=quality, method=2)
    return _uri(buffer.getvalue(), "webp")


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def edited(case: CaseRecord, folder: Path) -> str | None:
    """What a case edits, small, as a data URI; only ever the copy in the folder."""
    if case.picture is None or not re.fullmatch(r"input_[0-9a-f]{12}\.png", case.picture.copy):
        return None
    place = folder / case.picture.copy
    return None if place.is_symlink() else data_uri(place)


def data_uris(paths: Sequence[Path], edge: int = THUMBNAIL_EDGE) -> list[str | None]:
    """`data_uri` of each path, on all cores (Pillow decodes and encodes without the GIL)."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda path: data_uri(path, edge), paths))


def estimate_single_file(study: Study, folder: Path, sample: int = 12) -> int:
    """Bytes that the pictures of a single-file report will take, from `sample` of them."""
    paths = sorted({s.image for s in study.scores if s.image})
    if not paths:
        return 0
    step = max(1, len(paths) // sample)
    chosen = paths[::step][:sample]
    sizes = [len(u) for u in data_uris([locate(p, folder) for p in chosen]) if u]
    return int(sum(sizes) / len(sizes) * len(paths)) if sizes else 0


@dataclass(frozen=True)
class Table:
    """The study's pictures by candidate and case, in the order of the grid."""

    candidates: tuple[Candidate, ...]
    cases: tuple[str, ...]
    controls: dict[str, Score]
    cells: dict[tuple[Candidate, str], Score]


def arrange(study: Study) -> Table:
    """Rows of the study -> candidates in natural order, cases in the order they came in."""
    candidates = {s.candidate for s in study.summaries}
    candidates |= {s.candidate for s in study.scores if s.candidate is not None}
    controls: dict[str, Score] = {}
    cells: dict[tuple[Candidate, str], Score] = {}
    for score in study.scores:
        if score.candidate is None:
            controls.setdefault(score.case, score)
        else:
            cells.setdefault((score.candidate, score.case), score)
    return Table(
        tuple(sorted(candidates, key=natural_order)),
        tuple(dict.fromkeys(s.case for s in study.scores)),
        controls,
        cells,
    )


SOME_MAPS = 64


def write_views(
    study: Study, table: Table, folder: Path, small: Collection[str], *, new: bool = True
) -> tuple[dict[tuple[str, str], str], dict[str, str]]:
    """SSIM maps against the control as `maps/*.jpg`, (picture, control) -> path in the folder, and
    of the pictures in `small` a data URI of at most `SMALL_EDGE` pixels (`analysers.views`).

    The map is the one whose mean is the score (Wang et al., 2004, on luma), on one ramp of
    luminance from black (unchanged) to white (SSIM 0), at most `MAP_EDGE` pixels. Most were made
    where the pictures were measured; the others take about 10 ms of processor time each. Studies of
    more than `MOST` pairs have `SOME_MAPS`, of the recommended setting first. Without `new` nothing
    is written, and the maps that lie there are told.
    """
    pairs = _pairs_to_map(study, table)
    images: dict[str, list[str]] = {}
    for image, control in pairs:
        images.setdefault(control, []).append(image)
    written: dict[tuple[str, str], str] = {}
    copies: dict[str, bytes] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for maps, seen in pool.map(
            lambda control: _views_beside(control, images[control], folder, new), images
        ):
            written |= maps
            copies |= seen
        rest = [path for path in small if path not in copies]
        copies |= zip(rest, pool.map(lambda path: _small(path, folder, new), rest), strict=True)
    found = {pair: written[pair] for pair in pairs if pair in written}
    return found, {path: _uri(copies[path], "jpeg") for path in small if copies[path]}


def _pairs_to_map(study: Study, table: Table) -> list[tuple[str, str]]:
    pick = study.verdict.pick
    order = {case: i for i, case in enumerate(table.cases)}
    cells = sorted(table.cells.items(), key=lambda i: (i[0][0] != pick, order[i[0][1]]))
    found = {}
    for (_, case), score in cells:
        control = score.control or (table.controls[case].image if case in table.controls else "")
        if score.image and control and score.image != control:
            found[score.image, control] = True
    return list(found) if len(found) <= MOST else list(found)[:SOME_MAPS]


def _views_beside(
    control: str, images: Sequence[str], folder: Path, new: bool
) -> tuple[dict[tuple[str, str], str], dict[str, bytes]]:
    """The maps of all pictures with one control, whose own part is computed once, if at all, and
    their small copies."""
    from analysers.metrics.ssim import ControlMaps

    maps: ControlMaps | None = None
    names, copies = {}, {}
    try:
        beside = _content(control, folder)
    except OSError:
        return {}, {}
    told = hashlib.sha256(beside).hexdigest()
    for image in images:
        try:
            data = _content(image, folder)
            digest = hashlib.sha256(data).hexdigest()
            name, made = map_name(digest, told), NO_VIEWS
            if new and not (folder / name).is_file():
                maps = maps or ControlMaps.of(decode_image(beside))
                made = compared(decode_image(data), maps)
                made.write(folder, digest, told)
            if (folder / name).is_file():
                names[image, control] = name
            if small := made.small or read_small(folder, digest):
                copies[image] = small
        except (OSError, ValueError, UserError):
            continue
    return names, copies


def _small(path: str, folder: Path, new: bool) -> bytes:
    """The picture's small copy, empty where it is unreadable."""
    try:
        data = _content(path, folder)
        digest = hashlib.sha256(data).hexdigest()
        if kept := read_small(folder, digest):
            return kept
        made = views(decode_image(data))
    except (OSError, UserError):
        return b""
    if new:
        made.write(folder, digest, "")
    return made.small


def _content(path: str, folder: Path) -> bytes:
    return read_file(locate(path, folder), MOST_BYTES)


def write_contact_sheet(
    study: Study,
    folder: Path,
    path: Path | None = None,
    *,
    cases: int = 6,
    settings: int = 10,
    edge: int = 256,
    also: Sequence[Path] = (),
) -> Path:
    """A PNG of `cases` rows and `settings` columns, the control first and the pick marked.

    It says what it shows: title, LoRA, base model and settings above, prompts at the left, the
    answer below. With more settings than columns, evenly spaced ones are shown, the pick always
    among them. Written to `path`, or to `contact_sheet.png` in `folder`.
    """
    study = only_inside(study, folder, also)
    from PIL import Image, ImageDraw

    table = arrange(study)
    rows = table.cases[:cases]
    columns = _spread(table.candidates, settings, study.verdict.pick)
    if not rows or not columns:
        raise UserError("There are no pictures for a contact sheet: nothing was rendered or found.")
    width, height = _tile(table, folder, edge)
    gap = 8
    # Text grows with the sheet, which is looked at as a whole.
    size = max(18, round((len(columns) + 2) * width / 100))
    step, left = round(1.4 * size), 11 * size
    font, bold = _fonts(size)
    _, large = _fonts(round(1.6 * size))
    across = max(left + (len(columns) + 1) * (width + gap), 720)
    room = across - 2 * gap
    head = _wrapped(about(study), font, room, 3)
    answer = _wrapped(one_line(study.verdict.answer), font, room, 3)
    above = gap + round(2.1 * size)
    top = above + step * len(head) + 2 * step + gap
    foot = 2 * gap + step * len(answer)
    sheet = Image.new("RGB", (across, top + len(rows) * (height + gap) + foot), "white")
    draw = ImageDraw.Draw(sheet)
    title = _clip(one_line(study.title) or "LoRA study", large, room)
    draw.text((gap, gap), title, fill="#1c1b1a", font=large)
    _lines(draw, (gap, above), head, font, "#65625e", step)
    _lines(draw, (gap, sheet.height - foot + gap), answer, font, "#1c1b1a", step)
    for i, case in enumerate(rows):
        words = _wrapped(_case_words(study, case), font, left - 2 * gap, max(2, height // step))
        _lines(draw, (gap, top + i * (height + gap)), words, font, "#1c1b1a", step)
    for j, column in enumerate([None, *columns]):
        x = left + j * (width + gap)
        picked = column is not None and column == study.verdict.pick
        text = "control" if column is None else one_line(column.heading(study.kind))
        face, ink = (bold, "#1f4fa3") if picked else (font, "#1c1b1a")
        heading = _wrapped(("★ " if picked else "") + text, face, width, 2)
        _lines(draw, (x, top - gap - step * len(heading)), heading, face, ink, step)
        for i, case in enumerate(rows):
            y = top + i * (height + gap)
            tile = _load_tile(table, column, case, folder, (width, height))
            if tile is None:
                draw.rectangle((x, y, x + width - 1, y + height - 1), fill="#eee")
                draw.text((x + 10, y + 10), "no picture", fill="#666", font=font)
            else:
                offset = ((width - tile.width) // 2, (height - tile.height) // 2)
                sheet.paste(tile, (x + offset[0], y + offset[1]))
            if picked:
                frame = (x - 3, y - 3, x + width + 2, y + height + 2)
                draw.rectangle(frame, outline="#1f4fa3", width=3)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=False)
    target = Path(path) if path else Path(folder) / "contact_sheet.png"
    write_result(target, buffer.getvalue())
    return target


def _load_tile(
    table: Table, candidate: Candidate | None, case: str, folder: Path, box: tuple[int, int]
) -> Image.Image | None:
    path = _picture(table, candidate, case)
    tile = load(locate(path, folder), max(box)) if path else None
    return tile.resize(_inside(tile.size, box)) if tile else None


def _case_words(study: Study, case: str) -> str:
    row = next(s for s in study.scores if s.case == case)
    return one_line(row.prompt) + ("" if row.seed is None else f" · seed {row.seed}")


def write_animation(
    study: Study,
    folder: Path,
    path: Path | None = None,
    *,
    cases: int = 4,
    edge: int = 360,
    milliseconds: int = 900,
    also: Sequence[Path] = (),
) -> Path:
    """An animated WebP that sweeps the settings forwards and back over up to `cases` cases.

    Title, LoRA, base model and settings stand above, the prompt under each picture. On a plane of
    epochs and strengths it sweeps the strengths of the picked checkpoint. Written to `path`, or to
    `sweep.webp` in `folder`.
    """
    study = only_inside(study, folder, also)
    from PIL import Image, ImageDraw

    table = arrange(study)
    rows = table.cases[:cases]
    columns: list[Candidate] = list(table.candidates)
    if study.kind == "plane" and study.verdict.pick is not None:
        place = study.verdict.pick.place
        columns = [c for c in columns if c.place == place]
    if not rows or not columns:
        raise UserError("There are no pictures for an animation: nothing was rendered or found.")
    width, height = _tile(table, folder, edge)
    across = 1 if len(rows) == 1 else 2
    down = -(-len(rows) // across)
    font, bold = _fonts(15)
    _, large = _fonts(24)
    room = across * width - 24
    head = _wrapped(about(study), font, room, 4)
    top, words, bar = 46 + 21 * len(head) + 8, 46, 46
    frames = []
    for column in [None, *columns]:
        size = (across * width, top + down * (height + words) + bar)
        frame = Image.new("RGB", size, "#16171a")
        draw = ImageDraw.Draw(frame)
        title = _clip(one_line(study.title) or "LoRA study", large, room)
        draw.text((12, 10), title, "#f0f0f2", font=large)
        _lines(draw, (12, 44), head, font, "#b4b1ab", 21)
        for i, case in enumerate(rows):
            x, y = (i % across) * width, top + (i // across) * (height + words)
            tile = _load_tile(table, column, case, folder, (width, height))
            if tile is not None:
                frame.paste(tile, (x, y))
            said = _wrapped(_case_words(study, case), font, width - 16, 2)
            _lines(draw, (x + 12, y + height + 3), said, font, "#b4b1ab", 20)
        picked = column is not None and column == study.verdict.pick
        text = "without the LoRA" if column is None else one_line(column.heading(study.kind))
        word = "recommended" if study.verdict.recommended else "ranked first"
        text += f"   ★ {word}" if picked else ""
        colour = "#8ab4ff" if picked else "#f0f0f2"
        draw.text((12, size[1] - bar + 6), _clip(text, large, room), colour, font=large)
        frames.append(frame)
    sequence = frames + frames[-2:0:-1]
    times = [2 * milliseconds if f in (frames[0], frames[-1]) else milliseconds for f in sequence]
    buffer = io.BytesIO()
    sequence[0].save(
        buffer, "WEBP", save_all=True, append_images=sequence[1:], duration=times, loop=0,
        quality=82, method=3,
    )  # fmt: skip
    target = Path(path) if path else Path(folder) / "sweep.webp"
    write_result(target, buffer.getvalue())
    return target


def _lines(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    lines: Sequence[str],
    font: ImageFont.FreeTypeFont,
    ink: str,
    step: int,
) -> None:
    for i, line in enumerate(lines):
        draw.text((place[0], place[1] + step * i), line, fill=ink, font=font)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int, most: int) -> list[str]:
    """The text in at most `most` lines of `width` pixels; what does not fit ends in "…"."""
    lines: list[str] = []
    rest = text[:600].split()
    while rest and len(lines) < most - 1:
        line = rest.pop(0)
        while rest and font.getlength(f"{line} {rest[0]}") <= width:
            line += " " + rest.pop(0)
        lines.append(_clip(line, font, width))
    return [*lines, _clip(" ".join(rest), font, width)] if rest else lines


def _picture(table: Table, candidate: Candidate | None, case: str) -> str:
    if candidate is not None:
        cell = table.cells.get((candidate, case))
        return cell.image if cell else ""
    if case in table.controls:
        return table.controls[case].image
    return next((s.control for (_, c), s in table.cells.items() if c == case and s.control), "")


def _spread(
    candidates: Sequence[Candidate], most: int, always: Candidate | None
) -> list[Candidate]:
    if len(candidates) <= most:
        return list(candidates)
    last = len(candidates) - 1
    chosen = {round(i * last / (most - 1)) for i in range(most)} if most > 1 else {0}
    if always is not None and always in candidates:
        wanted = candidates.index(always)
        if wanted not in chosen:
            chosen.discard(min(chosen, key=lambda i: abs(i - wanted)))
            chosen.add(wanted)
    return [candidates[i] for i in sorted(chosen)]


def _tile(table: Table, folder: Path, edge: int) -> tuple[int, int]:
    """The tile that fits the study's first readable picture, `edge` on its longer side."""
    paths: Iterable[str] = (
        *(s.image for s in table.controls.values()),
        *(s.image for s in table.cells.values()),
    )
    for path in paths:
        size = size_of(locate(path, folder)) if path else None
        if size:
            return _inside(size, (edge, edge))
    return edge, edge


def _inside(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    scale = min(box[0] / size[0], box[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _fonts(size: int) -> tuple[ImageFont.FreeTypeFont, ImageFont.FreeTypeFont]:
    """matplotlib ships DejaVu Sans, so every machine draws the same sheet."""
    import matplotlib
    from PIL import ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return (
        ImageFont.truetype(str(folder / "DejaVuSans.ttf"), size),
        ImageFont.truetype(str(folder / "DejaVuSans-Bold.ttf"), size),
    )


def _clip(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    text = text[:400]
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
