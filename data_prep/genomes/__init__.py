"""Genomes: FASTA files, stores, statistics."""
