"""The recognition service: web pages and an HTTP API that recognise photos with a bundle. Independent of training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fruits.service.app import create_app
    from fruits.service.settings import ServiceConfig

__all__ = ["ServiceConfig", "create_app"]


def __getattr__(name: str) -> Any:
    # Imported late: the command line uses this package without loading the web framework.
    if name == "create_app":
        from fruits.service.app import create_app  # noqa: PLC0415

        return create_app
    if name == "ServiceConfig":
        from fruits.service.settings import ServiceConfig  # noqa: PLC0415

        return ServiceConfig
    raise AttributeError(name)
