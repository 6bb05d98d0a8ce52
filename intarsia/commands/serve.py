"""``intarsia serve``: the documented endpoints over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from intarsia.commands.options import (
    AllowPrivateUrls,
    Backend,
    Capture,
    Device,
    Kernels,
    MaxPixels,
    Memory,
    Precision,
    Weights,
)
from intarsia.commands.streams import note
from intarsia.errors import BackendError, RequestError

if TYPE_CHECKING:
    from intarsia.server.settings import ServeSettings

__all__ = ["serve"]


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; another than loopback needs --keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8765,
    data: Annotated[Path | None, typer.Option(help="Folder of jobs and images.")] = None,
    keys: Annotated[Path | None, typer.Option(help="File of hashed keys: see intarsia keys.")] = None,
    wait: Annotated[float, typer.Option(help="Seconds before a reply says processing.")] = 20.0,
    queue: Annotated[int, typer.Option(help="Jobs that may be queued.")] = 64,
    queue_share: Annotated[
        int | None, typer.Option(help="Of these, jobs of one key; without, one key may have all.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Requests a second of one key or address; default is any.")] = None,
    public_url: Annotated[str, typer.Option(help="What addresses in replies begin with.")] = "",
    database: Annotated[str, typer.Option(help="postgresql+psycopg://… for several machines.")] = "",
    model: Annotated[list[str] | None, typer.Option(help="A model to open at the start; may be given again.")] = None,
    null: Annotated[bool, typer.Option("--null", help="Flat colors without a model, for client developers.")] = False,
    keep: Annotated[str, typer.Option(help="How long images are kept, such as 24h or 7d.")] = "7d",
    disk_limit: Annotated[str | None, typer.Option(help="Most that images take, such as 20GB.")] = None,
    uploads: Annotated[int, typer.Option(help="Uploaded images that are kept of one key.")] = 1000,
    upload_bytes: Annotated[str, typer.Option(help="Most that uploaded images of one key take.")] = "2GB",
    cors: Annotated[list[str] | None, typer.Option(help="An origin whose pages may call this server.")] = None,
    allow_host: Annotated[list[str] | None, typer.Option(help="A name that this server is called by.")] = None,
    errors_as_200: Annotated[bool, typer.Option("--errors-as-200", help="Errors have HTTP status 200.")] = False,
    webhook_secret: Annotated[
        str, typer.Option(envvar="INTARSIA_WEBHOOK_SECRET", help="Signs webhooks; better set in the environment.")
    ] = "",
    certificate: Annotated[Path | None, typer.Option(help="PEM file for https.")] = None,
    certificate_key: Annotated[Path | None, typer.Option(help="PEM file of its private key.")] = None,
    files: Annotated[str, typer.Option(help="Where images are kept: any fsspec address; default is --data.")] = "",
    ray: Annotated[bool, typer.Option("--ray", help="Run on Ray Serve; needs --database.")] = False,
    ray_address: Annotated[str, typer.Option(help="A running Ray cluster; default starts one here.")] = "",
    replicas: Annotated[int, typer.Option(help="With --ray: engines, at least.")] = 1,
    most_replicas: Annotated[int, typer.Option(help="With --ray: engines at most, by the queue.")] = 0,
    gpus: Annotated[float, typer.Option(help="With --ray: GPUs of each engine; 0 runs on CPUs.")] = 1.0,
    cpus: Annotated[float, typer.Option(help="With --ray: CPUs of each engine.")] = 1.0,
    ingresses: Annotated[int, typer.Option(help="With --ray: processes that answer HTTP.")] = 1,
    backend: Backend = "auto",
    device: Device = "auto",
    slots: Annotated[int | None, typer.Option(help="Images evaluated together.")] = None,
    kernels: Kernels = "auto",
    capture: Capture = "auto",
    precision: Precision = None,
    memory: Memory = None,
    weights: Weights = None,
    allow_private_urls: AllowPrivateUrls = False,
    max_pixels: MaxPixels = None,
) -> None:
    """Serve the documented endpoints, so that a client of the hosted service runs here unchanged."""
    try:
        from intarsia.server import serving
    except ImportError as exc:
        raise BackendError(f'serve needs more packages: pip install "intarsia[serve]" ({exc.name} is missing)') from exc
    from intarsia.server.settings import EngineSettings, ServeSettings, default_data_folder, read_bytes, read_seconds

    settings = ServeSettings(
        data=data or default_data_folder(),
        host=host,
        port=port,
        keys=keys,
        wait=wait,
        queue=queue,
        queue_share=queue_share,
        rate=rate,
        public_url=public_url,
        database=database,
        files=files,
        models=tuple(model or ()),
        keep=read_seconds("keep", keep),
        disk_limit=None if disk_limit is None else read_bytes("disk-limit", disk_limit),
        uploads=uploads,
        upload_bytes=read_bytes("upload-bytes", upload_bytes),
        cors=tuple(cors or ()),
        allowed_hosts=tuple(allow_host or ()),
        allow_private_urls=allow_private_urls,
        errors_as_200=errors_as_200,
        webhook_secret=webhook_secret,
        certificate=certificate,
        certificate_key=certificate_key,
        engine=EngineSettings(
            backend="null" if null else backend,
            devices=tuple(device.split(",")),
            weights=None if weights is None else str(weights),
            slots=slots,
            kernels=kernels,
            capture=capture,
            precision=precision,
            memory=memory,
            max_pixels=max_pixels,
        ),
    )
    from intarsia.server.ray_serve import RayOptions, serve_on_ray

    options = RayOptions(
        address=ray_address,
        replicas=replicas,
        most_replicas=most_replicas,
        gpus=gpus,
        cpus=cpus,
        ingresses=ingresses,
    )
    if ray:
        _check_on_ray(settings)
        serve_on_ray(settings, options, note)
        return
    if options != RayOptions():
        raise RequestError("ray", message="--ray is required with --ray-address, --replicas and the like")
    serving.serve(settings, note)


def _check_on_ray(settings: ServeSettings) -> None:
    if settings.certificate is not None or settings.certificate_key is not None:
        message = "certificate is not used with --ray, whose proxy serves http: put a reverse proxy in front"
        raise RequestError("certificate", message=message)
