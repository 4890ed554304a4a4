"""Embeddings of sequences and regions, and their files."""
