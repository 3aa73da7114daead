"""Sigmoids joined with other tensors must not clip them."""

from __future__ import annotations

import graphs as reference
import numpy as np
import pytest
from test_quantize import inputs, quantized, sqnr_db

from redsc import ir, oracle, passes, quantize, tf_network, tflite


def joined(kind: type[ir.Op]) -> ir.Graph:
    net = reference.GraphBuilder("joined", (6, 6, 3))
    gate = net.append(kind("gate", (net.conv(4),)))
    pooled = net.max_pool()
    wide = net.conv(5, strides=(2, 2), source="input", activation=ir.Activation.NONE)
    net.concatenate(pooled, wide)
    net.conv(4)
    net.global_average()
    net.dense(3)
    assert gate
    return net.graph()


@pytest.mark.parametrize("kind", [ir.Logistic, ir.Tanh])
def test_the_joined_tensor_keeps_its_range(kind: type[ir.Op]) -> None:
    graph = joined(kind)
    lowered = passes.lower(graph)
    x = inputs(graph, 8)
    np.testing.assert_allclose(
        tf_network.predict(lowered, x), tf_network.predict(graph, x), rtol=1e-5, atol=1e-6
    )
    network = quantized(lowered, x, (1.0,))
    level = network.levels[0]
    assert level.tensors["concatenate_5"].scale > 1 / 128
    if oracle.available():
        output, _ = oracle.run(tflite.write(level), quantize.quantize_input(network, x))
        back = quantize.dequantize_array(output, level.tensors[graph.output])
        assert sqnr_db(tf_network.predict(lowered, x), back) > 20


def test_tensors_of_one_prescribed_scale_need_nothing() -> None:
    net = reference.GraphBuilder("gates", (4, 4, 3))
    gates = [net.append(ir.Logistic(f"gate_{i}", (net.conv(4, source="input"),))) for i in (0, 1)]
    net.concatenate(*gates)
    net.conv(4)
    graph = net.graph()
    assert len(passes.lower(graph).ops) == len(graph.ops)
