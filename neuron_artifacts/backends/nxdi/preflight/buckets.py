"""Buckets and lengths: what has a graph, and what would find none when it is served."""

from __future__ import annotations

from collections.abc import Iterator

from neuron_artifacts.backends.findings import Finding
from neuron_artifacts.backends.nxdi.identity import list_graphs
from neuron_artifacts.backends.nxdi.preflight.catalogue import finding
from neuron_artifacts.backends.nxdi.preflight.subject import Subject

_LISTS = (
    ("context_encoding_buckets", "max_context_length", "prompts"),
    ("token_generation_buckets", "max_length", "sequences"),
)


def check_buckets(subject: Subject) -> Iterator[Finding]:
    """Bucket lists that NeuronConfig takes and that fail, or waste, later."""
    for name, limit, what in _LISTS:
        buckets = subject.field(name)
        if not buckets:
            continue
        if not all(isinstance(b, int) and not isinstance(b, bool) and b > 0 for b in buckets):
            yield finding("buckets-value", f"{name} holds what is no length: {buckets}")
            continue
        if not subject.field("enable_bucketing"):
            yield finding(
                "buckets-ignored",
                f"{name} is not used without enable_bucketing: one graph for "
                f"{subject.fields[limit]} is compiled",
            )
            continue
        if len(set(buckets)) != len(buckets):
            yield finding("buckets-twice", f"{name} lists a length twice: {buckets}")
        if max(buckets) < subject.fields[limit]:
            yield finding(
                "buckets-short",
                f"{name} ends at {max(buckets)} and {limit} is {subject.fields[limit]}: longer "
                f"{what} have no graph",
                hint=f"add {subject.fields[limit]}, or lower {limit}",
            )
    yield from _prefix_buckets(subject)


def check_lengths(subject: Subject) -> Iterator[Finding]:
    """Positions beyond the model's own, and the number of graphs."""
    shape, length = subject.shape, subject.fields["max_length"]
    if shape is not None and shape.max_positions is not None and length > shape.max_positions:
        yield finding(
            "seq-len-positions",
            f"max_length {length} is more than the model's max_position_embeddings "
            f"{shape.max_positions}",
        )
    graphs = list_graphs(subject.fields)
    if graphs:
        yield finding(
            "graphs",
            f"{len(graphs)} graphs: " + ", ".join(f"{phase} {bucket}" for phase, bucket in graphs),
        )


def _prefix_buckets(subject: Subject) -> Iterator[Finding]:
    """With prefix caching a bucket is a pair; NxD Inference adds a list to the prefix buckets."""
    prefix = subject.field("prefix_buckets")
    context = subject.field("context_encoding_buckets")
    caches = subject.field("is_prefix_caching") and subject.field("enable_bucketing")
    if caches and context and prefix is None:
        yield finding(
            "prefix-buckets",
            "context_encoding_buckets with prefix caching need prefix_buckets: NxD Inference "
            "raises TypeError without them",
            hint="give prefix_buckets as well, or leave both out",
        )
    if prefix and not (caches and context):
        yield finding(
            "prefix-buckets-ignored",
            "prefix_buckets are read only with is_prefix_caching, enable_bucketing and "
            "context_encoding_buckets",
        )
