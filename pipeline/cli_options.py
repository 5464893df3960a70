"""Arguments and options that several commands of ``cosmoflow-prep`` have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pipeline.write.stores import is_url

if TYPE_CHECKING:
    from pipeline.cluster import ClusterChoice

_Command = TypeVar("_Command", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)


class _PlaceType(click.ParamType[Path | str]):
    """A path, or the URL of a data set as it was typed."""

    name = "path or url"

    def convert(self, value: Any, param: Any, ctx: Any) -> Path | str:
        return value if is_url(value) else Path(value)


PLACE = _PlaceType()


def json_option(command: _Command) -> _Command:
    """``--json``, as the argument ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(command)


def cluster_options(command: _Command) -> _Command:
    """``--cluster``, ``--workers`` and ``--memory-limit``."""
    options = (
        click.option(
            "--cluster",
            default="local",
            show_default=True,
            help="local; tcp://host:port of a scheduler; or a scheduler file (.json).",
        ),
        click.option(
            "--workers", type=click.IntRange(1), help="Local worker processes.  [default: cores]"
        ),
        click.option(
            "--memory-limit", default="auto", show_default=True, help="Of a worker, e.g. 2GiB."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def cluster_choice(cluster: str, workers: int | None, memory_limit: str) -> ClusterChoice:
    """What :func:`cluster_options` say."""
    from pipeline.cluster import ClusterChoice  # noqa: PLC0415  (imports distributed)

    return ClusterChoice(cluster, workers, memory_limit)
