"""`python -m tools.pin_model ID`: write size and sha256 of a packaged model's files into weights.toml."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import tomlkit

from inlay.engine.registry import Registry

REGISTRY = Path(__file__).resolve().parents[1] / "weights.toml"
PINNED = {".json", ".txt", ".safetensors"}


def main(model: str) -> None:
    """Replace the ``files`` table of one model by what lies in its folder now."""
    folder = Registry(REGISTRY).find(model).path
    document = tomlkit.parse(REGISTRY.read_text(encoding="utf-8"))
    files = tomlkit.table()
    for path in sorted(folder.rglob("*")):
        if path.suffix in PINNED:
            content = path.read_bytes()
            pin = tomlkit.inline_table()
            pin.update({"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()})
            files[path.relative_to(folder).as_posix()] = pin
    document["models"][model]["files"] = files  # type: ignore[index]
    REGISTRY.write_text(tomlkit.dumps(document), encoding="utf-8")
    print(f"{model}: {len(files)} files, {sum(pin['bytes'] for pin in files.values())} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
