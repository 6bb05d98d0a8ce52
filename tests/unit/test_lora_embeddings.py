"""Embeddings that are bundled with a LoRA, read without torch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from intarsia import WeightsError
from intarsia.models.lora_embeddings import bundled_embeddings


def test_embeddings_by_token_and_encoder(tmp_path):
    numbers = np.arange(8, dtype=np.float32).reshape(2, 4) / 3
    state = {
        "bundle_emb.ink.v2.clip_l": numbers,
        "bundle_emb.ink.v2.clip_g": numbers.astype(np.float16),
        "bundle_emb.old.string_to_param.*": -numbers,
        "lora_unet_conv_in.lora_down.weight": numbers,
    }
    save_file(state, tmp_path / "lora.safetensors")
    found = bundled_embeddings(tmp_path / "lora.safetensors")
    assert {token: set(each) for token, each in found.items()} == {"ink.v2": {"clip_l", "clip_g"}, "old": {"clip_l"}}
    np.testing.assert_array_equal(found["ink.v2"]["clip_l"], numbers)
    np.testing.assert_array_equal(found["ink.v2"]["clip_g"], numbers.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(found["old"]["clip_l"], -numbers)
    assert all(vectors.dtype == np.float32 for each in found.values() for vectors in each.values())


def test_bfloat16(tmp_path):
    torch = pytest.importorskip("torch", reason="writes bfloat16 with torch: pip install 'intarsia[torch]'")
    from safetensors.torch import save_file as save_tensors

    vectors = torch.randn(3, 5).bfloat16()
    save_tensors({"bundle_emb.ink.clip_l": vectors}, tmp_path / "lora.safetensors")
    found = bundled_embeddings(tmp_path / "lora.safetensors")["ink"]["clip_l"]
    np.testing.assert_array_equal(found, vectors.float().numpy())


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (np.ones(4, np.float32), "must be a matrix of numbers"),
        (np.ones((1, 4), np.int64), "must be a matrix of numbers, not I64"),
        (np.full((1, 4), np.nan, np.float32), "has values that are not finite"),
    ],
)
def test_what_is_no_embedding(tmp_path, values, problem):
    save_file({"bundle_emb.ink.clip_l": values}, tmp_path / "lora.safetensors")
    with pytest.raises(WeightsError, match=rf"lora\.safetensors: bundle_emb\.ink\.clip_l {problem}"):
        bundled_embeddings(tmp_path / "lora.safetensors")


def test_it_needs_no_torch():
    code = "import sys; import intarsia.models.lora_embeddings; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
