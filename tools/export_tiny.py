"""`python -m tools.export_tiny`: the graphs that ship, of the packaged models, checker and IP adapter, and the step.

They hold no weights, and depend on the configs and on the headers of the safetensors files alone: after a training
that left those as they were, this changes nothing.
"""

from __future__ import annotations

import argparse
import shutil
import sys

from intarsia.backends.onnx.graphs import PACKAGED
from intarsia.backends.onnx.open_sessions import STEP
from intarsia.backends.onnx.sources import ip_adapter_source, source_of, vae_source
from intarsia.export.folder import Merges, cached, export_checker, export_ip_adapter, export_model, export_vae
from intarsia.export.step import step_graph
from intarsia.registry.registry import Registry

MODELS, VAE, LOOK = ("intarsia-tiny", "intarsia-tiny-lcm", "intarsia-tiny-base"), "intarsia-tiny-vae", "tiny-look"


def main() -> None:
    """Replace intarsia/assets/graphs and the step."""
    registry = Registry()
    look = registry.part("ip_adapters", LOOK).path
    STEP.write_bytes(step_graph())
    made = []

    for entry in map(registry.find, MODELS):
        merges = Merges(entry.token_merging.levels, entry.token_merging.reuse)
        made += [cached(entry.path, "float32", PACKAGED)]
        export_model(entry.path, made[-1], merges=merges)
        made += [cached(ip_adapter_source(look, source_of(entry.path)), "float32", PACKAGED)]
        export_ip_adapter(look, entry.path, made[-1])

    model = registry.find(MODELS[0])
    vae = registry.part("vaes", VAE).path
    made += [cached(vae_source(vae, model.family), "float32", PACKAGED)]
    export_vae(vae, made[-1], family=model.family)
    checker = registry.part("safety", model.safety).path
    made += [cached(checker, "float32", PACKAGED)]
    export_checker(checker, made[-1])

    for old in set(PACKAGED.iterdir()) - set(made):
        shutil.rmtree(old)
    for path in (STEP, *sorted(PACKAGED.glob("*/*"))):
        print(f"{path.stat().st_size}\t{path}", file=sys.stderr)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
