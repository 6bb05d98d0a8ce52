"""Encoders that take memory of their device only while they are used, where memory is short.

From a GPU they go to the host's memory; on a CPU they are released and read again from their files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from intarsia.backends.device_memory import release_freed
from intarsia.backends.protocol import ModelFiles
from intarsia.models.ip_adapter import ImagePrompts
from intarsia.models.ip_adapter_files import load_image_encoder
from intarsia.models.loading import Parts
from intarsia.models.text_files import load_text

__all__ = ["EncoderMemory", "image_memory", "text_memory"]

Networks = Callable[[], Sequence[nn.Module]]


class EncoderMemory:
    """Some encoders of one session.

    Args:
        networks: gives them as they are now.
        read: reads them anew from their files, LoRAs included; None where they have no files, and stay on a CPU.
        releases: they leave the device; else they stay.
    """

    def __init__(self, networks: Networks, read: Networks | None, device: torch.device, *, releases: bool) -> None:
        self._networks = networks
        self._read = read
        self._device = device
        self.releases = releases and (device.type != "cpu" or read is not None)
        if self.releases:
            self._release()

    @contextmanager
    def present(self) -> Iterator[None]:
        """The encoders are on the device inside of it."""
        if not self.releases:
            yield
            return
        try:
            self._bring()
            yield
        finally:
            self._release()

    # Outside of inference mode, or the weights could not be changed in place later.
    @torch.inference_mode(False)
    def _bring(self) -> None:
        if self._device.type != "cpu":
            for network in self._networks():
                network.to(self._device)
            return

        if self._read is None:
            raise AssertionError("encoders without files are not released on a CPU")
        for network, fresh in zip(self._networks(), self._read(), strict=True):
            for weight, values in zip(network.parameters(), fresh.parameters(), strict=True):
                weight.data = values.data

    @torch.inference_mode(False)
    def _release(self) -> None:
        if self._device.type != "cpu":
            for network in self._networks():
                network.to("cpu")
            torch.cuda.empty_cache()
            return

        for network in self._networks():
            for weight in network.parameters():
                weight.data = torch.empty(0, dtype=weight.dtype)
        release_freed()


def text_memory(
    parts: Callable[[], Parts], device: torch.device, dtype: torch.dtype, *, releases: bool
) -> EncoderMemory:
    """Of a session's text encoders; ``parts`` gives its networks as they are now."""

    def networks() -> list[nn.Module]:
        return [tower.model for tower in parts().text.towers]

    def read() -> list[nn.Module]:
        now = parts()
        assert now.stored is not None  # what has no files is not read
        return [tower.model for tower in load_text(now.stored, device, dtype, now.additions).towers]

    has_files = parts().stored is not None
    return EncoderMemory(networks, read if has_files else None, device, releases=releases)


def image_memory(
    image_prompts: ImagePrompts | None,
    files: ModelFiles | None,
    device: torch.device,
    dtype: torch.dtype,
    *,
    releases: bool,
) -> EncoderMemory:
    """Of the image encoder of a session's IP adapter, if it has one."""
    if image_prompts is None:
        return EncoderMemory(list, list, device, releases=False)
    adapter = None if files is None else files.ip_adapter

    def read() -> list[nn.Module]:
        assert files is not None  # what has no files is not read
        assert adapter is not None
        return [load_image_encoder(adapter, device, dtype, files.image_encoder)[0]]

    encoder = image_prompts.encoder
    return EncoderMemory(lambda: [encoder], None if adapter is None else read, device, releases=releases)
