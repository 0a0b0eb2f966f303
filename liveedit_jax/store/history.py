"""What a journal means: which edits live, and what undoing the last operations gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Request:
    """What a person asked for; `image` is the sha256 of the picture file's bytes."""

    image: str
    prompt: str
    target: str

    @property
    def subject(self) -> tuple[str, str]:
        """What the edit is about: a later edit of the same subject supersedes this one."""
        return self.image, self.prompt


@dataclass(frozen=True)
class Edit:
    """A recorded request, the row of its expert and that row's checksum."""

    id: int
    request: Request
    supersedes: int | None
    row: int | None  # None: undone before the last rebuild, can never live again
    row_crc32: str | None
    file: str | None = None  # the picture file's name, where it is known


@dataclass
class History:
    """The state after all records so far; `apply` is the only thing that changes it.

    Undo follows the edit clock of the in-memory repository: rolling back N operations gives exactly
    the state before them, and what was rolled back is no longer part of the history.
    """

    edits: dict[int, Edit] = field(default_factory=dict)  # every edit ever, by id
    live: dict[tuple[str, str], int] = field(default_factory=dict)  # subject -> id
    done: list[dict] = field(default_factory=list)  # operations that can be undone, oldest first
    seq: int = 0  # of the last record

    def live_edits(self) -> list[Edit]:
        """The live edits, oldest first."""
        return [self.edits[i] for i in sorted(self.live.values())]

    def is_live(self, edit_id: int) -> bool:
        """Whether the edit exists and is neither forgotten, superseded nor rolled back."""
        edit = self.edits.get(edit_id)
        return edit is not None and self.live.get(edit.request.subject) == edit_id

    def revivable(self) -> set[int]:
        """Ids of the edits that live or that a rollback could bring back to life."""
        return set(self.live.values()) | {
            record["id"] if record["op"] == "forget" else record["supersedes"]
            for record in self.done
            if record["op"] == "forget" or record["supersedes"] is not None
        }

    def edit_records(
        self,
        requests: Sequence[Request],
        rows: Iterable[int],
        crcs: Iterable[str],
        files: Iterable[str | None] | None = None,
    ) -> list[dict]:
        """Records that add these requests, in order; ids go on from the highest ever given.

        Args:
            requests: what was asked for.
            rows: where their experts are stored.
            crcs: the checksums of these rows.
            files: the names of the pictures' files; None: not known.
        """
        edit_id, records, live = max(self.edits, default=0), [], dict(self.live)
        files = [None] * len(requests) if files is None else files
        for request, row, crc, file in zip(requests, rows, crcs, files, strict=True):
            edit_id += 1
            records.append(
                {
                    "seq": self.seq + len(records) + 1,
                    "op": "edit",
                    "id": edit_id,
                    "image": request.image,
                    "prompt": request.prompt,
                    "target": request.target,
                    "supersedes": live.get(request.subject),
                    "row": row,
                    "row_crc32": crc,
                    **({} if file is None else {"file": file}),
                }
            )
            live[request.subject] = edit_id
        return records

    def forget_record(self, edit_id: int) -> dict:
        """The record that forgets one edit.

        Raises:
            ValueError: there is no such live edit.
        """
        if edit_id not in self.edits:
            raise ValueError(f"there is no edit {edit_id}; `liveedit list` shows the live ones")
        if not self.is_live(edit_id):
            raise ValueError(
                f"edit {edit_id} is not live any more (forgotten, superseded or rolled back)"
            )
        return {"seq": self.seq + 1, "op": "forget", "id": edit_id}

    def rollback_record(self, operations_n: int) -> dict:
        """The record that undoes the last `operations_n` operations.

        Raises:
            ValueError: not a positive number, or more than there are.
        """
        if operations_n < 1:
            raise ValueError(f"cannot roll back {operations_n} operations: give a number from 1 up")
        if operations_n > len(self.done):
            raise ValueError(
                f"cannot roll back {operations_n} operations: "
                f"there are only {len(self.done)} to undo"
            )
        return {"seq": self.seq + 1, "op": "rollback", "operations_n": operations_n}

    def apply(self, record: dict) -> None:
        """Take one record in.

        Raises:
            ValueError: it does not follow from what is there, so the journal is not ours.
        """
        if record["seq"] != self.seq + 1:
            raise ValueError(f"the journal jumps from operation {self.seq} to {record['seq']}")
        self.seq = record["seq"]
        match record["op"]:
            case "edit":
                request = Request(record["image"], record["prompt"], record["target"])
                stored = record["supersedes"], record["row"], record["row_crc32"]
                edit = Edit(record["id"], request, *stored, record.get("file"))
                self.edits[edit.id] = edit
                self.live[request.subject] = edit.id
                self.done.append(record)
            case "forget":
                del self.live[self.edits[record["id"]].request.subject]
                self.done.append(record)
            case "rollback":
                for _ in range(record["operations_n"]):
                    self._undo(self.done.pop())
            case other:
                raise ValueError(f"operation {other!r} is unknown to this version")

    def _undo(self, record: dict) -> None:
        edit = self.edits[record["id"]]
        if record["op"] == "forget":
            self.live[edit.request.subject] = edit.id
        elif edit.supersedes is not None:
            self.live[edit.request.subject] = edit.supersedes
        else:
            del self.live[edit.request.subject]


def replay(records: Iterable[dict]) -> History:
    """The state that a journal's records lead to.

    Raises:
        ValueError: the records are whole but do not follow from each other.
    """
    history = History()
    for record in records:
        try:
            history.apply(record)
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"operation {history.seq} of the journal makes no sense") from error
    return history
