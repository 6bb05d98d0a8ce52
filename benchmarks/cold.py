"""`python -m benchmarks.cold ORDER`: one image in a new process; prints the seconds since the order's ``began``."""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import intarsia
from benchmarks.cases import CASES
from benchmarks.jobs import requests


def main(order: dict) -> float:
    """Run the cold case's request as ordered; seconds from the parent's clock to the image."""
    case = next(case for case in CASES if case.name == "cold")
    request = requests(replace(case, size=order["size"], steps=order["steps"]), None)[0]
    with intarsia.Engine("torch", order["device"], weights=order["weights"]) as engine:
        picture = engine.run(request).generated[0]
        took = time.time() - order["began"]
    picture.save(order["out"])
    return took


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("order", type=json.loads)
    print(main(parser.parse_args().order))
