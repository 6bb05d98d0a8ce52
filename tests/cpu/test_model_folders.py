"""One folder, every backend: links, what lies beside the weights, what is missing, and LoRAs with more in them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'intarsia[cpu]'")
pytest.importorskip("torch", reason="compares with torch: pip install 'intarsia[torch]'")

import intarsia
from intarsia.adding.add import add
from intarsia.adding.options import AddOptions
from intarsia.backends.onnx.relocate import find_root, relocated
from intarsia.engine.parts import Parts, model_files
from intarsia.execution import Execution
from intarsia.registry.registry import Registry
from tests.noise_request import noise_request

TINY = Path(intarsia.__file__).parent / "assets" / "intarsia-tiny"
GRAPHS = Path(intarsia.__file__).parent / "assets" / "graphs"
UNET = Path("unet", "diffusion_pytorch_model.safetensors")
SMALL = {"clip_skip": 2, "size": 64, "rows": slice(16, 40), "columns": slice(16, 40), "steps": 2}


@pytest.fixture(autouse=True)
def _on_a_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("intarsia.backends.choose.gpu_count", lambda: 0)
    monkeypatch.setenv("INTARSIA_GRAPHS", str(tmp_path / "graphs"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The packaged model as a folder of one's own."""
    shutil.copytree(TINY, tmp_path / "mine")
    (tmp_path / "weights.toml").write_text(
        'schema = 1\ndefault = "mine"\n[models.mine]\nfamily = "tiny-inpaint"\npath = "mine"\n'
        '[loras.ink]\npath = "ink.safetensors"\n'
    )
    return tmp_path / "mine"


def run(folder: Path, backend: str, **fields: Any) -> intarsia.Result:
    with intarsia.Engine(backend, "cpu", folder.parent / "weights.toml") as engine:
        return engine.run(noise_request(**SMALL, **fields))


def drawn(result: intarsia.Result) -> np.ndarray:
    return np.asarray(result.generated[0])


@pytest.fixture(scope="module")
def plain() -> dict[str, np.ndarray]:
    """What the packaged model draws, by backend."""
    found = {}
    for backend in ("onnx", "torch"):
        with intarsia.Engine(backend, "cpu") as engine:
            found[backend] = drawn(engine.run(noise_request(**SMALL)))
    return found


def hub(folder: Path, blobs: Path) -> None:
    """As the Hugging Face cache has it: every file a relative link to a blob outside."""
    for number, path in enumerate(sorted(p for p in folder.rglob("*") if p.is_file())):
        path.rename(blobs / str(number))
        path.symlink_to(os.path.relpath(blobs / str(number), path.parent))


def component(folder: Path, blobs: Path) -> None:
    shutil.move(folder / "unet", blobs / "unet")
    (folder / "unet").symlink_to(blobs / "unet")


def one_file(folder: Path, blobs: Path) -> None:
    (folder / UNET).rename(blobs / "unet.safetensors")
    (blobs / "link").symlink_to("unet.safetensors")
    (folder / UNET).symlink_to(blobs / "link")


def whole(folder: Path, blobs: Path) -> None:
    folder.rename(blobs / "elsewhere")
    folder.symlink_to(blobs / "elsewhere")


def inside(folder: Path, blobs: Path) -> None:
    (folder / UNET).rename(folder / "x.safetensors")
    (folder / UNET).symlink_to("../x.safetensors")


@pytest.mark.every(6)
@pytest.mark.parametrize("link", [hub, component, one_file, whole, inside])
def test_a_model_of_links_is_the_model(folder, tmp_path, plain, link):
    (tmp_path / "blobs" / "deep").mkdir(parents=True)
    link(folder, tmp_path / "blobs")
    for backend in ("auto", "onnx", "torch"):
        result = run(folder, backend)
        ran = result.runtime.backend
        assert ran == ("onnx" if backend == "auto" else backend)
        assert np.array_equal(drawn(result), plain[ran])
        assert result.warnings == ()


def test_graphs_with_other_places_are_otherwise_the_same():
    onnx = pytest.importorskip("onnx", reason="reads graphs with onnx: pip install 'intarsia[export]'")
    for path in sorted(GRAPHS.rglob("*.onnx")):
        graph = onnx.load(path, load_external_data=False)
        names = {entry.value for tensor in tensors(graph.graph) for entry in tensor.external_data if is_place(entry)}
        places = {name: f"ü/{'x' * 200}/{place}" for place, name in enumerate(sorted(names))}
        moved = onnx.load_from_string(relocated(path.read_bytes(), places))
        for tensor in tensors(graph.graph):
            for entry in tensor.external_data:
                entry.value = places[entry.value] if is_place(entry) else entry.value
        assert moved == graph, path
    with pytest.raises(intarsia.WeightsError, match="cannot be found again"):
        relocated(path.read_bytes(), {})
    with pytest.raises(intarsia.WeightsError, match="cannot be found again"):
        relocated(path.read_bytes()[:-1], places)


def is_place(entry: Any) -> bool:
    return entry.key == "location"


def tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs):
                yield from tensors(inner)


def test_the_folder_that_holds_what_links_lead_to(tmp_path):
    (tmp_path / "a" / "model").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    for name in ("x", "y"):
        (tmp_path / "a" / "model" / name).write_bytes(b"")
    assert find_root(tmp_path / "a" / "model", ["x", "y"]) == (tmp_path / "a" / "model", {})
    (tmp_path / "a" / "model" / "x").rename(tmp_path / "b" / "blob")
    (tmp_path / "a" / "model" / "x").symlink_to(tmp_path / "b" / "blob")
    root, places = find_root(tmp_path / "a" / "model", ["x", "y"])
    assert (root, places) == (tmp_path.resolve(), {"x": "b/blob", "y": "a/model/y"})


SHARED = ("vae", "text_encoder", "tokenizer")


def test_networks_that_a_folder_lacks_are_those_that_its_entry_names(folder, tmp_path, plain):
    for name in SHARED:
        shutil.rmtree(folder / name)
    registry = tmp_path / "weights.toml"
    text = 'text = "intarsia-tiny"\n'
    for lacks, fields in (("text_encoder: no such folder", ""), ("vae/config.json: no such", text)):
        registry.write_text(f'schema = 1\n[models.mine]\nfamily = "tiny-inpaint"\npath = "mine"\n{fields}')
        with pytest.raises(intarsia.WeightsError, match=lacks):
            run(folder, "torch", model="mine")

    with registry.open("a") as file:
        file.write('vae = "intarsia-tiny-vae"\n')
    for backend in ("onnx", "torch"):
        assert np.array_equal(drawn(run(folder, backend, model="mine")), plain[backend])


def test_adding_a_folder_asks_for_the_networks_that_it_lacks(folder, tmp_path):
    for name in SHARED:
        shutil.rmtree(folder / name)
    registry, options = tmp_path / "own.toml", AddOptions(families=("sd15-inpaint",))
    with pytest.raises(intarsia.WeightsError, match="has no text encoders: name a model that has them with --text ID"):
        add(folder, options, registry)
    (folder / "text_encoder").mkdir()  # of which the weights are not there: half a copy
    with pytest.raises(intarsia.WeightsError, match=r"text_encoder/model\.safetensors: no such file"):
        add(folder, options, registry)


STRAYS = ["note.txt", ".DS_Store", "unet/._diffusion_pytorch_model.safetensors", "unet/old.bin", "vae/README.md"]
STRAYS += ["unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.non_ema.safetensors"]
STRAYS += ["text_encoder/model.onnx", "vae/diffusion_pytorch_model.safetensors.index.fp16.json"]


def test_what_lies_beside_the_weights_does_not_change_the_backend(folder, plain):
    for name in STRAYS:
        (folder / name).write_bytes(b"\0\5\x16\7 stray")
    result = run(folder, "auto")
    assert (result.runtime.backend, result.warnings) == ("onnx", ())
    assert np.array_equal(drawn(result), plain["onnx"])


def test_where_auto_takes_torch_the_result_says_why(folder):
    path = folder / "unet" / "config.json"
    path.write_text(path.read_text() + " ")  # of no meaning, but no graphs were made of this
    result = run(folder, "auto")
    assert result.runtime.backend == "torch"
    sentence = "made with torch: backend onnx has no graphs that fit the files of mine (see intarsia export)"
    assert result.warnings == (sentence,)
    assert run(folder, "torch").warnings == ()


@pytest.fixture
def ink(folder: Path) -> dict[str, Any]:
    """A LoRA with more in its file than matrices."""
    import torch
    from safetensors.torch import save_file

    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0"
    torch.manual_seed(0)
    state = {f"{name}.lora_down.weight": torch.randn(4, 128), f"{name}.lora_up.weight": torch.randn(128, 4)}
    save_file(
        state | {"text_encoder.text_model.embeddings.position_ids": torch.zeros(1, 64)},
        folder.parent / "ink.safetensors",
    )
    return {"loras": [{"id": "ink"}]}


@pytest.mark.slow
def test_what_is_left_out_of_a_lora_is_in_every_result(folder, ink, plain):
    left = (
        "LoRA ink.safetensors: left out, as it cannot be applied: "
        "constants (1 tensor: text_encoder.text_model.embeddings.position_ids)"
    )
    for backend in ("torch", "onnx"):
        with intarsia.Engine(backend, "cpu", folder.parent / "weights.toml") as engine:
            for fields, expected in (({}, ()), (ink, (left,)), ({}, ()), (ink, (left,))):
                result = engine.run(noise_request(**SMALL, **fields))
                assert result.warnings == expected
                assert np.array_equal(drawn(result), plain[backend]) == (not fields)


def test_what_ran_before_does_not_choose_the_backend(folder, ink, plain):
    """A session that is open with other parts is not taken for a request where auto would take the other backend."""
    why = "made with torch: backend onnx has no graphs that fit the files of mine (see intarsia export)"
    other = folder.parent / "vae"
    shutil.copytree(folder / "vae", other)
    with (other / "config.json").open("a") as config:
        config.write(" ")  # of no meaning, but no graphs were made of this
    with intarsia.Engine("auto", "cpu", folder.parent / "weights.toml") as engine:
        result = engine.run(noise_request(**SMALL, **ink, vae=str(other)))
        assert (result.runtime.backend, result.warnings[0]) == ("torch", why)
        result = engine.run(noise_request(**SMALL))
    assert result.runtime.backend == "onnx"
    assert np.array_equal(drawn(result), plain["onnx"])


def refusals(folder: Path) -> Iterator[str]:
    """What each backend says to the folder; nothing is drawn."""
    from intarsia.backends.onnx.backend import OnnxBackend
    from intarsia.backends.torch.backend import TorchBackend

    entry = Registry(folder.parent / "weights.toml").find("mine")
    for kind in (OnnxBackend, TorchBackend):
        with pytest.raises(intarsia.WeightsError) as caught:
            kind("cpu", Execution()).open(model_files(entry, Parts()))
        yield str(caught.value)


MISSING = ["scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json", "vae/config.json", "unet/config.json"]
MISSING += [str(UNET), "text_encoder/model.safetensors", "text_encoder/config.json"]


@pytest.mark.parametrize("missing", MISSING)
def test_half_a_copy_is_refused_in_the_same_words(folder, missing):
    (folder / missing).unlink()
    one, other = refusals(folder)
    assert one == other
    assert f"{folder / missing}: no such file" in one


def test_a_model_without_its_schedule_is_refused_by_every_backend(folder):
    shutil.rmtree(folder / "scheduler")
    for backend in ("auto", "onnx", "torch"):
        with pytest.raises(intarsia.WeightsError, match=r"scheduler/scheduler_config\.json: no such file"):
            run(folder, backend)


@pytest.mark.parametrize("place", ["scheduler/scheduler_config.json", "tokenizer/vocab.json", "vae/config.json", UNET])
def test_special_files_are_refused_in_the_same_words(folder, place):
    if place == "tokenizer/vocab.json":
        (folder / "tokenizer" / "tokenizer.json").unlink()
    (folder / place).unlink()
    os.mkfifo(folder / place)
    one, other = refusals(folder)
    assert one == other == f"{folder / place}: must be a file, not a named pipe"


def edited(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"model_max_length": "many"}, "model_max_length must be"),
        ({"model_max_length": -5}, "model_max_length must be"),
        ({"tokenizer_class": "T5Tokenizer"}, "tokenizer_class must be"),
        ({"added_tokens_decoder": {"99999": {"content": "<x>"}}}, "cannot have the number 99999"),
    ],
)
def test_a_broken_tokenizer_is_refused_in_the_same_words(folder, fields, sentence):
    edited(folder / "tokenizer" / "tokenizer_config.json", **fields)
    one, other = refusals(folder)
    assert one == other
    assert sentence in one
    assert "\n" not in one


def test_a_mark_that_the_vocabulary_lacks_is_refused_in_the_same_words(folder):
    edited(folder / "tokenizer" / "special_tokens_map.json", bos_token="gone")
    one, other = refusals(folder)
    assert one == other
    assert "not readable as a CLIP tokenizer: the vocabulary lacks 'gone'" in one


# What a tokenizer's folder may say, beyond the packaged model's own.
TOKENIZERS = {
    "a pad of its own": {"special_tokens_map.json": {"pad_token": "a</w>"}},
    "two pads": {"special_tokens_map.json": {"pad_token": "a</w>"}, "tokenizer_config.json": {"pad_token": "b</w>"}},
    "no limit": {"tokenizer_config.json": {"model_max_length": 10**30}},
    "a short limit": {"tokenizer_config.json": {"model_max_length": 9}},
    "listed tokens": {
        "tokenizer_config.json": {"pad_token": "b</w>", "added_tokens_decoder": {}},
        "special_tokens_map.json": {"pad_token": "a</w>"},
    },
}


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("form", ["tokenizer.json", "vocab.json"])
def test_tokens_are_transformers_own_whatever_the_folder_says(folder, kind, form):
    from transformers import CLIPTokenizer

    from intarsia.models.tokens import load_tokens

    place = folder / "tokenizer"
    for name, fields in TOKENIZERS[kind].items():
        edited(place / name, **fields)
    (place / "vocab.json" if form == "tokenizer.json" else place / "tokenizer.json").unlink()
    theirs = CLIPTokenizer.from_pretrained(place, local_files_only=True)
    ours = load_tokens(place, 77, 10**6)
    limit = min(77, theirs.model_max_length)
    assert ours.limit == limit
    for text in ("", "a red circle", "star " * 90, "It's <|endoftext|> 42"):
        wanted = theirs(text, padding="max_length", max_length=limit, truncation=True).input_ids
        assert ours.encode(text)[0].tolist() == [wanted], text


def test_tokens_that_were_added_are_one_each(folder):
    """As a folder is after textual inversion: the vocabulary ends, and a token stands behind it."""
    from transformers import CLIPTokenizer

    from intarsia.models.tokens import load_tokens

    theirs = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    before = len(theirs)
    theirs.add_tokens(["<cat-toy>", "sks"])
    theirs.save_pretrained(folder / "saved")
    shutil.copy(folder / "tokenizer" / "vocab.json", folder / "saved" / "vocab.json")
    shutil.copy(folder / "tokenizer" / "merges.txt", folder / "saved" / "merges.txt")
    again = CLIPTokenizer.from_pretrained(folder / "saved", local_files_only=True)
    ours = load_tokens(folder / "saved", 77, before + 2)
    for text in ("a <cat-toy> here", "sks", "SKS sksx a"):
        assert ours.encode(text)[0][0, : len(again(text).input_ids)].tolist() == again(text).input_ids
    assert before in ours.encode("a <cat-toy> here")[0]
    with pytest.raises(intarsia.WeightsError, match=f"has a token {before + 1}, and the text encoder's vocab_size is"):
        load_tokens(folder / "saved", 77, before + 1)
