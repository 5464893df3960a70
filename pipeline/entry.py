"""From an exception to a message and an exit code, for both command lines."""

from __future__ import annotations

import click
from click.core import ParameterSource

from pipeline import signals
from pipeline.errors import INTERRUPTED_EXIT_CODE, CosmoflowError


def run_command(command: click.Command) -> int:
    """Run a command line and return its exit code; errors of the user are one message."""
    signals.install()
    try:
        return int(command.main(standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except CosmoflowError as error:
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _stopped()


def _stopped() -> int:
    # click turns a KeyboardInterrupt into its own Abort: the signal itself is asked for
    request = signals.received()
    if request is None:
        click.echo("stopped", err=True)
        return INTERRUPTED_EXIT_CODE
    click.echo(f"stopped by {request}", err=True)
    return request.exit_code


def given_options(context: click.Context) -> list[str]:
    """Options of a command as they were typed, to say how to call it again."""
    given: list[str] = []
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if isinstance(parameter, click.Option) and source is ParameterSource.COMMANDLINE:
            given += [parameter.opts[-1]]
            given += [] if parameter.is_flag else [str(context.params[parameter.name or ""])]
    return given
