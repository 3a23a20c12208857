"""``oci://registry/repository``: artifacts as OCI images that ``oras`` and ``skopeo`` can carry.

One tag a key. The image's layers are the artifact's files, each under the title that ``oras pull``
writes it to, and ``artifact.json`` beside them; its config blob is this project's remote manifest
(https://github.com/opencontainers/image-spec/blob/v1.1.1/manifest.md, "Guidelines for Artifact
Usage"). A registry puts a tag in one step, so a reader sees a whole artifact or none. But the
distribution specification knows no conditions: of two publishers of one key the later one wins.
A signature that comes later is an image of its own, ``<key>.<digest>``, which no other has.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from neuron_artifacts._files import is_sha256
from neuron_artifacts.artifact import MANIFEST_NAME, SIGNATURE_NAME
from neuron_artifacts.errors import CorruptError, MissError, RemoteError, UsageError
from neuron_artifacts.remote.http import join
from neuron_artifacts.remote.manifest import MAX_BYTES, RemoteManifest
from neuron_artifacts.remote.moving import in_parallel, persistently, read_checked
from neuron_artifacts.remote.port import (
    MAX_SIGNATURE_BYTES,
    MOST_KEYS,
    MOST_SIGNATURES,
    Blob,
    OnBytes,
    Probe,
    take,
)
from neuron_artifacts.remote.registry import Registry, body_of

IMAGE_TYPE = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT_TYPE = "application/vnd.neuron-artifacts.artifact.v1"
CONFIG_TYPE = "application/vnd.neuron-artifacts.manifest.v1+json"
SIGNATURE_TYPE = "application/vnd.neuron-artifacts.signature.v1+json"
LAYER_TYPE = "application/octet-stream"
TITLE = "org.opencontainers.image.title"

_MOST_IMAGE_BYTES = 4 << 20  # what registries must take, by the distribution specification
_MOST_PAGES = 10_000
_TAG_DIGITS = 32  # of a signature's digest: a tag has 128 characters at most


class OciStore:
    """A remote store in one repository of a registry."""

    def __init__(self, url: str, environ: Mapping[str, str]) -> None:
        parts = urlsplit(url)
        repository = parts.path.strip("/")
        if not repository or repository != repository.lower():
            raise UsageError(
                f"{url} names no repository", hint="oci://registry/repository, in lower case"
            )
        self.url = f"oci://{parts.netloc}/{repository}"
        asked = parse_qs(parts.query).get("plain-http", ["false"])[0]
        self._registry = Registry(
            parts.netloc, repository, plain_http=asked in ("true", "1"), environ=environ
        )

    def sizes(self, digests: Sequence[str]) -> dict[str, int]:
        found = in_parallel(lambda digest: persistently(lambda: self._size(digest)), digests)
        return {d: size for d, size in zip(digests, found, strict=True) if size is not None}

    def read(self, sha256: str, size: int, start: int = 0) -> Iterator[bytes]:
        headers = {"Range": f"bytes={start}-{size - 1}"} if start else None
        with self._registry.send("GET", f"blobs/sha256:{sha256}", headers=headers) as response:
            skip = start if response.status == 200 else 0
            for chunk in response.chunks():
                yield chunk[skip:]
                skip = max(0, skip - len(chunk))

    def write(self, blob: Blob, on_bytes: OnBytes) -> None:
        self._upload(blob.sha256, read_checked(blob.path, blob.sha256, on_bytes), blob.size)

    def read_manifest(self, key: str) -> bytes | None:
        try:
            return self._read_config(key, CONFIG_TYPE, MAX_BYTES)
        except MissError:
            return None

    def _read_config(self, tag: str, kind: str, most: int) -> bytes:
        """The config blob of the image under a tag, which must be of that kind and size."""
        image = body_of(
            self._registry.send("GET", f"manifests/{tag}", headers={"Accept": IMAGE_TYPE}),
            _MOST_IMAGE_BYTES,
        )
        try:
            config = image["config"]
            digest, size = str(config["digest"]).removeprefix("sha256:"), int(config["size"])
            if config["mediaType"] != kind or not is_sha256(digest) or size > most:
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise CorruptError(f"{self.url}:{tag} is no artifact of this tool") from None
        data = take(self.read(digest, size), size, f"{self.url}:{tag}")
        if hashlib.sha256(data).hexdigest() != digest:
            raise CorruptError(f"{self.url}:{tag} has other bytes than its digest says")
        return data

    def publish(self, manifest: RemoteManifest) -> bool:
        key = manifest.artifact.key
        if self._is_there(key):
            return False
        config, listed = manifest.dump(), manifest.artifact_json
        self._upload_small(config, listed)
        image = json.dumps(_image(manifest, config), indent=1).encode()
        if len(image) > _MOST_IMAGE_BYTES:
            raise RemoteError(
                f"the artifact has {len(manifest.artifact.files)} files, too many for a registry"
            )
        self._put_image(key, image)
        return self.read_manifest(key) == config

    def signatures(self, key: str) -> list[bytes]:
        tags = [tag for tag in self._tags() if tag.startswith(f"{key}.")]
        found = []
        for tag in tags[:MOST_SIGNATURES]:
            with suppress(CorruptError, MissError):  # somebody else's, or gone by now
                found.append(self._read_config(tag, SIGNATURE_TYPE, MAX_SIGNATURE_BYTES))
        return found

    def add_signature(self, key: str, envelope: bytes) -> None:
        self._upload_small(envelope)
        digest = hashlib.sha256(envelope).hexdigest()
        image = json.dumps(_signature_image(digest, len(envelope)), indent=1).encode()
        self._put_image(f"{key}.{digest[:_TAG_DIGITS]}", image)

    def keys(self) -> list[str]:
        return sorted(tag for tag in self._tags() if is_sha256(tag))

    def _upload_small(self, *contents: bytes) -> None:
        for data in contents:
            digest = hashlib.sha256(data).hexdigest()
            if self._size(digest) is None:
                self._upload(digest, iter((data,)), len(data))

    def _put_image(self, tag: str, image: bytes) -> None:
        headers = {"Content-Type": IMAGE_TYPE}
        with self._registry.send("PUT", f"manifests/{tag}", headers=headers, body=image):
            pass

    def _tags(self) -> list[str]:
        tags: list[str] = []
        path = "tags/list?n=1000"
        for _ in range(_MOST_PAGES):
            try:
                response = self._registry.send("GET", path)
            except MissError:
                break  # a repository begins to exist with its first push
            following = _next(response.headers.get("Link", ""), response.url)
            body = body_of(response, MAX_BYTES)
            found = body.get("tags") or []
            if not isinstance(found, list) or len(tags) + len(found) > MOST_KEYS:
                raise RemoteError(f"{self.url} lists no tags, or tags without end")
            tags += map(str, found)
            if following is None:
                break
            path = following
        return tags

    def probe(self) -> Probe:
        self.keys()
        return Probe(
            True, "registries know no conditions: of two who push one key, the later one wins"
        )

    def _size(self, sha256: str) -> int | None:
        try:
            with self._registry.send("HEAD", f"blobs/sha256:{sha256}") as response:
                size = str(response.headers.get("Content-Length", ""))
                return int(size) if size.isdecimal() else -1
        except MissError:
            return None

    def _is_there(self, key: str) -> bool:
        try:
            with self._registry.send("HEAD", f"manifests/{key}", headers={"Accept": IMAGE_TYPE}):
                return True
        except MissError:
            return False

    def _upload(self, sha256: str, chunks: Iterator[bytes], size: int) -> None:
        with self._registry.send("POST", "blobs/uploads/", body=b"") as response:
            place = join(response.url, response.headers.get("Location", ""))
        separator = "&" if "?" in place else "?"
        url = f"{place}{separator}digest={quote(f'sha256:{sha256}')}"
        with self._registry.send("PUT", url, stream=(chunks, size)):
            pass


def _image(manifest: RemoteManifest, config: bytes) -> dict[str, Any]:
    """The image manifest: layers in the order of the artifact's own manifest."""
    listed = manifest.artifact_json
    files = [(f.path, f.sha256, f.size) for f in manifest.stored]
    files.append((MANIFEST_NAME, hashlib.sha256(listed).hexdigest(), len(listed)))
    artifact = manifest.artifact
    return {
        "schemaVersion": 2,
        "mediaType": IMAGE_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": _descriptor(CONFIG_TYPE, hashlib.sha256(config).hexdigest(), len(config)),
        "layers": [
            {**_descriptor(LAYER_TYPE, digest, size), "annotations": {TITLE: path}}
            for path, digest, size in files
        ],
        "annotations": {
            "org.opencontainers.image.created": artifact.created,
            "org.opencontainers.image.title": str(artifact.model.get("name")),
        },
    }


def _signature_image(digest: str, size: int) -> dict[str, Any]:
    layer = {**_descriptor(SIGNATURE_TYPE, digest, size), "annotations": {TITLE: SIGNATURE_NAME}}
    return {
        "schemaVersion": 2,
        "mediaType": IMAGE_TYPE,
        "artifactType": SIGNATURE_TYPE,
        "config": _descriptor(SIGNATURE_TYPE, digest, size),
        "layers": [layer],
    }


def _descriptor(media_type: str, sha256: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{sha256}", "size": size}


def _next(link: str, url: str) -> str | None:
    """The next page, if it is on the same host: a token must not follow elsewhere."""
    target, _, relation = link.partition(";")
    if 'rel="next"' not in relation:
        return None
    following = join(url, target.strip().strip("<>"))
    return following if urlsplit(following)[:2] == urlsplit(url)[:2] else None
