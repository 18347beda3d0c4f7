"""The stacks of an installation: made, changed, looked at and deleted, in the order in which they need each other.

A stack is one template of the package, named ``<name>-<template>``. What each holds is written in the templates; this knows
only their parameters and outputs.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from fruits.aws import cloudformation
from fruits.aws.calls import Aws, AwsAbsentError, AwsError, Call
from fruits.errors import ConfigError
from fruits.measure import Progress, Silent

#: Each may need those before it.
ORDER: Final = ("storage", "roles", "batch", "service", "budget")
#: What ``deploy`` makes unless it is told otherwise. The service costs money while nobody uses it.
USUAL: Final = ("storage", "roles", "batch", "budget")
_POLL_S: Final = 5.0
_CHANGING: Final = ("_IN_PROGRESS",)
_GOOD: Final = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE")
_UNFINISHED: Final = ("SUBMITTED", "PENDING", "SCHEDULED", "RUNNING", "CANCELLING", "QUEUED")
_UNFINISHED_STEPS: Final = ("PENDING", "CANCEL_PENDING", "RUNNING")
#: Parameters that ``deploy`` finds out by itself: of AWS, and of the stack that makes what runs.
_LOOKED_UP: Final = {"batch": "S3PrefixListId", "service": "S3PrefixListId"}
_FROM_BATCH: Final = ("ApplicationId", "ClusterId")


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack as AWS has it."""

    name: str
    state: str
    outputs: Mapping[str, str]
    parameters: Mapping[str, str]
    reason: str


def template(which: str) -> str:
    """Return the text of a template."""
    return (files("fruits.aws") / "templates" / f"{which}.yaml").read_text("utf-8")


def find(aws: Aws, name: str, which: str) -> Stack | None:
    """Return a stack of an installation, or None if there is none."""
    try:
        [found] = aws.call("cloudformation", "describe_stacks", StackName=f"{name}-{which}")["Stacks"]
    except AwsAbsentError:
        return None
    return Stack(
        f"{name}-{which}",
        found["StackStatus"],
        {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", ())},
        {one["ParameterKey"]: one.get("ParameterValue", "") for one in found.get("Parameters", ())},
        found.get("StackStatusReason", ""),
    )


def planned(name: str, stacks: Sequence[str], parameters: Mapping[str, Mapping[str, str]], region: str) -> list[Call]:
    """Return the calls that make an installation where there is none; see :func:`deploy`."""
    calls = []
    for which in in_order(stacks):
        given = dict(parameters.get(which, {}))
        if which in _LOOKED_UP and _LOOKED_UP[which] not in given:
            calls.append(_prefix_list(region))
            given[_LOOKED_UP[which]] = "<its PrefixListId>"
        for key in must_be_given(which):
            given.setdefault(key, f"<give it: --set {which}.{key}=...>")
        if which == "batch" and given.get("Compute") == "ec2":
            calls.append(_BLOCK_PUBLIC_ACCESS)
        if which == "budget" and "batch" in stacks:
            made = "ClusterId" if parameters.get("batch", {}).get("Compute") == "ec2" else "ApplicationId"
            given.setdefault(made, f"<{made}>")
        calls.append(
            Call("cloudformation", "create_stack", {
                **_request(name, which, given, ()), "TemplateBody": f"<template {which}>",
            }, f"make stack {name}-{which}; wait until it is complete")
        )  # fmt: skip
    return calls


def deploy(
    aws: Aws,
    name: str,
    stacks: Sequence[str],
    parameters: Mapping[str, Mapping[str, str]],
    *,
    progress: Progress | None = None,
    poll_s: float = _POLL_S,
) -> list[Stack]:
    """Make the stacks of an installation, or change those that are there; wait for each.

    Parameters
    ----------
    aws : Aws
    name : str
        Of the installation.
    stacks : sequence of str
        Templates, in any order.
    parameters : mapping
        Template to its parameters. Those of a stack that is there keep their value unless they are given.
    progress : Progress, optional
    poll_s : float
        Seconds between two looks.

    Raises
    ------
    AwsError
        If a stack cannot be made; with the reason that CloudFormation gives. Stacks before it stay.
    """
    progress = progress or Silent()
    done = []
    for which in in_order(stacks):
        progress.start(f"{name}-{which}", None)
        given = dict(parameters.get(which, {}))
        before = find(aws, name, which)
        if before and before.state.endswith(_CHANGING):
            before = _settled(aws, name, which, poll_s)
        if before and before.state not in _GOOD:
            raise AwsError(
                f"stack {before.name} is {before.state} {before.reason}; CloudFormation changes no such stack: delete it with "
                f"'fruits aws delete --stack {which}', then deploy again"
            )
        asked = _LOOKED_UP.get(which)
        if asked and asked not in given and not (before and asked in before.parameters):
            given[asked] = _looked_up(aws)
        if which == "batch" and given.get("Compute") == "ec2":
            aws.make(_BLOCK_PUBLIC_ACCESS)
        if which == "budget" and (batch := find(aws, name, "batch")):
            for key in _FROM_BATCH:
                given.setdefault(key, batch.outputs.get(key, ""))
        request = _request(name, which, given, before.parameters if before else ())
        if before is None:
            aws.call("cloudformation", "create_stack", **request)
        else:
            try:
                aws.call("cloudformation", "update_stack", **request)
            except AwsError as exc:
                if "No updates are to be performed" not in str(exc):
                    raise
        stack = _settled(aws, name, which, poll_s)
        if stack.state not in _GOOD or stack.state == "UPDATE_ROLLBACK_COMPLETE":
            raise AwsError(f"stack {stack.name} is {stack.state}: {_why(aws, stack)}; correct that, then deploy again")
        progress.say(f"{stack.name}: {'unchanged or ' if before else ''}{stack.state}")
        done.append(stack)
    return done


def outputs(aws: Aws, name: str, stacks: Sequence[str]) -> dict[str, str]:
    """Return what stacks that must be there say, in one mapping.

    Raises
    ------
    AwsAbsentError
        If one is not there.
    """
    told: dict[str, str] = {}
    for which in stacks:
        stack = find(aws, name, which)
        if stack is None:
            raise AwsAbsentError(
                f"there is no stack {name}-{which} in {aws.region}; make it with 'fruits aws deploy', or check --name, --region"
            )
        told |= stack.outputs
    return told


def delete(
    aws: Aws,
    name: str,
    stacks: Sequence[str],
    *,
    progress: Progress | None = None,
    poll_s: float = _POLL_S,
) -> dict[str, Any]:
    """Stop what runs, then delete stacks in the reverse order; buckets and the key that reads them stay.

    Returns
    -------
    dict
        ``deleted``, ``absent``, ``cancelled`` (jobs), ``kept`` (what outlives the stacks).
    """
    progress = progress or Silent()
    report: dict[str, Any] = {"deleted": [], "absent": [], "cancelled": [], "kept": {}}
    for which in reversed(in_order(stacks)):
        stack = find(aws, name, which)
        if stack is None:
            report["absent"].append(f"{name}-{which}")
            continue
        progress.start(stack.name, None)
        if which == "batch" and (application := stack.outputs.get("ApplicationId")):
            report["cancelled"] = _stop(aws, application, poll_s)
        if which == "storage":
            report["kept"] = {
                key: stack.outputs[key]
                for key in ("PhotosBucket", "ResultsBucket", "LogsBucket", "DeliveryBucket", "KeyArn", "RepositoryUri")
                if key in stack.outputs
            }
        aws.call("cloudformation", "delete_stack", StackName=stack.name)
        gone = _settled(aws, name, which, poll_s, absent="DELETE_COMPLETE")
        if gone.state != "DELETE_COMPLETE":
            raise AwsError(f"stack {stack.name} is {gone.state}: {_why(aws, gone)}; correct that, then delete again")
        report["deleted"].append(stack.name)
        progress.say(f"{stack.name}: deleted")
    return report


def status(aws: Aws, name: str) -> dict[str, Any]:
    """Return what there is of an installation, and what runs."""
    told: dict[str, Any] = {
        "name": name,
        "region": aws.region,
        "stacks": {},
        "jobs": [],
        "application": None,
        "cluster": None,
    }
    for which in ORDER:
        stack = find(aws, name, which)
        told["stacks"][which] = (
            {"state": stack.state, "reason": stack.reason, "outputs": dict(stack.outputs)} if stack else None
        )
    batch = (told["stacks"]["batch"] or {}).get("outputs", {})
    if application := batch.get("ApplicationId"):
        with suppress(AwsAbsentError):
            answer = aws.call("emr-serverless", "get_application", applicationId=application)
            told["application"] = {"id": application, "state": answer["application"]["state"]}
            told["jobs"] = [
                {"id": job["id"], "name": job.get("name"), "state": job["state"], "created": str(job["createdAt"])}
                for job in unfinished_jobs(aws, application)
            ]
    if cluster := batch.get("ClusterId"):
        with suppress(AwsAbsentError):
            found = aws.call("emr", "describe_cluster", ClusterId=cluster)["Cluster"]
            told["cluster"] = {"id": cluster, "state": found["Status"]["State"]}
            told["jobs"] = [
                {
                    "id": step["Id"], "name": step.get("Name"), "state": step["Status"]["State"],
                    "created": str(step["Status"]["Timeline"]["CreationDateTime"]),
                }
                for page in aws.pages("emr", "list_steps", ClusterId=cluster, StepStates=list(_UNFINISHED_STEPS))
                for step in page["Steps"]
            ]  # fmt: skip
    return told


def unfinished_jobs(aws: Aws, application: str) -> list[dict[str, Any]]:
    """Return the jobs of an application that are not at their end."""
    try:
        pages = list(aws.pages("emr-serverless", "list_job_runs", applicationId=application, states=list(_UNFINISHED)))
    except AwsAbsentError:
        return []  # none was ever started
    return [job for page in pages for job in page.get("jobRuns", ())]


def in_order(stacks: Sequence[str]) -> list[str]:
    """Return templates in the order in which they are made.

    Raises
    ------
    ConfigError
        If there is no such template.
    """
    if unknown := sorted(set(stacks) - set(ORDER)):
        raise ConfigError(f"no template '{unknown[0]}'; expected {', '.join(ORDER)}")
    return [which for which in ORDER if which in stacks]


def must_be_given(which: str) -> list[str]:
    """Return the parameters of a template that have no default and that nobody can look up."""
    known: dict[str, Any] = cloudformation.parse(template(which)).get("Parameters") or {}
    return [key for key, about in known.items() if "Default" not in about and key != _LOOKED_UP.get(which)]


def parse_parameters(given: Sequence[str], stacks: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return parameters given as ``template.Key=value``, each as its template takes it.

    Raises
    ------
    ConfigError
        If a template has no such parameter or would not take the value, or none of the stacks is made of it: CloudFormation
        would say so only when the stacks before it are there.
    """
    parsed: dict[str, dict[str, str]] = {}
    for one in given:
        left, equals, value = one.partition("=")
        which, dot, key = left.partition(".")
        if not equals or not dot or not key or which not in ORDER:
            raise ConfigError(
                f"--set '{one}': expected template.Key=value, such as batch.MaxCoreNodes=3 or budget.Email=me@x.org"
            )
        if which not in stacks:
            option = "--service or " if which == "service" else ""
            raise ConfigError(
                f"--set '{one}': stack {which} is not among {', '.join(stacks)}; add {option}--stack {which}"
            )
        _check_parameter(which, key, value)
        parsed.setdefault(which, {})[key] = value
    return parsed


def _check_parameter(which: str, key: str, value: str) -> None:
    known: dict[str, Any] = cloudformation.parse(template(which))["Parameters"]
    names = [name for name in known if name != "Name"]  # that is --name
    if key not in names:
        raise ConfigError(f"--set {which}.{key}: the template has no such parameter; expected {', '.join(names)}")
    about = known[key]
    said = f"--set {which}.{key}={value}: {about['Description'].rstrip('.')}; expected"
    if (allowed := about.get("AllowedValues")) and value not in allowed:
        raise ConfigError(f"{said} {' or '.join(allowed)}")
    if (pattern := about.get("AllowedPattern")) and not re.fullmatch(pattern, value):
        raise ConfigError(f"{said} {pattern}")
    if about["Type"] == "Number" and (not value.isdigit() or int(value) < about.get("MinValue", 0)):
        raise ConfigError(f"{said} a number from {about.get('MinValue', 0)} on")


#: AWS has it on for new accounts, with an exception for port 22. Ours has none; it holds for the whole account and region.
_BLOCK_PUBLIC_ACCESS: Final = Call(
    "emr",
    "put_block_public_access_configuration",
    {
        "BlockPublicAccessConfiguration": {
            "BlockPublicSecurityGroupRules": True,
            "PermittedPublicSecurityGroupRuleRanges": [],
        }
    },
    "no cluster of this account may be open to the world, no port excepted",
)


def _prefix_list(region: str) -> Call:
    filters = [{"Name": "prefix-list-name", "Values": [f"com.amazonaws.{region}.s3"]}]
    return Call("ec2", "describe_managed_prefix_lists", {"Filters": filters}, "the addresses of S3 in this region")


def _looked_up(aws: Aws) -> str:
    found = aws.make(_prefix_list(aws.region))["PrefixLists"]
    if len(found) != 1:
        raise AwsError(
            f"{len(found)} lists of the addresses of S3 in {aws.region}, expected one; use --set batch.S3PrefixListId=pl-..."
        )
    return str(found[0]["PrefixListId"])


def _request(name: str, which: str, given: Mapping[str, str], known: Iterable[str]) -> dict[str, Any]:
    body = template(which)
    parameters: list[dict[str, Any]] = [{"ParameterKey": "Name", "ParameterValue": name}]
    parameters += [{"ParameterKey": key, "ParameterValue": value} for key, value in sorted(given.items())]
    kept = sorted(key for key in set(known) - {"Name", *given} if f"\n  {key}:\n" in body)
    parameters += [{"ParameterKey": key, "UsePreviousValue": True} for key in kept]
    # The same request sent twice, since an answer was lost, makes one stack.
    token = hashlib.sha256(repr((name, which, parameters, body, time.time() // 60)).encode()).hexdigest()[:32]
    return {
        "StackName": f"{name}-{which}",
        "TemplateBody": body,
        "Parameters": parameters,
        "Capabilities": ["CAPABILITY_NAMED_IAM"],
        "Tags": [{"Key": "fruits", "Value": name}],
        "ClientRequestToken": f"fruits-{token}",
    }


def _settled(aws: Aws, name: str, which: str, poll_s: float, absent: str = "") -> Stack:
    """Wait until a stack no longer changes; for four hours at most, longer than anything in our templates takes."""
    for _ in range(int(4 * 3600 / max(poll_s, 0.01))):
        stack = find(aws, name, which)
        if stack is None:
            return Stack(f"{name}-{which}", absent or "GONE", {}, {}, "")
        if not stack.state.endswith(_CHANGING):
            return stack
        time.sleep(poll_s)
    raise AwsError(f"stack {name}-{which} still changes after four hours; look at it in the console of CloudFormation")


def _why(aws: Aws, stack: Stack) -> str:
    """Return the first reason among the events, newest attempt first."""
    with suppress(AwsError):
        for page in aws.pages("cloudformation", "describe_stack_events", StackName=stack.name):
            failed = [
                f"{event['LogicalResourceId']}: {event['ResourceStatusReason']}"
                for event in page["StackEvents"]
                if event["ResourceStatus"].endswith("_FAILED") and event.get("ResourceStatusReason")
            ]
            if failed:
                return failed[-1]
    return stack.reason or "no reason given"


def _stop(aws: Aws, application: str, poll_s: float) -> list[str]:
    """Cancel jobs and stop an application, which CloudFormation deletes only then; return the jobs."""
    jobs = [job["id"] for job in unfinished_jobs(aws, application)]
    for job in jobs:
        aws.call("emr-serverless", "cancel_job_run", applicationId=application, jobRunId=job)
    with suppress(AwsAbsentError):
        _until(lambda: not unfinished_jobs(aws, application), poll_s)
        aws.call("emr-serverless", "stop_application", applicationId=application)
        ended = ("STOPPED", "CREATED", "TERMINATED")
        _until(
            lambda: (
                aws.call("emr-serverless", "get_application", applicationId=application)["application"]["state"]
                in ended
            ),
            poll_s,
        )
    return jobs


def _until(reached: Callable[[], bool], poll_s: float) -> None:
    for _ in range(int(900 / max(poll_s, 0.01))):
        if reached():
            return
        time.sleep(poll_s)
    raise AwsError(
        "the application has not stopped within a quarter of an hour; look at 'fruits aws status', then delete again"
    )
