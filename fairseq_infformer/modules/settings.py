"""Settings of modules: the error for a wrong one, and names from an earlier version."""

import functools
import warnings
from collections.abc import Callable, Iterable
from typing import TypeVar


class SettingError(ValueError):
    """A setting has a value that it cannot have. The message begins with the setting's name."""

    def __init__(self, setting: str, problem: str) -> None:
        super().__init__(f"{setting} {problem}")
        self.setting, self.problem = setting, problem


def check_choice(setting: str, value: str, choices: Iterable[str]) -> None:
    """SettingError if ``value`` is not one of ``choices``."""
    if value not in (choices := list(choices)):
        raise SettingError(setting, f"must be one of {', '.join(choices)}, got {value!r}")


Function = TypeVar("Function", bound=Callable)


def renamed(**names: str) -> Callable[[Function], Function]:
    """Decorator: the function takes old keywords for one more version, with a DeprecationWarning that says the new one.

    Args:
        names: the new name under each old one, or ``not NAME`` if that means the opposite. None, the old default of
            some, means the new default.

    The function raises a TypeError if it is given both names.
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def with_old_names(*args: object, **kwargs: object) -> object:
            for old in names.keys() & kwargs.keys():
                value, new = kwargs.pop(old), names[old].removeprefix("not ")
                warnings.warn(f"{old} is now {names[old]}; give {new}", DeprecationWarning, stacklevel=2)
                if new in kwargs:
                    raise TypeError(f"{old} is the old name of {names[old]}: give {new} alone")
                if value is not None:
                    kwargs[new] = value if new == names[old] else not value
            return function(*args, **kwargs)

        return with_old_names

    return decorate
