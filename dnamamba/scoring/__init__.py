"""Likelihood scores of variants, sequences and tracks."""
