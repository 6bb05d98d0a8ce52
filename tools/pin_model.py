"""`python -m tools.pin_model ID [SECTION]`: write size and sha256 of a packaged entry's files into weights.toml."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import tomlkit

from intarsia.registry.registry import Registry

REGISTRY = Path(__file__).resolve().parents[1] / "weights.toml"
PINNED = {".json", ".txt", ".safetensors"}


def main(name: str, section: str = "models") -> None:
    """Replace the ``files`` table of one entry by what lies in its folder now; of a single file, by that file."""
    registry = Registry(REGISTRY)
    place = (registry.find(name) if section == "models" else registry.part(section, name)).path
    folder = place.parent if place.is_file() else place
    document = tomlkit.parse(REGISTRY.read_text(encoding="utf-8"))
    entry = document[section][name]  # type: ignore[index]
    files = entry.setdefault("files", tomlkit.table())  # type: ignore[union-attr]
    paths = [place] if place.is_file() else sorted(folder.rglob("*"))
    found = {path.relative_to(folder).as_posix(): path for path in paths if path.suffix in PINNED}
    for absent in set(files) - set(found):
        del files[absent]
    for name_in_folder, path in found.items():  # in place: a comment after the table belongs to what follows it
        content = path.read_bytes()
        pin = tomlkit.inline_table()
        pin.update({"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()})
        files[name_in_folder] = pin
    REGISTRY.write_text(tomlkit.dumps(document), encoding="utf-8")
    print(f"{name}: {len(files)} files, {sum(pin['bytes'] for pin in files.values())} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tools.pin_model", description=__doc__)
    parser.add_argument("id", help="of an entry in weights.toml")
    parser.add_argument("section", nargs="?", default="models", help="of that file (default: models)")
    arguments = parser.parse_args()
    main(arguments.id, arguments.section)
