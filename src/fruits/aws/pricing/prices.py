"""The table of AWS prices: dated, with sources, and updated from AWS's price list.

Estimates are computed in ``cost.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from fruits.aws.calls import Aws, AwsError
from fruits.errors import ConfigError

#: Regions that offer the pricing API, nearest first. Each of them has the prices of all regions.
_ORACLES: Final = ("eu-central-1", "us-east-1", "ap-south-1")


@dataclass(frozen=True, slots=True)
class Prices:
    """A price table.

    Attributes
    ----------
    region, date, note : str
        Region and date of the prices, and a note on them.
    table : mapping
        Name of a price -> its entry: ``usd``, ``what``, ``source`` and how to find it in AWS's price list.
    """

    region: str
    date: str
    note: str
    table: Mapping[str, Mapping[str, Any]]

    def __getitem__(self, name: str) -> float:
        return float(self.table[name]["usd"])

    def for_region(self, region: str) -> Prices:
        """Return the table for use in a region; if it is of another region, its note says so."""
        if region == self.region:
            return self
        how = f"'fruits aws cost --update-prices FILE --region {region}' asks for those"
        return replace(self, note=f"not those of {region}: {how}; {self.note}")

    def description(self, name: str) -> str:
        """Return the description of a price."""
        return str(self.table[name]["what"])

    def source(self, name: str) -> str:
        """Return the source of a price."""
        return str(self.table[name]["source"])


def load(path: str | None = None) -> Prices:
    """Return the price table of the package, or of a file.

    Raises
    ------
    ConfigError
        If the file is not a price table.
    """
    where = Path(path) if path else None
    try:
        text = where.read_text("utf-8") if where else (files("fruits.aws.pricing") / "prices.json").read_text("utf-8")
        values = json.loads(text)
        prices = Prices(values["region"], values["date"], values["note"], values["prices"])
        for name in prices.table:
            if not 0 <= prices[name] < 1e6 or not prices.description(name) or not prices.source(name):
                raise ValueError(f"{name} is {prices.table[name]['usd']}")
        if missing := (load().table.keys() - prices.table.keys() if where else set()):
            raise ValueError(f"{', '.join(sorted(missing))} missing")
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ConfigError(
            f"--prices '{path}' is no price table ({exc}); expected one made by 'fruits aws cost --update-prices FILE'"
        ) from exc
    return prices


def update(prices: Prices, aws_in: Callable[[str], Aws], region: str, *, now: datetime | None = None) -> dict[str, Any]:
    """Query AWS for every price of the table; return a new table, to be written as JSON.

    Parameters
    ----------
    prices : Prices
        Defines the entries to query.
    aws_in : callable
        Returns the :class:`Aws` of a region; only few regions offer the pricing API.
    region : str
        Region of the prices.

    Raises
    ------
    AwsError
        If a query fails, or gives no price or several prices for one entry.
    """
    day = f"{now or datetime.now(UTC):%Y-%m-%d}"
    aws = aws_in(next((oracle for oracle in _ORACLES if oracle == region), _ORACLES[0]))
    table = {}
    for name, entry in prices.table.items():
        wanted = {"regionCode": region, **entry["match"]}
        filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()]
        found = set()
        for page in aws.pages("pricing", "get_products", ServiceCode=entry["service"], Filters=filters):
            for text in page["PriceList"]:
                found |= set(_matching(json.loads(text) if isinstance(text, str) else text, entry["usage"]))
        if len(found) != 1:
            raise AwsError(
                f"price '{name}' ({entry['what']}) in {region}: AWS gives {sorted(found) or 'none'}, expected one; correct "
                "'service', 'usage' and 'match' of this entry in the table"
            )
        table[name] = {**entry, "usd": found.pop(), "source": f"AWS price list, {region}, {day}"}
    return {"region": region, "currency": "USD", "date": day, "note": "on demand, without taxes, free tiers and discounts",
            "prices": table}  # fmt: skip


def _matching(product: Mapping[str, Any], usage: str) -> Iterator[float]:
    """Yield the price of a product if its usage type matches, with or without the prefix of a region."""
    told = str(product["product"]["attributes"].get("usagetype", ""))
    if told != usage and not told.endswith(f"-{usage}"):
        return
    for offer in product.get("terms", {}).get("OnDemand", {}).values():
        # For tiered prices, use the first tier with a price above 0.
        tiers = sorted(offer["priceDimensions"].values(), key=lambda tier: float(tier.get("beginRange") or 0))
        usd = next(
            (float(tier["pricePerUnit"]["USD"]) for tier in tiers if float(tier["pricePerUnit"]["USD"]) > 0), 0.0
        )
        if usd > 0:
            yield usd
