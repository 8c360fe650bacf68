"""What metering and charging cost: meter, price and ledger against the training they go with.

A round of the `train` workload: five metered steps a client, one priced and charged exchange each, one table.
"""

import time
from collections.abc import Callable

import torch
from workload import BATCH_SIZE, WORKLOADS, client_examples, initial_net, train_one_epoch

from harness.cost.devices import Work, find_profile, price
from harness.cost.ledger import Entry, Ledger
from harness.cost.meter import Meter


def seconds(action: Callable[[], object], *, times: int) -> float:
    """Mean of many calls, after one to warm up."""
    action()
    started = time.perf_counter()
    for _ in range(times):
        action()
    return (time.perf_counter() - started) / times


def main() -> None:
    """Print both, and their ratio."""
    torch.set_num_threads(1)
    net, meter, ledger = initial_net(), Meter(), Ledger()
    images, _ = client_examples(0)
    steps = images.split(BATCH_SIZE)
    device = find_profile("raspberry_pi_4", key="bench").device
    cohort = WORKLOADS["train"].cohort_size

    def round_of_metering() -> None:
        for client in range(cohort):
            for batch in steps:
                with meter.step(net, batch):
                    pass
            work = Work(flops=meter.take(), tx_bytes=6_505_768, rx_bytes=6_505_768)
            cost = price(work, device, device.full_speed())
            ledger.charge(Entry(0, "train", client, "fit", "full", "ok", compute_s=float(cost.compute_s)))
        ledger.close_round()

    metering = seconds(round_of_metering, times=20)
    training = cohort * seconds(lambda: train_one_epoch(net, 0), times=20)
    print(f"metering {metering * 1e3:.1f} ms, training {training * 1e3:.0f} ms, "
          f"ratio {metering / training:.4f}")  # fmt: skip


if __name__ == "__main__":
    main()
