"""State space duality: reference.py defines it, chunked.py computes it, op.py is the way in."""
