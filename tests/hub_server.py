"""A stand-in for a Hugging Face hub on this machine: models with revisions, as ``huggingface_hub`` asks for them."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


class HubServer:
    """Repositories in memory, by name; every request is written down."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.card_data: dict[str, dict[str, Any]] = {}
        self.announced: dict[str, str] = {}
        self.asked: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def commit(self, repository: str) -> str:
        """The revision of what a repository holds now."""
        digest = hashlib.sha1(usedforsecurity=False)
        for name, data in sorted(self.repositories[repository].items()):
            digest.update(name.encode() + data)
        return digest.hexdigest()

    def about(self, repository: str) -> dict[str, Any]:
        siblings = []
        for name, data in self.repositories[repository].items():
            one: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
            if name.endswith((".onnx", ".onnx_data")):
                sha256 = self.announced.get(name, hashlib.sha256(data).hexdigest())
                one["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 134}
            siblings.append(one)
        return {
            "id": repository, "modelId": repository, "sha": self.commit(repository), "private": False, "disabled": False,
            "gated": False, "downloads": 0, "likes": 0, "tags": [], "siblings": siblings,
            "cardData": self.card_data.get(repository, {}),
        }  # fmt: skip

    def _handler(hub) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path = unquote(urlsplit(self.path).path)
                hub.asked.append(f"{self.command} {path}")
                parts = path.strip("/").split("/")
                if parts[:2] == ["api", "models"]:
                    repository, revision = "/".join(parts[2:4]), "/".join(parts[5:])
                    if repository not in hub.repositories or revision not in ("", "main", hub.commit(repository)):
                        return self.answer(404, b'{"error": "not found"}', {"X-Error-Code": "RepoNotFound"})
                    return self.answer(200, json.dumps(hub.about(repository)).encode(), {})
                repository, name = "/".join(parts[:2]), "/".join(parts[4:])
                data = hub.repositories.get(repository, {}).get(name)
                if data is None or parts[3] not in ("main", hub.commit(repository)):
                    return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
                about = {"X-Repo-Commit": hub.commit(repository), "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
                return self.answer(200, data, about)

            def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json" if body[:1] == b"{" else "application/octet-stream")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

        return Handler
