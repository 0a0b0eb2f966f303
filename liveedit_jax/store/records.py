"""The content of a repository as plain values: requests, edits, the model they belong to."""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path

Shapes = dict[str, tuple[int, ...]]  # name -> shape of one expert's array, in storage order


def image_sha256(data: bytes) -> str:
    """Compute the name that a picture is kept under."""
    return hashlib.sha256(data).hexdigest()


def checksum(*fields: str | int | None) -> int:
    """Compute 63 bits that tell whether a row is as it was written."""
    text = json.dumps(fields).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def rebuild_command(path: Path, model: str = "MODEL") -> str:
    """Write what a person types to re-make a repository's experts."""
    return f"`liveedit rebuild --repo {shlex.quote(str(path))} --model {shlex.quote(model)}`"


@dataclass(frozen=True)
class Header:
    """The model that makes a repository's experts, and how these are stored."""

    backbone_sha256: str
    editor_sha256: str
    tokenizer_sha256: str
    shapes: Shapes
    dtype: str = "float32"  # or bfloat16

    @property
    def hashes(self) -> tuple[str, str, str]:
        """Give the sha256 of the model's backbone, editor and tokenizer."""
        return self.backbone_sha256, self.editor_sha256, self.tokenizer_sha256

    def check_model(self, path: Path, hashes: tuple[str, str, str], model: str | Path) -> None:
        """Refuse another model than the one that made the experts.

        Args:
            path: the repository.
            hashes: sha256 of the model's backbone, editor and tokenizer.
            model: what a person calls it, so that the error says how to go on.

        Raises:
            ValueError: one of the three differs.
        """
        parts = "backbone", "editor", "tokenizer"
        for part, mine, given in zip(parts, self.hashes, hashes, strict=True):
            if mine != given:
                raise ValueError(
                    f"the edits in {path} were made with another {part} (sha256 {mine[:12]}, this "
                    f"model has {given[:12]}): open them with the model that made them, or "
                    f"re-make them with this one: {rebuild_command(path, str(model))}"
                )


@dataclass(frozen=True)
class Request:
    """An edit as a person asked for it; `image` is its picture's sha256 (None: no picture)."""

    image: str | None
    prompt: str
    target: str

    @property
    def subject(self) -> tuple[str | None, str]:
        """Tell what the edit is about: a later edit of the same subject supersedes this one."""
        return self.image, self.prompt


@dataclass(frozen=True)
class Edit:
    """A recorded request, which lives on the edit clock from `born` until before `died`."""

    id: int
    request: Request
    born: int
    died: int | None  # None: it lives
    experts_n: int  # 0: today's model could not make its expert
    file: str | None = None  # the name that its picture came under, where it is known

    @property
    def checksum(self) -> int:
        """Compute the checksum of its row."""
        request = self.request
        texts = request.image, request.prompt, request.target
        numbers = self.born, self.died, self.experts_n
        return checksum(self.id, *texts, self.file, *numbers)


@dataclass(frozen=True)
class State:
    """The one row that says where a repository stands."""

    header: Header
    generation: int = 1  # how often all experts were made
    epoch: int = 0  # rises with every change that does more than append
    clock: int = 0  # operations that can be undone
    operations: int = 0  # operations ever
    last_id: int = 0  # the highest id ever given
    digest: int = 0  # exclusive or of the checksums of all edits

    def row(self) -> tuple:
        """List the row's values, its checksum last."""
        header, numbers = self.header, list(vars(self).values())[1:]
        fields = (*header.hashes, json.dumps(header.shapes), header.dtype, *numbers)
        return *fields, checksum(*fields)


@dataclass
class History:
    """The edits of one moment."""

    state: State
    edits: dict[int, Edit] = field(default_factory=dict)  # all that live or a rollback may revive
    live: dict[tuple[str | None, str], int] = field(default_factory=dict)  # subject -> id
    ended: list[int] = field(default_factory=list)  # ids in the order in which they died

    def live_edits(self) -> list[Edit]:
        """List the live edits, oldest first."""
        return [self.edits[i] for i in sorted(self.live.values())]

    def is_live(self, edit_id: int) -> bool:
        """Tell whether the edit exists and is neither forgotten, superseded nor rolled back."""
        edit = self.edits.get(edit_id)
        return edit is not None and edit.died is None

    def take(self, edit: Edit) -> None:
        """Take in a row that was added or has changed."""
        subject = edit.request.subject
        self.edits[edit.id] = edit
        if edit.died is None:
            self.live[subject] = edit.id
        else:
            self.ended.append(edit.id)
            if self.live.get(subject) == edit.id:
                del self.live[subject]

    def without_expert(self) -> list[Edit]:
        """List the live edits that today's model could not re-make."""
        return [edit for edit in self.live_edits() if not edit.experts_n]
