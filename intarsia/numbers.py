"""Numbers as text: one parser for documented requests, the command line and seeds.

A number is ASCII digits with an optional sign, point and exponent, as JSON has it and a little beyond ("+5", ".5",
"5."); blanks around it do not count. Nothing else is one: no "1_000", "1,5", "0x10", full-width digits, "nan".
"""

from __future__ import annotations

import math
import re

__all__ = ["NUMBER", "WHOLE", "is_random_seed", "number", "number_or_text", "whole", "whole_or_text"]

WHOLE = r"[+-]?[0-9]{1,30}(\.0*)?"
NUMBER = r"[+-]?([0-9]{1,60}(\.[0-9]{0,60})?|\.[0-9]{1,60})([eE][+-]?[0-9]{1,5})?"

# Blanks for Python and for the regular expressions of JSON Schema alike: \x1c … \x1f are only the former's.
_BLANKS = " \t\n\r\v\f\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"


def whole(value: object) -> int | None:
    """An integer in any form, None for everything else: 512, "512", 512.0, "512.0"; -0 is 0."""
    if isinstance(value, str):
        text = value.strip(_BLANKS)
        return int(text.partition(".")[0]) if re.fullmatch(WHOLE, text) else None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def number(value: object) -> float | None:
    """A finite number in any form, None for everything else: 7.5, 7, "7.5", "75e-1"; -0.0 is 0.0."""
    if isinstance(value, str):
        value = value.strip(_BLANKS)
        if not re.fullmatch(NUMBER, value):
            return None
    elif isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        parsed = float(value)
    except OverflowError:  # an integer with hundreds of digits
        return None
    return parsed + 0.0 if math.isfinite(parsed) else None


def whole_or_text(text: str) -> int | str:
    """An option's integer; text that is none is left for the request to refuse, in its own words."""
    parsed = whole(text)
    return text if parsed is None else parsed


def number_or_text(text: str) -> float | str:
    """An option's number; text that is none is left for the request to refuse, in its own words."""
    parsed = number(text)
    return text if parsed is None else parsed


def is_random_seed(value: object) -> bool:
    """Whether a seed says that one is to be drawn, as other tools write it: -1, or "random"."""
    if isinstance(value, str) and value.strip().lower() == "random":
        return True
    return whole(value) == -1
