"""What went wrong between this machine and the hub, in one line with the way out.

huggingface_hub speaks ``requests`` up to 0.36, ``httpx`` in 1.x and ``httpx2`` in 2.x, and wraps
some failures in others; so a failure is judged by its whole chain of causes, and the transport
libraries by their names. No message is taken over that could carry a token or a signed URL.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from neuron_artifacts.errors import (
    HubError,
    ModelFormatError,
    ModelNotFoundError,
    NeuronArtifactsError,
    ResourceError,
)

_TRANSPORTS = frozenset({"requests", "urllib3", "httpx", "httpx2", "httpcore", "httpcore2"})
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_ACCESS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR})
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_UNSENDABLE = "LocalProtocolError"  # of httpx: a header that HTTP cannot carry
_SECRETS = re.compile(r"(?i)(bearer\s+)\S+|hf_\w+|(https?://[^\s?]+)\?\S+")


class TransportError(OSError):
    """A connection of our own that failed; its cause says how."""


class MissingEntryError(OSError):
    """A hub's answer that the repository is there, and the file or folder is not.

    An answer like another to who looks for it: nothing of huggingface_hub is imported to give it.
    """

    def __init__(self, response: Any) -> None:
        super().__init__(f"{response.status_code} for {response.url}")
        self.response = response


@dataclass(frozen=True)
class Asked:
    """What was asked of which hub."""

    repo_id: str
    revision: str | None
    endpoint: str

    @property
    def place(self) -> str:
        """The endpoint for people: a user and password in it stay unsaid."""
        parts = urlsplit(self.endpoint)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def failures() -> tuple[type[Exception], ...]:
    """What a call of huggingface_hub may raise when the hub or the disk is at fault.

    ``ValueError``, ``KeyError`` and ``TypeError`` are how it meets an answer that is no hub's,
    ``RuntimeError`` is what its Xet extension raises.
    """
    from huggingface_hub import errors

    transport: type[Exception] = errors.HfHubHTTPError.__bases__[0]
    return (transport, OSError, ValueError, KeyError, TypeError, RuntimeError)


def is_outage(error: BaseException) -> bool:
    """Whether the hub could not be asked at all, so that a local copy may answer instead."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    status = _status(error)
    if status is not None:
        return status in _PASSING
    return any(isinstance(e, OfflineModeIsEnabled) or _is_transport(e) for e in _chain(error))


def retry_after(error: BaseException, default: float) -> float | None:
    """Seconds after which asking again may help, or ``None`` if it would not."""
    response = _response(error)
    if response is not None:
        told = str(response.headers.get("Retry-After", ""))
        return (int(told) if told.isdigit() else default) if _status(error) in _PASSING else None
    chain = tuple(_chain(error))
    final = ("Timeout", socket.gaierror, ConnectionRefusedError, ssl.SSLError)
    passing = any(map(_is_transport, chain)) and not any(_holds(chain, kind) for kind in final)
    return default if passing else None


def explain(error: BaseException, asked: Asked, *, name: str | None = None) -> NeuronArtifactsError:
    """The error to raise instead of ``error``; ``name`` is the file that was wanted."""
    status = _status(error)
    if status is not None:
        return _explain_answer(error, status, asked, name)
    return (
        _explain_disk(error, asked)
        or _explain_silence(error, asked)
        or _explain_rest(error, asked, name)
    )


def _explain_answer(
    error: BaseException, status: int, asked: Asked, name: str | None
) -> NeuronArtifactsError:
    from huggingface_hub import errors

    chain, repo_id, place = tuple(_chain(error)), asked.repo_id, asked.place
    if _holds(chain, errors.GatedRepoError):
        return HubError(
            f"{repo_id} is gated: its licence must be accepted first",
            hint=f"accept it at {place}/{repo_id}, then {_login()}",
        )
    if _holds(chain, errors.RepositoryNotFoundError):
        return ModelNotFoundError(
            f"{place} has no repository {repo_id}, or hides it; nor is there a folder of that name",
            hint=f"check the spelling; if it is private, {_login()}",
        )
    if _holds(chain, errors.RevisionNotFoundError):
        return ModelNotFoundError(
            f"{repo_id} has no revision {asked.revision}",
            hint=f"its branches, tags and commits are at {place}/{repo_id}",
        )
    if _holds(chain, errors.EntryNotFoundError) or _holds(chain, MissingEntryError):
        return ModelFormatError(f"{repo_id} has no {name or 'such file'}")
    if status == 401:
        return HubError(f"{place} refuses the token it was given", hint=_login())
    if status == 403:
        return HubError(
            f"{place} forbids access to {repo_id} (403)",
            hint="the token may lack the permission to read this repository",
        )
    if status == 429:
        return HubError(
            f"{place} is limiting requests (429){_wait(error)}",
            hint="wait, then run the command again; requests with HF_TOKEN have a higher limit",
        )
    hint = "try again later" if status >= 500 else "check HF_ENDPOINT"
    return HubError(f"{place} answered {status} about {repo_id}", hint=hint)


def _explain_disk(error: BaseException, asked: Asked) -> NeuronArtifactsError | None:
    for cause in _chain(error):
        if not isinstance(cause, OSError) or cause.errno is None or _is_transport(cause):
            continue
        if cause.errno in _NO_SPACE:
            return ResourceError(
                f"the disk became full while {asked.repo_id} was downloaded",
                hint="free some space, or set HF_HOME to a folder on a larger disk",
            )
        if cause.errno in _NO_ACCESS and cause.filename is not None:
            return HubError(
                f"the hub cache cannot be used: {cause.filename}: {cause.strerror}",
                hint="set HF_HOME to a folder that may be written",
            )
    return None


def _explain_silence(error: BaseException, asked: Asked) -> NeuronArtifactsError | None:
    from huggingface_hub.errors import OfflineModeIsEnabled

    chain = tuple(_chain(error))
    if _holds(chain, OfflineModeIsEnabled):
        return HubError(
            f"HF_HUB_OFFLINE forbids to ask {asked.place}",
            hint="unset HF_HUB_OFFLINE, or download the model whole first",
        )
    if not any(map(_is_transport, chain)) or _holds(chain, _UNSENDABLE):
        return None
    host = urlsplit(asked.endpoint).hostname
    reasons: tuple[tuple[type[BaseException] | str, str], ...] = (
        ("ProxyError", "the proxy refuses; check HTTPS_PROXY"),
        (socket.gaierror, f"the name {host} cannot be resolved"),
        (ConnectionRefusedError, "the connection is refused"),
        (ssl.SSLError, "its certificate is not accepted"),
        (TimeoutError, "no answer in time"),
        ("Timeout", "no answer in time"),
    )
    reason = next((said for kind, said in reasons if _holds(chain, kind)), "the connection broke")
    return HubError(
        f"{asked.place} cannot be reached: {reason}",
        hint="check the network and HF_ENDPOINT; a model folder needs no hub",
    )


def _explain_rest(error: BaseException, asked: Asked, name: str | None) -> NeuronArtifactsError:
    from huggingface_hub.errors import FileMetadataError, HFValidationError

    what = f"{asked.repo_id}/{name}" if name else asked.repo_id
    chain = tuple(_chain(error))
    if _holds(chain, HFValidationError):
        return ModelNotFoundError(
            f"{asked.repo_id} is neither a folder nor a valid hub id",
            hint="name a model folder or a hub id, e.g. org/name",
        )
    if any("Consistency check failed" in str(e) for e in chain):
        return HubError(
            f"{what} arrived cut short", hint="run the command again; a proxy may be in the way"
        )
    if any(_holds(chain, kind) for kind in (UnicodeEncodeError, "InvalidHeader", _UNSENDABLE)):
        return HubError(
            f"the token for {asked.place} holds characters that cannot be sent", hint=_login()
        )
    no_hub = (FileMetadataError, ValueError, KeyError, TypeError)
    if any(_holds(chain, kind) for kind in no_hub):
        return HubError(
            f"{asked.place} does not answer about {what} as a hub does", hint="check HF_ENDPOINT"
        )
    said = next(iter(str(error).splitlines()), "")
    return HubError(
        f"{what} could not be fetched: {type(error).__name__}: {_SECRETS.sub('***', said)}",
        hint="try again; HF_HUB_DISABLE_XET=1 keeps to plain HTTPS",
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what led to it, outermost first."""
    while error is not None:
        yield error
        inside = (cause for cause in error.args if isinstance(cause, BaseException))
        told = None if error.__suppress_context__ else error.__context__
        # httpcore keeps the socket's own error only among the arguments.
        error = error.__cause__ or told or next(inside, None)


def _response(error: BaseException) -> Any:
    found = (getattr(cause, "response", None) for cause in _chain(error))
    return next((response for response in found if response is not None), None)


def _status(error: BaseException) -> int | None:
    response = _response(error)
    return None if response is None else int(response.status_code)


def _is_transport(error: BaseException) -> bool:
    # requests derives what is wrong with an answer or a header from ValueError too.
    if isinstance(error, TransportError):
        return True
    library = type(error).__module__.partition(".")[0]
    return library in _TRANSPORTS and not isinstance(error, ValueError)


def _holds(chain: tuple[BaseException, ...], kind: type[BaseException] | str) -> bool:
    if isinstance(kind, str):
        return any(kind in type(e).__name__ for e in chain)
    return any(isinstance(e, kind) for e in chain)


def _wait(error: BaseException) -> str:
    seconds = str(_response(error).headers.get("Retry-After", ""))
    return f" and asks to wait {seconds} s" if seconds.isdigit() else ""


def _login() -> str:
    from huggingface_hub import get_token

    if get_token():
        return "use a token that may read it (HF_TOKEN, or `hf auth login`)"
    return "set HF_TOKEN, or run `hf auth login`"
