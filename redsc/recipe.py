"""How the levels are trained: what the user leaves open is chosen for the data and the network."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from redsc import ir, loss
from redsc.cost import Tables
from redsc.data import BATCH_SIZE, Data, Split
from redsc.distribution import Cluster
from redsc.tf_network import predict
from redsc.training import epoch_steps

log = logging.getLogger("redsc")

_SAMPLES_SEEN = 60_000
_EPOCHS = (5, 40)
"""Default epochs: as many as see about _SAMPLES_SEEN samples, within these bounds."""

_FEW_SAMPLES = 1000
"""Fewer training samples than these are few."""

_OVERFITTED_NATS = 0.3
"""A classifier is overfitted when its validation loss exceeds its training loss by so much. On
spoken digits that is -0.05 for speakers that were trained with and 1.0 for another one; 0.04 on
scikit-learn's digits, where mixing made the full level worse. Not a ratio: a training loss near 0
makes any ratio large."""

_LEARNING_RATE, _FEW_LEARNING_RATE = 4e-3, 5e-4
"""On validation data of Fashion-MNIST, after 1,200 steps of training the original, 0.001 gives
88.8, 89.8, 90.8 and 91.1 % for the four levels of DS-CNN-S, 0.004 90.1, 91.0, 91.7 and 91.6 %,
0.008 a little more, 0.016 less for the wide ones. An original trained eight times as long, 91.7 %,
ends at 92.4 % with 0.004. Spoken digits of unknown speakers and a dense network gain as much."""

_COMPARED_SAMPLES = 512
"""Training and validation samples on which a network's losses are compared."""


@dataclass(frozen=True)
class Options:
    """None: chosen by the size of the training set, see `suited`.

    epochs 0: batch-norm re-estimated alone. distillation: share of a level's loss that comes
    from its teacher's output, the rest from the labels. teacher: of the narrow levels, "full"
    the widest level at the same step, "original" the network as it was given, which teaches the
    widest one until that is better; with "original", always. mixing: every sample is mixed with
    another one, which lets a teacher say more than the data does. hints: weight of a further
    loss, the squared distance of the last hidden units from the teacher's same units in their
    standard deviations (FitNets: Romero et al., ICLR 2015); a reconstruction beside the
    classification. int8_from: part of the epochs after which rounding to int8 is simulated, if it
    pays; 1 never does. patience: epochs whose validation scores stay below the highest before
    training ends; None is a third of the epochs, at least 4. loss_weights: one per level,
    narrowest first; None weighs all levels alike (the REDS paper, arXiv 2311.13349, takes the
    square root of each level's parameter share). class_weights: one per class, mean 1.
    all_levels: every level in every step, instead of the sandwich when there are more than four.
    tables: what the levels share of them.
    """

    epochs: int | None = None
    seed: int = 0
    batch_size: int = BATCH_SIZE
    learning_rate: float | None = None
    warmup_steps: int = 40
    distillation: float | None = None
    teacher: Literal["full", "original"] | None = None
    mixing: bool | None = None
    hints: float | None = None
    int8_from: float = 0.6
    patience: int | None = None
    loss_weights: tuple[float, ...] | None = None
    class_weights: tuple[float, ...] | None = None
    all_levels: bool = False
    tables: Tables = "per-level"


@dataclass(frozen=True)
class Training:
    """How to train, on what, where, and the folder that keeps how far it is."""

    data: Data
    options: Options
    cluster: Cluster
    checkpoints: Path


def suited(options: Options, graph: ir.Graph, data: Data) -> Options:
    """`options` with what is None chosen for this training data.

    Few labels teach a network less than it knows already. So all levels then learn from the
    original network's answers, as far as these are right for the data, and from its last hidden
    units, which say more of each sample than its class does. Samples are mixed for a network that
    is overfitted.
    """
    train = data.train
    few = train.stream is None and len(train) < _FEW_SAMPLES
    epoch_samples = epoch_steps(train, options.batch_size) * options.batch_size
    chosen: dict[str, Any] = {
        "epochs": int(np.clip(round(_SAMPLES_SEEN / epoch_samples), *_EPOCHS)),
        "learning_rate": _FEW_LEARNING_RATE if few else _LEARNING_RATE,
        "teacher": "original" if few else "full",
        "hints": 0.0,
        "distillation": 0.5,
    }
    if options.mixing is None:
        chosen["mixing"] = data.task == "classification" and _overfitted(graph, data)
    if few and data.task == "classification":
        right = loss.score(predict(graph, train.x), train.y, graph, data.task)
        chosen["distillation"] = max(0.5, right)
        if right > 0.5 and options.teacher != "full":
            chosen["hints"] = 5.0
    missing = {name: value for name, value in chosen.items() if getattr(options, name) is None}
    return replace(options, **missing)


def steps(options: Options, train: Split) -> int:
    """Steps that train the levels, at most; of `suited` options."""
    assert options.epochs is not None
    return options.epochs * epoch_steps(train, options.batch_size)


def _overfitted(graph: ir.Graph, data: Data) -> bool:
    """Whether a network knows its training data much better than other data."""
    losses = [
        loss.mean(graph, Split(*split.sample(_COMPARED_SAMPLES, seed=0)), data.task)
        for split in (data.train, data.validation)
    ]
    log.info("the network's loss is %.4g on training data, %.4g on validation data", *losses)
    return losses[1] - losses[0] > _OVERFITTED_NATS
