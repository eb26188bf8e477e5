"""The live page for a test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import LORA, Site

import sample_data


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    loras = tmp_path / "loras"
    loras.mkdir()
    shutil.copy(sample_data.PATH / "lora" / LORA, loras)
    shutil.copy(sample_data.PATH / "lora" / LORA, tmp_path / "secret.safetensors")
    found = Site(tmp_path)
    yield found
    found.end()
