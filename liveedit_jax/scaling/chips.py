"""Published peaks of accelerator chips, for what is compiled without having one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """One chip: matrix products, memory, and what it sends to its neighbours over all links."""

    hbm_gb: float  # 1e9 bytes
    flops_per_s: float  # bfloat16
    hbm_bytes_per_s: float
    wire_bytes_per_s: float  # one way: half of the bidirectional bandwidth
    layout: str = "default"  # how the compiler is told to make one device of a chip

    @property
    def hbm_bytes(self) -> float:
        """Bytes of memory."""
        return 1e9 * self.hbm_gb


# Cloud TPU documentation, pages "TPU v4", "TPU v5e", "TPU v5p", "TPU v6e": key specifications.
CHIPS = {
    "v4": Chip(32, 275e12, 1228e9, 300e9, "megacore"),
    "v5e": Chip(16, 197e12, 819e9, 200e9),
    "v5p": Chip(95, 459e12, 2765e9, 600e9, "megacore"),
    "v6e": Chip(32, 918e12, 1640e9, 400e9),
}
CHIPS["h100"] = Chip(80, 989e12, 3350e9, 450e9)  # NVIDIA's data sheet: SXM, dense, NVLink one way
CHIPS["v5"] = CHIPS["v5p"]  # as topologies call it


def chip_of(topology: str) -> Chip:
    """The chip of a topology such as "v5e:4x4".

    Raises:
        ValueError: its peaks are not known here.
    """
    name = topology.split(":")[0]
    if name not in CHIPS:
        raise ValueError(f"topology {topology!r}: {name!r} is none of {', '.join(sorted(CHIPS))}")
    return CHIPS[name]
