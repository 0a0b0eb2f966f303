"""A small byte-level BPE, trained on the benchmark's own text and saved beside the weights."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

SPECIALS = ("<pad>", "<bos>", "<eos>")  # ids 0, 1, 2; never parsed out of text


@dataclass(frozen=True)
class Tokenizer:
    """Text to ids and back; special tokens are only ever placed by the library."""

    inner: tokenizers.Tokenizer
    pad_id: int = 0
    bos_id: int = 1
    eos_id: int = 2

    @property
    def vocab_n(self) -> int:
        """V, special tokens included."""
        return self.inner.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without special tokens."""
        return self.inner.encode(text, add_special_tokens=False).ids

    @cached_property
    def _specials(self) -> tuple[dict[str, int], re.Pattern]:
        """Special tokens' ids, and what finds them in a text."""
        added = self.inner.get_added_tokens_decoder()
        specials = {token.content: i for i, token in added.items() if token.special}
        return specials, re.compile("(" + ("|".join(map(re.escape, specials)) or "(?!)") + ")")

    def encode_parts(self, *parts: tuple[str, bool]) -> list[int]:
        """Ids of (text, trusted) parts read as one text.

        Special tokens are recognised in trusted parts only: a template's, never a user's.
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
        """Text up to the first EOS, without padding."""
        kept = []
        for i in ids:
            if i == self.eos_id:
                break
            if i not in (self.pad_id, self.bos_id):
                kept.append(int(i))
        return self.inner.decode(kept)

    def save(self, file: str | Path) -> None:
        """Write tokenizer.json."""
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        self.inner.save(str(file))


def train_tokenizer(texts: Iterable[str], vocab_n: int) -> Tokenizer:
    """Byte-level BPE of `vocab_n` pieces, specials included; same texts, same pieces."""
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


def load_tokenizer(
    file: str | Path, pad_id: int = 0, bos_id: int = 1, eos_id: int = 2
) -> Tokenizer:
    """A saved tokenizer; the ids are the backbone's.

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
