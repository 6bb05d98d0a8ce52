"""`python -m tools.export_tiny`: the graphs that ship: intarsia-tiny's, its checker's and IP adapter's, and the step.

They hold no weights, and depend on the configs and on the headers of the safetensors files alone: after a training
that left those as they were, this changes nothing.
"""

from __future__ import annotations

import shutil
import sys

from intarsia.backends.onnx.graphs import PACKAGED
from intarsia.backends.onnx.open_sessions import STEP
from intarsia.backends.onnx.sources import ip_adapter_source, source_of
from intarsia.export.folder import Merges, cached, export_checker, export_ip_adapter, export_model
from intarsia.export.step import step_graph
from intarsia.registry.registry import Registry

MODEL, LOOK = "intarsia-tiny", "tiny-look"


def main() -> None:
    """Replace intarsia/assets/graphs and the step."""
    registry = Registry()
    entry = registry.find(MODEL)
    checker = registry.part("safety", entry.safety)
    STEP.write_bytes(step_graph())
    look = registry.part("ip_adapters", LOOK)
    sources = (checker.path, entry.path, ip_adapter_source(look.path, source_of(entry.path)))
    made = [cached(source, "float32", PACKAGED) for source in sources]
    export_checker(checker.path, made[0])
    export_model(entry.path, made[1], merges=Merges(entry.token_merging.levels, entry.token_merging.reuse))
    export_ip_adapter(look.path, entry.path, made[2])
    for old in set(PACKAGED.iterdir()) - set(made):
        shutil.rmtree(old)
    for path in (STEP, *sorted(PACKAGED.glob("*/*"))):
        print(f"{path.stat().st_size}\t{path}", file=sys.stderr)


if __name__ == "__main__":
    main()
