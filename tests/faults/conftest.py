"""Fixtures that the tests of faults share."""

import os
import subprocess
import sys

import pytest


@pytest.fixture
def run_without_rights(tmp_path):
    """Return a function that runs Python code as a user who owns nothing.

    Root becomes another user after the `first` part of the code; others are such users already.
    """
    for each in (tmp_path, *tmp_path.parents):
        if each.stat().st_uid == os.geteuid() and each != each.parent:
            each.chmod(each.stat().st_mode | 0o055)

    def run(first, code, *args):
        change = "import os, sys\nif os.geteuid() == 0: os.setuid(65534)\n"
        asked = [sys.executable, "-c", f"{first}\n{change}{code}", *map(str, args)]
        return subprocess.run(asked, capture_output=True, text=True)

    return run
