"""What the command line prints without a traceback."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message says what was expected, what came and what to do. The command line prints it without
    a traceback and exits with 1; in Python it is an ordinary ValueError.
    """


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why, what was kept and what to try."""


class WrongResultError(RuntimeError):
    """A kernel computes something else than its definition; the message says where and how far."""
