"""Machines of AWS that a scaling study compares, with prices of a dated table.

Prices of the family m5 are proportional to its size, as is EMR's share up to m5.4xlarge.
"""

from __future__ import annotations

from typing import Final

from fruits.assessment.study.scaling.projection import Offer
from fruits.aws.pricing.cost import CLUSTER_IDLE_S, CLUSTER_START_S, IDLE_S, MONTH_HOURS, START_S
from fruits.aws.pricing.prices import Prices

#: Sizes of m5 as multiples of m5.xlarge, which has 4 vCPU.
_SIZES: Final = {"xlarge": 1, "2xlarge": 2, "4xlarge": 4, "8xlarge": 8, "12xlarge": 12, "24xlarge": 24}
_CORES: Final = 4
#: Sizes as nodes of EMR.
_NODES: Final = ("xlarge", "4xlarge")
#: Disk of a node, in GB.
_DISK_GB: Final = 128
#: A worker of EMR Serverless, and its driver: vCPU and GB.
_WORKER: Final = (4, 8)
_DRIVER: Final = (4, 16)
#: Largest cluster that is considered; quotas of an account are lower at first.
_MOST: Final = 1024


def offers(prices: Prices) -> list[Offer]:
    """Return single machines of EC2, clusters of EMR on EC2, and EMR Serverless."""
    disk = _DISK_GB * prices["ebs_gb_month"] / MONTH_HOURS
    single = [
        Offer(
            name=f"EC2 m5.{size}",
            kind="up",
            cores=_CORES * by,
            usd_hour=by * prices["m5_xlarge_hour"] + disk,
            start_s=START_S,
        )
        for size, by in _SIZES.items()
    ]
    node = prices["m5_xlarge_hour"] + prices["emr_m5_xlarge_hour"]
    clusters = [
        Offer(
            name=f"EMR m5.{size}", kind="out", cores=_CORES * _SIZES[size], usd_hour=_SIZES[size] * node + disk,
            beside_usd_hour=2 * (node + disk), start_s=CLUSTER_START_S, idle_s=CLUSTER_IDLE_S, most=_MOST,
        )
        for size in _NODES
    ]  # fmt: skip
    vcpu, gb = prices["serverless_vcpu_hour"], prices["serverless_gb_hour"]
    serverless = Offer(
        name="EMR Serverless, 4 vCPU", kind="out", cores=_WORKER[0], usd_hour=_WORKER[0] * vcpu + _WORKER[1] * gb,
        beside_usd_hour=_DRIVER[0] * vcpu + _DRIVER[1] * gb, start_s=START_S, idle_s=IDLE_S, most=_MOST,
    )  # fmt: skip
    return [*single, *clusters, serverless]
