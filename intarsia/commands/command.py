"""``Command``: a subcommand whose options have headings and further names, with help that is quick and plain.

Typer's own help is drawn by Rich, whose import takes longer than everything else that ``--help`` does.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, ClassVar, TypeAlias, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from intarsia.commands.option_groups import flattened

__all__ = ["Command", "Group", "group"]

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Builder: TypeAlias = Callable[[], Any]

_GENERAL = "Options"


class Command(TyperCommand):
    """A subcommand; what :func:`intarsia.commands.option_groups.flattened` says of its options holds."""

    def make_parser(self, ctx: Any) -> Any:
        """Click's parser, which takes the options' further names too."""
        parser = super().make_parser(ctx)
        aliases: dict[str, tuple[str, ...]] = getattr(self.callback, "option_aliases", {})
        for parameter in self.params:
            for name in aliases.get(parameter.name or "", ()):
                _add_under(name, parameter, parser, ctx)
        return parser

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then options under their headings, in the order of their declaration."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            heading = getattr(parameter, "rich_help_panel", None) or _GENERAL
            if parameter.param_type_name == "argument":
                heading = "Arguments"
                record = (record[0].partition(" <")[0], record[1])  # without the name of its type in Python
            sections.setdefault(heading, []).append(record)

        general = sections.pop(_GENERAL, [])  # --help among them: last
        for heading, records in (*sections.items(), (_GENERAL, general)):
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records, col_max=26)


class Group(typer.Typer):
    """Subcommands that are each built when they are asked for, by their names.

    Typer builds every option of every subcommand before it looks at the arguments, which takes longer than what most
    subcommands do.
    """

    def __init__(self, **settings: Any) -> None:
        self._builders: dict[str, _Builder] = {}
        subcommands = _Subcommands(self._builders)
        super().__init__(cls=type("_GroupOfThese", (_BuiltGroup,), {"subcommands": subcommands}), **settings)
        # without a callback Typer takes a group that it sees no subcommand of for an empty one
        self.callback()(_nothing)

    def command(self, name: str | None = None, **settings: Any) -> Callable[[_Function], _Function]:
        """A decorator that adds a function as the subcommand of a name, or of the function's."""

        def added(function: _Function) -> _Function:
            found = name or function.__name__.replace("_", "-")
            self._builders[found] = functools.partial(_built, function, found, settings)
            return function

        return added

    def add_module(self, package: str, name: str, **settings: Any) -> None:
        """Add what a module of ``package`` has under its own name: a subcommand, or a group of them.

        The module is imported where the subcommand is built: nobody waits for the options of the others.
        """
        self._builders[name] = functools.partial(_built_of_module, f"{package}.{name}", name, settings)


class _Subcommands(MutableMapping[str, Any]):
    """Subcommands by name, in the order in which they were added, each built once, when it is looked up."""

    def __init__(self, builders: Mapping[str, _Builder]) -> None:
        self._builders = builders
        self._built: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._built:
            self._built[name] = self._builders[name]()
        return self._built[name]

    def __setitem__(self, name: str, command: Any) -> None:
        raise TypeError(f"subcommands are added to the group before it is built, also {name}")

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"subcommands stay, also {name}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._builders)

    def __len__(self) -> int:
        return len(self._builders)


class _BuiltGroup(TyperGroup):
    """A group of subcommands whose switches are off, not None, where they are not given.

    For a value that is no boolean Typer imports pydantic, which takes a third of the time of a help.
    """

    subcommands: ClassVar[_Subcommands]

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "commands": None})
        self.commands = self.subcommands

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the subcommands."""
        return list(self.commands)

    def get_params(self, ctx: Any) -> Any:
        """The group's own options, ``--help`` among them."""
        params = super().get_params(ctx)
        for parameter in params:
            if getattr(parameter, "is_flag", False) and parameter.default is None:
                parameter.default = False
        return params


def group(help: str, **settings: Any) -> Group:
    """An empty group of subcommands: ``-h`` too, underscores in options as dashes, plain help."""
    context = {"help_option_names": ["-h", "--help"], "token_normalize_func": _dashed}
    return Group(help=help, context_settings=context, rich_markup_mode=None, pretty_exceptions_enable=False, **settings)


def _built(function: Callable[..., Any], name: str, settings: Mapping[str, Any]) -> Any:
    """A subcommand with all its options."""
    alone = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
    alone.command(name, **{"cls": Command, **settings})(flattened(function))
    return typer.main.get_command(alone)


def _built_of_module(module: str, name: str, settings: Mapping[str, Any]) -> Any:
    found = getattr(importlib.import_module(module), name)
    return _named_group(found, name) if isinstance(found, typer.Typer) else _built(found, name, settings)


def _named_group(group: typer.Typer, name: str) -> Any:
    """The built form of a group, under its name in usage lines."""
    built = typer.main.get_group(group)
    built.name = name
    return built


def _nothing() -> None:
    """A group's own work, where it has none."""


def _add_under(names: str, parameter: Any, parser: Any, ctx: Any) -> None:
    """Add a parameter to the parser under other names too; itself, as the parser notes in which order they come."""
    shown = parameter.opts, parameter.secondary_opts
    name, _, secondary = names.partition("/")
    parameter.opts, parameter.secondary_opts = [name], [secondary] if secondary else []
    try:
        parameter.add_to_parser(parser, ctx)
    finally:
        parameter.opts, parameter.secondary_opts = shown


def _dashed(token: str) -> str:
    return token.replace("_", "-")
