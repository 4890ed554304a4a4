"""The command line: thin click commands over the library; nothing imports it."""
