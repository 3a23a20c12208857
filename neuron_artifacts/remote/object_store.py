"""``s3://``, ``gs://`` and ``az://`` through obstore (extra ``remote``).

Only the manifest is put conditionally, as one small request: a conditional end of a multipart
upload is ignored by some servers (radosgw 16.2), so blobs never rely on one.
"""

from __future__ import annotations

import importlib
import re
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

from neuron_artifacts.errors import MissError, RemoteError, UsageError
from neuron_artifacts.remote.aws import profile_options
from neuron_artifacts.remote.objects import Listed
from neuron_artifacts.remote.port import redact

_PART = 16 << 20
_PARTS_AT_ONCE = 4
_CHUNK = 1 << 20
_REQUESTS_AT_ONCE = 16
_RETRIES: dict[str, Any] = {"max_retries": 3, "retry_timeout": timedelta(seconds=60)}
_NO_RANGES = "non-partial response"
"""What obstore says of a server that sends the whole object when asked for a part."""

_STATUS = re.compile(r"status code: (\d{3})")


class CloudObjects:
    """Objects of one bucket or container, below the URL's path."""

    def __init__(self, url: str, environ: Mapping[str, str]) -> None:
        self.url = redact(url).removesuffix("?***")
        self._obstore = _library()
        self._store = _open(url, environ)
        self._pool = ThreadPoolExecutor(_REQUESTS_AT_ONCE, thread_name_prefix="ranges")

    def head(self, name: str) -> int | None:
        with self._explained(name):
            try:
                return int(self._obstore.head(self._store, name)["size"])
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise
                return None

    def get(self, name: str, size: int, start: int = 0) -> Iterator[bytes]:
        """Parts are asked for ahead, several at once, and given in order."""
        with self._explained(name):
            if start == 0 and size <= _PART:
                yield from self._whole(name, 0)
                return
            try:
                yield from self._parts(name, size, start)
            except self._obstore.exceptions.GenericError as error:
                if _NO_RANGES not in str(error):
                    raise
                yield from self._whole(name, start)

    def _parts(self, name: str, size: int, start: int) -> Iterator[bytes]:
        asked: deque[Future[bytes]] = deque()
        try:
            for offset in range(start, size, _PART):
                asked.append(self._pool.submit(self._part, name, offset, size))
                if len(asked) == _PARTS_AT_ONCE:
                    yield asked.popleft().result()
            while asked:
                yield asked.popleft().result()
        finally:
            for future in asked:
                future.cancel()

    def _part(self, name: str, offset: int, size: int) -> bytes:
        end = min(offset + _PART, size)
        return bytes(self._obstore.get_range(self._store, name, start=offset, end=end))

    def _whole(self, name: str, start: int) -> Iterator[bytes]:
        skip = start
        for chunk in self._obstore.get(self._store, name).stream(min_chunk_size=_CHUNK):
            yield bytes(chunk)[skip:]
            skip = max(0, skip - len(chunk))

    def put(self, name: str, chunks: Iterator[bytes], size: int) -> None:
        with self._explained(name):
            if size <= _PART:
                self._obstore.put(self._store, name, b"".join(chunks), use_multipart=False)
            else:
                self._obstore.put(
                    self._store, name, chunks, use_multipart=True,
                    # S3 takes 10 000 parts at most.
                    chunk_size=max(_PART, size // 9_000), max_concurrency=_PARTS_AT_ONCE,
                )  # fmt: skip

    def put_if_absent(self, name: str, data: bytes) -> bool:
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with self._explained(name):
            try:
                self._obstore.put(self._store, name, data, mode="create", use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                return False
        return True

    def list(self, folder: str) -> Iterator[Listed]:
        with self._explained(folder):
            for page in self._obstore.list(self._store, folder.rstrip("/")):
                for entry in page:
                    yield Listed(entry["path"], entry["size"], entry["last_modified"].timestamp())

    def delete(self, name: str) -> None:
        with self._explained(name):
            self._obstore.delete(self._store, name)

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        from obstore import exceptions

        try:
            yield
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise RemoteError(f"{self.url}: there is no such bucket") from None
            raise MissError(f"{self.url} has no {name}") from None
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError):
            raise RemoteError(
                f"{self.url} refuses access",
                hint="check the credentials: AWS_* or ~/.aws, GOOGLE_*, AZURE_*",
            ) from None
        except (exceptions.BaseError, OSError) as error:
            raise self._explain(error) from None

    def _explain(self, error: Exception) -> RemoteError:
        """One line, without the server's own words: they may hold what was signed."""
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        status = _STATUS.search(said)
        code = int(status[1]) if status else None
        passing = code is None or code in (408, 429) or code >= 500
        hint = "check the credentials and their region" if "credential" in said.lower() else None
        said = said[: status.end()] if status else said
        return RemoteError(
            f"{self.url}: {redact(said)}", hint=hint, passing=passing and hint is None
        )


def _library() -> Any:
    try:
        import obstore
        import obstore.exceptions
    except ImportError:
        raise UsageError(
            "s3://, gs:// and az:// need obstore, which is not installed",
            hint="pip install 'neuron-artifacts[remote]'",
        ) from None
    return obstore


def _open(url: str, environ: Mapping[str, str]) -> Any:
    from obstore.exceptions import BaseError

    parts = urlsplit(url)
    asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
    options: dict[str, Any] = profile_options(environ) if parts.scheme == "s3" else {}
    options |= asked
    endpoint = options.get("endpoint") or environ.get("AWS_ENDPOINT_URL") or ""
    client = {"allow_http": True} if str(endpoint).startswith("http://") else {}
    try:
        return importlib.import_module("obstore.store").from_url(
            parts._replace(query="").geturl(), client_options=client, retry_config=_RETRIES,
            **options,
        )  # fmt: skip
    except (BaseError, ValueError) as error:
        said = str(error).splitlines()[0]
        raise RemoteError(f"{redact(url)} cannot be opened: {redact(said)}") from None
