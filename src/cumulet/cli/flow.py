# SPDX-License-Identifier: Apache-2.0
"""`cumulet flow`: the way of a server, step by step, afterwards and as it happens."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from cumulet.cli.session import CliError, Place, Refused, Session, cloud_options, events_of, say_json

if TYPE_CHECKING:
    from queue import SimpleQueue

    from rich.text import Text

    from cumulet.client.insight import Flow, FlowStep

_FRAME_SECONDS = 0.1
_QUIET_SECONDS = 1.0
"""Without news for that long, compute is asked what became of the server."""
_RECONNECTS = 5
_STATUS = {"ACTIVE": "bold green", "ERROR": "bold red", "BUILD": "bold yellow", "DELETED": "dim"}


@click.command()
@click.argument("server")
@cloud_options
@click.option("--watch", "-w", is_flag=True, help="Follow a server that is being built, until it is done.")
@click.option("--json", "as_json", is_flag=True, help="As JSON; with --watch one line per step.")
def flow(place: Place, server: str, watch: bool, as_json: bool) -> None:
    """Draw the way of SERVER (name or id): the 29 steps with their times and what failed."""
    session = Session(place)
    server_id, shown = session.find_server(server)
    told = session.call("cumulet", "GET", f"/servers/{server_id}/flow")
    if watch and (shown is None or shown["status"] == "BUILD" or not told["finished"]):
        Watcher(session, server_id, shown, as_json=as_json).run()
        return
    if as_json:
        say_json(told)
        return
    if not told["events"]:
        raise CliError(f"nothing is known of the way of {server}; flows are kept for 7 days")
    from rich.console import Console

    show(Console(highlight=False), read(told), server_id, shown)


def read(told: Any) -> Flow:
    """The typed flow of an answer."""
    import msgspec

    from cumulet.client.insight import Flow

    return msgspec.convert(told, Flow)


def show(console: Any, flow: Flow, server_id: str, server: dict[str, Any] | None) -> None:
    """Print a flow that is over (or as far as it is)."""
    from cumulet.cli.drawing import Picture

    console.print()
    for line in Picture(title(flow.events, server_id, server), flow.events).lines(console.width):
        console.print(line, soft_wrap=True)
    console.print()


def title(steps: list[FlowStep], server_id: str, server: dict[str, Any] | None) -> Text:
    """Who it is, how it is, how far it came and how long that took."""
    from rich.text import Text

    from cumulet.cli.drawing import Axis, duration

    status = server["status"] if server else "DELETED"
    line = Text(" ")
    line.append(server["name"] if server else "(deleted)", "bold")
    line.append(f"  {server_id}  ", "dim")
    line.append(status, _STATUS.get(status, "bold"))
    attempt = max((one.attempt for one in steps), default=1)
    first = [one.place for one in steps if one.attempt < attempt and 0 < one.place < 12]
    done = {one.place for one in steps if one.attempt == attempt and one.started_at and not one.error} | set(first)
    line.append(f"   {len(done & set(range(1, 30)))} of 29 steps", "dim")
    if ms := Axis.of(steps).ms:
        line.append(f" in {duration(ms)}", "dim")
    if attempt > 1:
        line.append(f", attempt {attempt}", "yellow")
    return line


class Watcher:
    """Follows one server's stream: a drawing that changes on a terminal, lines elsewhere."""

    def __init__(self, session: Session, server_id: str, server: dict[str, Any] | None, *, as_json: bool) -> None:
        self._session, self._id, self._server, self._as_json = session, server_id, server, as_json
        self._rows: dict[tuple[int, str], FlowStep] = {}
        self._news_at = self._asked_at = time.monotonic()
        self._done = False

    def run(self) -> None:
        """Until the server is built, has failed or is gone."""
        from queue import SimpleQueue
        from threading import Thread

        from rich.console import Console

        news: SimpleQueue[Any] = SimpleQueue()
        # the token and the catalogue are known by now: the reader only uses its own connection
        reader = Thread(target=self._read, args=(news,), daemon=True)
        reader.start()
        console = Console(highlight=False)
        drawing = console.is_terminal and not self._as_json
        try:
            if drawing:
                self._draw(console, news)
            else:
                self._print(news)
        finally:
            self._done = True
            self._session.end_streams()
            reader.join(_QUIET_SECONDS)
        if not drawing:
            return
        told = read(self._session.call("cumulet", "GET", f"/servers/{self._id}/flow"))
        show(console, told, self._id, self._server)

    def _print(self, news: SimpleQueue[Any]) -> None:
        while not self._over():
            for row in self._take(news):
                self._say(row)

    def _draw(self, console: Any, news: SimpleQueue[Any]) -> None:
        import msgspec
        from rich.console import Group
        from rich.live import Live

        from cumulet.cli.drawing import Picture
        from cumulet.client.insight import StepName

        names = msgspec.convert(self._session.call("cumulet", "GET", "/steps")["steps"], list[StepName])
        tick = 0
        with Live(console=console, transient=True, auto_refresh=False) as live:
            while not self._over():
                self._take(news)
                steps = list(self._rows.values())
                waited = (time.monotonic() - self._news_at) * 1000
                picture = Picture(title(steps, self._id, self._server), steps, names, tick, waited)
                live.update(Group(*picture.lines(console.width, console.height - 1)), refresh=True)
                tick += 1

    def _say(self, row: FlowStep) -> None:
        import msgspec

        from cumulet.cli.drawing import duration

        if self._as_json:
            click.echo(msgspec.json.encode(row).decode())
            return
        state = f"failed: {row.error}" if row.error else f"skipped: {row.skipped}" if row.skipped else ""
        told = state or (duration(row.duration_ms) if row.duration_ms else "")
        attempt = f" (attempt {row.attempt})" if row.attempt > 1 else ""
        number = "" if row.step is None else str(row.step)
        click.echo(f"{number:>2} {row.name:<22} {row.between or row.component:<27} {told}{attempt}".rstrip())

    # ---- news

    def _take(self, news: SimpleQueue[Any]) -> list[FlowStep]:
        """All rows that came within a frame's time; raises what ended the stream."""
        from queue import Empty

        import msgspec

        from cumulet.client.insight import FlowStep

        taken: list[FlowStep] = []
        until = time.monotonic() + _FRAME_SECONDS
        while (left := until - time.monotonic()) > 0:
            try:
                told = news.get(timeout=left)
            except Empty:
                break
            if isinstance(told, Exception):
                raise told
            row = msgspec.convert(told, FlowStep)
            self._rows[row.attempt, row.name] = row
            self._news_at = time.monotonic()
            taken.append(row)
        return taken

    def _read(self, news: SimpleQueue[Any]) -> None:
        """In a thread: the stream's events, over as many connections as it takes."""
        last, failures = "0", 0
        while True:
            try:
                headers = {"Accept": "text/event-stream", "Last-Event-ID": last}
                for number, told in events_of(
                    self._session.stream("cumulet", f"/servers/{self._id}/flow/stream", headers)
                ):
                    failures = 0
                    if told is not None:
                        last = number or last
                        news.put(told)
                raise CliError("the stream of the flow ended")
            except Exception as error:
                if self._done:
                    return
                failures += 1
                final = isinstance(error, Refused) and error.status < 500
                if final or failures > _RECONNECTS:
                    news.put(error if isinstance(error, CliError) else CliError(f"the stream broke: {error}"))
                    return
                time.sleep(0.2 * failures)

    def _over(self) -> bool:
        """Whether the server is done: its last step was recorded, or compute says so and no news comes."""
        now = time.monotonic()
        quiet = now - self._news_at
        attempt = max((one for one, _ in self._rows), default=1)
        if quiet < _FRAME_SECONDS * 2:
            return False
        if (attempt, "server.active") in self._rows:
            self._look()
            return True
        if quiet < _QUIET_SECONDS or now - self._asked_at < _QUIET_SECONDS:
            return False
        self._asked_at = now
        self._look()
        return self._server is None or self._server["status"] != "BUILD"

    def _look(self) -> None:
        try:
            self._server = self._session.call("compute", "GET", f"/servers/{self._id}")["server"]
        except Refused as refused:
            if refused.status != 404:
                raise
            self._server = None
