"""Training on several replicas: real processes on loopback against one."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from redsc import distribution, pipeline, recipe
from redsc.config import CompileOptions
from redsc.distribution import Cluster
from redsc.errors import ClusterError, UsageError
from tests.data_files import write_network
from tests.test_finetune import depthwise, task_data

WORKER = Path(__file__).with_name("training_worker.py")
FIRST_STEP = Path(__file__).with_name("first_step.py")
SECONDS = 300


def start(strategy: str, folder: Path, result: Path, *extra: str, config: str | None = None):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("TF_CONFIG", None)
    if config is not None:
        environment["TF_CONFIG"] = config
    return subprocess.Popen(
        [sys.executable, str(WORKER), strategy, str(folder), str(result), *extra],
        stdout=subprocess.PIPE, stderr=None, text=True, env=environment,
    )  # fmt: skip


def configs(count: int) -> list[str]:
    """TF_CONFIG of every worker, on ports that were free a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("localhost", 0))
    addresses = [f"localhost:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return [
        json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})
        for index in range(count)
    ]


def losses(output: str) -> list[float]:
    return [float(value) for value in re.findall(r"loss (\S+),", output)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Loss curve and weights of one process."""
    folder = tmp_path_factory.mktemp("alone")
    worker = start("one-device", folder, folder / "result.npz")
    output, _ = worker.communicate(timeout=SECONDS)
    assert worker.returncode == 0, output
    return losses(output), dict(np.load(folder / "result.npz"))


def assert_same(result: Path, output: str, alone, replicas: int) -> None:
    """Equal within float noise, which Adam's division by small gradients makes larger."""
    curve, weights = alone
    assert len(curve) == 4
    np.testing.assert_allclose(losses(output), curve, rtol=2e-3)
    found = dict(np.load(result))
    assert found.pop("replicas") == replicas
    for name, value in found.items():
        np.testing.assert_allclose(value, weights[name], atol=2e-3, err_msg=name)


@pytest.mark.slow
def test_the_first_step_of_two_devices_is_that_of_one(tmp_path):
    """Before Adam, which hides a wrong size of gradients."""
    result = tmp_path / "result.npz"
    subprocess.run(
        [sys.executable, str(FIRST_STEP), str(result)],
        check=True, timeout=SECONDS, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    found = np.load(result)
    assert len(found["mirrored/mean"]) == 2
    for name in ("loss", "gradients", "mean", "variance"):
        one, two = found[f"one-device/{name}"], found[f"mirrored/{name}"]
        noise = 1e-5 * np.abs(one).max()
        np.testing.assert_allclose(two, np.broadcast_to(one, two.shape), rtol=1e-5, atol=noise)


@pytest.mark.slow
def test_two_devices_train_like_one(tmp_path, alone):
    worker = start("mirrored", tmp_path, tmp_path / "result.npz")
    output, _ = worker.communicate(timeout=SECONDS)
    assert worker.returncode == 0, output
    assert_same(tmp_path / "result.npz", output, alone, replicas=2)


@pytest.mark.slow
def test_two_processes_train_like_one(tmp_path, alone):
    results = [tmp_path / f"{number}.npz" for number in range(2)]
    workers = [
        start("multi-worker", tmp_path / "checkpoints", result, config=config)
        for result, config in zip(results, configs(2), strict=True)
    ]
    outputs = [worker.communicate(timeout=SECONDS)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    for result, output in zip(results, outputs, strict=True):
        assert_same(result, output, alone, replicas=2)
    first, second = (dict(np.load(result)) for result in results)
    for name, value in first.items():
        assert np.array_equal(value, second[name]), name


@pytest.mark.slow
def test_a_killed_worker_ends_the_others_and_training_resumes(tmp_path, alone):
    checkpoints = tmp_path / "checkpoints"
    chief, other = (
        start("multi-worker", checkpoints, tmp_path / "result.npz", *extra, config=config)
        for extra, config in zip(((), ("die",)), configs(2), strict=True)
    )
    output, _ = chief.communicate(timeout=SECONDS)
    other.communicate(timeout=SECONDS)
    assert other.returncode == 9
    assert chief.returncode == 6, output
    assert "worker 0 of 2 lost another one" in output
    assert list(checkpoints.glob("*.npz"))
    assert not (tmp_path / "result.npz").exists()
    results = [tmp_path / f"{number}.npz" for number in range(2)]
    workers = [
        start("multi-worker", folder, result, config=config)
        # The second one lost its disk: the chief's checkpoint counts.
        for folder, result, config in zip(
            (checkpoints, tmp_path / "empty"), results, configs(2), strict=True
        )
    ]
    outputs = [worker.communicate(timeout=SECONDS)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    curve, weights = alone
    assert losses(outputs[0]) == losses(outputs[1])
    assert 1 <= len(losses(outputs[0])) < 4
    np.testing.assert_allclose(losses(outputs[0]), curve[-len(losses(outputs[0])) :], rtol=2e-3)
    for result in results:
        for name, value in dict(np.load(result)).items():
            if name != "replicas":
                np.testing.assert_allclose(value, weights[name], atol=2e-3, err_msg=name)


def test_what_is_chosen_by_measured_scores_is_the_chiefs(tmp_path):
    chosen = {"mixing": True, "distillation": 0.51, "hints": 5.0}

    class Worker(Cluster):
        def from_chief(self, arrays):
            return {name: np.array(float(chosen[name])) for name in arrays}

    graph = depthwise()
    dataset = task_data(graph.input.shape)
    options = CompileOptions(tmp_path / "model.h5", tmp_path / "build")
    worker = Worker(None, worker=1, workers=2)
    told = pipeline._training(options, graph, dataset, worker, tmp_path)
    own = recipe.suited(recipe.Options(), graph, dataset)
    assert told.options == dataclasses.replace(own, **chosen)
    assert all(value != getattr(own, name) for name, value in chosen.items())


@pytest.fixture(scope="module")
def model_and_data(tmp_path_factory) -> Path:
    """A folder with model.h5 and data.npz."""
    folder = tmp_path_factory.mktemp("model")
    x = np.random.default_rng(0).normal(size=(160, 8, 6, 1)).astype(np.float32)
    np.savez(folder / "data.npz", x_train=x, y_train=(x.mean(axis=(1, 2, 3)) > 0).astype(np.int64))
    write_network(folder / "model.h5", (8, 6, 1), convolutions=1, classes=2)
    return folder


COMPILE = """
from redsc import cli, distribution, finetune
distribution._TIMEOUT_SECONDS = 20.0
finetune._CHECKPOINT_SECONDS = 0.0
cli.main()
"""


def start_compile(folder: Path, output: Path, cache: Path, epochs: int, config: str):
    """`redsc compile` as one worker, with short times."""
    command = [
        sys.executable, "-c", COMPILE, "compile", str(folder / "model.h5"), "--data",
        str(folder / "data.npz"), "--levels", "50,100", "--epochs", f"{epochs}", "--no-verify",
        "--strategy", "multi-worker", "--batch-size", "16", "-o", str(output),
        "--objective", "probes",
    ]  # fmt: skip
    environment = {**os.environ, "TF_CONFIG": config, "REDSC_CACHE_DIR": str(cache)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


@pytest.mark.slow
def test_two_workers_compile_one_project(model_and_data, tmp_path):
    """The command itself: the chief writes the project, the other one only trains."""
    workers = [
        start_compile(model_and_data, tmp_path / f"build-{number}", tmp_path / "cache", 2, config)
        for number, config in enumerate(configs(2))
    ]
    outputs = [worker.communicate(timeout=SECONDS) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    assert "wrote" in outputs[0][0]
    assert outputs[1][0] == ""  # where scripts look for a report
    assert "the chief writes the project" in outputs[1][1]
    assert (tmp_path / "build-0" / "report" / "report.json").is_file()
    assert not (tmp_path / "build-1").exists()
    assert not list((tmp_path / "cache" / "training").iterdir())


@pytest.mark.slow
def test_a_compile_that_loses_a_worker_says_so_and_goes_on_later(model_and_data, tmp_path):
    """The other worker is killed while levels are trained."""
    outputs = [tmp_path / f"build-{number}" for number in range(2)]
    chief, other = (
        start_compile(model_and_data, output, tmp_path / "cache", 40, config)
        for output, config in zip(outputs, configs(2), strict=True)
    )
    while not list(tmp_path.glob("cache/training/*/*.npz")) or "train levels" not in (
        other.stderr.readline()
    ):
        assert other.poll() is None
    other.kill()
    other.communicate()
    said = chief.communicate(timeout=SECONDS)[1]
    assert chief.returncode == 6, said
    assert "Start the same command again on all workers" in said
    assert not outputs[0].exists()
    again = [
        start_compile(model_and_data, output, tmp_path / "cache", 40, config)
        for output, config in zip(outputs, configs(2), strict=True)
    ]
    said = [worker.communicate(timeout=SECONDS)[1] for worker in again]
    assert [worker.returncode for worker in again] == [0, 0], said
    assert (outputs[0] / "report" / "report.json").is_file()


@pytest.mark.parametrize(
    "config",
    [
        "",
        "{",
        "[]",
        '{"cluster": {"worker": []}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "ps", "index": 0}}',
    ],
)
def test_a_missing_or_wrong_tf_config_is_explained(config, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(UsageError, match="needs TF_CONFIG"):
        distribution.connect("multi-worker")


def task(monkeypatch: pytest.MonkeyPatch, index: int, *addresses: str) -> None:
    config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))


def test_a_worker_that_does_not_come_is_named(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    absent, own = (json.loads(config)["cluster"]["worker"] for config in configs(2))
    monkeypatch.setattr(distribution, "_MEETING_SECONDS", 0.5)
    task(monkeypatch, 1, absent[0], own[1])
    with pytest.raises(ClusterError, match=f"worker 1 of 2 waited 0.5 s for {absent[0]}"):
        distribution.connect("multi-worker")
    assert f"waiting for the workers at {absent[0]}" in caplog.text


def test_a_port_that_is_taken_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("", 0)) as taken:
        address = f"localhost:{taken.getsockname()[1]}"
        task(monkeypatch, 0, address, "localhost:1")
        with pytest.raises(ClusterError, match=f"cannot listen at {address}: Address already"):
            distribution.connect("multi-worker")
    task(monkeypatch, 0, "localhost:port", "localhost:1")
    with pytest.raises(ClusterError, match="cannot listen at localhost:port"):
        distribution.connect("multi-worker")


def test_workers_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = json.loads(configs(3)[0])["cluster"]["worker"]
    monkeypatch.setattr(distribution, "_MEETING_SECONDS", 20)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda index: distribution._meet(addresses, index), range(3)))
