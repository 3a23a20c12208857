"""Bring a directory that NxD Inference compiled elsewhere, mostly for vLLM, into the store.

The source is never changed and never trusted to stay as it is: files are copied, and what is
published is what was read again from the copies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from neuron_artifacts._version import __version__
from neuron_artifacts.artifact import MANIFEST_NAME, Manifest, read_manifest
from neuron_artifacts.artifact.findings import Finding
from neuron_artifacts.artifact.manifest import UNKNOWN, Role
from neuron_artifacts.artifact.neuron_config_file import CONFIG_FILE
from neuron_artifacts.artifact.neuron_directory import NeuronDirectory, read_neuron_directory
from neuron_artifacts.artifact.neuron_weights import ELSEWHERE, has_checkpoint
from neuron_artifacts.backends.checks import check_artifact
from neuron_artifacts.backends.nxdi.adopted import (
    adopted_graphs,
    adopted_key,
    model_config,
    serve_recipe,
    summarise,
    target_of,
    unknown_toolchain,
)
from neuron_artifacts.build.job import pretty
from neuron_artifacts.build.progress import ByteReport
from neuron_artifacts.build.provenance import describe_adoption, timestamp
from neuron_artifacts.errors import (
    CorruptError,
    IncompatibleError,
    IncompleteError,
    ModelNotFoundError,
    RefusedError,
    StoreError,
    UntrustedError,
    UsageError,
)
from neuron_artifacts.events import Note, Observer, ignore
from neuron_artifacts.model.snapshot import (
    CONFIG_NAME,
    INDEX_NAME,
    TEMPLATE_FOLDER,
    is_asset,
    weight_names,
)
from neuron_artifacts.store import LocalStore, Staging
from neuron_artifacts.store.staging import reading

_ERRORS = {
    "corrupt": CorruptError, "incomplete": IncompleteError, "incompatible": IncompatibleError,
    "unreadable": StoreError,
}  # fmt: skip
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


@dataclass(frozen=True)
class Adopted:
    """The artifact, the names of files that were left behind, and whether it was there before."""

    path: Path
    manifest: Manifest
    left_out: tuple[str, ...]
    was_there: bool


def adopt_directory(
    source: Path,
    store: LocalStore,
    *,
    model: Path | None = None,
    target: str | None = None,
    observe: Observer = ignore,
) -> Adopted:
    """Check a directory, copy it into the store and give it a manifest.

    ``model`` is the folder it was compiled from: tokenizer and configuration are taken from there
    where the directory lacks them, and the checkpoint where no shards were saved. ``target`` says
    what it was compiled for, which the directory itself often does not.

    Raises
    ------
    MissError, IncompleteError, CorruptError, IncompatibleError
        What is wrong with the directory.
    RefusedError
        It is not NxD Inference's.
    UntrustedError
        It holds symbolic links.
    StoreError
        It cannot be read, or the store cannot be written.
    """
    with reading(source):
        return _adopt(source, store, model, target, observe)


def _adopt(
    source: Path, store: LocalStore, model: Path | None, target: str | None, observe: Observer
) -> Adopted:
    if (source / MANIFEST_NAME).exists():
        raise UsageError(
            f"{source} has a manifest already", hint="neuron-artifacts validate checks it"
        )
    if model is not None and not model.is_dir():
        raise ModelNotFoundError(f"{model} is not a folder")
    contents = read_neuron_directory(source)
    _refuse_kind(contents)
    target_of(contents.fields, target)
    _refuse_problems(contents, model)
    files = list(_files(contents, model))
    _refuse_links(source, files)
    job = _Job(source, contents, store, observe)
    with store.stage(contents.config.md5 if contents.config else source.name) as staging:
        job.copy(staging, files)
        copied = read_neuron_directory(staging.path, full=True)
        _refuse_problems(copied, None)
        job.refuse_renamed(copied)
        manifest = _manifest(copied, staging, model, target)
        return job.publish(staging, manifest)


@dataclass(frozen=True)
class _Taken:
    """A file to copy, and the name it gets."""

    path: Path
    name: str
    role: Role


class _Job:
    """One adoption: where from, where to, and who is told."""

    def __init__(
        self, source: Path, contents: NeuronDirectory, store: LocalStore, observe: Observer
    ) -> None:
        self._source, self._contents = source, contents
        self._store, self._observe = store, observe
        self._taken: set[str] = set()
        self._began = timestamp()

    def copy(self, staging: Staging, files: list[_Taken]) -> None:
        """Copy every file, each hashed before and while it is copied."""
        try:
            total = sum(file.path.stat().st_size for file in files)
            report = ByteReport("adopting", total, self._observe)
            for file in files:
                staging.place(
                    file.path, file.name, file.role, may_hardlink=False, on_bytes=report.add,
                    sha256=self._store.digests.digest(file.path),
                )  # fmt: skip
                self._taken.add(file.name)
        except OSError as error:
            raise StoreError(f"{error.filename} cannot be read: {error.strerror}") from error
        if CONFIG_NAME not in staging and self._contents.config:
            staging.write(CONFIG_NAME, pretty(model_config(self._contents.config.content)), "model")
        if not any(name in staging for name in _TOKENIZERS):
            self._observe(
                Note("it has no tokenizer: adopt it with --model DIR to serve text with it")
            )

    def refuse_renamed(self, copied: NeuronDirectory) -> None:
        """The copy has another name than the source, whose name was its digest."""
        if copied.config and not copied.config.agrees_with(self._source.resolve().name):
            raise CorruptError(f"{self._source / CONFIG_FILE} changed while it was copied")

    def publish(self, staging: Staging, manifest: Manifest) -> Adopted:
        destination = self._store.path(manifest.key)
        left_out = tuple(self._left_out())
        for _ in range(3):
            sidecars = describe_adoption(manifest, self._began)
            if staging.publish(manifest, destination, sidecars=sidecars):
                return Adopted(destination, manifest, left_out, was_there=False)
            verdict = check_artifact(destination, "full", digests=self._store.digests, host=False)
            if verdict.status == "ok":
                return Adopted(destination, read_manifest(destination), left_out, was_there=True)
            if verdict.status == "unreadable":
                raise verdict.error()
            aside = self._store.set_aside(destination)
            self._observe(Note(f"what lay there was set aside as {aside}"))
        raise StoreError(f"{destination} cannot be published: something else keeps it occupied")

    def _left_out(self) -> Iterator[str]:
        for path in sorted(self._source.rglob("*")):
            name = path.relative_to(self._source).as_posix()
            if not path.is_dir() and name not in self._taken:
                yield name


def _refuse_kind(contents: NeuronDirectory) -> None:
    if contents.kind.startswith("nxdi"):
        return
    raise RefusedError(
        f"{contents.path} is {contents.kind}'s work, and only NxD Inference's is adopted",
        hint="`neuron-artifacts inspect` and `validate` read it where it is",
    )


def _refuse_problems(contents: NeuronDirectory, model: Path | None) -> None:
    """The gravest problem as an error. An artifact stands alone, so its weights must be in it."""
    elsewhere = [finding for finding in contents.findings if finding.field == ELSEWHERE]
    may_be_laid = not contents.fields.get("quantized")
    problems = [f for f in contents.problems if f not in elsewhere]
    if not problems:
        if model is not None and may_be_laid:
            return
        problems = [f for f in elsewhere if f.severity != "note"]
    if not problems:
        return
    first: Finding = problems[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    severity = "incomplete" if first.severity == "advice" else first.severity
    if severity == "unreadable":
        hint = "nothing says that it is damaged: see who may read it, and to the disk"
    elif first.field == ELSEWHERE and may_be_laid:
        hint = "name the checkpoint with --model DIR, so that the artifact stands alone"
    elif first.field == ELSEWHERE:
        hint = "compile it again with save_sharded_checkpoint, so that the artifact stands alone"
    else:
        hint = "compile it again with `neuron-artifacts compile --backend nxdi`"
    raise _ERRORS[severity](f"{contents.path} is {severity}: {first}{more}", hint=hint)


def _files(contents: NeuronDirectory, model: Path | None) -> Iterator[_Taken]:
    """What belongs to the artifact; all else in the directory stays where it is."""
    source = contents.path
    yield _Taken(source / CONFIG_FILE, CONFIG_FILE, "model")
    for compiled in contents.models:
        yield _Taken(source / compiled.path, compiled.path, "graph")
    for shard in contents.shards:
        yield _Taken(source / shard.path, shard.path, "weights")
    names = dict.fromkeys(_asset_names(source))
    yield from (_Taken(source / name, name, "model") for name in names)
    if model is not None:
        more = [name for name in _asset_names(model) if name not in names]
        yield from (_Taken(model / name, name, "model") for name in more)
    if not contents.shards:
        yield from _checkpoint(source if has_checkpoint(source) or model is None else model)


def _asset_names(folder: Path) -> list[str]:
    names = [path.name for path in folder.iterdir()]
    names += [f"{TEMPLATE_FOLDER}/{path.name}" for path in (folder / TEMPLATE_FOLDER).glob("*")]
    return sorted(
        name
        for name in names
        if (is_asset(name) or name == CONFIG_NAME) and (folder / name).is_file()
    )


def _checkpoint(folder: Path) -> Iterator[_Taken]:
    """Weights that are sharded whenever they are loaded; never pickled ones."""
    names, index = weight_names(folder)
    if index is not None:
        yield _Taken(folder / INDEX_NAME, INDEX_NAME, "model")
    yield from (_Taken(folder / name, name, "weights") for name in names)


def _refuse_links(source: Path, files: list[_Taken]) -> None:
    """A link in a directory of others' may lead to what was never meant to leave its place."""
    for file in files:
        path = file.path
        while path != source and source in path.parents:
            if path.is_symlink():
                raise UntrustedError(
                    f"{path} is a symbolic link",
                    hint="look where it leads; a copy made with `cp -rL` can be adopted",
                )
            path = path.parent


def _manifest(
    contents: NeuronDirectory, staging: Staging, model: Path | None, target: str | None
) -> Manifest:
    config = summarise(contents.fields)
    content = contents.config.content if contents.config else {}
    origin = str(model.absolute()) if model else content.get("_name_or_path")
    named = str(origin or "")
    known_target = target_of(contents.fields, target)
    key = adopted_key(contents, staging.files, known_target)
    name = Path(named).name if Path(named).is_absolute() else named
    return Manifest(
        key=key.key,
        graphs_digest=key.graphs_digest,
        weights_digest=key.weights_digest,
        document=key.document,
        backend="nxdi",
        target=known_target,
        neuron_config=config.document(),
        toolchain=unknown_toolchain(),
        model={"name": name or UNKNOWN, "source": named or None, "revision": None},
        graphs=adopted_graphs(contents, key),
        files=staging.files,
        serve=serve_recipe(contents, name or UNKNOWN, known_target),
        created=timestamp(),
        created_by=f"neuron-artifacts {__version__}, adopted",
    )
