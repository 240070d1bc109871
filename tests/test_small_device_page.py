"""What docs/small-device.md and its systemd unit say is so."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from edge_producer.settings import EdgeSettings

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "small-device.md").read_text(encoding="utf-8")
UNIT = ROOT / "examples" / "edgeloop-edge@.service"
PROGRAM = "/opt/edgeloop/bin/edgeloop-edge"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_unit(tmp_path):
    """Its program is in another place here; else nothing is changed."""
    there = tmp_path / UNIT.name
    there.write_text(UNIT.read_text().replace(PROGRAM, sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", there], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_page_and_unit_name_the_same_program_folders_and_keys():
    unit = UNIT.read_text()
    for part in (f"{PROGRAM} run", "--config /etc/edgeloop/%i.toml", "--state-dir /var/lib/edgeloop/%i"):
        assert part in unit
    assert {f"{PROGRAM} check", f"{PROGRAM} status"} <= set(re.findall(rf"{PROGRAM} \w+", PAGE))
    for key in re.findall(r"^\| `(\w+=[\w]+)`", PAGE, re.MULTILINE):
        assert f"\n{key}\n" in unit, key


def test_the_settings_of_the_page_are_settings():
    [text] = re.findall(r"<<'END'\n(.*?)\n *END", PAGE, re.DOTALL)
    given = tomllib.loads(re.sub(r"^ +", "", text, flags=re.MULTILINE))
    assert given
    EdgeSettings(state_dir=Path("x"), profile="machine", devices=("pump-7",), **given)
