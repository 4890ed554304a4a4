"""Kernels: torch and triton only; knows nothing of genomes."""
