"""Baselines beside every model: Markov models, k-mers, linear models."""
