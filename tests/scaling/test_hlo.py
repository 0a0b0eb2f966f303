"""Costs counted from programs: loops, products written as convolutions, collectives, traffic."""

import jax
import jax.numpy as jnp
import pytest

from liveedit_jax.scaling.chips import CHIPS, Chip, chip_of
from liveedit_jax.scaling.hlo import Program, by_kind

CHIP = Chip(hbm_gb=1, flops_per_s=1e6, hbm_bytes_per_s=1e5, wire_bytes_per_s=1e4)
COLLECTIVES = """HloModule m

ENTRY %main (p: f32[4,8]) -> f32[16,8] {
  %p = f32[4,8]{1,0} parameter(0)
  %a = f32[16,8]{1,0} all-gather(%p), replica_groups=mesh['x'=4,'y'=2] {'x'}, dimensions={0}, frontend_attributes={chain_id="7"}
  %b = f32[16,8]{1,0} all-gather(%p), replica_groups=mesh['x'=4,'y'=2] {'x'}, dimensions={0}, frontend_attributes={chain_id="7"}
  %r = f32[4,8]{1,0} all-reduce(%p), replica_groups={{0,1},{2,3}}, to_apply=%add
  ROOT %s = f32[2,8]{1,0} reduce-scatter(%p), replica_groups=[4,2]<=[8], dimensions={0}, to_apply=%add
  %t = f32[64,8]{1,0} all-gather(%p), replica_groups=mesh['x'=1,'y'=16,'z'=16], device_ids=([16,16]T(1,0)) {'y'}, dimensions={0}
}
"""  # noqa: E501
CONVOLUTIONS = """HloModule m

ENTRY %main (x: bf16[8,4,16], y: bf16[8,16,32]) -> bf16[8,4,32] {
  %x = bf16[8,4,16]{2,1,0} parameter(0)
  %y = bf16[8,16,32]{2,1,0} parameter(1)
  %one = bf16[8,4,32]{2,1,0} convolution(%x, %y), dim_labels=0bf_0io->0bf, window={size=8 stride=7 lhs_dilate=8}
  %z = bf16[4,16]{1,0} parameter(2)
  %w = bf16[16,32]{1,0} parameter(3)
  ROOT %two = bf16[4,32]{1,0} convolution(%z, %w), dim_labels=bf_io->bf
}
"""  # noqa: E501


FUSED_TRANSFER = """HloModule m

%async_collective_fusion.1 (p0: bf16[2,8], p1: bf16[16,8], p2: bf16[4,4]) -> (bf16[4,4], bf16[2,8], bf16[16,8]) {
  %p0 = bf16[2,8]{1,0} parameter(0)
  %p1 = bf16[16,8]{1,0} parameter(1)
  %p2 = bf16[4,4]{1,0} parameter(2)
  %n = bf16[4,4]{1,0} negate(%p2)
  ROOT %t = (bf16[4,4]{1,0}, bf16[2,8]{1,0}, bf16[16,8]{1,0}) tuple(%n, %p0, %p1)
}

ENTRY %main (x: bf16[2,8], y: bf16[16,8], z: bf16[4,4]) -> bf16[16,8] {
  %x = bf16[2,8]{1,0} parameter(0)
  %y = bf16[16,8]{1,0} parameter(1)
  %z = bf16[4,4]{1,0} parameter(2)
  %f = (bf16[4,4]{1,0}, bf16[2,8]{1,0}, bf16[16,8]{1,0}) fusion(%x, %y, %z), kind=kOutput, output_to_operand_aliasing={{1}: (0, {}), {2}: (1, {})}, calls=%async_collective_fusion.1
  %g = bf16[16,8]{1,0} get-tuple-element(%f), index=2
  ROOT %async-collective-done = bf16[16,8]{1,0} fusion(%g), kind=kCustom, output_to_operand_aliasing={{}: (0, {})}, calls=%async_collective_fusion.1
}
"""  # noqa: E501


def test_buffers_of_a_transfer_that_pass_through_other_work_are_no_traffic():
    read_and_written, arrived = 2 * 4 * 4 * 2, 16 * 8 * 2
    assert Program(FUSED_TRANSFER, CHIP).cost().memory_bytes == read_and_written + arrived


def test_loops_count_as_often_as_they_run():
    def looped(x, w):
        return jax.lax.scan(lambda h, k: (h @ k, None), x, w)[0]

    x, w = jnp.ones((8, 16)), jnp.ones((5, 16, 16))
    text = jax.jit(looped).lower(x, w).compile().as_text()
    assert Program(text, CHIP).cost().flops == 5 * 2 * 8 * 16 * 16


def test_products_of_batches_written_as_convolutions_count_their_real_terms():
    cost = Program(CONVOLUTIONS, CHIP).cost()
    batched, plain = 2 * 8 * 4 * 16 * 32, 2 * 4 * 16 * 32
    assert cost.flops == batched + plain
    moved = [2 * (8 * 4 * 16 + 8 * 16 * 32 + 8 * 4 * 32), 2 * (4 * 16 + 16 * 32 + 4 * 32)]
    assert cost.memory_bytes == sum(moved)
    wanted = max(batched / 1e6, moved[0] / 1e5) + max(plain / 1e6, moved[1] / 1e5)
    assert cost.seconds == pytest.approx(wanted)


def test_parts_of_one_transfer_count_once_and_bytes_are_those_sent():
    found = by_kind(Program(COLLECTIVES, CHIP).cost())
    sent = 16 * 8 * 4 * 3 / 4 + 64 * 8 * 4 * 15 / 16
    assert found["all-gather"] == {"transfers": 2, "bytes": sent}
    assert found["all-reduce"] == {"transfers": 1, "bytes": 2 * 4 * 8 * 4 / 2}
    assert found["reduce-scatter"] == {"transfers": 1, "bytes": 2 * 8 * 4}


def test_chips_are_known_by_their_topology():
    assert chip_of("v5e:4x4") is CHIPS["v5e"] and chip_of("v4:2x2x4").hbm_bytes == 32e9
    with pytest.raises(ValueError, match="'v9' is none of"):
        chip_of("v9:2x2")
