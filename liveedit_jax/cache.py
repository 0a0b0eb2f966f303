"""The folder that this library keeps on a user's disk, and what JAX has compiled, in it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

VARIABLE = "LIVEEDIT_COMPILED"  # a folder for compiled programs, or "off"
WORTH_S = 0.0  # seconds of compilation: even the smallest program loads faster than it compiles


def cache_folder() -> Path:
    """$LIVEEDIT_CACHE, or ~/.cache/liveedit_jax."""
    return Path(os.environ.get("LIVEEDIT_CACHE") or Path.home() / ".cache" / "liveedit_jax")


def compiled_folder() -> Path | None:
    """$LIVEEDIT_COMPILED, or `compiled` in the cache folder; None where the variable is "off"."""
    named = os.environ.get(VARIABLE, "")
    if named.lower() in ("off", "0", "no", "false"):
        return None
    return Path(named) if named else cache_folder() / "compiled"


def keep_compiled() -> None:
    """Have JAX keep compiled programs on disk, so that the next process loads them.

    A user's own setting of JAX's compilation cache stays as it is, and a folder that cannot be
    written means that there is no cache. JAX is not imported here: if it is not yet, the setting
    waits for it in the environment.
    """
    folder = compiled_folder()
    if folder is None or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    settings = {
        "jax_compilation_cache_dir": str(folder.absolute()),
        "jax_persistent_cache_min_compile_time_secs": WORTH_S,
    }
    if "jax" not in sys.modules:
        for name, value in settings.items():
            os.environ.setdefault(name.upper(), str(value))
        return
    config = sys.modules["jax"].config
    if config.jax_compilation_cache_dir is None:
        for name, value in settings.items():
            config.update(name, value)
