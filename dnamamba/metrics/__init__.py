"""Metrics of classifiers and regressions, with bootstrap intervals."""
