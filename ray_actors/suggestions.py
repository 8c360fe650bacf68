"""What a search tries next, and which trials it gives up: Optuna, random draws and ASHA through Ray Tune."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from harness.run.sweep_search import Range, Search
from harness.run.sweep_trial import mark_stopped
from harness.types import ConfigError


class Halving(AsyncHyperBandScheduler):
    """ASHA, that says in the folder of a run that it gave it up."""

    def __init__(self, search: Search, *, rounds: int) -> None:
        settings = search.settings
        super().__init__(
            time_attr="round",
            # A run that reached its last round is never given up.
            max_t=max(rounds - 1, settings.grace),
            grace_period=settings.grace,
            reduction_factor=settings.reduction,
            stop_last_trials=False,
        )
        self.folder = Path(search.base[0].cfg.run.results_dir)
        self.stopped: set[str] = set()

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        if "replayed" not in result:
            return str(TrialScheduler.CONTINUE)  # the outcome
        decision = str(super().on_trial_result(tune_controller, trial, result))
        if result["replayed"]:
            return str(TrialScheduler.CONTINUE)  # it was decided when these rounds were played
        if decision == TrialScheduler.STOP:
            self.stopped.add(trial.trial_id)
            mark_stopped(
                self.folder / result["run_id"], by="asha", rounds=result["round"], value=result["value"]
            )
        return decision


def searcher(search: Search, *, known: Sequence[Mapping[str, Any]]) -> Any:
    """Where suggestions come from. Optuna is first asked for the trials of before, in their order.

    Random draws need no memory: the same seed draws the same trials. Raises ConfigError without Optuna.
    """
    settings = search.settings
    if settings.method == "random":
        return BasicVariantGenerator(random_state=settings.seed)
    try:
        import optuna
        from ray.tune.search.optuna import OptunaSearch
    except ImportError:
        raise ConfigError(
            "search.method=optuna needs the extra `sweep` (pip install 'edge-fl-harness[sweep]'); "
            "or use search.method=random"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return OptunaSearch(
        {key: distribution_of(values) for key, values in search.space.items()},
        metric="value",
        mode=settings.mode,
        points_to_evaluate=[dict(params) for params in known],
        # Known trials take no draw from the sampler, which would begin with the draws that made them.
        sampler=optuna.samplers.TPESampler(seed=settings.seed + len(known)),
    )


def distribution_of(values: Range) -> Any:
    """A range in Optuna's words."""
    from optuna import distributions

    match values.kind:
        case "choice":
            return distributions.CategoricalDistribution(values.values)
        case "integer":
            return distributions.IntDistribution(*values.values)
        case kind:
            low, high = values.values
            return distributions.FloatDistribution(low, high, log=kind == "log_uniform")


def domain_of(values: Range) -> Any:
    """A range in Tune's words."""
    match values.kind:
        case "choice":
            return tune.choice(list(values.values))
        case "integer":
            low, high = values.values
            return tune.randint(low, high + 1)
        case "log_uniform":
            return tune.loguniform(*values.values)
        case _:
            return tune.uniform(*values.values)
