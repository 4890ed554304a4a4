"""Training loop, optimiser, checkpoints, run folders and memory plans."""
