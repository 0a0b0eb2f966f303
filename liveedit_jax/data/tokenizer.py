"""Tokenizers: ids and text, and a small byte-level BPE trained on a benchmark's own text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

SPECIALS = ("<pad>", "<bos>", "<eos>")  # ids 0, 1, 2; never recognised in text


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer whose special tokens are placed by the library alone, never by a user's text."""

    inner: tokenizers.Tokenizer
    pad_id: int = 0
    bos_id: int = 1
    eos_id: int = 2

    @property
    def vocab_n(self) -> int:
        """Return V, the size of the vocabulary with special tokens."""
        return self.inner.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Encode text as ids, without special tokens."""
        return self.inner.encode(text, add_special_tokens=False).ids

    @cached_property
    def _specials(self) -> tuple[dict[str, int], re.Pattern]:
        """Return the special tokens' ids, and a pattern that finds them in a text."""
        added = self.inner.get_added_tokens_decoder()
        specials = {token.content: i for i, token in added.items() if token.special}
        return specials, re.compile("(" + ("|".join(map(re.escape, specials)) or "(?!)") + ")")

    def encode_parts(self, *parts: tuple[str, bool]) -> list[int]:
        """Encode (text, trusted) parts as one text.

        Special tokens are recognised in trusted parts alone, which are templates, not user text.
        """
        specials, pattern = self._specials
        ids, text = [], ""
        for part, trusted in parts:
            for piece in pattern.split(part) if trusted else (part,):
                if trusted and piece in specials:
                    ids += [*self.encode(text), specials[piece]]
                    text = ""
                else:
                    text += piece
        return ids + self.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Decode ids up to the first EOS; padding and BOS are skipped."""
        kept = []
        for i in ids:
            if i == self.eos_id:
                break
            if i not in (self.pad_id, self.bos_id):
                kept.append(int(i))
        return self.inner.decode(kept)

    def save(self, file: str | Path) -> None:
        """Write tokenizer.json to `file`; missing folders are made."""
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        self.inner.save(str(file))


def train_tokenizer(texts: Iterable[str], vocab_n: int) -> Tokenizer:
    """Train a byte-level BPE of `vocab_n` pieces, special tokens included; it is deterministic."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_n,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    inner.encode_special_tokens = True  # "<eos>" in a user's text stays text
    return Tokenizer(inner)


def check_ids(tokenizer: Tokenizer, rows_n: int, name: str | Path) -> None:
    """Check that an embedding of `rows_n` rows has one for every id of a tokenizer.

    Raises:
        ValueError: it has none for some, which would be read as its last row.
    """
    vocabulary = tokenizer.inner.get_vocab(with_added_tokens=True)
    beyond = sorted((i, piece) for piece, i in vocabulary.items() if i >= rows_n)
    if beyond or not vocabulary:
        i, piece = beyond[0] if beyond else (None, None)
        found = f"gives {piece!r} the id {i}" if beyond else "has no pieces"
        raise ValueError(
            f"the tokenizer of {name} {found}, and the model's embedding has {rows_n} rows: it is "
            "another model's tokenizer"
        )


def load_tokenizer(
    file: str | Path, pad_id: int = 0, bos_id: int = 1, eos_id: int = 2
) -> Tokenizer:
    """Load a saved tokenizer; the special ids are the backbone's.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not a tokenizer.json.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"no tokenizer at {file}")
    try:
        inner = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{file} is not a valid tokenizer.json: {error}") from error
    inner.encode_special_tokens = True
    return Tokenizer(inner, pad_id, bos_id, eos_id)
