"""The float network: strides, dilation and padding against a direct sum, gradients included."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from redsc import ir, tf_network


def direct(op: ir.Conv2D | ir.DepthwiseConv2D, x: np.ndarray) -> np.ndarray:
    """kernel · x of one sample by the definition of TFLite's windows."""
    shape = ir.shapes(ir.Graph("g", (ir.Input("input", (), x.shape), op), op.name))[op.name]
    result = np.zeros(shape)
    before = [
        ir.padding_before(x.shape[i], op.kernel.shape[i], op.strides[i], op.dilation[i], op.padding)
        for i in (0, 1)
    ]
    for row, column in np.ndindex(*shape[:2]):
        for i, j in np.ndindex(*op.kernel.shape[:2]):
            y = row * op.strides[0] - before[0] + i * op.dilation[0]
            z = column * op.strides[1] - before[1] + j * op.dilation[1]
            if 0 <= y < x.shape[0] and 0 <= z < x.shape[1]:
                if isinstance(op, ir.Conv2D):
                    result[row, column] += x[y, z] @ op.kernel[i, j]
                else:
                    result[row, column] += (x[y, z][:, None] * op.kernel[i, j]).reshape(-1)
    return result


CASES = [
    case
    for case in itertools.product(
        (ir.Conv2D, ir.DepthwiseConv2D),
        ((1, 1), (2, 2), (2, 1), (1, 3)),
        ((1, 1), (2, 2), (1, 3)),
        ("same", "valid"),
    )
    if max(case[1]) == 1 or max(case[2]) == 1  # Keras has no layer with stride and dilation
]


@pytest.mark.parametrize(("kind", "strides", "dilation", "padding"), CASES)
def test_windows_and_their_gradients(kind: type, strides, dilation, padding: ir.Padding) -> None:
    tf = tf_network.tensorflow()
    rng = np.random.default_rng(0)
    kernel = ir.read_only(rng.normal(size=(3, 2, 3, 2)))
    op = kind("op", ("input",), kernel, strides=strides, dilation=dilation, padding=padding)
    x = rng.normal(size=(9, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(tf_network.linear(op, x[None])[0], direct(op, x), atol=1e-5)

    batch, weights = tf.Variable(x[None]), tf.Variable(kernel)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf_network.linear(op, batch, weights) ** 2)
    by_input, by_kernel = tape.gradient(loss, (batch, weights))
    assert float(tf.reduce_sum(tf.abs(by_input))) > 0
    # y is linear in x and in the kernel, so Euler's theorem gives both sums
    for gradient, variable in ((by_input, batch), (by_kernel, weights)):
        total = float(tf.reduce_sum(gradient * variable))
        assert total == pytest.approx(2 * float(loss), rel=1e-4)
