"""Option groups: dataclasses whose fields are options, so that several commands share one definition of each.

A command takes a group as one parameter, and is marked with :func:`grouped`; :func:`flattened` gives it, for Typer, the
group's fields as parameters of its own, under the group's heading in the help.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from typer.models import OptionInfo

__all__ = ["Also", "flattened", "grouped"]

_MARK = "has_option_groups"


class Also:
    """Further names of an option, as other tools have them: accepted, and left out of the help.

    Args:
        names: as Typer takes them: ``--cfg-scale``, or ``--karras/--no-karras`` of a flag.
    """

    def __init__(self, *names: str) -> None:
        self.names = names


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Mark a command that takes option groups; they are only looked at where the command is built."""
    setattr(command, _MARK, True)
    return command


def flattened(command: Callable[..., Any]) -> Callable[..., Any]:
    """``command`` as Typer reads it: each parameter that is an option group replaced by the group's fields."""
    if not getattr(command, _MARK, False):
        return command
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, type[Any]] = {name: kind for name, kind in hints.items() if _is_group(kind)}
    parameters: list[inspect.Parameter] = []
    aliases: dict[str, tuple[str, ...]] = {}

    for parameter in inspect.signature(command).parameters.values():
        if parameter.name not in groups:
            kept = parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
            parameters.append(kept)
            continue
        for option in _options(groups[parameter.name]):
            parameters.append(option)
            aliases[option.name] = _further_names(option.annotation)

    @functools.wraps(command)
    def flat(**values: Any) -> None:
        made = {}
        for name, group in groups.items():
            names = [field.name for field in dataclasses.fields(group)]
            made[name] = group(**{field: values.pop(field) for field in names})
        command(**values, **made)

    signature = inspect.Signature(parameters)
    flat.__dict__ |= {"__signature__": signature, "option_aliases": aliases}
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return flat


def _is_group(kind: object) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def _options(group: type[Any]) -> Iterator[inspect.Parameter]:
    """The fields of a group as keyword parameters, with its heading."""
    hints = get_type_hints(group, include_extras=True)
    for field in dataclasses.fields(group):
        default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
        annotation = _under_heading(hints[field.name], group.heading)
        yield inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _under_heading(annotation: Any, heading: str) -> Any:
    """``Annotated[type, Option(…)]`` with the heading in its option; arguments have one of Typer's."""
    kind, *details = get_args(annotation)
    placed = [copy.copy(detail) for detail in details]
    for detail in placed:
        if isinstance(detail, OptionInfo):
            detail.rich_help_panel = heading
    return Annotated[(kind, *placed)]


def _further_names(annotation: Any) -> tuple[str, ...]:
    if get_origin(annotation) is not Annotated:
        return ()
    return tuple(name for detail in get_args(annotation)[1:] if isinstance(detail, Also) for name in detail.names)
