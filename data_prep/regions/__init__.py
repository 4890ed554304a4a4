"""Readers of regions, variants and sequence tables."""
