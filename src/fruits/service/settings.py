"""Every choice of a service: made once, checked once. Knows nothing of how a choice is carried out."""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fruits.config import usable_cores
from fruits.errors import ConfigError
from fruits.service.http.rate_limits import parsed_network
from fruits.storage.objects import is_remote
from fruits.storage.sanitising import clean_line

#: Names of this machine for itself; always answered.
LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")
_PER_ADDRESS: Final = 100
_HOST: Final = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:.]+\]|\*")
_ROOT_PATH: Final = re.compile(r"(/[A-Za-z0-9._~-]*[A-Za-z0-9_~-])*")
_ORIGIN: Final = re.compile(r"https?://[a-z0-9.\-]+(:\d{1,5})?|https?://\[[0-9a-f:.]+\](:\d{1,5})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where a service keeps things; empty where nothing says it.

    Attributes
    ----------
    data, database, photos : str
        As in :class:`ServiceConfig`.
    """

    data: str
    database: str
    photos: str

    @classmethod
    def of(cls, out: str, *, data: str = "", database: str = "", photos: str = "") -> Places:
        """Return them as ``fruits serve`` fills in what it was not given."""
        if out and not data:
            data = "fruits-service" if is_remote(out) else _data_folder(out)
        return cls(
            data=data,
            database=database or (f"sqlite:///{data}/service.db" if data else ""),
            photos=photos or (f"{data}/photos" if data else ""),
        )


def advice_to_move(out: str, data: str) -> str:
    """Return how to move a service's data out of OUT, where an older version put it; empty if it is elsewhere."""
    if not out or is_remote(out) or data != str(_within(out)):
        return ""
    to = shlex.quote(str(_beside(out)))
    return (
        f"the service's data lies in '{data}', within the results, and goes where they are copied; to move it, stop the service, "
        f"then: mv {shlex.quote(data)} {to}"
    )


def _data_folder(out: str) -> str:
    """Return a folder beside OUT, which people copy; or where an older version put the data, as long as they are there."""
    within, beside = _within(out), _beside(out)
    is_old = any((within / name).exists() for name in ("service.db", "photos"))
    return str(within if is_old and not (beside / "service.db").exists() else beside)


def _within(out: str) -> Path:
    return Path(os.path.abspath(out)) / "service"  # noqa: PTH100 - links stay: they may lead to other results tomorrow


def _beside(out: str) -> Path:
    folder = _within(out).parent
    if folder.name == "bundle":  # within results
        folder = folder.parent
    return folder.parent / f"{folder.name or 'fruits'}-service"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """The choices of one ``fruits serve``.

    Parameters
    ----------
    out : str
        Results of a run, or a bundle.
    data : str
        Folder for the database and the photos that people let us keep; by default ``OUT-service`` beside OUT, or
        ``fruits-service`` here if OUT is in a bucket.
    database : str
        ``sqlite:///FILE`` or ``postgresql://...``; by default ``service.db`` in ``data``.
    photos : str
        Folder or ``s3://bucket/prefix`` of kept photos; by default ``photos`` in ``data``.
    host, port : str, int
        Where to listen; port 0 takes a free one.
    workers : int
        Photos decoded and recognised at the same time; 0 for one per core.
    batch : int
        Photos of different requests that are recognised together, at most.
    max_bytes : int
        Of a request's body.
    max_photos, max_fields : int
        Of a multipart body.
    max_pixels, max_frames : int
        Of a photo, as its header announces them. Of an animation only the first frame is looked at.
    send_s : float
        Seconds in which a request's head, and then its body, must have arrived; and after which an answer of which hardly
        anything is taken is given up.
    decode_s : float
        Seconds of processor time to decode a photo.
    max_wait_s : float
        Requests that would wait longer than this for their turn are refused.
    max_connections : int
        Beyond which new connections are refused.
    max_connections_per_address : int
        The same for one address (IPv6: one /64) that is no trusted proxy; 0 for 100, or half of all if that is less.
    keep_alive_s : float
        Seconds that a connection may be idle between two requests. More than the idle timeout of a load balancer in front, or
        that would send a request over a connection that is just being closed, and answer 502.
    rate, token_rate : int
        Requests per minute from one address without a token, and with a token that says nothing else; 0: any number.
    root_path : str
        Path under which a proxy shows the service, such as ``/fruits``, whether or not it takes it away again; empty for the
        root of its host.
    allow_hosts : tuple of str
        Names that the service goes by, ``*.example.org`` or ``*``, beside those of this machine for itself.
    allow_origins : tuple of str
        Other sites whose pages may call the API; none by default.
    trusted_proxies : tuple of str
        Addresses or networks of reverse proxies whose ``X-Forwarded-For`` is believed.
    tokens_only : bool
        Whether all of ``/v1`` but ``/v1/submissions``, which has its secret, wants a token.
    public_metrics : bool
        Whether anybody may read ``/metrics``.
    keep_days : int
        Days after which what was kept is deleted.
    feedback_hours : int
        Hours into the next day (UTC) for which the receipts of photos that were not kept remain.
    operator, contact : str
        Who operates the service and how to reach them, as the page says it; empty: the page says that nobody is named.
    adopt : bool
        Whether photos of another database, or many that no submission names, are this one's: asked once, at the start.
    database_connections : int
        To PostgreSQL, at most.
    watch_s : float
        Seconds between looks at OUT for a new bundle; 0: only on SIGHUP.
    drain_s : float
        Seconds for which a service that was told to stop still answers, with a refusal, so that a load balancer notices.

    Raises
    ------
    ConfigError
        If a choice is impossible.
    """

    out: str
    data: str = ""
    database: str = ""
    photos: str = ""
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 0
    batch: int = 8
    max_bytes: int = 10_000_000
    max_photos: int = 8
    max_fields: int = 8
    max_pixels: int = 50_000_000
    max_frames: int = 100
    send_s: float = 20.0
    decode_s: float = 5.0
    max_wait_s: float = 2.0
    max_connections: int = 1000
    max_connections_per_address: int = 0
    keep_alive_s: float = 75.0
    rate: int = 60
    token_rate: int = 600
    root_path: str = ""
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    tokens_only: bool = False
    public_metrics: bool = False
    keep_days: int = 90
    feedback_hours: int = 6
    operator: str = ""
    contact: str = ""
    adopt: bool = False
    database_connections: int = 4
    watch_s: float = 10.0
    drain_s: float = 0.5

    def __post_init__(self) -> None:
        if not self.out:
            raise ConfigError("nothing to serve; expected the results of 'fruits run', or a bundle")
        if is_remote(self.data):
            raise ConfigError(
                f"data '{self.data}' is in a bucket; expected a folder: only photos may be there (--photos)"
            )
        put = object.__setattr__  # frozen, but what was left open is filled in once
        places = Places.of(self.out, data=self.data, database=self.database, photos=self.photos)
        for name in ("data", "database", "photos"):
            put(self, name, getattr(places, name))
        put(self, "workers", self.workers or usable_cores())
        for name in ("operator", "contact"):
            put(self, name, clean_line(getattr(self, name), 200))
        per_address = self.max_connections_per_address or min(_PER_ADDRESS, max(1, self.max_connections // 2))
        put(self, "max_connections_per_address", per_address)
        put(self, "allow_hosts", tuple(host.lower() for host in self.allow_hosts))
        put(self, "allow_origins", tuple(origin.lower().rstrip("/") for origin in self.allow_origins))
        for name, low, high in (
            ("port", 0, 65535), ("workers", 1, 256), ("batch", 1, 64), ("max_bytes", 1_000, 1 << 30),
            ("max_photos", 1, 64), ("max_fields", 1, 100), ("max_pixels", 10_000, 100_000_000),
            ("max_frames", 1, 1_000_000), ("send_s", 0.1, 3600), ("decode_s", 0.1, 600), ("max_wait_s", 0.05, 600),
            ("max_connections", 1, 100_000), ("rate", 0, 10_000_000), ("token_rate", 0, 10_000_000),
            ("max_connections_per_address", 1, 100_000), ("keep_alive_s", 1, 3600),
            ("keep_days", 1, 36500), ("feedback_hours", 0, 48), ("watch_s", 0, 86400), ("drain_s", 0, 600),
            ("database_connections", 1, 100),
        ):  # fmt: skip
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{name.replace('_', '-')} {value}: expected {low:,} to {high:,}")
        put(self, "root_path", self.root_path.rstrip("/"))
        if not _ROOT_PATH.fullmatch(self.root_path):
            raise ConfigError(
                f"root-path '{self.root_path}': expected a path such as /fruits, of plain letters and digits"
            )
        for host in self.allow_hosts:
            if not _HOST.fullmatch(host):
                raise ConfigError(f"host '{host}': expected a name without port, such as fruits.example.org or *")
        for origin in self.allow_origins:
            if not _ORIGIN.fullmatch(origin):
                raise ConfigError(f"origin '{origin}': expected such as https://www.example.org")
        for proxy in self.trusted_proxies:
            try:
                parsed_network(proxy)
            except ValueError as exc:
                raise ConfigError(f"proxy '{proxy}': expected an address or a network, such as 10.0.0.0/8") from exc
        if not self.is_loopback and not self.allow_hosts:
            raise ConfigError(
                f"host {self.host} can be reached from elsewhere; say by which names people will call the service: "
                "--allow-host fruits.example.org (or '*' for any)"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False
