"""What moto's CloudFormation does not know of the templates' resources: importing this adds it.

It can make networks but not take them away again, which is added too. ``AWS::EMRServerless::Application`` makes a real
application of moto's EMR Serverless. The rest (policies of buckets, metric filters, scaling, budgets and their like) have no
behaviour in moto; they get a name and an arn, so that references to them resolve.
"""

# ruff: noqa: ARG002, ARG003, ARG005 - signatures are moto's
from __future__ import annotations

import json
from typing import Any

from moto.ce.responses import CostExplorerResponse
from moto.cloudformation.models import CloudFormationBackend
from moto.core.common_models import CloudFormationModel
from moto.ec2.models import ec2_backends
from moto.ec2.models.internet_gateways import InternetGateway
from moto.ec2.models.route_tables import RouteTable
from moto.ec2.models.vpcs import VPCEndPoint
from moto.emr.models import ElasticMapReduceBackend
from moto.emrserverless.models import EMRServerlessBackend, emrserverless_backends
from moto.moto_api._internal import mock_random
from moto.rds.models import DBInstance, DBParameterGroup
from moto.s3.models import S3Backend
from moto.servicequotas.exceptions import NoSuchResource
from moto.servicequotas.models import ServiceQuotasBackend


class Application(CloudFormationModel):
    """An application of EMR Serverless."""

    __module__ = "moto.emrserverless.models"  # moto's bookkeeping takes the service from it

    def __init__(self, backend: EMRServerlessBackend, properties: dict[str, Any]) -> None:
        self.real = backend.create_application(
            name=properties["Name"],
            release_label=properties["ReleaseLabel"],
            application_type=properties["Type"],
            client_token=mock_random.get_random_hex(16),
            initial_capacity={},
            maximum_capacity={key.lower(): value for key, value in properties.get("MaximumCapacity", {}).items()},
            tags={tag["Key"]: tag["Value"] for tag in properties.get("Tags", [])},
            auto_start_configuration={"enabled": True},
            auto_stop_configuration={
                "enabled": True,
                "idleTimeoutMinutes": int(properties["AutoStopConfiguration"]["IdleTimeoutMinutes"]),
            },
            network_configuration={
                "subnetIds": properties["NetworkConfiguration"]["SubnetIds"],
                "securityGroupIds": properties["NetworkConfiguration"]["SecurityGroupIds"],
            },
        )

    @property
    def physical_resource_id(self) -> str:
        return self.real.id

    @staticmethod
    def cloudformation_name_type() -> str:
        return "Name"

    @staticmethod
    def cloudformation_type() -> str:
        return "AWS::EMRServerless::Application"

    @classmethod
    def has_cfn_attr(cls, attr: str) -> bool:
        return attr in {"ApplicationId", "Arn"}

    def get_cfn_attribute(self, attribute_name: str) -> str:
        return {"ApplicationId": self.real.id, "Arn": self.real.arn}[attribute_name]

    @classmethod
    def create_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: dict[str, Any], account_id: str, region_name: str, **kwargs: Any
    ) -> Application:
        return cls(emrserverless_backends[account_id][region_name], cloudformation_json["Properties"])

    @classmethod
    def update_from_cloudformation_json(
        cls,
        original_resource: Application,
        new_resource_name: str,
        cloudformation_json: dict[str, Any],
        account_id: str,
        region_name: str,
    ) -> Application:
        return original_resource

    @classmethod
    def delete_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: dict[str, Any], account_id: str, region_name: str
    ) -> None:
        # As AWS does: an application that works is not deleted.
        emrserverless_backends[account_id][region_name].delete_application(resource_name)


class _Nameable:
    """A resource that moto has no behaviour for."""

    arn_of = ""

    def __init__(self, resource_name: str, account_id: str, region_name: str) -> None:
        self.name = resource_name
        self.arn = f"arn:aws:{self.arn_of}:{region_name}:{account_id}:{resource_name}"

    @property
    def physical_resource_id(self) -> str:
        return self.arn if self.arn_of == "secretsmanager" else self.name  # what a reference to it is

    @staticmethod
    def cloudformation_name_type() -> str:
        return ""

    @classmethod
    def has_cfn_attr(cls, attr: str) -> bool:
        return True

    def get_cfn_attribute(self, attribute_name: str) -> str:
        return self.arn

    @classmethod
    def create_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: dict[str, Any], account_id: str, region_name: str, **kwargs: Any
    ) -> _Nameable:
        return cls(resource_name, account_id, region_name)

    @classmethod
    def update_from_cloudformation_json(
        cls,
        original_resource: _Nameable,
        new_resource_name: str,
        cloudformation_json: dict[str, Any],
        account_id: str,
        region_name: str,
    ) -> _Nameable:
        return original_resource

    @classmethod
    def delete_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: dict[str, Any], account_id: str, region_name: str
    ) -> None:
        return None


#: moto keeps a list of direct subclasses, so each of these is one, made here.
UNKNOWN_TO_MOTO = [
    "AWS::ApplicationAutoScaling::ScalableTarget",
    "AWS::ApplicationAutoScaling::ScalingPolicy",
    "AWS::Budgets::Budget",
    "AWS::Budgets::BudgetsAction",
    "AWS::CloudWatch::Alarm",
    "AWS::EC2::SecurityGroupEgress",
    "AWS::Logs::MetricFilter",
    "AWS::SecretsManager::Secret",
    "AWS::SNS::Subscription",
    "AWS::SNS::TopicPolicy",
]

_MADE = [
    type(
        name.replace("::", ""),
        (_Nameable, CloudFormationModel),
        {
            "__module__": "moto.cloudformation.models",
            "arn_of": name.split("::")[1].lower(),
            "cloudformation_type": staticmethod(lambda name=name: name),
        },
    )
    for name in UNKNOWN_TO_MOTO
]


def _delete_route_table(cls: Any, resource_name: str, _: Any, account_id: str, region_name: str) -> None:
    backend = ec2_backends[account_id][region_name]
    for association in list(backend.route_tables[resource_name].associations):
        backend.disassociate_route_table(association)
    backend.delete_route_table(resource_name)


def _delete_internet_gateway(cls: Any, resource_name: str, _: Any, account_id: str, region_name: str) -> None:
    backend = ec2_backends[account_id][region_name]
    gateway = backend.internet_gateways[resource_name]
    if gateway.vpc:
        backend.detach_internet_gateway(resource_name, gateway.vpc.id)
    backend.delete_internet_gateway(resource_name)


def _delete_endpoint(cls: Any, resource_name: str, _: Any, account_id: str, region_name: str) -> None:
    # Not the backend's own way, which looks for the endpoint's route in a table that may be gone by now.
    ec2_backends[account_id][region_name].vpc_end_points.pop(resource_name, None)


RouteTable.delete_from_cloudformation_json = classmethod(_delete_route_table)
InternetGateway.delete_from_cloudformation_json = classmethod(_delete_internet_gateway)
VPCEndPoint.delete_from_cloudformation_json = classmethod(_delete_endpoint)
DBParameterGroup.physical_resource_id = property(lambda group: group.name)


# --- Policies of buckets: kept and told as they are. Moto would hold to them without their conditions, and then deny everything.


class BucketPolicy(CloudFormationModel):
    """The policy of a bucket."""

    __module__ = "moto.s3.models"

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket

    @property
    def physical_resource_id(self) -> str:
        return self.bucket

    @staticmethod
    def cloudformation_name_type() -> str:
        return ""

    @staticmethod
    def cloudformation_type() -> str:
        return "AWS::S3::BucketPolicy"

    @classmethod
    def create_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: dict[str, Any], account_id: str, region_name: str, **kwargs: Any
    ) -> BucketPolicy:
        properties = cloudformation_json["Properties"]
        _POLICIES[properties["Bucket"]] = json.dumps(properties["PolicyDocument"]).encode()
        return cls(properties["Bucket"])

    @classmethod
    def update_from_cloudformation_json(
        cls,
        original_resource: BucketPolicy,
        new_resource_name: str,
        cloudformation_json: dict[str, Any],
        account_id: str,
        region_name: str,
    ) -> BucketPolicy:
        return original_resource

    @classmethod
    def delete_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: dict[str, Any], account_id: str, region_name: str
    ) -> None:
        return None


_POLICIES: dict[str, bytes] = {}
S3Backend.get_bucket_policy = lambda self, bucket_name: _POLICIES.get(bucket_name)
S3Backend.put_bucket_policy = lambda self, bucket_name, policy: _POLICIES.__setitem__(bucket_name, bytes(policy))

# --- The secret of a database's master, which moto makes but does not tell CloudFormation; releases of EMR; activated tags.

_attribute, _make = DBInstance.get_cfn_attribute, DBInstance.create_from_cloudformation_json.__func__


def _of_database(database: DBInstance, name: str) -> Any:
    if name == "MasterUserSecret.SecretArn":
        return f"arn:aws:secretsmanager:{database.region}:{database.account_id}:secret:rds!db-0-abcdef"
    return _attribute(database, name)


def _made_database(cls: Any, resource_name: str, cloudformation_json: Any, *given: Any, **named: Any) -> DBInstance:
    database = _make(cls, resource_name, cloudformation_json, *given, **named)
    database.deletion_protection = cloudformation_json["Properties"].get("DeletionProtection", False)
    return database


DBInstance.get_cfn_attribute = _of_database
DBInstance.create_from_cloudformation_json = classmethod(_made_database)
DBInstance.has_cfn_attr = classmethod(lambda cls, attr: attr in _OF_DATABASES)
_OF_DATABASES = {"Endpoint.Address", "Endpoint.Port", "MasterUserSecret.SecretArn"}
ElasticMapReduceBackend.list_release_labels = lambda self: ["emr-spark-8.0.0", "emr-7.13.0", "emr-7.12.0"]
#: Quotas of the account, by code; one that is not here cannot be read.
QUOTAS: dict[str, float] = {}


def _quota(self: Any, service_code: str, quota_code: str) -> dict[str, Any]:
    if quota_code not in QUOTAS:
        raise NoSuchResource
    return {"ServiceCode": service_code, "QuotaCode": quota_code, "Value": QUOTAS[quota_code]}


ServiceQuotasBackend.get_service_quota = _quota
CostExplorerResponse.update_cost_allocation_tags_status = lambda self: json.dumps({"Errors": []})


def _resolved(self: Any, instance: Any, incoming_params: list[dict[str, Any]]) -> dict[str, str]:
    """Return an update's parameters; AWS keeps what a stack has by default as well, moto only what it was given."""
    kept = {**instance.stack_parameters, **instance.parameters}
    return {
        one["ParameterKey"]: kept[one["ParameterKey"]] if one.get("UsePreviousValue") else one["ParameterValue"]
        for one in incoming_params
    }


CloudFormationBackend._resolve_update_parameters = _resolved
