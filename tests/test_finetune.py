"""Training of all levels over shared kernels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from redsc import (
    calibrate,
    data,
    distribution,
    finetune,
    groups,
    importance,
    ir,
    loss,
    quantize,
    recipe,
    training,
)
from redsc.errors import UsageError
from redsc.level_network import LevelNetwork, SharedKernels
from redsc.recipe import Options
from redsc.tf_network import forward, predict
from redsc.trainer import Scores, Trainer, levels_of_step, standard_error
from tests import graphs


def depthwise() -> ir.Graph:
    return graphs.ds_cnn(8, 1, (8, 6, 1), 3)


def mixed() -> ir.Graph:
    """Residual, concatenation, depthwise multiplier, flatten, layers with and without norm."""
    net = graphs.GraphBuilder("mixed", (6, 6, 2))
    skip = net.conv(4)
    skip = net.add(skip, net.conv(4, activation=ir.Activation.NONE))
    left, right = net.conv(3, (1, 1), source=skip, norm=False), net.depthwise(2, source=skip)
    net.concatenate(left, right)
    net.max_pool()
    net.flatten()
    net.dense(6)
    net.dense(3, activation=ir.Activation.NONE)
    net.softmax()
    return net.graph()


def task_data(shape: ir.Shape, classes: int = 3, distance: float = 1.0) -> data.Data:
    """Classes that differ in mean: easy to learn, so that training must help."""
    rng, samples = np.random.default_rng(0), 160
    centres = distance * rng.normal(size=(classes, *shape))
    y = rng.integers(0, classes, samples)
    x = (centres[y] + rng.normal(size=(samples, *shape))).astype(np.float32)
    cut = samples * 3 // 4
    train, held = data.Split(x[:cut], y[:cut]), data.Split(x[cut:], y[cut:])
    return data.Data("classification", train, held, None)


def score(level: ir.Graph, split: data.Split, task: data.Task) -> float:
    return loss.score(predict(level, split.x), split.y, level, task)


def level_widths(graph: ir.Graph, shares=(0.5, 1.0)):
    grouping = groups.find_groups(graph)
    return grouping, [
        {
            name: group.units if group.fixed else max(1, round(share * group.units))
            for name, group in grouping.groups.items()
        }
        for share in shares
    ]


def assert_nested(levels, widths):
    grouping = groups.find_groups(levels[-1])
    for level, chosen in zip(levels, widths, strict=True):
        ir.check(level, lowered=True)
        wanted = groups.select_units(levels[-1], grouping, groups.prefixes(chosen))
        for op, slice_ in zip(level.linear_ops, wanted.linear_ops, strict=True):
            assert np.array_equal(op.kernel, slice_.kernel), op.name


def assert_same_arrays(level: ir.Graph, other: ir.Graph) -> None:
    for op, same in zip(level.linear_ops, other.linear_ops, strict=True):
        assert np.array_equal(op.kernel, same.kernel)
        for name in ("gamma", "beta", "mean", "variance"):
            assert np.array_equal(getattr(op.norm, name), getattr(same.norm, name))


@pytest.mark.slow
@pytest.mark.parametrize("build", [depthwise, mixed], ids=lambda build: build.__name__)
def test_levels_share_kernels_bit_for_bit_and_learn(build):
    graph = build()
    dataset = task_data(graph.input.shape)
    grouping, widths = level_widths(graph)
    before = finetune.finetune(graph, grouping, widths, dataset, Options(epochs=0))
    lines = []
    after = finetune.finetune(
        graph,
        grouping,
        widths,
        dataset,
        Options(epochs=5, learning_rate=1e-2, distillation=0.2, batch_size=8),
        lambda *line: lines.append(line),
    )
    assert_nested(after, widths)
    assert [(epoch, epochs) for epoch, epochs, _ in lines] == [(e + 1, 5) for e in range(5)]
    for old, new in zip(before, after, strict=True):
        learnt = score(new, dataset.train, "classification")
        assert learnt > 0.75
        assert learnt > score(old, dataset.train, "classification")
    for level in after:
        for op, given in zip(level.linear_ops, graph.linear_ops, strict=True):
            assert op.bias is None
            if given.norm is None:  # a free scale and shift
                assert op.norm.epsilon == 0
                assert np.all(op.norm.mean == 0)
                assert np.all(op.norm.variance == 1)
            else:
                assert op.norm.epsilon == given.norm.epsilon
    narrow, full = after[0].linear_ops[0].norm, after[1].linear_ops[0].norm
    assert not np.array_equal(narrow.beta, full.beta[: len(narrow.beta)])


def test_no_epochs_re_estimate_batch_norm_alone():
    graph = depthwise()
    dataset = task_data(graph.input.shape)
    grouping, widths = level_widths(graph)
    narrow, full = finetune.finetune(graph, grouping, widths, dataset, Options(epochs=0))
    assert full is graph
    sliced = groups.select_units(graph, grouping, groups.prefixes(widths[0]))
    x, _ = dataset.train.sample(512, 0)
    wanted = calibrate.recalibrate_norms(sliced, x)
    for op, other in zip(narrow.linear_ops, wanted.linear_ops, strict=True):
        assert np.array_equal(op.kernel, other.kernel)
        if op.norm is not None:
            assert np.array_equal(op.norm.variance, other.norm.variance)


@pytest.mark.slow
def test_a_top_level_narrower_than_the_network_is_the_store():
    graph = mixed()
    grouping, widths = level_widths(graph, (0.4, 0.7))
    levels = finetune.finetune(
        graph, grouping, widths, task_data(graph.input.shape), Options(epochs=1)
    )
    assert_nested(levels, widths)
    top = groups.select_units(graph, grouping, groups.prefixes(widths[-1]))
    assert [op.kernel.shape for op in levels[-1].linear_ops] == [
        op.kernel.shape for op in top.linear_ops
    ]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_levels():
    graph = depthwise()
    dataset = task_data(graph.input.shape)
    grouping, widths = level_widths(graph)

    def trained(seed):
        options = Options(epochs=1, seed=seed, int8_from=1.0)
        return finetune.finetune(graph, grouping, widths, dataset, options)

    first, again, other = trained(1), trained(1), trained(2)
    for level, same in zip(first, again, strict=True):
        for op, twin in zip(level.linear_ops, same.linear_ops, strict=True):
            assert np.array_equal(op.kernel, twin.kernel)
            assert np.array_equal(op.norm.variance, twin.norm.variance)
    assert not np.array_equal(first[1].linear_ops[0].kernel, other[1].linear_ops[0].kernel)


@pytest.mark.slow
def test_an_autoencoder_and_a_single_logit_train_too():
    graph = graphs.autoencoder(12, 8, 3)
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(128, 2)) @ rng.normal(size=(2, 12))).astype(np.float32)
    train, held = data.Split(x[:96], x[:96]), data.Split(x[96:], x[96:])
    dataset = data.Data("reconstruction", train, held, None)
    grouping, widths = level_widths(graph)
    options = Options(epochs=5, learning_rate=1e-2, distillation=0.0, batch_size=8, int8_from=1.0)
    levels = finetune.finetune(graph, grouping, widths, dataset, options)
    errors = [score(level, dataset.train, "reconstruction") for level in (graph, *levels)]
    assert max(errors[1:]) < errors[0]
    net = graphs.GraphBuilder("binary", (4,))
    net.dense(6)
    net.dense(1, activation=ir.Activation.NONE)
    net.append(ir.Logistic("probability", (net.last,)))
    graph = net.graph()
    dataset = task_data((4,), classes=2, distance=3.0)
    grouping, widths = level_widths(graph)
    options = Options(epochs=10, learning_rate=2e-2, distillation=0.0, batch_size=8, int8_from=1.0)
    for level in finetune.finetune(graph, grouping, widths, dataset, options):
        assert score(level, dataset.train, "classification") > 0.8


@pytest.mark.slow
def test_a_level_without_weight_learns_no_norm_of_its_own():
    graph = depthwise()
    grouping, widths = level_widths(graph)
    given = task_data(graph.input.shape)
    options = Options(epochs=1, int8_from=1, loss_weights=(0.0, 1.0))
    narrow, wide = finetune.finetune(graph, grouping, widths, given, options)
    start = groups.select_units(graph, grouping, groups.prefixes(widths[0]))

    def moved(trained, before):
        gammas = [op.norm.gamma for op in before.linear_ops if op.norm is not None]
        after = [trained[op.name].norm.gamma for op in before.linear_ops if op.norm is not None]
        return max(np.abs(a - b).max() for a, b in zip(after, gammas, strict=True))

    assert moved(narrow, start) == 0
    assert moved(wide, graph) > 1e-4


@pytest.mark.slow
def test_streamed_data_trains(monkeypatch):
    monkeypatch.setattr(training, "STREAM_STEPS", 5)
    graph = depthwise()
    dataset = task_data(graph.input.shape)
    split = dataset.train
    passes = []

    def stream(generator):
        passes.append(1)
        return zip(split.x, split.y, strict=True)

    dataset = replace(dataset, train=data.Split(split.x[:40], split.y[:40], stream))
    grouping, widths = level_widths(graph)
    levels = finetune.finetune(graph, grouping, widths, dataset, Options(epochs=2))
    assert_nested(levels, widths)
    assert len(passes) == 4  # 10 batches of 32, 3 of them in a pass over 120 samples


@pytest.mark.slow
def test_divergence_keeps_the_last_good_state_and_advises():
    graph = depthwise()
    dataset = task_data(graph.input.shape)
    bad = data.Split(np.full_like(dataset.train.x, np.inf), dataset.train.y)
    grouping, widths = level_widths(graph)
    warnings: list[str] = []
    probe = replace(dataset, train=bad)
    levels = finetune.finetune(
        graph, grouping, [widths[1]], probe, Options(epochs=3), warnings=warnings
    )
    assert levels == (graph,)
    assert "diverged" in warnings[0]
    assert "fewer --epochs" in warnings[0]


@pytest.mark.slow
def test_a_divergence_after_good_epochs_keeps_the_best_levels_before_it(monkeypatch):
    graph = depthwise()
    grouping, widths = level_widths(graph)
    run_epoch, good = Trainer.run_epoch, []

    def diverges(self, epoch, quantized):
        if epoch < 2:
            return run_epoch(self, epoch, quantized)
        good.extend(self.graphs())
        for kernel in self.kernels.variables:
            kernel.assign(np.full_like(kernel, np.nan))
        return np.nan

    monkeypatch.setattr(Trainer, "run_epoch", diverges)
    warnings: list[str] = []
    levels = finetune.finetune(
        graph, grouping, widths, task_data(graph.input.shape),
        Options(epochs=4, learning_rate=1e-2, distillation=0.0, batch_size=8),
        warnings=warnings,
    )  # fmt: skip
    assert "in epoch 3 of 4, the best levels before it are kept" in warnings[0]
    for level, wanted in zip(levels, good, strict=True):
        assert_same_arrays(level, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("known", [0.0, 1.0])
def test_a_widest_level_that_forgot_is_told(monkeypatch, known):
    graph = depthwise()
    grouping, widths = level_widths(graph)
    monkeypatch.setattr(Trainer, "scores_of_original", (0.0, known))
    warnings: list[str] = []
    finetune.finetune(
        graph,
        grouping,
        widths,
        task_data(graph.input.shape),
        Options(epochs=1, learning_rate=1e-9),  # does not learn
        warnings=warnings,
    )
    if known:
        assert "the network as given for 100.00%: these samples may teach less" in warnings[0]
    else:
        assert not warnings


@pytest.mark.slow
def test_a_worse_reconstruction_is_told():
    graph = graphs.autoencoder(12, 8, 3)
    x = np.random.default_rng(0).normal(size=(160, *graph.input.shape)).astype(np.float32)
    y = predict(graph, x)  # what it knows perfectly
    train, held = data.Split(x[:120], y[:120]), data.Split(x[120:], y[120:])
    dataset = data.Data("regression", train, held, None)
    grouping, widths = level_widths(graph)
    warnings: list[str] = []
    options = Options(epochs=1, learning_rate=0.3, warmup_steps=0, seed=0)
    finetune.finetune(graph, grouping, widths, dataset, options, warnings=warnings)
    assert "mean squared error" in warnings[0]
    assert "the network as given of" in warnings[0]


@pytest.mark.slow
def test_training_ends_early_without_improvement(monkeypatch):
    graph = depthwise()
    grouping, widths = level_widths(graph)
    seen = []
    shares = iter([0.5, 0.9, 0.86, 0.7, 0.9, 0.7, 0.7, 0.9])

    def validate(self, quantized):
        share = next(shares)
        return Scores((1 - share,) * 2, (share,) * 2, "classification", (1.0, 1.0), samples=40)

    monkeypatch.setattr(Trainer, "validate", validate)
    options = Options(epochs=12, learning_rate=0.0, int8_from=1.0, patience=2)
    finetune.finetune(
        graph, grouping, widths, task_data(graph.input.shape), options, lambda *a: seen.append(a)
    )
    assert len(seen) == 7  # 0.86 and 0.9 are near the highest, then two are not


def test_scores_are_near_within_a_standard_error():
    def scores(share, loss=0.5, task="classification"):
        return Scores((loss,), (share,), task, (1.0,), samples=100)

    assert standard_error(0.9, 10**6) == pytest.approx(0.0003, rel=1e-2)
    assert standard_error(1.0, 98) == pytest.approx(0.01, rel=0.01)
    assert scores(0.88, loss=0.9).is_near(scores(0.9).key)
    assert not scores(0.85, loss=0.1).is_near(scores(0.9).key)
    # An error has no such margin.
    assert not scores(0.0, loss=0.5001, task="regression").is_near(
        scores(0.0, 0.5, "regression").key
    )
    assert scores(0.0, loss=0.5, task="regression").is_near(scores(0.0, 0.5, "regression").key)


class Stopped(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, True])
def test_an_interrupted_training_resumes_with_the_same_result(tmp_path, monkeypatch, streamed):
    monkeypatch.setattr(finetune, "_CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(training, "STREAM_STEPS", 3)
    graph = depthwise()
    grouping, widths = level_widths(graph)
    dataset = task_data(graph.input.shape)
    if streamed:
        split = dataset.train
        stream = data.Split(split.x, split.y, lambda _: zip(split.x, split.y, strict=True))
        dataset = replace(dataset, train=stream)
    options = Options(epochs=4, int8_from=0.5, learning_rate=1e-2)

    def run(stop_after=None, folder=tmp_path, **changes):
        seen = []

        def progress(epoch, epochs, text):
            seen.append(text)
            if epoch == stop_after:
                raise Stopped

        levels = finetune.finetune(
            graph, grouping, widths, dataset, replace(options, **changes), progress, folder=folder
        )
        return levels, seen

    whole, lines = run(folder=None)
    for stop in (2, 4):  # the third epoch is the first after the stop
        with pytest.raises(Stopped):
            run(stop)
    resumed, rest = run()
    assert rest == lines[3:]
    for level, twin in zip(whole, resumed, strict=True):
        assert_same_arrays(level, twin)
    _, other = run(seed=1)  # another training does not take it up
    assert len(other) == 4
    for file in tmp_path.iterdir():
        file.write_bytes(b"not a checkpoint")
    _, anew = run()
    assert anew == lines


@pytest.mark.parametrize("tables", ["multipliers", "everything"])
@pytest.mark.parametrize("epochs", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_levels_share_what_their_tables_share(tables, epochs):
    graph = mixed()
    grouping, widths = level_widths(graph, (0.5, 0.75, 1.0))
    dataset = task_data(graph.input.shape)
    options = Options(epochs=epochs, tables=tables, learning_rate=1e-2, batch_size=16)
    levels = finetune.finetune(graph, grouping, widths, dataset, options)
    assert_nested(levels, widths)
    store = groups.find_groups(levels[-1])
    for level, chosen in zip(levels[:-1], widths[:-1], strict=True):
        wide = groups.select_units(levels[-1], store, groups.prefixes(chosen))
        own = []
        for op, of_widest in zip(level.linear_ops, wide.linear_ops, strict=True):
            assert np.array_equal(op.scale, of_widest.scale), op.name
            own.append(not np.array_equal(op.offset, of_widest.offset))
        assert any(own) == (tables == "multipliers")


@pytest.mark.slow
def test_class_weights_and_hints_change_what_is_learnt():
    graph = depthwise()
    grouping, widths = level_widths(graph)
    dataset = task_data(graph.input.shape, distance=0.3)

    def predicted(**options):
        (*_, full) = finetune.finetune(
            graph, grouping, widths, dataset,
            Options(epochs=4, learning_rate=1e-2, distillation=0.0, batch_size=16, **options),
        )  # fmt: skip
        return loss.predictions(predict(full, dataset.train.x), full)

    # They count for what the teacher says, too, which may be all that is learnt from.
    weighted = (0.1, 1.45, 1.45)
    taught, plain = (
        finetune.finetune(
            graph, grouping, widths, dataset,
            Options(epochs=1, distillation=1.0, batch_size=16, class_weights=weights),
        )
        for weights in (weighted, None)
    )  # fmt: skip
    kernels = [level[0].linear_ops[0].kernel for level in (taught, plain)]
    assert not np.array_equal(*kernels)
    heavy = predicted(class_weights=(2.8, 0.1, 0.1))
    light = predicted(class_weights=weighted)
    assert np.mean(heavy == 0) > np.mean(light == 0) + 0.2
    levels = [
        finetune.finetune(
            graph, grouping, widths, dataset,
            Options(epochs=3, learning_rate=1e-2, hints=weight, teacher="original"),
        )
        for weight in (0.0, 30.0)
    ]  # fmt: skip

    def distance(level):
        name = graph.linear_ops[-1].inputs[0]
        ours, theirs = (forward(g, dataset.train.x)[name].numpy() for g in (level, graph))
        return np.mean((ours - theirs[..., : ours.shape[-1]]) ** 2)

    plain, hinted = (distance(trained[0]) for trained in levels)
    assert hinted < plain


ALL_FROM_THE_TEACHER = {
    "batch_size": 16, "mixing": False, "teacher": "full", "distillation": 1.0, "warmup_steps": 0
}  # fmt: skip
"""Nothing is learnt without one."""


@pytest.mark.slow
def test_the_widest_level_learns_from_labels_alone_once_it_is_better_than_its_teacher(tmp_path):
    graph = depthwise()
    dataset = task_data(graph.input.shape)

    def kernel_after_an_epoch(loss_of_widest: float, file: Path | None = None) -> np.ndarray:
        trained = trainer(graph, dataset, epochs=2, **ALL_FROM_THE_TEACHER)
        trained.compare_with_teacher(loss_of_widest)
        assert trained.outgrown == (loss_of_widest == 0)
        if file is not None:  # what is known of that is known again after an interruption
            finetune._Run(epoch=0).save(file, trained)
            trained.outgrown = False
            finetune._Run.resume(file, trained)
        trained.run_epoch(0, False)
        return trained.graphs()[-1].linear_ops[0].kernel

    taught, alone = kernel_after_an_epoch(1e9), kernel_after_an_epoch(0.0)
    assert not np.allclose(taught, alone, atol=1e-4)
    assert np.array_equal(kernel_after_an_epoch(0.0, tmp_path / "run.npz"), alone)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("epochs", "teacher", "loss_of_original", "outgrown"),
    [
        (1, "full", 1e9, True),
        (1, "full", 0.0, False),
        (1, "original", 1e9, False),
        (5, "full", 1e9, False),
    ],
)
def test_within_a_long_epoch_the_widest_level_may_outgrow_its_teacher(
    epochs, teacher, loss_of_original, outgrown
):
    graph = depthwise()
    dataset = task_data(graph.input.shape)

    def after_an_epoch(loss_of_teacher: float) -> Trainer:
        options = {**ALL_FROM_THE_TEACHER, "teacher": teacher}
        trained = trainer(graph, dataset, epochs=epochs, **options)
        trained.scores_of_original = (loss_of_teacher, 0.0)
        trained.run_epoch(0, False)
        return trained

    compared, taught = after_an_epoch(loss_of_original), after_an_epoch(0.0)
    assert compared.outgrown == outgrown
    ours, theirs = (each.graphs()[-1].linear_ops[0].kernel for each in (compared, taught))
    assert np.array_equal(ours, theirs) != outgrown


def test_weights_that_are_not_one_per_level_are_refused():
    graph = depthwise()
    grouping, widths = level_widths(graph)
    with pytest.raises(UsageError, match="3 weights for 2 levels"):
        finetune.finetune(
            graph, grouping, widths, task_data(graph.input.shape), Options(loss_weights=(1, 1, 1))
        )


@pytest.mark.parametrize("count", range(1, 11))
def test_every_level_is_trained_and_both_ends_in_every_step(count):
    steps = [levels_of_step(number, count) for number in range(8)]
    assert set(sum(steps, ())) == set(range(count))
    for levels in steps:
        assert levels[0] == count - 1
        assert levels[-1] == 0
        assert list(levels) == sorted(set(levels), reverse=True)
        assert len(levels) <= 4


@pytest.mark.parametrize("build", [depthwise, mixed], ids=lambda build: build.__name__)
def test_rounded_kernels_are_those_of_the_int8_store(build):
    """The scale is the full-width kernel's, for every level, also of depthwise kernels."""
    graph = build()
    grouping, widths = level_widths(graph)
    narrow = groups.select_units(graph, grouping, groups.prefixes(widths[0]))
    x = task_data(graph.input.shape).train.x
    store = quantize.quantize(
        graph,
        grouping,
        [
            quantize.FloatLevel(p, w, g, calibrate.activation_ranges(g, x))
            for p, w, g in zip((50, 100), widths, (narrow, graph), strict=True)
        ],
    )
    rounded = SharedKernels(graph).read(quantized=True)
    for op in graph.linear_ops:
        kernel, axes = (
            rounded[op.name].numpy(),
            {
                ir.Conv2D: (3, 0, 1, 2),
                ir.DepthwiseConv2D: (0, 1, 2, 3),
                ir.Dense: (1, 0),
            }[type(op)],
        )
        weights = store.weights[op.name].astype(np.float64)
        theirs = kernel.transpose(axes).reshape(weights.shape)
        channels = -1 if isinstance(op, ir.DepthwiseConv2D) else 0
        theirs = np.moveaxis(theirs, channels, 0).reshape(op.out_channels, -1)
        weights = np.moveaxis(weights, channels, 0).reshape(op.out_channels, -1)
        scale = np.abs(theirs).max(axis=1, keepdims=True) / 127
        np.testing.assert_allclose(theirs / scale, weights, atol=1e-3)


@pytest.mark.parametrize("build", [depthwise, mixed], ids=lambda build: build.__name__)
def test_a_level_network_is_its_graph(build):
    graph = build()
    grouping, widths = level_widths(graph)
    x = task_data(graph.input.shape).train.x
    y = np.zeros(len(x), np.int64)
    kernels = SharedKernels(graph)
    narrow = groups.select_units(graph, grouping, groups.prefixes(widths[0]))
    level = LevelNetwork(kernels, narrow, widths[0])
    outputs, _ = level.evaluate(x, y, "classification", quantized=False)
    np.testing.assert_allclose(outputs, predict(narrow, x), atol=1e-5)
    ranges = level.measure(x)
    exported = level.to_graph()
    level.use(quantize.tensor_params(exported, [exported], [ranges], shared_scales=False)[0])
    wanted = calibrate.recalibrate_norms(narrow, x)
    outputs, _ = level.evaluate(x, y, "classification", quantized=False)
    np.testing.assert_allclose(outputs, predict(exported, x), atol=1e-5)
    np.testing.assert_allclose(outputs, predict(wanted, x), atol=1e-4)
    rounded, _ = level.evaluate(x, y, "classification", quantized=True)
    assert 0 < np.abs(rounded - outputs).max() < 0.2


@pytest.mark.slow
def test_scales_keep_their_sign_above_a_floor():
    graph = depthwise()
    first = graph.linear_ops[0]
    gamma = first.norm.gamma.copy()
    gamma[1], gamma[2] = -gamma[1], 1e-7
    changed = replace(first, norm=replace(first.norm, gamma=gamma))
    graph = graph.with_ops(changed if op is first else op for op in graph.ops)
    grouping, widths = level_widths(graph)
    options = Options(epochs=1, learning_rate=0.3, batch_size=16)
    for level in finetune.finetune(graph, grouping, widths, task_data(graph.input.shape), options):
        trained = level.linear_ops[0].norm.gamma
        assert np.array_equal(np.sign(trained), np.sign(gamma[: len(trained)]))
        assert np.abs(trained).min() >= 0.99e-3 * np.abs(gamma).max()


@pytest.mark.slow
def test_narrow_levels_come_close_to_full_accuracy_on_digits():
    """Real data, the whole path: importance, reorder, four levels of a depthwise network."""
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_digits(return_X_y=True)
    x = x.reshape(-1, 8, 8, 1).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    parts = [data.Split(x[i], y[i]) for i in np.split(order, [1300, 1450])]
    dataset = data.Data("classification", *parts)
    graph = graphs.ds_cnn(24, 3, (8, 8, 1), 10)
    grouping = groups.find_groups(graph)
    scratch = Options(epochs=12, distillation=0.0, int8_from=1.0, learning_rate=3e-3)
    (graph,) = finetune.finetune(graph, grouping, [grouping.full_widths], dataset, scratch)
    full = score(graph, dataset.test, "classification")
    assert full > 0.93
    scores = importance.taylor(graph, *dataset.train.sample(256, 0), "classification")
    graph, _ = importance.reorder(graph, grouping, scores)
    _, widths = level_widths(graph, (0.5, 0.7, 0.85, 1.0))
    levels = finetune.finetune(graph, grouping, widths, dataset, Options(epochs=15))
    accuracies = [score(level, dataset.test, "classification") for level in levels]
    assert min(accuracies) > full - 0.06
    assert accuracies[-1] > full - 0.02


def trainer(graph: ir.Graph, dataset: data.Data, epochs: int = 1, **options) -> Trainer:
    grouping, widths = level_widths(graph)
    settings = recipe.suited(Options(epochs=epochs, **options), graph, dataset)
    cluster = distribution.connect("one-device")
    return Trainer(graph, grouping, widths, dataset, settings, cluster)


@pytest.mark.parametrize("tables", ["per-level", "multipliers"])
@pytest.mark.parametrize("build", [depthwise, mixed], ids=lambda build: build.__name__)
def test_simulated_int8_has_the_parameters_that_are_shipped(build, tables):
    graph = build()
    trained = trainer(graph, task_data(graph.input.shape), tables=tables)
    trained.measure()
    levels, store = trained.graphs(), trained.graphs()[-1]
    x = trained.probe.numpy()
    shipped = quantize.tensor_params(
        store, levels, [calibrate.activation_ranges(g, x) for g in levels], tables != "per-level"
    )
    for level, params in zip(trained.levels, shipped, strict=True):
        for name, variable in level.ranges.items():
            scale, zero_point = params[name].scale, params[name].zero_point
            expected = [scale * (end - zero_point) for end in (-128, 127)]
            np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-5, err_msg=name)


def test_int8_is_simulated_in_training_where_rounding_costs():
    """A unit of huge values that nothing reads leaves float as it is, and int8 no resolution."""
    net = graphs.GraphBuilder("two_layers", (6,))
    net.dense(8, norm=True)
    net.dense(3, activation=ir.Activation.NONE)
    net.softmax()
    dataset = task_data((6,))
    grouping, widths = level_widths(net.graph())
    learned = Options(epochs=20, learning_rate=0.02, distillation=0.0, mixing=False)
    graph = finetune.finetune(net.graph(), grouping, widths, dataset, learned)[-1]
    assert not finetune._int8_pays(trainer(graph, dataset))
    first, last = graph.linear_ops
    gamma, kernel = first.norm.gamma.copy(), last.kernel.copy()
    gamma[0], kernel[0] = 1000 * gamma[0], 0
    huge = {first.name: replace(first, norm=replace(first.norm, gamma=gamma))}
    huge[last.name] = replace(last, kernel=kernel)
    costly = graph.with_ops(huge.get(op.name, op) for op in graph.ops)
    assert finetune._int8_pays(trainer(costly, dataset))
