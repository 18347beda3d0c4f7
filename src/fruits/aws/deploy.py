"""The stacks of an installation: made, changed, looked at and deleted, in the order in which they need each other.

What it takes to know before a stack is made (addresses of S3, quotas, releases, what stands and costs) is asked of AWS; what must
be lifted before one is deleted (protection, a budget that holds the owner) is lifted.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from fruits.aws import policies, prices, quotas, standing
from fruits.aws.calls import Aws, AwsAbsentError, AwsError, Call
from fruits.aws.stacks import (
    LOOKED_UP,
    ORDER,
    Stack,
    check_rules,
    effective,
    find,
    in_order,
    must_be_given,
    template,
)
from fruits.errors import ConfigError
from fruits.monitoring.clock import Progress, Silent

_POLL_S: Final = 5.0
_CHANGING: Final = ("_IN_PROGRESS",)
_GOOD: Final = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE")
_UNFINISHED: Final = ("SUBMITTED", "PENDING", "SCHEDULED", "RUNNING", "CANCELLING", "QUEUED")
_UNFINISHED_STEPS: Final = ("PENDING", "CANCEL_PENDING", "RUNNING")
#: Parameters of the budget that the stack which makes what runs knows.
_FROM_BATCH: Final = ("ApplicationId", "ClusterId")


def planned(name: str, stacks: Sequence[str], parameters: Mapping[str, Mapping[str, str]], region: str) -> list[Call]:
    """Return the calls that make an installation where there is none; see :func:`deploy`."""
    calls = []
    for which in in_order(stacks):
        given = dict(parameters.get(which, {}))
        if which in LOOKED_UP and LOOKED_UP[which] not in given:
            calls.append(_prefix_list(region))
            given[LOOKED_UP[which]] = "<its PrefixListId>"
        for key in must_be_given(which):
            given.setdefault(key, f"<give it: --set {which}.{key}=...>")
        if which == "batch" and given.get("Compute") == "ec2":
            calls.append(_BLOCK_PUBLIC_ACCESS)
        calls += quotas.planned(which, effective(which, given))
        if which == "batch":
            calls.append(_release(effective(which, given)["ReleaseLabel"]))
        if which == "budget":
            stands = {one: parameters.get(one, {}) for one in in_order(stacks) if one != "budget"}
            given.setdefault("MonthlyUsd", str(monthly_usd(stands, region)))
        if which == "budget" and "batch" in stacks:
            made = "ClusterId" if parameters.get("batch", {}).get("Compute") == "ec2" else "ApplicationId"
            given.setdefault(made, f"<{made}>")
        calls.append(
            Call("cloudformation", "create_stack", {
                **_request(name, which, given, ()), "TemplateBody": f"<template {which}>",
            }, f"make stack {name}-{which}; wait until it is complete")
        )  # fmt: skip
        if which == "budget":
            calls.append(_ACTIVATE_TAG)
    if "storage" in stacks:
        calls += policies.planned()
    return calls


#: What a month's runs may cost beside what stands, unless the owner says otherwise; and what the estimate of that may miss.
MARGIN_USD: Final = 50
MARGIN: Final = 1.2


def monthly_usd(stacks: Mapping[str, Mapping[str, str]], region: str) -> int:
    """Return what a month may cost unless the owner says otherwise: what stands, a fifth more, and something for runs.

    Parameters
    ----------
    stacks : mapping
        Template to its parameters, of all that is deployed.
    region : str
    """
    stands = standing.standing_cost(prices.load().told_in(region), stacks).usd
    return math.ceil(MARGIN * stands + MARGIN_USD)


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
        if before and given.get("DatabaseSnapshot", before.parameters.get("DatabaseSnapshot")) != before.parameters.get(
            "DatabaseSnapshot"
        ):
            raise ConfigError(
                f"service.DatabaseSnapshot is '{before.parameters.get('DatabaseSnapshot', '')}' there; another one would replace "
                "the database while the service runs: 'fruits aws delete --stack service' first, then deploy with the snapshot"
            )
        check_rules(which, effective(which, given, before.parameters if before else None))
        given |= quotas.fitted(aws, which, given, before.parameters if before else None, progress.say)
        if which == "batch" and (before is None or "ReleaseLabel" in given):
            _check_release(aws, effective(which, given)["ReleaseLabel"])
        asked = LOOKED_UP.get(which)
        if asked and asked not in given and not (before and asked in before.parameters):
            given[asked] = _looked_up(aws)
        if which == "batch" and given.get("Compute") == "ec2":
            aws.make(_BLOCK_PUBLIC_ACCESS)
        if which == "budget":
            given |= _budget(aws, name, given, before)
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
        if which == "budget":
            _activate_tag(aws, progress.say)
    # Last: whoever makes a flow log, as two of the stacks do, may have written a bucket's policy.
    for which in policies.hold(aws, name):
        progress.say(f"policy of {which} was another than the template's; put back")
    return done


def _budget(aws: Aws, name: str, given: Mapping[str, str], before: Stack | None) -> dict[str, str]:
    """Return what the budget's stack is told of the others: what to stop, and what a month may cost."""
    told: dict[str, str] = {}
    there = {which: found for which in ORDER if which != "budget" and (found := find(aws, name, which))}
    if batch := there.get("batch"):
        told |= {key: batch.outputs.get(key, "") for key in _FROM_BATCH if key not in given}
    if "MonthlyUsd" in given:
        return {**told, "MonthlyUsdBy": "owner"}
    if before is None or before.parameters.get("MonthlyUsdBy") != "owner":
        stands = {which: found.parameters for which, found in there.items()}
        told |= {"MonthlyUsd": str(monthly_usd(stands, aws.region)), "MonthlyUsdBy": "deploy"}
    return told


#: A budget by tag sees what billing knows by that tag, from the day on which it was activated.
_ACTIVATE_TAG: Final = Call(
    "ce",
    "update_cost_allocation_tags_status",
    {"CostAllocationTagsStatus": [{"TagKey": "fruits", "Status": "Active"}]},
    "let billing tell this installation's costs from others",
)


def _activate_tag(aws: Aws, say: Callable[[str], None]) -> None:
    try:
        errors = [str(one.get("Message") or one.get("Code")) for one in aws.make(_ACTIVATE_TAG).get("Errors") or ()]
    except AwsError as exc:
        errors = [str(exc)]
    if errors:
        say(
            f"billing does not know the tag 'fruits' yet ({errors[0]}): until it does, the budget sees no costs. It learns new "
            "tags within a day: run 'fruits aws deploy --stack budget' again tomorrow"
        )


def _release(label: str) -> Call:
    return Call("emr", "list_release_labels", {"Filters": {"Prefix": label}}, "is there such a release here?")


def _check_release(aws: Aws, label: str) -> None:
    """Raise :class:`ConfigError` unless EMR has the release in this region: the stack would say so after minutes only."""
    if label in aws.make(_release(label)).get("ReleaseLabels", ()):
        return
    known = aws.call("emr", "list_release_labels").get("ReleaseLabels", ())
    some = ", ".join(known[:8]) or "its list"
    raise ConfigError(f"batch.ReleaseLabel={label}: EMR has no such release in {aws.region}; expected one of {some}")


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
        if which == "budget":
            _release_the_owner(aws, name)
        if which == "service":
            _lift_protection(aws, stack)
            report["kept"]["DatabaseBackups"] = (
                f"for {stack.outputs.get('DatabaseBackupDays', '7')} days; 'aws rds describe-db-snapshots --snapshot-type "
                "automated' names them, --set service.DatabaseSnapshot=... starts from one"
            )
        if which == "storage":
            report["kept"] |= {
                key: stack.outputs[key]
                for key in (
                    "PhotosBucket",
                    "ResultsBucket",
                    "LogsBucket",
                    "DeliveryBucket",
                    "FlowsBucket",
                    "KeyArn",
                    "RepositoryUri",
                    "WorkersRepositoryUri",
                )
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


def _release_the_owner(aws: Aws, name: str) -> None:
    """Take the policy of a budget that is spent from whoever has it: CloudFormation deletes no policy that is attached."""
    arn = f"arn:{aws.partition}:iam::{aws.who()['account']}:policy/{name}-budget-spent"
    with suppress(AwsAbsentError):
        for page in aws.pages("iam", "list_entities_for_policy", PolicyArn=arn):
            for role in page.get("PolicyRoles", ()):
                aws.call("iam", "detach_role_policy", RoleName=role["RoleName"], PolicyArn=arn)


def _lift_protection(aws: Aws, stack: Stack) -> None:
    """Let database and load balancer be deleted; whoever asked for it was asked back."""
    if database := stack.outputs.get("DatabaseId"):
        with suppress(AwsAbsentError):
            aws.call(
                "rds",
                "modify_db_instance",
                DBInstanceIdentifier=database,
                DeletionProtection=False,
                ApplyImmediately=True,
            )
    if balancer := stack.outputs.get("LoadBalancerArn"):
        off = [{"Key": "deletion_protection.enabled", "Value": "false"}]
        with suppress(AwsAbsentError):
            aws.call("elbv2", "modify_load_balancer_attributes", LoadBalancerArn=balancer, Attributes=off)


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
