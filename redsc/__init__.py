"""redsc: one Keras network in, one width-switching int8 firmware out."""

__version__ = "0.1.0"
