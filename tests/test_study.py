"""benchmarks/study: its jobs, what it makes of results, and the networks that it trains."""

import os
import sys
from pathlib import Path
from runpy import run_path

import pytest

from redsc import groups, importer, ir, passes
from redsc.tf_network import tensorflow

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "speech"))
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "study"))

import bars
import jobs
import networks
import paper
import tables

STUDY = Path(jobs.__file__).parent


def result(method: str, seed: int, accuracies: list[float], split: str = "index") -> dict:
    levels = [
        {
            "macs_percent": 100 * (number + 1) / len(accuracies),
            **{f"{kind}_{part}": a for kind in ("float", "int8") for part in tables.PARTS},
        }
        for number, a in enumerate(accuracies)
    ]
    original = {"clean": 0.9, "noisy": 0.8}
    return {
        "family": "ds_cnn_s", "split": split, "seed": seed, "method": method,
        "levels": levels, "original": original, "search_seconds": 1.0,
        "proven_optimal": True, "seconds": {"train levels": 60.0 * len(levels)},
    }  # fmt: skip


def test_every_job_has_a_key_of_its_own_and_scratch_comes_after_what_it_copies():
    keys = [job.key for job in jobs.all_jobs()]
    assert len(set(keys)) == len(keys)
    for place, key in enumerate(keys):
        if key.endswith(jobs.SCRATCH):
            assert keys.index(key.replace(jobs.SCRATCH, "redsc")) < place


def test_differences_are_paired_by_split_and_seed():
    results = [
        result("redsc", 0, [0.80, 0.90, 0.91, 0.95]),
        result("uniform", 0, [0.78, 0.90, 0.92, 0.95]),
        result("redsc", 1, [0.70, 0.80, 0.91, 0.95]),
        result("uniform", 1, [0.69, 0.80, 0.92, 0.95]),
        result("uniform", 2, [0.99, 0.99, 0.99, 0.99]),  # has no partner
    ]
    labels, rows = tables._differences(results, "clean", ("uniform", "scratch"))
    assert labels == ["redsc - uniform, 2 pairs", "redsc - scratch, 0 pairs"]
    assert rows[0][:3] == ["+1.50 ± 0.50", "+0.00 ± 0.00", "-1.00 ± 0.00"]
    assert rows[1] == ["-"] * 4
    assert bars.above_original(results, "clean") == pytest.approx([5, 5])


def test_levels_of_any_number_stand_at_their_percentages():
    results = [
        result("redsc", 0, [0.5, 0.6, 0.7, 0.8]),
        result("2 levels", 0, [0.61, 0.81]),
        result("10 levels", 0, [0.1 * n for n in range(10)]),
    ]
    text = tables._numbers_of_levels(results).splitlines()
    assert text[0].split(" | ")[2:5] == ["20 %", "25 %", "30 %"]
    two = text[3].split(" | ")
    assert (two[0], two[6], two[-1]) == ("| 2 levels", "61.00", "81.00 |")
    assert two[1] == "-"
    short = [{**result, "split": jobs.SHORT} for result in results]
    everything = "\n".join(tables._sections(short, []))
    assert "61.00" in everything


def test_aims_are_reached_or_not():
    results = [
        result("redsc", 0, [0.80, 0.90, 0.91, 0.95]),
        result("uniform", 0, [0.79, 0.89, 0.91, 0.95]),
        result("scratch", 0, [0.805, 0.91, 0.91, 0.95]),
    ]
    text = bars.table(results)
    assert "| +1.00, +1.00 | yes |" in text  # clean and noisy
    assert "below -0.5 against uniform widths | +0.00, +0.00 | yes |" in text
    assert "at 50, 75 and 100 % | -1.00, -1.00 | no |" in text
    assert "at least -1 at 25 % | -0.50, -0.50 | yes |" in text
    assert "100.0 … 100.0 % | yes |" in text
    assert "at most 0.25 s, all proven | yes |" in text
    assert "median 4.0 minutes | yes |" in text
    unproven = bars.table([{**results[0], "proven_optimal": False}])
    assert "at most 0.25 s, not all proven | no |" in unproven
    assert "yes" not in bars.table([])


def test_rows_are_means_over_seeds_of_means_over_splits():
    results = [
        result("redsc", 0, [0.5] * 4, "without-theo"),
        result("redsc", 0, [0.7] * 4, "without-lucas"),
        result("redsc", 1, [0.8] * 4, "without-theo"),
    ]
    row = tables._row(results, "redsc", tables._level_accuracy("int8", "clean"))
    assert row == ["70.00 ± 14.14"] * 4


def test_a_job_is_claimed_once_and_taken_over_from_a_process_that_is_gone(tmp_path):
    claim = run_path(str(STUDY / "__main__.py"), run_name="study")["_claim"]
    first, second, *_ = jobs.all_jobs()
    assert claim(tmp_path, [first, second]) == first
    assert claim(tmp_path, [first, second]) == second
    assert claim(tmp_path, [first, second]) is None
    gone = os.fork()
    if gone == 0:
        os._exit(0)
    os.waitpid(gone, 0)
    (tmp_path / "claims" / second.key.replace("/", "_")).write_text(str(gone))
    assert claim(tmp_path, [first, second]) == second


WIDTHS = {
    "ds_cnn_s": (8, 12, 16, 20, 24),
    "ds_cnn_s_images": (8, 12, 16, 20, 24),
    "mlperf_kws": (8, 12, 16, 20, 24),
    "cnn": (4, 6, 8, 12),
    "dense": (8, 12, 16),
    "resnet": (4, 6, 8, 10, 12, 14),
}


@pytest.mark.parametrize("family", networks.FAMILIES)
def test_widths_of_a_network_are_those_of_its_groups_in_order(family, tmp_path):
    tensorflow()
    import tf_keras as keras

    assert set(WIDTHS) == set(networks.FAMILIES)
    network = networks.FAMILIES[family](keras, 10, WIDTHS[family])
    network.save(tmp_path / "network.h5")
    graph = passes.lower(importer.load(tmp_path / "network.h5").graph)
    free = groups.find_groups(graph).free
    assert tuple(group.units for group in free) == WIDTHS[family]


@pytest.mark.parametrize(
    ("published", "name"), [(p, name) for p, names in paper.TABLES.items() for name in names]
)
def test_the_papers_networks_can_be_compiled_for_their_data(published, name, tmp_path):
    tensorflow()
    import tf_keras as keras

    table = paper.TABLES[published][name]
    network = table.build(keras, table.classes)
    network.save(tmp_path / "network.h5")
    graph = passes.lower(importer.load(tmp_path / "network.h5").graph)
    assert groups.find_groups(graph).free
    assert table.classes == ir.shapes(graph)[graph.output][-1]


def test_the_papers_accuracy_stands_beside_redscs():
    levels = [
        {"budget_percent": p, "macs_percent": p - 0.2, "accuracy_float": 0.9, "accuracy_int8": 0.89}
        for p in (20.0, 25.0)
    ]
    table = paper.TABLES["fashion-mnist"]["ds-cnn-s"]
    lines = paper._text(table, {"levels": levels, "original": {"accuracy": 0.91}}).splitlines()
    assert lines[1].split() == ["20", "%", "19.8", "%", "90.00", "89.00", "-"]
    assert lines[2].split()[-1] == "89.22"
    assert lines[3].split() == ["alone", "100.0", "%", "91.00", "90.59"]
