"""A config file: a preset with some of its fields replaced.

    python -m experiments.train_editor --config experiments/configs/example.py --model MODEL \\
        --manual-dir FILES --out runs/example --ship MODEL

LLaVA-1.5-7B on E-VQA as in the paper, in batches of 16 at twice its rate: half as many steps.
Nobody has run it: it shows the form.
"""

from dataclasses import replace

from liveedit_jax.presets import preset

CONFIG = preset("llava-1.5-7b-evqa")
CONFIG = replace(
    CONFIG,
    editor_train=replace(
        CONFIG.editor_train,
        batch_n=16,
        learning_rate=2e-4,
        steps_n=19_825,
        lr_cut_steps=(5_000,),
    ),
)
