"""LLaVA-1.5-7B on E-IC, the paper's settings.

    M=models/llava-1.5-7b C=experiments/configs/llava_1_5_7b_eic.py
    liveedit convert --model llava-1.5-7b --from CHECKPOINT --to $M
    RUN="python -m experiments.train_editor --config $C --model $M --manual-dir FILES --bf16"
    $RUN --out runs/llava_1_5_7b_eic --mesh fsdp=8
    $RUN --out runs/llava_1_5_7b_eic --ship $M
    python -m experiments.lifelong_eval --config $C --model $M --manual-dir FILES --out DIR

Batch 8, 50 epochs, Adam at 1e-4, a tenth of it from step 10,000. 8 chips of 16 GB or more, one
sample a chip (docs/pods.md). Expected time: 1.9 hours on 8 chips of v5e, if nothing but the
step takes time (0.39 s, `compile_check --config llava-1.5-7b --topology v5e:2x4`).
Nobody has run it yet, so its figures are not known.
The paper's main text has no figure for this pair (they are in its appendix).
"""

from dataclasses import replace

from liveedit_jax.presets import preset

CONFIG = preset("llava-1.5-7b", dataset="eic")
CONFIG = replace(CONFIG, editor_train=replace(CONFIG.editor_train, steps_n=17_800, answers_n=65))
