"""What redsc supports, as rules: they check a network, explain a refusal and make SUPPORTED_OPS.md.

A rule is a function `constraint_*` whose docstring is the user's sentence. It returns whether it
holds and, if not, what was found. Rules on a layer alone take (layer); rules that need shapes take
(layer, input shapes). The first rule a layer breaks is the reason given for it.

    python -m redsc.support > SUPPORTED_OPS.md
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from redsc.errors import ModelError
from redsc.ir import Shape
from redsc.keras_network import WEIGHTED_LAYERS, Layer, Network, output_shape, target_shape
from redsc.keras_options import INERT_LAYERS, OPTIONS, ActivationSpec, layer_activation

Verdict = tuple[bool, str]
LayerRule = Callable[[Layer], Verdict]
ShapeRule = Callable[[Layer, Sequence[Shape]], Verdict]

MAX_TENSOR_ELEMENTS = 1 << 24
MAX_SOFTMAX_SIZE = 511
"""Of 512 equal inputs TensorFlow Lite's int8 softmax would shift by 32 bits, which is not defined:
its interpreter aborts (tensorflow/lite/kernels/internal/reference/softmax.h)."""
ACTIVATIONS = ("linear", "relu", "relu6", "leaky_relu", "sigmoid", "tanh", "softmax")
ACTIVATION_LAYERS = ("Activation", "ReLU", "LeakyReLU", "Softmax")

_HINTS = {
    "Lambda": "a Lambda holds Python code, which is never run; use layers from the list",
    "TFOpLambda": "a Python expression; use Keras layers: Rescaling to scale and shift, Add, ReLU",
    "TrueDivide": "a Python expression; use Keras layers: Rescaling to scale and shift",
    "Subtract": "subtracting two tensors has no counterpart; of a constant use Rescaling",
    "SlicingOpLambda": "slicing a tensor has no counterpart",
    "Multiply": "multiplying two tensors (attention, squeeze-and-excite) has no counterpart",
    "Conv2DTranspose": "transposed convolutions have no counterpart",
    "PReLU": "learnt slopes have no counterpart; use LeakyReLU",
    "PruneLowMagnitude": "a pruning wrapper; remove it with tfmot.sparsity.keras.strip_pruning()",
    "QuantizeWrapperV2": "a quantisation wrapper; redsc quantises itself: save the float model",
    "TimeDistributed": "a wrapper; apply the layer itself, Dense works on every position",
}
_RECURRENT = ("LSTM", "GRU", "SimpleRNN", "RNN", "Bidirectional", "ConvLSTM1D", "ConvLSTM2D")


# --- Rules on any layer ---


def constraint_known_class(layer: Layer) -> Verdict:
    """The layer is one of Keras's own and in the list below"""
    if layer.origin:
        return False, f"a custom layer of {layer.origin!r:.60}: its code is not in the file"
    if layer.class_name in (*OPTIONS, *INERT_LAYERS, "InputLayer"):
        return True, ""
    if layer.class_name in _RECURRENT:
        return False, "recurrent layers keep a state between steps; use (causal) convolutions"
    return False, _HINTS.get(layer.class_name, "not in the list of supported layers")


def constraint_well_formed(layer: Layer) -> Verdict:
    """Its options are known and well-formed, and it is called without options of its own"""
    return not layer.faults, "; ".join(layer.faults)


def constraint_float32(layer: Layer) -> Verdict:
    """It computes in float32 (an InputLayer may be of any number type)"""
    if layer.class_name == "InputLayer" or layer.class_name in INERT_LAYERS:
        return layer.dtype not in ("string", "bool", "complex64", "complex128"), f"is {layer.dtype}"
    fix = "rebuild the model with the policy float32 and copy its weights with set_weights()"
    return layer.dtype == "float32", f"has the dtype policy {layer.dtype!r:.40}; {fix}"


def constraint_not_shared(layer: Layer) -> Verdict:
    """A layer with weights is used once"""
    shared = layer.calls > 1 and layer.class_name in WEIGHTED_LAYERS
    return not shared, f"is called {layer.calls} times; give each use a layer of its own"


def constraint_input_count(layer: Layer) -> Verdict:
    """Add and Concatenate take two or more tensors, every other layer takes one"""
    count = len(layer.inputs)
    if layer.class_name in ("Add", "Concatenate"):
        return count >= 2, f"takes {count}"
    return count == (layer.class_name != "InputLayer"), f"takes {count}"


# --- Rules on some layers' options ---


def constraint_channels_last(layer: Layer) -> Verdict:
    """data_format is channels_last"""
    found = layer.options.get("data_format", "channels_last")
    fix = "rebuild the model with data_format='channels_last' and transposed input"
    return found == "channels_last", f"is {found!r:.30}; {fix}"


def constraint_groups(layer: Layer) -> Verdict:
    """groups is 1"""
    groups = layer.options.get("groups", 1)
    return groups == 1, f"is {groups}; use DepthwiseConv2D, or separate convolutions joined"


def constraint_padding(layer: Layer) -> Verdict:
    """padding is same or valid (Conv1D and SeparableConv1D: or causal)"""
    causal = ("causal",) if layer.class_name in ("Conv1D", "SeparableConv1D") else ()
    found = layer.options.get("padding", "valid")
    return found in ("same", "valid", *causal), f"is {found!r:.30}"


def constraint_stride_or_dilation(layer: Layer) -> Verdict:
    """strides or dilation_rate is above 1, not both"""
    strides = layer.options.get("strides") or (1,)
    dilation = layer.options.get("dilation_rate", (1,))
    return max(strides) == 1 or max(dilation) == 1, f"has strides {strides}, dilation {dilation}"


def constraint_activation(layer: Layer) -> Verdict:
    """activation is linear, relu, relu6, leaky_relu, sigmoid, tanh or softmax"""
    spec = layer_activation(layer.class_name, layer.options)
    return spec.kind in ACTIVATIONS, f"is {spec.kind:.60}"


def constraint_relu(layer: Layer) -> Verdict:
    """ReLU has max_value None or 6 and threshold 0; negative_slope only without max_value"""
    spec = layer_activation(layer.class_name, layer.options)
    return spec.kind in ACTIVATIONS, f"is {spec.kind:.80}"


def constraint_not_inverted(layer: Layer) -> Verdict:
    """Normalization has invert False"""
    return not layer.options.get("invert", False), "is inverted"


# --- Rules that need shapes ---


def constraint_input_shape(layer: Layer, inputs: Sequence[Shape]) -> Verdict:
    """Its shape is complete and (features,), (time, channels) or (height, width, channels)"""
    shape = layer.options["shape"]
    if None in shape:
        return False, (
            f"has the open shape {shape}; microcontrollers need fixed sizes: rebuild the model "
            "with keras.Input(shape=…) in numbers and copy its weights with set_weights()"
        )
    return 1 <= len(shape) <= 3, f"has shape {shape}"


def constraint_rank_2d(layer: Layer, inputs: Sequence[Shape]) -> Verdict:
    """Its input is (height, width, channels)"""
    return len(inputs[0]) == 3, f"is {inputs[0]}"


def constraint_rank_1d(layer: Layer, inputs: Sequence[Shape]) -> Verdict:
    """Its input is (time, channels)"""
    return len(inputs[0]) == 2, f"is {inputs[0]}"


def constraint_channel_axis(layer: Layer, inputs: Sequence[Shape]) -> Verdict:
    """axis is the channel axis, the last one"""
    axis, last = layer.options.get("axis", (-1,)), len(inputs[0])
    return axis in ((-1,), (last,)), f"is {axis}; use axis=-1"


def constraint_normalization_axis(layer: Layer, inputs: Sequence[Shape]) -> Verdict:
    """Normalization is over the channel axis, or one mean and variance for all values"""
    axis = layer.options.get("axis", (-1,))
    return axis in (None, (), (-1,), (len(inputs[0]),)), f"has axis {axis}; use axis=-1 or None"


def constraint_constants(layer: Layer, inputs: Sequence[Shape]) -> Verdict:
    """Its constants are one number or one per channel, no variance negative"""
    negative = [value for value in layer.options.get("variance") or () if value < 0]
    if negative:
        return False, f"has the variance {negative[0]:g}"
    names = ("mean", "variance", "scale", "offset")
    sizes = {len(layer.options[name]) for name in names if layer.options.get(name) is not None}
    return sizes <= {1, inputs[0][-1]}, f"has {sorted(sizes)} of {inputs[0][-1]} channels"


def constraint_equal_shapes(layer: Layer, inputs: Sequence[Shape]) -> Verdict:
    """All tensors it adds have the same shape (no broadcasting)"""
    return len(set(inputs)) == 1, f"gets {', '.join(map(str, inputs))}"


def constraint_concatenate_shapes(layer: Layer, inputs: Sequence[Shape]) -> Verdict:
    """The tensors it joins differ in channels only"""
    return len({shape[:-1] for shape in inputs}) == 1, f"gets {', '.join(map(str, inputs))}"


def constraint_reshape(layer: Layer, inputs: Sequence[Shape]) -> Verdict:
    """target_shape has one to three extents and as many values as the input"""
    target = layer.options.get("target_shape", ())
    try:
        target_shape(target, math.prod(inputs[0]))
    except ValueError as fault:
        return False, f"cannot be done: {fault}"
    return 1 <= len(target) <= 3, f"is {target}"


def constraint_output_size(layer: Layer, inputs: Sequence[Shape]) -> Verdict:
    """Its output is not empty and has at most 16,777,216 values"""
    shape = output_shape(layer, inputs)
    fits = min(shape) > 0 and math.prod(shape) <= MAX_TENSOR_ELEMENTS
    return fits, f"has shape {shape}"


def constraint_softmax_size(layer: Layer, inputs: Sequence[Shape]) -> Verdict:
    """A softmax is of at most 511 values"""
    if activation_of(layer).kind != "softmax":
        return True, ""
    size = output_shape(layer, inputs)[-1]
    fix = "leave it out: the largest input is the largest output"
    return size <= MAX_SOFTMAX_SIZE, f"is of {size}, which int8 cannot tell apart; {fix}"


# --- Which rules hold for which layer ---

EVERY_LAYER: tuple[LayerRule, ...] = (
    constraint_known_class, constraint_well_formed, constraint_float32, constraint_input_count,
    constraint_not_shared,
)  # fmt: skip

_CONV: tuple[LayerRule, ...] = (
    constraint_channels_last, constraint_groups, constraint_padding, constraint_stride_or_dilation,
    constraint_activation,
)  # fmt: skip
_POOL: tuple[LayerRule, ...] = (constraint_channels_last, constraint_padding)
_GLOBAL_POOL: tuple[LayerRule, ...] = (constraint_channels_last,)
_1D: tuple[ShapeRule, ...] = (constraint_rank_1d, constraint_output_size)
_2D: tuple[ShapeRule, ...] = (constraint_rank_2d, constraint_output_size)
_CONV_1D, _CONV_2D = (*_1D, constraint_softmax_size), (*_2D, constraint_softmax_size)

RULES: dict[str, tuple[tuple[LayerRule, ...], tuple[ShapeRule, ...]]] = {
    "InputLayer": ((), (constraint_input_shape, constraint_output_size)),
    "Conv1D": (_CONV, _CONV_1D),
    "Conv2D": (_CONV, _CONV_2D),
    "DepthwiseConv1D": (_CONV, _CONV_1D),
    "DepthwiseConv2D": (_CONV, _CONV_2D),
    "SeparableConv1D": (_CONV, _CONV_1D),
    "SeparableConv2D": (_CONV, _CONV_2D),
    "Dense": ((constraint_activation,), (constraint_output_size, constraint_softmax_size)),
    "BatchNormalization": ((), (constraint_channel_axis,)),
    "Activation": ((constraint_activation,), (constraint_softmax_size,)),
    "ReLU": ((constraint_relu,), ()),
    "LeakyReLU": ((), ()),
    "Softmax": ((), (constraint_channel_axis, constraint_softmax_size)),
    "Add": ((), (constraint_equal_shapes,)),
    "Concatenate": (
        (), (constraint_channel_axis, constraint_concatenate_shapes, constraint_output_size),
    ),
    "MaxPooling1D": (_POOL, _1D),
    "MaxPooling2D": (_POOL, _2D),
    "AveragePooling1D": (_POOL, _1D),
    "AveragePooling2D": (_POOL, _2D),
    "GlobalMaxPooling1D": (_GLOBAL_POOL, _1D),
    "GlobalMaxPooling2D": (_GLOBAL_POOL, _2D),
    "GlobalAveragePooling1D": (_GLOBAL_POOL, _1D),
    "GlobalAveragePooling2D": (_GLOBAL_POOL, _2D),
    "Flatten": ((constraint_channels_last,), ()),
    "Reshape": ((), (constraint_reshape,)),
    "ZeroPadding1D": ((constraint_channels_last,), _1D),
    "ZeroPadding2D": ((constraint_channels_last,), _2D),
    "Rescaling": ((), (constraint_constants,)),
    "Normalization": (
        (constraint_not_inverted,), (constraint_normalization_axis, constraint_constants),
    ),
}  # fmt: skip


# --- Rules on the whole network ---


def network_constraint_one_input(network: Network) -> list[str]:
    """The network has one input and one output"""
    faults = []
    for what, names in (("input", network.inputs), ("output", network.outputs)):
        if len(names) != 1:
            listed = ", ".join(names[:8])
            faults.append(f"the network has {len(names)} {what}s ({listed}); one is supported")
    return faults


def network_constraint_softmax_last(network: Network) -> list[str]:
    """Softmax is the last layer (only Reshape, Flatten and Dropout may follow)"""
    shaping = ("Reshape", "Flatten", "Activation", *INERT_LAYERS)
    faults = []
    for layer in network.layers:
        if layer_activation(layer.class_name, layer.options).kind != "softmax":
            continue
        for consumer in network.consumers(layer.name):
            linear = layer_activation(consumer.class_name, consumer.options).kind == "linear"
            if consumer.class_name not in shaping or not linear:
                faults.append(
                    f"{layer.name} ({layer.class_name}): softmax feeds {consumer.name}; it is "
                    "supported as the last layer only"
                )
    return faults


def network_constraint_has_weights(network: Network) -> list[str]:
    """The network has at least one convolution or dense layer"""
    linear = [
        layer
        for layer in network.layers
        if "Conv" in layer.class_name or layer.class_name == "Dense"
    ]
    return [] if linear else ["the network has no convolution and no dense layer"]


NETWORK_RULES = (
    network_constraint_one_input, network_constraint_softmax_last, network_constraint_has_weights,
)  # fmt: skip


def explain(layer: Layer, inputs: Sequence[Shape] | None) -> str | None:
    """Why redsc cannot take this layer, or None. Unknown input shapes skip the rules on shapes."""
    layer_rules, shape_rules = RULES.get(layer.class_name, ((), ()))
    for rule in (*EVERY_LAYER, *layer_rules):
        holds, found = rule(layer)
        if not holds:
            return _sentence(rule, found)
    for shape_rule in shape_rules if inputs is not None else ():
        holds, found = shape_rule(layer, inputs or ())
        if not holds:
            return _sentence(shape_rule, found)
    return None


def _sentence(rule: Callable[..., Verdict], found: str) -> str:
    if rule in (constraint_known_class, constraint_well_formed):
        return found
    return f"{rule.__doc__}; here it {found}"


def unsupported(network: Network) -> list[str]:
    """Every reason to refuse a network, one line each: 'name (Class): reason'."""
    shapes: dict[str, Shape] = {}
    reasons = [fault for rule in NETWORK_RULES for fault in rule(network)]
    for layer in network.layers:
        known = all(name in shapes for name in layer.inputs)
        inputs = [shapes[name] for name in layer.inputs] if known else None
        reason = explain(layer, inputs)
        if reason is not None:
            reasons.append(f"{layer.name} ({layer.class_name}): {reason}")
        elif inputs is not None:
            shapes[layer.name] = output_shape(layer, inputs)
    return reasons


def check(network: Network, where: str) -> None:
    """ModelError listing everything that is not supported, and what is."""
    reasons = unsupported(network)
    if reasons:
        listed = "\n".join(f"  - {reason}" for reason in reasons)
        raise ModelError(
            f"{where}: redsc cannot compile this model:\n{listed}\n"
            f"Supported layers: {', '.join(RULES)}.\n"
            f"Dropped, for they do nothing in inference: {', '.join(INERT_LAYERS)}.\n"
            f"Activations: {', '.join(ACTIVATIONS)}. Details: SUPPORTED_OPS.md"
        )


def activation_of(layer: Layer) -> ActivationSpec:
    """The activation a supported layer ends in."""
    return layer_activation(layer.class_name, layer.options)


def markdown() -> str:
    """SUPPORTED_OPS.md."""
    lines = [
        "# Supported Keras layers", "",
        "Generated from the rules that check a model: `python -m redsc.support`.",
        "Everything a model breaks is reported at once, layer by layer, with the rule.", "",
        "## Every network", "",
        *(f"- {rule.__doc__}" for rule in NETWORK_RULES), "",
        "## Every layer", "",
        *(f"- {rule.__doc__}" for rule in EVERY_LAYER), "",
        "## Layer by layer", "",
        "| layer | rules |", "|---|---|",
    ]  # fmt: skip
    for name, (layer_rules, shape_rules) in RULES.items():
        sentences = [str(rule.__doc__) for rule in (*layer_rules, *shape_rules)]
        lines.append(f"| {name} | {'<br>'.join(sentences) or 'no further rule'} |")
    inert = ", ".join(INERT_LAYERS)
    lines += ["", "## Dropped, because they do nothing in inference", "", f"{inert}.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown(), end="")
