"""Eight faked devices; the flag has to be there before JAX starts, hence a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def on_eight_devices():
    """Runs a function of a test module (its dotted name) in a process with eight CPU devices."""

    def run(module: str, function: str, *args: str, fast: bool = False) -> None:
        """Run it; `fast` compiles without optimization, which rounds float32 otherwise."""
        flags = "--xla_force_host_platform_device_count=8"
        flags += " --xla_llvm_disable_expensive_passes=true"
        flags += " --xla_backend_optimization_level=0" if fast else ""
        env = os.environ | {"XLA_FLAGS": flags}
        root = Path(__file__).resolve().parents[2]
        places = (root, Path(__file__).parent, root / "tests" / "training")
        env["PYTHONPATH"] = os.pathsep.join(map(str, places))
        code = f"import {module}; {module}.{function}(*{args!r})"
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    return run
