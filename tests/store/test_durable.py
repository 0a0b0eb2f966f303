"""A file is replaced whole, or not at all."""

import pytest

from liveedit_jax.store.durable import create_file, replace_file, replacing


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


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_never_takes_the_place_of_another(tmp_path, monkeypatch, links):
    if not links:

        def link(*_):
            raise PermissionError

        monkeypatch.setattr("os.link", link)
    file = tmp_path / "new"
    with pytest.raises(RuntimeError), create_file(file) as fresh:
        fresh.write_bytes(b"half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    for content in (b"one", b"two"):
        with create_file(file) as fresh:
            fresh.write_bytes(content)
    assert file.read_bytes() == b"one" and list(tmp_path.iterdir()) == [file]
