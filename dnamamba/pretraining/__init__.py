"""Pretraining of DNA language models."""
