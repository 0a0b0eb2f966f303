"""The journal under every cut and every flipped byte."""

import pytest

from liveedit_jax.store.journal import (
    Journal,
    create_journal,
    decode_line,
    encode_line,
    read_journal,
)

RECORDS = [{"seq": i + 1, "op": "edit", "prompt": f"was ist das? {i} \u00e9\n"} for i in range(3)]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "journal.jsonl"
    create_journal(path, RECORDS)
    return path


def test_line_round_trip():
    line = encode_line(RECORDS[0])
    assert line.count(b"\n") == 1 and decode_line(line[:-1]) == RECORDS[0]


def test_truncated_at_every_byte_of_the_last_record(file):
    data = file.read_bytes()
    start = len(data) - len(encode_line(RECORDS[-1]))
    for cut in range(start, len(data)):
        file.write_bytes(data[:cut])
        content = read_journal(file)
        assert content.records == RECORDS[:-1] and content.torn == data[start:cut]
        journal = Journal(file)
        journal.append([RECORDS[-1]])
        journal.close()
        assert file.read_bytes() == data
        aside = list(file.parent.glob("torn-after-2-*"))
        assert [a.read_bytes() for a in aside] == ([data[start:cut]] if cut > start else [])
        for each in aside:
            each.unlink()


def test_every_flipped_byte_is_seen(file):
    data = file.read_bytes()
    start = len(data) - len(encode_line(RECORDS[-1]))
    for at in range(len(data)):
        for bit in (0x01, 0x80):
            file.write_bytes(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
            if at < start:
                with pytest.raises(ValueError, match="damaged at line"):
                    read_journal(file)
            else:
                assert read_journal(file).records == RECORDS[:-1]


def test_a_failed_append_leaves_no_trace(file, monkeypatch):
    before = file.read_bytes()
    journal = Journal(file)

    def short_write(handle, data, offset):
        import os

        os.pwrite(handle, data[: len(data) // 2], offset)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("liveedit_jax.store.journal.write_at", short_write)
    with pytest.raises(OSError, match="No space"):
        journal.append(RECORDS)
    journal.close()
    assert file.read_bytes() == before
