"""Kernels: torch, triton and llvmlite only; knows nothing of genomes."""

from dnamamba.kernels.conv.op import causal_conv1d, causal_conv1d_step
from dnamamba.kernels.longconv.op import long_conv
from dnamamba.kernels.norm.op import add_norm
from dnamamba.kernels.scan.op import selective_scan, selective_scan_step
from dnamamba.kernels.ssd.op import state_space_duality

__all__ = [
    "add_norm",
    "causal_conv1d",
    "causal_conv1d_step",
    "long_conv",
    "selective_scan",
    "selective_scan_step",
    "state_space_duality",
]
