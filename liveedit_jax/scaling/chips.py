"""Published peak performance of accelerator chips, for estimates from compiled programs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """The peaks of a chip: matrix products, memory, and links to other chips."""

    hbm_gb: float  # 1e9 bytes
    flops_per_s: float  # bfloat16
    hbm_bytes_per_s: float
    wire_bytes_per_s: float  # over all links, one way: half of the bidirectional bandwidth
    layout: str = "default"  # the compiler option that makes one device of a chip

    @property
    def hbm_bytes(self) -> float:
        """Return the size of the memory in bytes."""
        return 1e9 * self.hbm_gb


# Cloud TPU documentation, pages "TPU v4", "TPU v5e", "TPU v5p", "TPU v6e": key specifications.
CHIPS = {
    "v4": Chip(32, 275e12, 1228e9, 300e9, "megacore"),
    "v5e": Chip(16, 197e12, 819e9, 200e9),
    "v5p": Chip(95, 459e12, 2765e9, 600e9, "megacore"),
    "v6e": Chip(32, 918e12, 1640e9, 400e9),
}
CHIPS["h100"] = Chip(80, 989e12, 3350e9, 450e9)  # NVIDIA's data sheet: SXM, dense, NVLink one way
CHIPS["v5"] = CHIPS["v5p"]  # its name in topologies


def chip_of(topology: str) -> Chip:
    """Return the chip of a topology such as "v5e:4x4".

    Raises:
        ValueError: the chip is not in `CHIPS`.
    """
    name = topology.split(":")[0]
    if name not in CHIPS:
        raise ValueError(f"topology {topology!r}: {name!r} is none of {', '.join(sorted(CHIPS))}")
    return CHIPS[name]
