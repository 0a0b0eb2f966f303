"""Cut a small part out of a golden case, for the tests to carry.

    python -m experiments.reference.golden.cut --case DIR/p1 --out tests/golden/p1-part

Left out: the weights below the edit layer (their shapes stay in config.json as "absent"), raw
inputs, whole-model states, most queries, later training steps and the large gradients.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np

KEEP = {
    "editor_weights": r".*",
    "modules": r"q0/(?!a2).*",
    "routing": r"pool/.*|query/0/(?!all|none|natural).*",
    "train_inputs": r"(edit_signal|neib|prot)/.*|[a-z]+_moe_mask|(rel|gen/\w+|loc/\w+)/\d+/"
    r"(attention_mask|position_ids|vt_range|label_ids|label_masks|mid_reps|llava_input_ids|request_i)",
    "train_outputs": r"step0/(log/.*|total_loss|lr_used)|step0/residual/rel/0"
    r"|step0/grad/(?!.*(k_mlp|v_mlp|q_mlp)\.weight).*",
}


def cut(case: Path, out: Path) -> int:
    """Write a part of a case; returns its size in bytes."""
    out.mkdir(parents=True, exist_ok=True)
    config = json.loads((case / "config.json").read_text())
    above = rf"language_model\.(lm_head|model\.norm|model\.layers\.({_from_edit_layer(config)}))\."
    config |= {"part_of": case.name, "absent": {}}
    for name, pattern in (*KEEP.items(), ("llava_weights", above + r".*")):
        with np.load(case / f"{name}.npz", allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
        kept = {key: array for key, array in arrays.items() if re.fullmatch(pattern, key)}
        if name == "llava_weights":
            config["absent"] = {k: list(a.shape) for k, a in arrays.items() if k not in kept}
        np.savez_compressed(out / f"{name}.npz", **kept)
    (out / "config.json").write_text(json.dumps(config) + "\n")
    log = json.loads((case / "train_log.json").read_text())
    (out / "train_log.json").write_text(json.dumps({"log": {"step0": log["log"]["step0"]}}) + "\n")
    return sum(file.stat().st_size for file in out.iterdir())


def _from_edit_layer(config: dict) -> str:
    layers_n = config["llava"]["text_config"]["num_hidden_layers"]
    return "|".join(str(i) for i in range(config["editor"]["edit_layer_i"], layers_n))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    print(f"{args.out}: {cut(args.case, args.out)} bytes")


if __name__ == "__main__":
    main()
