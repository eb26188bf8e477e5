"""How an engine is opened, here or in another process, without importing torch before."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from generation.cells import Checkpoint, RenderSettings
from generation.errors import UserError
from generation.loras import blocks

if TYPE_CHECKING:
    from generation.renderers.diffusers.engine import Engine
    from generation.renderers.diffusers.models import BaseModel

PIP_RENDER = "pip install 'lora-analysers[render]'"


def import_engine() -> Any:
    """The engine module; UserError with the pip command when its libraries are missing."""
    try:
        from generation.renderers.diffusers import engine
    except ModuleNotFoundError as error:
        raise UserError(f"Rendering needs {error.name}, which is missing: {PIP_RENDER}") from error
    return engine


@dataclass(frozen=True)
class Setup:
    """Opens engines of one model; picklable, so that each device's process opens its own."""

    model: BaseModel
    fixed: tuple[tuple[Checkpoint, Decimal], ...] = ()
    low_vram: bool = False

    def __call__(self, settings: RenderSettings, device: str = "") -> Engine:
        """Load the model (on `device`, if given); this is where torch is imported."""
        s = settings
        kind: type[Engine] = import_engine().Engine
        return kind(
            self.model,
            device=device or s.device,
            dtype=s.dtype,
            sampler=s.sampler,
            steps=s.steps,
            guidance_scale=s.guidance_scale,
            width=s.width,
            height=s.height,
            clip_skip=s.clip_skip,
            guidance_rescale=s.guidance_rescale,
            batch_size=s.batch_size,
            fixed=self.fixed,
            part_strengths={part: Decimal(value) for part, value in s.part_strengths},
            block_weights=blocks.parse(s.block_weights, self.model.family)
            if s.block_weights
            else None,
            compiled=s.compiled,
            low_vram=self.low_vram,
            mixed=s.mixed,
            shared=s.shared,
        )
