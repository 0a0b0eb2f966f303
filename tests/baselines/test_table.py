"""Baselines by name, in the settings for a config."""

import pytest

from liveedit_jax.baselines.table import BASELINES, TUNED, baseline


def test_a_config_without_settings_of_its_own_has_those_of_tiny():
    assert all(baseline(name, "other") == editor for name, editor in BASELINES.items())


@pytest.mark.parametrize("config", TUNED)
def test_a_config_changes_settings_of_editors_and_not_editors(config):
    for name, editor in TUNED[config].items():
        assert baseline(name, config) == editor != BASELINES[name]
        assert type(editor) is type(BASELINES[name])
    assert all(
        baseline(name, config) == BASELINES[name] for name in BASELINES.keys() - TUNED[config]
    )


def test_an_unknown_name_is_refused():
    with pytest.raises(KeyError, match="nobody"):
        baseline("nobody", "smol")
