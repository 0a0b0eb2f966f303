"""A few of `crash_repository`'s kills: acknowledged edits survive them, damage is not loaded."""

import json
import subprocess
import sys


def test_killed_writers_lose_nothing(tmp_path):
    command = [sys.executable, "-m", "experiments.checks.crash", "--kills", "5"]
    subprocess.run([*command, "--seed", "1", "--out", tmp_path], check=True, capture_output=True)
    result = json.loads((tmp_path / "results.json").read_text())
    assert result["kills"] == 5 and result["operations"] > 0
    assert result["lost"] == 0 and result["corrupt loads"] == 0
