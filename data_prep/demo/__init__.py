"""Simulated genomes."""
