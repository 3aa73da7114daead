"""The compiler as one function: read `compile_model` from top to bottom.

Everything happens before the output directory is touched; the transaction at the end puts the
finished, verified project in place or leaves what was there.
"""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import redsc
from redsc import (
    boards,
    bounds,
    calibrate,
    checkpoint,
    class_plots,
    classification,
    config,
    constant_units,
    cost,
    data,
    distribution,
    finetune,
    golden,
    groups,
    importance,
    importance_plots,
    importer,
    ir,
    latency,
    loss,
    measure,
    nesting,
    output,
    passes,
    plan,
    project,
    quality,
    quantize,
    recipe,
    report,
    tf_network,
    tflite,
    tflm,
    trainer,
    verify,
    widths,
)
from redsc.config import DEFAULT_LEVELS, CompileOptions
from redsc.distribution import Cluster
from redsc.errors import (
    InfeasibleError,
    ModelError,
    RedscError,
    ToolchainError,
    UsageError,
    VerificationError,
)
from redsc.measure import Samples
from redsc.plan_structs import Plan
from redsc.progress import Progress
from redsc.quantize import FloatLevel
from redsc.quantized import QuantizedNetwork
from redsc.recipe import Training

log = logging.getLogger("redsc")

CALIBRATION_SAMPLES = 256
IMPORTANCE_SAMPLES = 256
FAITHFUL_SAMPLES = 16
FAITHFUL_LIMIT = 1e-4
"""Largest difference, relative to the largest output, between Keras and the imported network."""


def compile_model(options: CompileOptions, progress: Progress) -> dict[str, Any] | None:
    """A Keras file in, a verified firmware project in `options.output` out; returns the report.

    A worker of a distributed training that is not the chief only trains, and returns None.
    """
    cluster = distribution.connect(options.strategy)
    output.check_replaceable(options.output)
    progress.stage("import the model")
    model = importer.load(options.model)
    original = passes.lower(model.graph)
    warnings = [*config.idle(options), *model.warnings]

    progress.stage("gather inputs")
    dataset = _load_data(options, original, warnings)
    samples = _samples(options, original, dataset)
    log.info("inputs: %s", samples.description)
    if samples.synthetic:
        warnings.append(samples.description)
    _refuse_warnings(options, warnings)
    simplified = _simplify(original, samples, cluster)
    graph = simplified.graph
    grouping = groups.find_groups(graph)
    log.info("%s: %d ops, %d groups of units", model.format, len(graph.ops), len(grouping.free))
    faithful = _check_faithful(options, model, graph, samples)
    if dataset is not None:
        warnings += quality.doubts(graph, dataset, cluster)
        _refuse_warnings(options, warnings)

    progress.stage("rank units")
    importance_facts, scores = _importance(options, graph, dataset, cluster)
    ranking = simplified.original_numbers(importance.rank(graph, grouping, scores))
    graph, scores = importance.reorder(graph, grouping, scores)

    checkpoints = checkpoint.folder(
        dataclasses.replace(options, output=Path(), verify=True, strict=False), model.sha256
    )
    training = _training(options, graph, dataset, cluster, checkpoints)
    searched = widths.find(options, graph, grouping, scores, training, progress, warnings)
    found = searched.nesting
    for number, level in enumerate(found.levels):
        log.info(
            "level %d: %d MACs, arena %d B, gap %.2g, %.2f s, widths %s",
            number, level.macs, level.arena_bytes, level.gap, level.seconds, dict(level.widths),
        )  # fmt: skip

    _refuse_warnings(options, warnings)
    progress.stage("train levels" if training else "calibrate levels")
    level_graphs = _level_graphs(
        options, graph, grouping, found, training, samples, progress, warnings
    )
    if not cluster.is_chief:
        return None

    progress.stage("quantise")
    network = _quantize(level_graphs, found, samples)
    tflites = [tflite.write(level) for level in network.levels]

    progress.stage("plan memory")
    board = boards.board(options.target)
    arenas = widths.plan_arenas(options, level_graphs)
    device_plan = plan.build_plan(network, arenas, dsp=board.dsp)
    for step in device_plan.steps:
        log.info("%s runs %s", step.name, step.kernel)
    data_bytes = device_plan.data_bytes
    _check_flash(options, data_bytes)
    tflm_model = tflm.build(device_plan, network.levels[-1]) if options.runtime == "tflm" else None
    arena_bytes = max(device_plan.arena_bytes)
    usage = _usage(board, device_plan, tflm_model)
    boards.check_fits(board, data_bytes, arena_bytes, usage)

    target = latency.target(options.target)
    levels = measure.level_costs(network, graph, arenas, device_plan, target)
    with (
        output.transaction(options.output) as staging,
        tempfile.TemporaryDirectory(prefix="redsc_") as workspace,
    ):
        progress.stage("write the project")
        project.write(staging, network.graph, device_plan, tflm_model, levels, tflites, options)
        inputs = _verification_inputs(network, samples, options.seed)
        project.write_inputs(staging, inputs)
        ladder = verify.Ladder(tuple(verify.Verdict() for _ in levels))
        code_bytes = None
        if options.verify:
            ladder = verify.climb(staging, Path(workspace), tflites, inputs, progress)
            sketch = measure.sketch_sizes(staging, Path(workspace), device_plan)
            code_bytes = sketch.code_bytes
            usage = _usage(board, device_plan, tflm_model, sketch)
            boards.check_fits(board, data_bytes, arena_bytes, usage)
        if ladder.outputs is not None:
            project.write_outputs(staging, ladder.outputs)
        progress.stage("measure accuracy")
        measured = quality.evaluate(original, network, tflites, ladder, dataset, samples, progress)

        warnings += quality.fidelity_warnings(measured.levels)
        _refuse_warnings(options, warnings)
        _refuse_warnings(options, ladder.warnings, ToolchainError)
        warnings += ladder.warnings
        progress.stage("write the report")
        result = {
            "schema_version": report.SCHEMA_VERSION,
            "redsc_version": redsc.__version__,
            "model": measure.model_facts(options, model, original, simplified, faithful),
            "input": measure.input_facts(network, samples),
            "levels": [
                {**level, "widths_from": kept.origin, **facts, **measure.verdict_facts(verdict)}
                for level, kept, facts, verdict in zip(
                    levels, found.levels, measured.levels, ladder.verdicts, strict=True
                )
            ],
            "importance": importance_facts,
            "training": None if training is None else measure.training_facts(training, searched),
            "classifier": quality.is_classifier(network, dataset),
            **measured.shared,
            "fixed_groups": [group.name for group in grouping.groups.values() if group.fixed],
            "flash": {
                "weights_bytes": device_plan.weights_bytes,
                "tables_bytes": device_plan.tables_bytes,
                "code_bytes": code_bytes,
                "total_bytes": None if code_bytes is None else data_bytes + code_bytes,
            },
            "kernels": measure.kernel_facts(network, device_plan),
            "runtime": measure.runtime_facts(options.runtime, device_plan, tflm_model),
            "board": measure.board_facts(board, usage),
            "search": {
                "budget": list(options.budget),
                "solver": found.solver,
                "seconds": round(sum(level.seconds for level in found.levels), 3),
                "proven_optimal": found.proven_optimal,
                "gap": found.gap,
                "objective": searched.objective,
                "candidates": searched.facts,
                "tables": found.tables,
            },
            "warnings": warnings,
            "seconds": dict(progress.seconds),
        }
        tables = {
            "layers.csv": measure.layers_csv(network),
            "importance.csv": measure.importance_csv(ranking, result["levels"]),
        }
        if measured.confusion:
            tables["confusion.csv"] = quality.confusion_csv(measured)
        pictures = {
            **class_plots.draw(result, measured.confusion),
            **importance_plots.draw(result, ranking),
        }
        project.write_report(staging, result, tables, pictures, measured.predictions)
        progress.stage(f"put {options.output} in place")
    checkpoint.forget(checkpoints)
    return result


def _check_flash(options: CompileOptions, data_bytes: int) -> None:
    """The search's count of shared tables is exact unless a channel needed a scale of its own."""
    if options.max_flash_bytes is not None and data_bytes > options.max_flash_bytes:
        raise InfeasibleError(
            f"{options.model}: weights and tables take {data_bytes} bytes of flash, "
            f"{options.max_flash_bytes} allowed: some channels cannot share multipliers. Try a "
            "larger --max-flash-bytes, fewer levels, or --tables per-level"
        )


def _usage(
    board: boards.Board,
    device_plan: Plan,
    tflm_model: tflm.TflmModel | None,
    sketch: measure.SketchSizes | None = None,
) -> boards.Usage:
    """What the board's memories will hold, by what is known so far."""
    sketch = sketch or measure.SketchSizes()
    usage = boards.estimate(
        board,
        device_plan.data_bytes,
        max(device_plan.arena_bytes),
        sketch.code_bytes,
        sketch.static_ram_bytes,
    )
    if tflm_model is None:
        return usage
    return usage.plus(
        tflm_model.extra_flash_bytes(device_plan), tflm_model.extra_ram_bytes(device_plan)
    )


def _refuse_warnings(
    options: CompileOptions, warnings: Sequence[str], kind: type[RedscError] = UsageError
) -> None:
    if options.strict and warnings:
        raise kind("with --strict a warning is an error:\n" + "\n".join(warnings))


def _load_data(options: CompileOptions, graph: ir.Graph, warnings: list[str]) -> data.Data | None:
    if options.data is None:
        return None
    shapes = ir.shapes(graph)
    dataset = data.load(
        options.data,
        shapes[graph.input.name],
        shapes[graph.output],
        options.seed,
        output_bounds=loss.output_bounds(graph),
    )
    warnings += dataset.warnings
    if dataset.test is None:
        warnings.append("the data has no test split: accuracy is not measured")
    return dataset


def _samples(options: CompileOptions, graph: ir.Graph, dataset: data.Data | None) -> Samples:
    """What activation ranges, batch-norm statistics and the ladder see."""
    if dataset is not None:
        x, _ = dataset.train.sample(CALIBRATION_SAMPLES, options.seed)
        text = f"{len(x)} samples of the training data, {x.min():.6g} … {x.max():.6g}"
        return Samples(x, text, synthetic=False)
    x, text = calibrate.synthetic_inputs(
        graph, CALIBRATION_SAMPLES, options.seed, options.input_range
    )
    return Samples(x, text, synthetic=True)


def _simplify(graph: ir.Graph, samples: Samples, cluster: Cluster) -> constant_units.Simplified:
    """Without units that are constant for every input that int8 can hold."""
    values = graph.input.scaled(samples.x)
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    step = (high - low) / 255  # the zero point is rounded
    constants = bounds.constants(bounds.bounds(graph, low - step, high + step))
    simplified = constant_units.drop(graph, cluster.from_chief(constants))
    if simplified.dropped:
        log.info(
            "%d of %d units are constant and go: %d of %d MACs stay",
            simplified.dropped, simplified.units, cost.macs(simplified.graph), cost.macs(graph),
        )  # fmt: skip
    return simplified


def _check_faithful(
    options: CompileOptions, model: importer.LoadedModel, graph: ir.Graph, samples: Samples
) -> float:
    """Largest difference to Keras, relative to the largest output; too large stops the compile."""
    x = samples.x[:FAITHFUL_SAMPLES]
    expected = importer.reference_predict(model, x)
    if not np.isfinite(expected).all():
        raise ModelError(
            f"{options.model}: the network's own outputs for inputs in {x.min():.6g} … "
            f"{x.max():.6g} are not finite: its values overflow float32; train it again"
        )
    actual = tf_network.predict(graph, x).reshape(expected.shape)
    size = float(np.abs(expected).max())
    difference = float(np.abs(actual - expected).max()) / (size or 1.0)
    if not difference <= FAITHFUL_LIMIT:
        raise VerificationError(
            f"{options.model}: the imported network differs from Keras by {difference:.2g} of its "
            f"largest output, limit {FAITHFUL_LIMIT:g}; this is a defect of redsc, please report it"
        )
    return difference


def _importance(
    options: CompileOptions,
    graph: ir.Graph,
    dataset: data.Data | None,
    cluster: Cluster,
) -> tuple[dict[str, Any], importance.Scores]:
    """What the report says of the scores, and the scores, which are the chief's."""
    method = options.importance or ("magnitude" if dataset is None else "taylor")
    samples = None
    if dataset is not None and method in importance.GRADIENT_METHODS:
        samples = (*dataset.train.sample(IMPORTANCE_SAMPLES, options.seed), dataset.task)
    facts = {"method": method, "samples": None if samples is None else len(samples[0])}
    scores = importance.score(method, graph, samples, options.seed)
    return facts, importance.Scores(
        cluster.from_chief(scores.weights), cluster.from_chief(scores.channels)
    )


def _training(
    options: CompileOptions,
    graph: ir.Graph,
    dataset: data.Data | None,
    cluster: Cluster,
    checkpoints: Path,
) -> Training | None:
    """With what the user left open chosen for the data; None without data."""
    if dataset is None:
        return None
    given = recipe.Options(
        epochs=options.epochs,
        seed=options.seed,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        distillation=options.distillation,
        teacher=options.teacher,
        mixing=options.mixing,
        hints=options.hints,
        int8_from=options.int8_from,
        loss_weights=options.loss_weights,
        class_weights=loss.class_weights(
            options.class_weights, dataset, classification.class_count(graph)
        ),
        all_levels=options.all_levels,
    )
    suited = recipe.suited(given, graph, dataset)
    # Chosen by measured losses and scores, which may differ in the last bit elsewhere.
    measured = ("mixing", "distillation", "hints")
    told = cluster.from_chief({name: np.array(float(getattr(suited, name))) for name in measured})
    agreed = dataclasses.replace(
        suited,
        mixing=bool(told["mixing"]),
        distillation=float(told["distillation"]),
        hints=float(told["hints"]),
    )
    return Training(dataset, agreed, cluster, checkpoints)


def _level_graphs(
    options: CompileOptions,
    graph: ir.Graph,
    grouping: groups.Grouping,
    found: nesting.Nesting,
    training: Training | None,
    samples: Samples,
    progress: Progress,
    warnings: list[str],
) -> tuple[ir.Graph, ...]:
    """One float network per level; their kernels are slices of the widest one's, bit for bit.

    Without data the full network keeps its batch-norm; narrower levels get theirs re-estimated.
    """
    level_widths = [level.widths for level in found.levels]
    if training is None:
        return trainer.untrained(graph, grouping, level_widths, samples.x, found.tables)
    weights = training.options.loss_weights
    if weights is not None:  # of the levels that were asked for
        weight_of = dict(zip(options.levels or DEFAULT_LEVELS, weights, strict=True))
        weights = tuple(weight_of[level.percent] for level in found.levels)
    settings = dataclasses.replace(training.options, tables=found.tables, loss_weights=weights)
    return finetune.finetune(
        graph, grouping, level_widths, training.data, settings, progress.step, warnings,
        training.cluster, training.checkpoints,
    )  # fmt: skip


def _quantize(
    graphs: Sequence[ir.Graph], found: nesting.Nesting, samples: Samples
) -> QuantizedNetwork:
    levels = [
        FloatLevel(
            level.percent, level.widths, graph, calibrate.activation_ranges(graph, samples.x)
        )
        for level, graph in zip(found.levels, graphs, strict=True)
    ]
    store = graphs[-1]
    return quantize.quantize(
        store, groups.find_groups(store), levels, shared_scales=found.tables != "per-level"
    )


def _verification_inputs(network: QuantizedNetwork, samples: Samples, seed: int) -> np.ndarray:
    """int8 inputs of the ladder: the pattern that a board makes by itself, then in turn what the
    network expects and noise over all of int8."""
    expected = quantize.quantize_input(network, samples.x[: verify.HOST_INPUTS // 2])
    shape = expected.shape[1:]
    count = verify.HOST_INPUTS - 1 - len(expected)
    generator = np.random.default_rng(seed)
    noise = generator.integers(-128, 128, (count, *shape), dtype=np.int8)
    mixed = np.empty((verify.HOST_INPUTS, *shape), np.int8)
    mixed[0], mixed[1::2], mixed[2::2] = golden.pattern(shape), expected, noise
    return mixed
