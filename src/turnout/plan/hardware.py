"""Devices: what a rank has to compute, remember and talk with, each figure with its source.

Bandwidths are bytes a second in one direction; peaks are dense, without structured sparsity. What
products and links reach of their peaks is not a property of a device but an assumption of the
plan: see ``Assumptions``.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path

from turnout.config import io
from turnout.config.errors import UserError, nearest, not_negative, positive, require


@dataclass(frozen=True)
class Device:
    """One rank's device.

    Attributes:
        memory: bytes.
        bfloat16: products with bfloat16 operands, operations a second.
        float32: the same with float32 operands; of GPUs without TF32, which torch leaves off.
        bandwidth: of the memory.
        link: to the other devices of the node.
        network: to devices of other nodes.
        node: devices of a node.
        power: watts under load.
        source: where the figures are published.
        exchange: of an all-to-all between nodes, where it is not ``network``: in a torus, the
            share of the bisection that a device has.
    """

    name: str
    memory: float
    bfloat16: float
    float32: float
    bandwidth: float
    link: float
    network: float
    node: int
    power: float
    source: str = ""
    exchange: float | None = None

    def __post_init__(self) -> None:
        for name in ("memory", "bfloat16", "float32", "bandwidth", "link", "network", "power"):
            positive(f"device.{name}", getattr(self, name))
        require(self.node >= 1, "device.node", self.node, "at least 1")
        require(bool(self.name), "device.name", self.name, "a name")
        if self.exchange is not None:
            positive("device.exchange", self.exchange)

    def products(self, bytes_an_entry: int) -> float:
        """Operations a second of products with operands of 2 or 4 bytes."""
        return self.bfloat16 if bytes_an_entry == 2 else self.float32

    def across(self, exchange: bool) -> float:
        """The bandwidth between nodes, of an all-to-all or of a ring."""
        return self.exchange if exchange and self.exchange is not None else self.network


@dataclass(frozen=True)
class Assumptions:
    """What no data sheet says, to be set by who knows better.

    ``compute``, ``memory`` and ``link`` are the shares of the peaks that large products, streams
    and collectives reach; ``overlap`` is the share of the collectives of sharded weights that
    hides behind the computation. ``jitter`` is the standard deviation of a rank's speed, as a
    share: a step waits for the slowest. ``reserve`` is the share of a device's memory left to the
    runtime and to fragmentation. ``latency`` is seconds a hop of a collective takes.
    """

    compute: float = 0.5
    memory: float = 0.8
    link: float = 0.7
    overlap: float = 0.8
    jitter: float = 0.02
    reserve: float = 0.1
    latency: float = 5e-6

    def __post_init__(self) -> None:
        for name in ("compute", "memory", "link"):
            value = getattr(self, name)
            require(0 < value <= 1, f"assume.{name}", value, "above 0, at most 1")
        require(0 <= self.overlap <= 1, "assume.overlap", self.overlap, "in [0, 1]")
        require(0 <= self.reserve < 1, "assume.reserve", self.reserve, "in [0, 1)")
        not_negative("assume.jitter", self.jitter)
        not_negative("assume.latency", self.latency)


@dataclass(frozen=True)
class Prices:
    """Money a device and hour, and a kilowatt-hour; ``overhead`` is the power usage effectiveness
    of the building: all its energy over that of the devices."""

    hour: float | None = None
    kilowatt_hour: float | None = None
    overhead: float = 1.0

    def __post_init__(self) -> None:
        for name in ("hour", "kilowatt_hour"):
            if getattr(self, name) is not None:
                not_negative(f"price.{name}", getattr(self, name))
        ok = 1 <= self.overhead < float("inf")
        require(ok, "price.overhead", self.overhead, "at least 1")


_H100 = Device(
    name="h100",
    memory=80e9,
    bfloat16=989.4e12,
    float32=66.9e12,
    bandwidth=3.35e12,
    link=450e9,
    network=50e9,
    node=8,
    power=700.0,
    source="NVIDIA H100 Tensor Core GPU data sheet and architecture white paper (SXM5): "
    "989.4 dense TFLOP/s bf16, 66.9 fp32, 80 GB, 3.35 TB/s, NVLink 900 GB/s both ways, "
    "700 W; DGX H100 data sheet: one 400 Gb/s adapter a GPU, eight GPUs",
)
DEVICES = {
    device.name: device
    for device in (
        _H100,
        replace(
            _H100,
            name="h200",
            memory=141e9,
            bandwidth=4.8e12,
            source="NVIDIA H200 Tensor Core GPU data sheet (SXM): 141 GB, 4.8 TB/s, 700 W, the "
            "rest as H100; DGX H200 data sheet: one 400 Gb/s adapter a GPU, eight GPUs",
        ),
        Device(
            name="b200",
            memory=180e9,
            bfloat16=2250e12,
            float32=80e12,
            bandwidth=8e12,
            link=900e9,
            network=50e9,
            node=8,
            power=1000.0,
            source="NVIDIA Blackwell architecture technical brief (HGX B200 at 1,000 W): 2,250 "
            "dense TFLOP/s bf16, 80 fp32, 8 TB/s, NVLink 1.8 TB/s both ways; DGX B200 data "
            "sheet: 1,440 GB in eight GPUs, one 400 Gb/s adapter a GPU",
        ),
        Device(
            name="a100",
            memory=80e9,
            bfloat16=312e12,
            float32=19.5e12,
            bandwidth=2.039e12,
            link=300e9,
            network=25e9,
            node=8,
            power=400.0,
            source="NVIDIA A100 Tensor Core GPU data sheet (80 GB SXM): 312 TFLOP/s bf16, 19.5 "
            "fp32, 2,039 GB/s, NVLink 600 GB/s both ways, 400 W; DGX A100 data sheet: one 200 "
            "Gb/s adapter a GPU, eight GPUs",
        ),
        Device(
            name="tpu-v3",
            memory=17.18e9,
            bfloat16=61.5e12,
            float32=61.5e12 / 6,
            bandwidth=450e9,
            link=164e9,
            network=164e9,
            node=8,
            power=131.0,
            exchange=6.25e9,
            source="one of a chip's two cores. Google Cloud, TPU v3: a chip 123 TFLOP/s bf16, 32 "
            "GiB, 900 GB/s, at most 262 W measured, 6.4 TB/s of bisection for 1,024 chips (taken "
            "as both ways: half of an all-to-all crosses it, 6.25 GB/s a core); Jouppi et al., "
            "CACM 63(7), 2020: four links of 656 Gb/s a chip; four chips a host. Its matrix "
            "units multiply bf16 alone; float32 is taken as six products, XLA's highest precision",
        ),
        Device(
            name="cpu",
            memory=256e9,
            bfloat16=114.7e12,
            float32=7.17e12,
            bandwidth=307.2e9,
            link=48e9,
            network=12.5e9,
            node=2,
            power=350.0,
            source="one socket, Intel Xeon Platinum 8480+ (Intel ARK): 56 cores, 2.0 GHz base, 8 "
            "channels of DDR5-4800, UPI 16 GT/s, 350 W. By Intel's optimisation manual 1,024 "
            "bf16 and 64 fp32 operations a core and cycle; one UPI link of 24 lanes. Taken, not "
            "published: 256 GB, two sockets a node, 100 Gb/s Ethernet between nodes",
        ),
    )
}


def device_of(name: str) -> Device:
    """A device by name, or from a TOML file that gives every figure (``source`` and ``exchange``
    may be left out), or some over those of the device that it names as ``like``.

    Raises:
        UserError: no such device, no such file, or a figure that cannot be.
    """
    if name in DEVICES:
        return DEVICES[name]
    if not name.endswith(".toml"):
        known = nearest(name, DEVICES)
        raise UserError(f"no device {name!r}; {known}; or give a file of yours, FILE.toml")
    table = dict(io.load_table(name))
    like = table.pop("like", None)
    if like is not None and like not in DEVICES:
        raise UserError(f"{name}: like = {like!r}: no such device; {nearest(str(like), DEVICES)}")
    base = DEVICES[like] if like is not None else None
    table.setdefault("name", Path(name).stem)
    missing = [f.name for f in fields(Device) if f.name not in (*table, "source", "exchange")]
    if base is None and missing:
        raise UserError(
            f"{name}: {', '.join(missing)}: required and not given; give them, or a device that "
            f"they are taken from, such as like = 'h100'"
        )
    return io.from_dict(Device, table, base, "device")
