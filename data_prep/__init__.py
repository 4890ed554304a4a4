"""Reading, preparing, simulating and downloading genomes; needs no torch."""
