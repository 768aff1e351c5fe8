"""The short form of the soak test; its many kills are for ``scripts/soak.py`` alone."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("what", "kills"), [("experiment", 1), ("library", 2)])
def test_what_is_killed_is_in_the_end_as_without(what, kills):
    command = [sys.executable, ROOT / "scripts" / "soak.py", what, "--kills", str(kills)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2000:]
    assert process.stdout.splitlines()[-1].endswith("byte for byte")
