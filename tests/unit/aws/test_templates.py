"""The templates make what they say: stacks that come and go on moto, buckets that stay, a stop that stops."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import boto3
import pytest
import typer
from scan.cloudformation import each, every, largest, variants
from scan.rules import templates

from fruits.aws.calls import Aws
from fruits.aws.installation import deploy, quotas, stacks
from fruits.aws.installation.stacks import parse
from fruits.cli.main import app
from fruits.errors import ConfigError

REGION = "eu-west-1"
ORDER = ("storage", "roles", "batch", "service", "budget")
TEXTS = templates()
PARSED = {name.removesuffix(".yaml"): parse(text) for name, text in TEXTS.items()}
DIGEST = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/fruits/service@sha256:" + "0" * 64


# Moto takes almost two seconds to load, in every process of the tests: only what uses it imports it.


def test_moto_lacks_what_the_models_add() -> None:
    from tests import moto_models as models

    assert "AWS::EMRServerless::Application" not in models.UNKNOWN_TO_MOTO


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Any:
    from moto import mock_aws
    from tests import moto_models  # noqa: F401 - teaches moto the resources of the templates

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    with mock_aws():
        yield boto3


def _deploy(name: str, **parameters: str) -> dict[str, str]:
    client = boto3.client("cloudformation")
    client.create_stack(
        StackName=f"fruits-{name}",
        TemplateBody=TEXTS[f"{name}.yaml"],
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        Capabilities=["CAPABILITY_NAMED_IAM"],
    )
    (stack,) = client.describe_stacks(StackName=f"fruits-{name}")["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    return {one["OutputKey"]: one["OutputValue"] for one in stack.get("Outputs", [])}


def _deploy_all(compute: str = "serverless") -> dict[str, dict[str, str]]:
    made = {"storage": _deploy("storage"), "roles": _deploy("roles")}
    made["batch"] = _deploy("batch", S3PrefixListId="pl-6da54004", Compute=compute)
    certificate = boto3.client("acm").request_certificate(DomainName="fruits.example.com")["CertificateArn"]
    made["service"] = _deploy(
        "service", S3PrefixListId="pl-6da54004", Image=DIGEST, CertificateArn=certificate, DomainName="fruits.example.com",
        Out="runs/2026",
    )  # fmt: skip
    made["budget"] = _deploy(
        "budget", Email="owner@example.com", ApplicationId=made["batch"].get("ApplicationId", ""),
        ClusterId=made["batch"].get("ClusterId", ""), ClusterName=made["service"]["ClusterName"],
        ServiceName=made["service"]["ServiceName"],
    )  # fmt: skip
    return made


@pytest.mark.slow
@pytest.mark.parametrize("compute", ["serverless", "ec2"])
def test_stacks_come_and_go_and_buckets_stay(aws: Any, compute: str) -> None:
    made = _deploy_all(compute)
    buckets = {
        made["storage"][key] for key in ("PhotosBucket", "ResultsBucket", "LogsBucket", "DeliveryBucket", "FlowsBucket")
    }
    assert len(buckets) == 5
    s3, client = boto3.client("s3"), boto3.client("cloudformation")
    s3.put_object(Bucket=made["storage"]["PhotosBucket"], Key="packs/one.parquet", Body=b"photos")
    # Stops what runs and lifts the protection of database and load balancer: without that AWS deletes neither.
    with pytest.raises(Exception, match=r"deletion protection|DeletionProtection|Cannot delete protected"):
        boto3.client("rds").delete_db_instance(
            DBInstanceIdentifier=made["service"]["DatabaseId"], SkipFinalSnapshot=True
        )
    done = deploy.delete(Aws(REGION), "fruits", ORDER, poll_s=0.01)
    assert done["deleted"] == [f"fruits-{name}" for name in reversed(ORDER)]
    assert done["kept"]["DatabaseBackups"].startswith("for 7 days")
    assert client.describe_stacks()["Stacks"] == []
    assert {one["Name"] for one in s3.list_buckets()["Buckets"]} == buckets
    assert s3.get_object(Bucket=made["storage"]["PhotosBucket"], Key="packs/one.parquet")["Body"].read() == b"photos"
    assert boto3.client("iam").list_roles()["Roles"] == []
    networks = boto3.client("ec2").describe_vpcs(Filters=[{"Name": "is-default", "Values": ["false"]}])["Vpcs"]
    assert networks == []


def test_another_suffix_starts_afresh(aws: Any) -> None:
    first = _deploy("storage")
    boto3.client("cloudformation").delete_stack(StackName="fruits-storage")
    second = _deploy("storage", Suffix="-b")
    assert second["PhotosBucket"] == first["PhotosBucket"] + "-b"


# --- What the budget stops ----------------------------------------------------------------------------------------------------


def _stop(monkeypatch: pytest.MonkeyPatch, **environment: str) -> list[str]:
    """Run the code of the function as Lambda would."""
    code = PARSED["budget"]["Resources"]["Stopper"]["Properties"]["Code"]["ZipFile"]
    assert len(code) <= 4096  # of CloudFormation, for code in a template
    for key in ("APPLICATION", "CLUSTER", "ECS_CLUSTER", "ECS_SERVICE"):
        monkeypatch.setenv(key, environment.get(key, ""))
    names: dict[str, Any] = {}
    exec(compile(code, "index.py", "exec"), names)
    return names["stop"]({}, None)


@pytest.mark.slow
def test_what_runs_is_stopped_when_the_budget_is_spent(aws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = _deploy_all()
    emr, ecs = boto3.client("emr-serverless"), boto3.client("ecs")
    application = made["batch"]["ApplicationId"]
    emr.start_application(applicationId=application)
    run = emr.start_job_run(
        applicationId=application, executionRoleArn=made["roles"]["BatchRoleArn"], clientToken="t",
        jobDriver={"sparkSubmit": {"entryPoint": "s3://b/main.py"}},
    )["jobRunId"]  # fmt: skip
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.emrserverless.models import emrserverless_backends

    emrserverless_backends[DEFAULT_ACCOUNT_ID][REGION].job_runs[application][
        0
    ].state = "RUNNING"  # moto's are done at once
    cluster, service = made["service"]["ClusterName"], made["service"]["ServiceName"]
    stopped = _stop(monkeypatch, APPLICATION=application, ECS_CLUSTER=cluster, ECS_SERVICE=service)
    assert stopped == [run, application, service]
    assert emr.get_job_run(applicationId=application, jobRunId=run)["jobRun"]["state"] in {"CANCELLING", "CANCELLED"}
    assert ecs.describe_services(cluster=cluster, services=[service])["services"][0]["desiredCount"] == 0
    # With nothing running, the application itself is stopped.
    assert _stop(monkeypatch, APPLICATION=application) == [application]
    assert emr.get_application(applicationId=application)["application"]["state"] == "STOPPED"


@pytest.mark.slow
def test_what_cannot_be_stopped_spares_nothing_else(aws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = _deploy_all("ec2")
    emr = boto3.client("emr")
    with pytest.raises(RuntimeError, match="application gone"):
        _stop(monkeypatch, APPLICATION="gone", CLUSTER=made["batch"]["ClusterId"])
    (cluster,) = emr.list_clusters()["Clusters"]
    assert cluster["Status"]["State"].startswith("TERMINAT")


# --- What a template must not become --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ORDER)
def test_a_template_fits_into_a_call_and_names_no_region_or_account(name: str) -> None:
    text = TEXTS[f"{name}.yaml"]
    assert len(text.encode()) <= 51_200
    assert not re.search(r"eu-(west|central)-\d|\b\d{12}\b", re.sub(r"#.*", "", text))
    for parameter in PARSED[name]["Parameters"].values():
        assert parameter["Description"]
        assert "AllowedPattern" in parameter or "AllowedValues" in parameter or parameter["Type"] == "Number"


def test_a_role_fits_its_limit() -> None:
    for variant in variants(PARSED["roles"]):
        for role in variant.of("AWS::IAM::Role"):
            inline = json.dumps([policy["PolicyDocument"] for policy in role.properties["Policies"]])
            assert len(re.sub(r"\s", "", inline)) <= 10_240, role.name


def test_what_the_stacks_hand_on_is_what_others_take() -> None:
    exported = {
        f"${{import:{value}}}"
        for template in PARSED.values()
        for output in (template.get("Outputs") or {}).values()
        if "Export" in output
        for value in [output["Export"]["Name"]["Fn::Sub"].replace("${Name}", "fruits")]
    }
    taken = set()
    for template in PARSED.values():
        for variant in variants(template):
            for resource in variant.resources.values():
                taken |= set(re.findall(r"\$\{import:[^}]*\}", str(resource.whole) + str(resource.properties)))
    assert taken
    assert taken <= exported


def test_the_dashboard_of_a_run_is_what_cloudwatch_reads() -> None:
    bodies = {
        str(body)
        for variant in variants(PARSED["batch"])
        for dashboard in variant.of("AWS::CloudWatch::Dashboard")
        for body in each(dashboard.properties["DashboardBody"])
    }
    assert {"AWS/EMRServerless" in body for body in bodies} == {True, False}  # one for each way to compute
    for body in bodies:
        widgets = json.loads(body)["widgets"]
        assert len(widgets) >= 5
        assert all(widget["type"] == "metric" and widget["properties"]["metrics"] for widget in widgets)
    assert any("PhotosPerSecond" in body and "CostPerMillion" in body for body in bodies)


def test_the_service_is_started_with_options_that_it_has() -> None:
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    options = {option for parameter in command.params for option in parameter.opts}
    container = _containers()["service"]
    words = [str(word) for word in every(container["Command"])]
    assert words[0] == "serve"
    assert words[1].startswith("s3://${import:fruits-ResultsBucket}/")
    assert {word.partition("=")[0] for word in words[2:]} <= options
    assert {one["Name"] for one in container["Environment"]} == {"AWS_REGION", "FRUITS_DATABASE"}
    assert {one["Name"] for one in container["Secrets"]} == {"PGPASSWORD"}
    with command.make_context("serve", ["s3://results/runs/1", *[w.replace("$", "x") for w in words[2:]]]) as context:
        assert context.params["port"] == 8080
        assert context.params["trusted_proxy"] == ["10.43.0.0/25"]


def _containers() -> dict[str, dict[str, Any]]:
    """Return the containers of the service's tasks, by name."""
    tasks = next(variants(PARSED["service"])).of("AWS::ECS::TaskDefinition")
    return {one["Name"]: one for task in tasks for one in task.properties["ContainerDefinitions"]}


def test_the_login_is_prepared_by_a_container_that_alone_sees_the_masters_password() -> None:
    containers = _containers()
    assert set(containers) == {"prepare", "service", "errand"}
    command = typer.main.get_command(app).commands["database"].commands["prepare"]  # type: ignore[attr-defined]
    words = [str(word) for word in containers["prepare"]["Command"]]
    assert words[:2] == ["database", "prepare"]
    with command.make_context("prepare", [words[2].replace("${param:PasswordRound}", "1")]) as context:
        assert context.params["login"].startswith("fruits_service_")
    secrets = {
        name: [one["Name"] for one in container["Secrets"] if "MasterUserSecret" in str(one["ValueFrom"])]
        for name, container in containers.items()
    }
    assert secrets == {"prepare": ["PGPASSWORD"], "service": [], "errand": []}
    assert containers["service"]["DependsOn"] == [{"ContainerName": "prepare", "Condition": "SUCCESS"}]
    # One login for service and one-off tasks, and a round of its own in the secret's name: another round is another secret.
    urls = {
        name: next(str(one["Value"]) for one in container["Environment"] if one["Name"] == "FRUITS_DATABASE")
        for name, container in containers.items()
    }
    assert urls["service"] == urls["errand"] != urls["prepare"]
    for url in urls.values():
        assert "sslmode=verify-full&sslrootcert=/opt/fruits/rds-ca.pem" in url


def test_connections_of_all_tasks_fit_into_the_smallest_database() -> None:
    """Of a db.t4g.micro: 1 GiB / 9,531,392 = 112, of which RDS keeps 3; tasks twice while they are replaced, and one-off ones."""
    text = PARSED["service"]["Parameters"]["MaxTasks"]
    (word,) = [str(one) for one in _containers()["service"]["Command"] if "--database-connections" in str(one)]
    each = int(word.partition("=")[2])
    assert text["MaxValue"] >= 20
    assert 2 * text["MaxValue"] * each + 5 <= (1 << 30) // 9_531_392 - 3


def test_a_snapshot_makes_the_database_and_brings_what_it_was_made_with() -> None:
    restored = [
        database.properties
        for variant in variants(PARSED["service"])
        for database in variant.of("AWS::RDS::DBInstance")
        if "DBSnapshotIdentifier" in database.properties
    ]
    assert restored
    for properties in restored:
        assert not {"DBName", "KmsKeyId", "MasterUsername", "MasterUserPassword"} & set(properties)
        assert properties["StorageEncrypted"] is True
        assert properties["ManageMasterUserPassword"] is True


def test_what_is_delivered_of_visitors_ends_within_days() -> None:
    (variant,) = variants(PARSED["storage"])
    buckets = {one.name: one.properties for one in variant.of("AWS::S3::Bucket")}
    days = PARSED["storage"]["Parameters"]["VisitorLogDays"]
    assert (days["Default"], days["MaxValue"]) == (7, 30)
    for name, prefix in (("Delivery", "alb/"), ("Flows", None)):
        (rule,) = [
            one for one in buckets[name]["LifecycleConfiguration"]["Rules"] if one["Id"] == "visitors-are-forgotten"
        ]
        assert rule.get("Prefix") == prefix
        assert largest(rule["ExpirationInDays"]) == 7
        assert rule["NoncurrentVersionExpiration"] == {"NoncurrentDays": 1}


def test_flow_logs_go_to_a_bucket_that_nothing_else_is_in() -> None:
    for name in ("batch", "service"):
        for variant in variants(PARSED[name]):
            (log,) = variant.of("AWS::EC2::FlowLog")
            assert log.properties["LogDestination"].endswith(":::${import:fruits-FlowsBucket}")
    (variant,) = variants(PARSED["storage"])
    for bucket in variant.of("AWS::S3::Bucket"):
        assert "Flows" not in str(bucket.properties.get("LoggingConfiguration", ""))


#: Of docs.aws.amazon.com/AmazonECS/latest/developerguide/task-cpu-memory-error.html, in MiB.
FARGATE = {
    256: [512, 1024, 2048], 512: range(1024, 4097, 1024), 1024: range(2048, 8193, 1024), 2048: range(4096, 16385, 1024),
    4096: range(8192, 30721, 1024),
}  # fmt: skip


@pytest.mark.slow
def test_a_size_of_task_is_taken_where_fargate_has_it_and_refused_where_not() -> None:
    parameters = PARSED["service"]["Parameters"]
    taken = set()
    for cpu in parameters["Cpu"]["AllowedValues"]:
        for memory in parameters["Memory"]["AllowedValues"]:
            values = stacks.effective("service", {"Cpu": cpu, "Memory": memory})
            if int(memory) in FARGATE[int(cpu)]:
                stacks.check_rules("service", values)
                taken.add((cpu, memory))
            else:
                with pytest.raises(
                    ConfigError, match=f"service.Cpu={cpu}, service.Memory={memory}: Fargate has no task"
                ):
                    stacks.check_rules("service", values)
    assert len(taken) >= 12
    errand = [one for one in next(variants(PARSED["service"])).of("AWS::ECS::TaskDefinition") if one.name == "Errand"]
    assert int(errand[0].properties["Memory"]) in FARGATE[int(errand[0].properties["Cpu"])]


@pytest.mark.parametrize(("label", "is_one"), [
    ("emr-7.13.0", True), ("emr-7.1.0", True), ("emr-7.14.0", True), ("emr-7.9.12", True), ("emr-spark-8.0.0", True),
    ("emr-spark-8.1.0", True), ("emr-spark-8.10.2", True), ("emr-7.0.0", False), ("emr-8.0.0", False), ("emr-6.15.0", False),
    ("emr-spark-7.0.0", False), ("7.13.0", False), ("emr-7.13", False), ("emr-7.13.0-latest", False),
])  # fmt: skip
def test_labels_of_releases_are_those_that_emr_has(label: str, is_one: bool) -> None:
    pattern = PARSED["batch"]["Parameters"]["ReleaseLabel"]["AllowedPattern"]
    assert bool(re.fullmatch(pattern, label)) == is_one


def test_a_deployment_leaves_the_number_of_tasks_alone() -> None:
    for variant in variants(PARSED["service"]):
        (service,) = variant.of("AWS::ECS::Service")
        assert "DesiredCount" not in service.properties


def test_the_budget_counts_what_carries_the_tag_of_the_installation() -> None:
    (budget,) = next(variants(PARSED["budget"])).of("AWS::Budgets::Budget")
    assert budget.properties["Budget"]["CostFilters"] == {"TagKeyValue": ["user:fruits$fruits"]}
    (service,) = next(variants(PARSED["service"])).of("AWS::ECS::Service")
    assert service.properties["PropagateTags"] == "SERVICE"


def test_emr_may_fetch_the_image_that_its_application_names() -> None:
    (variant,) = variants(PARSED["storage"])
    (workers,) = [one for one in variant.of("AWS::ECR::Repository") if one.name == "Workers"]
    (statement,) = workers.properties["RepositoryPolicyText"]["Statement"]
    assert statement["Principal"] == {"Service": "emr-serverless.amazonaws.com"}
    assert set(statement["Action"]) == {"ecr:BatchGetImage", "ecr:DescribeImages", "ecr:GetDownloadUrlForLayer"}
    named = {
        str((application.properties.get("ImageConfiguration") or {}).get("ImageUri"))
        for variant in variants(PARSED["batch"])
        for application in variant.of("AWS::EMRServerless::Application")
    }
    assert len(named) == 2  # with an image and, until it is pushed, without
    assert "None" in named


def test_quotas_that_are_read_are_those_that_the_owner_may_read() -> None:
    (role,) = [one for one in next(variants(PARSED["roles"])).of("AWS::IAM::Role") if one.name == "Owner"]
    (statement,) = [
        one for one in role.properties["Policies"][0]["PolicyDocument"]["Statement"] if one["Sid"] == "Quotas"
    ]
    allowed = {str(name).rpartition(":")[2] for name in statement["Resource"]}
    known = {
        f"{quota.service}/{quota.code}" for quota in (quotas.SERVERLESS, quotas.MACHINES, quotas.SPOT, quotas.FARGATE)
    }
    assert allowed == known


def test_a_driver_has_the_disk_that_its_photos_take() -> None:
    from fruits.aws.pricing import cost

    assert cost.shape_for(100_000).driver_disk_gb == 20
    sizes = [cost.shape_for(photos).driver_disk_gb for photos in (5_000_000, 10_000_000, 30_000_000)]
    assert sizes == sorted(sizes)
    assert 30 <= sizes[1] <= sizes[2] <= 200  # what EMR Serverless has
    assert int(PARSED["batch"]["Parameters"]["MaxDisk"]["Default"].split()[0]) >= sizes[2] + 5 * 20


def test_the_number_that_scales_the_service_is_in_its_log() -> None:
    from fruits.service.http import middleware

    (waiting,) = next(variants(PARSED["service"])).of("AWS::Logs::MetricFilter")
    assert waiting.properties["FilterPattern"] == "{ $.waiting >= 0 }"
    assert '"waiting"' in Path(middleware.__file__).read_text(encoding="utf-8")


# --- What a bucket refuses ------------------------------------------------------------------------------------------------------


def _holds(operator: str, expected: str, found: str | None) -> bool:
    """Decide one test of a condition as IAM does: what is not in the request fails a test, but passes a negated one."""
    if operator == "Null":
        return (found is None) == (expected == "true")
    if operator == "StringNotEquals":
        return found != expected
    if found is None:
        return False
    return {
        "Bool": lambda: found == expected,
        "StringEquals": lambda: found == expected,
        "NumericLessThan": lambda: float(found) < float(expected),
    }[operator]()


def _denied(bucket: str, action: str, **request: str) -> list[str]:
    """Return the statements of a bucket's policy that deny a request."""
    known = {"aws:SecureTransport": "true", "s3:TlsVersion": "1.3", **request}
    (variant,) = variants(PARSED["storage"])
    (policy,) = [
        one for one in variant.of("AWS::S3::BucketPolicy") if one.properties["Bucket"] == f"${{{bucket}}}"
    ]  # fmt: skip
    return [
        statement["Sid"]
        for statement in policy.properties["PolicyDocument"]["Statement"]
        if statement["Effect"] == "Deny"
        and statement["Action"] in {"s3:*", action}
        and all(
            _holds(operator, str(value), known.get(key))
            for operator, tests in statement["Condition"].items()
            for key, value in tests.items()
        )
    ]


@pytest.mark.parametrize("bucket", ["Photos", "Results", "Logs", "Delivery", "Flows"])
def test_a_bucket_answers_by_tls_of_today_alone(bucket: str) -> None:
    assert _denied(bucket, "s3:GetObject") == []
    assert _denied(bucket, "s3:GetObject", **{"aws:SecureTransport": "false"}) == ["TlsOnly"]
    assert _denied(bucket, "s3:GetObject", **{"s3:TlsVersion": "1.1"}) == ["TlsOfToday"]


@pytest.mark.parametrize("bucket", ["Photos", "Results"])
def test_an_upload_that_says_nothing_of_encryption_is_taken(bucket: str) -> None:
    header = "s3:x-amz-server-side-encryption"
    assert _denied(bucket, "s3:PutObject") == []
    assert _denied(bucket, "s3:PutObject", **{header: "aws:kms"}) == []
    assert _denied(bucket, "s3:PutObject", **{header: "AES256"}) == ["NoOtherEncryption"]
