"""One-off tasks inside the service's network, with the service's own image and login: tokens, export, purge.

Nothing outside this network can reach the database. Tokens never pass through a task: the command creates a token, stores it in
Secrets Manager and passes only its hash to the task.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from fruits.aws.calls import Aws, AwsAbsentError, AwsError, Call
from fruits.aws.installation import stacks
from fruits.aws.jobs.submission import REVIEWED
from fruits.errors import ConfigError

_CONTAINER: Final = "errand"
_TOKEN_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,60}")
_POLL_S: Final = 3.0
#: Timeout of a task; an export of ten million photos takes less.
_PATIENCE_S: Final = 4 * 3600


@dataclass(frozen=True, slots=True)
class TaskResources:
    """The resources of an installation that tasks need, from the outputs of its stacks."""

    name: str
    cluster: str
    task: str
    subnets: tuple[str, ...]
    group: str
    log_group: str
    photos: str
    key: str

    @classmethod
    def of(cls, aws: Aws, name: str) -> TaskResources:
        """Read the outputs of the stacks; raise :class:`AwsAbsentError` if there is no service."""
        told = stacks.outputs(aws, name, ["storage", "service"])
        return cls(
            name, told["ClusterName"], told["ErrandTask"], tuple(told["ErrandSubnets"].split(",")), told["ErrandGroup"],
            told["LogGroup"], told["PhotosBucket"], told["KeyArn"],
        )  # fmt: skip

    def start(self, words: Sequence[str]) -> Call:
        """Return the call that starts ``fruits`` with these arguments."""
        network = {"subnets": list(self.subnets), "securityGroups": [self.group], "assignPublicIp": "DISABLED"}
        return Call("ecs", "run_task", {
            "cluster": self.cluster, "taskDefinition": self.task, "launchType": "FARGATE", "count": 1, "startedBy": "fruits-aws",
            "networkConfiguration": {"awsvpcConfiguration": network},
            "overrides": {"containerOverrides": [{"name": _CONTAINER, "command": list(words)}]},
        }, "a task for a minute: fruits " + " ".join(words))  # fmt: skip

    def secret(self, token: str) -> str:
        """Return the name of the secret that stores a token."""
        return f"{self.name}/tokens/{token}"


def run(
    aws: Aws,
    resources: TaskResources,
    words: Sequence[str],
    *,
    note: Callable[[str], None] = lambda _: None,
    poll_s: float = _POLL_S,
) -> list[str]:
    """Run ``fruits`` with these arguments inside the network, wait until it ends and return its output lines.

    Raises
    ------
    AwsError
        If the task cannot start, or ends with an exit code other than 0; includes its last lines.
    """
    answer = aws.make(resources.start(words))
    if not answer.get("tasks"):
        reasons = "; ".join(str(one.get("reason")) for one in answer.get("failures", ())) or "no reason given"
        raise AwsError(f"the task cannot start ({reasons}); see 'fruits aws status', then try again")
    arn = answer["tasks"][0]["taskArn"]
    note(f"task {arn.rpartition('/')[2]} started; it takes a minute")
    for _ in range(int(_PATIENCE_S / max(poll_s, 0.01))):
        [task] = aws.call("ecs", "describe_tasks", cluster=resources.cluster, tasks=[arn])["tasks"]
        if task["lastStatus"] == "STOPPED":
            break
        time.sleep(poll_s)
    else:
        raise AwsError(f"task {arn} still runs after four hours; look at it in the console of ECS")
    lines = _lines(aws, resources, arn)
    code = next((one.get("exitCode") for one in task["containers"] if one["name"] == _CONTAINER), None)
    if code != 0:
        said = "".join(f"\n  {line}" for line in lines[-8:])
        why = task.get("stoppedReason") or "no reason given"
        raise AwsError(
            f"the task ended with {f'exit code {code}' if code is not None else why}: fruits {' '.join(words)}{said}"
        )
    return lines


def add_token(
    aws: Aws, resources: TaskResources, who: str, role: str, rate: int | None = None, *,
    note: Callable[[str], None] = lambda _: None, poll_s: float = _POLL_S,
) -> dict[str, Any]:  # fmt: skip
    """Create a token, store it in Secrets Manager and register its hash with the service.

    Raises
    ------
    ConfigError
        If the name is not valid for a secret.
    AwsError
        If the secret already exists, or the service refuses; the new secret is then deleted.
    """
    from fruits.service.submissions.tokens import digest_of, new_token  # noqa: PLC0415 - of the extra "serve"

    secret, token = resources.secret(_checked(who)), new_token()
    try:
        made = aws.call(
            "secretsmanager", "create_secret", Name=secret, SecretString=token, KmsKeyId=resources.key,
            Description=f"token '{who}' of the recognition service, role {role}",
            Tags=[{"Key": "fruits", "Value": resources.name}],
        )  # fmt: skip
    except AwsError as exc:
        if "ResourceExistsException" not in str(exc):
            raise
        raise AwsError(
            f"there is a secret '{secret}' already; revoke that token first: fruits aws token {who} --revoke"
        ) from exc
    words = ["tokens", "add", who, "--role", role, "--sha256", digest_of(token)]
    try:
        run(aws, resources, [*words, *(["--rate", str(rate)] if rate is not None else [])], note=note, poll_s=poll_s)
    except BaseException:
        with suppress(AwsError):
            aws.call("secretsmanager", "delete_secret", SecretId=secret, ForceDeleteWithoutRecovery=True)
        raise
    return {"name": who, "role": role, "secret": secret, "arn": made["ARN"]}


def revoke_token(
    aws: Aws,
    resources: TaskResources,
    who: str,
    *,
    note: Callable[[str], None] = lambda _: None,
    poll_s: float = _POLL_S,
) -> dict[str, Any]:
    """Revoke a token: the service refuses it within seconds, and its secret is deleted."""
    secret = resources.secret(_checked(who))
    try:
        run(aws, resources, ["tokens", "revoke", who], note=note, poll_s=poll_s)
    except AwsError as exc:
        # A secret whose token the service does not know is useless and blocks the name.
        if f"no token '{who}' is in use" not in str(exc):
            raise
        note(f"the service has no token {who}; its secret is deleted")
    with suppress(AwsAbsentError):
        aws.call("secretsmanager", "delete_secret", SecretId=secret, ForceDeleteWithoutRecovery=True)
    return {"name": who, "revoked": True, "secret": secret}


def export(
    aws: Aws, resources: TaskResources, *, note: Callable[[str], None] = lambda _: None, poll_s: float = _POLL_S
) -> dict[str, Any]:
    """Export the reviewed photos to where the next run can read them; return the report of the export."""
    words = [
        "submissions",
        "export",
        "--to",
        f"s3://{resources.photos}/{REVIEWED}",
        "--photos",
        f"s3://{resources.photos}/submissions",
    ]
    told = _json_result(run(aws, resources, [*words, "--json"], note=note, poll_s=poll_s))
    return {**told, "to": f"s3://{resources.photos}/{REVIEWED}"}


def purge(
    aws: Aws, resources: TaskResources, keep_days: int, *, adopt: bool = False, note: Callable[[str], None] = lambda _: None,
    poll_s: float = _POLL_S,
) -> dict[str, Any]:  # fmt: skip
    """Delete old submissions and scrub the database's files; ``adopt`` as in ``fruits submissions purge``."""
    words = [
        "submissions",
        "purge",
        "--keep-days",
        str(keep_days),
        "--photos",
        f"s3://{resources.photos}/submissions",
        "--json",
    ]
    return _json_result(run(aws, resources, [*words, *(["--adopt"] if adopt else [])], note=note, poll_s=poll_s))


def _lines(aws: Aws, resources: TaskResources, arn: str) -> list[str]:
    stream = f"{_CONTAINER}/{_CONTAINER}/{arn.rpartition('/')[2]}"
    found: list[str] = []
    with suppress(AwsAbsentError):  # a task that never started has no log
        for page in aws.pages("logs", "filter_log_events", logGroupName=resources.log_group, logStreamNames=[stream]):
            found += [str(event["message"]).rstrip() for event in page["events"]]
    return found


def _json_result(lines: list[str]) -> dict[str, Any]:
    """Return the one JSON object among the lines."""
    for line in reversed(lines):
        with suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict):
                return found
    raise AwsError("the task ended well but its log has no result; look at the log group of the service")


def _checked(who: str) -> str:
    if not _TOKEN_NAME.fullmatch(who):
        raise ConfigError(
            f"token '{who[:80]}': expected a name of letters, digits, . _ @ and -, which its secret is called by"
        )
    return who
