"""Make intarsia/assets/clip/merges.txt.gz, CLIP's merges, from an installed package that has them.

    python -m tools.clip_vocabulary [bpe_simple_vocab_16e6.txt.gz] [--check]

Without a path the file is looked for in the packages ``clip`` (clip-anytorch, openai-clip) and ``open_clip``
(open_clip_torch), which have the same bytes: those of github.com/openai/CLIP (MIT, see NOTICE). Only the merges that
CLIP uses are kept; its vocabulary follows from them. ``--check`` compares with the file that is there.
"""

import argparse
import gzip
import hashlib
import importlib.util
from pathlib import Path

from intarsia.models.clip_vocabulary import MERGES, MERGES_FILE

SOURCE = "bpe_simple_vocab_16e6.txt.gz"
SOURCE_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
PACKAGES = ("clip", "open_clip")


def installed_source():
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            path = Path(folder, SOURCE)
            if path.is_file():
                return path
    raise SystemExit(
        f"{SOURCE}: in none of the packages {', '.join(PACKAGES)}; install clip-anytorch, or name the file"
    )


def merges_of(source):
    """The merges as a gzip file, the same bytes each time."""
    data = source.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != SOURCE_SHA256:
        raise SystemExit(f"{source}: sha256 is {sha256}, not {SOURCE_SHA256}")

    # the first line names the version of the format; CLIP's vocabulary ends before the file does
    lines = gzip.decompress(data).decode().split("\n")[1 : MERGES + 1]
    text = "\n".join([*lines, ""])
    return gzip.compress(text.encode(), compresslevel=9, mtime=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", type=Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()

    made = merges_of(options.source or installed_source())
    if not options.check:
        MERGES_FILE.parent.mkdir(parents=True, exist_ok=True)
        MERGES_FILE.write_bytes(made)
    elif gzip.decompress(MERGES_FILE.read_bytes()) != gzip.decompress(made):
        raise SystemExit(f"{MERGES_FILE} differs from what the source gives")
    print(f"{MERGES_FILE}: {MERGES} merges, {len(made)} bytes")


if __name__ == "__main__":
    main()
