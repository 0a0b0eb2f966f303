"""The repository's file: what was acknowledged is there, what was refused changed nothing."""

import random
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from small_store import HEADER, SHAPES, add, arrays, check, fill, picture, request, values

from liveedit_jax.store import Header, open_store, read_header, rebuild, schema
from liveedit_jax.store.experts import expert_crc32
from liveedit_jax.store.writing import write_edits


def make_all(store, edits):
    """Make experts for a rebuild that say their edits' ids."""
    return arrays(*(edit.id for edit in edits)), {}


def change(path, *statements):
    """Change a repository behind the program's back."""
    with closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            db.execute(*([statement] if isinstance(statement, str) else statement))


def test_what_is_stored_comes_back(tmp_path):
    path = tmp_path / "a new" / "repo"
    assert fill(path, 3) == [1, 2, 3] and fill(path, 2, 3) == [4, 5]
    with open_store(path) as store:
        assert values(store) == {1: 0, 2: 1, 3: 2, 4: 3, 5: 4}
        assert store.picture(store.history.edits[5].request.image) == picture(4)
        with pytest.raises(ValueError, match="reading only"):
            store.forget(1)
    assert [each.name for each in path.parent.iterdir()] == ["repo"]  # the file is complete


def test_supersede_forget_rollback_over_reopening(tmp_path):
    path = tmp_path / "repo"
    fill(path, 2)
    with open_store(path, write=True) as store:
        again = request(0, target="other")
        assert store.add_edits([again], arrays(9), [picture(0)]) == [3]
        assert values(store) == {2: 1, 3: 9}
        assert store.find(again) == 3 and store.find(request(0)) is None
        store.forget(2)
    with open_store(path, write=True) as store:
        assert values(store) == {3: 9}
        store.rollback(2)
        assert values(store) == {1: 0, 2: 1}
    with open_store(path) as store:
        assert values(store) == {1: 0, 2: 1}
        assert store.history.state.operations == 5 and store.history.state.clock == 2


def test_random_operations_equal_a_model_of_full_copies(tmp_path):
    rng = random.Random(0)
    for trial in range(2):
        path = tmp_path / f"repo{trial}"
        states, given = [{}], set()  # subject -> (id, target) after each operation
        store = open_store(path, write=True, create=HEADER)
        reader = open_store(path)
        for step in range(60):
            kind = rng.choice(["edit", "edit", "edit", "forget", "rollback", "reopen"])
            state = dict(states[-1])
            if kind == "edit":
                n = rng.randint(1, 3)
                subjects = [(rng.randrange(3), f"p{rng.randrange(3)}") for _ in range(n)]
                requests = [request(i, p, f"s{step}") for i, p in subjects]
                pictures = [picture(i) for i, _ in subjects]
                for edit_id, each in zip(
                    store.add_edits(requests, arrays(*[step] * n), pictures), requests, strict=True
                ):
                    assert edit_id not in given
                    given.add(edit_id)
                    state = {**state, each.subject: (edit_id, each.target)}
                    states.append(state)
            elif kind == "forget" and state:
                store.forget(state.pop(rng.choice(sorted(state)))[0])
                states.append(state)
            elif kind == "rollback" and len(states) > 1:
                n = rng.randint(1, min(4, len(states) - 1))
                store.rollback(n)
                del states[-n:]
            elif kind == "reopen":
                store.close()
                store = open_store(path, write=True)
            if rng.random() < 0.5:
                reader.refresh()
            for each in (store, reader):
                if each is reader and reader.history.state != store.history.state:
                    continue  # it is at an earlier moment
                live = {
                    e.request.subject: (e.id, e.request.target) for e in each.history.live_edits()
                }
                assert live == states[-1]
                assert values(each) == {i: int(t[1:]) for i, t in live.values()}
        store.close()


def test_a_pictures_file_name_is_kept_where_it_is_known(tmp_path):
    path = tmp_path / "repo"
    fill(path, 1)  # without a name
    with open_store(path, write=True) as store:
        requests = [request(7), request(7, "who?")]
        store.add_edits(requests, arrays(7, 8), [picture(7)] * 2, ["cat.png", None])
        assert store.find(requests[0]) == 2  # whatever its file is called
    assert rebuild(path, HEADER, make_all, 2).made_n == 3
    with open_store(path) as store:
        assert [edit.file for edit in store.history.live_edits()] == [None, "cat.png", None]


def test_readers_keep_their_moment_until_they_refresh(tmp_path):
    path = tmp_path / "repo"
    fill(path, 2)
    with open_store(path) as reader, open_store(path, write=True) as store:
        add(store, 2)
        store.forget(1)
        assert sorted(reader.history.live.values()) == [1, 2]
        assert reader.picture(request(0).image) == picture(0)
        assert sorted(reader.history.live.values()) == [1, 2]
        reader.refresh()
        assert check(reader) == {2: "t1", 3: "t2"}
        store.rollback(2)
        reader.refresh()
        assert check(reader) == {1: "t0", 2: "t1"}


def test_room(tmp_path):
    with open_store(tmp_path / "repo", write=True, create=HEADER) as store:
        new = [request(n) for n in range(4)]
        assert store.fitting_n(new, 3) == 3 and store.fitting_n(new, 9) == 4
        add(store, 0, 1, 2)
        assert store.fitting_n(new[:3], 3) == 3  # they supersede
        with pytest.raises(OverflowError, match="full: 3 live edits of at most 3"):
            store.fitting_n(new[3:], 3)


def test_refusals_change_nothing(tmp_path):
    path = tmp_path / "repo"
    fill(path, 1)
    with open_store(path, write=True) as store:
        store.add_edits([request(0, target="b")], arrays(1), [picture(0)])
        before = path.read_bytes()
        for refused, match in (
            (lambda: store.forget(9), "no edit 9"),
            (lambda: store.forget(1), "not live"),
            (lambda: store.purge(9), "no edit 9"),
            (lambda: store.rollback(3), "only 2"),
            (lambda: store.rollback(0), "from 1 up"),
            (lambda: store.add_edits([request(5)], arrays(5), [b"another"]), "picture given"),
            (lambda: store.add_edits([request(5)], arrays(5, 6), [picture(5)]), "2 experts"),
            (lambda: store.add_edits([request(5)], arrays(np.nan), [picture(5)]), "not finite"),
        ):
            with pytest.raises(ValueError, match=match):
                refused()
            assert path.read_bytes() == before and values(store) == {2: 1}


def test_a_bfloat16_repository_keeps_half_the_bytes(tmp_path):
    path = tmp_path / "repo"
    with open_store(path, write=True, create=replace(HEADER, dtype="bfloat16")) as store:
        add(store, 3)
        made = {name: np.full((1, *shape), 1 / 3, np.float32) for name, shape in SHAPES.items()}
        store.add_edits([request(1)], made, [picture(1)])
    with open_store(path) as store, store.transaction():
        ((ids, found),) = store.experts()
        assert ids == [1, 2] and found["up"].dtype == "bfloat16"
        assert (found["up"][0] == 3).all() and (found["up"][1] == 0.333984375).all()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT length(data) FROM experts").fetchall() == [(44,), (44,)]


def test_experts_of_a_lower_rank_and_several_of_an_edit_are_read(tmp_path):
    path = tmp_path / "repo"
    fill(path, 1)
    data = np.arange(14, dtype="<f4").tobytes()
    shapes = '{"text_key": [3], "vision_key": [3], "down": [1, 4], "up": [1, 4]}'
    row = (1, 1, 1, shapes, "float32", expert_crc32(1, 1, 1, shapes, "float32", data), data)
    change(
        path,
        ("INSERT INTO experts VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", row),
    )
    with open_store(path) as store, pytest.raises(ValueError, match="expert of edit 1 is damaged"):
        values(store)  # the edit has only one
    with open_store(path, write=True) as store, store.transaction(write=True) as (db, history):
        edit = replace(history.edits[1], experts_n=2)
        write_edits(db, history, history.state, {1: edit})
        epoch = replace(history.state, epoch=1)
        write_edits(db, history, epoch, {1: edit})
    with open_store(path) as store, store.transaction():
        ((ids, found),) = store.experts()
        assert ids == [1, 1] and not found["up"][2:].any()
        assert found["down"][1].tolist() == [[6, 7, 8, 9], [0, 0, 0, 0]]


def test_purged_is_gone_from_the_file(tmp_path):
    path, rng = tmp_path / "repo", random.Random(0)
    secret = "a secret question that nobody else asks "
    with open_store(path, write=True, create=HEADER) as store:
        for i in range(60):
            prompt = secret + str(i) + "x" * rng.randrange(3000) if i % 3 == 0 else f"p{i}"
            add(store, i, prompt=prompt)
        add(store, 0, prompt="another question")
        for i in range(0, 60, 3):
            if i % 2:
                store.forget(i + 1)
            assert store.purge(i + 1) == (i == 0)
        with pytest.raises(ValueError, match="no edit 4"):
            store.purge(4)
        live = check(store)
    assert len(live) == 41
    with open_store(path) as store:
        assert check(store) == live
    data = path.read_bytes()
    assert secret.encode() not in data and picture(57) not in data
    assert picture(0) in data and picture(58) in data


def test_a_damaged_expert_names_the_edit_and_the_remedy(tmp_path):
    path = tmp_path / "repo"
    fill(path, 3)
    whole = path.read_bytes()
    for statement in (
        "UPDATE experts SET data = zeroblob(length(data)) WHERE edit = 2",
        "UPDATE experts SET data = substr(data, 1, 20) WHERE edit = 2",
        "UPDATE experts SET shapes = '{}' WHERE edit = 2",
        "UPDATE experts SET edit = 2, nth = 1 WHERE edit = 3",
        "DELETE FROM experts WHERE edit = 2",
        "UPDATE experts SET data = 'text' WHERE edit = 2",
    ):
        path.write_bytes(whole)
        change(path, statement)
        with open_store(path) as store, pytest.raises(ValueError, match="edit 2 .*rebuild"):
            values(store)
    assert rebuild(path, HEADER, make_all, 2).made_n == 3
    with open_store(path) as store:
        assert values(store) == {1: 1, 2: 2, 3: 3}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE edits SET target = 'other' WHERE id = 2",
        "UPDATE edits SET died = NULL WHERE id = 1",
        "UPDATE edits SET file = 'other.png' WHERE id = 2",
        "UPDATE edits SET prompt = x'00ff' WHERE id = 2",
        "DELETE FROM edits WHERE id = 2",
        "DELETE FROM repository",
        "UPDATE repository SET clock = 1",
        "UPDATE repository SET shapes = '{}'",
        "INSERT INTO edits SELECT 9, picture, prompt, target, file, born, died, 1, 0 FROM edits",
        "DROP TABLE edits",
    ],
)
def test_rows_that_were_changed_are_noticed(tmp_path, statement):
    path = tmp_path / "repo"
    fill(path, 3)
    with open_store(path, write=True) as store:
        store.forget(1)
    change(
        path,
        statement.replace("FROM edits", "FROM edits LIMIT 1")
        if "INSERT" in statement
        else statement,
    )
    for write in (False, True):
        with pytest.raises(ValueError, match="repo is damaged .*restore it from a backup"):
            open_store(path, write=write)


def test_other_models_are_refused_until_rebuilt(tmp_path):
    path = tmp_path / "repo"
    fill(path, 3)
    with open_store(path, write=True) as store:
        store.forget(2)
        store.rollback(1)
        store.forget(3)
    other = Header("c" * 64, "e" * 64, "t" * 64, {name: (5,) for name in SHAPES})
    for part, hashes in (
        ("backbone", other.hashes),
        ("editor", ("b" * 64, "x" * 64, "t" * 64)),
        ("tokenizer", ("b" * 64, "e" * 64, "x" * 64)),
    ):
        with pytest.raises(ValueError, match=f"another {part}.*--model 'my model'"):
            read_header(path).check_model(path, hashes, "my model")

    with pytest.raises(ValueError, match="none of the 3 edits .*does not fit.* stays as it was"):
        rebuild(path, other, lambda store, part: ({}, {e.id: "does not fit" for e in part}), 2)
    with open_store(path) as store:
        assert check(store) == {1: "t0", 2: "t1"} and store.header == HEADER

    def make(store, edits):
        assert store.picture(edits[0].request.image).startswith(b"picture")
        return {n: np.stack([np.full(5, e.id, np.float32) for e in edits]) for n in SHAPES}, {}

    assert rebuild(path, other, make, 2).made_n == 3  # edit 3 is forgotten but can be revived
    with open_store(path, write=True) as store:
        assert store.header == other
        store.rollback(1)
        assert values(store) == {1: 1, 2: 2, 3: 3}


def test_a_rebuild_beside_other_sessions(tmp_path):
    path = tmp_path / "repo"
    fill(path, 3)
    other = replace(HEADER, backbone_sha256="c" * 64)
    with open_store(path, write=True) as before, open_store(path) as reader:

        def make(store, edits):
            if edits[0].id == 1:
                add(before, 7)  # while it is under way
                before.forget(2)
            return make_all(store, edits)

        assert rebuild(path, other, make, 2).made_n == 4
        for store in (before, reader):
            with pytest.raises(ValueError, match="rebuilt with another model"):
                store.refresh()
        with pytest.raises(ValueError, match="rebuilt with another model"):
            add(before, 8)
    with open_store(path) as store:
        assert values(store) == {1: 1, 3: 3, 4: 4}


def test_what_cannot_be_rebuilt_is_skipped_and_comes_back_when_it_is_edited_again(tmp_path):
    path = tmp_path / "repo"
    fill(path, 4)
    change(path, ("UPDATE pictures SET bytes = 'x' WHERE sha256 = ?", (request(2).image,)))

    def make(store, edits):
        good, skipped = [], {}
        for edit in edits:
            try:
                good.append(int(store.picture(edit.request.image).split()[1]))
            except ValueError as error:
                skipped[edit.id] = str(error)
        return arrays(*good), skipped

    made = rebuild(path, replace(HEADER, editor_sha256="f" * 64), make, 3)
    assert made.made_n == 3 and list(made.skipped) == [3] and "repairs it" in made.skipped[3]
    with open_store(path, write=True) as store:
        assert values(store) == {1: 0, 2: 1, 4: 3}
        assert [e.id for e in store.history.without_expert()] == [3]
        assert store.find(request(2)) is None and store.find(request(1)) == 2
        assert add(store, 2) == [5]
        assert check(store) == {1: "t0", 2: "t1", 4: "t3", 5: "t2"}
        store.rollback(1)
        assert values(store) == {1: 0, 2: 1, 4: 3}


def test_what_is_not_a_repository_is_refused_and_left_alone(tmp_path):
    foreign = tmp_path / "foreign.db"
    with closing(sqlite3.connect(foreign)) as db:
        db.execute("CREATE TABLE mine (x)")
    text, empty, old = tmp_path / "text", tmp_path / "empty", tmp_path / "old"
    text.write_text("a text that is no database" * 99)
    empty.touch()
    old.mkdir()
    (old / "header.json").write_text("{}")
    newer = tmp_path / "newer"
    fill(newer, 1)
    change(newer, "PRAGMA user_version = 99")
    for path, error, match in (
        (tmp_path / "nowhere", FileNotFoundError, "no edit repository.*liveedit edit"),
        (tmp_path, FileNotFoundError, "no edit repository.*is a folder"),
        (foreign, ValueError, "another program's"),
        (text, ValueError, "no edit repository, or"),
        (text / "below", (FileNotFoundError, ValueError), "no edit repository"),
        (empty, ValueError, r"0 bytes.*backup"),
        (old, ValueError, "liveedit import .*old --repo NEW"),
        (newer, ValueError, "version 99.*update"),
    ):
        before = path.read_bytes() if path.is_file() else None
        for write in (False, True):
            with pytest.raises(error, match=match):
                open_store(path, write=write)
        if before is not None:
            with pytest.raises(error, match=match):
                open_store(path, write=True, create=HEADER)
            assert path.read_bytes() == before
    assert not (tmp_path / "nowhere").exists()


def test_an_older_version_is_migrated_by_the_first_writer(tmp_path, monkeypatch):
    path = tmp_path / "repo"
    fill(path, 2)
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, "CREATE TABLE more (x);"))
    with pytest.raises(ValueError, match="version 1, and today's is 2"):
        open_store(path)
    with open_store(path, write=True) as store:
        assert check(store) == {1: "t0", 2: "t1"}
    with open_store(path) as store, store.transaction() as (db, _):
        assert db.execute("SELECT count(*) FROM more").fetchone() == (0,)


def test_a_copy_made_after_an_acknowledgement_holds_it(tmp_path):
    path = tmp_path / "repo"
    with open_store(path, write=True, create=HEADER) as store:
        for i in range(5):
            add(store, i)
            shutil.copyfile(path, tmp_path / "copy")
            with open_store(tmp_path / "copy") as copy:
                assert check(copy) == check(store)


def test_two_that_make_the_same_repository_at_once_share_it(tmp_path, monkeypatch):
    path, create = tmp_path / "repo", schema.create_database

    def late(file, state):
        monkeypatch.setattr("liveedit_jax.store.store.create_database", create)
        fill(path, 1)  # another process, between the look and the making
        create(file, state)

    monkeypatch.setattr("liveedit_jax.store.store.create_database", late)
    with open_store(path, write=True, create=HEADER) as store:
        add(store, 1)
        assert check(store) == {1: "t0", 2: "t1"}
