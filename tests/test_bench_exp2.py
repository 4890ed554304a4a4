"""The kernel of nothing but exponentials."""

import torch

from dnamamba.bench.exp2_gpu import exp2_kernel
from triton_cases import DEVICE, TRITON_TEST

pytestmark = TRITON_TEST


def test_every_number_goes_through_every_step():
    out = torch.full((3 * 64,), torch.nan, device=DEVICE)
    exp2_kernel[(3,)](out, 2, BLOCK=64, STEPS=4)
    expected = torch.arange(64) / 64
    for _ in range(2 * 4):
        expected = torch.exp2(-expected)
    assert torch.allclose(out.cpu().view(3, 64), expected, rtol=1e-5)
