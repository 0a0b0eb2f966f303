"""LLaVA-1.5-7B on E-VQA, the paper's settings.

    M=models/llava-1.5-7b C=experiments/configs/llava_1_5_7b_evqa.py
    liveedit convert --model llava-1.5-7b --from CHECKPOINT --to $M
    RUN="python -m experiments.train_editor --config $C --model $M --manual-dir FILES --bf16"
    $RUN --out runs/llava_1_5_7b_evqa --mesh fsdp=8
    $RUN --out runs/llava_1_5_7b_evqa --ship $M
    python -m experiments.lifelong_eval --config $C --model $M --manual-dir FILES --out DIR

Batch 8, 50 epochs, Adam at 1e-4, a tenth of it from step 10,000. 8 chips of 16 GB or more, one
sample a chip (docs/pods.md). Expected time: 4.3 hours on 8 chips of v5e, if nothing but the
step takes time (0.39 s, `compile_check --config llava-1.5-7b --topology v5e:2x4`).
Nobody has run it yet, so its figures are not known.
The paper's average: 95.36 after 1 edit, 94.68 after 10, 92.76 after 1,000.
"""

from dataclasses import replace

from liveedit_jax.presets import preset

CONFIG = preset("llava-1.5-7b", dataset="evqa")
CONFIG = replace(CONFIG, editor_train=replace(CONFIG.editor_train, steps_n=39_650, answers_n=25))
