"""What a report shows of a picture besides itself: where it changed, and a small copy.

Both are JPEG files in `maps/` of the run folder, named by the pictures' bytes, so that they are
made once: where a picture is measured, as it is decoded there and its SSIM map is at hand, or else
by the report.
"""

from __future__ import annotations

import hashlib
import io
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from generation.files import open_file, write_atomically

if TYPE_CHECKING:
    from PIL import Image

    from analysers.metrics.luma import Pixels
    from analysers.metrics.ssim import ControlMaps

FOLDER = "maps"
MOST = 400
"""In studies of more pictures not every one has views."""

MAP_EDGE, SMALL_EDGE = 512, 224
_MOST_BYTES = 1 << 18


@dataclass(frozen=True)
class Views:
    """The two files' contents, empty where there is none."""

    changed: bytes = b""
    small: bytes = b""

    def write(self, folder: Path, image: str, control: str) -> None:
        """Put them into the run folder; `image` and `control` are the files' SHA-256 in
        hexadecimal. A disk that takes none loses no study."""
        with suppress(OSError):
            if self.small:
                write_atomically(folder / small_name(image), self.small)
            if self.changed and control:
                write_atomically(folder / map_name(image, control), self.changed)


NO_VIEWS = Views()


def map_name(image: str, control: str) -> str:
    """The path in the run folder of a picture's map against its control, by their SHA-256."""
    both = bytes.fromhex(image) + bytes.fromhex(control)
    return f"{FOLDER}/{hashlib.sha256(both).hexdigest()[:20]}.jpg"


def small_name(image: str) -> str:
    """The path in the run folder of a picture's small copy, by its SHA-256."""
    return f"{FOLDER}/{image[:20]}.small.jpg"


def read_small(folder: Path, image: str) -> bytes:
    """The small copy that lies in the run folder, empty if there is none. Links are not followed:
    what is read here goes into a page."""
    path = folder / small_name(image)
    try:
        if path.is_symlink() or path.parent.is_symlink():
            return b""
        with open_file(path) as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError:
        return b""
    return content if content.startswith(b"\xff\xd8") and len(content) <= _MOST_BYTES else b""


def views(image: Pixels, changed: Pixels | None = None) -> Views:
    """The views of a uint8 picture; `changed` is its map as `ControlMaps.ssim` fills it."""
    from PIL import Image

    small = Image.fromarray(image)
    # At this size LANCZOS looks no better than HAMMING and takes four times as long.
    small.thumbnail((SMALL_EDGE, SMALL_EDGE), Image.Resampling.HAMMING)
    if changed is None:
        return Views(small=_jpeg(small))
    whole = Image.fromarray(changed)
    whole.thumbnail((MAP_EDGE, MAP_EDGE))
    return Views(_jpeg(whole), _jpeg(small))


def compared(image: Pixels, control: ControlMaps) -> Views:
    """The views of a uint8 picture, which is resampled to its control's size where it differs."""
    import numpy as np
    from PIL import Image

    height, width = control.luma.shape
    resampled = image
    if image.shape[:2] != (height, width):
        told = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
        resampled = np.asarray(told)
    changed = np.empty((height, width), np.uint8)
    control.ssim(resampled, changed)
    return views(image, changed)


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=75)  # WebP is a fifth smaller and takes 20 times as long
    return buffer.getvalue()
