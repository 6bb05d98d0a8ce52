"""The ``intarsia`` command. Data goes to stdout, everything else to stderr.

Exit codes: 0 ok · 1 some rows failed · 2 bad usage or bad request · 3 model or weights · 4 device or
backend · 130 interrupted. Under ``--json`` an error is JSON on stdout too.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Annotated, Any

import typer

from intarsia import __version__
from intarsia.commands.command import Command, group
from intarsia.commands.interrupts import take_sigterm
from intarsia.commands.options import Quiet, Verbose
from intarsia.commands.streams import complain, has_printed_json, prepare, print_error, say_more_or_less, start
from intarsia.commands.usage_errors import usage_sentence
from intarsia.errors import BackendError, Cancelled, IntarsiaError, RequestError
from intarsia.spinning import limit_spinning

__all__ = ["app", "main"]

app = group("Inpaint images locally.", no_args_is_help=True, add_completion=True)
for command in ("inpaint", "compare", "request", "plan", "schema", "doctor", "export", "serve"):
    app.add_module("intarsia.commands", command, cls=Command)
for subcommands in ("batch", "keys", "models", "schedulers"):
    app.add_module("intarsia.commands", subcommands)

# Typer carries its own copy of click, or uses the installed one, by version; either way this is what a
# wrong option, argument or command raises.
UsageError: Any = typer.BadParameter.__base__


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"intarsia {__version__}")
        raise typer.Exit


@app.callback()
def before_every_command(
    version: Annotated[
        bool, typer.Option("--version", "-V", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Inpaint images locally."""
    start(quiet=False, verbose=False)
    say_more_or_less(quiet=quiet, verbose=verbose)


def main() -> None:
    """Entry point: our errors become one line on stderr and an exit code."""
    limit_spinning()
    prepare()
    take_sigterm()
    try:
        # Typer gives back the exit code that it would have ended with; None is a command that returned.
        code = app(standalone_mode=False, prog_name="intarsia") or 0
        if code == Cancelled.exit_code:
            raise KeyboardInterrupt
        sys.stdout.flush()
        sys.exit(code)
    except IntarsiaError as exc:
        sys.exit(_fail(_kind(exc), str(exc), exc.exit_code, getattr(exc, "field", None)))
    except UsageError as exc:
        sys.exit(_fail_by_usage(exc))
    except BrokenPipeError:  # the reader of our output has closed it; Typer ends with 1, too
        _close_output()
        sys.exit(1)
    except (OSError, UnicodeError) as exc:  # a full disk, a name that no file system takes
        _close_output()
        sys.exit(_fail("system", str(exc), 2))
    except RuntimeError as exc:
        if str(exc) != "can't start new thread":  # of a library's: ours say which
            raise
        sentence = f"{exc}: a limit of processes or of memory is reached"
        sys.exit(_fail("backend", sentence, BackendError.exit_code))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(_fail("cancelled", "interrupted", Cancelled.exit_code))


def _close_output() -> None:
    """What could not be written to stdout is not tried again as the interpreter ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(kind: str, sentence: str, code: int, field: str | None = None) -> int:
    """Say what is wrong: on stderr, and where JSON is asked for, and nothing printed yet, as JSON on stdout."""
    complain(sentence)
    if _asks_for_json(sys.argv[1:]) and not has_printed_json():
        print_error(kind, sentence, code, field)
    return code


def _asks_for_json(arguments: list[str]) -> bool:
    """Whether ``--json`` is given, seen before the arguments are parsed: they may be what is wrong."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options


_KINDS = {2: "output", 3: "weights", 4: "backend", 130: "cancelled"}


def _kind(error: IntarsiaError) -> str:
    """The class of an error, as its JSON names it."""
    return "request" if isinstance(error, RequestError) else _KINDS.get(error.exit_code, "error")


def _fail_by_usage(error: Any) -> int:
    """One line as for every other error; the whole help where nothing at all was asked for."""
    if type(error).__name__ == "NoArgsIsHelpError":
        with suppress(OSError):
            error.show()
        return 2
    command = error.ctx.command_path if error.ctx else "intarsia"
    return _fail("usage", f"{usage_sentence(error)} (see {command} --help)", 2)
