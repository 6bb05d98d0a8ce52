"""Make the API reference, one HTML page for each public module, from docstrings; needs pdoc.

Warnings are errors: an annotation that cannot be read, or a module that cannot be imported.
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

PUBLIC = (
    "intarsia",
    "intarsia.backends.choose",
    "intarsia.backends.protocol",
    "intarsia.batch",
    "intarsia.errors",
    "intarsia.execution",
    "intarsia.schedulers",
)
"""Modules whose names are kept from one version to the next."""

# Sphinx's roles, which pdoc leaves before the names that it has linked
_ROLE = re.compile(r":(attr|class|data|func|meth|mod):(?=<code>)")


def specs() -> list[str]:
    """pdoc's list of modules: the public ones in order, each without what is inside it."""
    chosen: list[str] = []
    for module in PUBLIC:
        chosen += [module, rf"!{module.replace('.', '[.]')}[.].*"]
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=Path("out/api"))
    out = parser.parse_args(arguments).out

    warnings.simplefilter("error")
    # Python 3.11 cannot evaluate array[float], which type checkers can read
    warnings.filterwarnings("ignore", message=".*'array.array' is not subscriptable")
    import pdoc

    pdoc.render.configure(docformat="google", footer_text="intarsia", search=False)
    pdoc.pdoc(*specs(), output_directory=out)
    for page in out.rglob("*.html"):
        page.write_text(_ROLE.sub("", page.read_text(encoding="utf-8")), encoding="utf-8")
    print(out / "index.html", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
