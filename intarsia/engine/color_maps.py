"""Color maps of autoencoders: packaged, from the user's cache folder, or fitted on first use.

A map belongs to an autoencoder, whatever model it is part of: files are named by the hash of the autoencoder's own.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

from intarsia.backends.protocol import Autoencodes, Session
from intarsia.checkpoints.layout import files_read
from intarsia.engine.color_map import IDENTITY, ColorMap, fit, sample_image
from intarsia.engine.resolve import Resolved
from intarsia.errors import OutputError, one_line
from intarsia.images.atomic_files import place
from intarsia.registry.hashing import Hashes

__all__ = ["PACKAGED", "ColorMaps", "autoencoder_hash", "cache_folder"]

log = logging.getLogger("intarsia")

PACKAGED = Path(__file__).resolve().parents[1] / "assets" / "color_maps"
"""Maps that ship; ``python -m tools.fit_color_maps`` writes them."""


def cache_folder() -> Path:
    """Where fitted maps are kept: ``color_maps`` in the user's cache folder."""
    from platformdirs import user_cache_path

    return user_cache_path("intarsia") / "color_maps"


def autoencoder_hash(folder: Path) -> str:
    """sha256 over the names and hashes of the files of an autoencoder's folder.

    Files that have been verified or hashed in this process are not read again.
    """
    paths = [folder] if folder.is_file() else files_read("vaes", folder)
    hashes = Hashes(paths)
    lines = [f"{path.name} {hashes.of(path)}" for path in paths]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


class ColorMaps:
    """The maps that one engine has used. For the engine's thread alone."""

    def __init__(self) -> None:
        self._known: dict[str, ColorMap] = {}

    def find(self, resolved: Resolved, session: Session) -> ColorMap:
        """The map of the session's latents. Where there is none, the autoencoder runs once in each direction, at 128².

        Raises:
            BackendError: the autoencoder fails.
        """
        if not isinstance(session, Autoencodes):
            return IDENTITY

        sha256 = autoencoder_hash(_autoencoder(resolved))
        if sha256 not in self._known:
            channels = resolved.plan.model.latent_channels
            self._known[sha256] = _stored(sha256, channels) or _fitted(sha256, session)
        return self._known[sha256]


def _autoencoder(resolved: Resolved) -> Path:
    """The folder or file of the autoencoder that a request runs with; of a checkpoint the file with all of it."""
    vae, model = resolved.parts.vae, resolved.entry
    if vae is not None:
        return vae.path
    return model.path if model.format == "single" else model.path / "vae"


def _stored(sha256: str, channels: int) -> ColorMap | None:
    """The map in a file; None where there is none, or a damaged one."""
    for path in _places(sha256):
        try:
            return ColorMap.from_json(path.read_text("utf-8"), channels)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as exc:
            log.warning("%s is not a color map (%s): it is fitted again", path, one_line(exc))
    return None


def _places(sha256: str) -> Iterator[Path]:
    for folder in (PACKAGED, cache_folder()):
        yield folder / f"{sha256}.json"


def _fitted(sha256: str, session: Autoencodes) -> ColorMap:
    """A new map, also put into the cache. A cache that cannot be written costs time only, in the next process."""
    latents, image = session.autoencode(sample_image())
    color_map = fit(latents, image)

    path = cache_folder() / f"{sha256}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        place([(path, color_map.to_json().encode())], overwrite=True)
    except (OSError, OutputError) as exc:
        log.warning("the color map of previews is not kept, and will be fitted again: %s", one_line(exc))
    return color_map
