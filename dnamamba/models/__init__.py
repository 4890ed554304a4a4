"""The backbone, its mixers and heads."""
