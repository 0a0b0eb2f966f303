"""Eight faked devices; the flag has to be there before JAX starts, hence a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def on_eight_devices():
    """Runs calls of functions of a test module, one after another, with eight CPU devices."""

    def run(module: str, *calls: str, fast: bool = False) -> None:
        """Run them; `fast` compiles without optimization, which rounds float32 otherwise."""
        flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
        if not fast:
            flags = flags.replace("--xla_backend_optimization_level=0", "")
        env = os.environ | {"XLA_FLAGS": flags}
        root = Path(__file__).resolve().parents[2]
        places = (root, Path(__file__).parent, root / "tests" / "training")
        env["PYTHONPATH"] = os.pathsep.join(map(str, places))
        code = "; ".join([f"import {module}", *(f"{module}.{call}" for call in calls)])
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    return run
