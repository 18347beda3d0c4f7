"""The recognition service: a person sends a photo and learns what the fruit is. Knows the bundle, never the pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fruits.service.app import create_app
    from fruits.service.settings import ServiceConfig

__all__ = ["ServiceConfig", "create_app"]


def __getattr__(name: str) -> Any:
    # Late, so that the command line knows the package without loading a web framework.
    if name == "create_app":
        from fruits.service.app import create_app  # noqa: PLC0415

        return create_app
    if name == "ServiceConfig":
        from fruits.service.settings import ServiceConfig  # noqa: PLC0415

        return ServiceConfig
    raise AttributeError(name)
