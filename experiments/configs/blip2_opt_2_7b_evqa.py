"""BLIP2-OPT-2.7B on E-VQA, the paper's settings.

    M=models/blip2-opt-2.7b C=experiments/configs/blip2_opt_2_7b_evqa.py
    liveedit convert --model blip2-opt-2.7b --from CHECKPOINT --to $M
    RUN="python -m experiments.train_editor --config $C --model $M --manual-dir FILES --bf16"
    $RUN --out runs/blip2_opt_2_7b_evqa --mesh fsdp=8
    $RUN --out runs/blip2_opt_2_7b_evqa --ship $M
    python -m experiments.lifelong_eval --config $C --model $M --manual-dir FILES --out DIR

Batch 8, 50 epochs, Adam at 1e-4, a tenth of it from step 10,000. 8 chips of 16 GB or more, one
sample a chip (docs/pods.md). Expected time: 32 minutes on 8 chips of v5e, if nothing but the
step takes time (0.05 s, `compile_check --config blip2-opt-2.7b --topology v5e:2x4`).
Nobody has run it yet, so its figures are not known.
The paper's average: 96.94 after 1 edit, 93.69 after 1,000.
"""

from dataclasses import replace

from liveedit_jax.presets import preset

CONFIG = preset("blip2-opt-2.7b", dataset="evqa")
CONFIG = replace(CONFIG, editor_train=replace(CONFIG.editor_train, steps_n=39_650, answers_n=25))
