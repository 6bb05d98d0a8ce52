"""What is wrong with the options of a command line, in a sentence that names option, value and what is allowed."""

from __future__ import annotations

from typing import Any

from intarsia.errors import shown

__all__ = ["usage_sentence"]


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
    if problem["type"] == "value_error":  # a sentence of Typer's, with the value in it
        return f"{name}: {reason.rstrip('.')}"
    allowed = reason.removeprefix("Input should be ").partition(",")[0]
    return f"{name} must be {allowed}, not {shown(problem['input'])}"
