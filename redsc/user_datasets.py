"""Data from a user's Python function: tf.data datasets, or arrays.

The function takes no arguments and returns (train[, val[, test]]), a mapping with those keys, or
a mapping with the keys of an npz file. Datasets give (x, y) or x alone, batched or not.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import itertools
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from redsc.errors import UsageError
from redsc.sources import Source, essential
from redsc.tf_network import tensorflow

_NAMES = ("train", "val", "test")


def names_function(spec: str) -> bool:
    """Whether `spec` is module:function or file.py:function rather than a file."""
    return not Path(spec).exists() and bool(re.fullmatch(r".+:[A-Za-z_]\w*", spec))


def is_dataset(value: Any) -> bool:
    return hasattr(value, "element_spec")


def _is_endless(dataset: Any) -> bool:
    """Whether a tf.data dataset says that it never ends (one made of a generator cannot say)."""
    return int(dataset.cardinality()) == int(tensorflow().data.INFINITE_CARDINALITY)


def call(spec: str, seed: int) -> dict[str, Any]:
    """What the user's function returns, by split or npz key. Runs the user's own code.

    Python's, numpy's and TensorFlow's generators start from `seed`, so that what it shuffles comes
    in the same order again, and on all workers.
    """
    tf = tensorflow()  # the one that redsc runs, before the user's module imports it
    tf.keras.utils.set_random_seed(seed)
    module_name, function_name = spec.rsplit(":", 1)
    try:
        function = getattr(_import(module_name), function_name)
    except AttributeError:
        raise UsageError(f"data {spec}: {module_name} has no {function_name!r}") from None
    if not callable(function):
        raise UsageError(f"data {spec}: {function_name!r} is not a function")
    with _blamed(f"data {spec}"):
        result = function()
    return _by_name(result, spec)


@contextlib.contextmanager
def _blamed(where: str) -> Iterator[None]:
    """Turns what the user's own code raises, an exit too, into a UsageError."""
    try:
        yield
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        # TensorFlow tells what a generator raised in the last line of a traceback.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = next((line for line in lines if re.match(r"\w+(Error|Exception): ", line)), "")
        said = said or (lines[0] if lines else "")
        raise UsageError(f"{where}: {type(error).__name__}: {said}") from error


def _import(name: str) -> Any:
    if name.endswith(".py") and not Path(name).is_file():
        raise UsageError(f"data {name}: no such file")
    with _blamed(f"data {name}"):
        if name.endswith(".py"):
            file_spec = importlib.util.spec_from_file_location(Path(name).stem, name)
            assert file_spec is not None
            assert file_spec.loader is not None
            module = importlib.util.module_from_spec(file_spec)
            file_spec.loader.exec_module(module)
            return module
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.insert(0, here)
        return importlib.import_module(name)


def _by_name(result: Any, spec: str) -> dict[str, Any]:
    if is_dataset(result):
        return {"train": result}
    if isinstance(result, Mapping):
        return {str(key): value for key, value in result.items() if value is not None}
    if not isinstance(result, (tuple, list)) or not 1 <= len(result) <= 3:
        raise UsageError(
            f"data {spec}: returned {type(result).__name__}; expected (train, val, test) datasets"
        )
    if all(is_dataset(part) or part is None for part in result):
        return {n: part for n, part in zip(_NAMES, result, strict=False) if part is not None}
    if all(isinstance(part, (tuple, list)) and len(part) == 2 for part in result):
        # As tf.keras.datasets give them: of two pairs the second is the test split.
        names = ("train", "test") if len(result) == 2 else _NAMES
        return {
            f"{axis}_{name}": array
            for name, pair in zip(names, result, strict=False)
            for axis, array in zip("xy", pair, strict=True)
        }
    raise UsageError(f"data {spec}: expected tf.data datasets or (x, y) pairs of arrays")


def source(dataset: Any, input_shape: tuple[int, ...], where: str) -> Source:
    """The dataset's single samples, in the order in which it gives them."""
    spec = dataset.element_spec
    pair = isinstance(spec, (tuple, list))
    specs = spec if pair else (spec,)
    tensor = tensorflow().TensorSpec
    if len(specs) not in (1, 2) or not all(isinstance(part, tensor) for part in specs):
        raise UsageError(f"{where}: elements are {spec}; expected a pair of tensors (x, y)")
    x_spec = specs[0]
    options = tensorflow().data.Options()
    # Samples read ahead would take from the generators that later ones are drawn from.
    options.experimental_optimization.inject_prefetch = False
    dataset = dataset.with_options(options)
    with _blamed(where):
        first = next(iter(dataset.take(1).as_numpy_iterator()), None)
    if first is None:
        return Source(lambda _: iter(()))
    endless = _is_endless(dataset)
    shape = np.shape(first[0] if pair else first)
    if _is_batch(shape, x_spec.shape, input_shape):
        dataset = dataset.unbatch()
    elif essential(shape) != essential(input_shape):
        raise UsageError(
            f"{where} gives elements of shape {shape}; the network takes {input_shape}"
        )

    numbered = dataset.enumerate().repeat()
    begun: list[tuple[Iterator[Any], Any]] = []

    def start(_: np.random.Generator | None) -> Iterator[tuple[Any, Any]]:
        """One pass after the other from the same iterator, with which all that TensorFlow draws at
        random starts; from a new one only after a pass that was not read to its end."""
        elements, following = begun.pop() if begun else (numbered.as_numpy_iterator(), None)
        for position in itertools.count():
            with _blamed(where):
                present, following = following or next(elements, None), None
            if present is None:
                return
            number, element = present
            if number == 0 and position > 0:
                begun.append((elements, present))
                return
            x, y = (*element, None)[:2] if pair else (element, None)
            yield x, y

    return Source(start, endless)


def _is_batch(shape: tuple[int, ...], declared: Any, input_shape: tuple[int, ...]) -> bool:
    """Whether elements of `shape` are batches; exact fits first, then those up to axes of 1."""
    if shape == input_shape:
        return False
    if shape[1:] == input_shape:
        return True
    open_batch = declared.rank is not None and declared.rank > 0 and declared[0] is None
    fits = essential(shape[1:]) == essential(input_shape)
    return fits and (open_batch or essential(shape) != essential(input_shape))
