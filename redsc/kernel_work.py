"""How often each kernel's loops run in one call: what its time is made of.

Counts follow the kernels' own loops (firmware/reds/src/dsp, portable): blocks that are not full
count as whole ones, lines of zeros around the image are counted as they are packed, and so are
weights that a level narrower than the store copies together. redsc/targets/NAME.json holds what
each of them takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from redsc import thin, winograd
from redsc.plan_structs import Channels, Window

Work = dict[str, int]
"""How often, by what."""

_PASS_PAIRS, _GENERAL_PASS_PAIRS, _WINOGRAD_PASS_PAIRS = 24, 8, 16
"""Pairs of products in one pass: conv2d_channels.S, its block alone, conv2d_winograd_tiles.S."""

_SHORT_WORDS = 4
"""Of four products: conv2d_channels.S keeps the weights of the first ones in registers."""

_PASS_GROUPS = 16
"""Groups of four products in one pass of dense_rows.S."""

_LINE_OUTPUTS = 8
"""Outputs in one block of depthwise_3x3_lines.S."""


@dataclass(frozen=True)
class Call:
    """One op at one level.

    kernel: as the plan names it. inputs, outputs: channels it reads and writes, where the store
    has them. window: of convolutions and pooling. store_inputs: input channels of the store.
    tile: height and width in output pixels. positions: of the output, in all but channels;
    lines: its height. joined: tensors that a Concatenate joins.
    """

    kernel: str
    inputs: Channels
    outputs: Channels
    window: Window | None
    store_inputs: int
    tile: tuple[int, int]
    positions: int
    lines: int
    joined: int

    @property
    def work(self) -> Work:
        match self.kernel:
            case "conv2d" | "conv2d_proven" | "conv2d_one_product":
                return _conv2d(self)
            case "conv2d_thin_one_product":
                return _conv2d_thin(self)
            case "conv2d_winograd" | "conv2d_winograd_one_product":
                return _conv2d_winograd(self)
            case kernel if kernel.startswith("depthwise_conv2d_3x3"):
                return _depthwise_conv2d_3x3(self)
            case "depthwise_conv2d" | "depthwise_conv2d_proven":
                return _depthwise_conv2d(self)
            case "portable::depthwise_conv2d":
                return _portable_depthwise_conv2d(self)
            case "dense_proven":
                return _dense_proven(self)
            case "dense":
                return _dense(self)
            case "average_pool2d" | "max_pool2d":
                return _pool2d(self)
            case "concatenate":
                pieces = self.positions * self.joined
                return {"byte": self.positions * self.outputs.count, "piece": pieces, "call": 1}
            case "pad":
                elements = self.positions * self.outputs.count
                return {"element": elements, "line": self.lines, "call": 1}
            case _:
                return {"element": self.positions * self.outputs.count, "call": 1}


def _window(call: Call) -> Window:
    assert call.window is not None
    return call.window


# --- Conv2D: conv2d.cc, conv2d_channels.S, conv2d_pack.S, conv2d_windows.h -----------------------


def _conv2d(call: Call) -> Work:
    window, inputs = _window(call), call.inputs
    taps = window.kernel_height * window.kernel_width
    words = -(-taps * inputs.count // 4)
    sizes = [min(call.tile[1], call.positions - i) for i in range(0, call.positions, call.tile[1])]
    # A last pixel alone has a loop of its own.
    is_general = call.kernel == "conv2d"
    alone = 0 if is_general else sum(size % 4 == 1 for size in sizes)
    blocks = sum(-(-size // 4) for size in sizes) - alone
    pairs = -(-call.outputs.count // 2)
    is_whole = taps == 1 or inputs.count == call.store_inputs
    in_place = _runs(inputs) == 1 and (is_whole or inputs.count % 4 == 0)
    copied = 0 if in_place else 2 * pairs * len(sizes) * taps * inputs.repeat
    is_short = not is_general and words <= _SHORT_WORDS
    steps = 2 * (words if is_general else words - _SHORT_WORDS)
    passes = -(-steps // (_GENERAL_PASS_PAIRS if is_general else _PASS_PAIRS))
    return {
        "block step": pairs * blocks * steps * (not is_short),
        "block pass": pairs * blocks * passes * (not is_short),
        "block": pairs * blocks * (not is_short),
        "short step": pairs * blocks * 2 * words * is_short,
        "short block": pairs * blocks * is_short,
        "lone step": pairs * alone * 2 * words,
        "lone pixel": pairs * alone,
        "weight word": pairs * len(sizes) * words,
        "pair": pairs * len(sizes),
        "further tap": pairs * len(sizes) * (taps - 1) * (in_place and not is_whole),
        "pair by itself": 0 if in_place else pairs * len(sizes),
        **_copied_runs(inputs, copied),
        **_packed_windows(call, taps * inputs.count),
        "call": 1,
    }


def _copied_words(byte_counts: np.ndarray) -> np.ndarray:
    """Of lines of so many bytes, those words that take time: all of up to 16 bytes take alike."""
    return np.where(byte_counts <= 16, 0, -(-byte_counts // 4))


def _copied_runs(channels: Channels, times: int) -> Work:
    """Of copying all runs, once, so often."""
    words = _copied_words(np.array([run.length for run in channels.runs]))
    return {"copied run": times * len(channels.runs), "copied run's word": times * int(words.sum())}


def _runs(channels: Channels) -> int:
    return channels.repeat * len(channels.runs)


def _packed_windows(call: Call, products: int) -> Work:
    """What packing takes: four pixels at a time, whose windows lie in the image or are copied
    first. Where blocks of them lie evenly, all of these are packed in one call."""
    window, channels = _window(call), call.inputs.count
    line, lines = window.kernel_width * channels, window.kernel_height
    are_copied = window.dilation_width > 1 or (lines > 1 and line < 4)
    calls, even_blocks, firsts = _packings(window, call.tile[1], call.positions, are_copied)
    lines_inside, columns_inside, is_inside = _taps_inside(window)
    alone = (firsts[:, None] + np.arange(4)).reshape(-1)
    alone = alone[alone < call.positions]
    edges = alone[~is_inside[alone]]
    copied = alone if are_copied else edges
    if window.dilation_width == 1:
        copied_lines = lines_inside[copied]
        copied_words = copied_lines * _copied_words(columns_inside[copied] * channels)
    else:
        copied_lines = lines_inside[copied] * columns_inside[copied]
        copied_words = copied_lines * _copied_words(np.array(channels))
    blocks = even_blocks + len(firsts)
    words, rests = _line_parts(max(products, 4), 1) if are_copied else _line_parts(line, lines)
    return {
        "packed word": blocks * words,
        "packed rest": blocks * rests,
        "packed line": blocks * (1 if are_copied else lines),
        "packing": calls,
        "window": len(alone),
        "edge window": len(edges),
        "edge word": len(edges) * -(-products // 4),
        "copied line": int(copied_lines.sum()),
        "copied word": int(copied_words.sum()),
    }


def _line_parts(line_bytes: int, lines: int) -> tuple[int, int]:
    """Whole words of a row's lines, one sequence of bytes, and how many of its words are made of
    what is left of a line and the beginning of the next one, or nothing."""
    words = rests = begun = 0
    for _ in range(lines):
        left = line_bytes - begun
        words += left // 4
        rests += left % 4 > 0
        begun = -left % 4
    return words, rests


@cache
def _packings(
    window: Window, tile_pixels: int, pixels: int, are_copied: bool
) -> tuple[int, int, np.ndarray]:
    """Calls that pack pixels, the blocks of four that are packed together with others or lie
    evenly, and the first pixel of each other block. A tile's last block takes some pixels for a
    second time."""
    lines, columns, _ = _taps_inside(window)
    width = window.output_width
    has_line = lines[::width] == window.kernel_height
    inside = np.flatnonzero(columns[:width] == window.kernel_width).tolist()
    are_pixels = (
        window.kernel_height == window.kernel_width == 1
        and window.pad_top == window.pad_left == 0
        and window.stride_height == window.stride_width == 1
        and width == window.input_width
    )
    calls, even_blocks = 0, 0
    firsts: list[int] = []
    for start in range(0, pixels, tile_pixels):
        end = min(start + tile_pixels, pixels)
        first = start
        while first < end:
            goes_back = first + 4 > end
            first = max(0, end - 4) if goes_back else first
            y, x = divmod(first, width)
            run = 0
            if not are_copied and has_line[y] and inside and x >= inside[0]:
                left = pixels - first if are_pixels else inside[-1] + 1 - x
                run = min(left, end - first) // 4
            if run == 0:
                firsts.append(first)
            even_blocks += run
            calls += 1
            first += 4 * max(run, 1)
    return calls, even_blocks, np.array(firsts, np.int64)


def _taps_inside(window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every output pixel: lines and columns of its window in the image, and whether all are."""
    lines = _inside(
        window.output_height, window.stride_height, window.pad_top,
        window.kernel_height, window.dilation_height, window.input_height,
    )  # fmt: skip
    columns = _inside(
        window.output_width, window.stride_width, window.pad_left,
        window.kernel_width, window.dilation_width, window.input_width,
    )  # fmt: skip
    whole = np.outer(lines == window.kernel_height, columns == window.kernel_width)
    return (
        np.repeat(lines, len(columns)),
        np.tile(columns, len(lines)),
        whole.reshape(-1),
    )


def _inside(outputs: int, stride: int, pad: int, taps: int, dilation: int, size: int) -> np.ndarray:
    """Of every output along one side: taps of its window in the image."""
    positions = np.arange(outputs)[:, None] * stride - pad + np.arange(taps) * dilation
    return ((positions >= 0) & (positions < size)).sum(axis=1)


# --- Conv2D of a thin image: conv2d_thin.cc, conv2d_thin_rows.S ----------------------------------


def _conv2d_thin(call: Call) -> Work:
    window, inputs = _window(call), call.inputs.count
    height, width = window.output_height, window.output_width
    lanes = thin.lanes(width, window.kernel_width, window.stride_width, inputs)
    pairs, rows = -(-call.outputs.count // thin.CHANNELS), call.tile[0]
    strips = [(row, min(rows, height - row)) for row in range(0, height, rows)]
    stride = window.stride_height
    lines = [
        0 <= line - window.pad_top < window.input_height
        for row, count in strips
        for line in range(row * stride, (row + count - 1) * stride + thin.LINES)
    ]
    starts = np.minimum(np.arange(thin.LANES) * lanes.windows, max(0, width - lanes.windows))
    first = starts * window.stride_width - window.pad_left
    end = first + (lanes.windows - 1) * window.stride_width + window.kernel_width
    edges = int(np.sum((first < 0) | (end > window.input_width)))
    return {
        "block step": pairs * height * lanes.windows * thin.LINES * lanes.pairs,
        "block": pairs * height * lanes.windows,
        "row": pairs * height * lanes.phases,
        "strip": pairs * len(strips) * lanes.phases,
        "packed group": lines.count(True) * lanes.phases * lanes.groups,
        "packed line": lines.count(True) * lanes.phases,
        "edge": lines.count(True) * edges,
        "edge word": lines.count(True) * edges * lanes.groups,
        "word of zeros": lines.count(False) * lanes.line_bytes // 4,
        "weight": thin.CHANNELS * pairs * thin.LINES * window.kernel_width * inputs,
        "call": 1,
    }


# --- Conv2D by Winograd: conv2d_winograd.cc, conv2d_winograd_tiles.S -----------------------------


def _conv2d_winograd(call: Call) -> Work:
    window, inputs, outputs = _window(call), call.inputs, call.outputs.count
    side, reach = winograd.SIDE, winograd.SIDE + 2
    height, width = window.output_height, window.output_width
    rows, columns = -(-height // side), -(-width // side)
    words, pairs = -(-inputs.count // 4), -(-outputs // winograd.CHANNELS)
    starts = range(0, rows * columns, call.tile[1])
    blocks = pairs * -(-rows * columns // winograd.TILES)
    long_blocks = blocks if words > winograd.SHORT_WORDS else 0
    at_once = {1: 3, 2: 2}.get(words, 1)  # points, where blocks are short
    passes = 1 if call.tile[0] >= outputs else len(starts)
    weights = winograd.CHANNELS * pairs * passes
    is_whole = _runs(inputs) == 1 and inputs.count % 4 == 0
    copied = 0 if is_whole else weights * inputs.repeat
    lines_inside = _inside(rows, side, window.pad_top, reach, 1, window.input_height)
    columns_inside = _inside(columns, side, window.pad_left, reach, 1, window.input_width)
    copies = ~np.outer(lines_inside == reach, columns_inside == reach)
    last_lines = side * np.arange(rows) - window.pad_top + reach - 1
    last_columns = side * np.arange(columns) - window.pad_left + reach - 1
    last_pixels = last_lines[:, None] * window.input_width + last_columns
    image_bytes = window.input_height * window.input_width * inputs.count
    copies |= last_pixels * inputs.count + 4 * words > image_bytes
    line_words = -(-columns_inside * inputs.count // 4)
    filled = int(copies.sum()) * reach**2 * words - int(
        np.outer(lines_inside, line_words)[copies].sum()
    )
    copied_words = np.outer(lines_inside, _copied_words(columns_inside * inputs.count))[copies]
    whole_tiles = (height // side) * (width // side)
    return {
        "block step": blocks * winograd.POINTS * 2 * words,
        "block pass": long_blocks * winograd.POINTS * -(-(2 * words - 1) // _WINOGRAD_PASS_PAIRS),
        "long block": long_blocks,
        "points at once": (blocks - long_blocks) * winograd.POINTS // at_once,
        "block": blocks,
        "pair": pairs * len(starts),
        "tile beside": pairs * (rows * columns - whole_tiles),
        "pixel beside": pairs * (height * width - whole_tiles * side**2),
        "window": rows * columns,
        "window word": rows * columns * words,
        "edge window": int(copies.sum()),
        "filled word": filled,
        "copied line": int((lines_inside[:, None] * copies).sum()),
        "copied word": int(copied_words.sum()),
        "weight": weights,
        "weight word": weights * words,
        **_copied_runs(inputs, copied),
        "call": 1,
    }


# --- DepthwiseConv2D: depthwise_conv2d_3x3.cc, depthwise_3x3_lines.S, depthwise_conv2d.cc --------


def _depthwise_conv2d_3x3(call: Call) -> Work:
    window, channels = _window(call), call.outputs.count
    sides = (
        (window.output_height, window.output_width),
        (window.input_height, window.input_width),
        (window.pad_top, window.pad_left),
        (window.stride_height, window.stride_width),
    )
    if window.output_height > window.output_width:
        (length, lines), (_, input_lines), (_, pad), (stride_along, stride) = sides
    else:
        (lines, length), (input_lines, _), (pad, _), (stride, stride_along) = sides
    pairs, blocks = -(-length // 2), length // _LINE_OUTPUTS
    tail = pairs - _LINE_OUTPUTS // 2 * blocks
    words = (pairs if stride_along == 1 else 2 * pairs) + 1
    quads = -(-channels // 4)
    strips = [(line, min(call.tile[0], lines - line)) for line in range(0, lines, call.tile[0])]
    packed = [
        0 <= row < input_lines
        for line, count in strips
        for row in range(line * stride - pad, (line + count - 1) * stride - pad + 3)
    ]
    # Where one strip is all of the image, its lines of zeros stay where they are.
    zeros = packed.count(False) * (quads if len(strips) > 1 else 1)
    return {
        "block of 8": channels * lines * (blocks + (tail == 4)),
        **{f"block of {2 * n}": channels * lines * (tail == n) for n in (1, 2, 3)},
        "line": channels * lines * (blocks > 0),
        "line of less than 8": channels * lines * (blocks == 0),
        "channel": channels * len(strips),
        "strip": quads * len(strips),
        "packed line": quads * packed.count(True),
        "packed word": quads * packed.count(True) * words,
        "line of zeros": zeros,
        "word of zeros": zeros * words,
        "call": 1,
    }


def _depthwise_conv2d(call: Call) -> Work:
    window, channels = _window(call), call.outputs.count
    quads, taps = -(-channels // 4), window.kernel_height * window.kernel_width
    is_3x3 = (window.kernel_height, window.kernel_width) == (3, 3) and (
        window.dilation_height == window.dilation_width == 1
    )
    rows, columns, tiles, lines = 0, 0, 0, 0
    for y in range(0, window.output_height, call.tile[0]):
        height = min(call.tile[0], window.output_height - y)
        for x in range(0, window.output_width, call.tile[1]):
            width = min(call.tile[1], window.output_width - x)
            row_count = _reach(
                height, window.stride_height, window.kernel_height, window.dilation_height
            )
            rows += row_count
            columns += row_count * _reach(
                width, window.stride_width, window.kernel_width, window.dilation_width
            )
            tiles += 1
            lines += height
    return {
        "3x3 window": quads * call.positions * is_3x3,
        "window": quads * call.positions,
        "tap": quads * call.positions * taps * (not is_3x3),
        "row of taps": quads * call.positions * window.kernel_height * (not is_3x3),
        "output": channels * call.positions,
        "packed": quads * columns,
        "packed line": quads * rows,
        "packed of less than four": columns * (channels % 4 > 0),
        "line": quads * lines,
        "tile": quads * tiles,
        "weight": quads * taps,
        "four channels": quads,
        "call": 1,
    }


def _reach(outputs: int, stride: int, window: int, dilation: int) -> int:
    """Input lines or columns under so many neighbouring windows."""
    return (outputs - 1) * stride + (window - 1) * dilation + 1


def _portable_depthwise_conv2d(call: Call) -> Work:
    lines, columns, _ = _taps_inside(_window(call))
    channels = call.outputs.count
    return {
        "tap": channels * int(np.dot(lines, columns)),
        "row of taps": channels * int(lines.sum()),
        "output": channels * call.positions,
        "call": 1,
    }


# --- Dense: dense.cc, dense_rows.S ---------------------------------------------------------------


def _dense_proven(call: Call) -> Work:
    length, runs = call.inputs.runs[0].length, call.inputs.repeat
    words, blocks = -(-length // 4), -(-call.outputs.count // 4)
    return {
        "step": blocks * runs * words,
        "pass": blocks * runs * -(-words // _PASS_GROUPS),
        "further run": blocks * (runs if runs > 1 else 0),
        "block": blocks,
        "expanded word": runs * words,
        "expanded rest": runs * (length % 4 > 0),
        "expanded run": runs,
        "call": 1,
    }


def _dense(call: Call) -> Work:
    runs = _runs(call.inputs)
    words = call.inputs.repeat * sum(-(-run.length // 4) for run in call.inputs.runs)
    blocks = call.outputs.repeat * sum(run.length // 4 for run in call.outputs.runs)
    rest = call.outputs.count - 4 * blocks
    return {
        "step": blocks * words,
        "run": blocks * runs,
        "block": blocks,
        "lone step": rest * words,
        "lone run": rest * runs,
        "lone output": rest,
        "expanded word": words,
        "expanded run": runs,
        "call": 1,
    }


# --- Pooling -------------------------------------------------------------------------------------


def _pool2d(call: Call) -> Work:
    window, channels = _window(call), call.outputs.count
    quads, taps = -(-channels // 4), window.kernel_height * window.kernel_width
    is_average = call.kernel == "average_pool2d"
    in_one = is_average and window.kernel_width == window.input_width
    # Max pooling takes channels of the last four a second time where they are less.
    has_rest = channels % 4 > 0 if is_average else channels < 4
    return {
        "tap": call.positions * quads * taps,
        "line": call.positions * quads * (1 if in_one else window.kernel_height),
        "four outputs": call.positions * quads,
        "output": call.positions * channels,
        "pixel": call.positions,
        "tap of less than four": call.positions * taps * has_rest,
        "call": 1,
    }
