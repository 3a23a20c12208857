"""A quicker start: typer's validators are made for the options that need one, not for all.

From 0.27 typer makes a pydantic validator of every option of the command that runs, and importing
pydantic for that takes longer than most commands do. Text needs no validator, and an option that
was not given has nothing to validate. Where typer makes no such validators, nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer.core

_PARAMETER = "_TyperParameter"
_MAKE = "get_runtime_param"


def defer_validators() -> None:
    """Validate an option when it is given, in this process from now on."""
    parameter: Any = getattr(typer.core, _PARAMETER, None)
    make = getattr(parameter, _MAKE, None)
    if make is not None and not getattr(make, "defers", False):
        setattr(parameter, _MAKE, _deferring(make))


def _deferring(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def get_runtime_param(parameter: Any) -> _WhenGiven:
        return _WhenGiven(lambda: make(parameter))

    get_runtime_param.defers = True  # type: ignore[attr-defined]
    return get_runtime_param


class _WhenGiven:
    """Stands where typer keeps a parameter's validator."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        if _is_text(value, param.type_descriptor.annotation):
            return value
        return self._make().coerce(value, param=param, ctx=ctx)


def _is_text(value: Any, annotation: Any) -> bool:
    if annotation == list[str]:
        return isinstance(value, list) and all(type(item) is str for item in value)
    return annotation is str and type(value) is str
