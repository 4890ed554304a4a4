"""Sequence mixers: Mamba, Mamba-2, BiMamba, Hyena, S4, attention."""
