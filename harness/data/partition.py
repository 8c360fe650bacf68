"""Who holds which examples: pure functions of labels, writers and a seed.

Horizontal rules give every example to at most one client; what nobody holds is the remainder.
Letters: N examples, K clients, C classes, M rows dealt out in all.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.config import PartitionConfig, nearest, require
from harness.data.partition_objects import deal_objects, object_table
from harness.data.views import FPL_VIEWS, check_names
from harness.types import ConfigError

MAX_DRAWS = 1000
"""Dirichlet draws before a partition is called impossible (He et al., NeurIPS 2020, supplement)."""

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Partition:
    """The rows of every client, client after client. `partition[k]` are client k's."""

    rows: Ints
    """[M] rows of the train split, ascending within a client."""
    offsets: Ints
    """[K + 1] client k holds rows[offsets[k]:offsets[k + 1]]."""
    remainder: Ints
    """Rows that no client holds, ascending."""
    views: tuple[str, ...] | None = None
    """[K] name of each client's view (vertical partitions)."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, client: int) -> Ints:
        if not 0 <= client < len(self):
            raise IndexError(f"client {client} of {len(self)}")
        return self.rows[self.offsets[client] : self.offsets[client + 1]]

    @property
    def sizes(self) -> Ints:
        """[K] examples of each client."""
        return np.diff(self.offsets)

    def label_counts(self, targets: Ints, *, num_classes: int) -> Ints:
        """[K, C] examples of each client and class; `targets` [N] are the labels of the split."""
        client = np.repeat(np.arange(len(self)), self.sizes)
        cells = np.bincount(client * num_classes + targets[self.rows], minlength=len(self) * num_classes)
        return cells.reshape(len(self), num_classes)


@dataclass(frozen=True, slots=True, eq=False)
class Population:
    """What a rule may look at."""

    targets: Ints
    """[N] labels."""
    writers: Ints | None
    """[N] writer of each example, -1 unknown; None where the task knows none."""
    num_classes: int
    """C."""
    objects: Ints | None = None
    """[N, C'] objects of each class in each image, where the rule asks for them."""

    def __len__(self) -> int:
        return len(self.targets)


Rule = Callable[[PartitionConfig, Population, np.random.Generator], Ints]
"""Gives every example its client: [N] int64, -1 for the remainder. Raises ConfigError."""


def partition(
    cfg: PartitionConfig,
    *,
    targets: Ints,
    writers: Ints | None,
    num_classes: int,
    seed: int,
    objects: Ints | None = None,
) -> Partition:
    """Deal the N examples with these labels to cfg.num_clients clients.

    Equal arguments give equal partitions. Raises ConfigError, naming the key to change, where the rule
    cannot be met or a client holds fewer than cfg.min_examples.
    """
    known = partition_names()
    require(cfg.name in known, f"partition.name: unknown rule {cfg.name!r}{nearest(cfg.name, known)}")
    require(cfg.num_clients >= 1, f"partition.num_clients must be >= 1, got {cfg.num_clients}")
    if cfg.name == "views":
        dealt = _views(cfg, len(targets))
    else:
        # "part": a stream of its own, whatever else is drawn from the seed.
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0x70617274,)))
        owner = PARTITIONS[cfg.name](cfg, Population(targets, writers, num_classes, objects), rng)
        dealt = _by_owner(owner, cfg.num_clients)
    smallest = int(dealt.sizes.argmin())
    size = int(dealt.sizes[smallest])
    require(
        size >= cfg.min_examples,
        f"partition.min_examples: client {smallest} holds {size} examples, fewer than {cfg.min_examples}; "
        f"lower it or partition.num_clients ({cfg.num_clients})",
    )
    return dealt


def partition_names() -> list[str]:
    """What `partition.name` may be."""
    return sorted([*PARTITIONS, "views"])


def _by_owner(owner: Ints, num_clients: int) -> Partition:
    order = np.argsort(owner, kind="stable")  # stable: rows stay ascending within a client
    ends = np.cumsum(np.bincount(owner + 1, minlength=num_clients + 1))
    return Partition(rows=order[ends[0] :], offsets=ends - ends[0], remainder=order[: ends[0]])


def _views(cfg: PartitionConfig, num_rows: int) -> Partition:
    """Vertical: every client holds every example and sees it through its own view."""
    check_names(cfg.views)
    k = cfg.num_clients
    require(
        not cfg.views or len(cfg.views) == k,
        f"partition.views must name a view per client, got {len(cfg.views)} for partition.num_clients={k}",
    )
    return Partition(
        rows=np.tile(np.arange(num_rows), k),
        offsets=np.arange(k + 1) * num_rows,
        remainder=np.empty(0, np.int64),
        views=view_names(cfg),
    )


def view_names(cfg: PartitionConfig) -> tuple[str, ...]:
    """[K] view of each client of a vertical partition."""
    return tuple(cfg.views) or tuple(FPL_VIEWS[client % len(FPL_VIEWS)] for client in range(cfg.num_clients))


def _deal(rows: Ints, cuts: Ints, owner: Ints) -> None:
    """rows[:cuts[0]] go to client 0, rows[cuts[0]:cuts[1]] to client 1, ...; the rest keeps its owner."""
    sizes = np.diff(cuts, prepend=0)
    owner[rows[: cuts[-1]]] = np.repeat(np.arange(len(cuts)), sizes)


def _nobody(people: Population) -> Ints:
    return np.full(len(people), -1, np.int64)


def _iid(cfg: PartitionConfig, people: Population, rng: np.random.Generator) -> Ints:
    """Equal sizes, to within one, in random order."""
    owner = _nobody(people)
    _deal(rng.permutation(len(people)), _even_cuts(len(people), cfg.num_clients), owner)
    return owner


def _even_cuts(total: int, parts: int) -> Ints:
    return np.arange(1, parts + 1) * total // parts


def _dirichlet(cfg: PartitionConfig, people: Population, rng: np.random.Generator) -> Ints:
    """FedGKT's balanced rule: per class a Dirichlet draw over clients, where a client that already holds
    N / K gets nothing of that class; drawn again until every client has min_examples.
    """
    require(cfg.alpha > 0, f"partition.alpha must be > 0, got {cfg.alpha}")
    totals = np.bincount(people.targets, minlength=people.num_classes)
    for _ in range(MAX_DRAWS):
        cuts = _balanced_cuts(totals, cfg, rng)
        if cuts is not None and np.diff(cuts, prepend=0).sum(axis=0).min() >= cfg.min_examples:
            break
    else:
        raise ConfigError(
            f"partition: no Dirichlet draw of {MAX_DRAWS} gives each of {cfg.num_clients} clients "
            f"{cfg.min_examples} of {len(people)} examples; raise partition.alpha ({cfg.alpha}) or lower "
            f"partition.min_examples ({cfg.min_examples})"
        )
    owner = _nobody(people)
    for label, rows in enumerate(_rows_by_class(people, rng)):
        _deal(rows, cuts[label], owner)
    return owner


def _balanced_cuts(totals: Ints, cfg: PartitionConfig, rng: np.random.Generator) -> Ints | None:
    """[C, K] ends of each client's share of a class; None where a draw leaves nobody to give a class to."""
    fair = totals.sum() / cfg.num_clients
    held = np.zeros(cfg.num_clients, np.int64)
    cuts = np.empty((len(totals), cfg.num_clients), np.int64)
    for label, total in enumerate(totals):
        shares = rng.dirichlet(np.full(cfg.num_clients, cfg.alpha)) * (held < fair)
        mass = shares.sum()
        if not mass > 0:
            return None
        cuts[label] = (np.cumsum(shares / mass) * total).astype(np.int64)
        # Whoever comes last takes what rounding left, if it may still take anything.
        cuts[label, np.flatnonzero(shares)[-1] :] = total
        held += np.diff(cuts[label], prepend=0)
    return cuts


def _rows_by_class(people: Population, rng: np.random.Generator) -> list[Ints]:
    """Rows of each class, in random order."""
    shuffled = rng.permutation(len(people))
    grouped = shuffled[np.argsort(people.targets[shuffled], kind="stable")]
    totals = np.bincount(people.targets, minlength=people.num_classes)
    return np.split(grouped, np.cumsum(totals)[:-1])


def _shards(cfg: PartitionConfig, people: Population, rng: np.random.Generator) -> Ints:
    """Sort by label, cut into equal shards, deal each client some at random.

    McMahan et al., AISTATS 2017: 200 shards of 300, 2 per client. MFL: 320 shards of 187, 5 per client.
    """
    each, k = cfg.shards_per_client, cfg.num_clients
    require(each >= 1, f"partition.shards_per_client must be >= 1, got {each}")
    count = k * each if cfg.num_shards is None else cfg.num_shards
    require(
        count >= k * each,
        f"partition.num_shards must be >= num_clients * shards_per_client, got {count} < {k} * {each}",
    )
    size = len(people) // count
    require(size >= 1, f"partition.num_shards: {len(people)} examples cannot fill {count} shards; lower it")
    shard = rng.permutation(count)[: k * each]
    client = np.full(count, -1)
    client[shard] = np.repeat(np.arange(k), each)
    owner = _nobody(people)
    by_label = np.argsort(people.targets, kind="stable")
    owner[by_label[: count * size]] = np.repeat(client, size)
    return owner


def _by_writer(cfg: PartitionConfig, people: Population, rng: np.random.Generator) -> Ints:
    """A client per writer, in the order of their numbers; fewer clients than writers: dealt at random."""
    if people.writers is None:
        raise ConfigError(
            "partition.name: by_writer needs a task with writers, such as mnist_writers or femnist"
        )
    names, writer = np.unique(people.writers, return_inverse=True)
    unknown = int(np.searchsorted(names, 0))
    found = len(names) - unknown
    require(
        found >= cfg.num_clients,
        f"partition.num_clients must be <= the {found} writers of the task, got {cfg.num_clients}",
    )
    client = np.arange(found)
    if found > cfg.num_clients:
        client = rng.permutation(client % cfg.num_clients)
    return np.concatenate([np.full(unknown, -1), client])[writer]


def _explicit_counts(cfg: PartitionConfig, people: Population, rng: np.random.Generator) -> Ints:
    """As many examples per client and class as the table asks for, drawn at random."""
    counts = _count_table(cfg, people.num_classes)
    available = np.bincount(people.targets, minlength=people.num_classes)
    asked = counts.sum(axis=0)
    for short in np.flatnonzero(asked > available):
        raise ConfigError(
            f"partition.counts: class {short} has {available[short]} examples, {asked[short]} asked for; "
            "lower them, or leave more to partition (task.limit_train, task.options.val_from=test)"
        )
    owner = _nobody(people)
    for label, rows in enumerate(_rows_by_class(people, rng)):
        _deal(rows, np.cumsum(counts[:, label]), owner)
    return owner


def _object_counts(cfg: PartitionConfig, people: Population, rng: np.random.Generator) -> Ints:
    """As near as whole images come to so many objects per client and class; dealt out greedily."""
    assert people.objects is not None, "the rule needs the objects of each image"
    return deal_objects(people.objects, _count_table(cfg, people.objects.shape[1]), rng)


def _count_table(cfg: PartitionConfig, num_classes: int) -> Ints:
    require(
        (cfg.preset is None) != (not cfg.counts),
        f"partition: {cfg.name} needs either partition.counts or partition.preset",
    )
    table = cfg.counts
    if cfg.preset is not None and cfg.name == "object_counts":
        table = object_table(cfg.preset)
    elif cfg.preset is not None:
        known = sorted(COUNT_PRESETS)
        require(
            cfg.preset in known, f"partition.preset: unknown table {cfg.preset!r}{nearest(cfg.preset, known)}"
        )
        table = [list(row) for row in COUNT_PRESETS[cfg.preset]]
    key = "counts" if cfg.preset is None else "preset"
    require(
        len(table) == cfg.num_clients,
        f"partition.{key} must have a row per client, got {len(table)} for num_clients={cfg.num_clients}",
    )
    require(
        {len(row) for row in table} == {num_classes},
        f"partition.{key} must have {num_classes} columns, got {sorted({len(row) for row in table})}",
    )
    counts = np.asarray(table, np.int64)
    require(bool((counts >= 0).all()), f"partition.{key} must be >= 0, got {counts.min()}")
    return counts


def _quantity_skew(cfg: PartitionConfig, people: Population, rng: np.random.Generator) -> Ints:
    """min_examples for every client, the rest in sizes drawn from Dirichlet(alpha); labels are IID."""
    require(cfg.alpha > 0, f"partition.alpha must be > 0, got {cfg.alpha}")
    k, least = cfg.num_clients, max(0, cfg.min_examples)
    spare = len(people) - k * least
    require(
        spare >= 0,
        f"partition.min_examples: {k} clients x {least} is more than the {len(people)} examples; "
        f"lower it or partition.num_clients",
    )
    cuts = np.floor(np.cumsum(rng.dirichlet(np.full(k, cfg.alpha))) * spare).astype(np.int64)
    cuts[-1] = spare
    owner = _nobody(people)
    _deal(rng.permutation(len(people)), np.minimum(cuts, spare) + least * np.arange(1, k + 1), owner)
    return owner


PARTITIONS: dict[str, Rule] = {
    "iid": _iid,
    "dirichlet": _dirichlet,
    "shards": _shards,
    "by_writer": _by_writer,
    "explicit_counts": _explicit_counts,
    "object_counts": _object_counts,
    "quantity_skew": _quantity_skew,
}
"""The horizontal rules; `views` is the vertical one."""

COUNT_PRESETS: dict[str, tuple[tuple[int, ...], ...]] = {
    # Huang et al., ECAI 2020: MNIST over ten clients. Client 10's digit 8 is 415, where 425 is printed,
    # so that the columns add up to MNIST's.
    "rpn_mnist": (
        (763, 586, 423, 533, 582, 607, 690, 568, 539, 541),
        (649, 798, 518, 330, 429, 380, 320, 731, 626, 449),
        (363, 724, 722, 421, 611, 612, 531, 669, 708, 829),
        (518, 831, 605, 1082, 637, 607, 996, 586, 701, 269),
        (420, 570, 588, 763, 288, 688, 611, 641, 600, 734),
        (518, 763, 563, 597, 591, 531, 328, 608, 421, 678),
        (611, 524, 855, 628, 789, 664, 511, 709, 790, 158),
        (417, 449, 511, 666, 737, 508, 1080, 563, 563, 672),
        (523, 960, 739, 707, 432, 498, 285, 420, 488, 246),
        (1141, 537, 434, 404, 746, 326, 566, 770, 415, 1373),
    ),
}
"""Tables that `partition.preset` names: rows are clients, columns classes."""
