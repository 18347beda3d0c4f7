"""Calls to AWS: planned as data, reported before they are made, with errors translated into messages.

The rest of ``fruits.aws`` defines which calls are made. boto3 is imported on the first call, so that plans and cost estimates
need neither boto3 nor credentials.
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

#: Default region: in Europe, so that photos of European users stay there.
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
    """AWS refused a call, or cannot be reached."""


class AwsAbsentError(AwsError):
    """The requested resource does not exist."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call to AWS, before it is made.

    Attributes
    ----------
    service, operation : str
        As boto3 names them: ``emr-serverless``, ``start_job_run``.
    parameters : mapping
        Values of type bytes are shown by their length.
    why : str
        Explanation for the user.
    times : int
        Number of times it is made, if known in advance.
    """

    service: str
    operation: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""
    times: int = 1

    @property
    def name(self) -> str:
        """Return service and operation, such as ``s3.put_object``."""
        return f"{self.service}.{self.operation}"

    def as_dict(self) -> dict[str, Any]:
        """Return the call as plain values for JSON."""
        return {
            "call": self.name, "why": self.why, "times": self.times, "parameters": json.loads(_json(self.parameters)),
        }  # fmt: skip

    def as_text(self) -> str:
        """Return the call as two lines of text."""
        times = f" x {self.times:,}" if self.times > 1 else ""
        shown = _json(self.parameters)
        return f"{self.name}{times}: {self.why}\n    {shown if len(shown) <= _SHOWN else shown[:_SHOWN] + ' ...'}"


class Aws:
    """A region of AWS, used with the credentials of the current user.

    Parameters
    ----------
    region : str, optional
        By default ``AWS_REGION``, ``AWS_DEFAULT_REGION`` or the profile's region, else :data:`DEFAULT_REGION`.
    watch : callable, optional
        Called with every call just before it is made.
    """

    def __init__(self, region: str | None = None, *, watch: Callable[[Call], None] | None = None) -> None:
        self._region = region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        self._watch = watch
        self._clients: dict[str, Any] = {}
        self._session: Any = None

    @property
    def region(self) -> str:
        """The region of calls; known before the first call, for use in confirmations."""
        if self._region is None:
            self._region = self._of_profile() or DEFAULT_REGION
        return self._region

    def call(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """Make a call and return the response.

        Raises
        ------
        AwsAbsentError
            If the resource does not exist.
        AwsError
            For any other error; the message says what was refused and what to do.
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
        """Return boto3's client of a service, created once; thread-safe."""
        if service not in self._clients:
            session = self._opened()
            config = _config(service)
            self._clients[service] = session.client(service, region_name=self.region, config=config)
        return self._clients[service]

    def caller_identity(self) -> dict[str, str]:
        """Return account and ARN of the current user."""
        answer = self.call("sts", "get_caller_identity")
        return {"account": answer["Account"], "arn": answer["Arn"]}

    @property
    def partition(self) -> str:
        """Return the partition of the region, as used in ARNs."""
        return (
            "aws-cn" if self.region.startswith("cn-") else "aws-us-gov" if self.region.startswith("us-gov-") else "aws"
        )

    def _opened(self) -> Any:
        if self._session is None:
            try:
                boto3 = importlib.import_module("boto3")  # of the extra "aws"; not needed for plans and costs
            except ImportError as exc:
                raise AwsError("fruits aws needs boto3; pip install 'fruits[aws]'") from exc
            self._session = boto3.session.Session()
        return self._session

    def _of_profile(self) -> str | None:
        try:
            of_botocore: Any = importlib.import_module("botocore.exceptions")
        except ImportError:
            return None  # the first call reports missing packages and profiles
        with suppress(of_botocore.BotoCoreError):
            found: str | None = self._opened().region_name
            return found
        return None


def _config(service: str) -> Any:
    config: Any = importlib.import_module("botocore.config").Config
    extra: dict[str, Any] = {}
    if service == "s3" and (os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")):
        extra["s3"] = {"addressing_style": "path"}  # other S3 services have no host name per bucket
    return config(
        connect_timeout=10,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": 8},
        user_agent_extra="fruits",
        **extra,
    )


@contextmanager
def translated(call: Call, aws: Aws) -> Iterator[None]:
    """Translate exceptions of botocore into :class:`AwsError`."""
    try:
        of_botocore: Any = importlib.import_module("botocore.exceptions")
    except ImportError:
        yield  # the first call reports the missing package
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
            f"{call.name}: the server that answered is not AWS ({first}); look for a proxy on the way, and at AWS_ENDPOINT_URL"
        ) from exc
    except of_botocore.ParamValidationError:
        raise  # a bug in fruits
    except of_botocore.BotoCoreError as exc:
        raise AwsError(f"{call.name}: {exc}; check the network, then run again: what is done is kept") from exc


def _refused(call: Call, aws: Aws, exc: Any) -> AwsError:
    """Return the error for a refused call, with its meaning and what to do."""
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
            f"{call.name}: denied{f' ({message})' if message and message != 'Forbidden' else ''}; the caller needs "
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
