"""Compiled programs are kept unless somebody says otherwise; the tests keep their own."""

import os
import subprocess
import sys

import jax
import pytest

from liveedit_jax.cache import cache_folder, compiled_folder, keep_compiled

SHOWN = """
import sys
from liveedit_jax.cache import keep_compiled
if "late" in sys.argv:
    import jax
keep_compiled()
assert "late" in sys.argv or "jax" not in sys.modules
import jax
jax.jit(lambda x: jax.numpy.linalg.svd(x))(jax.numpy.eye(3))
print(jax.config.jax_compilation_cache_dir)
"""


def shown(env, *words):
    """Return the folder in which a new process keeps what it compiles."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-c", SHOWN, *words],
        env=ours | {"JAX_PLATFORMS": "cpu"} | env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_folders_move_with_their_variables(monkeypatch, tmp_path):
    monkeypatch.delenv("LIVEEDIT_CACHE", raising=False)
    monkeypatch.delenv("LIVEEDIT_COMPILED", raising=False)
    assert cache_folder().parts[-2:] == (".cache", "liveedit_jax")
    monkeypatch.setenv("LIVEEDIT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path and compiled_folder() == tmp_path / "compiled"
    monkeypatch.setenv("LIVEEDIT_COMPILED", str(tmp_path / "elsewhere"))
    assert compiled_folder() == tmp_path / "elsewhere"
    monkeypatch.setenv("LIVEEDIT_COMPILED", "off")
    assert compiled_folder() is None


@pytest.mark.parametrize("words", [(), ("late",)])
def test_what_is_compiled_is_there_for_the_next_process(tmp_path, words):
    assert shown({"LIVEEDIT_CACHE": str(tmp_path)}, *words) == str(tmp_path / "compiled")
    assert list((tmp_path / "compiled").iterdir())


def test_a_users_own_setting_stays(monkeypatch, tmp_path):
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("LIVEEDIT_CACHE", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    keep_compiled()
    assert jax.config.jax_compilation_cache_dir == before
    (tmp_path / "file").touch()
    blocked = {"LIVEEDIT_CACHE": str(tmp_path / "file")}  # no folder can be made in it
    assert shown(blocked) == "None"
