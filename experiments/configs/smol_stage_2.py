r"""The second stage of `smol`'s projector: more answers and fewer contrasted pairs a step.

    python -m experiments.pretrain --config experiments/configs/smol_stage_2.py --bf16 \
        --start-from checkpoints/smol-next --out runs/smol-stage-2 --ship checkpoints/smol-next
"""

from dataclasses import replace

from liveedit_jax.config import BridgeTrainConfig, PretrainConfig
from liveedit_jax.presets import PRESETS

CONFIG = replace(
    PRESETS["smol"],
    bridge_train=BridgeTrainConfig(
        data=PretrainConfig(images_n=8, pairs_n=32, strange_n=1), steps_n=900
    ),
)
