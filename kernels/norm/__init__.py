"""Residual addition and norm in one op: op.py."""
