"""Runs that have ended, kept in an SQL database: listed, looked at, and run again from there.

    archive = Archive("sqlite:///runs.db")
    archive.keep(await archived(run))
    run = await resume(pool, archive.rescue(name))

SQLAlchemy speaks to the database: SQLite, or PostgreSQL by its URL. It is made with the first run that is kept, not
by whoever asks for one. Of a run that is kept again, the last time counts.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sql

import titan_overlay as titan
from titan_objects.dag import views
from titan_objects.dag.definition import revision
from titan_objects.dag.messages import Line
from titan_objects.dag.rescue import Left, Rescue, read_rescue, rescue_of, written
from titan_objects.dag.submitted import ENDED, SubmittedRun
from titan_objects.dag.views import TaskView

LIST_MAX = 10_000
ROWS_AT_ONCE = 1000
KEY_LENGTH_MAX = 200

_tables = sql.MetaData()
_runs = sql.Table(
    "dag_runs",
    _tables,
    sql.Column("name", sql.String(200), primary_key=True),
    sql.Column("title", sql.String(200), nullable=False),
    sql.Column("owner", sql.String(64), nullable=False),
    sql.Column("state", sql.String(20), nullable=False, index=True),
    sql.Column("began", sql.Double, nullable=False, index=True, comment="unix seconds, as agreed by the run"),
    sql.Column("ended", sql.Double, nullable=False),
    sql.Column("executions", sql.Integer, nullable=False),
    sql.Column("revision", sql.String(64), nullable=False, comment="SHA-256 of the definition"),
    sql.Column("error", sql.Text, nullable=False, comment="what failed first"),
    sql.Column("rescue", sql.LargeBinary, nullable=False, comment="a rescue file, without data"),
)


def _of_run() -> sql.Column[str]:
    return sql.Column("run", sql.ForeignKey("dag_runs.name", ondelete="CASCADE"), primary_key=True)


_tasks = sql.Table(
    "dag_tasks",
    _tables,
    _of_run(),
    sql.Column("place", sql.Integer, primary_key=True),
    sql.Column("key", sql.String(200), nullable=False),
    sql.Column("state", sql.String(20), nullable=False),
    sql.Column("worker", sql.Text, nullable=False),
    sql.Column("attempts", sql.Integer, nullable=False, comment="that failed"),
    sql.Column("since", sql.Double, nullable=False),
    sql.Column("until", sql.Double, nullable=False),
    sql.Column("error", sql.Text, nullable=False),
)
_lines = sql.Table(
    "dag_lines",
    _tables,
    _of_run(),
    sql.Column("number", sql.BigInteger, primary_key=True),
    sql.Column("key", sql.String(200), nullable=False),
    sql.Column("text", sql.Text, nullable=False),
    sql.Column("time", sql.Double, nullable=False),
)
_data = sql.Table(
    "dag_data",
    _tables,
    _of_run(),
    sql.Column("name", sql.String(80), primary_key=True),
    sql.Column("bytes", sql.LargeBinary, nullable=False),
)


class Summary(msgspec.Struct, frozen=True):
    """A run in the archive, in short."""

    name: str
    title: str
    owner: str
    state: str
    began: float
    ended: float
    executions: int
    revision: str
    error: str


class Archived(msgspec.Struct, frozen=True):
    """All that is kept of a run."""

    summary: Summary
    tasks: list[TaskView]
    lines: list[Line]
    rescue: Rescue


async def archived(run: SubmittedRun, *, data: bool = True) -> Archived:
    """All that there is to keep of a run.

    Raises:
        Conflict: it has not ended.
    """
    left = await run.left()  # what it says of itself in one message, a large one could not
    view, found = views.view(left.engine, tasks=True), rescue_of(left)
    if view.state not in ENDED:
        raise titan.Conflict(f"{run.name} is {view.state}; once it has ended, it can be archived")
    _, _, error = views.result(left.engine)
    owner = run.name.removeprefix("~").partition("/")[0]
    return Archived(
        Summary(
            run.name, view.name, owner, view.state, view.began, view.ended, _executions(left),
            revision(found.definition), error,
        ),
        list(_tasks_of(left)),
        [_short(line) async for line in run.logs(follow=False)],
        await run.with_code(found, data=data),
    )  # fmt: skip


T = TypeVar("T", TaskView, Line)


def _executions(left: Left) -> int:
    below = [each for several in left.children.values() for each in several]
    return left.engine.executions + sum(map(_executions, below))


def _tasks_of(left: Left, above: str = "") -> Iterator[TaskView]:
    """The tasks of a run, each with those behind it of the run that does it."""
    below = {each.name: each for several in left.children.values() for each in several}
    for task in views.view(left.engine, tasks=True).tasks:
        if not task.section:
            yield _short(msgspec.structs.replace(task, key=above + task.key))
        if task.child in below:
            yield from _tasks_of(below[task.child], above if task.section else f"{above}{task.key}/")


def _short(each: T) -> T:
    """The same under a key that fits into its column."""
    return msgspec.structs.replace(each, key=each.key[:KEY_LENGTH_MAX])


class Archive:
    """A database of runs. Its methods wait for it, so a program with other things to do calls them in a thread.

    Args:
        url: as SQLAlchemy takes it (`sqlite:///runs.db`, `postgresql://user@host/name`), or the path of a file.

    Raises:
        ConfigError: it is no URL, or its driver is not installed. Its methods raise StorageError where the database
            cannot be used, and those that look into it NotFound where there is none.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = sql.make_url(url if "://" in url else f"sqlite:///{url}")
            if parsed.drivername == "postgresql":
                parsed = parsed.set(drivername="postgresql+psycopg")
            self._engine = sql.create_engine(parsed)
        except (sql.exc.ArgumentError, ModuleNotFoundError) as why:
            raise titan.ConfigError(
                f"this archive cannot be used: {why}; install 'titan-overlay[archive]', and write sqlite:///FILE or "
                "postgresql://USER@HOST/NAME"
            ) from None
        self._shown = parsed.render_as_string()
        self._file: Path | None = None
        if parsed.get_backend_name() == "sqlite":
            if parsed.database in (None, "", ":memory:"):  # in memory, gone with this program
                raise titan.ConfigError(f"the archive {self._shown} names no file; write sqlite:///FILE")
            self._file = Path(parsed.database)
            sql.event.listen(self._engine, "connect", lambda raw, _: raw.execute("PRAGMA foreign_keys = ON"))

    def close(self) -> None:
        """Lets go of its connections."""
        self._engine.dispose()

    def keep(self, run: Archived) -> None:
        """Keeps a run, all of it or nothing."""
        name = run.summary.name
        lean = msgspec.structs.replace(run.rescue, data={})
        with self._begin() as connection:
            _tables.create_all(connection)
            connection.execute(_runs.delete().where(_runs.c.name == name))
            connection.execute(_runs.insert(), {**_row(run.summary), "rescue": written(lean)})
            for table, rows in (
                (_tasks, ({"place": n, **_row(each)} for n, each in enumerate(run.tasks))),
                (_lines, map(_row, run.lines)),
                (_data, ({"name": key, "bytes": each} for key, each in run.rescue.data.items())),
            ):
                _insert(connection, table, name, rows)

    def runs(self, count: int = 100) -> list[Summary]:
        """The runs that began last, the newest first."""
        chosen = [_runs.c[field] for field in Summary.__struct_fields__]
        with self._look() as connection:
            found = connection.execute(sql.select(*chosen).order_by(_runs.c.began.desc()).limit(min(count, LIST_MAX)))
            return [Summary(*row) for row in found]

    def show(self, name: str) -> tuple[Summary, list[TaskView]]:
        """A run and its tasks. NotFound: it is not here."""
        fields = [field for field in TaskView.__struct_fields__ if field in _tasks.c]
        with self._look() as connection:
            run = connection.execute(
                sql.select(*(_runs.c[field] for field in Summary.__struct_fields__)).where(_runs.c.name == name)
            ).one_or_none()
            if run is None:
                raise titan.NotFound(f"{name!r} is not in the archive {self._shown}")
            rows = connection.execute(
                sql.select(*(_tasks.c[field] for field in fields)).where(_tasks.c.run == name).order_by(_tasks.c.place)
            )
            return Summary(*run), [TaskView(**dict(zip(fields, row, strict=True))) for row in rows]

    def lines(self, name: str, key: str = "") -> list[Line]:
        """What its tasks have written, or one of them did."""
        fields = [_lines.c[field] for field in Line.__struct_fields__]
        wanted = _lines.c.run == name
        if key:
            wanted &= (_lines.c.key == key) | _lines.c.key.startswith(f"{key}[", autoescape=True)
        with self._look() as connection:
            return [
                Line(*row) for row in connection.execute(sql.select(*fields).where(wanted).order_by(_lines.c.number))
            ]

    def rescue(self, name: str) -> Rescue:
        """What a new run goes on from. NotFound: it is not here."""
        with self._look() as connection:
            file = connection.execute(sql.select(_runs.c.rescue).where(_runs.c.name == name)).scalar_one_or_none()
            if file is None:
                raise titan.NotFound(f"{name!r} is not in the archive {self._shown}")
            rows = connection.execute(sql.select(_data.c.name, _data.c.bytes).where(_data.c.run == name))
            data = {key: bytes(each) for key, each in rows}
        return msgspec.structs.replace(read_rescue(bytes(file), name), data=data)

    @contextlib.contextmanager
    def _look(self) -> Iterator[sql.Connection]:
        """A transaction of who asks: a name that was mistyped makes no file, and no tables where others are."""
        nothing = titan.NotFound(f"there is no archive {self._shown}; titan dag archive add makes one")
        if self._file is not None and not self._file.exists():
            raise nothing
        with self._begin() as connection:
            if not sql.inspect(connection).has_table(_runs.name):
                raise nothing
            yield connection

    @contextlib.contextmanager
    def _begin(self) -> Iterator[sql.Connection]:
        """A transaction."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except sql.exc.SQLAlchemyError as why:
            reason = str(getattr(why, "orig", None) or why).partition("\n")[0]
            raise titan.StorageError(f"the archive {self._shown}: {reason}") from None


def _row(value: Any) -> dict[str, Any]:
    """Fields as columns. PostgreSQL keeps no text with a zero character."""
    found = msgspec.structs.asdict(value)
    return {key: each.replace("\0", "\ufffd") if isinstance(each, str) else each for key, each in found.items()}


def _insert(connection: sql.Connection, table: sql.Table, run: str, rows: Iterator[dict[str, Any]]) -> None:
    batch: list[dict[str, Any]] = []
    columns = set(table.c.keys())
    for row in rows:
        batch.append({key: each for key, each in {**row, "run": run}.items() if key in columns})
        if len(batch) == ROWS_AT_ONCE:
            connection.execute(table.insert(), batch)
            batch = []
    if batch:
        connection.execute(table.insert(), batch)
