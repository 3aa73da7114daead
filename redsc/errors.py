"""Errors that a user can cause, each with the exit code the command line documents.

A message says where, what, the value, the limit and the next step. Anything that is not a
`RedscError` is a defect of redsc and leaves with exit code 1.
"""


class RedscError(Exception):
    """Base of all errors meant for a user; `exit_code` is the process's exit status."""

    exit_code = 1


class UsageError(RedscError):
    """Options, configuration or data are wrong."""

    exit_code = 2


class ModelError(RedscError):
    """The model file cannot be read, or holds something redsc does not support."""

    exit_code = 3


class InfeasibleError(RedscError):
    """No widths satisfy the budgets; the message names the binding constraint."""

    exit_code = 4


class ToolchainError(RedscError):
    """A compiler, emulator or other outside tool is missing or failed."""

    exit_code = 5


class ClusterError(RedscError):
    """Other workers of a distributed training are gone or cannot be reached."""

    exit_code = 6


class VerificationError(RedscError):
    """A level's outputs differ between two implementations; names level and first layer."""

    exit_code = 7
