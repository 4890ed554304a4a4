"""Weights of other projects, in and out: a module for each architecture."""
