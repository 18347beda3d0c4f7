"""The program behind :mod:`faults.s3_server`: OpenStack Swift, all four of its servers and its S3 face, in one process.

Swift keeps accounts and containers in SQLite and every object in a file of its own with its headers in extended attributes,
renamed into place, so it may be killed at any moment. It listens on the loopback interface only and has one user.

Started by path, never imported: importing Swift replaces half of the standard library by eventlet's.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import signal
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")  # eventlet announces its retirement with every import

import eventlet  # noqa: E402
from eventlet.semaphore import Semaphore  # noqa: E402
from eventlet.wsgi import server as serve  # noqa: E402
from swift.common import utils  # noqa: E402

HOST = "127.0.0.1"
#: In front of Swift's own proxy, outermost first. copy, bulk, slo and dlo are what multipart uploads and batch deletes need.
MIDDLEWARE = ("catch_errors", "gatekeeper", "listing_formats", "s3api", "tempauth", "copy", "bulk", "slo", "dlo")
#: A body of at most so many bytes is taken in whole before its key is locked: a stalled client must not hold up the others.
TAKEN_IN_BYTES = 64 << 20


class Remembered:
    """What Swift wants of memcached, as far as it uses it here; nobody else serves this folder, so it is never stale."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[float, str]] = {}

    def get(self, key: str, **_: Any) -> Any:
        until, value = self._kept.get(key, (0.0, "null"))
        return json.loads(value) if until > _now() else None

    def set(self, key: str, value: Any, time: int = 0, **_: Any) -> None:
        self._kept[key] = (_now() + (time or 600), json.dumps(value))

    def delete(self, key: str, **_: Any) -> None:
        self._kept.pop(key, None)


def _now() -> float:
    return time.monotonic()


class OneWriteAtATime:
    """Lets writes to one object wait for each other.

    Swift looks whether there is an object (``If-None-Match: *``) when a write begins and puts the new one in place when it
    ends; between the two another writer may do the same. AWS promises that exactly one succeeds, and so does this.
    """

    def __init__(self, app: Any, *, enabled: bool) -> None:
        self._app = app
        self._enabled = enabled
        self._memory = Remembered()
        self._busy: defaultdict[str, Semaphore] = defaultdict(Semaphore)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ["swift.cache"] = self._memory
        path = environ["PATH_INFO"]
        names_an_object = path.count("/") > 1 and not path.endswith("/")
        writes = environ["REQUEST_METHOD"] in {"PUT", "DELETE"} or "uploadId=" in environ.get("QUERY_STRING", "")
        # Parts of a multipart upload are objects of their own names; only its completion touches the key.
        if not (self._enabled and names_an_object and writes) or "partNumber=" in environ.get("QUERY_STRING", ""):
            return self._app(environ, start_response)
        size = int(environ.get("CONTENT_LENGTH") or 0)
        if 0 < size <= TAKEN_IN_BYTES:
            environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(size))
        with self._busy[path]:
            answer = self._app(environ, start_response)
            try:
                return [b"".join(answer)]  # the write is over only when the answer has been read
            finally:
                getattr(answer, "close", lambda: None)()


def configuration(kind: str, folder: Path, user: str, secret: str) -> str:
    """Return the configuration of one of the four servers, as paste.deploy reads it."""
    account, name = user.split(":")
    filters = MIDDLEWARE if kind == "proxy" else ()
    options = {
        # A tenth of S3's page: few keys show what happens beyond the first.
        "s3api": "location = us-east-1\nmax_upload_part_num = 10000\nmax_bucket_listing = 100",
        "tempauth": f"user_{account}_{name} = {secret} .admin",
        "slo": "max_manifest_segments = 10000\nrate_limit_after_segment = 10000",
    }
    sections = [
        f"""
        [DEFAULT]
        swift_dir = {folder / "etc"}
        devices = {folder / "disks"}
        recon_cache_path = {folder}
        mount_check = false
        disable_fallocate = true
        fallocate_reserve = 0
        log_level = WARNING
        log_custom_handlers = __main__.log_to_file

        # Everything is in this process: a slow machine must not make one server give another up.
        conn_timeout = 30
        node_timeout = 120
        container_update_timeout = 120
        error_suppression_limit = 1000000000

        [pipeline:main]
        pipeline = {" ".join([*filters, f"{kind}-server"])}

        [app:{kind}-server]
        use = egg:swift#{kind}
        account_autocreate = true
        """
    ]
    sections += [f"[filter:{each}]\nuse = egg:swift#{each}\n{options.get(each, '')}\n" for each in filters]
    return "\n".join(line.strip() for section in sections for line in section.splitlines()) + "\n"


def log_to_file(
    conf: dict[str, str], name: str, console: bool, route: str, form: str, logger: Any, adapted: Any
) -> None:
    """Write Swift's log into the folder instead of the system's log; Swift calls this by its name."""
    del name, console, route, form, adapted
    handler = logging.FileHandler(Path(conf["recon_cache_path"]) / "server.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.handlers[:] = [handler]


def main() -> None:
    """Serve until a signal comes or the parent is gone."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--user", required=True, help="account:name, which is also the access key")
    arguments.add_argument("--secret", required=True)
    arguments.add_argument("--native-races", action="store_true", help="leave put-if-absent as racy as Swift has it")
    choices = arguments.parse_args()
    parent = os.getppid()
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _: stopping.append(got))

    folder = choices.folder.resolve()
    for made in (folder / "etc", folder / "disks" / "one"):
        made.mkdir(parents=True, exist_ok=True)
    (folder / "etc" / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = fruits\n")
    utils.monkey_patch()
    utils.set_swift_dir(str(folder / "etc"))  # before the imports below, which read it
    from swift.common.ring.ring import RingData  # noqa: PLC0415
    from swift.common.wsgi import ConfigString, RestrictedGreenPool, SwiftHttpProtocol, loadapp  # noqa: PLC0415

    # Killed processes lose nothing without it, and these are tests of no power failure.
    os.fsync = os.fdatasync = lambda _fd: None

    def start(kind: str, port: int) -> int:
        listener = eventlet.listen((HOST, port), backlog=2048)
        app = loadapp(ConfigString(configuration(kind, folder, choices.user, choices.secret)))
        if kind == "proxy":
            app = OneWriteAtATime(app, enabled=not choices.native_races)
        eventlet.spawn(
            serve, listener, app, utils.NullLogger(), protocol=SwiftHttpProtocol, socket_timeout=120,
            custom_pool=RestrictedGreenPool(size=2048), capitalize_response_headers=False,
        )  # fmt: skip
        return int(listener.getsockname()[1])

    for kind in ("account", "container", "object"):
        device = {"id": 0, "region": 1, "zone": 1, "weight": 1.0, "device": "one", "meta": "", "ip": HOST}
        port = start(kind, 0)
        ring = RingData([[0]], [{**device, "port": port, "replication_ip": HOST, "replication_port": port}], 32)
        ring.save(str(folder / "etc" / f"{kind}.ring.gz"))
    start("proxy", choices.port)  # the last: it reads the rings of the others
    eventlet.sleep(0)
    print("ready", flush=True)
    sys.stdout.close()
    while not stopping and os.getppid() == parent:
        eventlet.sleep(0.1)
    os._exit(0)  # Swift may be killed at any moment, so no farewells


if __name__ == "__main__":
    main()
