"""The service as an ASGI application: what is opened, which routes there are, what stands around them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from fruits import __version__
from fruits.errors import FruitsError
from fruits.service import api, pages, problems
from fruits.service.door import Door
from fruits.service.problems import Problem
from fruits.service.resources import Resources
from fruits.service.settings import ServiceConfig
from fruits.service.telemetry import Telemetry


def create_app(config: ServiceConfig, telemetry: Telemetry | None = None) -> FastAPI:
    """Return the application; bundle, database and store are opened when it starts.

    Parameters
    ----------
    config : ServiceConfig
    telemetry : Telemetry, optional
        By default lines go to stderr.
    """
    telling = telemetry or Telemetry()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        telling.start()
        try:
            resources = Resources(config, telling)
            app.state.resources = resources
            resources.start()
            try:
                yield
            finally:
                await resources.stop()
        except FruitsError as exc:
            app.state.failure = exc
            raise
        finally:
            telling.stop()

    app = FastAPI(
        title="fruits",
        version=__version__,
        summary="A photo in, the name of the fruit out.",
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={
            HTTPException: _http,
            RequestValidationError: _invalid,
        },
    )
    app.state.config = config
    api.add_to(app)
    app.router.routes.extend(pages.routes())
    policy = pages.content_security_policy(on_device=pages.has_device_mode())
    app.add_middleware(Door, config=config, telemetry=telling, policy=policy)  # type: ignore[arg-type]
    return app


async def _http(request: Request, exc: Any) -> Response:
    """Answer what the router says: there is no such address, or not for this method."""
    raise Problem(problems.of_status(exc.status_code).code, status=exc.status_code, headers=exc.headers)


async def _invalid(request: Request, exc: Any) -> Response:
    """Answer a request that does not fit its model; says where, not what was sent."""
    first = exc.errors()[0] if exc.errors() else {}
    where = ".".join(str(part) for part in first.get("loc", ()) if isinstance(part, str) and part.isidentifier())
    raise Problem("bad_request", f"see {where[:80]}" if where else "", status=422)
