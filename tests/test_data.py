"""Reading, checking and splitting the user's data."""

import itertools

import numpy as np
import pytest

from redsc import data, sources
from redsc.errors import UsageError

INPUT, OUTPUT = (4, 3, 1), (5,)
SAMPLES = 40


def arrays(samples: int = SAMPLES, **changes):
    rng = np.random.default_rng(0)
    base = {
        "x_train": rng.normal(size=(samples, *INPUT)).astype(np.float32),
        "y_train": np.arange(samples) % 5,
    }
    return {**base, **changes}


def saved(tmp_path, **contents):
    path = tmp_path / "data.npz"
    np.savez(path, **contents)
    return str(path)


def load(spec, input_shape=INPUT, output_shape=OUTPUT, seed=0, **options):
    return data.load(spec, input_shape, output_shape, seed, **options)


def refused(spec, *parts, **options):
    with pytest.raises(UsageError) as caught:
        load(spec, **options)
    for part in parts:
        assert part in str(caught.value)


def test_validation_is_cut_from_training_and_a_missing_test_stays_missing(tmp_path):
    given = arrays()
    result = load(saved(tmp_path, **given))
    assert result.task == "classification"
    assert (len(result.train), len(result.validation), result.test) == (36, 4, None)
    assert result.train.x.dtype == np.float32
    assert result.train.y.dtype == np.int64
    rows = np.concatenate([result.train.x, result.validation.x]).reshape(SAMPLES, -1)
    wanted = given["x_train"].reshape(SAMPLES, -1)
    assert np.array_equal(rows[np.lexsort(rows.T)], wanted[np.lexsort(wanted.T)])


def test_x_and_y_are_split_by_seed_alone(tmp_path):
    given = arrays(60)
    spec = saved(tmp_path, x=given["x_train"], y=given["y_train"])
    first, again, other = load(spec), load(spec), load(spec, seed=1)
    assert (len(first.train), len(first.validation), len(first.test)) == (43, 5, 12)
    assert np.array_equal(first.test.x, again.test.x)
    assert not np.array_equal(first.test.x, other.test.x)
    assert not first.warnings


def test_given_splits_are_kept_as_they_are(tmp_path):
    given = arrays()
    for name in ("val", "test"):
        given |= {f"x_{name}": given["x_train"][:7] + 1, f"y_{name}": given["y_train"][:7]}
    result = load(saved(tmp_path, **given))
    assert np.array_equal(result.train.x, given["x_train"])
    assert np.array_equal(result.validation.x, given["x_val"])
    assert np.array_equal(result.test.y, given["y_test"])


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, bool])
def test_one_hot_labels_become_class_numbers(tmp_path, dtype):
    labels = arrays()["y_train"]
    result = load(saved(tmp_path, **arrays(y_train=np.eye(5, dtype=dtype)[labels])))
    assert result.task == "classification"
    both = np.concatenate([result.train.y, result.validation.y])
    assert np.array_equal(np.sort(both), np.sort(labels))


def test_labels_as_a_column_of_floats_are_class_numbers(tmp_path):
    labels = arrays()["y_train"].astype(np.float64)[:, None]
    assert load(saved(tmp_path, **arrays(y_train=labels))).train.y.dtype == np.int64


def test_a_single_output_takes_labels_0_and_1_else_it_is_regression(tmp_path):
    binary = saved(tmp_path, **arrays(y_train=np.arange(SAMPLES) % 2))
    assert load(binary, output_shape=(1,)).task == "classification"
    real = saved(tmp_path, **arrays(y_train=np.linspace(0, 3, SAMPLES)))
    result = load(real, output_shape=(1,))
    assert result.task == "regression"
    assert result.train.y.shape == (36, 1)


def test_targets_that_the_output_cannot_reach_are_told(tmp_path):
    sigmoid = {"output_shape": (1,), "output_bounds": (0.0, 1.0)}
    for labels in ((1, 2), (-1, 1)):
        spec = saved(tmp_path, **arrays(y_train=np.resize(labels, SAMPLES)))
        refused(spec, f"({labels[0]} … {labels[1]})", "0 … 1", "classes 0 and 1", **sigmoid)
        assert load(spec, output_shape=(1,)).warnings == ()
    half = saved(tmp_path, **arrays(y_train=np.resize((0.25, 1.5), SAMPLES)))
    (warning,) = load(half, **sigmoid).warnings
    assert "50% of the training targets (0.25 … 1.5) lie outside 0 … 1" in warning
    fitting = saved(tmp_path, **arrays(y_train=np.linspace(0, 1, SAMPLES)))
    assert load(fitting, **sigmoid).warnings == ()


def test_without_targets_an_autoencoder_reconstructs_its_input(tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 6))
    result = load(saved(tmp_path, x_train=x), input_shape=(6,), output_shape=(6,))
    assert result.task == "reconstruction"
    assert np.array_equal(result.train.x, result.train.y)
    noisy = saved(tmp_path, x_train=x, y_train=x / 2)
    result = load(noisy, input_shape=(6,), output_shape=(6,))
    assert result.task == "reconstruction"
    assert np.array_equal(result.train.x / 2, result.train.y)
    refused(saved(tmp_path, x_train=x), "no targets", input_shape=(6,))


@pytest.mark.parametrize(
    ("given", "input_shape"),
    [((4, 3), (4, 3, 1)), ((6, 2), (6, 1, 2)), ((4, 3, 1), (4, 3, 1)), ((7,), (7, 1, 1))],
)
def test_axes_of_size_one_may_be_missing(tmp_path, given, input_shape):
    x = np.random.default_rng(0).normal(size=(SAMPLES, *given))
    result = load(saved(tmp_path, **arrays(x_train=x)), input_shape=input_shape)
    assert result.train.x.shape[1:] == input_shape


def test_wrong_values_are_refused_with_expected_and_got(tmp_path):
    def case(*parts, **changes):
        refused(saved(tmp_path, **arrays(**changes)), "data.npz", *parts)

    x, y = arrays()["x_train"], arrays()["y_train"]
    holed = x.copy()
    holed[3, 1] = np.nan
    case("x_train", "NaN", x_train=holed)
    case("infinity", x_train=np.where(np.isnan(holed), np.inf, holed))
    case("(3, 4, 1)", "(4, 3, 1)", x_train=x.reshape(-1, 3, 4, 1))
    case("dtype", x_train=x.astype(str))
    case("one class", y_train=y * 0)
    case("labels 1 … 5", "0 … 4", "from 0", y_train=y + 1)
    case("labels -1", y_train=y - 1)
    case("39 samples", "40", y_train=y[:-1])
    case("did you mean 'y_train'", y_trian=y)
    case("y_test but no x_test", y_test=y)
    case("x_test but no y_test", x_test=x)
    case("both", x=x)
    refused(saved(tmp_path, **arrays(20)), "18 training samples", "batch of 32")
    refused(saved(tmp_path, **arrays(0)), "empty")
    refused(saved(tmp_path, y=y), "no x_train")


def test_files_that_are_no_npz_are_refused(tmp_path):
    refused(str(tmp_path / "missing.npz"), "no such file")
    refused(str(tmp_path / "missing"), "module:function")
    refused("fashion-mnst:my/sets", "did you mean fashion-mnist:PATH?")
    for name, content in (("text.npz", b"hello"), ("empty.npz", b""), ("cut.npz", None)):
        path = tmp_path / name
        if content is None:
            content = (tmp_path / saved(tmp_path, **arrays())).read_bytes()[:300]
        path.write_bytes(content)
        refused(str(path), name)
    np.save(tmp_path / "one.npy", np.zeros(3))
    refused(str(tmp_path / "one.npy"), "np.savez")


def test_a_file_that_unpacks_to_more_than_memory_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x_train=np.zeros((1000, *INPUT)), y_train=np.zeros(1000))
    monkeypatch.setattr(data, "_memory_bytes", lambda: 100_000)
    refused(str(path), "more than half of this machine's memory", "tf.data")


def test_values_beyond_float32_are_the_datas_fault(tmp_path):
    x = np.full((SAMPLES, *INPUT), 1e300)
    refused(saved(tmp_path, **arrays(x_train=x)), "x_train", "beyond float32 (480)")


def test_soft_labels_are_told_to_be_regression(tmp_path):
    soft = np.full((SAMPLES, 5), 0.2)
    spec = saved(tmp_path, **arrays(y_train=soft))
    (warning,) = load(spec, output_bounds=(0.0, 1.0)).warnings
    assert "neither class numbers nor one-hot" in warning


def test_samples_kept_for_validation_are_told_when_too_few_are_left(tmp_path):
    refused(saved(tmp_path, **arrays(35)), "31 training samples", "4 of 35 are kept for validation")


def test_python_objects_in_a_file_are_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (exit, (3,))

    x = np.empty(SAMPLES, dtype=object)
    x[:] = [Trap()] * SAMPLES
    refused(saved(tmp_path, **arrays(x_train=x)), "Python objects")


MODULE = """
import numpy as np
import tensorflow as tf

x = np.arange(480, dtype=np.float32).reshape(40, 12)
y = np.arange(40) % 5

def pairs(parts=2):
    sets = tf.data.Dataset.from_tensor_slices((x.reshape(-1, 4, 3), y))
    return (sets.batch(16), sets.take(10), sets.take(5))

def named():
    return {"train": tf.data.Dataset.from_tensor_slices((x.reshape(-1, 4, 3), y))}

def augmented():
    def noisy():
        for row, label in zip(x, y):
            yield (row + np.random.normal(size=12)).reshape(4, 3), label

    signature = (tf.TensorSpec((4, 3)), tf.TensorSpec((), tf.int32))
    return {"train": tf.data.Dataset.from_generator(noisy, output_signature=signature)}

def augmented_for_ever():
    sets = named()["train"]
    return sets.map(lambda x, y: (x + tf.random.normal((4, 3), dtype=x.dtype), y)).repeat(), sets

def augmented_in_a_map():
    sets = named()["train"]
    return {"train": sets.map(lambda x, y: (x + tf.random.normal((4, 3), dtype=x.dtype), y))}

def shuffled():
    return {"train": named()["train"].shuffle(40)}

def alone():
    return tf.data.Dataset.from_tensor_slices(x).batch(8)

def numpy_pairs():
    return (x.reshape(-1, 4, 3, 1), y), (x.reshape(-1, 4, 3, 1)[:9], y[:9])

def fails():
    raise ValueError("no disk today")

def endless():
    train, val, test = pairs()
    return train.repeat(), val, test.repeat()

def endless_alone():
    return {"train": pairs()[0].repeat()}

def mixed():
    return {"train": pairs()[0], "val": x}

def raising(at):
    def generate():
        for number in range(40):
            if number == at:
                raise KeyError("lost sample")
            yield x[number].reshape(4, 3), number % 5
    return tf.data.Dataset.from_generator(generate, (tf.float32, tf.int64), ((4, 3), ()))

def raises_first():
    return raising(0)

def raises_later():
    return raising(30)

def uneven():
    generate = lambda: ((np.zeros((4, 3 + n // 20), np.float32), 0) for n in range(40))
    return tf.data.Dataset.from_generator(generate, (tf.float32, tf.int64), ((4, None), ()))

def nested():
    return tf.data.Dataset.from_tensor_slices(((x, x), y))

def leaves():
    raise SystemExit(0)

def wrong_name():
    return {"training": named()["train"]}

def nothing():
    return None

number = 3
"""


@pytest.fixture
def module(tmp_path):
    path = tmp_path / "my_sets.py"
    path.write_text(MODULE)
    return str(path)


def test_datasets_are_collected_batched_or_not(module):
    result = load(f"{module}:pairs")
    assert [len(s) for s in (result.train, result.validation, result.test)] == [40, 10, 5]
    assert result.train.stream is None
    assert np.array_equal(result.train.x.reshape(-1), np.arange(480))
    assert len(load(f"{module}:named").train) == 36
    pairs = load(f"{module}:numpy_pairs")
    assert len(pairs.test) == 9
    alone = load(f"{module}:alone", input_shape=(12,), output_shape=(12,))
    assert alone.task == "reconstruction"


def test_faults_of_a_function_are_reported(module, tmp_path):
    refused(f"{module}:fails", "ValueError: no disk today")
    refused(f"{module}:missing", "has no 'missing'")
    refused(f"{module}:number", "not a function")
    refused(f"{module}:nothing", "NoneType")
    refused(f"{module}:raises_first", "lost sample")
    refused(f"{module}:raises_later", "lost sample")
    refused(f"{module}:uneven", "sample 20 has shape (4, 4)", "(4, 3)")
    refused(f"{module}:nested", "pair of tensors")
    refused(f"{module}:leaves", "SystemExit")
    refused(f"{module}:wrong_name", "'training'")
    refused(f"{module}:mixed", "'val' is a ndarray")
    refused("no_such_module_here:load", "ModuleNotFoundError")
    refused(f"{module}:pairs", "(16, 4, 3)", "(3, 4, 1)", input_shape=(3, 4, 1))


def test_a_set_larger_than_memory_is_streamed(module, monkeypatch):
    monkeypatch.setattr(sources, "MEMORY_BYTES", 37 * (12 * 4 + 8))
    result = load(f"{module}:named")
    assert len(result.train) + len(result.validation) == 37
    streamed = np.concatenate([x for x, _ in result.train.batches(8)])
    held = result.validation.x
    assert len(streamed) == 40 - len(held)
    seen = {sample.tobytes() for sample in streamed}
    assert not any(sample.tobytes() in seen for sample in held)
    shuffled = list(result.train.batches(8, np.random.default_rng(0)))
    assert [len(x) for x, _ in shuffled] == [8] * ((40 - len(held)) // 8)


def test_an_augmented_set_is_read_anew_in_every_pass(module):
    result = load(f"{module}:augmented")
    assert result.train.stream is not None
    first, second = (np.concatenate([x for x, _ in result.train.batches(8)]) for _ in range(2))
    assert first.shape == second.shape
    assert not np.array_equal(first, second)
    again = load(f"{module}:augmented")
    assert np.array_equal(again.train.x, result.train.x)  # seeded
    assert load(f"{module}:shuffled").train.stream is None
    for_ever = [load(f"{module}:augmented_for_ever").train for _ in range(2)]
    first, again = (
        [x for x, _ in itertools.islice(train.batches(40, np.random.default_rng(0)), 2)]
        for train in for_ever
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first[0], first[1])


def test_what_tensorflow_draws_at_random_goes_on_from_pass_to_pass(module):
    """A new iterator would begin with the same random numbers again: every epoch the same."""
    passes = []
    for _ in range(2):
        train = load(f"{module}:augmented_in_a_map").train
        assert train.stream is not None
        passes.append([np.concatenate([x for x, _ in train.batches(8)]) for _ in range(3)])
    first, second, third = passes[0]
    assert len(first) == len(second) == len(third) == 36
    assert not np.array_equal(first, second)
    assert not np.array_equal(second, third)
    assert np.array_equal(passes[0], passes[1])  # seeded


def test_a_pass_after_an_unfinished_one_begins_at_the_start(module):
    train = load(f"{module}:augmented").train
    expected = train.x[0]
    for count in (1, 5, 3):
        found = [x for x, _ in itertools.islice(train.stream(None), count)]
        assert np.abs(found[0] - expected).max() < 10  # of the same row, with other noise


def test_an_endless_set_is_known_by_its_first_samples(module, monkeypatch):
    monkeypatch.setattr(sources, "ENDLESS_SAMPLES", 100)
    result = load(f"{module}:endless")
    assert [len(s) for s in (result.train, result.validation, result.test)] == [100, 10, 100]
    batches = result.train.batches(40, np.random.default_rng(0))
    assert len(list(itertools.islice(batches, 50))) == 50  # goes on beyond what is known
    (warning,) = result.warnings
    assert "'test' never ends; its first 100 samples are used" in warning
    refused(f"{module}:endless_alone", "never ends", "'val'", "repeat()")


def test_reading_for_long_is_told_once(module, monkeypatch, caplog):
    monkeypatch.setattr(sources, "_PATIENCE_SECONDS", 0.0)
    load(f"{module}:named")
    (record,) = caplog.records
    assert "train: 1 samples so far, still reading" in record.getMessage()


def test_batches_cover_a_split_once(tmp_path):
    split = load(saved(tmp_path, **arrays())).train
    assert [len(x) for x, _ in split.batches(16)] == [16, 16, 4]
    assert np.array_equal(np.concatenate([x for x, _ in split.batches(16)]), split.x)
    shuffled = list(split.batches(12, np.random.default_rng(0)))
    labels = np.concatenate([y for _, y in shuffled])
    assert np.array_equal(np.sort(labels), np.sort(split.y))
    assert not np.array_equal(labels, split.y)
