"""Tells PlatformIO that this platform has no packages to fetch: its tools are on the PATH."""

from platformio.platform.base import PlatformBase


class Redsc_emulatorPlatform(PlatformBase):  # noqa: N801 - PlatformIO derives the name
    pass
