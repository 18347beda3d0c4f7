"""The service as an ASGI application: its lifespan, routes and middleware."""

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
from fruits.messages import translations
from fruits.service.http import errors as http_errors
from fruits.service.http.errors import HttpError
from fruits.service.http.limits.access import Guard
from fruits.service.http.limits.rate_limits import Limits
from fruits.service.http.middleware import Middleware
from fruits.service.http.routes import recognise as answering
from fruits.service.http.routes import visitor_api as api
from fruits.service.pages import routes as pages
from fruits.service.resources import Resources
from fruits.service.settings import ServiceConfig
from fruits.service.telemetry import Telemetry


def create_app(
    config: ServiceConfig, telemetry: Telemetry | None = None, limits: Limits | None = None, *, chores: bool = True
) -> FastAPI:
    """Create the application; bundle, database and photo store are opened at start-up, in its lifespan.

    Parameters
    ----------
    config : ServiceConfig
    telemetry : Telemetry, optional
        By default, log lines go to stderr.
    limits : Limits, optional
        Rate limits that several processes share.
    chores : bool
        Whether this process looks after what is stored: one of several does.
    """
    telling = telemetry or Telemetry()

    def failed(exc: BaseException) -> None:
        app.state.failure = exc

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        telling.start()
        try:
            resources = Resources(config, telling, limits, chores=chores)
            app.state.resources = resources
            resources.start(failed)
            try:
                if limits is not None:  # one of several: others answer until this one can
                    await resources.warmed()
                yield
            finally:
                await resources.stop()
        except FruitsError as exc:
            failed(exc)
            raise
        finally:
            telling.stop()

    app = _Application(
        title="fruits",
        version=__version__,
        summary="A photo in, the name of the fruit out.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's page loads scripts from another site
        redoc_url=None,
        redirect_slashes=False,
        servers=[{"url": config.root_path}] if config.root_path else None,
        exception_handlers={
            HTTPException: _http,
            RequestValidationError: _invalid,
            FruitsError: _known,
            Exception: _known,
        },
    )
    app.state.config = config
    #: The exception that ends the service; read by ``serve``.
    app.state.failure = None
    api.add_to(app)
    app.router.routes.extend(pages.routes(privacy=pages.privacy_of(config)))
    policy = pages.content_security_policy(on_device=pages.has_device_mode())
    app.outer = Middleware(Guard(app.within, app.state), config, telling, policy=policy)
    return app


class _Application(FastAPI):
    """FastAPI behind the middleware; recognition requests bypass its routing for speed."""

    outer: Middleware

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
        else:
            await self.outer(scope, receive, send)

    async def within(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle a request that the middleware accepted."""
        if scope["path"] == answering.PATH and scope["method"] == "POST":
            await answering.recognise(self.state.resources, scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


async def _known(request: Request, exc: Any) -> Response:
    """Respond to a known or an unexpected error; the middleware logs the cause."""
    problem = http_errors.from_exception(exc)
    about = request.scope["fruits"]
    if problem is not exc:
        about["cause"] = exc
    about["code"] = problem.code
    body = http_errors.body(problem, about["id"])
    return Response(
        body, problem.status, {"Cache-Control": "no-store", **problem.headers}, media_type="application/json"
    )


async def _http(request: Request, exc: Any) -> Response:
    """Respond to an error of the router: unknown path, or method not allowed."""
    problem = http_errors.of_status(exc.status_code)
    problem.headers |= exc.headers or {}
    return await _known(request, problem)


async def _invalid(request: Request, exc: Any) -> Response:
    """Respond to a request that fails validation; names the field, never its value."""
    first = exc.errors()[0] if exc.errors() else {}
    where = ".".join(str(part) for part in first.get("loc", ()) if isinstance(part, str) and part.isidentifier())
    detail = translations("detail.see", where=where[:80]) if where else None
    return await _known(request, HttpError("bad_request", detail, status=422))
