"""What several tests share: one thread per process, no deadlines, and the embedded model."""

from __future__ import annotations

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
# A shell lets its jobs in the background ignore Ctrl-C; the tests that press it are not to.
signal.signal(signal.SIGINT, signal.default_int_handler)

from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
from driving import Page, start  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

import sample_data  # noqa: E402
from generation.cells import Checkpoint  # noqa: E402

# A machine that has no time for the tests fails none of them.
settings.register_profile(
    "suite", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")


@pytest.fixture(scope="session")
def model_folder() -> Path:
    return sample_data.PATH / "model"


@pytest.fixture(scope="session")
def demo_checkpoint() -> Checkpoint:
    path = sample_data.PATH / "lora" / "pstr-000006.safetensors"
    return Checkpoint(path, path.stem, epoch=6, label="epoch 6", tensor_hash="6" * 64)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    yield from start(tmp_path_factory.mktemp("profile"), tmp_path_factory.mktemp("downloads"))


@pytest.fixture
def page(browser: Page) -> Iterator[Page]:
    browser.driver.get("about:blank")
    browser.problems()
    browser.own = ""
    yield browser
    assert browser.problems() == []
