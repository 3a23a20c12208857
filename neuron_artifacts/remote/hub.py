"""``hf://org/repo``: a model repository of a Hugging Face hub.

Files are uploaded first, as Git LFS objects that no commit names yet; then one commit, bound to
the parent it was made from, names them all together with the manifest. Another commit in between
makes the hub refuse it (412), so of several publishers of one key exactly one wins. The layout in
the repository is that of :mod:`~neuron_artifacts.remote.objects`, but for a suffix that a hub's
usual ``.gitattributes`` keeps in LFS.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from neuron_artifacts._files import is_sha256
from neuron_artifacts.errors import MissError, RemoteError, UsageError
from neuron_artifacts.model.hub_client import library, quiet
from neuron_artifacts.model.hub_errors import Asked, explain, failures, retry_after
from neuron_artifacts.remote.manifest import MAX_BYTES, RemoteManifest
from neuron_artifacts.remote.moving import read_checked
from neuron_artifacts.remote.objects import ARTIFACTS, SIGNATURES
from neuron_artifacts.remote.port import (
    MAX_SIGNATURE_BYTES,
    MOST_SIGNATURES,
    Blob,
    OnBytes,
    Probe,
)

_ASK_AT_ONCE = 200
"""Paths in one request about several."""

_RACES = 20
_CHUNK = 1 << 20

T = TypeVar("T")


class HubStore:
    """A remote store in one repository. Endpoint and token are huggingface_hub's own."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.url = url
        self.repo_id = f"{parts.netloc}{parts.path}".strip("/")
        if self.repo_id.count("/") != 1:
            raise UsageError(f"{url} names no repository", hint="hf://org/repo")
        hub = library()
        self._endpoint: str = hub.constants.ENDPOINT.rstrip("/")
        self._api: Any = hub.HfApi(self._endpoint, library_name="neuron-artifacts")
        self._asked = Asked(self.repo_id, "main", self._endpoint)
        self._uploaded: dict[str, Any] = {}
        self._lock = threading.Lock()

    def sizes(self, digests: Sequence[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for start in range(0, len(digests), _ASK_AT_ONCE):
            paths = [_blob(digest) for digest in digests[start : start + _ASK_AT_ONCE]]
            for entry in self._paths_info(paths, "main"):
                found[entry.path.rpartition("/")[2].removesuffix(".bin")] = int(entry.size)
        return found

    def read(self, sha256: str, size: int, start: int = 0) -> Iterator[bytes]:
        del size
        return self._stream(_blob(sha256), start)

    def write(self, blob: Blob, on_bytes: OnBytes) -> None:
        for _ in read_checked(blob.path, blob.sha256, lambda _: None):
            pass  # the hub would take any bytes for what they are
        operation = library().CommitOperationAdd(_blob(blob.sha256), str(blob.path))
        self._ask(
            lambda: self._api.preupload_lfs_files(
                self.repo_id, [operation], revision="main", free_memory=False
            )
        )
        with self._lock:
            self._uploaded[blob.sha256] = operation
        on_bytes(blob.size)

    def read_manifest(self, key: str) -> bytes | None:
        try:
            return self._read_small(f"{ARTIFACTS}{key}.json", MAX_BYTES)
        except MissError:
            return None

    def publish(self, manifest: RemoteManifest) -> bool:
        name = f"{ARTIFACTS}{manifest.artifact.key}.json"
        with self._lock:
            blobs = list(self._uploaded.values())
        for _ in range(_RACES):
            head = self._ask(lambda: self._api.model_info(self.repo_id, revision="main")).sha
            there = self._paths_info([name], str(head))
            if there and not blobs:
                return False
            fresh = [] if there else [library().CommitOperationAdd(name, manifest.dump())]
            said = f"Add artifact {manifest.artifact.key[:16]}"
            if self._commit([*blobs, *fresh], said, str(head)):
                self._uploaded.clear()
                return bool(fresh)
            time.sleep(random.uniform(0.05, 0.5))  # noqa: S311
        raise self._crowded()

    def signatures(self, key: str) -> list[bytes]:
        paths = self._list(f"{SIGNATURES}{key}", MOST_SIGNATURES)
        found = (self._read_small(path, MAX_SIGNATURE_BYTES) for path in paths)
        return [envelope for envelope in found if len(envelope) <= MAX_SIGNATURE_BYTES]

    def add_signature(self, key: str, envelope: bytes) -> None:
        name = f"{SIGNATURES}{key}/{hashlib.sha256(envelope).hexdigest()}.json"
        added = library().CommitOperationAdd(name, envelope)
        for _ in range(_RACES):
            if self._commit([added], f"Add a signature of {key[:16]}", None):
                return
            time.sleep(random.uniform(0.05, 0.5))  # noqa: S311
        raise self._crowded()

    def keys(self) -> list[str]:
        names = (path.rpartition("/")[2] for path in self._list(ARTIFACTS.rstrip("/"), None))
        keys = (name.removesuffix(".json") for name in names)
        return sorted(key for key in keys if is_sha256(key))

    def _list(self, folder: str, most: int | None) -> list[str]:
        def ask() -> list[str]:
            entries = self._api.list_repo_tree(self.repo_id, folder, revision="main")
            return [entry.path for entry in islice(entries, most)]

        try:
            return self._ask(ask)
        except MissError:
            return []

    def _read_small(self, path: str, most: int) -> bytes:
        """A file's bytes; of one that is larger than ``most``, some more than that."""
        data = bytearray()
        for chunk in self._stream(path, 0):
            data += chunk
            if len(data) > most:
                break
        return bytes(data)

    def _crowded(self) -> RemoteError:
        return RemoteError(f"{self.url}: others commit all the time", passing=True)

    def probe(self) -> Probe:
        """Commits name their parent, and every hub checks it: only the repository is asked for."""
        self._ask(lambda: self._api.model_info(self.repo_id, revision="main"))
        return Probe(True)

    def _paths_info(self, paths: list[str], revision: str) -> list[Any]:
        return self._ask(lambda: self._api.get_paths_info(self.repo_id, paths, revision=revision))

    def _commit(self, operations: list[Any], said: str, parent: str | None) -> bool:
        from huggingface_hub.errors import HfHubHTTPError

        try:
            with quietly():
                self._api.create_commit(
                    self.repo_id, operations, revision="main", parent_commit=parent,
                    commit_message=said,
                )  # fmt: skip
        except HfHubHTTPError as error:
            if error.response is not None and error.response.status_code in (409, 412):
                return False
            raise self._explain(error) from error
        except failures() as error:
            raise self._explain(error) from error
        return True

    def _stream(self, path: str, start: int) -> Iterator[bytes]:
        hub = library()
        url = f"{self._endpoint}/{self.repo_id}/resolve/main/{quote(path)}"
        headers = {**hub.utils.build_hf_headers(), "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        timeout = hub.constants.HF_HUB_DOWNLOAD_TIMEOUT
        with self._explained(path), quietly():
            with _open(hub.utils.get_session(), url, headers, timeout) as response:
                hub.utils.hf_raise_for_status(response)
                chunks = getattr(response, "iter_bytes", None) or response.iter_content
                skip = start if response.status_code == 200 else 0
                for chunk in chunks(_CHUNK):
                    yield chunk[skip:]
                    skip = max(0, skip - len(chunk))

    def _ask(self, call: Callable[[], T]) -> T:
        with self._explained(None), quietly():
            return call()

    @contextmanager
    def _explained(self, path: str | None) -> Iterator[None]:
        from huggingface_hub.errors import EntryNotFoundError

        try:
            yield
        except EntryNotFoundError:
            raise MissError(f"{self.url} has no {path or 'such folder'}") from None
        except failures() as error:
            raise self._explain(error) from error

    def _explain(self, error: Exception) -> RemoteError:
        told = explain(error, self._asked)
        wait = retry_after(error, -1.0)
        return RemoteError(
            told.message, hint=told.hint, passing=wait is not None,
            after=wait if wait is not None and wait >= 0 else None,
        )  # fmt: skip


class _Quietly:
    """huggingface_hub's silence is global: the first thread to need it begins it, the last ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._silence = ExitStack()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._silence.enter_context(quiet())
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._silence.close()


quietly = _Quietly()


def _open(session: Any, url: str, headers: dict[str, str], timeout: float) -> Any:
    """A streamed answer, from requests (huggingface_hub 0.x) or httpx (later)."""
    if callable(getattr(session, "stream", None)):
        return session.stream("GET", url, headers=headers, timeout=timeout)
    return session.get(url, headers=headers, timeout=timeout, stream=True)


def _blob(sha256: str) -> str:
    return f"cas/sha256/{sha256}.bin"
