"""The typed configuration of a run: frozen dataclasses, and what no run can satisfy."""

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from harness.types import ConfigError


@dataclass(frozen=True, slots=True)
class TaskConfig:
    """What is learned."""

    name: str = "digits"
    """A task from `harness list tasks`, or `package.module:Class`."""
    model: str = "auto"
    """A network from `harness list models`, `package.module:Class`, or `auto`: the task's default."""
    path: str | None = None
    """A file (task `npz`) or a folder in PASCAL VOC's layout (tasks `voc_*`) of the user's own."""
    val_fraction: float = 0.1
    """Share of the training examples held out as val, before they are partitioned."""
    limit_train: int | None = None
    """Use only that many training examples (drawn evenly over classes by a fixed seed)."""
    limit_test: int | None = None
    """Use only that many test examples."""
    image_size: int | None = None
    """Resize images to squares of this side, pixels."""
    augment: list[str] = field(default_factory=list)
    """Augmentations of training batches, in order: crop, hflip, cutout."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keys that only one task family knows."""


@dataclass(frozen=True, slots=True)
class PartitionConfig:
    """Who holds which examples."""

    name: str = "iid"
    """A rule from `harness list partitions`."""
    num_clients: int = 10
    """Clients in the federation."""
    min_examples: int = 1
    """Every client holds at least this many examples."""
    alpha: float = 0.5
    """Concentration of `dirichlet` and `quantity_skew`: the smaller, the more skewed."""
    shards_per_client: int = 2
    """Shards dealt to each client by `shards`."""
    num_shards: int | None = None
    """Shards cut by `shards`; default num_clients * shards_per_client."""
    counts: list[list[int]] = field(default_factory=list)
    """Examples per client (rows) and class (columns) of `explicit_counts`."""
    preset: str | None = None
    """A named table of counts instead of `counts`."""
    views: list[str] = field(default_factory=list)
    """Transform of each source in `views`; default the five of FPL, in order, repeated."""


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """How fast clients send and receive: by their device profile, or by distance to the mast."""

    model: str = "profile"
    """profile: its fixed rates; shannon: capacity of an own band; lte: resource blocks under fading."""
    min_distance_m: float = 10.0
    """Nearest client; clients lie uniformly in the ring between the two distances."""
    max_distance_m: float = 500.0
    """Farthest client."""
    noise_dbm_hz: float = -174.0
    """Density of the noise."""
    bandwidth_hz: float = 1e6
    """shannon: band of each client, both ways."""
    num_blocks: int = 100
    """lte: resource blocks, shared equally by all clients, both ways."""
    block_hz: float = 180e3
    """lte: width of a resource block."""
    tx_dbm: float = 10.0
    """lte: transmit power of a client."""
    server_dbm: float = 30.0
    """lte: transmit power of the mast."""
    tx_interference_w: float = 1e-7
    """lte: interference per block, uplink."""
    rx_interference_w: float = 1.8e-7
    """lte: interference per block, downlink."""
    path_exponent: float = 2.0
    """lte: the channel's gain is distance^-path_exponent."""
    fading: str = "outside"
    """lte: mean over Rayleigh fading outside the logarithm (the mean rate) or inside (its upper bound)."""
    power_per_block: bool = True
    """lte: each block gets the whole transmit power, as printed in FPL; else they share it."""


@dataclass(frozen=True, slots=True)
class FleetConfig:
    """Which devices the clients run on."""

    profiles: dict[str, float] = field(default_factory=dict)
    """Device profile -> share of the clients (normalised, dealt by seed); default all raspberry_pi_4."""
    server: str = "edge_server"
    """Device profile of the server."""
    speed_sigma: float = 0.0
    """Log-normal spread of each client's clock frequency and rates around its profile."""
    clock_hz: list[float] = field(default_factory=list)
    """[lowest, highest]: clocks drawn uniformly from there instead of the profile's."""
    table: str | None = None
    """CSV or Parquet of devices, a row each, over `profiles`; columns in scheduling/device_table.py."""
    period_s: float | None = None
    """Availability windows of the table repeat after so many simulated seconds; default they do not."""
    link: LinkConfig = field(default_factory=LinkConfig)
    """Rates by distance."""


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Who takes part in a round, and with what."""

    policy: str = "uniform"
    """A policy from `harness list policies`."""
    cohort_size: int | None = None
    """Clients per round; default all."""
    mix: dict[str, float] = field(default_factory=dict)
    """Submodel -> clients, as counts or shares, for policies that are told what to hand out."""
    deadline_s: float | None = None
    """Simulated seconds after which a reply is paid for and dropped."""
    failure_probability: float = 0.0
    """Chance that a client's reply of a round is lost after it was computed and sent."""
    power_budget_w: float | None = None
    """Energy of all clients over a round's duration at most; default full speed (MFL's policies)."""
    max_round_s: float | None = None
    """A round may last so long at most (MFL's policies, with a power budget)."""
    agi: str = "power"
    """What a submodel adds, by layers' k^2 n: a power of their product, or the information in them."""
    agi_scale: float = 1.0
    """power: a."""
    agi_exponent: float = 0.5
    """power: beta."""
    agi_offset: float = 0.0
    """information: b_0."""
    agi_slopes: list[float] = field(default_factory=list)
    """information: b_l of each layer; default all 1."""
    max_mixes: int = 4000
    """Mixes of submodels that energy_budget compares at most; more are searched on a grid."""


@dataclass(frozen=True, slots=True)
class CompressionConfig:
    """How updates of weights travel (harness/exchange/compression.py)."""

    name: str = "none"
    """none, quantize, topk or rpn."""
    fraction: float = 0.01
    """topk: share of each tensor's elements that is sent."""
    threshold: float = 0.0
    """rpn: filters whose sum is not above it in magnitude stay at home; 0 sends all."""
    top_fraction: float | None = None
    """rpn: share of the filters that is sent, the largest sums; default all."""
    error_feedback: bool = True
    """topk, and rpn where it selects: what was not sent is added to the client's next update."""


@dataclass(frozen=True, slots=True)
class RunConfig:
    """How long, how exact, from where."""

    seed: int = 0
    """Every random draw derives from it."""
    num_rounds: int = 10
    """Rounds of training."""
    eval_every: int = 1
    """Evaluate after every so many rounds, and after the last."""
    precision: str = "32-true"
    """Lightning Fabric's precision: 32-true or bf16-mixed."""
    target: float | None = None
    """Stop once the task's metric on val reaches this value."""
    checkpoint_every: int = 1
    """Rounds between checkpoints; a resumed run replays at most so many."""
    resume: bool = False
    """Continue an interrupted run."""
    force: bool = False
    """Run again although a finished run lies in results_dir."""
    results_dir: str = "results"
    """Folder that receives `<run_id>/`."""


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """On what it runs. Of this section only threads, accelerator and layout can change a bit."""

    transport: str = "ray"
    """`ray`: actors; `local`: the same bits in this process."""
    address: str | None = None
    """Ray cluster to join; default starts one on this machine."""
    min_actors: int | None = None
    """Client actors to start with; default one per free core, at most the cohort."""
    max_actors: int | None = None
    """Client actors to grow to at round boundaries; default min_actors."""
    clients_per_actor: int | None = None
    """Clients of one cohort hosted by an actor (1 = an actor each); default cohort / min_actors."""
    client_threads: int = 1
    """Torch threads of a client actor."""
    server_threads: int = 1
    """Torch threads of the server."""
    accelerator: str = "cpu"
    """cpu, gpu or auto."""
    gpus_per_actor: float = 0.0
    """Share of a GPU that a client actor holds."""
    server_gpus: float = 0.0
    """Share of a GPU that the server holds; above 0 it sits on a node that has one."""
    channels_last: bool = True
    """Lay convolution inputs out channels last (faster on CPUs)."""
    exact_meter: bool = False
    """Count the FLOPs of every step instead of replaying the count of an equal one."""
    max_retries: int = 3
    """Replays of one round after lost actors before the run gives up."""
    state_dir: str | None = None
    """Folder for the states of stateful clients, seen by every actor; default inside the run's folder."""


@dataclass(frozen=True, slots=True)
class LogConfig:
    """Where records go beside the files."""

    console: bool = True
    """Progress bar and a line per evaluation."""
    wandb: str = "disabled"
    """disabled, auto (online with a key, else offline), offline or online."""
    project: str = "edge-fl-harness"
    """W&B project."""
    entity: str | None = None
    """W&B entity."""
    group: str | None = None
    """W&B group; default method-task."""
    job_type: str = "run"
    """W&B job type."""
    tags: list[str] = field(default_factory=list)
    """W&B tags."""
    per_client: bool = False
    """Also record client/<id>/... metrics."""
    energy: str = "auto"
    """Measured: by codecarbon (extra `energy`), cpu_time, auto (codecarbon where it is installed) or none."""
    package_w: float = 85.0
    """cpu_time: power of a processor whose cores are all busy; codecarbon's value for an unknown one."""
    grid: str = "fpl"
    """Where electricity comes from, for carbon: a name of GRIDS in harness/cost/carbon.py."""


@dataclass(frozen=True, slots=True)
class MethodConfig:
    """Base of every method's Config."""

    name: str = ""
    """A method from `harness list methods`, or `package.module:Class`."""


@dataclass(frozen=True, slots=True)
class Config:
    """One run."""

    task: TaskConfig = field(default_factory=TaskConfig)
    partition: PartitionConfig = field(default_factory=PartitionConfig)
    fleet: FleetConfig = field(default_factory=FleetConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    method: Any = None
    """`name` and the fields of the method's own Config."""
    run: RunConfig = field(default_factory=RunConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    log: LogConfig = field(default_factory=LogConfig)
    compression: CompressionConfig = field(default_factory=CompressionConfig)

    @property
    def run_id(self) -> str:
        """`method-task-hash-seed`: equal for runs that must give equal bits."""
        task = self.task.name.rsplit(":", 1)[-1].lower()
        method = self.method.name.rsplit(":", 1)[-1].lower()
        return f"{method}-{task}-{self.digest}-{self.run.seed}"

    @property
    def digest(self) -> str:
        """Hash of every key that may change a result, the seed left out: one digest, many seeds."""
        tree = as_dict(self)
        for path in NOT_HASHED:
            section, _, key = path.partition(".")
            tree.pop(section) if not key else tree[section].pop(key)
        if self.compression.name == "none":
            del tree["compression"]  # as before there was any: finished results keep their names
        for key, default in ADDED.items():
            if tree["method"].get(key) == default:
                del tree["method"][key]
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:8]


NOT_HASHED = (
    "log",
    *(f"run.{key}" for key in ("seed", "resume", "force", "results_dir", "checkpoint_every")),
    *(f"runtime.{key}" for key in ("transport", "address", "min_actors", "max_actors", "clients_per_actor")),
    *(
        f"runtime.{key}"
        for key in ("gpus_per_actor", "server_gpus", "exact_meter", "max_retries", "state_dir")
    ),
)
"""Keys that must not change a bit of a run's results."""
ADDED = {"micro_batches": 1, "branches": {}}
"""Keys of methods that older results lack, and what they stand for there: such results keep their names."""


def as_dict(cfg: Any) -> dict[str, Any]:
    """A configuration dataclass as plain dicts and lists, ready for YAML or JSON."""
    return dataclasses.asdict(cfg)


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with `message` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


def nearest(got: str, names: Sequence[str]) -> str:
    """`; did you mean X?`, or the list of names where none is near."""
    close = difflib.get_close_matches(got, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; choose one of {', '.join(sorted(names))}"


AT_LEAST: dict[str, int] = {
    "task.limit_train": 1,
    "task.limit_test": 1,
    "partition.num_clients": 1,
    "partition.min_examples": 1,
    "scheduler.cohort_size": 1,
    "scheduler.max_mixes": 1,
    "fleet.link.num_blocks": 1,
    "run.seed": 0,
    "run.num_rounds": 1,
    "run.eval_every": 1,
    "run.checkpoint_every": 1,
    "runtime.min_actors": 1,
    "runtime.max_actors": 1,
    "runtime.clients_per_actor": 1,
    "runtime.client_threads": 1,
    "runtime.server_threads": 1,
    "runtime.gpus_per_actor": 0,
    "runtime.server_gpus": 0,
    "runtime.max_retries": 0,
}
"""Smallest value of a number that is given."""

POSITIVE = (
    *("scheduler.deadline_s", "scheduler.power_budget_w", "scheduler.max_round_s", "scheduler.agi_scale"),
    *("fleet.period_s", "fleet.link.min_distance_m", "fleet.link.bandwidth_hz", "fleet.link.block_hz"),
)
"""Numbers that, where given, are above 0."""

CHOICES: dict[str, tuple[str, ...]] = {
    "scheduler.agi": ("power", "information"),
    "fleet.link.model": ("profile", "shannon", "lte"),
    "fleet.link.fading": ("outside", "inside"),
    "run.precision": ("32-true", "bf16-mixed"),
    "runtime.transport": ("ray", "local"),
    "runtime.accelerator": ("cpu", "gpu", "auto"),
    "log.energy": ("auto", "cpu_time", "codecarbon", "none"),
    "log.wandb": ("disabled", "auto", "offline", "online"),
}
"""Words that a key may be."""


def check(cfg: Config) -> None:
    """Combinations that no run can satisfy, found before anything is read or written."""
    for path, least in AT_LEAST.items():
        value = attrgetter(path)(cfg)
        require(value is None or value >= least, f"{path} must be >= {least}, got {value}")
    for path, words in CHOICES.items():
        word = attrgetter(path)(cfg)
        require(word in words, f"{path}: unknown value {word!r}{nearest(word, words)}")
    n, k = cfg.partition.num_clients, cfg.scheduler.cohort_size
    require((k or 0) <= n, f"scheduler.cohort_size must be <= partition.num_clients, got {k} > {n}")
    a, b = cfg.runtime.min_actors, cfg.runtime.max_actors
    require((a or 0) <= (b or a or 0), f"runtime.min_actors must be <= runtime.max_actors, got {a} > {b}")
    p, v = cfg.scheduler.failure_probability, cfg.task.val_fraction
    require(0 <= p <= 1, f"scheduler.failure_probability must be in [0, 1], got {p}")
    require(0 < v < 1, f"task.val_fraction must be in (0, 1), got {v}")
    for path in POSITIVE:
        value = attrgetter(path)(cfg)
        require(value is None or value > 0, f"{path} must be > 0, got {value}")
    near, far = cfg.fleet.link.min_distance_m, cfg.fleet.link.max_distance_m
    require(near <= far, f"fleet.link.min_distance_m must be <= max_distance_m, got {near} > {far}")
    counts = cfg.scheduler.mix
    require(min(counts.values(), default=0) >= 0, f"scheduler.mix must hold numbers >= 0, got {dict(counts)}")
    shares = cfg.fleet.profiles
    require(
        not shares or (min(shares.values()) >= 0 and sum(shares.values()) > 0),
        f"fleet.profiles must hold shares >= 0 with a positive sum, got {dict(shares)}",
    )
