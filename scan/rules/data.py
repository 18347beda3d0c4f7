"""Is what rests safe: rules over buckets, keys, the database, secrets, logs and the registry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from scan.cloudformation import Resource, Variant, each, every, is_always, is_filled, largest
from scan.rules.access import statements

TYPES: Final = {
    "AWS::ECR::Repository", "AWS::KMS::Alias", "AWS::KMS::Key", "AWS::Logs::LogGroup", "AWS::Logs::MetricFilter",
    "AWS::RDS::DBInstance", "AWS::RDS::DBParameterGroup", "AWS::RDS::DBSubnetGroup", "AWS::S3::Bucket", "AWS::S3::BucketPolicy",
    "AWS::SecretsManager::Secret", "AWS::SNS::Subscription", "AWS::SNS::Topic", "AWS::SNS::TopicPolicy",
}  # fmt: skip
_PACKS: Final = "packs/"
_VISITOR_LOG_DAYS: Final = 30
#: Who writes logs into a bucket and cannot use a key of ours.
_DELIVERERS: Final = {
    "logging.s3.amazonaws.com",
    "delivery.logs.amazonaws.com",
    "logdelivery.elasticloadbalancing.amazonaws.com",
}
Found = Iterator[tuple[str, str, str]]


def judge(variant: Variant) -> Found:
    """Yield resource, rule and message of everything that lies open or could be lost."""
    for bucket in variant.of("AWS::S3::Bucket"):
        yield from _bucket(bucket, variant)
    for key in variant.of("AWS::KMS::Key"):
        yield from _retained(key, "without the key nothing that is kept could be read")
        if not is_always(key.properties.get("EnableKeyRotation"), "true"):
            yield key.name, "old-key", "EnableKeyRotation is not true"
    for database in variant.of("AWS::RDS::DBInstance"):
        yield from _database(database, variant)
    for secret in variant.of("AWS::SecretsManager::Secret"):
        if not is_filled(secret.properties.get("KmsKeyId")):
            yield secret.name, "no-kms", "a secret under AWS's own key; expected KmsKeyId"
        if "SecretString" in secret.properties:
            yield (
                secret.name,
                "written-secret",
                "a secret that is written in the template; expected GenerateSecretString",
            )
    for topic in variant.of("AWS::SNS::Topic"):
        if not is_filled(topic.properties.get("KmsMasterKeyId")):
            yield topic.name, "no-kms", "expected KmsMasterKeyId"
    for log in variant.of("AWS::Logs::LogGroup"):
        if not is_filled(log.properties.get("KmsKeyId")):
            yield log.name, "no-kms", "a log that is not under our key; expected KmsKeyId"
        if not is_filled(log.properties.get("RetentionInDays")):
            yield log.name, "no-end", "a log that is kept for ever; expected RetentionInDays"
    for registry in variant.of("AWS::ECR::Repository"):
        if not is_always(registry.properties.get("ImageTagMutability"), "immutable"):
            yield (
                registry.name,
                "moving-image",
                "a tag may be moved to another image; expected ImageTagMutability: IMMUTABLE",
            )
        if not is_always((registry.properties.get("ImageScanningConfiguration") or {}).get("ScanOnPush"), "true"):
            yield registry.name, "unscanned-image", "expected ScanOnPush: true"


def _bucket(bucket: Resource, variant: Variant) -> Found:
    properties = bucket.properties
    policies = [
        policy for policy in variant.of("AWS::S3::BucketPolicy")
        if f"${{{bucket.name}}}" in [str(name) for name in every(policy.properties.get("Bucket"))]
    ]  # fmt: skip
    said = [statement for policy in policies for statement in statements(policy.properties.get("PolicyDocument"))]
    deliverers = {
        str(value)
        for statement in said
        if statement.get("Effect") == "Allow" and isinstance(statement.get("Principal"), dict)
        for value in every(statement["Principal"].get("Service") or [])
    }
    if "delivery.logs.amazonaws.com" in deliverers and len(deliverers) > 1:
        yield (
            bucket.name,
            "shared-bucket",
            "anyone who makes a flow log may write this policy, and other logs lie here; expected a bucket of its own",
        )
    block = properties.get("PublicAccessBlockConfiguration") or {}
    for key in ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"):
        if not is_always(block.get(key), "true"):
            yield (
                bucket.name,
                "public-bucket",
                f"{key} is not true; expected all four of PublicAccessBlockConfiguration",
            )
    for key in ("AccessControl", "WebsiteConfiguration", "CorsConfiguration"):
        if key in properties:
            yield bucket.name, "public-bucket", f"{key}; expected none: nothing is read from a bucket but by a role"
    is_for_delivery = bool(deliverers & _DELIVERERS)
    if is_for_delivery:
        yield from _visitors_are_forgotten(bucket)
    yield from _encryption(bucket, is_for_delivery=is_for_delivery)
    if not any(_is_tls_only(statement, bucket.name) for statement in said):
        yield (
            bucket.name,
            "no-tls",
            "answers without TLS; expected a policy that denies s3:* where aws:SecureTransport is false",
        )
    if not is_always((properties.get("VersioningConfiguration") or {}).get("Status"), "enabled"):
        yield bucket.name, "no-versions", "what is overwritten is lost; expected versioning Enabled"
    yield from _lifecycle(bucket)
    yield from _retained(bucket, "what is in it would go with the stack")
    if not is_for_delivery and not is_filled(
        (properties.get("LoggingConfiguration") or {}).get("DestinationBucketName")
    ):
        yield bucket.name, "no-logs", "nobody could see who read it; expected LoggingConfiguration"


def _encryption(bucket: Resource, *, is_for_delivery: bool) -> Found:
    rules = every((bucket.properties.get("BucketEncryption") or {}).get("ServerSideEncryptionConfiguration") or [])
    if not rules:
        yield bucket.name, "no-kms", "expected BucketEncryption with aws:kms"
    for rule in rules:
        default = rule.get("ServerSideEncryptionByDefault") or {}
        algorithms = {str(one) for one in each(default.get("SSEAlgorithm"))}
        if algorithms == {"AES256"} and is_for_delivery:
            continue
        if not algorithms <= {"aws:kms", "aws:kms:dsse"} or not is_filled(default.get("KMSMasterKeyID")):
            yield (
                bucket.name,
                "no-kms",
                f"encrypted with {', '.join(sorted(algorithms))}; expected aws:kms with our key",
            )


def _is_tls_only(statement: dict[str, Any], bucket: str) -> bool:
    condition = statement.get("Condition") or {}
    test = condition.get("Bool") or {}
    names = {str(name) for name in every(statement.get("Resource") or [])}
    return (
        statement.get("Effect") == "Deny"
        and statement.get("Principal") in ("*", {"AWS": "*"})
        and every(statement.get("Action")) == ["s3:*"]
        and {f"${{{bucket}.Arn}}", f"${{{bucket}.Arn}}/*"} <= names
        and set(condition) == {"Bool"}
        and {key.lower(): str(value).lower() for key, value in test.items()} == {"aws:securetransport": "false"}
    )


def _lifecycle(bucket: Resource) -> Found:
    rules = [
        rule for rule in every((bucket.properties.get("LifecycleConfiguration") or {}).get("Rules") or [])
        if is_always(rule.get("Status"), "enabled")
    ]  # fmt: skip
    if not any(
        1 <= largest((rule.get("AbortIncompleteMultipartUpload") or {}).get("DaysAfterInitiation")) <= 7 and not _prefixes(rule)
        and not rule.get("TagFilters") for rule in rules
    ):  # fmt: skip
        yield (
            bucket.name,
            "unfinished-uploads",
            "pieces of uploads that broke off are billed for ever; expected them to go within 7 days",
        )
    if not any((rule.get("NoncurrentVersionExpiration") or {}).get("NoncurrentDays") for rule in rules):
        yield bucket.name, "old-versions", "old versions are billed for ever; expected NoncurrentVersionExpiration"
    for rule in rules:
        moved = (
            every(rule.get("Transitions") or [])
            + every(rule.get("NoncurrentVersionTransitions") or [])
            + every(rule.get("Transition") or [])
        )
        prefixes = _prefixes(rule)
        if moved and not (prefixes and all(prefix.startswith(_PACKS) for prefix in prefixes)):
            yield (
                bucket.name,
                "storage-class",
                f"small objects cost more in other classes; expected transitions below {_PACKS} alone",
            )


def _visitors_are_forgotten(bucket: Resource) -> Found:
    """Find logs of who came, with addresses, that stay long."""
    rules = [
        rule for rule in every((bucket.properties.get("LifecycleConfiguration") or {}).get("Rules") or [])
        if is_always(rule.get("Status"), "enabled") and "ExpirationInDays" in rule
    ]  # fmt: skip
    days = [largest(rule["ExpirationInDays"]) for rule in rules]
    if not rules or not all(1 <= one <= _VISITOR_LOG_DAYS for one in days):
        yield (
            bucket.name,
            "kept-too-long",
            f"logs with addresses of visitors; expected ExpirationInDays of {_VISITOR_LOG_DAYS} at most",
        )


def _prefixes(rule: dict[str, Any]) -> list[str]:
    nested = rule.get("Filter") or {}
    return [str(one) for one in [*every(rule.get("Prefix") or []), *every(nested.get("Prefix") or [])] if str(one)]


def _database(database: Resource, variant: Variant) -> Found:
    properties = database.properties
    # A snapshot brings its key: one that is not encrypted is refused by StorageEncrypted.
    under_key = is_filled(properties.get("KmsKeyId")) or is_filled(properties.get("DBSnapshotIdentifier"))
    if not is_always(properties.get("StorageEncrypted"), "true") or not under_key:
        yield database.name, "no-kms", "expected StorageEncrypted: true with KmsKeyId"
    if not is_always(properties.get("ManageMasterUserPassword"), "true"):
        yield database.name, "no-rotation", "nobody changes the master's password; expected ManageMasterUserPassword"
    if not is_always(properties.get("DeletionProtection"), "true"):
        yield database.name, "unprotected", "one click deletes it; expected DeletionProtection: true"
    if not is_always(properties.get("PubliclyAccessible"), "false"):
        yield database.name, "public-database", "expected PubliclyAccessible: false, said plainly"
    if not is_filled(properties.get("DBSubnetGroupName")):
        yield database.name, "public-subnet", "stands in the account's default network; expected DBSubnetGroupName"
    if not every(properties.get("VPCSecurityGroups") or []):
        yield database.name, "source-unknown", "the default group lets in too many; expected VPCSecurityGroups"
    for password in each(properties.get("MasterUserPassword")):
        managed = is_always(properties.get("ManageMasterUserPassword"), "true") and password is None
        if not managed and not str(password).startswith("{{resolve:secretsmanager:"):
            yield database.name, "written-secret", "a password that is not from Secrets Manager"
    if not all(largest(one) >= 1 for one in each(properties.get("BackupRetentionPeriod"))):
        yield database.name, "no-backup", "expected BackupRetentionPeriod of a day or more"
    for key in ("DeletionPolicy", "UpdateReplacePolicy"):
        how = database.whole.get(key)
        if how == "Snapshot":
            yield database.name, "kept-for-ever", f"{key}: Snapshot keeps what visitors deleted; expected Delete"
        elif how != "Retain" and not is_always(properties.get("DeleteAutomatedBackups"), "false"):
            yield (
                database.name,
                "not-kept",
                "submissions would go with the stack at once; expected DeleteAutomatedBackups: false",
            )
    if not every(properties.get("EnableCloudwatchLogsExports") or []):
        yield database.name, "no-logs", "expected EnableCloudwatchLogsExports"
    groups = {f"${{{group.name}}}": group for group in variant.of("AWS::RDS::DBParameterGroup")}
    for name in each(properties.get("DBParameterGroupName")):
        settings = (groups[str(name)].properties.get("Parameters") or {}) if str(name) in groups else {}
        if not is_always(settings.get("rds.force_ssl"), "1"):
            yield database.name, "no-tls", "answers without TLS; expected rds.force_ssl: 1"


def _retained(resource: Resource, why: str) -> Found:
    for key in ("DeletionPolicy", "UpdateReplacePolicy"):
        if resource.whole.get(key) != "Retain":
            yield resource.name, "not-kept", f"{why}; expected {key}: Retain"
