"""The cost of a compiled program, from its HLO text: operations, memory traffic, collectives.

XLA's own cost analysis counts the body of a loop once. Here every computation is multiplied by the
trip counts of the loops around it, and a conditional counts as its most expensive branch.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property

from liveedit_jax.scaling.chips import Chip

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4}
BYTES |= {"f32": 4, "s64": 8, "u64": 8, "f64": 8}
FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
_OP = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")


@dataclass
class Op:
    """An HLO instruction."""

    name: str
    shape: str
    kind: str
    operands: list[str]
    rest: str

    def names(self, attribute: str) -> list[str]:
        """Return the computations that an attribute names."""
        found = re.search(attribute + r"=(?:\{([^}]*)\}|(%[\w.\-]+))", self.rest)
        listed = (found[1] or found[2]).split(",") if found else []
        return [name.strip(" %") for name in listed]


@dataclass
class Cost:
    """The work of one device in one run of a computation."""

    flops: float = 0.0
    memory_bytes: float = 0.0  # read and written; fusions read their operands once
    seconds: float = 0.0  # instructions take the longer of their products' and their traffic's time
    collectives: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # bytes sent

    def add(self, other: Cost, times: float = 1.0) -> None:
        """Add `times` runs of another computation; parts of the same transfer count once."""
        self.flops += times * other.flops
        self.memory_bytes += times * other.memory_bytes
        self.seconds += times * other.seconds
        for transfer, size in other.collectives.items():
            self.collectives[transfer] = max(self.collectives[transfer], times * size)


def shapes(text: str) -> list[tuple[str, tuple[int, ...]]]:
    """Parse an HLO shape, which may be a tuple, to the dtype and dimensions of its arrays."""
    return [
        (dtype, tuple(int(n) for n in dims.split(",") if n))
        for dtype, dims in _SHAPE.findall(text)
        if dtype in BYTES
    ]


def bytes_of(text: str) -> int:
    """Return the total bytes of the arrays of an HLO shape."""
    return sum(BYTES[dtype] * math.prod(dims) for dtype, dims in shapes(text))


def hbm_bytes(text: str) -> int:
    """Return the bytes of a shape's arrays that are in HBM; those with S(1) are on the chip."""
    return sum(bytes_of(array) for array in _arrays(text) if "S(1)" not in array)


def _arrays(text: str) -> list[str]:
    return re.findall(r"\w+\[[\d,]*\](?:\{[^}]*\})?", text)


def group_size(rest: str) -> int:
    """Return the number of devices that take part in a collective.

    Raises:
        ValueError: the instruction's groups cannot be parsed.
    """
    named = re.search(r"replica_groups=mesh\[(.*?)\](?:, device_ids=\(.*?\)\)?)? \{(.*?)\}", rest)
    if named:
        axes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        return math.prod(int(axes[name]) for name in re.findall(r"'(\w+)'", named[2]))
    listed = re.search(r"replica_groups=\[(\d+),(\d+)\]", rest)
    if listed:
        return int(listed[2])
    first = re.search(r"replica_groups=\{\{([\d,]+)\}", rest)
    if not first:
        raise ValueError(f"a collective without known groups: {rest[:200]}")
    return len(first[1].split(","))


def wire_bytes(kind: str, shape: str, rest: str) -> float:
    """Return the bytes that a device sends for a collective with the ring algorithm."""
    size = bytes_of(shape)
    if kind == "collective-permute":
        return float(size)
    n = group_size(rest)
    share = (n - 1) / n
    return {
        "all-gather": size * share,
        "all-reduce": 2 * size * share,
        "reduce-scatter": size * (n - 1),
        "all-to-all": size * share,
    }[kind]


class Program:
    """The computations of an HLO module."""

    def __init__(self, text: str, chip: Chip):
        """Parse the text of `compiled.as_text()`; times are estimated for `chip`."""
        self.chip = chip
        self.computations: dict[str, list[Op]] = {}
        self.entry, ops = "", []
        self._costs: dict[str, Cost] = {}
        for line in text.splitlines():
            head = _HEAD.match(line)
            if head:
                ops = self.computations.setdefault(head[2], [])
                self.entry = head[2] if head[1] else self.entry
                continue
            found = _OP.match(line)
            if found:
                inside = found[4].split("), ")[0]
                operands = re.findall(r"%([\w.\-]+)", inside)
                ops.append(Op(found[1], found[2], found[3], operands, found[4]))

    @cached_property
    def shape_of(self) -> dict[str, str]:
        """Return the shape of every instruction by name."""
        return {op.name: op.shape for ops in self.computations.values() for op in ops}

    def _product_flops(self, op: Op) -> float:
        """Return the operations of a dot or convolution: 2 per product that is summed."""
        _, out = shapes(op.shape)[0]
        _, left = shapes(self.shape_of[op.operands[0]])[0]
        if op.kind == "dot":
            dims = _match(r"lhs_contracting_dims=\{([\d,]*)\}", op.rest)
            terms = math.prod([left[int(i)] for i in dims[1].split(",") if i])
            return 2.0 * math.prod(out) * terms
        labels = _match(r"dim_labels=(\w+)_(\w+)->(\w+)", op.rest)
        image, result = (
            dict(zip(labels[1], left, strict=True)),
            dict(zip(labels[3], out, strict=True)),
        )
        _, right = shapes(self.shape_of[op.operands[1]])[0]
        kernel = dict(zip(labels[2], right, strict=True))
        pairs = _pairs(op.rest, image, result)
        return 2.0 * result["b"] * result["f"] * kernel["i"] * pairs

    def _traffic(self, op: Op) -> int:
        """Return the bytes of HBM an instruction reads and writes; a slice counts its own size."""
        if op.kind.endswith("-done"):
            return 0
        if op.kind in ("copy-start", "slice-start", "async-start"):  # to or from on-chip memory
            return min((bytes_of(x) for x in _arrays(op.shape) if bytes_of(x) > 4), default=0)
        read = [hbm_bytes(self.shape_of.get(name, "")) for name in op.operands]
        written = hbm_bytes(op.shape)
        if op.kind in ("dynamic-slice", "slice", "gather"):
            return 2 * written
        if op.kind == "dynamic-update-slice":
            return 2 * read[1]
        if op.kind != "fusion":
            return sum(read) + written
        called = op.names("calls")[0]
        if op.name.startswith("async-collective"):  # the result is written when it arrives
            return written if op.name.startswith("async-collective-done") else 0
        if called.startswith("async_collective"):  # a transfer's buffers are passed through
            through = re.findall(r"\{(\d*)\}: \((\d+), \{\}\)", op.rest)
            outs = _arrays(op.shape)
            written -= sum(hbm_bytes(outs[int(out or 0)]) for out, _ in through)
            for _, operand in through:
                read[int(operand)] = 0
        body = self.computations[called]
        parameters = {x.name: int(x.rest.split(")")[0]) for x in body if x.kind == "parameter"}
        for name, index in parameters.items():
            users = [x for x in body if name in x.operands]
            if users and all(x.kind in ("dynamic-slice", "gather", "slice") for x in users):
                read[index] = sum(hbm_bytes(x.shape) for x in users)
            elif users and all(
                x.kind == "dynamic-update-slice" and x.operands[0] == name for x in users
            ):
                read[index] = 0
        if body[-1].kind == "dynamic-update-slice":
            written = hbm_bytes(self.shape_of[body[-1].operands[1]])
        return sum(read) + written

    def _trips(self, loop: Op) -> int:
        """Return a loop's trip count, from its condition; 1 if it depends on the data."""
        known = re.search(r'known_trip_count[^\d]*"?n"?[^\d]*(\d+)', loop.rest)
        if known:
            return int(known[1])
        limits = [
            int(op.rest.split(")")[0])
            for op in self.computations[loop.names("condition")[0]]
            if op.kind == "constant" and op.shape.startswith("s32[]")
        ]
        return max(limits, default=1)

    def cost(self, name: str | None = None, inside_fusion: bool = False) -> Cost:
        """Return the cost of one run of a computation (None: of the program)."""
        key = f"{name or self.entry}/{inside_fusion}"
        if key not in self._costs:
            self._costs[key] = self._count(name or self.entry, inside_fusion)
        return self._costs[key]

    def _count(self, name: str, inside_fusion: bool) -> Cost:
        total = Cost()
        for op in self.computations[name]:
            kind, own = op.kind.removesuffix("-start"), Cost()
            if kind in ("dot", "convolution"):
                own.flops = self._product_flops(op)
            elif kind in COLLECTIVES:
                shape = op.shape
                if op.kind.endswith("-start") and shape.startswith("("):
                    shape = ", ".join(shape.split("}, ")[1:2]) or shape  # (operand, result, ...)
                part = re.search(r'chain_id="(\d+)"', op.rest)
                transfer = f"chain {part[1]}" if part else op.name
                own.collectives[f"{kind}/{transfer}"] = wire_bytes(kind, shape, op.rest)
            elif kind == "while":
                total.add(self.cost(op.names("body")[0]), self._trips(op))
            elif kind == "conditional":
                branches = op.names("branch_computations")
                branches = branches or [*op.names("true_computation"), *op.names("false_comp\\w*")]
                total.add(max(map(self.cost, branches), key=lambda cost: cost.seconds))
            elif kind in ("fusion", "call"):
                for called in op.names("calls") + op.names("to_apply"):
                    own.add(self.cost(called, inside_fusion or kind == "fusion"))
            if not inside_fusion and kind not in (*FREE, *COLLECTIVES, "call"):
                own.memory_bytes = self._traffic(op)
                product_s = own.flops / self.chip.flops_per_s
                own.seconds = max(product_s, own.memory_bytes / self.chip.hbm_bytes_per_s)
            total.add(own)
        if not inside_fusion:  # parts of one transfer are in fusions of one computation
            named = {
                key if key.count("/") > 1 else key.replace("/", f"/{name}/", 1): size
                for key, size in total.collectives.items()
            }
            total.collectives = defaultdict(float, named)
        return total


def _match(pattern: str, text: str) -> re.Match[str]:
    """Find what every operation of a kind has in its text."""
    found = re.search(pattern, text)
    assert found is not None, text
    return found


def _numbers(window: str, name: str, default: str) -> list[str]:
    found = re.search(rf"\b{name}=([\d_x\-]+)", window)
    return found[1].split("x") if found else [default]


def _pairs(rest: str, image: dict[str, int], out: dict[str, int]) -> int:
    """Count the real entries in a convolution's window, over all its positions.

    TPU programs write the batch dimensions of a product as dilated or padded windows, in which most
    entries are holes.
    """
    found = re.search(r"window=\{([^}]*)\}", rest)
    if not found:
        return 1
    sizes = [int(n) for n in _numbers(found[1], "size", "1")]
    columns = {"stride": "1", "lhs_dilate": "1", "rhs_dilate": "1", "pad": "0_0"}
    values = {
        name: (_numbers(found[1], name, default) * len(sizes))[: len(sizes)]
        for name, default in columns.items()
    }
    total = 1
    for i, size in enumerate(sizes):
        stride, dilate, spread = (
            int(values[name][i]) for name in ("stride", "lhs_dilate", "rhs_dilate")
        )
        low, last = int(values["pad"][i].split("_")[0]), (image[str(i)] - 1) * dilate
        places = (o * stride - low + k * spread for o in range(out[str(i)]) for k in range(size))
        total *= sum(0 <= place <= last and place % dilate == 0 for place in places)
    return total


def by_kind(cost: Cost) -> dict[str, dict[str, float]]:
    """Sum collectives by kind: the number of transfers, and the bytes that a device sends."""
    found: dict = {kind: {"transfers": 0, "bytes": 0.0} for kind in COLLECTIVES}
    for transfer, size in cost.collectives.items():
        kind = transfer.split("/")[0]
        found[kind]["transfers"] += 1
        found[kind]["bytes"] += size
    return {kind: value for kind, value in found.items() if value["transfers"]}
