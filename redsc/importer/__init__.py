"""TensorFlow edge 1: any Keras file a user has becomes a `redsc.ir.Graph`."""

from redsc.importer.load import LoadedModel, load
from redsc.importer.reference import reference_model, reference_predict

__all__ = ["LoadedModel", "load", "reference_model", "reference_predict"]
