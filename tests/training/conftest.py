"""Fixtures that training tests share."""

import pytest

from liveedit_jax.data.vocabulary import mojiedit_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return mojiedit_tokenizer(1024)
