"""What is wrong with the options of a command line, in a sentence that names option, value and what is allowed."""

from __future__ import annotations

import re
from typing import Any

from intarsia.errors import shown

__all__ = ["usage_sentence"]

_LIMITS = ("greater_than_equal", "less_than_equal")


def usage_sentence(error: Any) -> str:
    """The sentence of an error that the parser raised.

    Args:
        error: click's ``UsageError``. Where Typer found the value wrong by pydantic its cause says what the value was,
            which the error itself leaves out.
    """
    options = getattr(getattr(error, "param", None), "opts", ())
    problems = getattr(error.__cause__, "errors", None)
    if not options or problems is None:
        return str(error.format_message()).rstrip(".")

    name = max(options, key=len)
    problem = problems(include_url=False)[0]
    reason = problem["msg"].removeprefix("Value error, ")
    choice = re.fullmatch(r"(.+) is not one of (.+?)\.?", reason, re.DOTALL)
    if problem["type"] == "value_error" and choice:  # of an option with few values
        allowed = choice[2].replace("'", "")
        return f"{name} must be one of {allowed}, not {choice[1]}"
    if problem["type"] == "value_error":  # a sentence of Typer's, with the value in it
        return f"{name}: {reason.rstrip('.')}"
    if problem["type"] in _LIMITS:
        return f"{name} must be {_limits(error.param)}, not {shown(problem['input'])}"
    allowed = reason.removeprefix("Input should be ").partition(",")[0]
    return f"{name} must be {allowed}, not {shown(problem['input'])}"


def _limits(option: Any) -> str:
    """Both limits of an option, of which the parser's sentence has the one that was passed."""
    if option.max is None:
        return f"at least {option.min}"
    return f"at most {option.max}" if option.min is None else f"between {option.min} and {option.max}"
