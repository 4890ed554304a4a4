"""Errors that the command line prints without a traceback."""


class InputError(ValueError):
    """Unusable input; the message says what was expected, what came and what to do."""


class TrainingError(RuntimeError):
    """Training cannot continue; the message says why, what was kept and what to try."""


class WrongResultError(RuntimeError):
    """A kernel's result differs from its definition; the message says where and how far."""
