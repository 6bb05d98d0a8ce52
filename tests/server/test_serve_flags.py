"""Every flag of ``intarsia serve`` reaches the settings that it is for, and changes nothing else."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

pytest.importorskip("uvicorn", reason="needs packages of the server: pip install 'intarsia[serve]'")

from intarsia import cli
from intarsia.server import ray_serve, serving
from intarsia.server.engines import process_start
from intarsia.server.ray_serve import RayOptions
from intarsia.server.settings import DAY, ServeSettings, default_data_folder

# Parameter → its arguments, and what differs by them. Those of Ray are given with --ray.
SERVE: dict[str, tuple[list[str], dict[str, Any]]] = {
    "host": (["--host", "127.0.0.2"], {"host": "127.0.0.2"}),
    "port": (["--port", "9000"], {"port": 9000}),
    "data": (["--data", "elsewhere"], {"data": Path("elsewhere")}),
    "keys": (["--keys", "keys.txt"], {"keys": Path("keys.txt")}),
    "wait": (["--wait", "1.5"], {"wait": 1.5}),
    "queue": (["--queue", "5"], {"queue": 5}),
    "queue_share": (["--queue-share", "7"], {"queue_share": 7}),
    "rate": (["--rate", "2.5"], {"rate": 2.5}),
    "public_url": (["--public-url", "https://a.example"], {"public_url": "https://a.example"}),
    "database": (["--database", "sqlite:///x"], {"database": "sqlite:///x"}),
    "model": (["--model", "a", "--model", "b"], {"models": ("a", "b")}),
    "null": (["--null"], {"engine.backend": "null"}),
    "keep": (["--keep", "2d"], {"keep": 2 * DAY}),
    "disk_limit": (["--disk-limit", "2GB"], {"disk_limit": 2 * 10**9}),
    "uploads": (["--uploads", "7"], {"uploads": 7}),
    "upload_bytes": (["--upload-bytes", "3MB"], {"upload_bytes": 3 * 10**6}),
    "cors": (["--cors", "https://a.example", "--cors", "https://b.example"],
             {"cors": ("https://a.example", "https://b.example")}),
    "allow_host": (["--allow-host", "a.example"], {"allowed_hosts": ("a.example",)}),
    "errors_as_200": (["--errors-as-200"], {"errors_as_200": True}),
    "webhook_secret": (["--webhook-secret", "s"], {"webhook_secret": "s"}),
    "certificate": (["--certificate", "c.pem"], {"certificate": Path("c.pem")}),
    "certificate_key": (["--certificate-key", "k.pem"], {"certificate_key": Path("k.pem")}),
    "files": (["--files", "memory://x"], {"files": "memory://x"}),
    "ray": (["--ray"], {}),
    "ray_address": (["--ray", "--ray-address", "ray://a"], {"ray.address": "ray://a"}),
    "replicas": (["--ray", "--replicas", "2"], {"ray.replicas": 2}),
    "most_replicas": (["--ray", "--most-replicas", "3"], {"ray.most_replicas": 3}),
    "gpus": (["--ray", "--gpus", "0.5"], {"ray.gpus": 0.5}),
    "cpus": (["--ray", "--cpus", "2.5"], {"ray.cpus": 2.5}),
    "ingresses": (["--ray", "--ingresses", "4"], {"ray.ingresses": 4}),
    "backend": (["--backend", "onnx"], {"engine.backend": "onnx"}),
    "device": (["--device", "cuda:0,cuda:1"], {"engine.devices": ("cuda:0", "cuda:1")}),
    "slots": (["--slots", "3"], {"engine.slots": 3}),
    "kernels": (["--kernels", "plain"], {"engine.kernels": "plain"}),
    "capture": (["--capture", "off"], {"engine.capture": "off"}),
    "precision": (["--precision", "fp8"], {"engine.precision": "fp8"}),
    "memory": (["--memory", "6GiB"], {"engine.memory": "6GiB"}),
    "weights": (["--weights", "w.toml"], {"engine.weights": "w.toml"}),
    "allow_private_urls": (["--allow-private-urls"], {"allow_private_urls": True}),
    "max_pixels": (["--max-pixels", "1000"], {"engine.max_pixels": 1000}),
}  # fmt: skip


def flat(settings: ServeSettings | RayOptions) -> dict[str, Any]:
    """Every setting by name, those of the engine as ``engine.name`` and those of Ray as ``ray.name``."""
    fields = asdict(settings)
    if isinstance(settings, RayOptions):
        return {f"ray.{name}": value for name, value in fields.items()}

    engine = fields.pop("engine")
    return fields | {f"engine.{name}": value for name, value in engine.items()}


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is served here, so no engine is started ahead."""
    monkeypatch.setattr(process_start, "started_ahead", lambda count: nullcontext([]))


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, Any]:
    """What ``intarsia serve`` starts."""
    reached: dict[str, Any] = {}

    def serve(settings: ServeSettings, announce: object, *, started: object) -> None:
        reached.update(flat(settings))

    def serve_on_ray(settings: ServeSettings, options: RayOptions, announce: object) -> None:
        reached.update(flat(settings) | flat(options))

    monkeypatch.delenv("INTARSIA_WEBHOOK_SECRET", raising=False)
    monkeypatch.setattr(serving, "serve", serve)
    monkeypatch.setattr(ray_serve, "serve_on_ray", serve_on_ray)
    done = CliRunner().invoke(cli.app, ["serve", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return reached


@pytest.mark.parametrize("flag", SERVE)
def test_a_flag_of_serve_reaches_its_setting_and_changes_nothing_else(monkeypatch, flag):
    arguments, changes = SERVE[flag]
    defaults = flat(ServeSettings(data=default_data_folder()))
    if "--ray" in arguments:
        defaults |= flat(RayOptions())
    assert call(monkeypatch, *arguments) == defaults | changes


def test_without_flags_the_defaults_of_the_settings_hold(monkeypatch):
    assert call(monkeypatch) == flat(ServeSettings(data=default_data_folder()))
    assert call(monkeypatch, "--ray") == flat(ServeSettings(data=default_data_folder())) | flat(RayOptions())


def test_the_secret_of_webhooks_is_read_from_the_environment(monkeypatch):
    monkeypatch.setattr(serving, "serve", lambda settings, announce, started: secrets.append(settings.webhook_secret))
    secrets: list[str] = []
    done = CliRunner().invoke(cli.app, ["serve"], env={"INTARSIA_WEBHOOK_SECRET": "s"}, catch_exceptions=False)
    assert (done.exit_code, secrets) == (0, ["s"])


def test_every_flag_of_serve_has_a_row():
    command = typer.main.get_command(cli.app).commands["serve"]
    assert {parameter.name for parameter in command.params} - {"help"} == set(SERVE)
