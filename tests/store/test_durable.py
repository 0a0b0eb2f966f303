"""A file is replaced whole, or not at all."""

import pytest

from liveedit_jax.store import lock
from liveedit_jax.store.durable import replace_file, replacing


def test_what_fails_half_way_leaves_the_old_content_and_nothing_else(tmp_path):
    file = tmp_path / "results.json"
    replace_file(file, b"old")
    with pytest.raises(RuntimeError), replacing(file) as out:
        out.write(b"ne")
        raise RuntimeError
    assert file.read_bytes() == b"old" and list(tmp_path.iterdir()) == [file]
    with replacing(file) as out:
        out.write(b"new")
        assert file.read_bytes() == b"old"
    assert file.read_bytes() == b"new" and list(tmp_path.iterdir()) == [file]


def test_a_system_without_file_locks_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "fcntl", None)
    with pytest.raises(OSError, match="file locks"):
        lock.take_lock(tmp_path)
