"""Cells -> pictures, weights switched as rarely as possible.

Pictures are decoded and compressed by threads while the next ones are denoised. With several
devices, one process for each takes pieces of the work and sends pictures back; a picture's bits do
not depend on which.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from generation.cells import (
    Cell,
    Checkpoint,
    ModelRecord,
    Picture,
    RendererRecord,
    RenderSettings,
)
from generation.errors import UserError, named
from generation.executors import Executor, ProcessPool, never, worker_number
from generation.pictures.infotext import parameters_text
from generation.pictures.pixels import Pixels, encode_png
from generation.records import plain
from generation.renderers.diffusers import batches, pacing, quantised
from generation.renderers.diffusers.batches import stretches
from generation.renderers.diffusers.setup import import_engine
from generation.renderers.renderer import Renderer

if TYPE_CHECKING:
    import torch

    from generation.renderers.diffusers.engine import Engine

T = TypeVar("T")

WRITERS = 2
"""Threads that compress pictures: PNG compression scales 1.6 times from one to two."""

BATCHES_A_TASK = 4
"""What a device's process takes at once: long enough to overlap decoding, short enough to share."""

NOT_FINITE = (
    "the model painted no finite picture (its numbers overflowed); try another dtype (bfloat16, "
    "float32) or other strengths"
)


class DiffusersRenderer(Renderer):
    """Paints with diffusers, here or on several devices.

    `open_engine(settings, device)` loads the model, once and only if something is to be painted;
    with more than one of `devices` it is called in a process of its own for each, and must be
    picklable; a `cluster` does it on its nodes instead. `fixed` are the LoRAs under every picture,
    for its infotext; what of them decides pixels stands in the settings. `stored` says how the
    model's file is quantised, for the record.
    """

    def __init__(
        self,
        settings: RenderSettings,
        open_engine: Callable[..., Engine],
        *,
        devices: Sequence[str] = (),
        fixed: Sequence[tuple[Checkpoint, Decimal]] = (),
        engine: Engine | None = None,
        cluster: Executor | None = None,
        stored: str = "",
    ) -> None:
        self.stored = stored
        self.settings, self.devices, self.fixed = settings, tuple(devices), tuple(fixed)
        self._open_engine, self._engine = open_engine, engine
        self._cluster = cluster
        self._keep: Callable[[], None] | None = None

    @property
    def engine(self) -> Engine:
        """The engine in this process, loaded when it is first asked for."""
        if self._engine is None:
            device = self.devices[0] if self.devices else ""
            self._engine = self._open_engine(self.settings, device)
        return self._engine

    def identity(self, cell: Cell) -> Mapping[str, Any]:
        """The settings that decide pixels, with the engine's own version."""
        return self.settings.identity(cell)

    def record(self) -> RendererRecord:
        """The model and the settings, as they were used."""
        used = self.settings
        merged = quantised.MERGED if self.stored else None
        model = ModelRecord(used.model, used.model_hash, self.stored or None, merged)
        return RendererRecord(model, plain(used))

    @property
    def warm_up(self) -> int:
        """A batch, or a piece of work from each device."""
        batch = self.settings.batch_size
        return batch if len(self.devices) < 2 else len(self.devices) * BATCHES_A_TASK * batch

    @property
    def busy(self) -> bool:
        """Whether it paints on this machine's CPU."""
        return self.settings.device == "cpu" and self._cluster is None

    def render(
        self, cells: Sequence[Cell], stopped: Callable[[], bool] = never
    ) -> Iterator[Picture]:
        """Paint the cells in order, batch by batch.

        A checkpoint that cannot be applied fails its own cells and no others. When memory runs out,
        the batch is halved and painting goes on; a picture's facts tell the batch it came from.
        """
        if not cells:
            return
        if self._keep is not None:
            self._keep()
        if len(self.devices) < 2 and self._cluster is None:
            yield from paint(cells, self.engine, self.settings, self.fixed, stopped)
            return
        size = BATCHES_A_TASK * self.settings.batch_size
        pieces = [
            stretch[start : start + size]
            for stretch in stretches(cells, self.settings.mixed)
            for start in range(0, len(stretch), size)
        ]
        devices = self.devices if self._cluster is None else (self.settings.device,)
        worker = partial(_open_worker, self._open_engine, self.settings, self.fixed, devices)
        if self._cluster is not None:  # CPUs round otherwise with another number of threads
            worker = partial(_with_threads, worker, import_engine().threads())
        pool = self._cluster or ProcessPool(min(len(self.devices), len(pieces)))
        for pictures in pool.map(worker, pieces, stopped):
            yield from pictures

    def begin(self, cells: Sequence[Cell], out: Path) -> DiffusersRenderer:
        """With the batches that this folder began with, or that suit these cells and the device."""
        batching, engine = pacing.decide(self.settings, cells, out, lambda: self.engine)
        if engine is not None and len(self.devices) > 1:  # each device's process loads its own
            engine = self._engine = None
            import_engine().free_memory()
        begun = DiffusersRenderer(
            pacing.decided(self.settings, batching),
            self._open_engine,
            devices=self.devices,
            fixed=self.fixed,
            engine=engine,
            cluster=self._cluster,
            stored=self.stored,
        )
        key = pacing.batch_key(self.settings)
        begun._keep = partial(batches.keep, out, key, batching)
        return begun

    def seconds(self, cells: Sequence[Cell]) -> float | None:
        """From two measured batches; loads the model."""
        return pacing.seconds(self.engine, cells, len(self.devices)) if cells else 0.0

    def otherwise(self) -> Renderer:
        """The same engine with batches of another size."""
        return _AnotherBatch(self)


class _AnotherBatch(Renderer):
    """Paints cells in a batch of another size than its renderer, which rounds otherwise."""

    def __init__(self, renderer: DiffusersRenderer) -> None:
        self._renderer = renderer

    def identity(self, cell: Cell) -> Mapping[str, Any]:
        return self._renderer.identity(cell)

    def render(
        self, cells: Sequence[Cell], stopped: Callable[[], bool] = never
    ) -> Iterator[Picture]:
        engine, settings = self._renderer.engine, self._renderer.settings
        # A GPU paints few pictures together as fast as one; a CPU rounds alike from two on.
        size = 1 if settings.device == "cpu" else len(cells)
        usual, engine.batch_size = (
            engine.batch_size,
            size + 1 if size == settings.batch_size else size,
        )
        try:
            yield from paint(cells, engine, settings, self._renderer.fixed, stopped)
        finally:
            engine.batch_size = usual


def picture(
    cell: Cell,
    pixels: Pixels,
    settings: RenderSettings,
    fixed: Sequence[tuple[Checkpoint, Decimal]] = (),
    batch_size: int | None = None,
) -> Picture:
    """Painted pixels (uint8, HxWx3) as a PNG file with A1111's infotext."""
    checkpoint = cell.checkpoint
    height, width = pixels.shape[:2]
    text = parameters_text(
        prompt=cell.case.prompt,
        negative=cell.case.negative,
        steps=settings.steps,
        sampler=settings.sampler,
        guidance=settings.guidance_scale,
        seed=cell.case.seed,
        width=width,
        height=height,
        model=Path(settings.model).name,
        model_hash=settings.model_hash[:10],
        lora_name=checkpoint.path.stem if checkpoint else "",
        lora_hash=checkpoint.tensor_hash if checkpoint else "",
        strength=cell.strength,
        clip_skip=settings.clip_skip,
        fixed=[(other.path.stem, other.tensor_hash, weight) for other, weight in fixed],
    )
    facts = {"model": settings.model, "batch_size": batch_size or settings.batch_size}
    return Picture(cell, encode_png(pixels, {"parameters": text}), facts=facts)


def _open_worker(
    open_engine: Callable[..., Engine],
    settings: RenderSettings,
    fixed: Sequence[tuple[Checkpoint, Decimal]],
    devices: Sequence[str],
) -> Callable[[list[Cell]], list[Picture]]:
    engine = open_engine(settings, devices[worker_number() % len(devices)])
    return lambda piece: list(paint(piece, engine, settings, fixed))


def _with_threads(
    open_worker: Callable[[], Callable[[list[Cell]], list[Picture]]], count: int
) -> Callable[[list[Cell]], list[Picture]]:
    """The worker, opened where the machine of the run folder's number of threads is used."""
    import_engine().threads(count)
    return open_worker()


@dataclass(frozen=True)
class _Flying:
    """A denoised batch on its way to pictures."""

    cells: Sequence[Cell]
    latents: torch.Tensor
    pictures: Future[list[Future[Picture] | None]]

    def landed(self) -> bool:
        """Whether nothing has to be waited for any more."""
        if not self.pictures.done():
            return False
        failed = self.pictures.exception() is not None
        return failed or all(one is None or one.done() for one in self.pictures.result())


def paint(
    cells: Sequence[Cell],
    engine: Engine,
    settings: RenderSettings,
    fixed: Sequence[tuple[Checkpoint, Decimal]] = (),
    stopped: Callable[[], bool] = never,
) -> Iterator[Picture]:
    """Denoise here, decode in one thread and compress in others; on a GPU at most two batches wait
    for them, on a CPU none does."""
    flying: deque[_Flying] = deque()
    beside = _beside(engine)
    with ThreadPoolExecutor(WRITERS) as writers, ThreadPoolExecutor(1) as decoder:

        def decode(batch: Sequence[Cell], latents: torch.Tensor) -> list[Future[Picture] | None]:
            each = partial(picture, settings=settings, fixed=fixed, batch_size=engine.batch_size)
            painted = (engine.decode(latents[i : i + 1])[0] for i in range(len(batch)))
            return [
                None if pixels is None else writers.submit(each, cell, pixels)
                for cell, pixels in zip(batch, painted, strict=True)
            ]

        def land() -> Iterator[Picture]:
            batch = flying.popleft()
            try:
                pictures = batch.pictures.result()
            except MemoryError:  # now that nothing is denoised beside it
                pictures = decode(batch.cells, batch.latents)
            for cell, one in zip(batch.cells, pictures, strict=True):
                yield Picture(cell, reason=NOT_FINITE) if one is None else one.result()

        start = decoder.submit if beside else _at_once
        for queue in stretches(cells, engine.mixed):
            if stopped():
                break
            queue, refused = _prepared(engine, queue, settings)
            yield from refused
            while queue and not stopped():
                chunk = engine.batch(queue)
                strengths = [cell.strength for cell in chunk] if engine.mixed else []
                try:
                    latents = engine.denoise([cell.case for cell in chunk], strengths)
                    flying.append(_Flying(chunk, latents, start(decode, chunk, latents)))
                except MemoryError:
                    if not flying:
                        _halve(engine, settings)
                    while flying:  # what is being decoded takes room too
                        yield from land()
                    continue
                queue = [cell for cell in queue if cell not in chunk]
                while flying and (not beside or flying[0].landed() or len(flying) > 2):
                    yield from land()
        while flying:
            yield from land()


def _prepared(
    engine: Engine, queue: list[Cell], settings: RenderSettings
) -> tuple[list[Cell], list[Picture]]:
    """Put a stretch's weights in place: its cells that can be painted now, and the reasons of the
    others. Raises UserError where the memory does not suffice, or without any LoRA."""
    try:
        engine.prepare(queue)
        return queue, []
    except UserError as error:
        refused = [Picture(cell, reason=str(error)) for cell in queue if not cell.is_control]
        controls = [cell for cell in queue if cell.is_control]
        if controls:  # the study's own error then, and no checkpoint's
            engine.prepare(controls)
        return controls, refused
    except MemoryError:
        raise UserError(
            f"{settings.device} has too little memory to switch weights; try {named('low_vram')}.",
            field="device",
        ) from None


def _beside(engine: Engine) -> bool:
    """Whether pictures are decoded while the next are denoised. Two threads of a CPU's parallel
    loops would make the whole a third slower, and Metal's one command queue is not made for two."""
    return engine.device.type == "cuda"


def _at_once(work: Callable[..., T], *arguments: Any) -> Future[T]:
    """What an executor's `submit` returns, of work done here and now."""
    future: Future[T] = Future()
    try:
        future.set_result(work(*arguments))
    except MemoryError as error:
        future.set_exception(error)
    return future


def _halve(engine: Engine, settings: RenderSettings) -> None:
    if engine.batch_size == 1:
        raise UserError(
            f"{settings.device} has too little memory for one picture of "
            f"{settings.width}x{settings.height}; lower {named('size')} or "
            f"try {named('low_vram')}.",
            field="device",
        ) from None
    engine.batch_size //= 2
