"""Named presets, and that configs take keywords alone."""

from pathlib import Path

import pytest

from liveedit_jax.config import EditorTrainConfig, LengthBudget, PretrainConfig
from liveedit_jax.presets import (
    DATASETS,
    PAPER_BACKBONES,
    PAPER_BENCHMARKS,
    PAPER_EDITOR_TRAIN,
    PRESETS,
    PUBLISHED,
    preset,
)

FILES = sorted(Path("experiments/configs").glob("[!_]*.py"))


@pytest.mark.parametrize("name", [*PRESETS, *map(str, FILES)])
def test_every_recipe_is_in_the_field_that_is_named_after_it(name):
    chosen = preset(name)
    assert isinstance(chosen.pretrain, PretrainConfig)
    assert isinstance(chosen.editor_train, EditorTrainConfig)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_presets_are_trained_as_in_the_paper(name):
    assert preset(name).editor_train == PAPER_EDITOR_TRAIN


def test_the_papers_benchmarks_have_room_for_their_answers():
    for name in PAPER_BACKBONES:
        for dataset, recipe in PAPER_BENCHMARKS.items():
            chosen = preset(f"{name}-{dataset}")
            assert chosen.dataset == DATASETS[dataset] and chosen.editor_train == recipe
            assert recipe.answers_n > chosen.dataset.budget.answer_n
            assert (recipe.batch_n, recipe.learning_rate) == (8, 1e-4)


def test_configs_take_keywords_alone():
    with pytest.raises(TypeError, match="positional"):
        LengthBudget(96, 24)
