"""Public genomes: catalogue and transfers."""
