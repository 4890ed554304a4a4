"""Which window is which sample, and the streaming loader over them."""
