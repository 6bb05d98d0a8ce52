"""``python -m tools.fit_color_maps``: fit and store the color map of the packaged model's autoencoder, for previews.

The file is named by the hash of the autoencoder's files, so that one of another training is never used: run this again
after the autoencoder was trained.
"""

from __future__ import annotations

import argparse

import numpy as np

from intarsia.backends.choose import choose
from intarsia.backends.protocol import Autoencodes
from intarsia.engine.color_map import fit, sample_image
from intarsia.engine.color_maps import PACKAGED, autoencoder_hash
from intarsia.engine.parts import Parts, model_files
from intarsia.execution import Execution
from intarsia.registry.registry import Registry

MODEL = "intarsia-tiny"


def main() -> None:
    """Write the one file, in place of all others."""
    entry = Registry().find(MODEL)
    session = choose("torch", "cpu", Execution()).open(model_files(entry, Parts()))
    assert isinstance(session, Autoencodes)

    latents, image = session.autoencode(sample_image())
    color_map = fit(latents, image)
    height, width = latents.shape[1:]
    cells = image.reshape(height, len(image) // height, width, -1, 3).mean(axis=(1, 3))
    error = np.sqrt(np.mean((color_map.colors(latents) - cells) ** 2))

    PACKAGED.mkdir(exist_ok=True)
    for path in PACKAGED.glob("*.json"):
        path.unlink()
    path = PACKAGED / f"{autoencoder_hash(entry.path / 'vae')}.json"
    path.write_text(color_map.to_json(), "utf-8")
    print(f"{path.name}: {error:.1f} levels root mean square on the image that it is fitted to")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
