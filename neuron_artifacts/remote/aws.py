"""Credentials for S3 beyond the environment: the profiles of ``~/.aws``.

obstore itself reads ``AWS_*`` variables, web identities and instance metadata. For profiles
(https://docs.aws.amazon.com/cli/latest/userguide/cli-configure-files.html) boto3 is used where it
is installed, since it knows single sign-on and roles; else static keys are read from the files.
"""

from __future__ import annotations

import configparser
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuron_artifacts.errors import RemoteError

_FROM_ENVIRONMENT = (
    "AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)  # fmt: skip


def profile_options(environ: Mapping[str, str]) -> dict[str, Any]:
    """What to hand obstore besides the environment: nothing, a provider, or keys and region.

    Raises
    ------
    RemoteError
        The profile takes more than static keys, and boto3 is not installed.
    """
    profile = environ.get("AWS_PROFILE")
    if not profile and any(environ.get(name) for name in _FROM_ENVIRONMENT):
        return {}
    profile = profile or environ.get("AWS_DEFAULT_PROFILE") or "default"
    keys = _section(environ, "AWS_SHARED_CREDENTIALS_FILE", "credentials", profile)
    settings = _section(
        environ, "AWS_CONFIG_FILE", "config",
        profile if profile == "default" else f"profile {profile}",
    )  # fmt: skip
    if not keys and not settings:
        return {}
    options = _settings(settings, environ)
    if "aws_access_key_id" in {**settings, **keys}:
        return {**options, **_static({**settings, **keys})}
    if set(settings) <= {"region", "endpoint_url", "output"}:
        return options
    try:
        session = importlib.import_module("boto3").Session(profile_name=profile)
        provider = importlib.import_module("obstore.auth.boto3").Boto3CredentialProvider(session)
    except ImportError:
        raise RemoteError(
            f"the AWS profile {profile} holds no keys of its own",
            hint="pip install boto3, which knows single sign-on and roles, or set AWS_* variables",
        ) from None
    return {**options, "credential_provider": provider}


def _settings(settings: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, Any]:
    names = {"region": ("AWS_REGION", "AWS_DEFAULT_REGION"), "endpoint_url": ("AWS_ENDPOINT_URL",)}
    return {
        name.removesuffix("_url"): settings[name]
        for name, variables in names.items()
        if name in settings and not any(environ.get(variable) for variable in variables)
    }


def _static(keys: Mapping[str, str]) -> dict[str, Any]:
    found = {
        "access_key_id": keys.get("aws_access_key_id"),
        "secret_access_key": keys.get("aws_secret_access_key"),
        "session_token": keys.get("aws_session_token"),
    }
    return {name: value for name, value in found.items() if value}


def _section(
    environ: Mapping[str, str], variable: str, name: str, section: str
) -> Mapping[str, str]:
    home = environ.get("HOME") or str(Path.home())
    path = Path(environ.get(variable) or Path(home) / ".aws" / name)
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(path.read_text())
        return dict(parser.items(section))
    except (OSError, UnicodeDecodeError, configparser.Error):
        return {}
