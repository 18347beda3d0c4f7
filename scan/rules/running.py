"""Does what runs end, write logs, and run as little as it can: rules over clusters, tasks, functions, the budget."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from scan.cloudformation import Resource, Variant, each, every, is_always, is_filled, largest

TYPES: Final = {
    "AWS::ApplicationAutoScaling::ScalableTarget", "AWS::ApplicationAutoScaling::ScalingPolicy", "AWS::Budgets::Budget",
    "AWS::Budgets::BudgetsAction", "AWS::CloudWatch::Alarm", "AWS::CloudWatch::Dashboard", "AWS::ECS::Cluster",
    "AWS::ECS::Service", "AWS::ECS::TaskDefinition", "AWS::EMR::Cluster", "AWS::EMR::SecurityConfiguration",
    "AWS::EMRServerless::Application",
    "AWS::Lambda::Function",
}  # fmt: skip
_MOST_IDLE_S: Final = 3600
_SECRET: Final = re.compile(r"pass(word|wd)?|secret|token|credential|api_?key|private_?key", re.IGNORECASE)
_DIGEST: Final = re.compile(r"@sha256:[0-9a-f]{64}$")
Found = Iterator[tuple[str, str, str]]


def judge(variant: Variant) -> Found:
    """Yield resource, rule and message of what runs too long, too wide or unseen."""
    for cluster in variant.of("AWS::EMR::Cluster"):
        yield from _cluster(cluster, variant)
    for application in variant.of("AWS::EMRServerless::Application"):
        yield from _application(application)
    for task in variant.of("AWS::ECS::TaskDefinition"):
        yield from _task(task, variant)
    for service in variant.of("AWS::ECS::Service"):
        if "DesiredCount" in service.properties and variant.of("AWS::ApplicationAutoScaling::ScalableTarget"):
            yield service.name, "resets-scaling", "DesiredCount sets back what scaling decided; expected none"
        settings = (service.properties.get("NetworkConfiguration") or {}).get("AwsvpcConfiguration") or {}
        if not is_always(settings.get("AssignPublicIp"), "disabled"):
            yield service.name, "public-address", "tasks get a public address; expected AssignPublicIp: DISABLED"
        if not every(settings.get("SecurityGroups") or []):
            yield service.name, "source-unknown", "the default group lets in too many; expected SecurityGroups"
        if not is_always(service.properties.get("EnableExecuteCommand", False), "false"):
            yield service.name, "shell", "EnableExecuteCommand opens a shell in tasks; expected none"
    for function in variant.of("AWS::Lambda::Function"):
        variables = ((function.properties.get("Environment") or {}).get("Variables")) or {}
        yield from _no_secrets(function.name, [(str(key), value) for key, value in variables.items()])


def missing(variants: list[Variant]) -> Iterator[tuple[str, str]]:
    """Yield what an installation lacks as a whole."""
    budgets = [resource for variant in variants for resource in variant.of("AWS::Budgets::Budget")]
    if not any(every(budget.properties.get("NotificationsWithSubscribers") or []) for budget in budgets):
        yield "no-budget", "nobody is told what it costs; expected a Budget with NotificationsWithSubscribers"
    actions = [resource for variant in variants for resource in variant.of("AWS::Budgets::BudgetsAction")]
    if not any(
        is_always(action.properties.get("ApprovalModel"), "automatic")
        and largest((action.properties.get("ActionThreshold") or {}).get("Value")) in range(1, 101)
        for action in actions
    ):
        yield (
            "no-stop",
            "nothing stops what costs too much; expected a BudgetsAction that is AUTOMATIC at 100 percent or below",
        )
    if not any(variant.of("AWS::CloudWatch::Dashboard") for variant in variants):
        yield "no-dashboard", "nobody sees a run; expected a Dashboard"


def _cluster(cluster: Resource, variant: Variant) -> Found:
    properties = cluster.properties
    instances = properties.get("Instances") or {}
    idle = largest((properties.get("AutoTerminationPolicy") or {}).get("IdleTimeout"))
    if not 1 <= idle <= _MOST_IDLE_S:
        yield (
            cluster.name,
            "no-end",
            f"an idle cluster is billed on; expected AutoTerminationPolicy within {_MOST_IDLE_S} s",
        )
    if not (properties.get("ManagedScalingPolicy") or {}).get("ComputeLimits"):
        yield cluster.name, "no-limit", "expected ManagedScalingPolicy with ComputeLimits"
    if not is_always(instances.get("TerminationProtected", False), "false"):
        yield cluster.name, "no-end", "TerminationProtected keeps the stack from being deleted; expected false"
    if "Ec2KeyName" in instances:
        yield cluster.name, "ssh", "a key to log in with; expected none: Session Manager needs no key"
    if not is_filled(properties.get("LogUri")):
        yield cluster.name, "no-logs", "expected LogUri"
    if not all(
        instances.get(key)
        for key in ("EmrManagedMasterSecurityGroup", "EmrManagedSlaveSecurityGroup", "ServiceAccessSecurityGroup")
    ):
        yield cluster.name, "source-unknown", "EMR would make groups of its own; expected the three by name"
    for key in ("AdditionalMasterSecurityGroups", "AdditionalSlaveSecurityGroups"):
        if every(instances.get(key) or []):
            yield cluster.name, "source-unknown", f"{key}; expected none beside EMR's three"
    for step in every(properties.get("BootstrapActions") or []):
        path = str(((step or {}).get("ScriptBootstrapAction") or {}).get("Path"))
        if "${import:" not in path:
            yield cluster.name, "foreign-code", f"every machine would run '{path}'; expected a script in our bucket"
    for fleet in (instances.get("MasterInstanceFleet"), instances.get("CoreInstanceFleet")):
        for config in every((fleet or {}).get("InstanceTypeConfigs") or []):
            if config.get("CustomAmiId"):
                yield cluster.name, "foreign-code", "CustomAmiId; expected EMR's own"
    yield from _safeguards(cluster, variant)


def _safeguards(cluster: Resource, variant: Variant) -> Found:
    known = {f"${{{one.name}}}": one for one in variant.of("AWS::EMR::SecurityConfiguration")}
    for name in each(cluster.properties.get("SecurityConfiguration")):
        settings: dict[str, Any] = (
            (known[str(name)].properties.get("SecurityConfiguration") or {}) if str(name) in known else {}
        )
        metadata = settings.get("InstanceMetadataServiceConfiguration") or {}
        if not is_always(metadata.get("MinimumInstanceMetadataServiceVersion"), "2"):
            yield (
                cluster.name,
                "imds",
                "the first version of the metadata service answers any request; expected version 2 at least",
            )
        if not is_always(metadata.get("HttpPutResponseHopLimit"), "1"):
            yield cluster.name, "imds", "the metadata service answers across hops; expected HttpPutResponseHopLimit: 1"
        encryption = settings.get("EncryptionConfiguration") or {}
        rest = encryption.get("AtRestEncryptionConfiguration") or {}
        if not is_always(encryption.get("EnableAtRestEncryption"), "true") or not is_always(
            (rest.get("LocalDiskEncryptionConfiguration") or {}).get("EnableEbsEncryption"), "true"
        ):
            yield cluster.name, "no-kms", "disks of the machines are not encrypted"


def _application(application: Resource) -> Found:
    properties = application.properties
    stop = properties.get("AutoStopConfiguration") or {}
    if (
        not is_always(stop.get("Enabled"), "true")
        or not 1 <= largest(stop.get("IdleTimeoutMinutes")) <= _MOST_IDLE_S // 60
    ):
        yield (
            application.name,
            "no-end",
            f"an idle application is billed on; expected AutoStopConfiguration within {_MOST_IDLE_S // 60} min",
        )
    limits = properties.get("MaximumCapacity") or {}
    if not all(is_filled(limits.get(key)) for key in ("Cpu", "Memory")):
        yield application.name, "no-limit", "may grow without end; expected MaximumCapacity"
    if properties.get("InitialCapacity"):
        yield application.name, "no-end", "InitialCapacity is billed while it waits; expected none"
    network = properties.get("NetworkConfiguration") or {}
    if not every(network.get("SecurityGroupIds") or []):
        yield application.name, "source-unknown", "expected SecurityGroupIds"
    if not is_filled(
        (((properties.get("MonitoringConfiguration") or {}).get("S3MonitoringConfiguration")) or {}).get("LogUri")
    ):
        yield application.name, "no-logs", "expected S3MonitoringConfiguration with LogUri"


def _task(task: Resource, variant: Variant) -> Found:
    kept = {
        str(name)
        for service in variant.of("AWS::ECS::Service")
        for name in each(service.properties.get("TaskDefinition"))
    }
    for container in every(task.properties.get("ContainerDefinitions") or []):
        stays = is_always(container.get("Essential", True), "true")
        yield from _database_login(task.name, container, variant, stays=stays)
        if not is_always(container.get("ReadonlyRootFilesystem"), "true"):
            yield task.name, "writable-root", "expected ReadonlyRootFilesystem: true"
        if not is_always(container.get("Privileged", False), "false"):
            yield task.name, "privileged", "expected Privileged: false"
        if str(container.get("User", "root")).partition(":")[0] in {"root", "0"}:
            yield task.name, "privileged", "runs as root; expected another User"
        for image in each(container.get("Image")):
            # A parameter whose pattern asks for a digest leaves no other way.
            if not _DIGEST.search(str(image)) and not str(image).startswith("${param:"):
                yield task.name, "moving-image", f"image '{image}' may change under its tag; expected it by @sha256:"
        if not (container.get("LogConfiguration") or {}).get("LogDriver"):
            yield task.name, "no-logs", "expected LogConfiguration"
        if stays and f"${{{task.name}}}" in kept and not container.get("HealthCheck"):
            yield task.name, "no-health", "expected HealthCheck"
        yield from _no_secrets(
            task.name, [(str(one.get("Name")), one.get("Value")) for one in every(container.get("Environment") or [])]
        )


def _database_login(name: str, container: dict[str, Any], variant: Variant, *, stays: bool) -> Found:
    """Find a container that does not know whom it speaks to, or is the database's master while it stays."""
    databases = variant.of("AWS::RDS::DBInstance")
    masters = {str(one) for database in databases for one in each(database.properties.get("MasterUsername"))}
    urls = [
        str(url)
        for one in every(container.get("Environment") or [])
        for url in each(one.get("Value"))
        if str(url).startswith("postgres")
    ]
    for url in urls:
        if "sslmode=verify-full" not in url or "sslrootcert=/" not in url:
            yield name, "unverified-tls", "takes anybody's certificate; expected sslmode=verify-full and sslrootcert"
        if stays and url.partition("://")[2].partition("@")[0].partition(":")[0] in masters:
            yield name, "database-master", "works as the database's master; expected a login of its own"
    for secret in every(container.get("Secrets") or []):
        if stays and any("MasterUserSecret" in str(one) for one in each(secret.get("ValueFrom"))):
            yield name, "database-master", "is given the master's password; expected one of its own"


def _no_secrets(name: str, variables: list[tuple[str, Any]]) -> Found:
    for key, value in variables:
        if _SECRET.search(key) or any(re.search(r"://[^/@\s]*:[^/@\s]+@", str(one)) for one in each(value)):
            yield (
                name,
                "written-secret",
                f"'{key}' readable by everyone who may look at the task; expected it in Secrets",
            )
