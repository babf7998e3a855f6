"""Keyword arguments for the dataclasses of other libraries, checked before they are passed on. Those
take the text "false" for true, and find most mistakes only when they train."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import NoneType
from typing import Any, get_args, get_type_hints

from selm_core.errors import InputError

SCALARS = {bool, int, float, str, NoneType}


def check_arguments(
    option: str, given: Mapping[str, Any], target: type, *, allowed: Collection[str]
) -> None:
    """Checks the names in `given`, and the types of all values that `target` annotates as scalars.

    Raises:
        InputError: a name that is not among `allowed`, or a value of another type.
    """
    if unknown := sorted(given.keys() - set(allowed), key=str):
        raise InputError(
            f"OnlineConfig: expected '{option}' to hold arguments of {target.__name__}, "
            f"got {unknown}"
        )
    hints = get_type_hints(target)
    for name, value in given.items():
        types = set(get_args(hints[name])) or {hints[name]}
        if types <= SCALARS and not _fits(value, types):
            expected = " or ".join(sorted(kind.__name__ for kind in types))
            raise InputError(
                f"OnlineConfig: expected '{name}' in '{option}' to be {expected}, got {value!r}"
            )


def _fits(value: object, types: set[type]) -> bool:
    """By exact type, because True is an int; a whole number is a float, too."""
    return type(value) in types or (type(value) is int and float in types)
