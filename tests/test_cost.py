import graphs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redsc import cost, ir, latency
from redsc.groups import find_groups, prefixes, select_units


@pytest.mark.parametrize(
    ("graph", "macs", "parameters"),
    [
        # MLPerf Tiny quotes 2.66 M, 7.49 M, 12.5 M and 0.264 M; layers counted by hand.
        (graphs.ds_cnn(), 64 * 125 * (40 + 4 * (9 + 64)) + 64 * 12, None),
        (graphs.autoencoder(), 264_192, 264_192 + 4 * (8 * 128 + 8) + 640),
        (graphs.mobilenet_v1(), 7_489_664, None),
        (graphs.resnet(), 12_501_632, None),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_reference_networks(graph, macs, parameters):
    assert cost.macs(graph) == macs
    if parameters is not None:
        assert cost.parameters(graph) == parameters


def test_op_macs_count_padding_in_full_and_follow_strides():
    net = graphs.GraphBuilder("net", (5, 6, 3))
    net.conv(4, (3, 3), (2, 2))  # 3 x 3 outputs
    net.depthwise(2, (3, 3), padding="valid")  # 1 x 1 outputs of 8 channels
    net.flatten()
    net.dense(7)
    by_op = list(cost.op_macs(net.graph()).values())
    assert by_op == [3 * 3 * 3 * 3 * 3 * 4, 9 * 8, 8 * 7]
    assert cost.table_bytes(net.graph()) == 9 * (4 + 8 + 7)
    assert cost.weights_bytes(net.graph()) == 27 * 4 + 9 * 8 + 56


def test_peak_counts_what_a_skip_keeps_alive():
    net = graphs.GraphBuilder("net", (4, 4, 1))
    skip = net.conv(8)  # 128 bytes, alive until the add
    net.conv(16)  # 256
    body = net.conv(8)  # 128
    net.add(skip, body)
    net.max_pool()
    assert cost.peak_activation_bytes(net.graph()) == 128 + 256 + 128


def test_reshape_is_free_and_keeps_its_source_alive():
    net = graphs.GraphBuilder("net", (4, 4, 2))
    net.conv(4)  # 64 bytes
    flat = net.flatten()
    net.dense(10)
    graph = net.graph()
    assert flat not in cost.live_tensors(graph)
    assert cost.storage(graph)[flat] == graph.ops[1].name
    assert cost.peak_activation_bytes(graph) == 32 + 64
    assert cost.live_tensors(graph)[graph.output] == (graph.ops[1].name, graph.output)


def test_output_stays_alive_to_the_end():
    net = graphs.GraphBuilder("net", (4, 4, 1))
    output = net.conv(4)
    net.conv(2)
    assert cost.lifetimes(net.graph(output))[output] == (1, 2)


@settings(deadline=None)
@given(graphs.random_graphs(), st.data())
def test_cost_model_equals_the_cost_of_the_sliced_graph(graph, data):
    grouping = find_groups(graph)
    target = latency.target("nano33ble")
    model = cost.cost_model(graph, grouping, target)
    widths = {
        name: group.units if group.fixed else data.draw(st.integers(1, group.units))
        for name, group in grouping.groups.items()
    }
    sliced = select_units(graph, grouping, prefixes(widths))
    ir.check(sliced, lowered=True)
    assert model.macs(widths) == cost.macs(sliced)
    assert model.weights_bytes(widths) == cost.weights_bytes(sliced)
    assert model.table_bytes(widths) == cost.table_bytes(sliced)
    assert model.peak_activation_bytes(widths) == cost.peak_activation_bytes(sliced)
    assert model.latency_ps(widths) == latency.latency_ps(graph, sliced, target)


@given(graphs.random_graphs())
def test_peak_is_the_brute_force_maximum(graph):
    """Walks the ops with a set of tensors in memory, dropping each after its last reader."""
    sizes = {name: int(np.prod(shape)) for name, shape in ir.shapes(graph).items()}
    in_memory, peak = {graph.input.name}, 0
    for position, op in enumerate(graph.ops[1:], start=1):
        if not isinstance(op, ir.Reshape):
            peak = max(peak, sum(sizes[name] for name in in_memory | {op.name}))
            in_memory.add(op.name)
        in_memory = {
            name
            for name in in_memory
            if _is_read(graph, name, position) or _views(graph, graph.output, name)
        }
    assert cost.peak_activation_bytes(graph) == max(peak, sizes[graph.input.name])


def _views(graph, name, root):
    while isinstance(graph[name], ir.Reshape):
        name = graph[name].inputs[0]
    return name == root


def _is_read(graph, root, after):
    return any(_views(graph, name, root) for op in graph.ops[after + 1 :] for name in op.inputs)
