"""A part of the campaign of faults, quickly: two runs in one folder, a killed one, odd entries."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the campaign is for Linux")
@pytest.mark.parametrize("kind", ["two", "kill judge", "odd"])
def test_quick_campaign(kind: str) -> None:
    command = [sys.executable, "benchmarks/faults.py", "--quick", "--only", kind]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "| yes |" in result.stdout
