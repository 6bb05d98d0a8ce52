"""``Command``: a subcommand whose options have headings and further names, with help that is quick and plain.

Typer's own help is drawn by Rich, whose import takes longer than everything else that ``--help`` does.
"""

from __future__ import annotations

import copy
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

__all__ = ["Command", "group"]

_GENERAL = "Options"


class Command(TyperCommand):
    """A subcommand; what :func:`intarsia.commands.option_groups.grouped` says of its options holds."""

    def make_parser(self, ctx: Any) -> Any:
        """Click's parser, which takes the options' further names too."""
        parser = super().make_parser(ctx)
        aliases: dict[str, tuple[str, ...]] = getattr(self.callback, "option_aliases", {})
        for parameter in self.params:
            for name in aliases.get(parameter.name or "", ()):
                _renamed(parameter, name).add_to_parser(parser, ctx)
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
            sections.setdefault(heading, []).append(record)

        general = sections.pop(_GENERAL, [])  # --help among them: last
        for heading, records in (*sections.items(), (_GENERAL, general)):
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records, col_max=26)


class _Group(TyperGroup):
    """A group of subcommands whose switches are off, not None, where they are not given.

    For a value that is no boolean Typer imports pydantic, which takes a third of the time of a help.
    """

    def get_params(self, ctx: Any) -> Any:
        """The group's own options, ``--help`` among them."""
        params = super().get_params(ctx)
        for parameter in params:
            if getattr(parameter, "is_flag", False) and parameter.default is None:
                parameter.default = False
        return params


def group(help: str, **settings: Any) -> typer.Typer:
    """An empty group of subcommands: ``-h`` too, underscores in options as dashes, plain help."""
    context = {"help_option_names": ["-h", "--help"], "token_normalize_func": _dashed}
    return typer.Typer(
        cls=_Group,
        help=help,
        context_settings=context,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        **settings,
    )


def _renamed(parameter: Any, names: str) -> Any:
    """A parameter that sets the same value under other names."""
    renamed = copy.copy(parameter)
    name, _, secondary = names.partition("/")
    renamed.opts, renamed.secondary_opts = [name], [secondary] if secondary else []
    return renamed


def _dashed(token: str) -> str:
    return token.replace("_", "-")
