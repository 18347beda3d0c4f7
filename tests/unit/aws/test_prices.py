"""A new price table is what AWS says, or none: asked over HTTP with the real boto3, of a server that answers as documented."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from fruits.aws.calls import Aws, AwsError
from fruits.aws.pricing import prices

TABLE = prices.load()


class Oracle(BaseHTTPRequestHandler):
    """Answers GetProducts: twice the price of our table for what matches, and things that only look alike."""

    asked: list[dict[str, Any]] = []  # noqa: RUF012 - of all handlers
    extra: list[dict[str, Any]] = []  # noqa: RUF012

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(request)
        found = [entry for entry in TABLE.table.values() if entry["service"] == request["ServiceCode"]]
        listed = [product(f"EU-{entry['usage']}", entry["usd"] * 2) for entry in found]
        listed += [product(f"EU-{entry['usage']}-Bulk", 1e9) for entry in found] + self.extra
        body = json.dumps({"FormatVersion": "aws_v1", "PriceList": [json.dumps(one) for one in listed]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def product(usage: str, usd: float) -> dict[str, Any]:
    tiers = {
        "free": {"beginRange": "0", "endRange": "1", "unit": "x", "pricePerUnit": {"USD": "0.0000000000"}},
        "first": {"beginRange": "1", "endRange": "51200", "unit": "x", "pricePerUnit": {"USD": f"{usd:.10f}"}},
        "second": {"beginRange": "51200", "endRange": "Inf", "unit": "x", "pricePerUnit": {"USD": f"{usd / 2:.10f}"}},
    }
    return {"product": {"sku": "X", "attributes": {"usagetype": usage}},
            "terms": {"OnDemand": {"X.Y": {"priceDimensions": tiers}}, "Reserved": {}}}  # fmt: skip


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Oracle]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Oracle)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_PRICING", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    Oracle.asked, Oracle.extra = [], []
    yield Oracle
    server.shutdown()
    thread.join()
    server.server_close()


def test_new_table_has_the_first_price_that_is_not_free_of_the_exact_usage(oracle: type[Oracle]) -> None:
    made = prices.update(TABLE, Aws, "eu-west-3")
    assert made["prices"].keys() == TABLE.table.keys()
    for name, entry in made["prices"].items():
        assert entry["usd"] == pytest.approx(2 * TABLE[name])
        assert entry["source"].startswith("AWS price list, eu-west-3, 20")
    asked = [{one["Field"]: one["Value"] for one in request["Filters"]} for request in oracle.asked]
    assert all(one["regionCode"] == "eu-west-3" for one in asked)


def test_two_prices_for_one_entry_are_not_guessed_at(oracle: type[Oracle]) -> None:
    oracle.extra = [product("EU-EMR-SERVERLESS-vCPUHours", 0.7)]
    with pytest.raises(AwsError, match="expected one; correct"):
        prices.update(TABLE, Aws, "eu-west-1")
