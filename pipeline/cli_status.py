"""The command ``cosmoflow-prep status``: look, print, and tell scripts by the exit code."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.live import Live
from rich.text import Text

from pipeline import terminal
from pipeline.write.stores import is_url

if TYPE_CHECKING:
    from pipeline.status import Status

WATCH_SECONDS = 5.0


@click.command()
@click.argument("place", metavar="DATASET|RECIPE")
@click.option("--watch", is_flag=True, help="Look again every few seconds until it has ended.")
@click.option(
    "--every",
    type=click.FloatRange(min=0.1),
    default=WATCH_SECONDS,
    show_default=True,
    help="Seconds between two looks of --watch.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (each look a line).")
@click.pass_context
def status(context: click.Context, place: str, *, watch: bool, every: float, as_json: bool) -> None:
    r"""Say how far the build of a data set is, running or not.

    Reads the ledger, the lock and the plan that a build leaves beside its
    shards; it takes no lock and writes nothing, so it can be called at any time,
    from any machine that sees the output.

    \b
    Example:
      cosmoflow-prep status datasets/quijote
      cosmoflow-prep status recipe.yaml --watch

    Exit codes: 0 finished, 11 finished without some universes, 6 damaged, or no build there;
    20 running; 21 stopped, or no sign of life for ten minutes: it has to be gone on with.
    """
    from pipeline.status import status_of  # noqa: PLC0415

    named = place if is_url(place) else Path(place)
    if not watch:
        found = status_of(named)
        _print(found, as_json)
        context.exit(found.exit_code)
    out = terminal.console()
    if out.is_terminal and not as_json:
        with Live(console=out, auto_refresh=False) as live:
            while True:
                found = status_of(named)
                # as text: ids are the user's, and may look like markup
                live.update(Text("\n".join(_lines(found))), refresh=True)
                if found.state != "running":
                    break
                time.sleep(every)
    else:
        while True:
            found = status_of(named)
            _print(found, as_json)
            if found.state != "running":
                break
            time.sleep(every)
    context.exit(found.exit_code)


def _print(found: Status, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(asdict(found) | {"exit_code": found.exit_code}))
        return
    for line in _lines(found):
        click.echo(line)


def _lines(found: Status) -> list[str]:
    lines = [f"{found.place}: {_state(found)}"]
    done = [
        _of(found.shards_done, found.shards, "shards"),
        _of(found.samples_done, found.samples, "samples"),
        _of(found.universes_done, found.universes, "universes"),
        _of(found.particles_done, found.particles, "particles"),
    ]
    lines.append("  done: " + ", ".join(done))
    lines += [f"  quarantined: {name}: {why}" for name, why in found.quarantined.items()]
    lines.append(f"  disk: {_disk(found)}")
    if found.shards_a_minute is not None and found.bytes_a_second is not None:
        left = "" if found.seconds_left is None else f"; about {span(found.seconds_left)} left"
        lines.append(
            f"  rate: {found.shards_a_minute:.3g} shards a minute, "
            f"{terminal.size(found.bytes_a_second)}/s{left}"
        )
    if found.stage_seconds:
        stages = ", ".join(f"{name} {span(s)}" for name, s in found.stage_seconds.items())
        lines.append(f"  work of all workers: {stages}")
    for last in found.last:
        ago = "" if last.seconds_ago is None else f", {span(last.seconds_ago)} ago"
        lines.append(f"  finished: {last.task} ({_some(last.universes)}){ago}")
    lines += [f"  fault: {fault}" for fault in found.faults]
    return [*lines, f"  next: {found.advice}"]


def _state(found: Status) -> str:
    if found.process is None:
        return found.state
    who = f"process {found.process.pid} on {found.process.host}"
    silent = found.process.silent_seconds
    sign = "" if silent is None else f", last sign of life {span(silent)} ago"
    if found.state == "stopped":
        return f"stopped ({who} has ended)"
    if found.state == "running":
        since = found.process.seconds
        run = "" if since is None else f" for {span(since)}"
        return f"running{run}, {found.stage} ({who}{sign})"
    return f"{found.state} ({who}{sign})"


def _of(done: int, total: int | None, what: str) -> str:
    return f"{done:,} {what}" if total is None else f"{done:,} of {total:,} {what}"


def _disk(found: Status) -> str:
    parts = [f"{terminal.size(found.bytes_written)} written"]
    if found.bytes_needed:
        parts.append(f"about {terminal.size(found.bytes_needed)} to come")
    if found.bytes_free is not None:
        parts.append(f"{terminal.size(found.bytes_free)} free")
    if found.bytes_free is not None and (found.bytes_needed or 0) > found.bytes_free:
        parts.append("that is too little")
    return ", ".join(parts)


def _some(names: list[str], most: int = 4) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def span(seconds: float) -> str:
    """E.g. ``3 h 20 min``, ``2 min 5 s``, ``0.4 s``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 1:
        return f"{minutes} min {rest} s"
    days, hours = divmod(hours, 24)
    return f"{hours} h {minutes} min" if days < 1 else f"{days} d {hours} h"
