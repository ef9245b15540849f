"""DAGs written as Python: functions that are tasks, and a function that says what hangs on what."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import msgspec

import titan_overlay as titan
from titan_objects.dag import inside
from titan_objects.dag.checking import check
from titan_objects.dag.definition import Definition, Retry, Task, Timeout
from titan_objects.dag.reaching import TaskPool, TaskStore, running

if TYPE_CHECKING:
    from titan_objects.dag.here import Here
    from titan_objects.dag.submitted import SubmittedRun

OF_SUBMIT = {"pool", "queue", "once", "workers", "store", "slots", "here"}
"""Arguments of `Dag.submit` and `Dag.run`; all others are parameters of the DAG."""


class Handle:
    """The result that a task will have: given to another task, it makes that one need it."""

    def __init__(self, id: str) -> None:
        self.id = id


class Function:
    """A function that is a task. Called in a `@dag`, it adds one; called anywhere else, it is the function."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        self.function = function
        self.options = options
        self.__name__ = function.__name__
        self.__doc__ = function.__doc__

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        plan = _Plan.open
        return self.function(*args, **inputs) if plan is None else plan.add(self, args, inputs)

    def map(self, over: Iterable[Any] | Handle, *, max_parallel: int | None = None) -> Handle:
        """One instance for each item. Raises TypeError outside a `@dag`."""
        if _Plan.open is None:
            raise TypeError(f"{self.__name__}.map(...) is of use inside a function with @dag")
        values = over if isinstance(over, Handle) else list(over)
        more = {"over": values} if max_parallel is None else {"over": values, "max_parallel": max_parallel}
        return _Plan.open.add(self, (), {}, more)


class _Plan:
    """A DAG that is being written."""

    open: "_Plan | None" = None

    def __init__(self, suffix: str = "", used: dict[str, int] | None = None) -> None:
        self.tasks: list[Task] = []
        self.functions: list[Function] = []
        self.used = {} if used is None else used
        self._suffix = suffix

    def add(self, function: Function, args: tuple[Any, ...], inputs: dict[str, Any], map: Any = None) -> Handle:
        name = function.__name__
        _check_function(function.function)
        self.used[name] = count = self.used.get(name, 0) + 1
        needs: list[str] = []
        fields = {
            "id": f"{name}{self._suffix}" if count == 1 else f"{name}{self._suffix}-{count}",
            "call": f"{_home(function.function)[1]}:{name}",
            "args": _plain(args, needs),
            "inputs": _plain(inputs, needs),
            **({"map": _plain(map, needs)} if map else {}),
            **function.options,
        }
        fields["needs"] = list(dict.fromkeys([*needs, *function.options.get("needs", [])]))
        self.functions.append(function)
        try:
            self.tasks.append(msgspec.convert(fields, Task))
        except msgspec.ValidationError as why:
            raise titan.ConfigError(f"@task {name}: {why}") from None
        return Handle(self.tasks[-1].id)


def _check_function(function: Callable[..., Any]) -> None:
    """Raises ConfigError where a worker would not find it by its name."""
    if "." in function.__qualname__ or not function.__name__.isidentifier():
        raise titan.ConfigError(
            f"@task {function.__qualname__}: workers find functions by their names at the top of a file; write it there"
        )


def _home(function: Callable[..., Any]) -> tuple[Path, str]:
    """The file that a function is in, or the package of that; and the module's name in there.

    Raises:
        ConfigError: it is in no file.
    """
    path = Path(inspect.getfile(function))
    if not path.is_file():
        raise titan.ConfigError(f"{function.__name__} is in no file (but in {path}); workers need one: write it there")
    names = [] if path.name == "__init__.py" else [path.stem]
    while (path.parent / "__init__.py").exists():
        path = path.parent
        names.insert(0, path.name)
    return path, ".".join(names)


def _plain(value: Any, needs: list[str]) -> Any:
    """The value with references in place of handles; whose they are is added to `needs`."""
    if isinstance(value, Handle):
        needs.append(value.id)
        return f"${{{value.id}}}"
    if isinstance(value, list | tuple):
        return [_plain(each, needs) for each in value]
    if isinstance(value, dict):
        return {key: _plain(each, needs) for key, each in value.items()}
    return f"${value}" if isinstance(value, str) and value.startswith("$") else value


class Dag:
    """A function that writes a DAG."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        taken = OF_SUBMIT & inspect.signature(function).parameters.keys()
        if taken:
            raise titan.ConfigError(
                f"@dag {function.__name__}: {min(taken)!r} is an argument of submit or run; rename the parameter"
            )
        self.function = function
        self.options = options

    @property
    def source(self) -> Path:
        """The file that travels with it, or the package that it is in.

        Raises:
            ConfigError: it is in no file.
        """
        return _home(self.function)[0]

    def definition(self, *args: Any, **params: Any) -> Definition:
        """What it comes to with these parameters.

        Raises:
            ConfigError, BadMessage: it makes no sense.
        """
        plan, before = _Plan(), _Plan.open
        _Plan.open = plan
        try:
            last = self.function(*args, **params)
        finally:
            _Plan.open = before
        name, code = self.function.__name__, self.source
        if last is not None and not isinstance(last, Handle):
            raise titan.ConfigError(
                f"@dag {name} returns a {type(last).__name__}: return what one task gives (which may take what several "
                "others give, as a list), or nothing"
            )
        for each in plan.functions:
            if _home(each.function)[0] != code:
                raise titan.ConfigError(
                    f"@dag {name}: {each.__name__} is in {_home(each.function)[0]}, and {code} alone travels to the "
                    "workers; put both into one file or one package"
                )
        result = "" if last is None else last.id
        made = Definition(name=name, tasks=plan.tasks, result=result, **self.options)
        check(made)
        return made

    async def submit(
        self,
        pool: "titan.Pool",
        *,
        queue: str = "dag",
        once: str = "",
        workers: Sequence[str] = (),
        store: str = "",
        **params: Any,
    ) -> "SubmittedRun":
        """Submits a run of it with these parameters; all else is as in `titan_objects.dag.submit`."""
        from titan_objects.dag.client import submit

        definition = self.definition(**params)
        return await submit(pool, definition, queue=queue, code=self.source, once=once, workers=workers, store=store)

    async def run(self, *, slots: int = 0, here: "Here | None" = None, **params: Any) -> Any:
        """Runs it in this program, without a pool, and gives its result; see `titan_objects.dag.Here`.

        Args:
            here: whose processes run it; None: of its own, `slots` of them.
        """
        from titan_objects.dag.here import run_here

        definition = self.definition(**params)
        if here is not None:
            return await here.run(definition, code=self.source)
        return await run_here(definition, code=self.source, slots=slots)


class TaskMaker:
    """`@task` makes a task of a function; inside one that runs, it speaks to its run, and to the pool."""

    pool = TaskPool()
    store = TaskStore(pool)

    @overload
    def __call__(self, function: Callable[..., Any], /) -> Function: ...
    @overload
    def __call__(
        self, /, *, retries: int = ..., timeout: float | str | None = ..., **options: Any
    ) -> Callable[[Callable[..., Any]], Function]: ...
    def __call__(
        self, function: Any = None, /, *, retries: int = 0, timeout: float | str | None = None, **options: Any
    ) -> Any:
        """Makes a task of a function.

        Args:
            retries: attempts after the first one.
            timeout: of one attempt.
            options: any other field of a task in a definition file, such as `requires={"labels": {"gpu": "1"}}`.
        """
        if retries:
            options.setdefault("retry", msgspec.to_builtins(Retry(max_attempts=retries + 1)))
        if timeout is not None:
            options.setdefault("timeout", msgspec.to_builtins(Timeout(run=timeout)))
        return Function(function, options) if function is not None else lambda found: Function(found, options)

    def log(self, *values: object) -> None:
        """Writes a line into the log of the run, as `print` does."""
        print(*values, flush=True)  # noqa: T201 -- that is what a task's log is made of

    def progress(self, done: float) -> None:
        """Says how much of the running task is done, 0 to 1. Called anywhere else, it does nothing.

        People see it with the worker's next message: after 5 s at most.
        """
        if inside.here is not None:
            inside.here.progress(float(done))

    def spawn(self, function: Function, *args: Any, **inputs: Any) -> Handle:
        """Adds a task to the run of the task that runs; the run ends when that one has ended too.

        An attempt that fails after it has spawned tasks spawns them again when it is tried again.

        Returns:
            What other spawned tasks can be given, to make them need this one.

        Raises:
            RuntimeError: it is no task that runs; or the run takes none from this worker: it must be its owner's, or
                one that `submit(workers=)` names.
        """
        this = running()
        plan = _Plan(f"-in-{this.epoch}", this.used)
        handle = plan.add(function, args, inputs)
        try:
            this.ask(inside.Spawn([msgspec.to_builtins(each) for each in plan.tasks]))
        except titan.TitanError as why:
            raise RuntimeError(f"the run takes no tasks of this one: {why}") from None
        return handle


task = TaskMaker()


@overload
def dag(function: Callable[..., Any], /) -> Dag: ...
@overload
def dag(**options: Any) -> Callable[[Callable[..., Any]], Dag]: ...
def dag(function: Any = None, /, **options: Any) -> Any:
    """Makes a DAG of a function that calls tasks; `options` are fields of a definition."""
    return Dag(function, options) if function is not None else lambda found: Dag(found, options)
