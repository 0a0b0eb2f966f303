"""The repository folder: what was acknowledged is there, what was refused changed nothing."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import numpy as np
import pytest

from liveedit_jax.store import Header, Request, open_store, rebuild
from liveedit_jax.store.folder import FORMAT
from liveedit_jax.store.journal import encode_line
from liveedit_jax.store.segments import SEGMENT_ROWS, read_rows, row_bytes, write_rows

SHAPES = {"text_key": (3,), "vision_key": (3,), "down": (2, 4), "up": (2, 4)}
HEADER = Header(backbone_sha256="b" * 64, editor_sha256="e" * 64, shapes=SHAPES)


def arrays(*values):
    return {
        name: np.stack([np.full(shape, v, np.float32) for v in values])
        for name, shape in SHAPES.items()
    }


def fill(folder, count, start=0):
    ids = []
    with open_store(folder, write=True, create=HEADER) as store:
        for i in range(start, start + count):
            sha = store.add_image(f"image {i}".encode())
            ids += store.add_edits([Request(sha, "what?", f"t{i}")], arrays(i))
    return ids


def values(store):
    edits = store.history.live_edits()
    down = store.experts(edits)["down"]
    return {edit.id: float(row.flat[0]) for edit, row in zip(edits, down, strict=True)}


def test_what_is_stored_comes_back(tmp_path):
    folder = tmp_path / "repo"
    assert fill(folder, 3) == [1, 2, 3] and fill(folder, 2, 3) == [4, 5]
    with open_store(folder) as store:
        assert values(store) == {1: 0, 2: 1, 3: 2, 4: 3, 5: 4}
        assert store.image(store.history.edits[5].request.image) == b"image 4"
        with pytest.raises(ValueError, match="reading only"):
            store.forget(1)


def test_supersede_forget_rollback_over_reopening(tmp_path):
    folder = tmp_path / "repo"
    fill(folder, 2)
    with open_store(folder, write=True) as store:
        request = store.history.edits[1].request
        again = Request(request.image, request.prompt, "other")
        assert store.add_edits([again], arrays(9)) == [3]
        assert values(store) == {2: 1, 3: 9}
        assert store.find(again) == 3 and store.find(request) is None
        store.forget(2)
    with open_store(folder, write=True) as store:
        assert values(store) == {3: 9}
        store.rollback(2)
        assert values(store) == {1: 0, 2: 1}
    with open_store(folder) as store:
        assert values(store) == {1: 0, 2: 1}
        assert [r["op"] for r in store.records()] == ["edit"] * 3 + ["forget", "rollback"]


def test_a_pictures_file_name_is_kept_where_it_is_known(tmp_path):
    folder = tmp_path / "repo"
    fill(folder, 1)  # without a name, as all journals were
    with open_store(folder, write=True) as store:
        sha = store.add_image(b"a cat")
        requests = [Request(sha, "what?", "cat"), Request(sha, "who?", "tom")]
        store.add_edits(requests, arrays(7, 8), ["cat.png", None])
        assert store.find(requests[0]) == 2  # whatever its file is called
    assert rebuild(folder, HEADER, lambda edits, image: arrays(*(e.id for e in edits)), 2) == 3
    with open_store(folder) as store:
        assert [edit.file for edit in store.history.live_edits()] == [None, "cat.png", None]
        assert ["file" in record for record in store.records()] == [False, True, False]


def test_two_writers_are_refused_and_a_reader_is_not(tmp_path):
    folder = tmp_path / "repo"
    fill(folder, 1)
    with open_store(folder, write=True):
        with pytest.raises(BlockingIOError, match="another process"):
            open_store(folder, write=True)
        assert values(open_store(folder)) == {1: 0}
    open_store(folder, write=True).close()


def test_room(tmp_path):
    with open_store(tmp_path / "repo", write=True, create=HEADER) as store:
        new = [Request("i", str(n), "t") for n in range(4)]
        assert store.fitting_n(new, 3) == 3 and store.fitting_n(new, 9) == 4
        store.add_edits(new[:3], arrays(0, 1, 2))
        assert store.fitting_n(new[:3], 3) == 3  # they supersede
        with pytest.raises(OverflowError, match="full: 3 live edits of at most 3"):
            store.fitting_n(new[3:], 3)


def test_unacknowledged_rows_are_never_written_over(tmp_path):
    folder = tmp_path / "repo"
    fill(folder, 2)
    segment = folder / "generation-1/experts/000000.f32"
    segment.write_bytes(segment.read_bytes() + b"half a row")
    fill(folder, 1, 2)
    with open_store(folder) as store:
        assert values(store) == {1: 0, 2: 1, 3: 2}
    assert b"half a row" in segment.read_bytes()


def test_rows_cross_segments(tmp_path):
    packed = np.random.default_rng(0).integers(0, 255, (7, 8), np.uint8)
    first = SEGMENT_ROWS - 3
    crcs = write_rows(tmp_path, first, packed)
    order = [6, 0, 3]
    got = read_rows(tmp_path, [first + i for i in order], [crcs[i] for i in order], 8)
    assert (got == packed[order]).all() and len(list(tmp_path.iterdir())) == 2


def test_damaged_expert_names_the_edit_and_the_remedy(tmp_path):
    folder = tmp_path / "repo"
    fill(folder, 3)
    segment = folder / "generation-1/experts/000000.f32"
    data = bytearray(segment.read_bytes())
    data[row_bytes(SHAPES) + 5] ^= 1
    for broken in (bytes(data), bytes(data[: row_bytes(SHAPES) * 3 // 2])):
        segment.write_bytes(broken)
        with open_store(folder) as store, pytest.raises(ValueError, match="edit 2 .*rebuild"):
            values(store)
    assert rebuild(folder, HEADER, lambda edits, image: arrays(*(e.id for e in edits)), 2) == 3
    with open_store(folder) as store:
        assert values(store) == {1: 1, 2: 2, 3: 3}


def test_other_model_is_refused_until_rebuilt(tmp_path):
    folder = tmp_path / "repo"
    fill(folder, 3)
    with open_store(folder, write=True) as store:
        store.forget(2)
        store.rollback(1)
        store.forget(3)
    other = Header("c" * 64, "e" * 64, {name: (5,) for name in SHAPES})
    with (
        open_store(folder) as store,
        pytest.raises(ValueError, match="another backbone.*--model 'my model'"),
    ):
        store.header.check_model(folder, other.backbone_sha256, other.editor_sha256, "my model")

    def refuse(edits, image):
        raise ValueError("does not fit")

    with pytest.raises(ValueError, match="does not fit"):
        rebuild(folder, other, refuse, 2)
    with open_store(folder) as store:
        assert values(store) == {1: 0, 2: 1} and store.header.backbone_sha256 == "b" * 64

    def make(edits, image):
        assert image(edits[0].request.image).startswith(b"image")
        return {n: np.stack([np.full(5, e.id, np.float32) for e in edits]) for n in SHAPES}

    assert rebuild(folder, other, make, 2) == 3  # edit 3 is forgotten but can be revived
    with open_store(folder, write=True) as store:
        store.header.check_model(folder, "c" * 64, "e" * 64, "tiny")
        store.rollback(1)
        got = store.experts(store.history.live_edits())["up"]
        assert got.shape == (3, 5) and got[:, 0].tolist() == [1, 2, 3]
    assert sorted(p.name for p in folder.glob("generation-*")) == ["generation-2"]


def test_what_is_not_a_repository_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match="other files"):
        open_store(tmp_path, write=True, create=HEADER)
    for write in (False, True):
        with pytest.raises(FileNotFoundError, match="no edit repository"):
            open_store(tmp_path / "nowhere", write=write)
    folder = tmp_path / "repo"
    fill(folder, 1)
    header = folder / "header.json"
    whole = header.read_bytes()
    newer = encode_line(asdict(replace(HEADER, format=FORMAT + 1)))
    renamed = whole.replace(b"vision_key", b"vision_kgy")
    for broken in (whole[:20], b"", b"[]", b'{"format":2}', renamed, newer):
        header.write_bytes(broken)
        with pytest.raises(ValueError, match=r"header.json is damaged|format"):
            open_store(folder)
    header.unlink()
    with pytest.raises(ValueError, match="journal but no header"):
        open_store(folder, write=True, create=HEADER)
    before = json.dumps({**json.loads(whole)["record"], "format": 1}, indent=1).encode()
    for good in (whole, before):  # the format before had no checksum
        header.write_bytes(good)
        with open_store(folder) as store:
            assert values(store) == {1: 0} and store.header == HEADER


WRITER = """
import sys
import numpy as np
from liveedit_jax.store import Header, Request, open_store
header = Header("b", "e", {"down": (600,)})
with open_store(sys.argv[1], write=True, create=header) as store:
    print("open", flush=True)
    i = max(store.history.edits, default=0)
    while True:
        i += 1
        sha = store.add_image(b"image %d" % i)
        request, down = Request(sha, "what?", f"t{i}"), np.full((1, 600), i)
        (edit_id,) = store.add_edits([request], {"down": down})
        print(edit_id, flush=True)
"""


def test_kill_9_at_any_moment_keeps_every_printed_id(tmp_path):
    folder, printed, rng = tmp_path / "repo", [], random.Random(1)
    for _ in range(8):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout.readline() == "open\n"
        time.sleep(rng.uniform(0.0, 0.12))
        os.kill(writer.pid, signal.SIGKILL)
        rest, _ = writer.communicate()
        printed += [int(line) for line in rest.splitlines(keepends=True) if line.endswith("\n")]
        with open_store(folder, write=True) as store:
            live = values(store)
            assert set(printed) <= set(live)
            assert len(live) - len(printed) <= 8  # at most one unprinted edit for each kill
            for edit in store.history.live_edits():
                assert live[edit.id] == float(edit.request.target[1:])
                assert (
                    store.image(edit.request.image) == b"image " + edit.request.target[1:].encode()
                )
    assert printed
