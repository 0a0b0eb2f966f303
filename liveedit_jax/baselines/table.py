"""The table of all baselines, with the settings tuned on the dev split (docs/baselines.md)."""

from __future__ import annotations

from liveedit_jax.baselines.ft_l import FtL
from liveedit_jax.baselines.ft_m import FtM
from liveedit_jax.baselines.grace import Grace
from liveedit_jax.baselines.lemoe import Lemoe
from liveedit_jax.baselines.lte import Lte
from liveedit_jax.baselines.mend import Mend
from liveedit_jax.baselines.recipe import RecipeEditor
from liveedit_jax.baselines.serac import Serac
from liveedit_jax.baselines.t_patcher import TPatcher
from liveedit_jax.baselines.wise import Wise
from liveedit_jax.editors import Editor

BASELINES: dict[str, Editor] = {
    "ft_l": FtL(),
    "ft_m": FtM(),
    "mend": Mend(),
    "serac": Serac(),
    "recipe": RecipeEditor(),
    "lte": Lte(),
    "t_patcher": TPatcher(),
    "grace": Grace(),
    "wise": Wise(),
    "lemoe": Lemoe(),
}
TRAINED = tuple(sorted(name for name, editor in BASELINES.items() if hasattr(editor, "recipe")))

# Settings tuned on the dev split of other configs than `tiny`.
TUNED: dict[str, dict[str, Editor]] = {
    "smol": {
        "ft_l": FtL(learning_rate=1e-4),
        "grace": Grace(radius=0.8),
        "wise": Wise(slack=0.95),
    },
}


def get_baseline(name: str, config: str) -> Editor:
    """Return a baseline with the settings for a config, or with those for `tiny`.

    Raises:
        KeyError: no such baseline.
    """
    return TUNED.get(config, {}).get(name, BASELINES[name])
