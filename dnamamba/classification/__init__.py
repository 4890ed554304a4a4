"""Fine-tuning, evaluation and prediction with classifiers."""
