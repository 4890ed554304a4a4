"""Kernels: torch, triton and llvmlite only; knows nothing of genomes."""

from dnamamba.kernels.conv.op import causal_conv1d
from dnamamba.kernels.norm.op import add_norm
from dnamamba.kernels.scan.op import selective_scan

__all__ = ["add_norm", "causal_conv1d", "selective_scan"]
