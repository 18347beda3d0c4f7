"""Deployment of an installation: create, update, inspect and delete its stacks in the order of their dependencies.

Before a stack is created, AWS is queried for what it needs (addresses of S3, quotas, releases) and the default budget is
estimated. Before one is deleted, obstacles are removed (deletion protection, the policy of a spent budget).
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from fruits.aws.calls import Aws, AwsAbsentError, AwsError, Call
from fruits.aws.installation import policies, quotas
from fruits.aws.installation.stacks import (
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
from fruits.aws.pricing import prices, standing
from fruits.errors import ConfigError
from fruits.monitoring.clock import Progress, Silent

_POLL_S: Final = 5.0
_CHANGING: Final = ("_IN_PROGRESS",)
_GOOD: Final = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE")
_UNFINISHED: Final = ("SUBMITTED", "PENDING", "SCHEDULED", "RUNNING", "CANCELLING", "QUEUED")
_UNFINISHED_STEPS: Final = ("PENDING", "CANCEL_PENDING", "RUNNING")
#: Parameters of the budget that come from the outputs of the batch stack.
_FROM_BATCH: Final = ("ApplicationId", "ClusterId")


def planned(name: str, stacks: Sequence[str], parameters: Mapping[str, Mapping[str, str]], region: str) -> list[Call]:
    """Return the calls that create a new installation; see :func:`deploy`."""
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


#: Default budget for a month: USD for runs, and the factor on the estimated standing cost that covers its error.
MARGIN_USD: Final = 50
MARGIN: Final = 1.2


def monthly_usd(stacks: Mapping[str, Mapping[str, str]], region: str) -> int:
    """Return the default monthly budget: the standing cost plus 20 %, and a fixed amount for runs.

    Parameters
    ----------
    stacks : mapping
        Template -> its parameters, for all deployed stacks.
    region : str
    """
    stands = standing.standing_cost(prices.load().for_region(region), stacks).usd
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
    """Create the stacks of an installation or update existing ones; wait for each.

    Parameters
    ----------
    aws : Aws
    name : str
        Name of the installation.
    stacks : sequence of str
        Templates, in any order.
    parameters : mapping
        Template -> its parameters. Parameters of existing stacks keep their values unless given.
    progress : Progress, optional
    poll_s : float
        Polling interval in seconds.

    Raises
    ------
    AwsError
        If a stack cannot be created; includes CloudFormation's reason. Earlier stacks stay.
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
        given |= quotas.fitted(aws, which, given, before.parameters if before else None, progress.note)
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
        progress.note(f"{stack.name}: {'unchanged or ' if before else ''}{stack.state}")
        done.append(stack)
        if which == "budget":
            _activate_tag(aws, progress.note)
    # Last, because creating a flow log, as two of the stacks do, may rewrite a bucket's policy.
    for which in policies.restore(aws, name):
        progress.note(f"policy of {which} was another than the template's; put back")
    return done


def _budget(aws: Aws, name: str, given: Mapping[str, str], before: Stack | None) -> dict[str, str]:
    """Return the parameters of the budget that depend on other stacks: what to stop, and the monthly limit."""
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


#: A budget by tag covers only costs from the day on which the tag was activated in billing.
_ACTIVATE_TAG: Final = Call(
    "ce",
    "update_cost_allocation_tags_status",
    {"CostAllocationTagsStatus": [{"TagKey": "fruits", "Status": "Active"}]},
    "let billing tell this installation's costs from others",
)


def _activate_tag(aws: Aws, note: Callable[[str], None]) -> None:
    try:
        errors = [str(one.get("Message") or one.get("Code")) for one in aws.make(_ACTIVATE_TAG).get("Errors") or ()]
    except AwsError as exc:
        errors = [str(exc)]
    if errors:
        note(
            f"billing does not know the tag 'fruits' yet ({errors[0]}): until it does, the budget sees no costs. It learns new "
            "tags within a day: run 'fruits aws deploy --stack budget' again tomorrow"
        )


def _release(label: str) -> Call:
    return Call("emr", "list_release_labels", {"Filters": {"Prefix": label}}, "is there such a release here?")


def _check_release(aws: Aws, label: str) -> None:
    """Raise :class:`ConfigError` unless EMR has the release in this region; the stack would fail only after minutes."""
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
    """Cancel running jobs, then delete stacks in reverse order; buckets and their encryption key stay.

    Returns
    -------
    dict
        ``deleted``, ``absent``, ``cancelled`` (jobs), ``kept`` (resources that remain).
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
        progress.note(f"{stack.name}: deleted")
    return report


def status(aws: Aws, name: str) -> dict[str, Any]:
    """Return the stacks of an installation and its running jobs."""
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
    """Return the unfinished jobs of an application."""
    try:
        pages = list(aws.pages("emr-serverless", "list_job_runs", applicationId=application, states=list(_UNFINISHED)))
    except AwsAbsentError:
        return []  # no job was ever started
    return [job for page in pages for job in page.get("jobRuns", ())]


#: On by default in new accounts, with an exception for port 22. Here without exceptions; applies to the whole account and region.
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
    """Detach the policy of a spent budget from all roles: CloudFormation cannot delete an attached policy."""
    arn = f"arn:{aws.partition}:iam::{aws.caller_identity()['account']}:policy/{name}-budget-spent"
    with suppress(AwsAbsentError):
        for page in aws.pages("iam", "list_entities_for_policy", PolicyArn=arn):
            for role in page.get("PolicyRoles", ()):
                aws.call("iam", "detach_role_policy", RoleName=role["RoleName"], PolicyArn=arn)


def _lift_protection(aws: Aws, stack: Stack) -> None:
    """Disable deletion protection of database and load balancer; the command has asked for confirmation."""
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
    # Idempotent: a request sent again after a lost response creates one stack.
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
    """Wait until a stack no longer changes, for at most four hours: longer than any resource of our templates takes."""
    for _ in range(int(4 * 3600 / max(poll_s, 0.01))):
        stack = find(aws, name, which)
        if stack is None:
            return Stack(f"{name}-{which}", absent or "GONE", {}, {}, "")
        if not stack.state.endswith(_CHANGING):
            return stack
        time.sleep(poll_s)
    raise AwsError(f"stack {name}-{which} still changes after four hours; look at it in the console of CloudFormation")


def _why(aws: Aws, stack: Stack) -> str:
    """Return the first failure among the events of the newest attempt."""
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
    """Cancel the jobs of an application and stop it, as CloudFormation requires before deleting it; return the jobs."""
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
