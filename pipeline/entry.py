"""From an exception to a message and an exit code, for both command lines."""

from __future__ import annotations

import signal
from types import FrameType
from typing import NoReturn

import click

from pipeline.errors import INTERRUPTED_EXIT_CODE, TERMINATED_EXIT_CODE, CosmoflowError


class Terminated(KeyboardInterrupt):
    """SIGTERM, as a batch system sends it before it kills: stop as on Ctrl-C."""


def run_command(command: click.Command) -> int:
    """Run a command line and return its exit code; errors of the user are one message."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return int(command.main(standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except CosmoflowError as error:
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        # click turns a KeyboardInterrupt into its own Abort
        if isinstance(error.__cause__ or error, Terminated):
            click.echo("stopped by SIGTERM", err=True)
            return TERMINATED_EXIT_CODE
        click.echo("stopped", err=True)
        return INTERRUPTED_EXIT_CODE


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated
