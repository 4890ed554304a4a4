"""The causal convolution with a filter as long as the sequence, Hyena's: op.py."""
