"""Buckets: their uris, opening one (endpoint, region and credentials by the usual chain of the environment), order of listing.

Independent of what is stored in it.
"""

from __future__ import annotations

import configparser
import os
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from obstore.store import from_url

from fruits.errors import StoreError

_TIMEOUT_VARIABLE: Final = "FRUITS_STORE_TIMEOUT_S"
#: The value ``boto3`` means that credentials always come from boto3. Set where AWS runs the code, because AWS may provide them
#: in ways of its own.
CREDENTIALS_VARIABLE: Final = "FRUITS_AWS_CREDENTIALS"
#: Suffix of the names of S3's directory buckets, which do not list in the order of keys.
_DIRECTORY_BUCKET: Final = "--x-s3"
_S3: Final = ("s3://", "s3a://")
#: ``scheme://`` of the buckets that obstore supports. Tested here: S3.
_BUCKETS: Final = (*_S3, "gs://", "az://", "azure://", "abfs://", "abfss://")


def is_remote(uri: str) -> bool:
    """Return whether a name is the uri of a bucket or of an object in one."""
    return uri.startswith(_BUCKETS)


def lists_in_order(url: str) -> bool:
    """Return whether a bucket is known to list in the order of keys: S3's general purpose buckets and Google's do.

    For other stores with an S3 API, the order is unknown.
    """
    bucket = url.split("/")[2] if url.count("/") >= 2 else ""
    return url.startswith("gs://") or (
        url.startswith(_S3) and not _endpoint() and not bucket.endswith(_DIRECTORY_BUCKET)
    )


def open_bucket(url: str, retries: Any) -> Any:
    """Open a bucket with the usual credential chain: environment, then profile, then the machine's role (by obstore)."""
    open_url: Any = from_url  # its overloads need literal dictionaries
    client: dict[str, Any] = {"connect_timeout": timedelta(seconds=5), "timeout": timedelta(seconds=_timeout_s())}
    if not url.startswith(_S3):
        return open_url(url, client_options=client, retry_config=retries)
    config, boto3 = _s3_settings()
    if config.get("endpoint", "").startswith("http://"):
        client["allow_http"] = True
    provider = _boto3_credentials() if boto3 else None
    return open_url(url, config=config, client_options=client, retry_config=retries, credential_provider=provider)


def delta_options(url: str) -> dict[str, str]:
    """Return the options with which delta-rs opens a table in a bucket as :func:`open_bucket` does; empty for a folder.

    Credentials of single sign-on or a role are those of this moment: open the table again for every commit. On S3, commits are
    conditional puts, which need no other service.
    """
    if "://" not in url:
        return {}
    options = {"connect_timeout": "5s", "timeout": f"{_timeout_s():g}s"}
    if not url.startswith(_S3):
        return options
    config, boto3 = _s3_settings()
    if boto3:
        given = _boto3_credentials()()
        config |= {name: given[name] for name in ("access_key_id", "secret_access_key", "token") if given.get(name)}
    if "token" in config:
        config["session_token"] = config.pop("token")
    if "endpoint" in config:
        config["endpoint_url"] = config.pop("endpoint")
        options["allow_http"] = str(config["endpoint_url"].startswith("http://")).lower()
    return options | {"conditional_put": "etag"} | {f"AWS_{name.upper()}": value for name, value in config.items()}


def _timeout_s() -> float:
    return float(os.environ.get(_TIMEOUT_VARIABLE, "60"))


def _s3_settings() -> tuple[dict[str, str], bool]:
    """Return endpoint, region and the credentials of a profile; and whether credentials come from boto3."""
    config: dict[str, str] = {}
    if endpoint := _endpoint():
        config["endpoint"] = endpoint
    profile = _profile()
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or profile.get("region")
    if region:
        config["region"] = region
    if os.environ.get(CREDENTIALS_VARIABLE) == "boto3":
        return config, True  # whatever AWS provides where it runs the code; renewed before expiry
    if "AWS_ACCESS_KEY_ID" not in os.environ:
        if "aws_access_key_id" in profile:
            for name in ("aws_access_key_id", "aws_secret_access_key", "aws_session_token"):
                if name in profile:
                    config[name.removeprefix("aws_")] = profile[name]
            if "session_token" in config:  # obstore's name for it
                config["token"] = config.pop("session_token")
        elif profile.keys() & {"sso_session", "sso_start_url", "role_arn", "credential_process"}:
            return config, True
    return config, False


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _profile() -> dict[str, str]:
    """Return the settings of ``AWS_PROFILE`` (or ``default``) in AWS's two files; empty if there are none."""
    name = os.environ.get("AWS_PROFILE", "default")
    home = Path.home() / ".aws"
    settings: dict[str, str] = {}
    for variable, file, sections in (
        ("AWS_CONFIG_FILE", home / "config", (f"profile {name}", name)),
        ("AWS_SHARED_CREDENTIALS_FILE", home / "credentials", (name,)),
    ):
        parser = configparser.ConfigParser(interpolation=None)
        with suppress(configparser.Error, OSError, UnicodeDecodeError):
            parser.read(os.environ.get(variable, file))
            for section in sections:
                if parser.has_section(section):
                    settings |= dict(parser[section])
                    break
    if not settings and "AWS_PROFILE" in os.environ:
        raise StoreError(f"AWS_PROFILE is '{name}', which neither ~/.aws/config nor ~/.aws/credentials has; correct it")
    return settings


def _boto3_credentials() -> Any:
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider  # noqa: PLC0415 - only single sign-on and roles need it
    except ImportError as exc:
        raise StoreError(
            "the AWS profile signs in by single sign-on, a role or a program, for which boto3 is needed: "
            "pip install 'fruits[aws]', or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from exc
    return Boto3CredentialProvider()
