"""Windows of several species."""
