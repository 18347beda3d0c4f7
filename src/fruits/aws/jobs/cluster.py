"""Jobs on the cluster: start, follow, resume following from elsewhere, cancel.

A job is recorded beside its results, in ``OUT/job.json``. So the terminal that started it may be closed: the same command, from
any machine, continues to follow it. Submitting twice starts one job, because both requests collect_files the same client token.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

from fruits.aws import upload
from fruits.aws.calls import Aws, AwsAbsentError, AwsError
from fruits.aws.jobs.job import Job
from fruits.aws.jobs.submission import JOB, Installation, Submission, key_of, yarn_tag
from fruits.errors import ConfigError
from fruits.storage.sanitising import json_text

#: States of EMR Serverless and of a step of EMR on EC2.
GOOD: Final = ("SUCCESS", "COMPLETED")
BAD: Final = ("FAILED", "CANCELLED", "INTERRUPTED")


def running_job(aws: Aws, installation: Installation, job: Job) -> dict[str, Any] | None:
    """Return the ``job.json`` of the same job if it is running, else None; following it needs no package.

    Raises
    ------
    AwsError
        If OUT has an unfinished job with other options, or AWS refuses.
    """
    before = read_job(aws, installation, key_of(installation, job.folder))
    return before if before is not None and _goes_on(aws, before, job) else None


def submit(aws: Aws, submission: Submission, *, estimate_usd: float | None = None) -> dict[str, Any]:
    """Start a run, or find the one already running; return its ``job.json``.

    Raises
    ------
    AwsError
        If OUT has an unfinished job with other options, or AWS refuses.
    """
    installation, choices = submission.installation, submission.job.as_json()
    before = read_job(aws, installation, submission.out_key)
    if before is not None and _goes_on(aws, before, submission.job):
        return before
    if installation.compute == "serverless" and not installation.has_image:
        raise ConfigError(
            "the serverless application has no image to run, which brings Python 3.11; build docker/Dockerfile.emr, push it to "
            "WorkersRepositoryUri (fruits aws status --json), then 'fruits aws deploy --set batch.Image=...@sha256:...'; "
            "docs/aws.md shows it whole. Or deploy with --set batch.Compute=ec2, which needs none"
        )
    for path, key in submission.files:
        upload.send(aws, path, installation.results, key)
    told = json_text([choices, submission.conf(), before["job"] if before else None], sort_keys=True)
    token = hashlib.sha256(told.encode()).hexdigest()[:64]
    answer = aws.make(submission.start(token))
    started = {
        "job": answer["StepIds"][0] if installation.compute == "ec2" else answer["jobRunId"],
        "compute": installation.compute,
        "application": installation.application or installation.cluster,
        "region": installation.region,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "choices": choices,
        "tag": yarn_tag(token),
        "package": dict(submission.package.versions),
        "program": submission.package.program.sha256,
        "environment": submission.package.environment.sha256 if submission.package.environment else None,
        "estimate_usd": estimate_usd,
    }
    aws.call(
        "s3",
        "put_object",
        Bucket=installation.results,
        Key=f"{submission.out_key}/{JOB}",
        Body=json_text(started, indent=1).encode(),
    )
    return started


def _goes_on(aws: Aws, before: Mapping[str, Any], job: Job) -> bool:
    """Return whether a job is unfinished; raise :class:`AwsError` if it is and has other options."""
    now = state(aws, before)["state"]
    if now in (*GOOD, *BAD):
        return False
    if _deciding(before["choices"]) != _deciding(job.as_json()):
        raise AwsError(
            f"on {job.out} a job with other choices is under way ({before['job']}, {now}); wait for it, end it with --cancel, "
            "or choose another --to"
        )
    return True


def _deciding(choices: str) -> dict[str, Any]:
    """Return the options that determine the results."""
    said: dict[str, Any] = json.loads(choices)
    chosen = {name: value for name, value in said.get("choices", {}).items() if name not in ("core_hour_usd", "repair")}
    return {**said, "choices": chosen}


def read_job(aws: Aws, installation: Installation, out_key: str) -> dict[str, Any] | None:
    """Return the ``job.json`` of an OUT, or None."""
    try:
        body = aws.call("s3", "get_object", Bucket=installation.results, Key=f"{out_key}/{JOB}")["Body"].read()
        found = json.loads(body)
        if not isinstance(found, dict) or not {"job", "choices", "compute", "application"} <= found.keys():
            raise ValueError("not a job")
    except AwsAbsentError:
        return None
    except ValueError as exc:
        raise AwsError(
            f"s3://{installation.results}/{out_key}/{JOB} is damaged ({exc}); delete it, then run again"
        ) from exc
    return found


def state(aws: Aws, started: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of a job: ``state``, ``details`` and, once it has ended, ``billed`` (vCPU hours and GB hours)."""
    if started["compute"] == "ec2":
        step = aws.call("emr", "describe_step", ClusterId=started["application"], StepId=started["job"])["Step"]
        status = step["Status"]
        failure = status.get("FailureDetails", {})
        return {
            "state": status["State"],
            "details": failure.get("Message") or failure.get("Reason") or "",
            "billed": None,
        }
    try:
        run = aws.call("emr-serverless", "get_job_run", applicationId=started["application"], jobRunId=started["job"])[
            "jobRun"
        ]
    except AwsAbsentError:
        return {"state": "FAILED", "details": "AWS knows this job no more", "billed": None}
    return {
        "state": run["state"],
        "details": run.get("stateDetails") or "",
        "billed": run.get("billedResourceUtilization") or None,
    }


def follow(
    aws: Aws, installation: Installation, started: Mapping[str, Any], *, poll_s: float = 10.0
) -> Iterator[dict[str, Any]]:
    """Yield events of a job until it ends: ``{"state": ...}`` when its state changes, and its progress lines.

    Stopping the iteration does not stop the job.
    """
    last = ""
    lines = _Lines(installation, started)
    while True:
        now = state(aws, started)
        yield from lines.new(aws)
        if now["state"] != last:
            last = now["state"]
            yield now
        if last in GOOD or last in BAD:
            yield from lines.new(aws)
            return
        time.sleep(poll_s)


def cancel(aws: Aws, started: Mapping[str, Any], *, poll_s: float = 5.0, patience_s: float = 600.0) -> None:
    """Cancel a job, and return once it has ended. Computed results are kept.

    On EC2, a step only submits an application to YARN and waits; cancelling the step would leave the application running. So
    another step kills all applications with the job's tag.

    Raises
    ------
    AwsError
        If the job has not ended after ten minutes.
    """
    if started["compute"] == "ec2":
        cluster = started["application"]
        aws.call(
            "emr", "cancel_steps", ClusterId=cluster, StepIds=[started["job"]], StepCancellationOption="SEND_INTERRUPT"
        )
        kill = {
            "Name": f"end {started['job']}",
            "ActionOnFailure": "CONTINUE",
            "HadoopJarStep": {
                "Jar": "command-runner.jar",
                "Args": ["bash", "-c", _KILL.format(started.get("tag", ""))],
            },
        }
        [step] = aws.call("emr", "add_job_flow_steps", JobFlowId=cluster, Steps=[kill])["StepIds"]
        waits = [started, {**started, "job": step}]
    else:
        aws.call("emr-serverless", "cancel_job_run", applicationId=started["application"], jobRunId=started["job"])
        waits = [started]
    for _ in range(max(1, int(patience_s / max(poll_s, 0.01)))):
        states = [state(aws, one)["state"] for one in waits]
        if all(one in GOOD or one in BAD for one in states):
            if len(states) > 1 and states[1] not in GOOD:
                raise AwsError(
                    f"the step that ends {started['job']} in YARN is {states[1]}; end the cluster if it still works: "
                    f"aws emr terminate-clusters --cluster-ids {started['application']}"
                )
            return
        time.sleep(poll_s)
    raise AwsError(f"{started['job']} is {states[0]} ten minutes after it was to end; look at 'fruits aws status'")


#: Kills all unfinished applications with a tag; succeeds if there is none.
_KILL: Final = (
    "set -o pipefail; yarn application -list -appStates NEW,NEW_SAVING,SUBMITTED,ACCEPTED,RUNNING -appTags {} "
    "| {{ grep -oE '^application_[0-9]+_[0-9]+' || true; }} | xargs -r -n 1 yarn application -kill"
)


def last_log_lines(aws: Aws, installation: Installation, started: Mapping[str, Any], lines: int = 12) -> list[str]:
    """Return the error of a failed driver, from its logs in the bucket; empty if there are none yet.

    Returns the message of fruits if there is one, else the last lines. Spark may write Python's stderr to either log.
    """
    import gzip  # noqa: PLC0415 - only after a failure

    said: list[str] = []
    with suppress(AwsError, OSError):
        pages = aws.pages("s3", "list_objects_v2", Bucket=installation.logs, Prefix=_log_prefix(started))
        keys = [found["Key"] for page in pages for found in page.get("Contents", ())]
        for key in sorted(keys):  # stderr before stdout
            if key.rpartition("/")[2].partition(".")[0] in ("stderr", "stdout"):
                body = aws.call("s3", "get_object", Bucket=installation.logs, Key=key)["Body"].read()
                text = (gzip.decompress(body) if key.endswith(".gz") else body).decode("utf-8", "replace")
                said += [line for line in text.splitlines() if line.strip() and " INFO " not in line]
    return [line for line in said if line.startswith("fruits: ")] or said[-lines:]


def logs_at(installation: Installation, started: Mapping[str, Any]) -> str:
    """Return the location of a job's logs."""
    return f"s3://{installation.logs}/{_log_prefix(started)}"


def _log_prefix(started: Mapping[str, Any]) -> str:
    if started["compute"] == "ec2":
        return f"emr/{started['application']}/steps/{started['job']}/"
    return f"emr/applications/{started['application']}/jobs/{started['job']}/SPARK_DRIVER/"


class _Lines:
    """Reads the driver's progress lines from the log group, each once."""

    def __init__(self, installation: Installation, started: Mapping[str, Any]) -> None:
        self._group, self._serverless = installation.log_group, started["compute"] != "ec2"
        self._stream = f"run/applications/{started['application']}/jobs/{started['job']}/"
        self._since = 0
        self._seen: set[str] = set()

    def new(self, aws: Aws) -> Iterator[dict[str, Any]]:
        if not self._serverless:
            return  # on EC2, logs reach the bucket once the step has ended
        found: list[dict[str, Any]] = []
        with suppress(AwsError):  # live logs can be switched off
            for page in aws.pages(
                "logs",
                "filter_log_events",
                logGroupName=self._group,
                logStreamNamePrefix=self._stream,
                startTime=self._since,
            ):
                found += [
                    event
                    for event in page["events"]
                    # Some servers with this protocol ignore the prefix.
                    if event["eventId"] not in self._seen and event["logStreamName"].startswith(self._stream)
                ]
        for event in found:
            self._seen.add(event["eventId"])
            self._since = max(self._since, event["timestamp"])
            with suppress(ValueError):
                line = json.loads(event["message"])
                if isinstance(line, dict) and "fruits" in line:
                    yield line
