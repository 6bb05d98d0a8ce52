"""Each document's example request, as printed there, painted by the packaged model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")
jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema: pip install -e '.[dev]'")

import intarsia
from intarsia.canvas.canvas import prepare
from intarsia.canvas.options import CanvasOptions
from intarsia.images.sources import open_image
from tests.documents import ENDPOINTS, IMAGES, document, example, serving_images


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving_images() as found:
        yield found


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[intarsia.Engine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("INTARSIA_WEIGHTS", raising=False)
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        with intarsia.Engine("torch", "cpu", allow_private_urls=True) as opened:
            yield opened


@pytest.mark.every(6)
@pytest.mark.parametrize("number", list(ENDPOINTS))
def test_the_example_gives_an_image_and_the_documented_reply(engine, address, tmp_path, number):
    payload = example(number, address)
    reply = engine.reply(payload, ENDPOINTS[number], out=tmp_path)
    assert reply["status"] == "success", reply
    response = document(number).response
    if response is not None:
        jsonschema.Draft202012Validator(response).validate(reply)
    image_file, mask_file = (IMAGES / payload[name].rpartition("/")[2] for name in ("init_image", "mask_image"))
    with Image.open(reply["output"][0]) as made:
        out = np.asarray(made.convert("RGB"))
    original = np.asarray(Image.open(image_file).convert("RGB"))
    canvas = prepare(open_image("init_image", image_file), open_image("mask_image", mask_file), CanvasOptions())
    assert out.shape == (512, 512, 3)
    np.testing.assert_array_equal(out[~canvas.touched()], original[~canvas.touched()])
    changed = np.abs(out.astype(int) - original)[canvas.area].mean()
    assert changed > 8, "the masked area was repainted"
    assert out[canvas.area].std() > 4, "it is not a flat colour"
