"""Which models the worker keeps open, which it changes in place, and which images may share an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import intarsia
from intarsia.backends.null import NullBackend, NullSession
from intarsia.backends.protocol import ModelFiles
from tests.tiny_files import SD1_LORA, write


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """Three models, two VAEs, two LoRAs; all without weights."""
    lines = ["schema = 1", 'default = "a"']
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / "model_index.json").write_text("{}")
        lines += [f"[models.{name}]", 'family = "sd15-inpaint"', f'path = "{name}"']
    for name in ("v", "w"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        lines += [f"[vaes.{name}]", f'path = "{name}"']
    for number, name in enumerate(("ink", "wash")):
        write(tmp_path / f"{name}.safetensors", SD1_LORA, fill=number)
        lines += [f"[loras.{name}]", f'path = "{name}.safetensors"']
    path = tmp_path / "weights.toml"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], Callable[[], None]]:
    """What is opened, closed and changed, in order, by the names of model, VAE and LoRAs."""
    seen, open_one = [], NullBackend.open

    def name(files: ModelFiles) -> str:
        parts = [files.folder.name, *([files.vae_folder.name] if files.vae_folder else [])]
        return "+".join([*parts, *(path.stem for path, _ in files.loras)])

    # Classes of their own for each test: what a protocol's isinstance() has found of a class is remembered.
    class Watched(NullSession):
        def close(self) -> None:
            seen.append(f"close {name(self.files)}")

    class Adapting(Watched):
        def adapt(self, files: ModelFiles) -> bool:
            seen.append(f"change {name(self.files)} to {name(files)}")
            self.files = files
            return True

    kind = Watched

    def opened(self: NullBackend, files: ModelFiles) -> Any:
        seen.append(f"open {name(files)}")
        session = open_one(self, files)
        session.__class__ = kind
        return session

    def can_adapt() -> None:
        nonlocal kind
        kind = Adapting

    monkeypatch.setattr(NullBackend, "open", opened)
    return seen, can_adapt


def run_all(registry: Path, request_of: Callable[..., intarsia.InpaintRequest], *requests: dict[str, Any]) -> None:
    with intarsia.Engine("null", weights=registry) as engine:
        for fields in requests:
            engine.run(request_of(**fields))


def test_the_longest_unused_model_is_closed(registry, request_of, sessions):
    seen, _ = sessions
    run_all(registry, request_of, {"model": "b"}, {"model": "a"}, {"model": "b"}, {"model": "c"}, {"model": "b"})
    assert seen == ["open b", "open a", "close a", "open c", "close c", "close b"]
    seen.clear()
    run_all(registry, request_of, {"model": "a"}, {"model": "b"}, {"model": "a"}, {"model": "c"}, {"model": "a"})
    assert seen == ["open a", "open b", "close b", "open c", "close c", "close a"]


def test_only_a_session_that_differs_in_its_loras_is_changed_in_place(registry, request_of, sessions):
    seen, can_adapt = sessions
    can_adapt()
    ink, wash = [{"id": "ink"}], [{"id": "wash"}]
    run_all(
        registry, request_of,
        {"model": "a", "vae": "v", "loras": ink}, {"model": "a", "vae": "v", "loras": wash},
        {"model": "a", "vae": "w", "loras": wash}, {"model": "b", "vae": "w", "loras": wash},
    )  # fmt: skip
    changes = [line for line in seen if not line.startswith("close")]
    assert changes == ["open a+v+ink", "change a+v+ink to a+v+wash", "open a+w+wash", "open b+w+wash"]


@pytest.mark.parametrize(
    ("fields", "shares"),
    [
        ({"guidance_scale": 3.0}, True),
        ({"guidance_scale": 1.0}, False),
        ({"model": "b"}, False),
        ({"width": 128, "height": 64}, False),
        ({"token_merging": 0.5}, False),
        ({"vae": "v"}, False),
        ({"steps": 9, "scheduler": "euler", "strength": 0.9, "prompt": "x", "seed": 5, "clip_skip": 1}, True),
    ],
)
def test_what_may_share_an_evaluation(registry, request_of, fields, shares):
    size = {"width": 64, "height": 64}
    plans = [intarsia.plan(request_of(**{**size, **each}), registry) for each in ({"guidance_scale": 7.5}, fields)]
    assert (plans[0].group == plans[1].group) == shares
