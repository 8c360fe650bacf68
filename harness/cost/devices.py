"""What work costs on a device: seconds and joules, priced by one function for planning and for charging.

Computing follows the dynamic-power model of CMOS (power = kappa f^3), the usual one in federated learning
(Tran et al., "Federated learning over wireless networks", INFOCOM 2019); sending takes
transmit power times time; waiting takes idle power. A transfer is charged for the radio alone.

Every field is one number or a column [K] over clients. Only + - * / are used, in a fixed order: a column
gives the same bits as its rows one by one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from harness.config import nearest
from harness.cost.links import Column, noise_power_w, path_loss_gain, shannon_bps, transfer_s
from harness.types import ConfigError


class _Columns:
    """Rows of a dataclass whose fields are numbers or columns."""

    __slots__ = ()

    def row(self, index: int) -> Self:
        """The values of one client, as plain Python numbers."""
        return type(self)(*(_at(getattr(self, f.name), index) for f in fields(self)))  # type: ignore[arg-type]

    def take(self, rows: NDArray[np.int64]) -> Self:
        """The columns of some clients, in the order asked for."""
        return type(self)(*(_at(getattr(self, f.name), rows) for f in fields(self)))  # type: ignore[arg-type]


def _at(value: Column, index: int | NDArray[np.int64]) -> Column:
    if not isinstance(value, np.ndarray):
        return value
    return value[index] if isinstance(index, np.ndarray) else value[index].item()


@dataclass(frozen=True, slots=True)
class Work(_Columns):
    """What was done, measured."""

    flops: Column
    """Floating-point operations, 2 per multiply-add."""
    tx_bytes: Column
    """Sent by the client."""
    rx_bytes: Column
    """Received by the client."""


@dataclass(frozen=True, slots=True)
class OperatingPoint(_Columns):
    """How a device is run, chosen by a scheduler."""

    frequency_hz: Column
    """Clock."""
    tx_bps: Column
    """Uplink rate, bit/s."""
    rx_bps: Column
    """Downlink rate, bit/s."""
    tx_w: Column
    """Radio power while sending, W."""


@dataclass(frozen=True, slots=True)
class DeviceProfile(_Columns):
    """The constants of a device."""

    flops_per_cycle: Column
    """Sustained in fp32 training by the whole device, all cores together."""
    max_frequency_hz: Column
    """Highest clock."""
    kappa: Column
    """Energy coefficient, J s^2 / cycle^3: computing at f draws kappa f^3 W."""
    idle_w: Column
    """Power while waiting, W."""
    tx_w: Column
    """Radio power while sending, W; a ceiling where a scheduler chooses it."""
    rx_w: Column
    """Radio power while receiving, W; 0 leaves receiving uncharged, as most papers do."""
    tx_bps: Column
    """Uplink rate, bit/s."""
    rx_bps: Column
    """Downlink rate, bit/s."""
    memory_bytes: Column
    """Memory that training may use."""
    battery_j: Column
    """Energy of a full battery; inf on mains."""

    def full_speed(self) -> OperatingPoint:
        """Highest clock, nominal rates and transmit power."""
        return OperatingPoint(self.max_frequency_hz, self.tx_bps, self.rx_bps, self.tx_w)


@dataclass(frozen=True, slots=True)
class Cost(_Columns):
    """What work costs, derived."""

    compute_s: Column
    link_s: Column
    """Receiving and sending."""
    compute_j: Column
    link_j: Column

    @property
    def busy_s(self) -> Column:
        """Seconds from the start of the download to the end of the upload."""
        return self.link_s + self.compute_s


def price(work: Work, device: DeviceProfile, point: OperatingPoint) -> Cost:
    """Seconds and joules of `work` on `device` at `point`: numbers, or columns [K] of equal length."""
    cycles = work.flops / device.flops_per_cycle
    f = point.frequency_hz
    rx_s = transfer_s(work.rx_bytes, point.rx_bps)
    tx_s = transfer_s(work.tx_bytes, point.tx_bps)
    return Cost(
        compute_s=cycles / f,
        link_s=rx_s + tx_s,
        compute_j=device.kappa * cycles * f * f,
        link_j=point.tx_w * tx_s + device.rx_w * rx_s,
    )


def price_idle(seconds: Column, device: DeviceProfile) -> Column:
    """Joules of waiting `seconds`."""
    return device.idle_w * seconds


def kappa_from(load_w: Column, max_frequency_hz: Column) -> Column:
    """The kappa with which full speed draws `load_w` W: load_w / f^3."""
    return load_w / max_frequency_hz / max_frequency_hz / max_frequency_hz


@dataclass(frozen=True, slots=True)
class NamedProfile:
    """A device to choose by name, with the origin of each of its constants."""

    name: str
    description: str
    device: DeviceProfile
    """Plain numbers."""
    source: Mapping[str, str]
    """Constant -> where it comes from; "assumption: ..." where no measurement was found."""


def find_profile(name: str, *, key: str) -> NamedProfile:
    """The profile called `name`. Raises ConfigError naming the configuration key `key`."""
    if name not in PROFILES:
        raise ConfigError(f"{key}: unknown device profile {name!r}{nearest(name, list(PROFILES))}")
    return PROFILES[name]


_INF: Final = float("inf")
_HPL: Final = "HPL of github.com/geerlingguy/top500-benchmark"
_FP32: Final = "fp32 taken as twice fp64, twice the lanes"
_LTE: Final = "Huang et al., A close examination of performance and power of 4G LTE, MobiSys 2012"
_WIFI_W: Final = "Wi-Fi of an HTC Dream, Zhang et al., PowerTutor, CODES+ISSS 2010"
_HOME: Final = {
    "tx_w": f"1.0 W sending: {_WIFI_W}",
    "rx_w": f"0.71 W active: {_WIFI_W}",
    "tx_bps": "assumption: half the downlink",
    "rx_bps": "40.11 Mbit/s, global mean of fixed broadband, Speedtest Global Index, November 2017",
}
_MAINS: Final = "runs on mains"

_PHONE: Final = NamedProfile(
    name="phone",
    description="smartphone of 2022 (Tensor G2: two Cortex-X1, two A78) on LTE",
    device=DeviceProfile(
        flops_per_cycle=68e9 / 2.85e9,
        max_frequency_hz=2.85e9,
        kappa=kappa_from(5.5, 2.85e9),
        idle_w=0.5,
        tx_w=0.43839 * 6 + 1.28804,
        rx_w=0.05197 * 13 + 1.28804,
        tx_bps=6e6,
        rx_bps=13e6,
        memory_bytes=8e9,
        battery_j=4.614 * 3.85 * 3600,
    ),
    source={
        "flops_per_cycle": "assumption: 41 % of the 165.6 GFLOP/s fp32 that vfpbench measures on the four "
        "big cores (wlog.flatlib.jp/tag/android), the share of its peak that a Raspberry Pi 4 sustains",
        "max_frequency_hz": "2.85 GHz, Cortex-X1 of a Pixel 7a, wlog.flatlib.jp/tag/android",
        "kappa": "assumption: 5.5 W at full speed, the class of phone CPU in AutoFL, arXiv 2107.08147",
        "idle_w": "assumption: awake, screen off",
        "tx_w": f"438.39 mW per Mbit/s + 1288.04 mW: {_LTE}, Table 4",
        "rx_w": f"51.97 mW per Mbit/s + 1288.04 mW: {_LTE}, Table 4",
        "tx_bps": f"median 6 Mbit/s: {_LTE}",
        "rx_bps": f"median 13 Mbit/s: {_LTE}",
        "memory_bytes": "8 GB of a Pixel 7a",
        "battery_j": "4614 mAh of a Pixel 6, anandtech.com/show/17032; assumption: 3.85 V",
    },
)

_RASPBERRY_PI_4: Final = NamedProfile(
    name="raspberry_pi_4",
    description="Raspberry Pi 4 Model B, 8 GB, four Cortex-A72, on mains and home Wi-Fi",
    device=DeviceProfile(
        flops_per_cycle=2 * 11.889e9 / 1.8e9,
        max_frequency_hz=1.8e9,
        kappa=kappa_from(7.2, 1.8e9),
        idle_w=2.7,
        tx_w=1.0,
        rx_w=0.71,
        tx_bps=20e6,
        rx_bps=40.11e6,
        memory_bytes=8e9,
        battery_j=_INF,
    ),
    source={
        "flops_per_cycle": f"11.889 GFLOP/s fp64 at 1.8 GHz: {_HPL}, issue 13; {_FP32}",
        "max_frequency_hz": f"1.8 GHz: {_HPL}, issue 13",
        "kappa": f"7.2 W at full speed: {_HPL}, issue 13",
        "idle_w": "2.7 W (540 mA): pidramble.com/wiki/benchmarks/power-consumption",
        **_HOME,
        "memory_bytes": "8 GB model, raspberrypi.com/products/raspberry-pi-4-model-b",
        "battery_j": _MAINS,
    },
)

_JETSON_NANO: Final = NamedProfile(
    name="jetson_nano",
    description="NVIDIA Jetson Nano, 10 W mode, 128-core Maxwell GPU, on mains and home Wi-Fi",
    device=DeviceProfile(
        flops_per_cycle=128,
        max_frequency_hz=921.6e6,
        kappa=kappa_from(10.0, 921.6e6),
        idle_w=2.0,
        tx_w=1.0,
        rx_w=0.71,
        tx_bps=20e6,
        rx_bps=40.11e6,
        memory_bytes=4e9,
        battery_j=_INF,
    ),
    source={
        "flops_per_cycle": "128 CUDA cores, 2 FLOPs each: 236 GFLOP/s fp32, half the 472 fp16 of the data "
        "sheet; assumption: half of the peak is sustained",
        "max_frequency_hz": "921.6 MHz, NVIDIA Jetson Nano data sheet DS-09366-001",
        "kappa": "10 W mode, NVIDIA Jetson Nano data sheet DS-09366-001",
        "idle_w": "assumption",
        **_HOME,
        "memory_bytes": "4 GB, shared with the CPU, NVIDIA Jetson Nano data sheet DS-09366-001",
        "battery_j": _MAINS,
    },
)

_LAPTOP: Final = NamedProfile(
    name="laptop",
    description="Framework 13 laptop, AMD Ryzen AI 5 340, six cores, on battery and home Wi-Fi",
    device=DeviceProfile(
        flops_per_cycle=2 * 88.787e9 / 4.8e9,
        max_frequency_hz=4.8e9,
        kappa=kappa_from(41.6, 4.8e9),
        idle_w=11.0,
        tx_w=1.0,
        rx_w=0.71,
        tx_bps=20e6,
        rx_bps=40.11e6,
        memory_bytes=16e9,
        battery_j=61 * 3600.0,
    ),
    source={
        "flops_per_cycle": f"88.787 GFLOP/s fp64 at 4.8 GHz: {_HPL}, issue 83; {_FP32}",
        "max_frequency_hz": f"4.8 GHz: {_HPL}, issue 83",
        "kappa": f"41.6 W at full speed: {_HPL}, issue 83",
        "idle_w": f"assumption: as another mainboard in the same case, 11 W: {_HPL}, issue 94",
        **_HOME,
        "memory_bytes": "16 GB: github.com/geerlingguy/sbc-reviews, issue 90",
        "battery_j": "61 Wh, frame.work/laptop13",
    },
)

_EDGE_SERVER: Final = NamedProfile(
    name="edge_server",
    description="server with one NVIDIA T4 on Gigabit Ethernet; the card's power, not its host's",
    device=DeviceProfile(
        flops_per_cycle=2560,
        max_frequency_hz=1.59e9,
        kappa=kappa_from(70.0, 1.59e9),
        idle_w=9.0,
        tx_w=0.0,
        rx_w=0.0,
        tx_bps=941e6,
        rx_bps=941e6,
        memory_bytes=16e9,
        battery_j=_INF,
    ),
    source={
        "flops_per_cycle": "2560 CUDA cores, 2 FLOPs each: 8.1 TFLOP/s fp32, NVIDIA T4 data sheet; "
        "assumption: half of the peak is sustained (fp16 sustains 24 of 65 TFLOP/s at the power cap, "
        "forums.developer.nvidia.com/t/about-gpu-peak-performance/264462)",
        "max_frequency_hz": "boost clock 1590 MHz, NVIDIA T4 product brief",
        "kappa": "70 W, NVIDIA T4 data sheet",
        "idle_w": "9 W, nvidia-smi of an idle card in state P8",
        "tx_w": "assumption: wired, not charged",
        "rx_w": "assumption: wired, not charged",
        "tx_bps": "941 Mbit/s, iperf3 over Gigabit Ethernet, mpr-projects.com/index.php/2023/12/15",
        "rx_bps": "941 Mbit/s, iperf3 over Gigabit Ethernet, mpr-projects.com/index.php/2023/12/15",
        "memory_bytes": "16 GB, NVIDIA T4 data sheet",
        "battery_j": _MAINS,
    },
)

_MFL: Final = "assumption: of the order usual for wireless federated learning, e.g. Tran et al., INFOCOM 2019"
_MFL_BPS: Final = float(shannon_bps(0.2, path_loss_gain(250), 1e6, noise_power_w(1e6)))
_MFL_NODE: Final = NamedProfile(
    name="mfl_node",
    description="abstract mobile node: a cycle per multiply-add, 1 MHz of spectrum, 250 m from the mast",
    device=DeviceProfile(
        flops_per_cycle=2,
        max_frequency_hz=2.5e9,
        kappa=1e-28,
        idle_w=0.0,
        tx_w=0.2,
        rx_w=0.0,
        tx_bps=_MFL_BPS,
        rx_bps=_MFL_BPS,
        memory_bytes=_INF,
        battery_j=_INF,
    ),
    source={
        "flops_per_cycle": "assumption: 1 cycle per multiply-add, which is 2 FLOPs",
        "max_frequency_hz": _MFL,
        "kappa": _MFL,
        "idle_w": "assumption: waiting is free",
        "tx_w": _MFL,
        "rx_w": "assumption: receiving costs time only",
        "tx_bps": "Shannon's rate at tx_w; path loss and noise of harness/cost/links.py",
        "rx_bps": "assumption: as the uplink (symmetric channel)",
        "memory_bytes": "assumption: not limited",
        "battery_j": "assumption: not limited",
    },
)

_IDEAL: Final = NamedProfile(
    name="ideal",
    description="computes and sends in no time, for nothing",
    device=DeviceProfile(
        flops_per_cycle=_INF,
        max_frequency_hz=1.0,
        kappa=0.0,
        idle_w=0.0,
        tx_w=0.0,
        rx_w=0.0,
        tx_bps=_INF,
        rx_bps=_INF,
        memory_bytes=_INF,
        battery_j=_INF,
    ),
    source=dict.fromkeys((f.name for f in fields(DeviceProfile)), "by definition"),
)

_UNIT: Final = NamedProfile(
    name="unit",
    description="for sums in the head: a FLOP, a byte up or a byte down takes 1 s and 1 J each; waiting 1 W",
    device=DeviceProfile(
        flops_per_cycle=1.0,
        max_frequency_hz=1.0,
        kappa=1.0,
        idle_w=1.0,
        tx_w=1.0,
        rx_w=1.0,
        tx_bps=8.0,
        rx_bps=8.0,
        memory_bytes=_INF,
        battery_j=_INF,
    ),
    source=dict.fromkeys((f.name for f in fields(DeviceProfile)), "by definition"),
)

PROFILES: Final[Mapping[str, NamedProfile]] = MappingProxyType(
    {
        p.name: p
        for p in (_PHONE, _RASPBERRY_PI_4, _JETSON_NANO, _LAPTOP, _EDGE_SERVER, _MFL_NODE, _IDEAL, _UNIT)
    }
)
"""Devices that `fleet.profiles` and `fleet.server` may name."""
