"""Option groups of ``intarsia serve``, and the settings of a server that they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from intarsia.commands.options import (
    AllowPrivateUrls,
    Backend,
    Capture,
    Kernels,
    MaxPixels,
    Memory,
    Precision,
    Weights,
)

if TYPE_CHECKING:
    from intarsia.server.ray_serve import RayOptions
    from intarsia.server.settings import EngineSettings

__all__ = ["AddressOptions", "ClusterOptions", "JobOptions", "KeptOptions", "ServedModelOptions"]


@dataclass(frozen=True, kw_only=True)
class AddressOptions:
    """Where the server listens, and who may call it from a browser."""

    heading: ClassVar[str] = "Address"

    host: Annotated[
        str, typer.Option(metavar="NAME", help="Address to listen on; another than loopback needs --keys.")
    ] = "127.0.0.1"
    port: Annotated[int, typer.Option(metavar="N", help="Port; 0 takes a free one.")] = 8765
    public_url: Annotated[str, typer.Option(metavar="URL", help="What addresses in replies begin with.")] = ""
    certificate: Annotated[Path | None, typer.Option(metavar="FILE", help="PEM file for https.")] = None
    certificate_key: Annotated[Path | None, typer.Option(metavar="FILE", help="PEM file of its private key.")] = None
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A name that this server is called by; may be repeated.")
    ] = None
    cors: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="An origin whose pages may call this server; may be repeated."),
    ] = None

    def settings(self) -> dict[str, Any]:
        """Fields of :class:`~intarsia.server.settings.ServeSettings`."""
        return {
            "host": self.host,
            "port": self.port,
            "public_url": self.public_url,
            "certificate": self.certificate,
            "certificate_key": self.certificate_key,
            "allowed_hosts": tuple(self.allow_host or ()),
            "cors": tuple(self.cors or ()),
        }


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """Who may send requests, how many, and how they are answered."""

    heading: ClassVar[str] = "Requests and jobs"

    keys: Annotated[Path | None, typer.Option(metavar="FILE", help="File of hashed keys: see intarsia keys.")] = None
    wait: Annotated[float, typer.Option(metavar="SECONDS", help="Before a reply says processing.")] = 20.0
    queue: Annotated[int, typer.Option(metavar="N", help="Jobs that may be queued.")] = 64
    queue_share: Annotated[
        int | None, typer.Option(metavar="N", help="Of these, jobs of one key; without, one key may have all.")
    ] = None
    rate: Annotated[
        float | None, typer.Option(metavar="N", help="Requests a second of one key or address; default is any.")
    ] = None
    errors_as_200: Annotated[bool, typer.Option("--errors-as-200", help="Errors have HTTP status 200.")] = False
    webhook_secret: Annotated[
        str,
        typer.Option(
            envvar="INTARSIA_WEBHOOK_SECRET", metavar="TEXT", help="Signs webhooks; better set in the environment."
        ),
    ] = ""
    allow_private_urls: AllowPrivateUrls = False

    def settings(self) -> dict[str, Any]:
        """Fields of :class:`~intarsia.server.settings.ServeSettings`."""
        return {
            "keys": self.keys,
            "wait": self.wait,
            "queue": self.queue,
            "queue_share": self.queue_share,
            "rate": self.rate,
            "errors_as_200": self.errors_as_200,
            "webhook_secret": self.webhook_secret,
            "allow_private_urls": self.allow_private_urls,
        }


@dataclass(frozen=True, kw_only=True)
class KeptOptions:
    """What is kept, where, and for how long."""

    heading: ClassVar[str] = "What is kept"

    data: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Of jobs and images; default is intarsia/server in your data folder."),
    ] = None
    files: Annotated[
        str, typer.Option(metavar="URL", help="Where images are kept: any fsspec address; default is --data.")
    ] = ""
    database: Annotated[str, typer.Option(metavar="URL", help="postgresql+psycopg://… for several machines.")] = ""
    keep: Annotated[str, typer.Option(metavar="TIME", help="How long images are kept, such as 24h or 7d.")] = "7d"
    disk_limit: Annotated[str | None, typer.Option(metavar="SIZE", help="Most that images take, such as 20GB.")] = None
    uploads: Annotated[int, typer.Option(metavar="N", help="Uploaded images that are kept of one key.")] = 1000
    upload_bytes: Annotated[str, typer.Option(metavar="SIZE", help="Most that uploaded images of one key take.")] = (
        "2GB"
    )

    def settings(self) -> dict[str, Any]:
        """Fields of :class:`~intarsia.server.settings.ServeSettings`."""
        from intarsia.server.settings import default_data_folder, read_bytes, read_seconds

        return {
            "data": self.data or default_data_folder(),
            "files": self.files,
            "database": self.database,
            "keep": read_seconds("keep", self.keep),
            "disk_limit": None if self.disk_limit is None else read_bytes("disk-limit", self.disk_limit),
            "uploads": self.uploads,
            "upload_bytes": read_bytes("upload-bytes", self.upload_bytes),
        }


@dataclass(frozen=True, kw_only=True)
class ServedModelOptions:
    """Which models are served, and by what."""

    heading: ClassVar[str] = "Model and device"

    model: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="A model to open at the start; may be repeated.")
    ] = None
    null: Annotated[bool, typer.Option("--null", help="Flat colors without a model, for client developers.")] = False
    backend: Backend = "auto"
    device: Annotated[
        str, typer.Option(metavar="NAMES", help="auto, cpu, cuda[:N], tensorrt[:N] with onnx; several: cuda:0,cuda:1.")
    ] = "auto"
    slots: Annotated[int | None, typer.Option(metavar="N", help="Images evaluated together.")] = None
    kernels: Kernels = "auto"
    capture: Capture = "auto"
    precision: Precision = None
    memory: Memory = None
    weights: Weights = None
    max_pixels: MaxPixels = None

    def engine(self) -> EngineSettings:
        """The engines' settings."""
        from intarsia.server.settings import EngineSettings

        return EngineSettings(
            backend="null" if self.null else self.backend,
            devices=tuple(self.device.split(",")),
            weights=None if self.weights is None else str(self.weights),
            slots=self.slots,
            kernels=self.kernels,
            capture=self.capture,
            precision=self.precision,
            memory=self.memory,
            max_pixels=self.max_pixels,
        )


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Engines on several machines."""

    heading: ClassVar[str] = "Several machines"

    ray: Annotated[bool, typer.Option("--ray", help="Run on Ray Serve; needs --database.")] = False
    ray_address: Annotated[
        str, typer.Option(metavar="ADDRESS", help="A running Ray cluster; default starts one here.")
    ] = ""
    replicas: Annotated[int, typer.Option(metavar="N", help="With --ray: engines, at least.")] = 1
    most_replicas: Annotated[
        int, typer.Option(metavar="N", help="With --ray: engines at most, by the queue; 0 is --replicas.")
    ] = 0
    gpus: Annotated[float, typer.Option(metavar="N", help="With --ray: GPUs of each engine; 0 runs on CPUs.")] = 1.0
    cpus: Annotated[float, typer.Option(metavar="N", help="With --ray: CPUs of each engine.")] = 1.0
    ingresses: Annotated[int, typer.Option(metavar="N", help="With --ray: processes that answer HTTP.")] = 1

    def options(self) -> RayOptions:
        """What Ray Serve is started with."""
        from intarsia.server.ray_serve import RayOptions

        return RayOptions(
            address=self.ray_address,
            replicas=self.replicas,
            most_replicas=self.most_replicas,
            gpus=self.gpus,
            cpus=self.cpus,
            ingresses=self.ingresses,
        )
