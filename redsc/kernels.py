"""Which kernel of the `reds` library runs an op, and what that kernel needs.

The compiler decides and the plan carries the decision, so that the device neither branches on it
nor links kernels the network does not use. Sizes here are the single source: the C++ kernels
take the tile from the plan and lay out their scratch as described in each kernel's file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from redsc import ir, thin, winograd
from redsc.constants import LinearConstants
from redsc.groups import Axis, find_groups

MOST_TILE_PIXELS, TILE_BYTES = 64, 4096
"""What a convolution packs into scratch at once, where there is room: so many pixels, or bytes of
pixels with few products, whichever is more. Its weights are unpacked once for all of them. More
would save little, as there is the more to compute for each pixel the more products it has."""

STRIP_BYTES = 4096
"""Packed pixels of four channels a depthwise convolution keeps in scratch."""

MAX_TILE_COLUMNS = 64

LINES_BYTES = 4096
MAX_LINES_BYTES = 16384
"""Packed lines of four channels a depthwise 3x3 convolution keeps in scratch, and the most of what
one line of outputs may take."""

GENERIC: dict[type[ir.Op], str] = {
    ir.Concatenate: "concatenate",
    ir.MaxPool2D: "max_pool2d",
    ir.AveragePool2D: "average_pool2d",
    ir.Pad: "pad",
    ir.LeakyRelu: "leaky_relu",
    ir.Logistic: "lookup",
    ir.Tanh: "lookup",
    ir.Softmax: "softmax",
}
"""Kernels that run every op of their kind."""

ONE_PRODUCT = "_one_product"
"""What names of kernels end in that requantise with one product, and so have no shifts."""

PORTABLE: dict[type[ir.Op], str] = {
    ir.Conv2D: "conv2d", ir.DepthwiseConv2D: "depthwise_conv2d", ir.Dense: "dense", ir.Add: "add",
    **GENERIC,
}  # fmt: skip
"""Kernels that run every op of their kind on every core, in namespace `portable`; they need no
working memory."""


def choose(
    op: ir.Op,
    output: ir.Shape,
    proven: bool = False,
    channels: int = 4,
    is_plain: bool = True,
    has_winograd: bool = False,
    one_product: bool = False,
    is_thin: bool = False,
    *,
    dsp: bool = True,
) -> str:
    """Kernel of an op, as the name of a function in namespace `reds`.

    output: its output's shape, of which the channels do not matter; channels: those of the
    narrowest level. proven: requantisation in four instructions is exact (see `is_proven`).
    is_plain: channels read and written are each one run of the store's, or one repeated.
    has_winograd: that algorithm has the room it needs at every level, and is exact (see
    `winograd.tiling` and `is_winograd_exact`). one_product: requantisation as one product is exact
    (see one_product.py). is_thin: its image has few channels, and the kernel for these the room it
    needs at every level (see `thin.rows`). dsp: the core has DSP kernels.
    """
    if not dsp:
        return f"portable::{PORTABLE[type(op)]}"
    match op:
        case ir.Conv2D():
            if one_product and is_thin and channels >= thin.CHANNELS:
                return "conv2d_thin" + ONE_PRODUCT
            short = one_product or proven
            if short and has_winograd and channels >= 2 and winograd.is_quicker(op, output):
                return "conv2d_winograd" + (ONE_PRODUCT if one_product else "")
            fills_block = output[0] * output[1] >= 4 and channels >= 2
            if one_product and fills_block:
                return "conv2d" + ONE_PRODUCT
            return "conv2d_proven" if proven and fills_block else "conv2d"
        case ir.DepthwiseConv2D() if op.multiplier > 1:
            return "portable::depthwise_conv2d"
        case ir.DepthwiseConv2D() if (
            (proven or one_product) and channels >= 4 and _is_lined(op, output)
        ):
            stride = "" if op.strides[_along(output)] == 1 else "_stride2"
            return "depthwise_conv2d_3x3" + stride + (ONE_PRODUCT if one_product else "")
        case ir.DepthwiseConv2D():
            return "depthwise_conv2d_proven" if proven else "depthwise_conv2d"
        case ir.Dense():
            return "dense_proven" if proven and channels >= 4 and is_plain else "dense"
        case ir.Add():
            return "add_proven" if proven else "add"
        case _:
            return GENERIC[type(op)]


def scratch_bytes(
    graph: ir.Graph, room: Mapping[str, int] | None = None, store: ir.Graph | None = None
) -> dict[str, int]:
    """Bytes of working memory of each op's kernel, by op name; ops without any are absent.

    The least that a kernel can do with, or as much as makes it faster and is not more than `room`.
    store: the widest level, if known, for which Winograd's kernel is chosen, or is not.
    """
    shapes, axes = ir.shapes(graph), find_groups(graph).axes
    result = {}
    for op in graph.ops:
        match op:
            case ir.Conv2D():
                available = (room or {}).get(op.name, 0)
                widest = op if store is None else store[op.name]
                assert isinstance(widest, ir.Conv2D)
                output = shapes[op.name]
                # And what the direct kernel needs, which may turn out to run it.
                least = conv2d_scratch_bytes(op, output, 0)
                pays = store is None or winograd.is_quicker(widest, output)
                if rows := thin.rows(op, output, available):
                    size = max(least, thin.scratch_bytes(op, output, rows))
                elif pays and (way := winograd.tiling(op, output, available)):
                    size = max(least, winograd.scratch_bytes(op, way))
                else:
                    size = conv2d_scratch_bytes(op, output, available)
            case ir.DepthwiseConv2D() if op.multiplier == 1:
                size = depthwise_conv2d_scratch_bytes(op, shapes[op.name])
            case ir.Dense():
                size = dense_scratch_bytes(axes[op.inputs[0]])
            case _:
                continue
        result[op.name] = size
    return result


def tile(op: ir.LinearOp, output: ir.Shape, kernel: str, scratch: int) -> tuple[int, int]:
    """Height and width, in output pixels, of what a kernel packs at once into so many bytes.

    A convolution takes its pixels in reading order, so its tiles are one line of a multiple of 4.
    A depthwise 3x3 one takes whole lines, along the longer side: height is their number; one of a
    thin image takes lines as they are. Winograd's tells channels whose weights it keeps, and its
    own tiles.
    """
    match op:
        case ir.Conv2D() if kernel.startswith("conv2d_winograd"):
            way = winograd.tiling(op, output, scratch)
            assert way is not None, op.name
            return way.channels, way.tiles
        case ir.Conv2D() if kernel.startswith("conv2d_thin"):
            return thin.rows(op, output, scratch), output[1]
        case ir.Conv2D():
            return 1, _tile_pixels(op, output, scratch)
        case ir.DepthwiseConv2D() if kernel.startswith("depthwise_conv2d_3x3"):
            return _lines(op, output), output[_along(output)]
        case ir.DepthwiseConv2D():
            return _strip(op, output)
        case _:
            return 0, 0


def conv2d_scratch_bytes(op: ir.Conv2D, output: ir.Shape, room: int) -> int:
    """int16 tile, int16 weights of two channels, and four int8 rows being gathered."""
    pixels = _tile_pixels(op, output, room)
    return _padded_products(op) * (2 * pixels + 2 * 2 + 4)


def _tile_pixels(op: ir.Conv2D, output: ir.Shape, scratch: int) -> int:
    """A multiple of 4: of the tiles that fit in so many bytes, those that are fewest, and of these
    the smallest."""
    blocks, products = -(-output[0] * output[1] // 4), _padded_products(op)
    fitting = (scratch // products - 8) // (2 * 4)
    most = max(MOST_TILE_PIXELS, TILE_BYTES // (2 * products)) // 4
    tiles = -(-blocks // min(max(fitting, 1), most))
    return 4 * -(-blocks // tiles)


def depthwise_conv2d_scratch_bytes(op: ir.DepthwiseConv2D, output: ir.Shape) -> int:
    """The larger one of what the kernels need that may turn out to run it: the general one int16
    weights of four channels, and the same of the image under a tile's windows; the 3x3 one some
    packed lines."""
    general = 4 * 2 * op.kernel.shape[0] * op.kernel.shape[1] + _strip_bytes(
        op, *_strip(op, output)
    )
    if not _is_lined(op, output):
        return general
    return max(general, _lines_bytes(op, output, _lines(op, output)))


def _along(output: ir.Shape) -> int:
    """The axis along which lines run: the longer side, 0 for columns."""
    return 0 if output[0] > output[1] else 1


def _is_lined(op: ir.DepthwiseConv2D, output: ir.Shape) -> bool:
    """Whether the 3x3 kernels can run it."""
    return (
        (*op.kernel.shape[:2], *op.dilation, op.multiplier) == (3, 3, 1, 1, 1)
        and op.strides[_along(output)] in (1, 2)
        and _lines_bytes(op, output, 1) <= MAX_LINES_BYTES
    )


def _lines(op: ir.DepthwiseConv2D, output: ir.Shape) -> int:
    """Lines of outputs at once: as many as fit in LINES_BYTES, at least one."""
    count = 1
    most = output[1 - _along(output)]
    while count < most and _lines_bytes(op, output, count + 1) <= LINES_BYTES:
        count += 1
    return count


def _lines_bytes(op: ir.DepthwiseConv2D, output: ir.Shape, count: int) -> int:
    """int16 lines of the image, four channels each, under so many lines of outputs. A word holds
    two pixels; outputs come in pairs."""
    along = _along(output)
    pairs = -(-output[along] // 2)
    words = 1 + pairs * op.strides[along]
    return 4 * 4 * words * ((count - 1) * op.strides[1 - along] + 3)


def _strip(op: ir.DepthwiseConv2D, output: ir.Shape) -> tuple[int, int]:
    """Height and width of the general kernel's tiles."""
    width = min(output[1], MAX_TILE_COLUMNS)
    height = 1
    while height < output[0] and _strip_bytes(op, height + 1, width) <= STRIP_BYTES:
        height += 1
    return height, width


def _strip_bytes(op: ir.DepthwiseConv2D, height: int, width: int) -> int:
    """int16 pixels, four channels each, that the windows of height x width outputs reach over."""
    rows, columns = (
        (outputs - 1) * stride + (window - 1) * rate + 1
        for outputs, stride, window, rate in zip(
            (height, width), op.strides, op.kernel.shape[:2], op.dilation, strict=True
        )
    )
    return 4 * 2 * rows * columns


def dense_scratch_bytes(axis: Axis) -> int:
    """int16 input, every run of channels padded to a multiple of 4."""
    return sum(2 * s.outer * _round_up(s.units * s.inner, 4) for s in axis)


def _padded_products(op: ir.Conv2D) -> int:
    """Products per output element, rounded up to what one step of the kernel takes."""
    return _round_up(math.prod(op.kernel.shape[:3]), 4)


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def accumulator_range(
    constants: LinearConstants, channels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest accumulator, bias included: int64 (out,) each.

    channels: int8 weights as (out, products). Holds for every input, padding included.
    """
    low = -128 - constants.input_zero_point  # not positive
    high = 127 - constants.input_zero_point  # not negative
    weights = channels.astype(np.int64)
    negative = np.minimum(weights, 0).sum(axis=1)
    positive = np.maximum(weights, 0).sum(axis=1)
    bias = constants.bias.astype(np.int64)
    return bias + negative * high + positive * low, bias + negative * low + positive * high


def proven_channels(constants: LinearConstants, channels: np.ndarray) -> np.ndarray:
    """bool (out,): whether four instructions requantise a channel exactly, for every input.

    With a the doubled accumulator, m the multiplier and e the right shift, the DSP kernels
    compute t = R + (a >> 31) + round(a * m / 2^32), then t >> e, where R = 2^(e-1) + (zp << e).
    That equals gemmlowp's two roundings when e >= 1 and nothing leaves int32.
    """
    multiplier, shift = constants.multiplier.astype(np.int64), -constants.shift.astype(np.int64)
    lowest, highest = accumulator_range(constants, channels)
    largest = np.maximum(-lowest, highest)
    proven = (shift >= 1) & (multiplier >= 0) & (largest < 1 << 30)
    product = (np.minimum(largest, 1 << 30) * multiplier >> 31) + 1
    right = np.maximum(shift, 1)
    rounding = (1 << (right - 1)) + (abs(constants.output_zero_point) << right)
    return proven & (product + rounding + 1 < 1 << 31)


def is_proven(constants: LinearConstants, channels: np.ndarray) -> bool:
    """Whether that is so of all."""
    return bool(proven_channels(constants, channels).all())


def winograd_channels(constants: LinearConstants, channels: np.ndarray) -> np.ndarray:
    """bool (out,): whether no sum of a channel's products leaves what Winograd's algorithm can
    take, for every input."""
    lowest, highest = accumulator_range(constants, channels)
    bias = constants.bias.astype(np.int64)
    return np.maximum(bias - lowest, highest - bias) < winograd.SUM_LIMIT


def is_winograd_exact(constants: LinearConstants, channels: np.ndarray) -> bool:
    """Whether that is so of all."""
    return bool(winograd_channels(constants, channels).all())
