"""What travels, before anything runs: the bytes of a method's exchanges under the run's compression."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harness.config import CompressionConfig, require
from harness.cost.submodel import SubmodelProfile
from harness.exchange.compression import Compressed, Compressor, applies, build_compressor, compress
from harness.run.method import Exchange, Method
from harness.types import SubmodelId


def predicted(exchange: Exchange, compressor: Compressor | None) -> Compressed:
    """What one call will take: the code that charges it, on shapes."""
    return compress(compressor, exchange.down, exchange.up)


def compressor_for(method: Method[Any, Any], cfg: CompressionConfig) -> Compressor | None:
    """The run's compressor. Raises ConfigError where the method has nothing for it."""
    compressor = build_compressor(cfg)
    require(
        compressor is None or any(applies(e.down, e.up) for e in method.exchanges(1)),
        f"compression.name={cfg.name}: method {method.cfg.name} sends no weights both ways, so nothing can "
        "be compressed; use compression=none",
    )
    return compressor


def submodels_of(method: Method[Any, Any], cfg: CompressionConfig) -> Mapping[SubmodelId, SubmodelProfile]:
    """What the scheduler may assign, with the bytes that it will be charged. Raises ConfigError."""
    submodels, compressor = method.submodels(), compressor_for(method, cfg)
    if compressor is None:
        return submodels
    found = dict(submodels)
    for exchange in method.exchanges(1):
        if exchange.submodel in found and applies(exchange.down, exchange.up):
            moved = predicted(exchange, compressor)
            found[exchange.submodel] = replace(
                found[exchange.submodel],
                tx_bytes=exchange.times * moved.tx_bytes,
                rx_bytes=exchange.times * moved.rx_bytes,
            )
    return found
