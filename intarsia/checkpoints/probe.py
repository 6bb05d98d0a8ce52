"""Identify a file or a folder: what it is, for which family, and whether it can be used.

Only headers and configs are read: a checkpoint takes some ten milliseconds, whatever its size.
"""

from __future__ import annotations

import os
from pathlib import Path

from intarsia.checkpoints.checkpoint_kinds import find_checkpoint
from intarsia.checkpoints.folder_kinds import find_folder
from intarsia.checkpoints.header import Header, read_header
from intarsia.checkpoints.identified import Identified
from intarsia.checkpoints.lora_families import find_lora
from intarsia.checkpoints.other_kinds import find_other
from intarsia.checkpoints.part_kinds import find_embedding, find_ip_adapter, find_vae
from intarsia.errors import WeightsError

__all__ = ["PICKLED", "identify", "identify_header"]

PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_FINDERS = (find_checkpoint, find_ip_adapter, find_embedding, find_lora, find_vae)


def identify(path: Path) -> Identified:
    """What a safetensors file, or a folder of diffusers or PEFT, is.

    What is readable but of no use here has a reason in ``refused``.

    Raises:
        WeightsError: nothing is there, a pickle, another format, or a file that is damaged.
    """
    if os.path.isdir(path):
        return find_folder(path)
    if path.suffix.lower() in PICKLED and os.path.isfile(path):
        raise WeightsError(
            f"{path}: a pickled file ({path.suffix}), which can run code when it is opened; "
            "only safetensors are loaded (convert it first)"
        )
    return identify_header(read_header(path))


def identify_header(header: Header) -> Identified:
    """What a safetensors file is, by its header."""
    for find in _FINDERS:
        identified = find(header)
        if identified is not None:
            return identified
    return find_other(header)
