"""Running a model: batches, windows, likelihoods."""
