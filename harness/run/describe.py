"""What a configured method costs before anything runs: models and exchanges, without a data set."""

from collections.abc import Sequence
from typing import Any

from harness.config import Config
from harness.data.tasks import load_task
from harness.exchange.compression import Compressor
from harness.learning.profile import profile
from harness.learning.workplace import Workplace
from harness.run.method import Exchange, load_method
from harness.run.traffic import compressor_for, predicted


def describe(cfg: Config) -> dict[str, Any]:
    """`{"method", "task", "models", "exchanges"}`: MACs per sample, bytes per round and client.

    Further keys are the method's own tables.
    """
    task = load_task(cfg.task)
    place = Workplace(cfg, task=task, splits=None, threads=cfg.runtime.server_threads)
    method = load_method(cfg.method.name)(cfg.method, place)
    profiles = [profile(build, name=name, task=task) for name, build in method.models().items()]
    # Sources of a vertical partition see every example.
    sharers = 1 if cfg.partition.name == "views" else cfg.partition.num_clients
    num_examples = round(task.num_train * (1 - cfg.task.val_fraction)) // sharers
    return {
        "method": cfg.method.name,
        "task": cfg.task.name,
        "models": [
            {
                "name": p.name,
                "params": p.params,
                "macs_forward": p.macs_forward,
                "flops_train": p.flops_train,
                "bytes": p.num_bytes,
            }
            for p in profiles
        ],
        "exchanges": exchange_rows(method.exchanges(num_examples), compressor_for(method, cfg.compression)),
        **method.tables(),
    }


def exchange_rows(
    exchanges: Sequence[Exchange], compressor: Compressor | None = None
) -> list[dict[str, Any]]:
    """Bytes of each exchange, counted on the payloads themselves."""
    return [
        {
            "endpoint": e.endpoint.__name__,
            "submodel": e.submodel,
            "rx_bytes": e.times * moved.rx_bytes,
            "tx_bytes": e.times * moved.tx_bytes,
        }
        for e in exchanges
        for moved in [predicted(e, compressor)]
    ]
