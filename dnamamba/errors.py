"""The one error a user's mistake raises."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message says what was expected, what came and what to do. The command line prints it without
    a traceback and exits with 1; in Python it is an ordinary ValueError.
    """
