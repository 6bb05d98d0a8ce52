"""Which files of a folder are read: of a diffusers model, an autoencoder, an IP adapter, a safety checker.

Everything that loads, hashes or exports a folder takes its files from here, so that what merely lies beside them (a
README, a note, another precision's weights, what a file manager leaves behind) changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from intarsia.checkpoints.files import is_there, read_json
from intarsia.checkpoints.ip_adapter_layout import image_encoder, weights_file
from intarsia.errors import WeightsError

__all__ = ["COMPONENTS", "SCHEDULER", "files_read", "find_weights", "image_encoder_weights", "network_files"]

COMPONENTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
"""Networks of a diffusers folder, and how the names of their weight files begin."""

SCHEDULER = Path("scheduler", "scheduler_config.json")

_TOKENIZER = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)
_PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
# Full precision goes before half, so that a second set of files does not change which is read.
_FULL = ("{}.safetensors", "{}.safetensors.index.json")
_HALF = ("{}.fp16.safetensors", "{}.safetensors.index.fp16.json", "{}.fp16.safetensors.index.json")


def find_weights(folder: Path, stem: str) -> list[Path]:
    """The safetensors files of one network: one file, or the shards that its index names.

    Args:
        folder: the network's folder, for example ``model/unet``.
        stem: ``diffusion_pytorch_model`` or ``model``.

    Raises:
        WeightsError: no such file, or only pickled ones, which are refused.
    """
    entry = _weights_entry(folder, stem)
    if entry is not None:
        return _shards(entry) if entry.suffix == ".json" else [entry]
    pickled = sorted(path.name for path in folder.glob("*") if path.suffix in _PICKLED)
    if pickled:
        raise WeightsError(
            f"{folder / pickled[0]}: pickled weights are refused, because loading a pickle can run any code; "
            f"convert it to {stem}.safetensors"
        )
    raise WeightsError(f"{folder / stem}.safetensors: no such file, nor .fp16.safetensors, nor an index of shards")


def image_encoder_weights(path: Path, declared: Path | None = None) -> list[Path]:
    """The weight files of an IP adapter's image encoder; arguments and errors as of :func:`image_encoder`."""
    return find_weights(image_encoder(path, declared), "model")


def _weights_entry(folder: Path, stem: str) -> Path | None:
    """The weights' one file or their index, whichever comes first; it may turn out not to be a regular file."""
    names = [name.format(stem) for name in (*_FULL, *_HALF)]
    return next((folder / name for name in names if is_there(folder / name)), None)


def _shards(index: Path) -> list[Path]:
    shards = read_json(index).get("weight_map")
    named = list(shards.values()) if isinstance(shards, dict) else []
    if not named or any(not isinstance(name, str) or not _is_shard(name) for name in named):
        raise WeightsError(
            f"{index}: weight_map must give each tensor the name of a .safetensors file in the same folder"
        )
    names = sorted(set(named))
    missing = [name for name in names if not is_there(index.parent / name)]
    if missing:
        raise WeightsError(f"{index.parent / missing[0]}: no such file, although {index.name} names it")
    return [index.parent / name for name in names]


def _is_shard(name: str) -> bool:
    plain = Path(name).name == name and "\\" not in name and "\0" not in name
    return plain and name.endswith(".safetensors")


def network_files(folder: Path, stem: str) -> list[Path]:
    """Config, weights and their index of one network. WeightsError as :func:`find_weights`."""
    files = find_weights(folder, stem)
    entry = _weights_entry(folder, stem)
    index = [entry] if entry is not None and entry.suffix == ".json" else []
    return [folder / "config.json", *index, *files]


def files_read(kind: str, path: Path, encoder: Path | None = None) -> list[Path]:
    """Every file of an entry of the registry that is read, as far as they are there.

    Args:
        kind: ``models``, ``vaes``, ``ip_adapters``, ``safety`` or ``loras``.
        path: the entry's folder, or its file.
        encoder: what an IP adapter's entry names in place of its image encoder.
    """
    files = _of_ip_adapter(path, encoder) if kind == "ip_adapters" else _FILES[kind](path)
    return [file for file in dict.fromkeys(files) if is_there(file)]


def _of_network(folder: Path, stem: str) -> Iterator[Path]:
    """As :func:`network_files`, but what is wrong with the weights is left to whoever loads them."""
    yield folder / "config.json"
    entry = _weights_entry(folder, stem)
    if entry is None:
        return
    yield entry
    if entry.suffix == ".json":
        try:
            yield from _shards(entry)
        except WeightsError:
            return


def _of_model(folder: Path) -> Iterator[Path]:
    yield folder / "model_index.json"
    yield folder / SCHEDULER
    for name, stem in COMPONENTS.items():
        yield from _of_network(folder / name, stem)
    for suffix in ("", "_2"):
        if (folder / f"text_encoder{suffix}").is_dir():
            yield from (folder / f"tokenizer{suffix}" / name for name in _TOKENIZER)


def _of_ip_adapter(path: Path, encoder: Path | None) -> Iterator[Path]:
    yield weights_file(path)
    yield from _of_network(image_encoder(path, encoder), "model")


def _of_checker(folder: Path) -> Iterator[Path]:
    yield folder / "preprocessor_config.json"
    yield from _of_network(folder, "model")


_FILES: dict[str, Callable[[Path], Iterator[Path]]] = {
    "models": _of_model,
    "vaes": lambda folder: _of_network(folder, "diffusion_pytorch_model"),
    "safety": _of_checker,
    "loras": lambda file: iter([file]),
}
