"""Compile a step for a TPU topology ahead of time: whether it fits, its traffic, its time.

    make setup EXTRAS=tpu
    python -m experiments.pods.compile_check --config llava-1.5-7b --topology v5e:4x4 --step train
    python -m experiments.pods.compile_check --config llava-1.5-7b --topology h100:8 --step query

Prints the bytes per chip against its memory, collectives by kind, operations (loops counted by
their trip counts), and a roofline estimate from published peaks. Nothing is run; no TPU is needed,
libtpu compiles ahead of time. A topology "h100:N" is compiled for N faked CPU devices: layouts are
right, temporaries are an upper bound, and there is no estimate. Exits with 1 if a step does not
fit.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from liveedit_jax.backbone_config import RematPolicy
from liveedit_jax.config import MeshConfig, Precision, StorageConfig, as_dict
from liveedit_jax.presets import PRESETS, preset
from liveedit_jax.scaling.chips import Chip, chip_of
from liveedit_jax.scaling.mesh import parse_axes

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",  # whatever is compiled for: silences a warning
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
SAMPLES_A_CHIP = {"train": 1, "edit": 2, "query": 4, "generate": 4}


def devices_of(topology: str) -> list:
    """Return the devices to compile for; must be called before JAX is used."""
    os.environ.update(ENVIRONMENT)
    if topology.startswith("h100:"):
        n = topology.split(":")[1]
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={n}"
    import jax
    from jax.experimental import topologies

    if topology.startswith("h100:"):
        return jax.devices()
    layout = chip_of(topology).layout
    return topologies.get_topology_desc(
        platform="tpu", topology_name=topology, chip_config_name=layout
    ).devices


def mesh_for(step: str, devices_n: int, text: str | None) -> MeshConfig:
    """Return the mesh of `--mesh`, or a default that suits the step.

    Defaults: weights sharded over up to 16 chips and gathered layer by layer (train); rows of the
    repository over as many (edit, query); layers split over 4 (generate).
    """
    if text:
        return parse_axes(text)
    rows_n = math.gcd(devices_n, 16)
    if step == "train":
        return MeshConfig(data=devices_n // rows_n, fsdp=rows_n)
    if step == "generate":
        return MeshConfig(data=devices_n // rows_n, tensor=4, expert=rows_n // 4)
    return MeshConfig(data=devices_n // rows_n, expert=rows_n)


def gigabytes_per_device(shapes) -> float:
    """Return the gigabytes that one device holds of arrays with shardings."""
    import jax

    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(shapes)
    ) / 1e9  # fmt: skip


def memory_of(compiled, chip: Chip) -> dict:
    """Return the memory per chip of a compiled program, in GB (1e9 bytes)."""
    memory = compiled.memory_analysis()
    found = {
        "arguments_gb": memory.argument_size_in_bytes / 1e9,
        "results_gb": (memory.output_size_in_bytes - memory.alias_size_in_bytes) / 1e9,
        "temporaries_gb": memory.temp_size_in_bytes / 1e9,
    }
    return found | {"a_chip_gb": sum(found.values()), "chip_gb": chip.hbm_gb}


def roofline(text: str, chip: Chip) -> dict:
    """Estimate one chip's operations, traffic and collectives, and their times at its peaks."""
    from liveedit_jax.scaling.hlo import Program, by_kind

    program = Program(text, chip)
    cost = program.cost()
    sent = sum(cost.collectives.values())
    products_s, wire_s = cost.flops / chip.flops_per_s, sent / chip.wire_bytes_per_s
    return {
        "tflop": cost.flops / 1e12,
        "hbm_traffic_gb": cost.memory_bytes / 1e9,
        "collectives": by_kind(cost),
        "products_s": products_s,
        "instructions_s": cost.seconds,
        "collectives_s": wire_s,
        "step_s": max(cost.seconds, wire_s),
        "utilisation": products_s / max(cost.seconds, wire_s),
        "utilisation_nothing_overlapped": products_s / (cost.seconds + wire_s),
    }


def check(args: argparse.Namespace) -> dict:
    """Compile one step and return what it takes."""
    chip = chip_of(args.topology)
    devices = devices_of(args.topology)
    from liveedit_jax.scaling import shapes
    from liveedit_jax.scaling.mesh import make_mesh
    from liveedit_jax.scaling.steps import Pod

    mesh_cfg = mesh_for(args.step, len(devices), args.mesh)
    chosen = preset(args.config)
    if args.keep:
        chosen = replace(chosen, backbone=replace(chosen.backbone, keep=RematPolicy(args.keep)))
    pod = Pod(make_mesh(mesh_cfg, devices), chosen)
    n = args.batch or SAMPLES_A_CHIP[args.step] * len(devices)
    storage = StorageConfig(keys=Precision(args.keys), bodies=Precision(args.bodies))
    found: dict = {
        "config": args.config,
        "topology": args.topology,
        "step": args.step,
        "chips": len(devices),
        "mesh": {k: v for k, v in as_dict(mesh_cfg).items() if v > 1},
        "samples": n,
        "accumulate": args.accumulate,
        "keep": chosen.backbone.keep.value,
        "tokens": shapes.sequence_length(pod),
        "capacity": None if args.step == "train" else args.capacity,
        "weights_gb": gigabytes_per_device(shapes.weight_shapes(pod, args.int8)),
    }
    begin = time.monotonic()
    lowered = shapes.lower_step(
        pod, args.step, n, args.capacity, storage, args.int8, args.accumulate
    )
    try:
        compiled = lowered.compile()
    except Exception as error:  # the compiler refuses what does not fit
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return found | {"fits": False, "error": str(error).splitlines()[0][:300]}
    found |= memory_of(compiled, chip)
    found["fits"] = found["a_chip_gb"] <= chip.hbm_gb
    text = compiled.as_text()
    if not args.topology.startswith("h100:"):
        found |= roofline(text, chip)
    if args.hlo:
        args.hlo.write_text(text)
    return found | {"compile_s": time.monotonic() - begin}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="llava-1.5-7b", choices=sorted(PRESETS))
    parser.add_argument("--topology", default="v5e:4x4", help="v5e:4x4, v4:2x2x4, h100:8, ...")
    parser.add_argument("--step", default="train", choices=["train", "edit", "query", "generate"])
    parser.add_argument("--mesh", help="axes, as fsdp=8,tensor=2 (default: what suits the step)")
    parser.add_argument("--batch", type=int, help="samples of all chips together")
    parser.add_argument("--capacity", type=int, default=16_384, help="rows of the repository")
    parser.add_argument("--keys", default="float32", help="float32, bfloat16 or int8")
    parser.add_argument("--bodies", default="bfloat16", help="float32, bfloat16 or int8")
    parser.add_argument("--int8", action="store_true", help="frozen kernels in 8 bits")
    parser.add_argument("--accumulate", type=int, default=1, help="parts of a training batch")
    parser.add_argument(
        "--keep", choices=[k.value for k in RematPolicy], help="of layers, for gradients"
    )
    parser.add_argument("--hlo", type=Path, help="file for the compiled program's text")
    parser.add_argument("--out", type=Path, default=Path("runs/compile_check"))
    args = parser.parse_args()
    found = check(args)
    args.out.mkdir(parents=True, exist_ok=True)
    name = f"{args.config}-{args.topology.replace(':', '-')}-{args.step}.json"
    (args.out / name).write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    if not found["fits"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
