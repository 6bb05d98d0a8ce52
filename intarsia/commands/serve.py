"""``intarsia serve``: the documented endpoints over HTTP."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from intarsia.commands.option_groups import grouped
from intarsia.commands.serve_options import (
    AddressOptions,
    ClusterOptions,
    JobOptions,
    KeptOptions,
    ServedModelOptions,
)
from intarsia.commands.streams import note
from intarsia.errors import BackendError, RequestError

if TYPE_CHECKING:
    from intarsia.server.settings import ServeSettings

__all__ = ["serve"]


@grouped
def serve(
    address: AddressOptions,
    jobs: JobOptions,
    kept: KeptOptions,
    models: ServedModelOptions,
    cluster: ClusterOptions,
) -> None:
    """Serve the documented endpoints over HTTP, and a page.

    A client of the hosted service runs here unchanged but for its base URL.
    """
    # What is imported and made until the server answers stays as long as it does: looking through all of it for garbage
    # would be an eighth of the start.
    gc.disable()
    try:
        _serve(address, jobs, kept, models, cluster)
    finally:
        gc.enable()


def _serve(
    address: AddressOptions, jobs: JobOptions, kept: KeptOptions, models: ServedModelOptions, cluster: ClusterOptions
) -> None:
    from intarsia.server.settings import ServeSettings

    settings = ServeSettings(
        **address.settings(),
        **jobs.settings(),
        **kept.settings(),
        models=tuple(models.model or ()),
        engine=models.engine(),
    )
    if cluster.ray:
        _serve_on_ray(settings, cluster)
        return
    if cluster != ClusterOptions():
        raise RequestError("ray", message="--ray is required with --ray-address, --replicas and the like")
    _serve_here(settings)


def _serve_here(settings: ServeSettings) -> None:
    from intarsia.server.engines.process_start import started_ahead

    # What an engine's process imports takes as long as what the server imports: so it starts first, and both go on
    # beside each other.
    with started_ahead(len(settings.engine.devices)) as started:
        with _needing_packages():
            from intarsia.server.serving import serve
        serve(settings, _announce, started=started)


def _serve_on_ray(settings: ServeSettings, cluster: ClusterOptions) -> None:
    _check_on_ray(settings)
    with _needing_packages():
        from intarsia.server.ray_serve import serve_on_ray
    serve_on_ray(settings, cluster.options(), _announce)


@contextmanager
def _needing_packages() -> Iterator[None]:
    """A block that imports what only the extra ``serve`` installs."""
    try:
        yield
    except ImportError as exc:
        raise BackendError(f'serve needs more packages: pip install "intarsia[serve]" ({exc.name} is missing)') from exc


def _announce(line: str) -> None:
    """Say where the server is, once it answers."""
    gc.enable()
    note(line)


def _check_on_ray(settings: ServeSettings) -> None:
    if settings.certificate is not None or settings.certificate_key is not None:
        message = "certificate is not used with --ray, whose proxy serves http: put a reverse proxy in front"
        raise RequestError("certificate", message=message)
