"""Labelled sequences from tables, FASTA files and regions."""
