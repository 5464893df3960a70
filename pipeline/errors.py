"""The one exception tree of the project, and the exit codes it maps to.

Every error that a user can cause derives from :class:`CosmoflowError`.  Its
message names the file, the value found, the value expected and what to do.
The command line prints the message alone and leaves with ``exit_code``;
anything else is a defect of ours and shows its traceback (exit code 1).
"""

from __future__ import annotations

INTERRUPTED_EXIT_CODE = 130
"""Exit code after Ctrl-C, as shells use it (128 + SIGINT)."""

TERMINATED_EXIT_CODE = 143
"""Exit code after SIGTERM (128 + SIGTERM), which batch systems send before they kill."""


QUARANTINED_EXIT_CODE = 11
"""Exit code of a build that is done, but without some universes of the input."""


class CosmoflowError(Exception):
    """Base of all errors that a user can cause and mend."""

    exit_code = 1


class RecipeError(CosmoflowError):
    """The recipe has a typo, a wrong type or an impossible combination."""

    exit_code = 3


class InputError(CosmoflowError):
    """The input as a whole is not what the recipe says (universes, parameters, redshifts)."""

    exit_code = 4


class SnapshotError(InputError):
    """One snapshot cannot be trusted: truncated, malformed, incomplete, wrong units."""


class OutputError(CosmoflowError):
    """The output exists, is locked by another build, or cannot be written."""

    exit_code = 5


class DatasetError(CosmoflowError):
    """A data set is damaged, incomplete or not a data set at all."""

    exit_code = 6


class MissingDependencyError(CosmoflowError):
    """An optional library is not installed; the message says how to install it."""

    exit_code = 7


class BuildError(CosmoflowError):
    """The build could not finish: workers died or a task kept failing."""

    exit_code = 8


class SimulationError(CosmoflowError):
    """A universe could not be simulated as asked."""

    exit_code = 9


class TrainingError(CosmoflowError):
    """Training cannot start or go on (no samples, loss not finite, bad checkpoint)."""

    exit_code = 10


def require(module: str, extra: str) -> MissingDependencyError:
    """Error to raise when the optional ``module`` of an extra is missing.

    Parameters
    ----------
    module : str
        Name of the import that failed.
    extra : str
        The extra of ``cosmoflow-prep`` that brings it.
    """
    return MissingDependencyError(
        f"{module} is not installed; install it with: pip install 'cosmoflow-prep[{extra}]'"
    )
