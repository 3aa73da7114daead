"""Fidelity: how close int8 comes to float."""

import numpy as np
import pytest

from redsc import measure, report


def test_fidelity_is_signal_over_error_and_equal_classes():
    real = np.array([[3.0, 4.0], [5.0, 0.0]])
    same = report.fidelity(real, real)
    assert same == {"sqnr_db": report.SQNR_CAP_DB, "argmax_agreement": 1.0}
    swapped = report.fidelity(real, np.array([[4.0, 3.0], [5.0, 0.0]]))
    assert swapped == {
        "sqnr_db": pytest.approx(10 * np.log10(50 / 2), abs=0.005),
        "argmax_agreement": 0.5,
    }


def test_every_position_of_a_map_has_a_class_and_a_single_output_has_none():
    real = np.zeros((2, 3, 1, 2))
    real[..., 0] = 1
    other = real.copy()
    other[0, 0, 0] = (0, 1)
    assert report.fidelity(real, other)["argmax_agreement"] == round(5 / 6, 4)
    assert report.fidelity(np.ones((4, 1)), np.zeros((4, 1)))["argmax_agreement"] is None


def test_a_warning_tells_when_the_widest_level_strays_from_float():
    def levels(*decibels):
        return [{"fidelity": {"sqnr_db": value}} for value in decibels]

    assert measure.fidelity_warnings(levels(3.0, 25.0)) == []
    assert measure.fidelity_warnings(levels(None)) == []
    (warning,) = measure.fidelity_warnings(levels(25.0, 6.02))
    assert "by 6.02 dB only (its error is 50% of them)" in warning
