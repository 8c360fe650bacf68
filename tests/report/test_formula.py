from collections.abc import Mapping

import pytest

from harness.report.formula import evaluate, names_in, parse
from harness.types import ConfigError

TREES: Mapping[str, object] = {
    "a": {
        "models": [{"name": "big", "params": 10}, {"name": "small-1", "params": 4}],
        "exchanges": [
            {"endpoint": "fit", "submodel": "big", "tx_bytes": 40},
            {"endpoint": "fit", "submodel": "small-1", "tx_bytes": 16},
            {"endpoint": "score", "submodel": "big", "tx_bytes": 8},
        ],
        "config": {"partition": {"num_clients": 3, "counts": [[1, 2], [3, 4]]}},
        "rounds": [{"round": 0, "cost/tx_bytes": 5}, {"round": 1, "cost/tx_bytes": 6}],
    }
}


def value(text: str) -> float:
    return evaluate(text, names=lambda name: TREES[name])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1 + 2 * 3 - 4 / 8", 6.5),
        ("-(2 ** 3)", -8),
        ("a.models.big.params / a.models['small-1'].params", 2.5),
        ("a.models[-1].params", 4),
        ("a.exchanges.score.tx_bytes", 8),
        ("sum(a.exchanges.fit.tx_bytes)", 56),
        ("a.exchanges.fit['small-1'].tx_bytes", 16),
        ("sum(a.exchanges.tx_bytes) * a.config.partition.num_clients", 192),
        ("a.rounds[1]['cost/tx_bytes']", 6),
        ("max(a.rounds['cost/tx_bytes']) - min(a.rounds['cost/tx_bytes'])", 1),
        ("len(a.rounds.round)", 2),
        ("a.config.partition.counts[1][0]", 3),
    ],
)
def test_values_by_hand(text: str, found: float) -> None:
    assert value(text) == found


def test_whole_numbers_stay_exact() -> None:
    assert value("2 ** 62 + 1") == 2**62 + 1


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "a.models.pop(0)",
        "lambda: 1",
        "[x for x in a]",
        "a if a else a",
        "a.models[0:1]",
        "open('x')",
        "sum(a, 1)",
        "f'{a}'",
        "1 < 2",
        "True",
        "1 +",
        "",
    ],
)
def test_what_is_no_arithmetic_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a.models", "not a number"),
        ("a.models.params", "a column of 2, not a number"),
        ("sum(a.models)", "not a number"),
        ("a.models.bigg.params", "did you mean big?"),
        ("a.conf", "did you mean config?"),
        ("a.rounds[2].round", "no row 2 in a table of 2"),
        ("a.config.partition.num_clients.x", "no 'x'"),
        ("'a'", "not a number"),
        ("1 / 0", "division by zero"),
        ("9 ** 99", "exponents go up to 64"),
        ("1e308 * 10", "gives inf"),
    ],
)
def test_mistakes_are_told_in_a_line(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        value(text)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_are_found_without_functions() -> None:
    assert names_in(parse("sum(b.x) + a.models.big.params")) == ["a", "b"]
