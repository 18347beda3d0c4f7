"""Who may do what: rules over every policy of a template, of roles and of things.

No wildcard grants, no policy that grants by leaving out, roles that are passed by name to services by name, and for each role of
this system only the services that it has business with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any, Final

from scan.cloudformation import Resource, Variant, each, every

TYPES: Final = {
    "AWS::IAM::InstanceProfile",
    "AWS::IAM::ManagedPolicy",
    "AWS::IAM::Policy",
    "AWS::IAM::Role",
    "AWS::Lambda::Permission",
}
#: Calls for which AWS knows no resource, and why we need them. A statement may hold "*" if it holds nothing but these.
WITHOUT_RESOURCE: Final = {
    "ecr:getauthorizationtoken": "Fargate fetches the image; the token opens only what ecr:BatchGetImage allows",
    "cloudwatch:getmetricdata": "the owner looks at the numbers of a run",
    "ssmmessages:createcontrolchannel": "Session Manager instead of an open port",
    "ssmmessages:createdatachannel": "Session Manager instead of an open port",
    "ssmmessages:opencontrolchannel": "Session Manager instead of an open port",
    "ssmmessages:opendatachannel": "Session Manager instead of an open port",
}
#: Calls that may name all of one kind, because nothing narrower is known when the role is made.
ALL_OF_A_KIND: Final = {
    "logs:describeloggroups": "EMR Serverless finds its log group by listing",
    "ssm:updateinstanceinformation": "a machine of the cluster tells that it is there; its id is not known before",
}
#: The one policy of AWS's that is taken as it is: it holds itself to what carries EMR's tag.
MANAGED: Final = ("service-role/AmazonEMRServicePolicy_v2",)
#: What each role has to do with, by the end of its name.
SERVICES_OF: Final = {
    "uploader": {"s3", "kms"},
    "batch": {"s3", "kms", "logs", "ssm", "ssmmessages"},
    "service": {"s3", "kms"},
    "errand": {"s3", "kms"},
    "owner": {"s3", "kms", "iam", "cloudformation", "logs", "cloudwatch", "ssm", "servicequotas"},
}
#: Calls that open what our key closes: to be made through the service that holds the bytes, never directly by the role.
_OPENS: Final = ("kms:decrypt", "kms:encrypt", "kms:generatedatakey*", "kms:reencrypt*")
#: Calls with which a role could give itself, or somebody, more than it has.
_ESCALATION: Final = (
    "iam:add*", "iam:attach*", "iam:create*", "iam:delete*", "iam:detach*", "iam:put*", "iam:set*", "iam:update*", "iam:upload*",
    "sts:assumerole*", "kms:putkeypolicy", "lambda:addpermission", "lambda:update*", "organizations:*", "s3:putbucketpolicy",
    "s3:putbucketacl", "s3:putobjectacl", "s3:putbucketpublicaccessblock", "s3:deletebucketpolicy",
    "secretsmanager:putresourcepolicy",
)  # fmt: skip
#: Services whose calls carry an account, so that a policy can ask for ours; without it another account could use them as a proxy.
_CARRY_NO_ACCOUNT: Final = {"ec2.amazonaws.com", "lambda.amazonaws.com"}
_KEYS: Final = {
    "Sid",
    "Effect",
    "Principal",
    "Action",
    "Resource",
    "Condition",
    "NotAction",
    "NotResource",
    "NotPrincipal",
}
#: What follows the account in an arn and is only the name of a kind, not yet of a thing.
_KINDS: Final = re.compile(
    r"^/?(applications|assumed-role|budget|cluster|container-instance|dashboard|db|document|function|instance|instance-profile|key|"
    r"log-group|parameter|policy|repository|role|secret|security-group|service|session|stack|table|task|task-definition|user|volume)?[/:]?$"
)
Found = Iterator[tuple[str, str, str]]


def judge(variant: Variant) -> Found:
    """Yield resource, rule and message of everything that grants more than it should."""
    for resource in variant.resources.values():
        for policy, of_thing in _policies(resource):
            yield from _policy(resource, policy, of_thing=of_thing)
        if resource.type == "AWS::IAM::Role":
            yield from _role(resource)
        elif resource.type == "AWS::Lambda::Permission" and (
            not _is_named(resource.properties.get("SourceArn")) or "*" in every(resource.properties.get("Principal"))
        ):
            yield resource.name, "any-principal", "any user of that service may call; expected Principal and SourceArn"


def statements(document: Any) -> Iterator[dict[str, Any]]:
    """Yield the statements of a policy, given as a mapping, as text, or as a choice of them."""
    for option in each(document):
        whole = json.loads(option) if isinstance(option, str) else option
        yield from every((whole or {}).get("Statement") or [])


def _policies(resource: Resource) -> Iterator[tuple[Any, str]]:
    """Yield every policy of a resource, and of which kind of thing it is: '' for what a role may do, else 'trust', 'key' ..."""
    properties = resource.properties
    for inline in every(properties.get("Policies") or []):
        yield (inline.get("PolicyDocument") if isinstance(inline, dict) else None), ""
    kinds = {
        "AWS::S3::BucketPolicy": "bucket", "AWS::SNS::TopicPolicy": "topic", "AWS::EC2::VPCEndpoint": "endpoint",
        "AWS::KMS::Key": "key", "AWS::ECR::Repository": "registry",
    }  # fmt: skip
    for key in ("PolicyDocument", "KeyPolicy", "RepositoryPolicyText", "ResourcePolicy"):
        if key in properties:
            yield properties[key], kinds.get(resource.type, "" if resource.type.startswith("AWS::IAM::") else "thing")
    if "AssumeRolePolicyDocument" in properties:
        yield properties["AssumeRolePolicyDocument"], "trust"


def _policy(resource: Resource, document: Any, *, of_thing: str) -> Found:
    found = False
    for statement in statements(document):
        found = True
        if (
            not isinstance(statement, dict)
            or set(statement) - _KEYS
            or statement.get("Effect") not in {"Allow", "Deny"}
        ):
            yield resource.name, "not-judged", f"a statement that is none: {str(statement)[:100]}"
            continue
        if statement["Effect"] == "Allow":
            yield from _allowed(resource, statement, of_thing)
        elif "NotPrincipal" in statement:
            yield resource.name, "grant-by-exception", "NotPrincipal; expected Principal"
    if not found:
        yield resource.name, "not-judged", "a policy without statements"


def _allowed(resource: Resource, statement: dict[str, Any], of_thing: str) -> Found:
    for key in ("NotAction", "NotResource", "NotPrincipal"):
        if key in statement:
            yield resource.name, "grant-by-exception", f"{key} allows everything else; expected the opposite, by name"
    actions = [str(action).lower() for action in every(statement.get("Action") or [])]
    condition = condition_of(statement)
    for action in actions:
        if "*" in action or "?" in action or "${" in action or ":" not in action:
            yield resource.name, "wildcard-action", f"allows '{action}'; expected calls by name"
        elif any(fnmatchcase(action, pattern) for pattern in _ESCALATION) and not (
            of_thing in {"trust", "key"} or ("arnequals", "iam:policyarn") in condition
        ):
            yield resource.name, "escalation", f"'{action}' gives out rights; expected nobody to have that"
    if of_thing in {"", "endpoint"} or "Resource" in statement:
        yield from _resources(resource, statement, actions, condition, of_thing)
    if "iam:passrole" in actions:
        yield from _pass_role(resource, statement, condition)
    if of_thing:
        yield from _principals(resource, statement, condition, of_thing)
    if of_thing == "":
        yield from _kept_to(resource, actions)
        yield from _through_a_service(resource, actions, condition)


def _through_a_service(resource: Resource, actions: list[str], condition: dict[tuple[str, str], list[str]]) -> Found:
    """Find a role that may use the key by itself: it could then decrypt whatever bytes it gets hold of."""
    opens = [action for action in actions if any(fnmatchcase(action, pattern) for pattern in _OPENS)]
    through = condition.get(("stringequals", "kms:viaservice"), [])
    if opens and (
        not through or not all(re.fullmatch(r"[a-z0-9]+\.\$\{AWS::Region\}\.amazonaws\.com", s) for s in through)
    ):
        yield resource.name, "key-for-all", f"{', '.join(opens)} by itself; expected StringEquals kms:ViaService"


def _resources(
    resource: Resource,
    statement: dict[str, Any],
    actions: list[str],
    condition: dict[tuple[str, str], list[str]],
    of_thing: str,
) -> Found:
    for name in every(statement.get("Resource") or ["*"]):
        text = str(name)
        if of_thing == "key" and text == "*":  # in the policy of a key this means the key
            continue
        if _is_named(text):
            continue
        rest = [action for action in actions if action not in WITHOUT_RESOURCE] if text == "*" else actions
        kind = all(action in ALL_OF_A_KIND for action in rest) and text != "*" and text.count(":") >= 5
        tagged = any(key.startswith("aws:resourcetag/") for operator, key in condition if operator == "stringequals")
        if rest and not kind and not (tagged and text != "*"):
            yield (
                resource.name,
                "wildcard-resource",
                f"allows {', '.join(rest)[:100]} on '{text}'; expected things by name",
            )


def _is_named(value: Any) -> bool:
    """Whether a resource is one thing, or what lies below one."""
    text = str(value)
    if "*" not in text and "?" not in text:
        return text not in {"", "None"}
    if text.startswith("${"):  # a name from elsewhere, and something below it
        reference, _, below = text.partition("}")
        return below.startswith(("/", ":")) and "*" not in reference
    # What is only known later may hold colons in its own name (AWS::Region), and is no wildcard.
    parts = re.sub(r"\$\{[^}]*\}", "<known>", text).split(":", 5)
    if len(parts) < 6 or any("*" in part or "?" in part for part in parts[:5]):
        return False
    begin = re.split(r"[*?]", parts[5], maxsplit=1)[0]
    if parts[2] == "s3":  # the bucket itself must be whole
        return "/" in begin and len(begin) > 3
    return not _KINDS.match(begin)


def _pass_role(resource: Resource, statement: dict[str, Any], condition: dict[tuple[str, str], list[str]]) -> Found:
    for name in every(statement.get("Resource") or ["*"]):
        if "*" in str(name) or "?" in str(name) or "${param:" in str(name):
            yield resource.name, "pass-role", f"passes '{name}' on; expected a role by name"
    services = condition.get(("stringequals", "iam:passedtoservice"), [])
    if not services or any("*" in service or not service.endswith(".amazonaws.com") for service in services):
        yield resource.name, "pass-role", "passes a role to any service; expected StringEquals iam:PassedToService"


def _principals(
    resource: Resource, statement: dict[str, Any], condition: dict[tuple[str, str], list[str]], of_thing: str
) -> Found:
    for principal in each(statement.get("Principal")):
        named = principal if isinstance(principal, dict) else {"": principal}
        for kind, values in named.items():
            for value in every(values):
                text = str(value)
                if "*" in text or not kind:
                    ours = condition.get(("stringequals", "aws:principalaccount")) == ["${AWS::AccountId}"]
                    if not (of_thing == "endpoint" and (ours or is_of_aws(statement))):
                        yield (
                            resource.name,
                            "any-principal",
                            f"allows '{text}'; expected an account, a role or a service by name",
                        )
                elif kind == "Service":
                    if "amazonaws.com" not in text:
                        yield resource.name, "any-principal", f"service '{text}'; expected one of AWS"
                    elif text not in _CARRY_NO_ACCOUNT and not _asks_for_account(condition):
                        yield (
                            resource.name,
                            "any-account",
                            f"{text} on behalf of any account; expected a condition on aws:SourceAccount",
                        )
                elif kind == "AWS":
                    if not text.startswith(("arn:${AWS::Partition}:iam::${AWS::AccountId}:", "${")):
                        yield (
                            resource.name,
                            "any-account",
                            f"'{text}' is written out; expected this account, or a parameter",
                        )
                else:
                    yield resource.name, "any-principal", f"{kind} '{text}'; expected an account, a role or a service"


def is_of_aws(statement: dict[str, Any]) -> bool:
    """Whether an endpoint lets anybody do one thing in buckets of AWS's own, all by name.

    The machines of EMR and the registry read and write there without credentials of ours.
    """
    theirs = ("al2023-repos-", "repo.", "aws157-", "prod.", "prod-")
    actions = {str(action).lower() for action in every(statement.get("Action") or [])}
    names = [str(name).rpartition(":::")[2] for name in every(statement.get("Resource") or ["*"])]
    return len(actions) == 1 and actions <= {"s3:getobject", "s3:putobject"} and all(
        name.startswith(theirs) and "*" not in name.partition("/")[0] for name in names
    )  # fmt: skip


def _asks_for_account(condition: dict[tuple[str, str], list[str]]) -> bool:
    for (operator, key), values in condition.items():
        if operator in {"stringequals", "arnlike", "arnequals"} and key in {"aws:sourceaccount", "aws:sourcearn"}:
            return all("${AWS::AccountId}" in value or value.startswith("${") for value in values)
        if operator in {"arnlike", "arnequals"} and key.startswith("kms:encryptioncontext:"):
            return all("${AWS::AccountId}" in value for value in values)
    return False


def condition_of(statement: dict[str, Any]) -> dict[tuple[str, str], list[str]]:
    """Return a statement's condition: operator and key, in small letters, to the values."""
    made: dict[tuple[str, str], list[str]] = {}
    for operator, tests in (statement.get("Condition") or {}).items():
        for key, values in (tests if isinstance(tests, dict) else {}).items():
            made[operator.lower(), key.lower()] = [str(value) for value in every(values)]
    return made


# --- Roles ------------------------------------------------------------------------------------------------------------------


def _role(role: Resource) -> Found:
    for arn in every(role.properties.get("ManagedPolicyArns") or []):
        if not str(arn).endswith(MANAGED):
            yield (
                role.name,
                "managed-policy",
                f"takes over '{arn}', which someone else may change; expected statements of its own",
            )
    if not every(role.properties.get("AssumeRolePolicyDocument") or []):
        yield role.name, "any-principal", "no AssumeRolePolicyDocument"
    for statement in statements(role.properties.get("AssumeRolePolicyDocument")):
        for action in every(statement.get("Action") or []):
            if str(action).lower() != "sts:assumerole":
                yield role.name, "wildcard-action", f"may be taken on by '{action}'; expected sts:AssumeRole"


def _kept_to(resource: Resource, actions: list[str]) -> Found:
    names = [str(name) for name in every(resource.properties.get("RoleName") or [])]
    for kind, services in SERVICES_OF.items():
        if resource.type == "AWS::IAM::Role" and any(name.endswith(f"-{kind}") for name in names):
            for action in actions:
                if action.partition(":")[0] not in services:
                    yield (
                        resource.name,
                        "not-its-business",
                        f"role {kind} may call {action}; expected {', '.join(sorted(services))} alone",
                    )
                elif kind == "uploader" and "delete" in action:
                    yield (
                        resource.name,
                        "not-its-business",
                        f"the uploader may call {action}; expected it to delete nothing",
                    )
