"""Short causal depthwise convolution: op.py."""
