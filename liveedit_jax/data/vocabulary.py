"""The small model's tokenizer, trained on MojiEdit."""

from __future__ import annotations

from liveedit_jax.data.composed import tokenizer_wordings
from liveedit_jax.data.facts import FACTS, entities
from liveedit_jax.data.templates import templates, text_questions
from liveedit_jax.data.tokenizer import Tokenizer, train_tokenizer


def mojiedit_tokenizer(vocab_n: int) -> Tokenizer:
    """Train MojiEdit's BPE on the editor-train split's values and on wordings of questions.

    All values come from the split whose values are training targets, so hardly any token of an
    evaluation target was never part of a training target.
    """
    texts = []
    for entity in entities():
        if entity.split == "editor_train":
            texts += [" " + entity.facts[fact] for fact in FACTS for _ in range(4)]
            texts += [question for fact in FACTS for question in text_questions(fact, entity.facts)]
    for fact in FACTS:
        texts += [wording for wording in templates(fact, evaluation=False) for _ in range(40)]
    texts += [wording for wording in tokenizer_wordings() for _ in range(10)]
    return train_tokenizer(texts, vocab_n)
