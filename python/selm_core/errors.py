"""Errors whose message says all that a user needs; the `selm` command shows them without a traceback.

Each is also the built-in exception that a Python program would expect in its place.
"""


class UserError(Exception):
    """What was given cannot work, or has led nowhere; the message says what to change."""


class InputError(UserError, ValueError):
    """Options, data or a judge that cannot work."""


class UnsupportedError(UserError, NotImplementedError):
    """A setup that this version refuses."""


class MissingPackageError(UserError, ImportError):
    """A package is not installed, or is not the version that is used."""
