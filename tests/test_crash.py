"""A few kills of `experiments.checks.crash`: acknowledged edits survive, damage is not loaded."""

import json
import subprocess
import sys


def test_killed_writers_lose_nothing(tmp_path):
    command = [sys.executable, "-m", "experiments.checks.crash", "--kills", "6"]
    subprocess.run([*command, "--seed", "1", "--out", tmp_path], check=True, capture_output=True)
    result = json.loads((tmp_path / "results.json").read_text())
    assert result["kills"] == 6 and result["operations"] > 0
    assert result["lost"] == 0 and result["wrong loads"] == 0
