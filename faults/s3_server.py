"""An S3-compatible object store for tests: real HTTP, real signatures, atomic put-if-absent, on the loopback interface only.

    with S3Server(folder) as server:
        server.make_bucket("photos")
        subprocess.run(["fruits", "run", "s3://photos", ...], env=os.environ | server.environment())

OpenStack Swift with its S3 interface (package ``swift``, wheels only, no root) in a process of its own. Data survives
``kill()``, which is SIGKILL, and ``restart()``, and the same folder can be served again later. The server ends when the
process that started it does. ``native_races`` is the control: put-if-absent is then checked, but not atomic.

By hand: ``python -m faults.s3_server FOLDER`` serves until Ctrl-C and prints the variables to set.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from types import TracebackType

REGION = "us-east-1"
_USER, _SECRET = "fruits:tests", "not-a-secret"
_PROGRAM = Path(__file__).with_name("swift_process.py")
#: What would make a client look for other credentials or another place than the ones given here.
FOREIGN = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ROLE_ARN",
           "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_BUCKET", "AWS_BUCKET_NAME",
           "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy")  # fmt: skip


class ServerError(RuntimeError):
    """The server did not start, or refused what the tests need."""


def why_not(folder: Path) -> str | None:
    """Return why no server can run on this machine, with what to do about it; None if one can."""
    if importlib.util.find_spec("swift") is None:
        return "no S3 server: swift is not installed; run: pip install -e '.[dev]'"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        try:
            os.setxattr(file.name, "user.fruits", b"yes")
        except (OSError, AttributeError):
            return (
                "no S3 server: the temporary folder keeps no extended attributes; "
                "set TMPDIR to a folder on ext4, xfs or btrfs (tmpfs from Linux 6.6 on)"
            )
    return None


class S3Server:
    """A server on a folder, started by ``start`` or ``with``.

    Parameters
    ----------
    folder : Path
        Where it keeps everything, its log (``server.log``) too; made if absent.
    native_races : bool
        Leave put-if-absent as racy as Swift has it.
    """

    def __init__(self, folder: Path, *, native_races: bool = False) -> None:
        self.folder = folder
        self.native_races = native_races
        self.port = free_port()
        self._process: subprocess.Popen[str] | None = None

    @property
    def endpoint(self) -> str:
        """URL for clients; path-style."""
        return f"http://127.0.0.1:{self.port}"

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """Return the variables that lead S3 clients here, or to a proxy before it at ``endpoint``."""
        return {
            "AWS_ACCESS_KEY_ID": _USER,
            "AWS_SECRET_ACCESS_KEY": _SECRET,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": "127.0.0.1",
        }

    def start(self) -> S3Server:
        """Start and wait until requests are answered; the same port every time."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-P", str(_PROGRAM), str(self.folder), "--port", str(self.port)]
        command += ["--user", _USER, "--secret", _SECRET, *(["--native-races"] if self.native_races else [])]
        with (self.folder / "start.log").open("a") as errors:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, text=True,
                start_new_session=True,  # Ctrl-C at the tests, and kills of whole sessions, are not meant for it
            )  # fmt: skip
        assert self._process.stdout is not None
        with self._process.stdout as said:
            if said.readline().strip() != "ready":
                self._process.wait()
                last = (self.folder / "start.log").read_text().strip().splitlines()[-1:]
                raise ServerError(f"the S3 server did not start: {' '.join(last) or 'no reason given'}")
        return self

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the server; data stays."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def kill(self) -> None:
        """End the server as a crash does."""
        self.stop(signal.SIGKILL)

    def restart(self) -> None:
        """Start again on the same folder and port."""
        self.kill()
        self.start()

    def make_bucket(self, name: str) -> str:
        """Make a bucket; return its ``s3://`` address. Swift's own interface: clients of fruits make no buckets."""
        who = urllib.request.Request(
            f"{self.endpoint}/auth/v1.0", headers={"X-Auth-User": _USER, "X-Auth-Key": _SECRET}
        )
        with urllib.request.urlopen(who, timeout=60) as answer:
            token, account = answer.headers["X-Auth-Token"], answer.headers["X-Storage-Url"]
        make = urllib.request.Request(f"{account}/{name}", method="PUT", headers={"X-Auth-Token": token})
        with urllib.request.urlopen(make, timeout=60):
            return f"s3://{name}"

    def __enter__(self) -> S3Server:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def main() -> None:
    """Serve a folder by hand."""
    arguments = argparse.ArgumentParser(prog="python -m faults.s3_server")
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--bucket", action="append", default=[], help="make this bucket")
    arguments.add_argument("--native-races", action="store_true", help="put-if-absent that is not atomic")
    choices = arguments.parse_args()
    if reason := why_not(choices.folder):
        sys.exit(reason)
    with S3Server(choices.folder, native_races=choices.native_races) as server, suppress(KeyboardInterrupt):
        for name in choices.bucket:
            server.make_bucket(name)
        for name, value in server.environment().items():
            print(f"export {name}={shlex.quote(value)}")
        sys.stdout.flush()
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
