"""docs/trl.md lists what the trainer refuses, all of it and nothing else."""

import re
from pathlib import Path

from selm_core.trl import UNSUPPORTED_OPTIONS, UNSUPPORTED_SETUPS

SECTION = (Path(__file__).parents[3] / "docs" / "trl.md").read_text().split("## Not supported")[1]


def test_options():
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", SECTION, re.MULTILINE)
    wanted = [(name, repr(value), text) for name, (value, text) in UNSUPPORTED_OPTIONS.items()]
    assert rows == wanted


def test_setups():
    rows = re.findall(r"^\* ([^:\n]+)", SECTION, re.MULTILINE)
    assert rows == list(UNSUPPORTED_SETUPS)
