"""What a hub does with uploads: create, preupload, Git LFS, commit, delete.

As huggingface_hub calls it: ``hf_api.py`` (``create_repo``, ``delete_repo``, ``whoami``,
``list_repo_refs``, ``list_repo_commits``), ``_commit_api.py`` (``_fetch_upload_modes``: preupload;
``_prepare_commit_payload``: the lines of a commit) and ``lfs.py`` (``post_lfs_batch_info``,
``_upload_single_part``, ``lfs_upload``: verify). No Xet: clients that speak it must be told
``HF_HUB_DISABLE_XET=1``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tests.model.fake_hub import LFS_SUFFIXES, Repository

if TYPE_CHECKING:
    from tests.neuron_cache.cache_hub import CacheHub

Answer = tuple[int, dict[str, Any]]

_COMMITTING = threading.Lock()

FIRST = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}


class Refusal(Exception):
    """An answer with an error status."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


def create(hub: CacheHub, body: dict[str, Any], user: str) -> Answer:
    repo_id = _full_name(body, user)
    address = {"url": f"{hub.url}/{repo_id}", "name": repo_id}
    if repo_id in hub.repositories:
        return 409, {**address, "error": f"You already created this model repo: {repo_id}"}
    private = body.get("visibility") == "private" or body.get("private") is True
    hub.commit(repo_id, FIRST, private=private)
    hub.repositories[repo_id].readers.add(f"hf_{user}")
    return 200, address


def delete(hub: CacheHub, body: dict[str, Any], user: str) -> Answer:
    if hub.repositories.pop(_full_name(body, user), None) is None:
        raise Refusal(404, "Repository not found", "RepoNotFound")
    return 200, {}


def preupload(repository: Repository, body: dict[str, Any]) -> Answer:
    """Which files travel through LFS, and which are there already."""
    current = repository.commits[repository.refs["main"]]
    return 200, {"files": [
        {
            "path": file["path"], "shouldIgnore": False,
            "uploadMode": "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular",
            "oid": _git_id(current[file["path"]]) if file["path"] in current else None,
        }
        for file in body["files"]
    ]}  # fmt: skip


def lfs_batch(hub: CacheHub, repo_id: str, body: dict[str, Any]) -> Answer:
    objects = []
    for wanted in body["objects"]:
        place = f"{hub.url}/lfs/{repo_id}/{wanted['oid']}"
        actions = {"upload": {"href": place}, "verify": {"href": f"{place}/verify"}}
        known = {} if wanted["oid"] in hub.lfs else {"actions": actions}
        objects.append({"oid": wanted["oid"], "size": wanted["size"], **known})
    return 200, {"transfer": "basic", "objects": objects}


def lfs_put(hub: CacheHub, oid: str, data: bytes) -> Answer:
    if hashlib.sha256(data).hexdigest() != oid:
        raise Refusal(400, "the content does not match its oid")
    hub.lfs[oid] = data
    return 200, {}


def lfs_verify(hub: CacheHub, body: dict[str, Any]) -> Answer:
    if len(hub.lfs.get(body["oid"], b"")) != body["size"]:
        raise Refusal(404, "no such object")
    return 200, {}


def commit(hub: CacheHub, repo_id: str, revision: str, lines: Iterable[bytes]) -> Answer:
    """Apply the lines of a commit, all or none, and one commit after the other."""
    with _COMMITTING:
        return _commit(hub, repo_id, revision, lines)


def _commit(hub: CacheHub, repo_id: str, revision: str, lines: Iterable[bytes]) -> Answer:
    repository = hub.repositories[repo_id]
    head = repository.refs[revision]
    files = dict(repository.commits[head])
    for line in (json.loads(line) for line in lines if line.strip()):
        value = line["value"]
        if line["key"] == "header":
            if value.get("parentCommit") not in (None, head):
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        elif line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            if value["oid"] not in hub.lfs:
                raise Refusal(400, f"{value['path']} points to an object that was never uploaded")
            files[value["path"]] = hub.lfs[value["oid"]]
        elif line["key"] == "deletedFile":
            del files[value["path"]]
        elif line["key"] == "deletedFolder":
            prefix = value["path"].rstrip("/") + "/"
            files = {name: data for name, data in files.items() if not name.startswith(prefix)}
    oid = hub.commit(repo_id, files, branch=revision)
    return 200, {
        "success": True, "commitOid": oid, "commitUrl": f"{hub.url}/{repo_id}/commit/{oid}",
        "hookOutput": "", "pullRequestUrl": None,
    }  # fmt: skip


def whoami(user: str) -> Answer:
    token = {"displayName": "test", "role": "write", "createdAt": "2025-01-01T00:00:00.000Z"}
    return 200, {
        "type": "user", "name": user, "fullname": user, "orgs": [],
        "auth": {"type": "access_token", "accessToken": token},
    }  # fmt: skip


def refs(repository: Repository) -> Answer:
    branches = [
        {"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid}
        for name, oid in repository.refs.items()
    ]
    return 200, {"branches": branches, "tags": [], "converts": []}


def commits(repository: Repository) -> list[dict[str, Any]]:
    """Newest first."""
    return [
        {"id": oid, "title": "commit", "message": "", "date": "2025-01-01T00:00:00.000Z",
         "authors": []}
        for oid in reversed(repository.commits)
    ]  # fmt: skip


def _full_name(body: dict[str, Any], user: str) -> str:
    return f"{body.get('organization') or user}/{body['name']}"


def _git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
