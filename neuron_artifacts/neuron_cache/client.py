"""A cache repository over a hub's HTTP API: what it holds at its newest commit, and the bytes.

One request finds the commit; listings and files then come from :mod:`responses` as far as they
were fetched before. A bounded number of requests runs at once, and they are tried again where the
failure may pass.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from neuron_artifacts.errors import HubError, NeuronArtifactsError
from neuron_artifacts.model.hub_errors import (
    Asked,
    MissingEntryError,
    explain,
    failures,
    is_outage,
    retry_after,
)
from neuron_artifacts.neuron_cache.responses import Item, Responses, git_object_id
from neuron_artifacts.neuron_cache.transport import choose_transport

MAX_FILE_BYTES = 1 << 20
"""A registry entry takes a few kilobytes; a larger file is none and is not fetched."""

_AT_ONCE = 16
_PAUSES = (0.5, 1.0, 2.0, 4.0)
_LONGEST_PAUSE = 60.0
_MOST_PAGES = 10_000
_MOST_FETCHES = 3

T = TypeVar("T")
U = TypeVar("U")


def _nobody() -> None:
    pass


class Hub:
    """An endpoint, and where its answers are kept; ``requests`` counts what was sent to it.

    ``offline`` answers from what is kept alone; ``HF_HUB_OFFLINE`` does the same.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        offline: bool = False,
        cache_dir: Path | None = None,
    ) -> None:
        from huggingface_hub import constants

        self.endpoint: str = (endpoint or constants.ENDPOINT).rstrip("/")
        self.offline: bool = offline or bool(constants.HF_HUB_OFFLINE)
        self.cache_dir = cache_dir
        self.requests = 0
        self._transport = choose_transport(constants.HF_HUB_DOWNLOAD_TIMEOUT)
        self._lock = threading.Lock()
        self._not_before = 0.0

    def ask(
        self,
        url: str,
        *,
        method: str = "GET",
        on_send: Callable[[], None] = _nobody,
        **options: Any,
    ) -> Any:
        """The response to a request, repeated where that may help; ``on_send`` hears of each.

        A pause that the hub asks for holds back every request to it. Raises
        :class:`hub_errors.MissingEntryError`, and otherwise what huggingface_hub raises, as listed
        by :func:`hub_errors.failures`.
        """
        for pause in _PAUSES:
            try:
                return self._send(url, method, on_send, options)
            except MissingEntryError:
                raise
            except failures() as error:
                wait = retry_after(error, pause)
                if wait is None or wait > _LONGEST_PAUSE:
                    raise
                self._hold(wait)
        return self._send(url, method, on_send, options)

    def url(self, *parts: str) -> str:
        return "/".join((self.endpoint, *parts))

    def _send(
        self, url: str, method: str, on_send: Callable[[], None], options: Mapping[str, Any]
    ) -> Any:
        time.sleep(max(0.0, self._not_before - time.monotonic()))
        with self._lock:
            self.requests += 1
            on_send()
        return self._transport.send(method, url, **options)

    def _hold(self, seconds: float) -> None:
        with self._lock:
            self._not_before = max(self._not_before, time.monotonic() + seconds)


class CacheRepository:
    """A repository at one commit: the newest, or offline the newest that was seen.

    ``age`` is the number of seconds since the hub was last asked, ``None`` if it was just now;
    ``requests`` counts what was sent about the repository.

    Raises
    ------
    HubError, ModelNotFoundError
        From every method: the hub does not answer, refuses, or has no such repository; offline,
        what is needed was never fetched.
    """

    def __init__(self, repo_id: str, hub: Hub, *, revision: str = "main") -> None:
        self.repo_id = repo_id
        self.revision = revision
        self.hub = hub
        self.age: float | None = None
        self.commit: str | None = None
        self.requests = 0
        self._asked = Asked(repo_id, revision, hub.endpoint)
        self._kept = Responses(hub.endpoint, repo_id, hub.cache_dir)

    def find_commit(self) -> str:
        """Ask which commit the revision is now."""
        if self.hub.offline:
            kept, seen = self._kept_commits()[0]
            self._settle(kept, seen)
            return kept
        url = self.hub.url("api/models", self.repo_id, "revision", quote(self.revision, safe=""))
        answer = self._ask_json(url, params={"expand": "sha"})
        commit = answer.get("sha") if isinstance(answer, dict) else None
        if not isinstance(commit, str) or not commit.isalnum():
            raise HubError(
                f"{self._asked.place} does not say which commit {self.repo_id} is at",
                hint="check HF_ENDPOINT",
            )
        self._kept.keep_commit(self.revision, commit)
        self.commit = commit
        return commit

    def list_folder(self, folder: str = "", *, recursive: bool = False) -> tuple[Item, ...]:
        """What lies in a folder; nothing if there is no such folder."""
        if self.hub.offline:
            return self._list_kept(folder, recursive)
        commit = self.commit or self.find_commit()
        known = self._kept.listing(commit, folder, recursive)
        if known is not None:
            return known
        items = tuple(self._list(commit, folder, recursive))
        self._kept.keep_listing(commit, folder, recursive, items)
        return items

    def read(self, items: Sequence[Item]) -> dict[str, bytes | str]:
        """The bytes of each file by its path, or in words why there are none."""
        found = in_parallel(self._read_one, items)
        return {item.path: data for item, data in zip(items, found, strict=True)}

    def exist(self, paths: Sequence[str]) -> frozenset[str] | None:
        """Which of these files and folders there are, with one request; offline nobody knows."""
        if self.hub.offline:
            return None
        if not paths:
            return frozenset()
        commit = self.commit or self.find_commit()
        url = self.hub.url("api/models", self.repo_id, "paths-info", commit)
        answer = self._ask_json(url, method="POST", data={"paths": list(paths), "expand": "false"})
        rows = answer if isinstance(answer, list) else []
        return frozenset(str(row.get("path")) for row in rows if isinstance(row, dict))

    def _list(self, commit: str, folder: str, recursive: bool) -> Iterable[Item]:
        url: str | None = self.hub.url("api/models", self.repo_id, "tree", commit)
        if folder:
            url = f"{url}/{quote(folder, safe='')}"
        params: Mapping[str, str] | None = {"recursive": str(recursive).lower(), "expand": "false"}
        for _ in range(_MOST_PAGES):
            try:
                response = self._ask(str(url), params=params)
                yield from map(_item, response.json())
            except MissingEntryError as error:
                if folder:
                    return
                raise self._explain(error) from error
            except failures() as error:
                raise self._explain(error, folder) from error
            url, params = self._next_page(str(url), response), None
            if url is None:
                return
        raise HubError(f"{self._asked.place} never ends its listing of {self.repo_id}")

    def _next_page(self, url: str, response: Any) -> str | None:
        link = response.links.get("next", {}).get("url")
        if not link:
            return None
        following = urljoin(url, str(link))
        if urlsplit(following)[:2] != urlsplit(self.hub.endpoint)[:2]:
            # The token must not follow a link to another host.
            raise HubError(f"{self._asked.place} continues its listing on another host")
        return following

    def _read_one(self, item: Item) -> bytes | str:
        commit = self.commit or self.find_commit()
        if item.size > MAX_FILE_BYTES:
            return f"it has {item.size} bytes, too many for an entry"
        known = self._kept.blob(commit, item)
        if known is not None:
            return known
        if self.hub.offline:
            return "it was never fetched, and --offline forbids to ask"
        data = self._fetch_intact(commit, item)
        if data is None:
            return "it arrives damaged"
        self._kept.keep_blob(commit, item, data)
        return data

    def _fetch_intact(self, commit: str, item: Item) -> bytes | None:
        before = b""
        for _ in range(_MOST_FETCHES):
            data = self._fetch(commit, item)
            # The same bytes twice, and as many as listed: this hub's ids are not git's.
            if git_object_id(data) == item.oid or (data == before and len(data) == item.size):
                return data
            before = data
        return None

    def _fetch(self, commit: str, item: Item) -> bytes:
        url = self.hub.url(self.repo_id, "resolve", commit, quote(item.path))
        try:
            return bytes(self._ask(url).content)
        except MissingEntryError:
            return b""
        except failures() as error:
            raise self._explain(error, item.path) from error

    def _ask(self, url: str, **options: Any) -> Any:
        return self.hub.ask(url, on_send=self._count, **options)

    def _count(self) -> None:
        self.requests += 1

    def _ask_json(self, url: str, **options: Any) -> Any:
        try:
            return self._ask(url, **options).json()
        except failures() as error:
            raise self._explain(error) from error

    def _explain(self, error: Exception, name: str | None = None) -> NeuronArtifactsError:
        explained = explain(error, self._asked, name=name or None)
        kept = self._kept.commits(self.revision)
        if kept and is_outage(error):
            age = describe_age(time.time() - kept[0][1])
            explained.hint = f"--offline answers from what was fetched {age} ago"
        return explained

    def _kept_commits(self) -> list[tuple[str, float]]:
        kept = self._kept.commits(self.revision)
        if not kept:
            raise HubError(
                f"nothing of {self.repo_id} was fetched before, and --offline forbids to ask",
                hint="run the command once without --offline",
            )
        return kept

    def _list_kept(self, folder: str, recursive: bool) -> tuple[Item, ...]:
        """From the newest commit whose listing is there: each lookup fetches only what it needs."""
        for commit, seen in self._kept_commits():
            known = self._kept.listing(commit, folder, recursive)
            if known is not None:
                self._settle(commit, seen)
                return known
        raise HubError(
            f"{self.repo_id}/{folder} was never listed before, and --offline forbids to ask",
            hint="run the command once without --offline",
        )

    def _settle(self, commit: str, seen: float) -> None:
        self.commit, self.age = commit, max(0.0, time.time() - seen)


def in_parallel(work: Callable[[U], T], items: Sequence[U]) -> list[T]:
    """Apply ``work`` to each item, a bounded number at once; the first failure ends it."""
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(_AT_ONCE, len(items))) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def describe_age(seconds: float) -> str:
    """A duration for people, in its largest unit."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' * (count > 1)}"
    return f"{int(seconds)} s"


def _item(row: Any) -> Item:
    folder = row["type"] == "directory"
    size = row.get("size") or 0
    return Item(str(row["path"]), str(row.get("oid") or ""), int(size), folder)
