"""huggingface_hub as this project uses it, alike for its majors from 0.30 to 2.x.

Endpoint, token, cache folder and offline mode are its own (``HF_ENDPOINT``, ``HF_TOKEN``,
``HF_HOME``, ``HF_HUB_CACHE``, ``HF_HUB_OFFLINE``), as they were when it was first imported.
"""

from __future__ import annotations

import inspect
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from neuron_artifacts._version import __version__
from neuron_artifacts.errors import HubError
from neuron_artifacts.model.hub_cache import Listing, Remote
from neuron_artifacts.model.hub_errors import Asked, explain, failures, retry_after

Progress = Callable[[str, int, int], None]
"""Told a file's name, the bytes done and the bytes in all, while it arrives and is checked."""

_PAUSES = (1.0, 3.0)
_LONGEST_PAUSE = 30.0
_WHO: dict[str, Any] = {"library_name": "neuron-artifacts", "library_version": __version__}

T = TypeVar("T")


def library() -> Any:
    """huggingface_hub, imported late; untyped, as its majors export different names."""
    import huggingface_hub.constants
    import huggingface_hub.utils

    return huggingface_hub


class HubClient:
    """Requests about one repository at one endpoint."""

    def __init__(
        self,
        repo_id: str,
        revision: str | None,
        endpoint: str | None,
        cache_dir: Path | None,
        progress: Progress | None = None,
    ) -> None:
        constants = library().constants
        self.repo_id = repo_id
        self.revision: str = revision or constants.DEFAULT_REVISION
        self.endpoint: str = (endpoint or constants.ENDPOINT).rstrip("/")
        self.cache_dir = Path(cache_dir or constants.HF_HUB_CACHE)
        self.progress = progress
        if not re.fullmatch(r"https?://[^/\s]+(/\S*)?", self.endpoint):
            raise HubError(
                f"HF_ENDPOINT {self.endpoint!r} is no URL", hint="e.g. https://huggingface.co"
            )
        self.asked = Asked(repo_id, self.revision, self.endpoint)
        self._timeout: float = constants.HF_HUB_DOWNLOAD_TIMEOUT

    def list_files(self, revision: str) -> Listing:
        """The commit of a revision, and its files; what huggingface_hub raises passes."""

        def ask() -> Any:
            api = library().HfApi(self.endpoint, **_WHO)
            return api.model_info(
                self.repo_id, revision=revision, files_metadata=True, timeout=self._timeout
            )

        info = _ask(ask)
        if not info.sha or not info.siblings:
            raise ValueError("neither commit nor files in the answer")
        return Listing(info.sha, {file.rfilename: _remote(file) for file in info.siblings})

    def fetch(self, name: str, revision: str, size: int | None = None) -> Path:
        """Download one file into the cache unless it is there; returns the snapshot's entry.

        Its progress is told where ``size`` is given.
        """
        hf_hub_download = library().hf_hub_download
        progress = self.progress if size else None
        tells = "tqdm_class" in inspect.signature(hf_hub_download).parameters
        options = {"tqdm_class": bar_class(name, size or 0, progress)} if tells else {}

        def download() -> Path:
            return Path(
                hf_hub_download(
                    self.repo_id, name, revision=revision, cache_dir=self.cache_dir,
                    endpoint=self.endpoint, **_WHO, **options,
                )
            )  # fmt: skip

        with self.explained(name=name):
            if tells:
                return download()
            entry = _ask(download)  # the older library gives up when a connection drops
        if progress and size:
            progress(name, size, size)
        return entry

    def read_head(self, name: str, commit: str, count: int) -> bytes:
        """The first ``count`` bytes of a file."""
        utils = library().utils
        url = library().hf_hub_url(self.repo_id, name, revision=commit, endpoint=self.endpoint)
        headers = {**utils.build_hf_headers(**_WHO), "Accept-Encoding": "identity"}
        headers["Range"] = f"bytes=0-{max(count, 1) - 1}"
        with self.explained(name=name):
            return _ask(lambda: _read_first(url, headers, count, self._timeout))

    @contextmanager
    def explained(self, *kinds: type[Exception], name: str | None = None) -> Iterator[None]:
        """Turn what huggingface_hub raises, or only ``kinds``, into this project's errors."""
        handled = kinds or failures()
        try:
            yield
        except handled as error:
            raise explain(error, self.asked, name=name) from error


def _remote(file: Any) -> Remote:
    """From huggingface_hub's ``RepoSibling``."""
    size = file.size if file.size is not None or file.lfs is None else file.lfs.size
    return Remote(size, file.lfs.sha256 if file.lfs else None)


def _ask(call: Callable[[], T]) -> T:
    """Call, and again after a pause where the failure may pass."""
    for pause in _PAUSES:
        try:
            return call()
        except failures() as error:
            wait = retry_after(error, pause)
            if wait is None or wait > _LONGEST_PAUSE:
                raise
        time.sleep(wait)
    return call()


def _read_first(url: str, headers: Mapping[str, str], count: int, timeout: float) -> bytes:
    """The first ``count`` bytes of a file and no more, even from a server that ignores Range."""
    utils = library().utils
    session = utils.get_session()  # of requests before huggingface_hub 1.0, else of httpx
    if callable(getattr(session, "stream", None)):
        opened = session.stream("GET", url, headers=headers, timeout=timeout)
    else:
        opened = session.get(url, headers=headers, timeout=timeout, stream=True)
    data = bytearray()
    with opened as response:
        utils.hf_raise_for_status(response)
        chunks = getattr(response, "iter_bytes", None) or response.iter_content
        for chunk in chunks(64 << 10):
            data += chunk
            if len(data) >= count:
                break
    return bytes(data[:count])


def bar_class(name: str, size: int, progress: Progress | None) -> type[Any]:
    """What huggingface_hub takes for a tqdm class; shows nothing, tells ``progress``."""

    class Bar:
        def __init__(self, *_: Any, total: int | None = None, initial: int = 0, **__: Any) -> None:
            self.n = 0
            self.total = total or size
            self.update(initial)

        def update(self, count: int = 1) -> None:
            self.n += count
            if progress:
                progress(name, self.n, self.total)

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: Any) -> None:
            pass

        def update_transfer(self, *_: Any, **__: Any) -> None:
            """Xet counts bytes received beside bytes written; the latter are told."""

        refresh = close = set_postfix_str = set_transfer_postfix_str = update_transfer

    return Bar


@contextmanager
def quiet() -> Iterator[None]:
    """Keep huggingface_hub's bars and retry notes off stderr, unless its variables ask for them."""
    utils = library().utils
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    asked_notes = os.environ.keys() & {"HF_DEBUG", "HF_HUB_VERBOSITY"}
    asked_bars = "HF_HUB_DISABLE_PROGRESS_BARS" in os.environ or utils.are_progress_bars_disabled()
    if not asked_notes:
        logger.setLevel(logging.ERROR)
    if not asked_bars:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if not asked_bars:
            utils.enable_progress_bars()
