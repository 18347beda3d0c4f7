"""Quotas of concurrent vCPUs: read before anything is created or started, and stacks and runs are fitted to them.

A new account has few: 16 vCPUs of EMR Serverless, some of EC2 and Fargate. AWS creates a stack that needs more and refuses its
work later, minutes into a run. A quota that cannot be read is reported, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from fruits.aws.calls import Aws, AwsError, Call
from fruits.aws.installation.stacks import effective
from fruits.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Quota:
    """A quota by its codes in Service Quotas; a test compares them with those that the owner's role may read."""

    service: str
    code: str
    name: str

    @property
    def call(self) -> Call:
        """Return the call that reads it."""
        return Call(
            "service-quotas", "get_service_quota", {"ServiceCode": self.service, "QuotaCode": self.code},
            f"how many vCPUs may there be: {self.name}",
        )  # fmt: skip


SERVERLESS: Final = Quota("emr-serverless", "L-D05C8A75", "Max concurrent vCPUs per account")
MACHINES: Final = Quota("ec2", "L-1216C47A", "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances")
SPOT: Final = Quota("ec2", "L-34B43A08", "All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests")
FARGATE: Final = Quota("fargate", "L-3032A538", "Fargate On-Demand vCPU resource count")
#: Minimum for a run: a driver and an executor of 4 vCPUs each.
_LEAST_CORES: Final = 8
#: Memory per vCPU in the template's limits: 120 GB for 24 vCPUs.
_GB_PER_CORE: Final = 5


def read(aws: Aws, quota: Quota, note: Callable[[str], None]) -> int | None:
    """Return the vCPUs that a quota allows; if it cannot be read, report that and return None."""
    try:
        return int(aws.make(quota.call)["Quota"]["Value"])
    except (AwsError, KeyError, TypeError) as exc:
        note(
            f"the quota {quota.service} {quota.code} ({quota.name}) cannot be read ({exc}); if it is too small, work is refused"
        )
        return None


def planned(which: str, values: Mapping[str, str]) -> list[Call]:
    """Return the calls of :func:`fitted`."""
    return [quota.call for quota in _concerned(which, values)]


def fitted(
    aws: Aws, which: str, given: Mapping[str, str], before: Mapping[str, str] | None, note: Callable[[str], None]
) -> dict[str, str]:
    """Return parameters that make a stack fit the account's quotas; given parameters are never changed.

    Parameters
    ----------
    aws : Aws
    which : str
        Template.
    given, before : mapping
        Parameters given by the caller, and those of the existing stack, if any.
    note : callable
        Called with a message for each changed parameter and each quota that cannot be read.

    Raises
    ------
    ConfigError
        If the request, or the minimum that works, exceeds a quota; names the quota to raise.
    """
    values = effective(which, given, before)
    allowed = {quota: read(aws, quota, note) for quota in _concerned(which, values)}
    made: dict[str, str] = {}
    for quota, cores in allowed.items():
        if cores is None:
            continue
        if quota is SERVERLESS:
            made |= _serverless(values, given, cores, note)
        elif quota is FARGATE:
            made |= _tasks(values, given, cores, note)
        else:
            _machines(values, quota, cores, note)
    return made


def of_run(compute: str) -> list[Call]:
    """Return the calls that a run makes."""
    return [SERVERLESS.call] if compute == "serverless" else []


def run_cores(aws: Aws, cores: int, note: Callable[[str], None]) -> int:
    """Return the vCPUs that a serverless run may use: those of the application, within the quota.

    Raises
    ------
    ConfigError
        If the quota is too small for any run.
    """
    allowed = read(aws, SERVERLESS, note)
    if allowed is None or allowed >= cores:
        return cores
    if allowed < _LEAST_CORES:
        raise _too_small(SERVERLESS, allowed, _LEAST_CORES, "a run")
    note(
        f"the account may have {allowed} vCPUs at once, fewer than the application's {cores}: {_raise(SERVERLESS, cores)}"
    )
    return allowed


def _concerned(which: str, values: Mapping[str, str]) -> list[Quota]:
    if which == "batch" and values["Compute"] == "ec2":
        return [MACHINES, SPOT] if values["Spot"] == "yes" else [MACHINES]
    return {"batch": [SERVERLESS], "service": [FARGATE]}.get(which, [])


def _serverless(
    values: Mapping[str, str], given: Mapping[str, str], allowed: int, note: Callable[[str], None]
) -> dict[str, str]:
    wanted = int(values["MaxCpu"].split()[0])
    if allowed < _LEAST_CORES:
        raise _too_small(SERVERLESS, allowed, _LEAST_CORES, "a run")
    if wanted <= allowed:
        return {}
    if "MaxCpu" in given:
        raise _too_small(SERVERLESS, allowed, wanted, f"batch.MaxCpu={wanted} vCPU")
    cores = allowed // 4 * 4
    note(
        f"batch.MaxCpu is {cores} vCPU instead of {wanted}, as the account may have no more: {_raise(SERVERLESS, wanted)}"
    )
    made = {"MaxCpu": f"{cores} vCPU"}
    if "MaxMemory" not in given:
        made["MaxMemory"] = f"{min(_GB_PER_CORE * cores, int(values['MaxMemory'].split()[0]))} GB"
    return made


def _machines(values: Mapping[str, str], quota: Quota, allowed: int, note: Callable[[str], None]) -> None:
    cores = max(_cores_of(values["InstanceType"]), _cores_of(values["SecondInstanceType"]))
    spot, nodes = values["Spot"] == "yes", int(values["CoreNodes"])
    alone = 1 if quota is MACHINES else 0
    needed = cores * (alone + (0 if spot and quota is MACHINES else nodes))
    if needed > allowed:
        raise _too_small(quota, allowed, needed, f"a cluster of 1 + {nodes} {values['InstanceType']}")
    most = cores * (alone + (0 if spot and quota is MACHINES else int(values["MaxCoreNodes"])))
    if most > allowed:
        note(f"the cluster may not grow to batch.MaxCoreNodes={values['MaxCoreNodes']}: {_raise(quota, most)}")


def _tasks(
    values: Mapping[str, str], given: Mapping[str, str], allowed: int, note: Callable[[str], None]
) -> dict[str, str]:
    # During a deployment, twice as many tasks run.
    each, least, most = int(values["Cpu"]) / 1024, int(values["MinTasks"]), int(values["MaxTasks"])
    if 2 * each * least > allowed:
        raise _too_small(
            FARGATE, allowed, int(2 * each * least), f"{least} tasks of {each:g} vCPU, twice while they are replaced"
        )
    if 2 * each * most <= allowed:
        return {}
    if "MaxTasks" in given:
        raise _too_small(
            FARGATE, allowed, int(2 * each * most), f"service.MaxTasks={most}, twice while they are replaced"
        )
    fits = int(allowed // (2 * each))
    note(
        f"service.MaxTasks is {fits} instead of {most}, as the account may have no more: {_raise(FARGATE, int(2 * each * most))}"
    )
    return {"MaxTasks": str(fits)}


def _cores_of(kind: str) -> int:
    """Return the vCPUs of an EC2 instance type by its suffix: large has 2, xlarge 4, 2xlarge 8 and so on."""
    size = kind.partition(".")[2]
    times = re.fullmatch(r"([0-9]*)xlarge", size)
    return 4 * int(times[1] or 1) if times else 2


def _too_small(quota: Quota, allowed: int, needed: int, what: str) -> ConfigError:
    return ConfigError(
        f"{what} needs {needed} vCPUs at once and the account may have {allowed}; {_raise(quota, needed)}, or ask for less"
    )


def _raise(quota: Quota, wanted: int) -> str:
    return (
        f"to raise it ({quota.name}): aws service-quotas request-service-quota-increase --service-code {quota.service} "
        f"--quota-code {quota.code} --desired-value {wanted}"
    )
