"""Random calls of single kernels, as an image of the memory that tests/kernels_test.cc reads.

What a kernel may not read begins right before every list, table and tensor, or right behind it.

Every case draws sizes, windows, channel lists, zero points, requantisation and data, whatever the
compiler could write into a plan; `kernels.choose` names the kernel, as it would there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from redsc import fixed_point, ir, kernels, linear_add, thin, winograd
from redsc.constants import ADD_LEFT_SHIFT, AddConstants, LinearConstants
from redsc.emit import OVERREAD_BYTES
from redsc.one_product import OneProduct, find

ADDRESS = 0x21000000
PAGE_BYTES = 1024
"""Of a fence. QEMU checks an access that reaches from one such page into the next in both."""

MOST_FENCES = 7
"""Of a case: regions of the memory protection unit, of which one more keeps all of this memory
from being written."""

KERNELS = (
    "conv2d", "conv2d_proven", "conv2d_one_product", "conv2d_thin_one_product",
    "conv2d_winograd", "conv2d_winograd_one_product",
    "depthwise_conv2d", "depthwise_conv2d_proven",
    "depthwise_conv2d_3x3", "depthwise_conv2d_3x3_stride2",
    "depthwise_conv2d_3x3_one_product", "depthwise_conv2d_3x3_stride2_one_product",
    "dense", "dense_proven", "add_proven", "max_pool2d", "average_pool2d",
)  # fmt: skip


class Image:
    """Bytes at addresses, among random ones, so that reading beside them gives garbage. fences: of
    the case that is drawn, addresses of pages that nothing may read while it runs."""

    def __init__(self, random: np.random.Generator, reserved: int) -> None:
        self.bytes = bytearray(reserved)
        self.random = random
        self.fences: list[int] = []

    def place(self, content: bytes, alignment: int = 4) -> int:
        """The address of a copy."""
        gap = int(self.random.integers(4, 12))
        gap += -(len(self.bytes) + gap) % alignment
        self.bytes += self.random.bytes(gap)
        address = ADDRESS + len(self.bytes)
        self.bytes += content
        return address

    def words(self, *values: int) -> int:
        return self.place(_words(values))

    def fence(self, content: bytes, readable: int = 0) -> int:
        """The address of a copy right behind a fence, or with one right behind it and so many
        bytes that may be read."""
        content += self.random.bytes(readable)
        barrier = self.random.bytes(PAGE_BYTES)
        is_behind = self.random.random() < 0.5
        first, second = (barrier, content) if is_behind else (content, barrier)
        self.bytes += self.random.bytes(-(len(self.bytes) + len(first)) % PAGE_BYTES)
        start = ADDRESS + len(self.bytes)
        middle = start + len(first)
        self.bytes += first + second
        self.fences.append(start if is_behind else middle)
        return middle if is_behind else start


def _words(values: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(values)}i", *(_signed(value) for value in values))


def _signed(value: int) -> int:
    return value - (1 << 32) if value >= 1 << 31 else value


@dataclass(frozen=True)
class Case:
    """kernel: its name; op, inputs and fences: addresses; text tells what was drawn."""

    kernel: str
    op: int
    inputs: int
    output_bytes: int
    scratch_bytes: int
    text: str
    fences: tuple[int, ...] = ()


def image(cases: Sequence[Callable[[Image], Case]], seed: int) -> tuple[bytes, list[Case]]:
    """The memory of all cases, and what they are."""
    words = 5 + MOST_FENCES
    made = Image(np.random.default_rng(seed), 4 * (1 + words * len(cases)))
    drawn = []
    for make in cases:
        made.fences = []
        case = make(made)
        drawn.append(replace(case, fences=tuple(made.fences)))
    head = struct.pack("<I", len(drawn)) + b"".join(
        struct.pack(
            f"<{words}I",
            *(KERNELS.index(c.kernel), c.op, c.inputs, c.output_bytes, c.scratch_bytes),
            *(*c.fences, *[0] * (MOST_FENCES - len(c.fences))),
        )
        for c in drawn
    )
    return head + bytes(made.bytes[len(head) :]) + bytes(64), drawn


# --- what is drawn -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """Channels of a store that a level keeps."""

    store: int
    runs: tuple[tuple[int, int], ...]
    repeat: int
    stride: int

    @property
    def indices(self) -> np.ndarray:
        once = np.concatenate([np.arange(start, start + n) for start, n in self.runs])
        return (once[None] + self.stride * np.arange(self.repeat)[:, None]).reshape(-1)

    @property
    def count(self) -> int:
        return self.repeat * sum(length for _, length in self.runs)

    @property
    def is_plain(self) -> bool:
        return len(self.runs) == 1 and self.repeat == 1

    def place(self, image: Image) -> int:
        runs = image.fence(_words([value for run in self.runs for value in run]))
        return image.words(runs, len(self.runs), self.repeat, self.stride, self.count)


def axis(random: np.random.Generator, most: int) -> Axis:
    """A prefix, more often than a list of runs or one that repeats."""
    repeat = int(random.choice([1, 1, 1, 1, 2, 3]))
    runs, position = [], 0
    for _ in range(int(random.choice([1, 1, 1, 1, 2, 3]))):
        position += int(random.integers(0, 3)) if runs or repeat > 1 else 0
        length = int(random.integers(1, max(2, most // repeat)))
        runs.append((position, length))
        position += length
    stride = position + int(random.integers(0, 3))
    return Axis(stride * repeat + int(random.integers(0, 3)), tuple(runs), repeat, stride)


def int8(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Ordinary values, or only extreme ones, or small ones, whose sums often end in ties."""
    kind = random.random()
    if kind < 0.2:
        return random.choice(np.array([-128, 127, 0], np.int8), shape)
    if kind < 0.4:
        return random.integers(-2, 3, shape, np.int8)
    return random.integers(-128, 128, shape, np.int8)


def activations(random: np.random.Generator, zero_point: int, *shape: int) -> np.ndarray:
    """int8, sometimes all near the zero point."""
    if random.random() < 0.3:
        return np.clip(zero_point + random.integers(-2, 3, shape), -128, 127).astype(np.int8)
    return int8(random, *shape)


def one_product(
    random: np.random.Generator, rows: np.ndarray
) -> tuple[LinearConstants, OneProduct]:
    """Constants for weights int8 (out, products), and those of one product for the same outputs."""
    drawn = replace(requantisation(random, rows, True), output_zero_point=-128)
    while not (made := find(drawn, rows)).is_exact.all():
        again = requantisation(random, rows, True)
        drawn = replace(
            drawn,
            **{
                name: np.where(made.is_exact, getattr(drawn, name), getattr(again, name))
                for name in ("bias", "multiplier", "shift")
            },
        )
    return drawn, made


def requantisation(
    random: np.random.Generator, rows: np.ndarray, want_proven: bool
) -> LinearConstants:
    """Constants for weights int8 (out, products): any there may be, or sensible ones."""
    count = len(rows)
    low, high = sorted(random.integers(-128, 128, 2).tolist())
    if random.random() < 0.6:
        low, high = -128, 127
    largest = 1 << int(random.integers(1, 30 if want_proven else 31))
    shift = random.integers(-20, 0, count) if want_proven else random.integers(-31, 9, count)
    multiplier = random.integers(1 << 30, 1 << 31, count)
    extreme = random.random(count) < 0.1
    multiplier = np.where(extreme, random.choice([1 << 30, (1 << 31) - 1, 0], count), multiplier)
    if random.random() < 0.7:  # outputs that use the range of int8
        typical = np.abs(rows.astype(np.int64)).sum(axis=1) * int(random.choice([2, 60])) + 1
        ideal = np.round(np.log2(100 / typical)).astype(np.int64)
        shift = np.clip(ideal + random.integers(-1, 2, count), -31, -1 if want_proven else 8)
        largest = int(np.median(typical)) + 1
    return LinearConstants(
        bias=random.integers(-largest, largest, count).astype(np.int32),
        multiplier=multiplier.astype(np.int32),
        shift=shift.astype(np.int8),
        input_zero_point=int(random.choice([-128, 127, 0, random.integers(-128, 128)])),
        output_zero_point=int(random.choice([-128, 127, 0, random.integers(-128, 128)])),
        activation_min=low,
        activation_max=high,
    )


@dataclass(frozen=True)
class Side:
    """A window along one side of an image."""

    length: int
    window: int
    stride: int
    dilation: int
    pad: int
    output: int


def side(random: np.random.Generator, most: int, window: int, stride: int, dilation: int) -> Side:
    reach = (window - 1) * dilation + 1
    pad, behind = (int(random.integers(0, reach)) for _ in range(2))
    if random.random() < 0.3:
        pad = behind = 0
    length = int(random.integers(max(1, reach - pad - behind), most + reach))
    return Side(
        length, window, stride, dilation, pad, (length + pad + behind - reach) // stride + 1
    )


def _window(rows: Side, columns: Side) -> tuple[int, ...]:
    return tuple(
        value
        for name in ("length", "output", "window", "stride", "dilation", "pad")
        for value in (getattr(rows, name), getattr(columns, name))
    )


def _linear_level(
    image: Image,
    constants: LinearConstants,
    inputs: Axis | None,
    outputs: Axis,
    tile: tuple[int, int],
    made: OneProduct | None = None,
) -> int:
    """Two levels: one product's, if that is given, and TFLite's."""
    c = constants
    channels = 0 if inputs is None else inputs.place(image), outputs.place(image)
    tables = [values.tobytes() for values in (c.bias, c.multiplier, c.shift)]
    if made is None:
        own = plain = [image.fence(table) for table in tables]
    else:
        own = [image.fence(made.offset.tobytes()), image.fence(made.multiplier.tobytes()), 0]
        plain = [image.place(table) for table in tables]
    small = (c.input_zero_point, c.output_zero_point, c.activation_min, c.activation_max)
    levels = [struct.pack("<5I4b2H", *channels, *each, *small, *tile) for each in (own, plain)]
    return image.place(b"".join(levels))


def _inputs(image: Image, *tensors: np.ndarray) -> int:
    return image.words(*(image.fence(tensor.tobytes()) for tensor in tensors))


def _weights(image: Image, values: np.ndarray) -> int:
    return image.fence(values.tobytes(), OVERREAD_BYTES)


# --- cases by kind -------------------------------------------------------------------------------


def conv2d(image: Image, want_proven: bool, as_one_product: bool = False) -> Case:
    random = image.random
    is_pixel = random.random() < 0.4
    window = (1, 1) if is_pixel else tuple(random.integers(1, 5, 2).tolist())
    strides, dilation = random.integers(1, 4, 2).tolist(), random.integers(1, 3, 2).tolist()
    rows, columns = (
        side(random, 11, *each) for each in zip(window, strides, dilation, strict=True)
    )
    inputs, outputs = axis(random, 12), axis(random, 9)
    weights = int8(random, outputs.store, *window, inputs.store)
    kept = weights[outputs.indices][..., inputs.indices].reshape(outputs.count, -1)
    constants, made = requantisation(random, kept, want_proven), None
    op = ir.Conv2D("op", ("input",), np.zeros((*window, inputs.count, outputs.count)))
    shape = (rows.output, columns.output, outputs.count)
    proven = want_proven and kernels.is_proven(constants, kept)
    kernel = kernels.choose(op, shape, proven, outputs.count, one_product=as_one_product)
    if kernel.endswith(kernels.ONE_PRODUCT):
        constants, made = one_product(random, kept)
    room = int(random.choice([0, random.integers(0, 4000), 1 << 15]))
    scratch = kernels.conv2d_scratch_bytes(op, shape, room)
    level = _linear_level(
        image, constants, inputs, outputs, kernels.tile(op, shape, kernel, scratch), made
    )
    fields = (*_window(rows, columns), inputs.store, _weights(image, weights), level)
    x = activations(random, constants.input_zero_point, rows.length, columns.length, inputs.count)
    text = f"{rows} {columns} {inputs} {outputs} {constants} room {room}"
    return Case(kernel, image.words(*fields), _inputs(image, x), int(np.prod(shape)), scratch, text)


def conv2d_thin(image: Image) -> Case:
    random = image.random
    while True:
        inputs, outputs = axis(random, int(random.choice([2, 4, 10]))), axis(random, 9)
        window = (3, int(random.integers(1, 5)))
        strides = random.integers(1, 4, 2).tolist()
        rows, columns = (side(random, 30, *each, 1) for each in zip(window, strides, strict=True))
        op = ir.Conv2D(
            "op", ("input",), np.zeros((*window, inputs.count, outputs.count)),
            strides=tuple(strides), activation=ir.Activation.RELU,
        )  # fmt: skip
        shape = (rows.output, columns.output, outputs.count)
        room = int(random.choice([1 << 15, random.integers(0, 1 << 13)]))
        count = thin.rows(op, shape, room)
        if count > 0 and outputs.count >= thin.CHANNELS:
            break
    weights = int8(random, outputs.store, *window, inputs.store)
    kept = weights[outputs.indices][..., inputs.indices].reshape(outputs.count, -1)
    constants, made = one_product(random, kept)
    kernel = kernels.choose(op, shape, channels=outputs.count, one_product=True, is_thin=True)
    scratch = thin.scratch_bytes(op, shape, count)
    tile = kernels.tile(op, shape, kernel, scratch)
    level = _linear_level(image, constants, inputs, outputs, tile, made)
    fields = (*_window(rows, columns), inputs.store, _weights(image, weights), level)
    x = activations(random, constants.input_zero_point, rows.length, columns.length, inputs.count)
    text = f"{rows} {columns} {inputs} {outputs} {constants} {count} rows"
    return Case(kernel, image.words(*fields), _inputs(image, x), int(np.prod(shape)), scratch, text)


def conv2d_winograd(image: Image, as_one_product: bool = False) -> Case:
    random = image.random
    while True:
        rows, columns = side(random, 18, 3, 1, 1), side(random, 18, 3, 1, 1)
        # more channels than one pass of the product takes, now and then
        inputs = axis(random, int(random.choice([12, 12, 12, 80])))
        outputs = axis(random, 9)
        shape = (rows.output, columns.output, outputs.count)
        op = ir.Conv2D("op", ("input",), np.zeros((3, 3, inputs.count, outputs.count)))
        room = int(random.choice([1 << 15, random.integers(0, 1 << 15)]))
        way = winograd.tiling(op, shape, room)
        weights = int8(random, outputs.store, 3, 3, inputs.store)
        if as_one_product and inputs.count > 16:
            weights >>= 2  # a sum times 256 must be an int32
        kept = weights[outputs.indices][..., inputs.indices].reshape(outputs.count, -1)
        constants, made = requantisation(random, kept, True), None
        if as_one_product:
            constants, made = one_product(random, kept)
        proven = as_one_product or kernels.is_proven(constants, kept)
        fits = way is not None and kernels.is_winograd_exact(constants, kept)
        if proven and fits and outputs.count >= winograd.CHANNELS:
            break
    kernel = kernels.choose(
        op, shape, proven, outputs.count, has_winograd=True, one_product=as_one_product
    )
    scratch = winograd.scratch_bytes(op, way)
    tile = kernels.tile(op, shape, kernel, scratch)
    level = _linear_level(image, constants, inputs, outputs, tile, made)
    fields = (*_window(rows, columns), inputs.store, _weights(image, weights), level)
    x = activations(random, constants.input_zero_point, rows.length, columns.length, inputs.count)
    text = f"{rows} {columns} {inputs} {outputs} {constants} {way}"
    return Case(kernel, image.words(*fields), _inputs(image, x), int(np.prod(shape)), scratch, text)


def depthwise_conv2d(
    image: Image, want_proven: bool, is_3x3: bool, as_one_product: bool = False
) -> Case:
    random = image.random
    window = (3, 3) if is_3x3 else tuple(random.integers(1, 6, 2).tolist())
    strides = random.integers(1, 3 if is_3x3 else 4, 2).tolist()
    dilation = [1, 1] if is_3x3 else random.integers(1, 3, 2).tolist()
    rows, columns = (
        side(random, 20, *each) for each in zip(window, strides, dilation, strict=True)
    )
    outputs = axis(random, 9)
    weights = int8(random, *window, outputs.store)
    kept = weights[..., outputs.indices].reshape(-1, outputs.count).T
    constants, made = requantisation(random, kept, want_proven), None
    op = ir.DepthwiseConv2D(
        "op", ("input",), np.zeros((*window, outputs.count, 1)),
        strides=tuple(strides), dilation=tuple(dilation),
    )  # fmt: skip
    shape = (rows.output, columns.output, outputs.count)
    proven = want_proven and kernels.is_proven(constants, kept)
    kernel = kernels.choose(op, shape, proven, outputs.count, one_product=as_one_product)
    if kernel.endswith(kernels.ONE_PRODUCT):
        constants, made = one_product(random, kept)
    scratch = kernels.depthwise_conv2d_scratch_bytes(op, shape)
    level = _linear_level(
        image, constants, None, outputs, kernels.tile(op, shape, kernel, scratch), made
    )
    fields = (*_window(rows, columns), 1, outputs.store, _weights(image, weights), level)
    x = activations(random, constants.input_zero_point, rows.length, columns.length, outputs.count)
    text = f"{rows} {columns} {outputs} {constants}"
    return Case(kernel, image.words(*fields), _inputs(image, x), int(np.prod(shape)), scratch, text)


def dense(image: Image, want_proven: bool) -> Case:
    random = image.random
    inputs, outputs = axis(random, 40), axis(random, 60)
    weights = int8(random, outputs.store, inputs.store)
    kept = weights[outputs.indices][:, inputs.indices]
    constants = requantisation(random, kept, want_proven)
    op = ir.Dense("op", ("input",), np.zeros((inputs.count, outputs.count)))
    proven = want_proven and kernels.is_proven(constants, kept)
    is_plain = len(inputs.runs) == 1 and outputs.is_plain
    kernel = kernels.choose(op, (outputs.count,), proven, outputs.count, is_plain)
    scratch = sum(2 * inputs.repeat * (-(-length // 4) * 4) for _, length in inputs.runs)
    level = _linear_level(image, constants, inputs, outputs, (0, 0))
    fields = (inputs.store, _weights(image, weights), level)
    x = activations(random, constants.input_zero_point, inputs.count)
    text = f"{inputs} {outputs} {constants}"
    return Case(kernel, image.words(*fields), _inputs(image, x), outputs.count, scratch, text)


def add(image: Image) -> Case:
    random = image.random
    linear = None
    while linear is None:
        first, second = np.exp(random.uniform(-3, 3, 2))
        if random.random() < 0.2:
            second = first
        output = max(first, second) * np.exp(random.uniform(-0.5, 3))
        twice = 2 * max(first, second)
        reals = np.array([first / twice, second / twice, twice / (1 << 20) / output])
        multipliers, shifts = fixed_point.quantize_multiplier(reals)
        zero_points = random.integers(-128, 128, 3).tolist()
        low, high = sorted(random.integers(-128, 128, 2).tolist())
        c = AddConstants(
            zero_points[0], int(multipliers[0]), int(shifts[0]),
            zero_points[1], int(multipliers[1]), int(shifts[1]),
            zero_points[2], int(multipliers[2]), int(shifts[2]), low, high,
        )  # fmt: skip
        linear = linear_add.find(c)
    size = int(random.integers(1, 300))
    level = image.place(
        struct.pack(
            "<I6i4b5b3x", size, c.input1_multiplier, c.input2_multiplier, c.output_multiplier,
            linear.weight1, linear.weight2, linear.offset,
            c.input1_shift, c.input2_shift, c.output_shift, ADD_LEFT_SHIFT,
            c.input1_zero_point, c.input2_zero_point, c.output_zero_point, c.activation_min,
            c.activation_max,
        )
    )  # fmt: skip
    tensors = _inputs(image, int8(random, size), int8(random, size))
    return Case("add_proven", image.words(level), tensors, size, 0, f"{c} {linear}")


def pool2d(image: Image, kernel: str) -> Case:
    random = image.random
    window, strides = random.integers(1, 6, 2).tolist(), random.integers(1, 4, 2).tolist()
    rows, columns = (side(random, 20, *each, 1) for each in zip(window, strides, strict=True))
    channels = int(random.integers(1, 12))
    level = image.words(channels)
    x = int8(random, rows.length, columns.length, channels)
    size = rows.output * columns.output * channels
    op = image.words(*_window(rows, columns), level)
    return Case(kernel, op, _inputs(image, x), size, 0, f"{rows} {columns} {channels}")


def kinds() -> list[Callable[[Image], Case]]:
    """Every kind of case; a proven kernel is not named for all that want one."""

    def with_(make: Callable[..., Case], *arguments: Any) -> Callable[[Image], Case]:
        return lambda image: make(image, *arguments)

    return [
        with_(conv2d, False), with_(conv2d, True), with_(conv2d, True),
        conv2d_thin, conv2d_winograd, with_(conv2d_winograd, True),
        with_(depthwise_conv2d, False, False), with_(depthwise_conv2d, True, False),
        with_(conv2d, True, True),
        with_(depthwise_conv2d, True, True), with_(depthwise_conv2d, True, True),
        with_(depthwise_conv2d, True, True), with_(depthwise_conv2d, True, True),
        with_(depthwise_conv2d, True, True, True), with_(depthwise_conv2d, True, True, True),
        with_(depthwise_conv2d, True, True, True), with_(depthwise_conv2d, True, True, True),
        with_(dense, False), with_(dense, True), with_(dense, True), with_(dense, True),
        add, with_(pool2d, "max_pool2d"), with_(pool2d, "average_pool2d"),
    ]  # fmt: skip
