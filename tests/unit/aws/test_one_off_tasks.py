"""One-off tasks of a service's owner: what is started, and that a token goes to Secrets Manager and nowhere else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fruits.aws import one_off_tasks
from fruits.aws.calls import AwsError, Call
from fruits.aws.one_off_tasks import TaskResources
from fruits.errors import ConfigError
from fruits.service.submissions.tokens import PREFIX, digest_of

RESOURCES = TaskResources(
    "fruits",
    "fruits-service",
    "fruits-errand",
    ("subnet-a", "subnet-b"),
    "sg-1",
    "/fruits/fruits/service",
    "P",
    "arn:key",
)
ARN = "arn:aws:ecs:eu-west-1:1:task/fruits-service/0123"


class Recorded:
    """An ECS whose task ends as it is told, with these lines in its log."""

    def __init__(self, code: int | None = 0, lines: tuple[str, ...] = (), **answers: Any) -> None:
        self.made: list[Call] = []
        self._code, self._lines, self._answers, self._looks = code, lines, answers, 0

    def call(self, service: str, operation: str, **parameters: Any) -> Any:
        return self.make(Call(service, operation, parameters))

    def make(self, call: Call) -> Any:
        self.made.append(call)
        if call.operation in self._answers:
            answer = self._answers[call.operation]
            if isinstance(answer, Exception):
                raise answer
            return answer
        if call.operation == "run_task":
            return {"tasks": [{"taskArn": ARN}]}
        if call.operation == "describe_tasks":
            self._looks += 1
            ended = self._looks > 1
            containers = [{"name": "errand", **({"exitCode": self._code} if ended and self._code is not None else {})}]
            return {
                "tasks": [
                    {"lastStatus": "STOPPED" if ended else "PENDING", "containers": containers, "stoppedReason": "why"}
                ]
            }
        return {"ARN": "arn:secret"}

    def pages(self, service: str, operation: str, **parameters: Any) -> Any:
        self.made.append(Call(service, operation, parameters))
        yield {"events": [{"message": f"{line}\n"} for line in self._lines]}

    def of(self, operation: str) -> list[Any]:
        return [call.parameters for call in self.made if call.operation == operation]

    def words(self) -> list[str]:
        [task] = self.of("run_task")
        [container] = task["overrides"]["containerOverrides"]
        return list(container["command"])


def test_a_token_goes_to_secrets_manager_and_the_task_is_told_its_hash() -> None:
    aws = Recorded()
    said: list[str] = []
    done = one_off_tasks.add_token(aws, RESOURCES, "me", "owner", 600, note=said.append, poll_s=0)
    [made] = aws.of("create_secret")
    token = made["SecretString"]
    assert token.startswith(PREFIX)
    assert (made["Name"], made["KmsKeyId"]) == ("fruits/tokens/me", "arn:key")
    assert aws.words() == ["tokens", "add", "me", "--role", "owner", "--sha256", digest_of(token), "--rate", "600"]
    # Nothing else that was sent, said or returned holds it.
    others = [call.parameters for call in aws.made if call.operation != "create_secret"]
    assert token not in json.dumps([others, said, done], default=str)
    assert done["secret"] == "fruits/tokens/me"


def test_a_task_runs_inside_the_network_with_the_services_group() -> None:
    aws = Recorded()
    one_off_tasks.run(aws, RESOURCES, ["--version"], poll_s=0)
    [task] = aws.of("run_task")
    assert (task["cluster"], task["taskDefinition"], task["launchType"]) == (
        "fruits-service",
        "fruits-errand",
        "FARGATE",
    )
    assert task["networkConfiguration"]["awsvpcConfiguration"] == {
        "subnets": ["subnet-a", "subnet-b"], "securityGroups": ["sg-1"], "assignPublicIp": "DISABLED",
    }  # fmt: skip
    [log] = aws.of("filter_log_events")
    assert log == {"logGroupName": "/fruits/fruits/service", "logStreamNames": ["errand/errand/0123"]}


@pytest.mark.parametrize(("answers", "words"), [
    ({"code": 2, "lines": ("fruits: there is a token 'me' already",)}, r"exit code 2: fruits tokens add me[\s\S]*already"),
    ({"code": None}, "the task ended with why"),
    ({"run_task": {"tasks": [], "failures": [{"reason": "Capacity is unavailable"}]}}, "cannot start .Capacity is unavailable"),
])  # fmt: skip
def test_where_the_service_refuses_no_secret_is_left(answers: dict[str, Any], words: str) -> None:
    aws = Recorded(**answers)
    with pytest.raises(AwsError, match=words):
        one_off_tasks.add_token(aws, RESOURCES, "me", "api", poll_s=0)
    assert aws.of("delete_secret") == [{"SecretId": "fruits/tokens/me", "ForceDeleteWithoutRecovery": True}]


def test_a_secret_that_is_there_is_not_overwritten() -> None:
    aws = Recorded(create_secret=AwsError("secretsmanager.create_secret: ResourceExistsException: exists"))
    with pytest.raises(AwsError, match="revoke that token first: fruits aws token me --revoke"):
        one_off_tasks.add_token(aws, RESOURCES, "me", "api", poll_s=0)
    assert aws.of("run_task") == aws.of("delete_secret") == []


@pytest.mark.parametrize("who", ["", "a/b", "-x", "a b", "x" * 80, "é"])
def test_a_name_that_no_secret_can_have_is_refused(who: str) -> None:
    with pytest.raises(ConfigError, match="expected a name of letters"):
        one_off_tasks.add_token(Recorded(), RESOURCES, who, "api", poll_s=0)


def test_revoking_ends_the_token_before_its_secret_goes() -> None:
    aws = Recorded()
    one_off_tasks.revoke_token(aws, RESOURCES, "me", poll_s=0)
    assert aws.words() == ["tokens", "revoke", "me"]
    names = [call.name for call in aws.made]
    assert names.index("ecs.run_task") < names.index("secretsmanager.delete_secret")


def test_a_secret_without_a_token_can_be_revoked_and_one_whose_token_may_work_stays() -> None:
    aws = Recorded(1, lines=("fruits: no token 'me' is in use; see: fruits tokens list",))
    assert one_off_tasks.revoke_token(aws, RESOURCES, "me", poll_s=0)["revoked"] is True
    assert aws.of("delete_secret") == [{"SecretId": "fruits/tokens/me", "ForceDeleteWithoutRecovery": True}]
    aws = Recorded(1, lines=("fruits: the database cannot be written",))
    with pytest.raises(AwsError, match="cannot be written"):
        one_off_tasks.revoke_token(aws, RESOURCES, "me", poll_s=0)
    assert aws.of("delete_secret") == []


def test_an_export_goes_where_a_run_may_read_and_tells_its_counts() -> None:
    aws = Recorded(lines=("waiting", json.dumps({"photos": 3, "labels": {"Apple": 3}, "written": 2, "removed": 1})))
    done = one_off_tasks.export(aws, RESOURCES, poll_s=0)
    assert aws.words() == [
        "submissions",
        "export",
        "--to",
        "s3://P/reviewed",
        "--photos",
        "s3://P/submissions",
        "--json",
    ]
    assert (done["photos"], done["to"]) == (3, "s3://P/reviewed")
    aws = Recorded(lines=(json.dumps({"deleted": 7, "finished": 0}),))
    assert one_off_tasks.purge(aws, RESOURCES, 30, poll_s=0)["deleted"] == 7
    assert aws.words()[:4] == ["submissions", "purge", "--keep-days", "30"]


def test_the_words_of_errands_are_those_of_the_command_line() -> None:
    import typer

    from fruits.cli.main import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    calls = []
    asked = (
        lambda aws: one_off_tasks.add_token(aws, RESOURCES, "me", "api", 5, poll_s=0),
        lambda aws: one_off_tasks.revoke_token(aws, RESOURCES, "me", poll_s=0),
        lambda aws: one_off_tasks.export(aws, RESOURCES, poll_s=0),
        lambda aws: one_off_tasks.purge(aws, RESOURCES, 9, adopt=True, poll_s=0),
    )
    for ask in asked:
        aws = Recorded(lines=("{}",))
        ask(aws)
        calls.append(aws.words())
    for group, name, *rest in calls:
        with commands[group].commands[name].make_context(name, list(rest)) as context:
            assert context.params
