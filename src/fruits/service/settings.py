"""Configuration of a service: one frozen object, validated when it is made."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fruits.config import choice
from fruits.errors import ConfigError
from fruits.monitoring.cores import usable_cores
from fruits.service.http.limits.rate_limits import parsed_network
from fruits.storage.sanitising import clean_line

#: Host names of this machine itself; always accepted.
LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")
_PER_ADDRESS: Final = 100
_HOST: Final = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:.]+\]|\*")
_ROOT_PATH: Final = re.compile(r"(/[A-Za-z0-9._~-]*[A-Za-z0-9_~-])*")
_ORIGIN: Final = re.compile(r"https?://[a-z0-9.\-]+(:\d{1,5})?|https?://\[[0-9a-f:.]+\](:\d{1,5})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageLocations:
    """Where a service stores its data; empty strings if unknown.

    Attributes
    ----------
    data, database, photos : str
        As in :class:`ServiceConfig`.
    """

    data: str
    database: str
    photos: str

    @classmethod
    def of(cls, out: str, *, data: str = "", database: str = "", photos: str = "") -> StorageLocations:
        """Fill in the defaults of ``fruits serve`` for every place that is not given."""
        from fruits.storage.objects import is_remote  # noqa: PLC0415 - keeps 'fruits --help' quick

        if out and not data:
            data = "fruits-service" if is_remote(out) else str(_beside(out))
        return cls(
            data=data,
            database=database or (f"sqlite:///{data}/service.db" if data else ""),
            photos=photos or (f"{data}/photos" if data else ""),
        )


def _beside(out: str) -> Path:
    """Return a folder beside OUT, since OUT gets copied."""
    folder = Path(os.path.abspath(out))  # noqa: PTH100 - keep links: their targets may change
    if folder.name == "bundle":  # within results
        folder = folder.parent
    if folder.parent.name == "runs":  # one run of several
        folder = folder.parent.parent
    return folder.parent / f"{folder.name or 'fruits'}-service"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """Options of one ``fruits serve``; each field made by :func:`fruits.config.choice` is an option of the same name.

    Parameters
    ----------
    out : str
        Results of a run, or a bundle.

    Raises
    ------
    ConfigError
        If a value is invalid.
    """

    out: str
    host: str = choice("127.0.0.1", "Address to listen on; 0.0.0.0 for all.", metavar="ADDRESS")
    port: int = choice(8080, "Port to listen on; 0 takes a free one.")
    data: str = choice(
        "",
        "Folder for the database and stored photos; default: OUT-service, beside OUT; fruits-service without OUT.",
        metavar="FOLDER",
    )
    database: str = choice(
        "",
        "sqlite:///FILE or postgresql://...; default: service.db in the data folder.",
        metavar="URL",
        envvar="FRUITS_DATABASE",
    )
    photos: str = choice(
        "", "Folder or s3://bucket/prefix for stored photos; default: photos in the data folder.", metavar="FOLDER"
    )
    # Works whether or not the proxy strips the path.
    root_path: str = choice("", "Path under which a proxy shows the service, such as /fruits.", metavar="PATH")
    allow_host: tuple[str, ...] = choice(
        (), "Host name of the service, *.example.org or *; may be repeated.", metavar="NAME"
    )
    allow_origin: tuple[str, ...] = choice(
        (), "Site whose pages may call the API, https://...; may be repeated.", metavar="ORIGIN"
    )
    trusted_proxy: tuple[str, ...] = choice(
        (),
        "Reverse proxy (address or network) whose X-Forwarded-For is trusted; may be repeated.",
        metavar="ADDRESS",
    )
    workers: int = choice(0, "Photos decoded and recognised in parallel; 0: one per core.")
    processes: int = choice(
        0,
        "Processes that answer on the port; they share the workers. 0: as many as pay, one per core for small networks.",
    )
    batch: int = choice(8, "Maximum photos of different requests in one batch.")
    max_bytes: int = choice(10_000_000, "Maximum bytes of a request.")
    max_photos: int = choice(8, "Maximum photos in a request.")
    max_fields: int = choice(8, "Maximum other fields in a request.")
    max_pixels: int = choice(50_000_000, "Maximum pixels of a photo, by its header.")
    max_frames: int = choice(100, "Maximum frames of an animation; only the first is recognised.")
    max_connections: int = choice(1000, "Maximum open connections.")
    max_connections_per_address: int = choice(
        0, "Maximum open connections per address (IPv6: /64); 0: 100, or half of the total if less."
    )
    max_wait: float = choice(2.0, "Seconds to wait in the queue; requests that would wait longer get 503.")
    # Also the time after which a stalled response is aborted.
    send_timeout: float = choice(20.0, "Seconds for a client to send a request, or to read part of a response.")
    # If it is shorter than a load balancer's, the balancer may send a request over a closing connection and answer 502.
    keep_alive: float = choice(75.0, "Seconds a connection may be idle; set it above a load balancer's idle timeout.")
    decode_timeout: float = choice(5.0, "Maximum seconds of processor time to decode a photo.")
    rate: int = choice(60, "Requests per minute and address; 0: no limit.")
    token_rate: int = choice(600, "Requests per minute and token, unless the token has its own rate; 0: no limit.")
    tokens_only: bool = choice(False, "Require a token for the API.")
    public_metrics: bool = choice(False, "Allow reading /metrics without a token.")
    keep_days: int = choice(90, "Days after which stored photos and answers are deleted.")
    feedback_hours: int = choice(
        6, "Hours into the next day (UTC) for which photos that are not stored accept feedback.", least=0
    )
    operator: str = choice("", "Operator of the service; shown on the page.", metavar="NAME")
    contact: str = choice("", "Contact of the operator; shown on the page.", metavar="TEXT")
    adopt: bool = choice(
        False,
        "Assign the stored photos to this database, whatever the store says; photos without a submission are quarantined "
        "for a week, then deleted.",
    )
    database_connections: int = choice(4, "Maximum connections to PostgreSQL.")
    watch: float = choice(10.0, "Seconds between checks for a new bundle; 0: only on SIGHUP.")
    drain: float = choice(0.5, "Seconds for which a stopping service answers 503, so that load balancers notice.")

    def __post_init__(self) -> None:
        if not self.out:
            raise ConfigError("nothing to serve; expected the results of 'fruits run', or a bundle")
        from fruits.storage.objects import is_remote  # noqa: PLC0415

        if is_remote(self.data):
            raise ConfigError(
                f"data '{self.data}' is in a bucket; expected a folder: only photos may be there (--photos)"
            )
        put = object.__setattr__  # frozen, but defaults are filled in once
        places = StorageLocations.of(self.out, data=self.data, database=self.database, photos=self.photos)
        for name in ("data", "database", "photos"):
            put(self, name, getattr(places, name))
        put(self, "workers", self.workers or usable_cores())
        for name in ("operator", "contact"):
            put(self, name, clean_line(getattr(self, name), 200))
        per_address = self.max_connections_per_address or min(_PER_ADDRESS, max(1, self.max_connections // 2))
        put(self, "max_connections_per_address", per_address)
        put(self, "allow_host", tuple(host.lower() for host in self.allow_host))
        put(self, "allow_origin", tuple(origin.lower().rstrip("/") for origin in self.allow_origin))
        for name, low, high in (
            ("port", 0, 65535), ("workers", 1, 256), ("processes", 0, 64), ("batch", 1, 64), ("max_bytes", 1_000, 1 << 30),
            ("max_photos", 1, 64), ("max_fields", 1, 100), ("max_pixels", 10_000, 100_000_000),
            ("max_frames", 1, 1_000_000), ("send_timeout", 0.1, 3600), ("decode_timeout", 0.1, 600), ("max_wait", 0.05, 600),
            ("max_connections", 1, 100_000), ("rate", 0, 10_000_000), ("token_rate", 0, 10_000_000),
            ("max_connections_per_address", 1, 100_000), ("keep_alive", 1, 3600),
            ("keep_days", 1, 36500), ("feedback_hours", 0, 48), ("watch", 0, 86400), ("drain", 0, 600),
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
        for host in self.allow_host:
            if not _HOST.fullmatch(host):
                raise ConfigError(f"host '{host}': expected a name without port, such as fruits.example.org or *")
        for origin in self.allow_origin:
            if not _ORIGIN.fullmatch(origin):
                raise ConfigError(f"origin '{origin}': expected such as https://www.example.org")
        for proxy in self.trusted_proxy:
            try:
                parsed_network(proxy)
            except ValueError as exc:
                raise ConfigError(f"proxy '{proxy}': expected an address or a network, such as 10.0.0.0/8") from exc
        if not self.is_loopback and not self.allow_host:
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
