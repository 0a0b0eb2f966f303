"""MiniGPT-4 (Vicuna-7B) on VLKEB, the paper's settings.

    M=models/minigpt-4-vicuna-7b C=experiments/configs/minigpt_4_vlkeb.py
    liveedit convert --model minigpt-4-vicuna-7b --from CHECKPOINT --to $M
    RUN="python -m experiments.train_editor --config $C --model $M --manual-dir FILES --bf16"
    $RUN --out runs/minigpt_4_vlkeb --mesh fsdp=8
    $RUN --out runs/minigpt_4_vlkeb --ship $M
    python -m experiments.lifelong_eval --config $C --model $M --manual-dir FILES --out DIR

Batch 8, 50 epochs, Adam at 1e-4, a tenth of it from step 10,000. 8 chips of 16 GB or more, one
sample a chip (docs/pods.md). Expected time: 56 minutes on 8 chips of v5e, if nothing but the
step takes time (0.11 s, `compile_check --config minigpt-4-vicuna-7b --topology v5e:2x4`).
Nobody has run it yet, so its figures are not known.
The paper's main text has no figure for this pair (they are in its appendix).
"""

from dataclasses import replace

from liveedit_jax.presets import preset

CONFIG = preset("minigpt-4-vicuna-7b", dataset="vlkeb")
CONFIG = replace(CONFIG, editor_train=replace(CONFIG.editor_train, steps_n=31_250, answers_n=33))
