"""Baselines by name, in the settings for a config."""

import jax.numpy as jnp
import pytest

from liveedit_jax.baselines.table import BASELINES, TUNED, get_baseline
from liveedit_jax.evaluation.run import RunSpec, load_baseline
from liveedit_jax.model_io.weights import save_weights


def test_a_config_without_settings_of_its_own_has_those_of_tiny():
    assert all(get_baseline(name, "other") == editor for name, editor in BASELINES.items())


@pytest.mark.parametrize("config", TUNED)
def test_a_config_changes_settings_of_editors_and_not_editors(config):
    for name, editor in TUNED[config].items():
        assert get_baseline(name, config) == editor != BASELINES[name]
        assert type(editor) is type(BASELINES[name])
    assert all(
        get_baseline(name, config) == BASELINES[name] for name in BASELINES.keys() - TUNED[config]
    )


def test_an_unknown_name_is_refused():
    with pytest.raises(KeyError, match="nobody"):
        get_baseline("nobody", "smol")


def test_weights_of_a_baseline_belong_to_a_backbone(tmp_path):
    spec = RunSpec(editor="mend", model=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no weights of mend"):
        load_baseline(spec, "a" * 64)
    weights, made = {"w": jnp.ones(2)}, {"backbone_sha256": "a" * 64}
    digest = save_weights(tmp_path / "baselines" / "mend", weights, made)
    assert load_baseline(spec, "a" * 64)[2] == digest
    with pytest.raises(ValueError, match="another backbone .*train_editor --editor mend"):
        load_baseline(spec, "b" * 64)
