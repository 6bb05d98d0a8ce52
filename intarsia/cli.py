"""The ``intarsia`` command. Data goes to stdout, everything else to stderr.

Exit codes: 0 ok · 1 some rows failed · 2 bad usage or bad request · 3 model or weights · 4 device or
backend · 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any

import typer

from intarsia.commands.batch import batch
from intarsia.commands.export import export
from intarsia.commands.inpaint import inpaint
from intarsia.commands.interrupts import take_sigterm
from intarsia.commands.keys import keys
from intarsia.commands.models import models
from intarsia.commands.plan import plan
from intarsia.commands.request import request
from intarsia.commands.schedulers import schedulers
from intarsia.commands.schema import schema
from intarsia.commands.serve import serve
from intarsia.commands.streams import note, prepare
from intarsia.errors import BackendError, Cancelled, IntarsiaError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Inpaint images locally.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(inpaint)
app.command()(request)
app.command()(plan)
app.command()(schema)
app.command()(export)
app.command()(serve)
app.add_typer(batch, name="batch")
app.add_typer(keys, name="keys")
app.add_typer(models, name="models")
app.add_typer(schedulers, name="schedulers")

# Typer carries its own copy of click, or uses the installed one, by version; either way this is what a
# wrong option, argument or command raises.
UsageError: Any = typer.BadParameter.__base__


def main() -> None:
    """Entry point: our errors become one line on stderr and an exit code."""
    # Spinning OpenMP threads starve everything else on a machine that is not ours alone.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    prepare()
    take_sigterm()
    try:
        # Typer gives back the exit code that it would have ended with; None is a command that returned.
        code = app(standalone_mode=False) or 0
        if code == Cancelled.exit_code:
            raise KeyboardInterrupt
        sys.stdout.flush()
        sys.exit(code)
    except IntarsiaError as exc:
        sys.exit(_complain(str(exc), exc.exit_code))
    except UsageError as exc:
        sys.exit(_complain_of_usage(exc))
    except BrokenPipeError:  # the reader of our output has closed it; Typer ends with 1, too
        _close_output()
        sys.exit(1)
    except (OSError, UnicodeError) as exc:  # a full disk, a name that no file system takes
        _close_output()
        sys.exit(_complain(str(exc), 2))
    except RuntimeError as exc:
        if str(exc) != "can't start new thread":  # of a library's: ours say which
            raise
        sys.exit(_complain(f"{exc}: a limit of processes or of memory is reached", BackendError.exit_code))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(_complain("interrupted", Cancelled.exit_code))


def _close_output() -> None:
    """What could not be written to stdout is not tried again as the interpreter ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(sentence: str, code: int) -> int:
    note(sentence)
    return code


def _complain_of_usage(error: Any) -> int:
    """One line as for every other error; the whole help where nothing at all was asked for."""
    if type(error).__name__ == "NoArgsIsHelpError":
        with suppress(OSError):
            error.show()
        return 2
    command = error.ctx.command_path if error.ctx else "intarsia"
    return _complain(f"{error.format_message().rstrip('.')} (see {command} --help)", 2)
