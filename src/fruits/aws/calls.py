"""Every call to AWS goes through here: made late, counted, shown before it is made, and its refusal turned into a sentence.

The rest of ``fruits.aws`` says which calls; this says how. boto3 is imported when the first call is made, so that plans and
costs need neither boto3 nor credentials.
"""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from fruits.errors import FruitsError
from fruits.storage.sanitising import json_text

#: Where work goes unless something else is said: photos of a small company in Europe stay in Europe.
DEFAULT_REGION: Final = "eu-west-1"
_SHOWN: Final = 2000
_NO_CREDENTIALS: Final = {
    "ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId",
    "SignatureDoesNotMatch", "AuthFailure", "RequestExpired",
}  # fmt: skip
_DENIED: Final = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403", "Forbidden"}
_ABSENT: Final = {
    "404", "NoSuchKey", "NotFound", "NoSuchUpload", "ResourceNotFoundException", "NoSuchBucketPolicy",
    "NoSuchEntity", "NoSuchResourceException", "DBInstanceNotFound", "DBInstanceNotFoundFault", "LoadBalancerNotFound",
}  # fmt: skip


class AwsError(FruitsError, RuntimeError):
    """AWS refused, or cannot be asked."""


class AwsAbsentError(AwsError):
    """What was asked for does not exist."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call to AWS, before it is made.

    Attributes
    ----------
    service, operation : str
        As boto3 names them: ``emr-serverless``, ``start_job_run``.
    parameters : mapping
        Bytes are shown by their number.
    why : str
        For a person.
    times : int
        How often it is made, where that is known beforehand.
    """

    service: str
    operation: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""
    times: int = 1

    @property
    def name(self) -> str:
        """Return it as ``s3.put_object``."""
        return f"{self.service}.{self.operation}"

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        return {
            "call": self.name, "why": self.why, "times": self.times, "parameters": json.loads(_json(self.parameters)),
        }  # fmt: skip

    def as_text(self) -> str:
        """Return it on a line or two."""
        times = f" x {self.times:,}" if self.times > 1 else ""
        shown = _json(self.parameters)
        return f"{self.name}{times}: {self.why}\n    {shown if len(shown) <= _SHOWN else shown[:_SHOWN] + ' ...'}"


class Aws:
    """A region of AWS and the credentials of whoever works.

    Parameters
    ----------
    region : str, optional
        By default ``AWS_REGION``, ``AWS_DEFAULT_REGION`` or the profile's, else :data:`DEFAULT_REGION`.
    watch : callable, optional
        Told of every call just before it is made.
    """

    def __init__(self, region: str | None = None, *, watch: Callable[[Call], None] | None = None) -> None:
        self._region = region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        self._watch = watch
        self._clients: dict[str, Any] = {}
        self._session: Any = None

    @property
    def region(self) -> str:
        """Where calls go; known before the first is made, so that people can be asked about it."""
        if self._region is None:
            self._region = self._of_profile() or DEFAULT_REGION
        return self._region

    def call(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """Make a call and return the answer.

        Raises
        ------
        AwsAbsentError
            If it does not exist.
        AwsError
            For any other refusal; says what was refused and what to do.
        """
        return self.make(Call(service, operation, parameters))

    def make(self, call: Call) -> dict[str, Any]:
        """Make a planned call; see :meth:`call`."""
        with translated(call, self):
            client = self.client(call.service)
            if self._watch is not None:
                self._watch(call)
            answer: dict[str, Any] = getattr(client, call.operation)(**call.parameters)
            return answer

    def pages(self, service: str, operation: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        """Yield the pages of a listing."""
        call = Call(service, operation, parameters)
        with translated(call, self):
            client = self.client(service)
            for page in client.get_paginator(operation).paginate(**parameters):
                if self._watch is not None:
                    self._watch(call)
                yield page

    def client(self, service: str) -> Any:
        """Return boto3's client of a service, made once. It may be used by several threads."""
        if service not in self._clients:
            session = self._opened()
            config = _config(service)
            self._clients[service] = session.client(service, region_name=self.region, config=config)
        return self._clients[service]

    def who(self) -> dict[str, str]:
        """Return account and arn of whoever works."""
        answer = self.call("sts", "get_caller_identity")
        return {"account": answer["Account"], "arn": answer["Arn"]}

    @property
    def partition(self) -> str:
        """Return which of AWS's clouds the region is of, as arns name it."""
        return (
            "aws-cn" if self.region.startswith("cn-") else "aws-us-gov" if self.region.startswith("us-gov-") else "aws"
        )

    def _opened(self) -> Any:
        if self._session is None:
            try:
                boto3 = importlib.import_module("boto3")  # of the extra "aws"; plans and costs do without
            except ImportError as exc:
                raise AwsError("fruits aws needs boto3; pip install 'fruits[aws]'") from exc
            self._session = boto3.session.Session()
        return self._session

    def _of_profile(self) -> str | None:
        try:
            of_botocore: Any = importlib.import_module("botocore.exceptions")
        except ImportError:
            return None  # the first call says what is missing, as it does of a profile that is not there
        with suppress(of_botocore.BotoCoreError):
            found: str | None = self._opened().region_name
            return found
        return None


def _config(service: str) -> Any:
    config: Any = importlib.import_module("botocore.config").Config
    extra: dict[str, Any] = {}
    if service == "s3" and (os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")):
        extra["s3"] = {"addressing_style": "path"}  # other services than Amazon's have no names per bucket
    return config(
        connect_timeout=10,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": 8},
        user_agent_extra="fruits",
        **extra,
    )


@contextmanager
def translated(call: Call, aws: Aws) -> Iterator[None]:
    """Turn what botocore raises into an :class:`AwsError`."""
    try:
        of_botocore: Any = importlib.import_module("botocore.exceptions")
    except ImportError:
        yield  # the first call says what is missing
        return
    try:
        yield
    except of_botocore.ClientError as exc:
        raise _refused(call, aws, exc) from exc
    except of_botocore.PartialCredentialsError as exc:
        raise AwsError(
            f"{call.name}: {exc}; add that to the profile ('aws configure set profile.NAME.source_profile default', for a role) "
            "or to the environment"
        ) from exc
    except of_botocore.NoCredentialsError as exc:
        raise AwsError(
            f"{call.name}: no credentials found; sign in with 'aws sso login' or 'aws configure', or set AWS_PROFILE or "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from exc
    except of_botocore.ProfileNotFound as exc:
        raise AwsError(f"{exc}; correct AWS_PROFILE, or make it with 'aws configure sso'") from exc
    except (of_botocore.TokenRetrievalError, of_botocore.SSOError) as exc:
        raise AwsError(f"{call.name}: the sign-in has ended ({exc}); sign in again with 'aws sso login'") from exc
    except (of_botocore.EndpointConnectionError, of_botocore.InvalidRegionError) as exc:
        told = [name for name in os.environ if name.startswith("AWS_ENDPOINT_URL")]
        where = f", and is what {' and '.join(told)} names listening" if told else ""
        raise AwsError(
            f"{call.name}: {exc}; is '{aws.region}' a region that has this service, and is the network there{where}? Choose "
            "with --region or AWS_REGION"
        ) from exc
    except importlib.import_module("botocore.parsers").ResponseParserError as exc:
        first = str(exc).splitlines()[0][:200]
        raise AwsError(
            f"{call.name}: whoever answered is not AWS ({first}); look for a proxy on the way, and at AWS_ENDPOINT_URL"
        ) from exc
    except of_botocore.ParamValidationError:
        raise  # a mistake of ours
    except of_botocore.BotoCoreError as exc:
        raise AwsError(f"{call.name}: {exc}; check the network, then run again: what is done is kept") from exc


def _refused(call: Call, aws: Aws, exc: Any) -> AwsError:
    """Say in a sentence what an answer means and what to do."""
    error = exc.response.get("Error", {})
    code, message = str(error.get("Code", "")), str(error.get("Message", ""))
    bucket = call.parameters.get("Bucket")
    where = exc.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region")
    elsewhere = re.search(r"expecting '([a-z0-9-]+)'", message)
    if code in ("PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"):
        found = where or (elsewhere[1] if elsewhere else None)
        return AwsError(
            f"{call.name}: the bucket '{bucket}' is in another region than {aws.region}; use --region "
            f"{found or '<the region of the bucket>'}, or set AWS_REGION"
        )
    if code in _NO_CREDENTIALS or (code in _DENIED and "security token" in message):
        return AwsError(
            f"{call.name}: the credentials are not accepted ({code}: {message}); sign in again with 'aws sso login', or "
            "correct AWS_PROFILE, AWS_ACCESS_KEY_ID and the clock of this machine"
        )
    if code in _DENIED:
        action = re.search(r"perform: ([\w-]+:\w+)", message)
        return AwsError(
            f"{call.name}: denied{f' ({message})' if message and message != 'Forbidden' else ''}; whoever works needs "
            f"{action[1] if action else f'{call.service}:{_camel(call.operation)}'}"
            f"{f' on {bucket!r}' if bucket else ''}: take the role that docs/aws.md names for this command"
        )
    if code == "NoSuchBucket" or (code == "404" and call.operation == "head_bucket"):
        return AwsAbsentError(
            f"{call.name}: there is no bucket '{bucket}'; make it with 'fruits aws deploy', or check its name and --region"
        )
    if code == "ValidationError" and "does not exist" in message:
        return AwsAbsentError(
            f"{message} in {aws.region}; make it with 'fruits aws deploy', or check --name and --region"
        )
    if code in _ABSENT:
        named = ", ".join(
            f"{key} {call.parameters[key]}" for key in call.parameters if isinstance(call.parameters[key], str)
        )
        return AwsAbsentError(f"{call.name}: not there ({named}); {message or 'look at fruits aws status'}")
    return AwsError(f"{call.name}: {code}: {message or 'no reason given'}; see docs/aws.md, then run again")


def _camel(operation: str) -> str:
    return "".join(word.capitalize() for word in operation.split("_"))


def _json(parameters: Mapping[str, Any]) -> str:
    return json_text(parameters, default=_plain, ensure_ascii=False)


def _plain(value: Any) -> str:
    return f"<{len(value):,} bytes>" if isinstance(value, bytes | bytearray | memoryview) else str(value)
