"""What the page can ask for: addresses and their answers."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

from analysers.runs.conclude import load_study
from analysers.runs.plan import plan_study
from analysers.runs.request import StudyRequest
from analysers.serve import form
from analysers.serve.course import ASKED, Course, Log
from analysers.serve.folders import Folders, NotThere
from analysers.study import NOT_RENDERED, Kind, Study
from generation.errors import UserError
from generation.files import read_utf8
from generation.folder import open_run_folder, write_result
from reports import html, pictures, plots, tables, votes

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

MOST_STREAMS = 64
"""Pages that watch at once; a hidden tab does not."""

BEAT = 0.25
"""Seconds between two looks at the log."""

EDGE = 256
"""Pixels of a picture's longer side in the page."""

_TEMPLATES = Path(__file__).parent / "templates"
_STYLE = Path(html.__file__).parent / "templates" / "report.css"
_VOTES = "votes.json"
_SANDBOX = {"content-security-policy": "frame-ancestors 'none'"}  # the report brings its own


class NotYet(UserError):
    """There is no answer before a picture is scored."""


class Live:
    """The state of the program: the folders and the one course."""

    def __init__(self, kind: Kind, folders: Folders, closing: Callable[[], bool]) -> None:
        self.kind = kind
        self.folders = folders
        self.course: Course | None = None
        self._closing = closing
        self._streams: set[_Stream] = set()
        self._busy = asyncio.Lock()
        self._pages = Environment(
            loader=FileSystemLoader(_TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._pages.filters["visible"] = html.visible
        self._pages.filters["terms"] = html.visible

    def app(self) -> Starlette:
        """The page without its guard."""
        return Starlette(
            routes=[
                Route("/", self.home),
                Route("/live.css", self.style),
                Route("/live.js", self.script),
                Route("/favicon.ico", self.icon),
                Route("/folder", self.folder),
                Route("/proposals", self.proposals),
                Route("/demo", self.demo),
                Route("/plan", self.plan, methods=["POST"]),
                Route("/start", self.start, methods=["POST"]),
                Route("/runs/{run}/", self.run),
                Route("/runs/{run}/log", self.log),
                Route("/runs/{run}/answer", self.answer),
                Route("/runs/{run}/report.html", self.report),
                Route("/runs/{run}/export/{name}", self.export),
                Route("/runs/{run}/continue", self.go_on, methods=["POST"]),
                Route("/runs/{run}/votes", self.votes, methods=["POST"]),
                Route("/runs/{run}/{action:str}", self.control, methods=["POST"]),
                Route("/runs/{run}/{path:path}", self.picture),
            ],
            exception_handlers={UserError: _told, OSError: _failed},  # type: ignore[dict-item]
        )

    async def close(self) -> None:
        """End the course; what is in flight lands first."""
        if self.course is not None:
            self.course.stop()
            await run_in_threadpool(self.course.join)

    # the form

    async def home(self, request: Request) -> Response:
        names = await run_in_threadpool(self.folders.run_names)
        going = self.course.out.name if self.course is not None and self.course.going else ""
        return self._page(
            "form.html.j2", kind=self.kind, labels=form.LABELS, runs=names, going=going
        )

    async def style(self, request: Request) -> Response:
        text = _STYLE.read_text("utf-8") + (_TEMPLATES / "live.css").read_text("utf-8")
        return Response(text, media_type="text/css")

    async def script(self, request: Request) -> Response:
        return Response((_TEMPLATES / "live.js").read_text("utf-8"), media_type="text/javascript")

    async def icon(self, request: Request) -> Response:
        return Response(status_code=204)

    async def folder(self, request: Request) -> Response:
        asked = request.query_params
        place, field = asked.get("path", ""), asked.get("for", "loras")
        found = await run_in_threadpool(self.folders.listing, place, field)
        return JSONResponse([vars(entry) for entry in found])

    async def proposals(self, request: Request) -> Response:
        path = request.query_params.get("path", "")
        return JSONResponse(await run_in_threadpool(form.proposals, path, self.folders))

    async def demo(self, request: Request) -> Response:
        return JSONResponse(form.demo(request.query_params.get("kind", "")))

    async def plan(self, request: Request) -> Response:
        asked = form.request(await _fields(request), self.folders)
        idle = self.course is None or not self.course.going
        async with self._busy:
            plan = await run_in_threadpool(plan_study, asked)
            thrifty = asked.judging.thrifty
            return JSONResponse(await run_in_threadpool(form.told, plan, thrifty, idle))

    async def start(self, request: Request) -> Response:
        return await self._start(form.request(await _fields(request), self.folders))

    async def go_on(self, request: Request) -> Response:
        """Continue a run that was cut short, before or after a restart."""
        folder = self._folder(request)
        try:
            asked = StudyRequest.from_json(read_utf8(folder / ASKED))
        except (OSError, ValueError):
            raise UserError("it does not say what was asked; ask again in the form.") from None
        asked = replace(asked, output=replace(asked.output, out=folder, resume=True))
        form.check_places(asked, self.folders)
        return await self._start(asked)

    async def _start(self, asked: StudyRequest) -> Response:
        async with self._busy:
            if self.course is not None and self.course.going:
                raise UserError(f"{self.course.out.name} goes on; wait for its end, or stop it.")
            plan = await run_in_threadpool(plan_study, asked)
            self.course = await run_in_threadpool(Course, plan, asked, _COMMAND)
            self.course.start()
        return JSONResponse({"run": plan.out.name})

    # one run

    def _folder(self, request: Request) -> Path:
        return self.folders.run(request.path_params["run"])

    def _course(self, request: Request) -> Course | None:
        """The course, if it is that of the run that is asked for."""
        course = self.course
        if course is not None and course.out.name == request.path_params["run"]:
            return course
        return None

    def _study(self, request: Request) -> tuple[Study, Path]:
        """The study by now, votes and all, and its folder; UserError before there is one."""
        course = self._course(request)
        written = course is not None and (course.out / "study.json").is_file()
        if course is not None and (course.going or course.study is not None or not written):
            folder = course.out
            try:
                study = course.so_far()
            except ValueError:
                raise NotYet("Nothing is scored yet.") from None
        else:
            folder = self._folder(request)
            study = load_study(folder)
        ballot = folder / _VOTES
        if ballot.is_file() and not ballot.is_symlink():
            study = votes.with_votes(study, ballot)
        return pictures.only_inside(study, folder), folder

    async def run(self, request: Request) -> Response:
        course = self._course(request)
        folder = course.out if course is not None else self._folder(request)
        return self._page(
            "run.html.j2",
            name=folder.name,
            live=course is not None,
            finished=(folder / "study.json").is_file(),
            known=(folder / ASKED).is_file() and not (folder / ASKED).is_symlink(),
        )

    async def answer(self, request: Request) -> Response:
        """The answer by now, to be put into a page; nothing before two settings can be compared."""
        course = self._course(request)
        going = course is not None and course.going
        try:
            study, folder = await run_in_threadpool(self._study, request)
        except NotYet:
            return Response(status_code=204)
        if going and sum(summary.rank is not None for summary in study.summaries) < 2:
            return Response(status_code=204)
        hero = await run_in_threadpool(plots.hero, study)
        return self._page(
            "answer.html.j2",
            verdict=study.verdict,
            reason="".join(study.verdict.texts("answer")[1:2]),
            people=votes.people(study),
            hero=hero,
            so_far=study.evidence.so_far,
            unfinished=any(score.reason == NOT_RENDERED for score in study.scores),
        )

    async def report(self, request: Request) -> Response:
        """The report of the study by now, from its rows: no page that lies there is passed on."""

        def write() -> str:
            study, folder = self._study(request)
            # The folder may be a run's that is under way; the page computes what maps it lacks.
            return html.render(html.build(study, folder, new_maps=False))

        return HTMLResponse(await run_in_threadpool(write), headers=_SANDBOX)

    async def export(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _EXPORTS:
            raise NotThere("There is no such export.")

        def write() -> bytes:
            study, folder = self._study(request)
            return _EXPORTS[name](study, folder)

        content = await run_in_threadpool(write)
        kind = {"csv": "text/csv", "md": "text/markdown", "html": "application/octet-stream"}
        return Response(
            content,
            media_type=kind.get(name.rpartition(".")[2], "application/octet-stream"),
            headers={"content-disposition": f'attachment; filename="{name}"'},
        )

    async def votes(self, request: Request) -> Response:
        body = await request.body()

        def keep() -> str:
            study, folder = self._study(request)
            with tempfile.TemporaryDirectory() as place:
                ballot = Path(place, _VOTES)
                ballot.write_bytes(body)
                try:
                    told = votes.people(votes.with_votes(study, ballot))
                except UserError as error:
                    raise UserError(str(error).replace(str(ballot), "the file")) from None
            with open_run_folder(folder):
                write_result(folder / _VOTES, body)
            return told

        return JSONResponse({"sentence": await run_in_threadpool(keep)})

    async def control(self, request: Request) -> Response:
        course, action = self._course(request), request.path_params["action"]
        if course is None or action not in ("pause", "resume", "stop"):
            raise UserError("it is not under way.")
        getattr(course, action)()
        return JSONResponse({"state": course.state})

    async def picture(self, request: Request) -> Response:
        params = request.path_params
        path = await run_in_threadpool(self.folders.picture, params["run"], params["path"])
        if "small" not in request.query_params:
            return FileResponse(path)
        small = await run_in_threadpool(pictures.load, path, EDGE)
        if small is None:
            raise NotThere("There is no such picture.")
        return Response(await run_in_threadpool(_webp, small), media_type="image/webp")

    async def log(self, request: Request) -> Response:
        """Server-sent events: the log from where this page stands, then what is added to it."""
        course = self._course(request)
        if course is None:
            raise UserError("it is not under way.")
        since = request.headers.get("last-event-id") or request.query_params.get("after", "0")
        begin = int(since) if since.isdigit() and len(since) < 10 else 0
        return _Stream(self._watch(course.log, begin), self._streams)

    async def _watch(self, log: Log, number: int) -> AsyncIterator[str]:
        quiet = 0.0
        yield "retry: 1000\n\n"
        while not self._closing():
            number, lines = log.after(number)
            if lines:
                quiet = 0.0
                yield f"id: {number}\ndata: [{','.join(lines)}]\n\n"
            if len(lines) < 500:
                await asyncio.sleep(BEAT)
                quiet += BEAT
            if quiet >= 15:
                quiet = 0.0
                yield ": still here\n\n"

    def _page(self, template: str, **values: Any) -> Response:
        return HTMLResponse(self._pages.get_template(template).render(**values))


class _Stream(StreamingResponse):
    """An answer that goes on; one of at most `MOST_STREAMS` at a time."""

    def __init__(self, content: AsyncIterator[str], others: set[_Stream]) -> None:
        super().__init__(content, media_type="text/event-stream")
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if len(self._others) >= MOST_STREAMS:
            told = f"{MOST_STREAMS} pages watch already; close some.\n"
            await PlainTextResponse(told, 503)(scope, receive, send)
            return
        self._others.add(self)
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._others.discard(self)


_COMMAND = ("the live page",)


def _sheet(study: Study, folder: Path) -> bytes:
    with tempfile.TemporaryDirectory() as place:
        path = pictures.write_contact_sheet(study, folder, Path(place, "sheet.png"))
        return path.read_bytes()


def _sweep(study: Study, folder: Path) -> bytes:
    with tempfile.TemporaryDirectory() as place:
        path = pictures.write_animation(study, folder, Path(place, "sweep.webp"))
        return path.read_bytes()


def _single(study: Study, folder: Path) -> bytes:
    page = html.render(html.build(study, folder, single_file=True))
    return page.encode("utf-8", "backslashreplace")


_EXPORTS: Mapping[str, Callable[[Study, Path], bytes]] = {
    "scores.csv": lambda study, _: tables.scores_rows(study).csv_text().encode(),
    "summary.csv": lambda study, _: tables.summary_rows(study).csv_text().encode(),
    "summary.md": lambda study, _: tables.markdown(study).encode("utf-8", "backslashreplace"),
    "report.html": _single,
    "contact_sheet.png": _sheet,
    "sweep.webp": _sweep,
}


def _webp(image: Any) -> bytes:
    import io

    file = io.BytesIO()
    image.save(file, "WEBP", quality=80)
    return file.getvalue()


async def _fields(request: Request) -> dict[str, Any]:
    try:
        found = json.loads(await request.body())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UserError("the form could not be read; reload the page.")
    return found


async def _told(request: Request, error: UserError) -> Response:
    """The sentence, with the fields named as the form names them."""
    status = 404 if isinstance(error, NotThere) else 422
    told = error.told(form.spelled)
    return JSONResponse({"field": error.field, "sentence": told}, status)


async def _failed(request: Request, error: OSError) -> Response:
    return JSONResponse({"field": "", "sentence": f"{error.strerror or error}."}, 422)
