"""Export of small random models of both families, what is wrong with graphs, and what ``auto`` chooses."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

for package in ("onnxruntime", "onnx", "onnxscript", "torch", "diffusers"):
    pytest.importorskip(package, reason=f"needs {package}: pip install 'intarsia[cpu,export]'")

import onnx
import torch
from torch.onnx._internal.exporter._registration import ONNXRegistry

import intarsia
from intarsia.backends.onnx import graphs
from intarsia.backends.onnx.open_sessions import STEP
from intarsia.backends.onnx.sources import Source, ip_adapter_source, source_of
from intarsia.export.folder import (
    Merges,
    autoencoder,
    cached,
    checker_graphs,
    export_model,
    ip_adapter_graphs,
    model_graphs,
)
from intarsia.export.networks import decoder_graph
from intarsia.export.step import step_graph
from intarsia.export.translate import quiet_exporter
from intarsia.models.tokens import load_tokens
from tests import xl_reference
from tests.random_model import write_model, write_registry, write_xl_model
from tests.unit.endpoint_table import MINIMAL
from tests.xl_reference import ORDERS
from tools import export_tiny

SIZE = 128


@pytest.fixture(scope="module", autouse=True)
def _one_table_of_translations() -> Iterator[None]:
    """torch reads its table of translations anew for each graph, which is half the time of a small one."""
    read_once = functools.cache(ONNXRegistry.from_torchlib)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ONNXRegistry, "from_torchlib", staticmethod(read_once))
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, _one_table_of_translations: None) -> Path:
    """Models with a registry, and a cache of their own for graphs, which is empty."""
    folder = tmp_path_factory.mktemp("models")
    made = {
        "nine": (write_model(folder / "nine", 9, "tiny"), "sd15-inpaint"),
        "xl": (write_xl_model(folder / "xl"), "sdxl"),
    }
    made["bare"] = (write_model(folder / "bare", 4, "tiny", seed=3), "sd15")
    registry = write_registry(folder / "weights.toml", **made)
    merging = "token_merging_levels = 2\ntoken_merging_reuse = 2"
    registry.write_text(registry.read_text().replace("[models.nine]", f"[models.nine]\n{merging}"))
    return folder


@pytest.fixture(scope="module")
def xl_home(home: Path) -> Path:
    """With graphs of ``xl``: a minute of work, of which each graph is told."""
    place = cached(home / "xl", "float32", home / "graphs")
    made: list[str] = []
    export_model(home / "xl", place, watch=made.append)
    assert sorted(made) == sorted(path.stem for path in place.glob("*.onnx"))
    return home


@pytest.fixture(scope="module")
def merging_home(home: Path) -> Path:
    """With graphs of ``nine`` too, which merge tokens at two resolutions: a minute of work."""
    export_model(home / "nine", cached(home / "nine", "float32", home / "graphs"), merges=Merges(2, 2))
    return home


@pytest.fixture
def packaged_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A copy of the packaged model, and of its graphs in a cache of its own, to be damaged."""
    entry = intarsia.Registry().find(export_tiny.MODELS[0])
    model = tmp_path / "nine"
    shutil.copytree(entry.path, model)
    place = tmp_path / "graphs" / cached(model, "float32").name
    shutil.copytree(graphs.find_graphs(entry.path, ("float32",)).folder, place)
    monkeypatch.setenv("INTARSIA_GRAPHS", str(tmp_path / "graphs"))
    monkeypatch.setattr(graphs, "PACKAGED", tmp_path / "none")
    return model, place


@pytest.fixture(autouse=True)
def _cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTARSIA_GRAPHS", str(home / "graphs"))


@pytest.fixture(scope="module")
def image_and_mask() -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(2).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[24:100, 30:90] = 255
    return image, mask


@pytest.fixture
def ask(image_and_mask: tuple[np.ndarray, np.ndarray]) -> Callable[..., intarsia.InpaintRequest]:
    def make(model: str, **fields: Any) -> intarsia.InpaintRequest:
        defaults = {"prompt": "ab", "steps": 5, "seed": 5, "width": SIZE, "height": SIZE}
        given = {"init_image": image_and_mask[0], "mask_image": image_and_mask[1]}
        return intarsia.InpaintRequest(model=model, **{**defaults, **given, **fields})

    return make


def psnr(one: intarsia.Result, other: intarsia.Result) -> float:
    one, other = (np.asarray(result.generated[0], np.float64) for result in (one, other))
    return 10 * np.log10(255**2 / max(np.mean((one - other) ** 2), 1e-9))


VARIED = [
    {},
    {"guidance_scale": 1.0, "scheduler": "EulerAncestralDiscreteScheduler"},
    {"clip_skip": 3, "strength": 1.0, "negative_prompt": "cd", "scheduler": "UniPCMultistepScheduler"},
    {"width": 72, "height": 104, "masked_content": "noise", "scheduler": "ScoreSdeVeScheduler"},
]


@pytest.mark.parametrize("fields", VARIED, ids=[str(sorted(fields)) for fields in VARIED])
@pytest.mark.slow
@pytest.mark.parametrize("model", ["xl", "nine"])
def test_random_models_of_both_families_as_torch_has_them(request, home, ask, model, fields):
    """The packaged model has nine channels too, and a test like this one (``test_onnx.py``)."""
    request.getfixturevalue("merging_home" if model == "nine" else "xl_home")
    registry = home / "weights.toml"
    with intarsia.Engine("torch", "cpu", registry) as one, intarsia.Engine("onnx", "cpu", registry) as other:
        assert psnr(one.run(ask(model, **fields)), other.run(ask(model, **fields))) >= 45


@pytest.mark.slow
@pytest.mark.parametrize("corner", [20, 60])
def test_tokens_merge_at_several_resolutions_as_in_torch(merging_home, ask, corner):
    """Of the larger mask, the lower resolution has nothing left to merge."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[corner:88, corner:88] = 255
    asked = ask("nine", mask_image=mask, token_merging=0.75)
    registry = merging_home / "weights.toml"
    with intarsia.Engine("torch", "cpu", registry) as one, intarsia.Engine("onnx", "cpu", registry) as other:
        results = [engine.run(asked) for engine in (one, other)]
        assert psnr(*results) >= 45
        assert not [warning for result in results for warning in result.warnings if "merging" in warning]
        # random weights hardly mind merging, but more than they mind the backend
        unmerged = psnr(results[1], other.run(ask("nine", mask_image=mask)))
        assert psnr(*results) > 6 + unmerged


@pytest.mark.slow
def test_a_model_without_a_graph_that_merges_says_so(xl_home, ask):
    with intarsia.Engine("onnx", "cpu", xl_home / "weights.toml") as engine:
        result = engine.run(ask("xl", token_merging=0.5, steps=1, strength=1.0))
    assert any("the model's graphs have none; made without it (intarsia export" in each for each in result.warnings)


def test_a_graph_holds_no_weights_and_no_paths_of_the_machine_that_made_it(home):
    for path in [*home.glob("graphs/*/*.onnx"), *graphs.PACKAGED.glob("*/*.onnx")]:
        model = onnx.load(path, load_external_data=False)
        for tensor in model.graph.initializer:
            outside = tensor.data_location == onnx.TensorProto.EXTERNAL
            assert outside or np.prod(tensor.dims) < 64, f"{path.parent.name}/{path.name}: {tensor.name}"
        content = path.read_bytes()
        assert not any(word in content for word in (b".py", b"/home", str(home).encode(), b"site-packages"))


@pytest.mark.slow
def test_what_ships_is_what_its_command_makes_as_far_as_that_takes_seconds():
    """The step, and of the packaged model the text encoder and the decoder."""
    assert STEP.read_bytes() == step_graph()
    entry = intarsia.Registry().find(export_tiny.MODELS[0])
    shipped = graphs.find_graphs(entry.path, ("float32",))
    assert shipped.folder.parent == graphs.PACKAGED, "python -m tools.export_tiny makes them anew"
    made = dict([next(model_graphs(entry.path, "float32", None, {}))])
    assert list(made) == ["text_encoder"]
    made["vae_decoder"] = decoder_graph(autoencoder(entry.path, "float32"))
    for name, content in made.items():
        assert shipped.read(name) == content, f"{name}: python -m tools.export_tiny makes it anew"


@pytest.mark.slow
def test_what_ships_is_what_its_command_makes():
    """Every graph byte for byte, those of the key of the packaged files as they are now."""
    registry = intarsia.Registry()
    look = registry.part("ip_adapters", export_tiny.LOOK).path
    count = 0
    for entry in map(registry.find, export_tiny.MODELS):
        facts: dict[str, Any] = {}
        merges = Merges(entry.token_merging.levels, entry.token_merging.reuse)
        source = source_of(entry.path)
        check_shipped(source, model_graphs(entry.path, "float32", merges, facts))
        assert graphs.find_graphs(source, ("float32",)).facts == facts
        check_shipped(ip_adapter_source(look, source), ip_adapter_graphs(look, entry.path, "float32", {}))
        count += 2

    checker = registry.part("safety", registry.find(export_tiny.MODELS[0]).safety).path
    check_shipped(source_of(checker), checker_graphs(checker))
    assert len(list(graphs.PACKAGED.iterdir())) == count + 2, "and the VAE's"


def check_shipped(source: Source, made: Iterable[tuple[str, bytes]]) -> None:
    found = graphs.find_graphs(source, ("float32",))
    assert found.folder.parent == graphs.PACKAGED, "python -m tools.export_tiny makes them anew"
    left = set(found.hashes)
    for name, content in made:
        shipped = (found.folder / f"{name}.onnx").read_bytes()
        assert shipped == content, f"{name}: python -m tools.export_tiny makes it anew"
        left.remove(name)
    assert not left


@pytest.mark.slow
def test_the_same_export_gives_the_same_bytes(home):
    once, again = (decoder_graph(autoencoder(home / "nine", "float32")) for _ in range(2))
    assert once == again


@pytest.mark.slow
def test_float16_graphs_take_and_give_float32(home):
    from intarsia.backends.onnx.device import Device

    latents = np.random.default_rng(0).standard_normal((1, 4, 9, 12), dtype=np.float32)
    half = decoder_graph(autoencoder(home / "nine", "float16"))
    whole = decoder_graph(autoencoder(home / "nine", "float32"))
    one, other = (
        Device("cpu").open(graph, home / "nine").run(None, {"latents": latents})[0] for graph in (half, whole)
    )
    assert one.dtype == np.float32
    assert one.shape == (1, 3, 72, 96)
    # 11 bits, a dozen convolutions
    assert 1e-6 < np.abs(one - other).max() < 0.02
    # SDXL's overflows float16
    assert all(place.dtype == torch.float32 for place in autoencoder(home / "xl", "float16").module.parameters())


@pytest.mark.parametrize("folder", ["nine", "packaged"])
def test_tokens_are_those_of_transformers(home, folder):
    from transformers import CLIPTokenizer

    place = (home / "nine" if folder == "nine" else intarsia.Registry().find(None).path) / "tokenizer"
    theirs, ours = CLIPTokenizer.from_pretrained(place, local_files_only=True), load_tokens(place, 77, 49408)
    texts = [
        "",
        "a red circle",
        "It's  42\tÉmile’s – ☃ <|endoftext|> x",
        "ﬁ Ⅷ ½ \u0301e",
        "star " * 90,
        "日本語!?.. 'll",
    ]
    for text in texts:
        wanted = theirs(text, padding="max_length", max_length=77, truncation=True).input_ids
        found, cut = ours.encode(text)
        assert found.tolist() == [wanted], text
        assert bool(cut) == (len(theirs(text).input_ids) > 77)


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_sdxl_as_diffusers_at_a_size_that_is_not_square(xl_home, order):
    """Sizes that the network is told, and empty prompts, in both orders; torch's session has the same test."""
    with intarsia.Engine("onnx", "cpu", xl_home / "weights.toml") as engine:
        for prompt, negative, theirs in ORDERS[order]:
            asked = xl_reference.request("xl", prompt=prompt, negative_prompt=negative, guidance_scale=4.0)
            wanted = xl_reference.reference(xl_home / "xl", prompt, theirs)
            assert xl_reference.psnr(engine.run(asked), wanted) > 45, (prompt, negative)


def damaged_graph(place: Path, model: Path) -> None:
    (place / "unet.onnx").write_bytes((place / "unet.onnx").read_bytes()[:-3])


def missing_graph(place: Path, model: Path) -> None:
    (place / "vae_decoder.onnx").unlink()


def damaged_manifest(place: Path, model: Path) -> None:
    (place / "graphs.json").write_text("{")


def older_format(place: Path, model: Path) -> None:
    change(place, format=0)


def fewer_facts(place: Path, model: Path) -> None:
    change(place, facts={"in_channels": 9})


def fewer_graphs(place: Path, model: Path) -> None:
    change(place, graphs={})


def other_sources(place: Path, model: Path) -> None:
    found = json.loads((place / "graphs.json").read_text())["sources"]
    change(place, sources=found | {"unet/config.json": "0" * 64})


def newer_opset(place: Path, model: Path) -> None:
    graph = onnx.load(place / "unet.onnx", load_external_data=False)
    graph.opset_import[0].version = 99
    content = graph.SerializeToString()
    (place / "unet.onnx").write_bytes(content)
    found = json.loads((place / "graphs.json").read_text())["graphs"]
    change(place, graphs=found | {"unet": hashlib.sha256(content).hexdigest()})


def cut_weights(place: Path, model: Path) -> None:
    path = model / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def no_weights(place: Path, model: Path) -> None:
    (model / "vae" / "diffusion_pytorch_model.safetensors").unlink()


def other_config(place: Path, model: Path) -> None:
    path = model / "vae" / "config.json"
    path.write_text(path.read_text() + " ")


def no_tokenizer(place: Path, model: Path) -> None:
    shutil.rmtree(model / "tokenizer")


def change(place: Path, **fields: Any) -> None:
    path = place / "graphs.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


BAD = [
    (damaged_graph, intarsia.WeightsError, r"unet\.onnx: damaged, .*; make them with intarsia export"),
    (missing_graph, intarsia.WeightsError, r"vae_decoder\.onnx: cannot be read .*; make them with intarsia export"),
    (damaged_manifest, intarsia.WeightsError, r"graphs\.json: not readable as JSON; make them with intarsia export"),
    (older_format, intarsia.WeightsError, r"graphs\.json: format must be 3, not 0; make them with intarsia export"),
    (other_sources, intarsia.WeightsError, r"exported for other files, .*unet/config\.json is another file; make them"),
    (fewer_facts, intarsia.WeightsError, r"facts lack latent_channels, .*; export nine again"),
    (
        fewer_graphs,
        intarsia.WeightsError,
        r"graphs\.json: does not name unet\.onnx; make them with intarsia export",
    ),
    (newer_opset, intarsia.BackendError, r"onnxruntime failed to load .*unet\.onnx on cpu: .*[Oo]pset"),
    (cut_weights, intarsia.WeightsError, r"diffusion_pytorch_model\.safetensors: not readable as safetensors"),
    (no_weights, intarsia.WeightsError, r"vae/diffusion_pytorch_model\.safetensors: no such file, nor"),
    (
        other_config,
        intarsia.WeightsError,
        r"no float32 graphs that fit these files in .*; make them with intarsia export",
    ),
    (no_tokenizer, intarsia.WeightsError, r"tokenizer_config\.json: no such file"),
]


@pytest.mark.parametrize(("damage", "kind", "sentence"), BAD, ids=[row[0].__name__ for row in BAD])
def test_bad_graphs_and_files_are_one_line_that_says_what_to_do(packaged_copy, ask, tmp_path, damage, kind, sentence):
    model, place = packaged_copy
    registry = write_registry(tmp_path / "w.toml", nine=(model, "tiny-inpaint"))
    damage(place, model)
    with intarsia.Engine("onnx", "cpu", registry) as engine, pytest.raises(kind, match=sentence) as caught:
        engine.run(ask("nine"))
    assert "\n" not in str(caught.value)


def test_a_model_of_another_kind_than_the_registry_says(packaged_copy, ask, tmp_path):
    registry = write_registry(tmp_path / "w.toml", nine=(packaged_copy[0], "sd15"))
    with (
        intarsia.Engine("onnx", "cpu", registry) as engine,
        pytest.raises(
            intarsia.WeightsError, match="its graphs have in_channels 9, its family in the registry promises 4"
        ),
    ):
        engine.run(ask("nine"))


@pytest.mark.slow
def test_more_layers_skipped_than_there_are(xl_home, ask):
    with (
        intarsia.Engine("onnx", "cpu", xl_home / "weights.toml") as engine,
        pytest.raises(intarsia.RequestError, match="clip_skip must be between 1 and 3 for this model, not 4"),
    ):
        engine.run(ask("xl", clip_skip=4))


def test_auto_takes_onnx_for_what_it_can_run_and_torch_for_the_rest(home, ask, monkeypatch):
    monkeypatch.setattr("intarsia.backends.choose.gpu_count", lambda: 0)
    with intarsia.Engine(weights=home / "weights.toml") as engine:
        ran = {model: engine.run(ask(model)).runtime.backend for model in ("bare", "intarsia-tiny")}
    assert ran == {"bare": "torch", "intarsia-tiny": "onnx"}
    with intarsia.Engine(weights=home / "weights.toml", kernels="plain") as engine:
        assert engine.run(ask("intarsia-tiny")).runtime.backend == "onnx"


def test_the_command_exports_once(packaged_copy, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from intarsia.cli import app

    model, place = packaged_copy
    registry = write_registry(tmp_path / "w.toml", nine=(model, "tiny-inpaint"))
    arguments = ["export", "nine", "--weights", str(registry), "--out", str(place.parent)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(place)
    assert "exporting" not in done.output
    monkeypatch.setitem(sys.modules, "intarsia.export.folder", None)
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, intarsia.BackendError)


@pytest.mark.slow
def test_the_exporter_keeps_quiet_about_packages_that_no_network_needs():
    logger = logging.getLogger(ONNXRegistry.__module__)
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    try:
        with quiet_exporter():
            ONNXRegistry.from_torchlib.__wrapped__()
        assert said == []
    finally:
        logger.removeHandler(handler)


HIDDEN = """
import sys
from collections.abc import Iterator

class Hide:
    # What is not installed has no spec; an error would be something else.
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "diffusers", "transformers", "onnx", "onnxscript", "onnx_ir"}:
            return None
        return self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Hide, sys.meta_path)
from intarsia.cli import main
main()
"""


@pytest.fixture
def without_torch(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line in a process where nothing but the base install and onnxruntime can be imported."""

    def run(*arguments: object, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", HIDDEN, *map(str, arguments)]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, input=stdin, env={**os.environ}, check=False
        )

    return run


def test_inpaint_and_request_run_without_torch(without_torch, tmp_path, image_and_mask):
    Image.fromarray(image_and_mask[0]).save(tmp_path / "image.png")
    Image.fromarray(image_and_mask[1]).save(tmp_path / "mask.png")
    done = without_torch(
        "inpaint",
        "image.png",
        "mask.png",
        "-p",
        "a red circle",
        "--steps",
        "2",
        "--json",
        "-o",
        "a.png",
        "--lora",
        "shade:0.5",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["meta"]["backend"] == "onnx"
    with Image.open(tmp_path / "a.png") as made:
        assert made.size == (SIZE, SIZE)
    payload = {**MINIMAL, "model_id": "lazymixv4-inpaint", "num_inference_steps": "3", "safety_checker": "yes"}
    done = without_torch("request", "-", "-e", "community", stdin=json.dumps(payload))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "success"


def test_without_torch_a_model_without_graphs_says_what_to_do(without_torch, home, tmp_path, image_and_mask):
    Image.fromarray(image_and_mask[0]).save(tmp_path / "image.png")
    Image.fromarray(image_and_mask[1]).save(tmp_path / "mask.png")
    done = without_torch("inpaint", "image.png", "mask.png", "-m", "bare", "--weights", home / "weights.toml")
    assert done.returncode == 3
    assert "make them with intarsia export (pip install 'intarsia[export]') for bare" in done.stderr


def test_clip_towers_for_export_are_transformers_own(home):
    """Float32, the same operations: what is left is the order of sums."""
    from safetensors.torch import load_file

    from intarsia.export.clip import ClipText
    from intarsia.models.clip_config import read_text_shape
    from intarsia.models.text_files import load_text

    texts = load_text(home / "xl", torch.device("cpu"), torch.float32)
    for suffix, tower in zip(("", "_2"), texts.towers, strict=True):
        folder = home / "xl" / f"text_encoder{suffix}"
        ours = ClipText(read_text_shape(folder / "config.json"), penultimate=True, projected=bool(suffix))
        state = load_file(folder / "model.safetensors")
        ours.load_state_dict({name.removeprefix("text_model."): tensor for name, tensor in state.items()})
        ids, _ = tower.read(["a red circle", "b"])
        with torch.no_grad():
            theirs, found = tower.run(ids), ours(ids, torch.tensor([2]), torch.zeros(1, tower.width))
        torch.testing.assert_close(found[0], theirs.hidden_states[-2], atol=1e-5, rtol=1e-5)
        if suffix:
            torch.testing.assert_close(found[1], theirs.text_embeds, atol=1e-5, rtol=1e-5)
