"""How fast operators and training steps are on this machine; nothing is timed that is wrong."""
