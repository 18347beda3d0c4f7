"""What is asked and lifted around the stacks: quotas, releases, budgets, policies, protection; against moto and recordings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from fruits.aws.calls import Aws, AwsError, Call
from fruits.aws.installation import deploy, policies, quotas, stacks
from fruits.aws.pricing import standing
from fruits.aws.pricing.prices import load
from fruits.errors import ConfigError

REGION = "eu-west-1"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    for name, value in (("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "x"), ("AWS_DEFAULT_REGION", REGION)):
        monkeypatch.setenv(name, value)
    # Moto takes almost two seconds to load, in every process of the tests: only what uses it imports it.
    from moto import mock_aws
    from tests import moto_models as models

    models.QUOTAS.clear()
    with mock_aws():
        yield Aws(REGION)


class Recorded:
    """An AWS that answers as it is told, and remembers what it was asked."""

    region, partition = REGION, "aws"

    def __init__(self, **answers: Any) -> None:
        self.made: list[Call] = []
        self._answers = answers

    def call(self, service: str, operation: str, **parameters: Any) -> Any:
        return self.make(Call(service, operation, parameters))

    def make(self, call: Call) -> Any:
        self.made.append(call)
        answer = self._answers.get(call.operation, {})
        answer = answer(**call.parameters) if callable(answer) else answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    def names(self) -> list[str]:
        return [call.name for call in self.made]


def quota(**allowed: int) -> Recorded:
    """An account with these quotas."""
    codes = {one.code: name for name, one in (
        ("serverless", quotas.SERVERLESS), ("machines", quotas.MACHINES), ("spot", quotas.SPOT), ("fargate", quotas.FARGATE)
    )}  # fmt: skip
    return Recorded(get_service_quota=lambda **asked: {"Quota": {"Value": float(allowed[codes[asked["QuotaCode"]]])}})


# --- Quotas ---------------------------------------------------------------------------------------------------------------------


def test_an_application_is_made_as_large_as_the_account_allows() -> None:
    said: list[str] = []
    there = quota(serverless=16)
    assert quotas.fitted(there, "batch", {}, None, said.append) == {"MaxCpu": "16 vCPU", "MaxMemory": "80 GB"}
    assert there.names() == ["service-quotas.get_service_quota"]
    assert there.made[0].parameters == {"ServiceCode": "emr-serverless", "QuotaCode": "L-D05C8A75"}
    assert (
        "request-service-quota-increase --service-code emr-serverless --quota-code L-D05C8A75 --desired-value 24"
        in said[0]
    )
    assert quotas.fitted(quota(serverless=4000), "batch", {}, None, said.append) == {}
    assert quotas.fitted(quota(serverless=18), "batch", {}, None, said.append)["MaxCpu"] == "16 vCPU"


@pytest.mark.parametrize(("which", "given", "allowed", "words"), [
    ("batch", {"MaxCpu": "24 vCPU"}, {"serverless": 16}, "batch.MaxCpu=24 vCPU needs 24 vCPUs .* account may have 16"),
    ("batch", {}, {"serverless": 4}, "a run needs 8 vCPUs at once and the account may have 4; to raise it"),
    ("batch", {"Compute": "ec2"}, {"machines": 16}, "a cluster of 1 [+] 5 m5.xlarge needs 24 vCPUs .* --quota-code L-1216C47A"),
    ("batch", {"Compute": "ec2", "Spot": "yes"}, {"machines": 4, "spot": 8}, "needs 20 vCPUs .* --quota-code L-34B43A08"),
    ("service", {"MinTasks": "4"}, {"fargate": 6}, "4 tasks of 1 vCPU, twice .* needs 8 vCPUs .* L-3032A538"),
    ("service", {"MaxTasks": "4"}, {"fargate": 6}, "service.MaxTasks=4, twice"),
])  # fmt: skip
def test_what_is_above_a_quota_is_refused_with_the_quota_to_raise(
    which: str, given: dict[str, str], allowed: dict[str, int], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        quotas.fitted(quota(**allowed), which, given, None, lambda _: None)


def test_tasks_are_as_many_as_fit_twice() -> None:
    said: list[str] = []
    assert quotas.fitted(quota(fargate=6), "service", {}, None, said.append) == {"MaxTasks": "3"}
    assert "service.MaxTasks is 3 instead of 4" in said[0]
    assert quotas.fitted(quota(fargate=100), "service", {"Cpu": "4096", "MaxTasks": "12"}, None, said.append) == {}


def test_a_quota_that_cannot_be_read_is_said_and_changes_nothing() -> None:
    said: list[str] = []
    there = Recorded(get_service_quota=AwsError("denied"))
    assert quotas.fitted(there, "batch", {}, None, said.append) == {}
    assert quotas.run_cores(there, 24, said.append) == 24
    assert all("emr-serverless L-D05C8A75" in line and "cannot be read" in line for line in said)
    assert quotas.fitted(there, "storage", {}, None, said.append) == {}


def test_a_run_fits_into_the_quota_or_says_which_to_raise() -> None:
    said: list[str] = []
    assert quotas.run_cores(quota(serverless=16), 24, said.append) == 16
    assert "may have 16 vCPUs at once, fewer than the application's 24" in said[0]
    assert quotas.run_cores(quota(serverless=100), 24, said.append) == 24
    with pytest.raises(ConfigError, match="a run needs 8 vCPUs at once and the account may have 6"):
        quotas.run_cores(quota(serverless=6), 24, said.append)


@pytest.mark.slow
def test_a_deployment_in_a_new_account_makes_what_it_may_have(aws: Aws) -> None:
    from tests import moto_models as models

    models.QUOTAS["L-D05C8A75"] = 16
    deploy.deploy(aws, "fruits", ["storage", "roles", "batch"], {}, poll_s=0.01)
    found = stacks.find(aws, "fruits", "batch")
    assert (found.parameters["MaxCpu"], found.parameters["MaxMemory"]) == ("16 vCPU", "80 GB")
    with pytest.raises(ConfigError, match="the account may have 16"):
        deploy.deploy(aws, "fruits", ["batch"], {"batch": {"MaxCpu": "24 vCPU"}}, poll_s=0.01)
    with pytest.raises(
        ConfigError, match=r"EMR has no such release in eu-west-1; expected one of emr-spark-8\.0\.0, emr-7\.13\.0"
    ):
        deploy.deploy(aws, "fruits", ["batch"], {"batch": {"ReleaseLabel": "emr-7.99.0"}}, poll_s=0.01)
    deploy.deploy(aws, "fruits", ["batch"], {"batch": {"ReleaseLabel": "emr-spark-8.0.0"}}, poll_s=0.01)
    with pytest.raises(ConfigError, match="Fargate has no task of this Cpu and Memory"):
        deploy.deploy(aws, "fruits", ["service"], {"service": {"Cpu": "4096", "Memory": "2048"}}, poll_s=0.01)


# --- Budget ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_month_may_cost_what_stands_and_a_margin_until_the_owner_says_otherwise(aws: Aws) -> None:
    mail = {"budget": {"Email": "owner@example.org"}}
    deploy.deploy(aws, "fruits", ["storage", "roles", "batch", "budget"], mail, poll_s=0.01)
    told = stacks.find(aws, "fruits", "budget").parameters
    stands = standing.standing_cost(load(), {"storage": {}, "batch": {}}).usd
    assert 1.2 * stands + 50 <= int(told["MonthlyUsd"]) < 1.2 * stands + 52
    assert (told["MonthlyUsdBy"], told["ApplicationId"] != "") == ("deploy", True)
    # Less stands, so less may be spent; what the owner said is not touched.
    deploy.deploy(aws, "fruits", ["batch", "budget"], {"batch": {"LiveLogs": "no"}}, poll_s=0.01)
    assert int(stacks.find(aws, "fruits", "budget").parameters["MonthlyUsd"]) < int(told["MonthlyUsd"])
    deploy.deploy(aws, "fruits", ["budget"], {"budget": {"MonthlyUsd": "33"}}, poll_s=0.01)
    deploy.deploy(aws, "fruits", ["batch", "budget"], {"batch": {"LiveLogs": "yes"}}, poll_s=0.01)
    told = stacks.find(aws, "fruits", "budget").parameters
    assert (told["MonthlyUsd"], told["MonthlyUsdBy"]) == ("33", "owner")


def test_a_service_that_stands_does_not_spend_its_own_budget() -> None:
    deployed: dict[str, dict[str, str]] = {"storage": {}, "roles": {}, "batch": {}, "service": {}}
    stands = standing.standing_cost(load(), deployed).usd
    assert stands > 140
    assert deploy.monthly_usd(deployed, REGION) >= 1.2 * stands + 50


def test_billing_is_asked_to_know_the_tag_and_what_it_answers_is_said() -> None:
    said: list[str] = []
    there = Recorded(update_cost_allocation_tags_status={"Errors": [{"TagKey": "fruits", "Message": "no such tag"}]})
    deploy._activate_tag(there, said.append)
    assert there.made[0].parameters == {"CostAllocationTagsStatus": [{"TagKey": "fruits", "Status": "Active"}]}
    assert "does not know the tag 'fruits' yet (no such tag)" in said[0]
    assert "again tomorrow" in said[0]
    deploy._activate_tag(Recorded(update_cost_allocation_tags_status={"Errors": []}), said.append)
    assert len(said) == 1


@pytest.mark.slow
def test_deleting_takes_a_spent_budgets_policy_from_the_owner_first(aws: Aws) -> None:
    mail = {"budget": {"Email": "owner@example.org"}}
    deploy.deploy(aws, "fruits", ["storage", "roles", "budget"], mail, poll_s=0.01)
    iam = boto3.client("iam")
    account = aws.caller_identity()["account"]
    arn = f"arn:aws:iam::{account}:policy/fruits-budget-spent"
    iam.attach_role_policy(RoleName="fruits-owner", PolicyArn=arn)  # as the budget's action does
    calls: list[Call] = []
    deploy.delete(Aws(REGION, watch=calls.append), "fruits", ["budget"], poll_s=0.01)
    names = [call.name for call in calls]
    assert names.index("iam.detach_role_policy") < names.index("cloudformation.delete_stack")
    assert iam.list_attached_role_policies(RoleName="fruits-owner")["AttachedPolicies"] == []
    assert stacks.find(aws, "fruits", "budget") is None


# --- Policies of buckets --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_policy_that_somebody_wrote_over_is_put_back(aws: Aws) -> None:
    deploy.deploy(aws, "fruits", ["storage"], {}, poll_s=0.01)
    assert policies.restore(aws, "fruits") == [], "as they were made"
    told = stacks.outputs(aws, "fruits", ["storage"])
    s3 = boto3.client("s3")
    before = json.loads(s3.get_bucket_policy(Bucket=told["FlowsBucket"])["Policy"])
    # As the creator of flow logs does: its own statements, without ours.
    wider = {
        "Effect": "Allow",
        "Principal": {"Service": "delivery.logs.amazonaws.com"},
        "Action": "s3:PutObject",
        "Resource": "*",
    }
    s3.put_bucket_policy(Bucket=told["FlowsBucket"], Policy=json.dumps({"Version": "2012-10-17", "Statement": [wider]}))
    said: list[str] = []
    done = deploy.deploy(aws, "fruits", ["storage"], {}, poll_s=0.01, progress=_Said(said))
    assert [one.name for one in done] == ["fruits-storage"]
    assert any(f"policy of {told['FlowsBucket']} was another" in line for line in said)
    assert json.loads(s3.get_bucket_policy(Bucket=told["FlowsBucket"])["Policy"])["Statement"] == before["Statement"]


def test_policies_that_mean_the_same_are_not_written_again() -> None:
    one = {
        "Statement": [
            {"Sid": "A", "Effect": "Deny", "Principal": {"AWS": "*"}, "Action": ["s3:*"], "Resource": ["b", "a"]}
        ]
    }
    other = {"Statement": {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": ["a", "b"]}}
    assert policies._meant(one) == policies._meant(other)
    assert policies._meant(one) != policies._meant({"Statement": {**other["Statement"], "Action": "s3:Get*"}})


def test_a_policy_written_with_a_function_that_nobody_resolves_is_no_policy() -> None:
    known = {"Photos": "b", "Photos.Arn": "arn:aws:s3:::b", "AWS::Partition": "aws"}
    written = {
        "Resource": [{"Fn::GetAtt": ["Photos", "Arn"]}, {"Fn::Sub": "${Photos.Arn}/*"}],
        "Bucket": {"Ref": "Photos"},
    }
    assert policies._put_in(written, known) == {"Resource": ["arn:aws:s3:::b", "arn:aws:s3:::b/*"], "Bucket": "b"}
    with pytest.raises(ValueError, match="Fn::If"):
        policies._put_in({"Resource": {"Fn::If": ["Open", "*", "b"]}}, known)


def test_a_policy_that_cannot_be_put_back_is_an_error(monkeypatch: pytest.MonkeyPatch, aws: Aws) -> None:
    deploy.deploy(aws, "fruits", ["storage"], {}, poll_s=0.01)
    monkeypatch.setattr(policies, "_read", lambda *_: {})
    with pytest.raises(AwsError, match=r"not even after it was put back; see who writes it"):
        policies.restore(aws, "fruits")


# --- Protection, snapshots ------------------------------------------------------------------------------------------------------


def test_protection_is_lifted_before_a_service_is_deleted() -> None:
    there = Recorded()
    stack = stacks.Stack(
        "fruits-service", "CREATE_COMPLETE", {"DatabaseId": "db-1", "LoadBalancerArn": "arn:lb"}, {}, ""
    )
    deploy._lift_protection(there, stack)
    assert [(call.name, call.parameters) for call in there.made] == [
        ("rds.modify_db_instance", {"DBInstanceIdentifier": "db-1", "DeletionProtection": False, "ApplyImmediately": True}),
        ("elbv2.modify_load_balancer_attributes", {
            "LoadBalancerArn": "arn:lb", "Attributes": [{"Key": "deletion_protection.enabled", "Value": "false"}],
        }),
    ]  # fmt: skip


def test_another_snapshot_does_not_replace_a_database_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    there = stacks.Stack("fruits-service", "CREATE_COMPLETE", {}, {"DatabaseSnapshot": ""}, "")
    monkeypatch.setattr(deploy, "find", lambda *_: there)
    with pytest.raises(ConfigError, match="'fruits aws delete --stack service' first"):
        deploy.deploy(Recorded(), "fruits", ["service"], {"service": {"DatabaseSnapshot": "rds:fruits-1"}})


class _Said:
    """Progress that remembers what was said."""

    def __init__(self, said: list[str]) -> None:
        self._said = said

    def start(self, step: str, total: int | None) -> None:
        pass

    def advance(self, count: int) -> None:
        pass

    def note(self, message: str) -> None:
        self._said.append(message)
