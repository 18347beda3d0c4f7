"""Bucket policies: compared with the template and restored, since creating a flow log may rewrite the policy of its bucket.

Policies are compared by meaning, statement by statement, not as text; a policy that differs is restored. Whether the template's
policies are secure is checked by the rules of the security scan, not here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from fruits.aws.calls import Aws, AwsAbsentError, AwsError, Call
from fruits.aws.installation.stacks import find, parse, template
from fruits.storage.sanitising import json_text


def planned() -> list[Call]:
    """Return the calls that :func:`restore` makes if no policy differs."""
    why = "is its policy the template's?"
    return [Call("s3", "get_bucket_policy", {"Bucket": f"<{which}>"}, why) for which, _ in _of_template()]


def restore(aws: Aws, name: str) -> list[str]:
    """Restore bucket policies that differ from the template; return the names of those buckets.

    Raises
    ------
    AwsError
        If a policy still differs afterwards: another user or service rewrites it.
    """
    storage = find(aws, name, "storage")
    if storage is None:
        return []
    mended = []
    known = {
        "AWS::Region": aws.region,
        "AWS::AccountId": aws.caller_identity()["account"],
        "AWS::Partition": aws.partition,
    }
    for which, policy in _of_template():
        bucket = storage.outputs.get(f"{which}Bucket")
        if bucket is None:
            continue  # the stack was deployed from an older template without this bucket
        arn = f"arn:{aws.partition}:s3:::{bucket}"
        wanted = _put_in(policy, {**known, which: bucket, f"{which}.Arn": arn})
        if _meant(_read(aws, bucket)) == _meant(wanted):
            continue
        aws.call("s3", "put_bucket_policy", Bucket=bucket, Policy=json_text(wanted))
        if _meant(_read(aws, bucket)) != _meant(wanted):
            raise AwsError(
                f"the policy of bucket '{bucket}' is not the template's, not even after it was put back; see who writes it "
                "(CloudTrail: PutBucketPolicy), then deploy again"
            )
        mended.append(bucket)
    return mended


def _of_template() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of each bucket in the template, and its policy."""
    for resource in parse(template("storage"))["Resources"].values():
        if resource["Type"] == "AWS::S3::BucketPolicy":
            yield resource["Properties"]["Bucket"]["Ref"], resource["Properties"]["PolicyDocument"]


def _read(aws: Aws, bucket: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(aws.call("s3", "get_bucket_policy", Bucket=bucket)["Policy"])
    except AwsAbsentError:
        return {}
    return found


def _put_in(term: Any, known: dict[str, str]) -> Any:
    """Resolve the intrinsic functions used in our policies; fail on any other."""
    match term:
        case {"Ref": str(name), **rest} if not rest:
            return known[name]
        case {"Fn::GetAtt": [*names], **rest} if not rest:
            return known[".".join(names)]
        case {"Fn::Sub": str(text), **rest} if not rest:
            return re.sub(r"\$\{([^}]+)\}", lambda name: known[name[1]], text)
    if isinstance(term, dict):
        if unknown := [key for key in term if key.startswith("Fn::")]:
            raise ValueError(f"a policy of the template uses {unknown[0]}, which nobody here can resolve")
        return {key: _put_in(value, known) for key, value in term.items()}
    if isinstance(term, list):
        return [_put_in(value, known) for value in term]
    return term


def _meant(policy: dict[str, Any]) -> set[str]:
    """Return the statements of a policy in canonical form: equal if they mean the same."""
    statements = policy.get("Statement") or []
    return {
        json_text(_plain(one), sort_keys=True) for one in (statements if isinstance(statements, list) else [statements])
    }


def _plain(term: Any) -> Any:
    if isinstance(term, dict):
        return {key: _plain(value) for key, value in term.items() if key != "Sid"} if term != {"AWS": "*"} else "*"
    if isinstance(term, list):
        plain = sorted((_plain(value) for value in term), key=str)
        return plain[0] if len(plain) == 1 else plain
    return str(term).lower() if isinstance(term, bool) else term
