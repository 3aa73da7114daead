"""Inputs and statistics when there is no data, or little: ranges, and batch-norm re-estimated.

A Keras file names no input range, yet int8 needs one. What it does hold is the mean and variance
of every batch-norm's input over the training set, so inputs are made that reproduce them
(ZeroQ: Cai et al., CVPR 2020, arXiv 2001.00281, section 3.1). A norm that directly follows a
linear op holds the statistics of kernel · x + bias, and only such norms are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from redsc import cost, ir
from redsc.tf_network import Tensor, activate, apply, forward, linear, ranges, tensorflow

Range = tuple[float, float]
Bounds = tuple[float | np.ndarray, float | np.ndarray]
"""Of raw inputs: for all channels, or float64 (channels,) each."""

_STEPS = (60, 200)
_WORK_MACS = 1e11
"""Optimisation steps are as many as fit this much work (forward and backward), within _STEPS."""

_OPTIMISED_SAMPLES = 64
"""Samples optimised together, at most; more cost seconds and measured no better."""

_LEARNING_RATE = 0.3
"""In units of the inputs' starting spread. Large on purpose: it lets single values travel far,
so that one feature of large scale among many small ones (an MFCC's energy) is found."""

_TAIL_PERCENT = 0.1
_MARGIN = 0.5
"""An inferred input range leaves out the tails of the synthetic inputs, which are noise, and is
then widened by this fraction of itself at both ends, for real tails are heavier. On the safe side:
clipping costs more than the bit a range twice too wide loses (on keyword features a range of half
the true one, or of three times it, costs 1-2 % of argmaxes)."""

_HISTOGRAM_BINS = 2048
_CLIPPING = np.linspace(1.0, 0.5, 26)


def synthetic_inputs(
    graph: ir.Graph, count: int, seed: int, input_range: Range | None = None
) -> tuple[np.ndarray, str]:
    """Inputs for calibration without data, and a warning that says where their range is from.

    Returns at most `count` float32 samples, (samples, *input shape), in raw units. Their range
    is `input_range`, else what the input's rescaling or a leading normalisation tells, else what
    the network's batch-norms imply; within it they are optimised until the pre-norm means and
    variances of the full graph come out as stored, where it has such norms. Same seed, same inputs.
    """
    generator = np.random.default_rng(seed)
    bounds, origin = _known_range(graph, input_range)
    targets = _norm_targets(graph)
    count = min(count, _OPTIMISED_SAMPLES) if targets else count
    shape = (count, *graph.input.shape)
    if targets:
        x = _reproduce_norms(graph, targets, shape, generator, bounds)
        if bounds is None:
            bounds = _widened(x)
            origin = f"inferred from the stored statistics of {len(targets)} batch-norms"
    elif bounds is not None and np.ndim(bounds[0]):
        low, high = bounds  # 4 deviations around each channel's mean
        x = (low + high) / 2 + (high - low) / 8 * generator.standard_normal(shape)
    elif bounds is not None:
        x = _noise_within(bounds, shape, generator)
    else:
        bounds, origin = (-4.0, 4.0), "a guess: there is no batch-norm to infer it from"
        x = generator.standard_normal(shape)
    x = _within(x, bounds)
    return x, (
        f"accuracy is unmeasured: without data, activation ranges come from synthetic inputs in "
        f"{np.min(bounds[0]):.6g} … {np.max(bounds[1]):.6g} ({origin}); pass --data, or "
        "--input-range LO,HI"
    )


def _known_range(graph: ir.Graph, given: Range | None) -> tuple[Bounds | None, str]:
    """The input's raw range where something states it, and what states it."""
    if given is not None:
        return (float(given[0]), float(given[1])), "from --input-range"
    bounds = _usual_range(graph.input)
    if bounds is not None:
        return bounds, "from the rescaling at the input"
    deviations = "4 standard deviations of the normalisation at the input"
    norm = _leading_normalisation(graph)
    if norm is not None:
        mean, deviation = _input_statistics(norm)
        return (mean - 4 * deviation, mean + 4 * deviation), deviations
    per_channel = bool(np.ndim(graph.input.raw(0.0)))
    if not graph.input.is_scaled or (_norm_targets(graph) and not per_channel):
        return None, ""
    return (graph.input.raw(-4.0), graph.input.raw(4.0)), deviations


def _usual_range(source: ir.Input) -> Range | None:
    """The usual raw range that the input's rescaling brings to 0 … 1 or ±1, if one does.

    So Rescaling(1/255) and Rescaling(1/127.5, -1) both read 0 … 255.
    """
    if not source.is_scaled or np.ndim(source.raw(0.0)):
        return None
    for bounds in ((0.0, 255.0), (0.0, 1.0), (0.0, 65535.0), (-32768.0, 32767.0), (-128.0, 127.0)):
        ends = [source.scaled(end) for end in bounds]
        if any(np.allclose(ends, wanted, atol=0.01) for wanted in ((0, 1), (-1, 1))):
            return bounds
    return None


def _leading_normalisation(graph: ir.Graph) -> ir.BatchNorm | None:
    """The per-channel normalisation of the raw input: a 1x1 depthwise of ones once lowered.

    A reshape before it, as lowering gives a vector, is looked through where channels stay.
    """
    readers = graph.consumers(graph.input.name)
    while len(readers) == 1 and isinstance(readers[0], ir.Reshape):
        readers = graph.consumers(readers[0].name)
    norm = None
    match readers:
        case [ir.BatchNormalization() as op]:
            norm = op.norm
        case [ir.DepthwiseConv2D(bias=None, multiplier=1) as op]:
            norm = op.norm if op.kernel.shape[:2] == (1, 1) and np.all(op.kernel == 1) else None
    return norm if norm is not None and norm.mean.size in (1, graph.input.shape[-1]) else None


def _input_statistics(norm: ir.BatchNorm) -> tuple[np.ndarray, np.ndarray]:
    """float32 mean and deviation of what a norm reads; a plain scale and shift standardises it."""
    if has_statistics(norm):
        deviation = np.sqrt(norm.variance + max(norm.epsilon, 1e-12))
        return norm.mean, deviation.astype(np.float32)
    gamma = np.where(norm.gamma == 0, 1, norm.gamma)
    return -norm.beta / gamma, 1 / np.abs(gamma)


def _widened(x: np.ndarray) -> Range:
    """The inferred input range: that of most synthetic inputs plus the margin for real tails."""
    low, high = (float(np.percentile(x, end)) for end in (_TAIL_PERCENT, 100 - _TAIL_PERCENT))
    margin = _MARGIN * (high - low)
    return (low if low >= 0 else low - margin), (high if high <= 0 else high + margin)


def _within(x: np.ndarray, bounds: Bounds) -> np.ndarray:
    """float32 `x` inside the bounds, which its extremes become: those of its first sample, or one
    by one of every channel that has its own, so that no sample is nothing but extremes."""
    x = np.clip(x, *bounds).astype(np.float32)
    low, high = bounds
    if not np.ndim(low):
        first = x[0].reshape(-1)
        first[np.argmin(first)], first[np.argmax(first)] = low, high
        return x
    rows = x.reshape(-1, x.shape[-1])
    for channel, ends in enumerate(np.broadcast(low, high)):
        for number, end in enumerate(ends):
            rows[(2 * channel + number) % len(rows), channel] = end
    return x


def _noise_within(
    bounds: Bounds, shape: tuple[int, ...], generator: np.random.Generator
) -> np.ndarray:
    """Uniform noise, each sample with its own centre and contrast, as real inputs have."""
    per_sample = (shape[0], *([1] * (len(shape) - 1)))
    contrast = generator.uniform(0.2, 1.0, per_sample)
    darkest = generator.random(per_sample) * (1 - contrast)
    low, high = bounds
    return low + (high - low) * (darkest + contrast * generator.random(shape))


@dataclass(frozen=True, eq=False)
class _Statistics:
    """Of kernel · x + bias over samples and positions, per channel; deviation includes epsilon."""

    mean: np.ndarray
    deviation: np.ndarray
    epsilon: float


def has_statistics(norm: ir.BatchNorm | None) -> bool:
    """Whether it is a batch-norm, not a constant or free scale and shift in the same form."""
    return norm is not None and not (norm.epsilon == 0 and _is_untrained(norm))


def _is_untrained(norm: ir.BatchNorm) -> bool:
    return bool(np.all(norm.mean == 0) and np.all(norm.variance == 1))


def _norm_targets(graph: ir.Graph) -> dict[str, _Statistics]:
    """The statistics each trained norm stores, by op name, in network order.

    Norms that lowering turned into a depthwise of ones store their input's: the same thing.
    """
    return {
        op.name: _statistics(op.norm)
        for op in graph.linear_ops
        if op.norm is not None and not _is_untrained(op.norm)
    }


def _statistics(norm: ir.BatchNorm) -> _Statistics:
    epsilon = max(norm.epsilon, 1e-6)
    return _Statistics(norm.mean, np.sqrt(norm.variance + epsilon), epsilon)


def _mismatch(graph: ir.Graph, targets: Mapping[str, _Statistics], x: Tensor) -> Tensor:
    """Mean squared distance of measured from stored statistics, in stored deviations."""
    tf, terms = tensorflow(), []

    def run_linear(op: ir.LinearOp, value: Tensor) -> Tensor:
        y = linear(op, value)
        if op.name in targets:
            target = targets[op.name]
            mean, variance = tf.nn.moments(y, list(range(len(y.shape) - 1)))
            bias = 0.0 if op.bias is None else op.bias
            deviation = tf.sqrt(variance + target.epsilon)
            terms.append(tf.reduce_mean(((mean + bias - target.mean) / target.deviation) ** 2))
            terms.append(tf.reduce_mean((deviation / target.deviation - 1) ** 2))
        return activate(
            op.activation, y * op.scale.astype(np.float32) + op.offset.astype(np.float32)
        )

    forward(graph, x, run_linear)
    return tf.add_n(terms) / len(terms)


def _reproduce_norms(
    graph: ir.Graph,
    targets: Mapping[str, _Statistics],
    shape: tuple[int, ...],
    generator: np.random.Generator,
    bounds: Bounds | None,
) -> np.ndarray:
    """Inputs (raw units) with the targets' statistics, by Adam on all of them at once."""
    tf = tensorflow()
    noise = generator.standard_normal(shape).astype(np.float32)
    centre, spread = _starting_scale(graph, targets, noise, bounds)
    steps = int(np.clip(_WORK_MACS / (3 * shape[0] * cost.macs(graph)), *_STEPS))
    optimizer = tf.keras.optimizers.legacy.Adam(
        tf.keras.optimizers.schedules.CosineDecay(_LEARNING_RATE, steps)
    )
    latent = tf.Variable(noise)

    @tf.function(autograph=False)
    def step() -> None:
        with tf.GradientTape() as tape:
            loss = _mismatch(graph, targets, centre + spread * latent)
        optimizer.apply_gradients([(tape.gradient(loss, latent), latent)])
        if bounds is not None:
            low, high = (((end - centre) / spread).astype(np.float32) for end in bounds)
            latent.assign(tf.clip_by_value(latent, low, high))

    for _ in range(steps):
        step()
    return centre + spread * latent.numpy()


def _starting_scale(
    graph: ir.Graph,
    targets: Mapping[str, _Statistics],
    noise: np.ndarray,
    bounds: Bounds | None,
) -> tuple[np.ndarray, np.ndarray]:
    """float32 centre and spread that bring noise near the first norm's statistics."""
    norm = _leading_normalisation(graph)
    if norm is not None:
        return _input_statistics(norm)
    if bounds is not None:
        low, high = bounds
        share = 8 if np.ndim(low) else 4  # a channel's bounds are 4 deviations from its mean
        centre, spread = np.asarray(low + high) / 2, np.asarray(high - low) / share
        return centre.astype(np.float32), spread.astype(np.float32)
    first = next(iter(targets))
    few = tensorflow().constant(noise[:32])
    head = graph.with_ops(graph.ops[: [op.name for op in graph.ops].index(first) + 1], first)
    target = {first: targets[first]}
    candidates = [
        (np.float32(shift * spread), np.float32(spread))
        for spread in 2.0 ** np.arange(-8, 11)
        for shift in (0, -2, 2)
    ]
    return min(candidates, key=lambda c: float(_mismatch(head, target, c[0] + c[1] * few)))


def activation_ranges(graph: ir.Graph, x: np.ndarray) -> dict[str, Range]:
    """(low, high) of every tensor over raw inputs `x`, low <= 0 <= high, for asymmetric int8.

    The network's input keeps its smallest and largest value. Other tensors are clipped, high end
    first, where that lowers the mean squared error of int8 (measured on real keyword features:
    as good as smallest and largest, or up to 2 dB better, and not led by outliers).
    """
    extremes = {
        name: (min(low, 0.0), max(high, 0.0)) for name, (low, high) in ranges(graph, x).items()
    }
    histograms = _histograms(graph, x, extremes)
    result = {name: clipped_range(histograms[name], extremes[name]) for name in extremes}
    return result | {graph.input.name: extremes[graph.input.name]}


def _histograms(
    graph: ir.Graph, x: np.ndarray, extremes: Mapping[str, Range], batch_size: int = 128
) -> dict[str, np.ndarray]:
    """Counts of every tensor's values in _HISTOGRAM_BINS equal bins over its extremes."""
    tf = tensorflow()

    @tf.function(autograph=False)
    def count(batch: Tensor) -> dict[str, Tensor]:
        return {
            name: histogram(value, *extremes[name])
            for name, value in forward(graph, batch).items()
            if extremes[name][1] > extremes[name][0]
        }

    totals = {name: np.zeros(_HISTOGRAM_BINS, np.int64) for name in extremes}
    for start in range(0, len(x), batch_size):
        for name, counts in count(x[start : start + batch_size]).items():
            totals[name] += counts.numpy()
    return totals


def histogram(value: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """int32: how many elements lie in each of equal bins over low … high, low < high."""
    return tensorflow().histogram_fixed_width(value, (low, high), _HISTOGRAM_BINS)


def clipped_range(counts: np.ndarray, extremes: Range) -> Range:
    """The clipped range whose int8 rendering of a `histogram` has the least squared error."""
    low, high = extremes
    if high <= low:
        return extremes
    used = np.flatnonzero(counts)
    centres = low + (used + 0.5) * (high - low) / _HISTOGRAM_BINS

    def error(low: float, high: float) -> float:
        step = (high - low) / 255
        zero_point = np.round(-128 - low / step)
        rendered = (np.clip(np.round(centres / step) + zero_point, -128, 127) - zero_point) * step
        return float(np.sum(counts[used] * (centres - rendered) ** 2))

    # The widest of equals: _CLIPPING starts at 1.
    high = float(min(_CLIPPING * high, key=lambda clipped: error(low, clipped)))
    low = float(min(_CLIPPING * low, key=lambda clipped: error(clipped, high))) if low else 0.0
    return low, high


def recalibrate_norms(graph: ir.Graph, x: np.ndarray, mean_only: bool = False) -> ir.Graph:
    """`graph` with every batch-norm's mean and variance measured on raw inputs `x`.

    mean_only: variances stay, so that multipliers can be shared with the network they are from.

    In network order: each is measured with those before it already replaced, as a training-mode
    pass would see it (slimmable networks' post-statistics: Yu & Huang, ICCV 2019, section 3.3).
    gamma, beta and epsilon stay. A channel that never varies gets variance 0, which is safe as
    long as epsilon is not 0; with epsilon 0 its variance stays. All of `x` is held in memory,
    one live tensor at a time.
    """
    tf = tensorflow()
    values: dict[str, Tensor] = {}
    last_use = {name: number for number, op in enumerate(graph.ops) for name in op.inputs}
    ops: list[ir.Op] = []
    for number, op in enumerate(graph.ops):
        inputs = [values[name] for name in op.inputs] or [tf.constant(x)]
        if isinstance(op, ir.LinearOp) and has_statistics(op.norm):
            op = _measured(op, linear(op, inputs[0]), mean_only)
        values[op.name] = apply(op, inputs)
        for name in op.inputs:
            if last_use[name] == number:
                values.pop(name, None)
        ops.append(op)
    return graph.with_ops(ops)


def _measured(op: ir.LinearOp, y: Tensor, mean_only: bool) -> ir.LinearOp:
    """`op` with its norm's statistics those of y = kernel · x, plus the bias."""
    assert op.norm is not None
    y = y.numpy().reshape(-1, op.out_channels).astype(np.float64)
    mean, variance = y.mean(axis=0), y.var(axis=0)
    if op.bias is not None:
        mean = mean + op.bias
    if op.norm.epsilon == 0:
        variance = np.where(variance > 0, variance, op.norm.variance)
    variance = np.minimum(variance, np.finfo(np.float32).max)  # of finite values, it may not be
    norm = replace(op.norm, mean=ir.read_only(mean))
    if not mean_only:
        norm = replace(norm, variance=ir.read_only(variance))
    return replace(op, norm=norm)
