"""What the part in Rust offers; `kv_router_sim` re-exports it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, Protocol, TypeAlias, final

__all__ = [
    "ClusterView",
    "Comparison",
    "Experiment",
    "Figure",
    "Fleet",
    "Frontier",
    "KvEvent",
    "Report",
    "Reported",
    "Request",
    "Results",
    "RouteRequest",
    "SimError",
    "Simulation",
    "Table",
    "WorkerEvent",
    "_Gathered",
    "__version__",
    "_defect",
    "command",
    "compare",
    "frontier",
    "loaded_from",
    "policies",
]

__version__: str

_Path: TypeAlias = str | PathLike[str]

class _Policy(Protocol):
    def route(self, now: float, request: RouteRequest, view: ClusterView, /) -> Any: ...

class SimError(Exception):
    """What was asked for cannot be done: bad input, mostly.

    Its text is what the command line says.
    """

    key: str | None
    """The setting, as a dotted key."""
    value: str | None
    """The value seen."""
    place: str | None
    """Where it was given: a line of a file, or what was set."""

@final
class Experiment:
    """A checked experiment. It never changes: what changes it gives another one."""

    @staticmethod
    def load(
        source: _Path,
        *,
        set: Mapping[str, Any] | None = None,
        traces: _Path | None = None,
        policies: Sequence[type[_Policy]] = ...,
    ) -> Experiment:
        """Loads and checks an experiment.

        `source` is a TOML file, a folder of `sim init`, or the name of an experiment that
        comes with the package. `set` has keys to set at once, before anything is checked, as
        the method does. `traces` is the folder of public traces (default: the
        variable SIM_TRACES). `policies` are classes that `router.policy` may name.
        """

    @staticmethod
    def parse(
        text: str,
        *,
        file: _Path = ...,
        set: Mapping[str, Any] | None = None,
        traces: _Path | None = None,
        policies: Sequence[type[_Policy]] = ...,
    ) -> Experiment:
        """As `load`, from a text. `file` names it in messages, and its folder is the one
        that relative paths start in."""

    def set(self, key: str | Mapping[str, Any], value: Any = None, /) -> Experiment:
        """Another experiment, with this value of a dotted key, or with all of a mapping.

        A list sweeps its key; `[[a, b]]` is a value that is a list. `measure.seeds`, and
        lists of dictionaries, are values as they are. A `timedelta` is a duration, a policy
        class its name. All of it is checked at once: keys that only go together are set
        together, by a mapping.
        """

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def seeds(self) -> list[int]: ...
    @property
    def points(self) -> list[dict[str, Any]]:
        """The combinations of swept values, in order of the sweep."""

    @property
    def overrides(self) -> list[str]:
        """What is set, each key once, as `sim run --set` takes it."""

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that was set and changes numbers: `settings` by section, and `sweep`."""

    @property
    def config_hash(self) -> str:
        """SHA-256 over that, hexadecimal."""

    @property
    def notices(self) -> list[str]:
        """What should be known before it runs."""

    @property
    def simulations(self) -> int:
        """How many simulations a run takes."""

    def run(
        self,
        *,
        jobs: int | None = None,
        requests: bool = False,
        progress: bool | Callable[[int, int], object] | None = None,
        out: _Path | None = None,
        force: bool = False,
        figures: bool = True,
        columns: bool = False,
        executor: Literal["ray"] | None = None,
        shards: int | None = None,
    ) -> Results:
        """Simulates every combination of swept values with every seed.

        The GIL is free meanwhile, and Ctrl-C stops it. `jobs` simulations run at the same
        time (default: one per processor). With
        `requests`, a record of every request is kept. `progress` draws a bar, or is called
        with the simulations done and all of them. With `out`, results go into a folder as
        `sim run` writes it, and a run that was stopped goes on there; `force` replaces
        results of another configuration. `figures` are drawn into that folder, too.

        From more than 10,000 points on, or with `columns`, a folder has its points as
        columns of Arrow's files instead of JSON, and no figures.

        With `executor="ray"` the machines of a Ray cluster share the simulations: a task
        for each of so many `shards` (default: four for each task that fits into the cluster
        at once), which takes `jobs` processors (default: one).
        """

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        """Pickled, it is loaded again, and must be the same where it comes to."""

    @staticmethod
    def _restore(
        file: _Path,
        text: str | None,
        overrides: Sequence[str],
        traces: _Path | None,
        policies: Sequence[Any],
        config_hash: str,
    ) -> Experiment: ...
    def _run_part(self, folder: _Path, number: int, of: int, jobs: int | None) -> None: ...
    def _gather(self, folder: _Path, force: bool, columns: bool) -> _Gathered: ...

    def simulation(
        self,
        at: Mapping[str, Any] | None = None,
        *,
        seed: int | None = None,
        workload: Iterable[Request] | None = None,
    ) -> Simulation:
        """One of its simulations, at time zero, to be stepped, watched and steered.

        `at` chooses among swept values, `seed` among seeds (default: the first). `workload`
        takes the place of `[workload]`: requests in order of time.
        """

@final
class Results:
    """What a run has found."""

    @staticmethod
    def load(folder: _Path) -> Results:
        """Those in a folder that a run has finished."""

    @property
    def digest(self) -> str:
        """SHA-256 over all that could be seen from outside in every simulation."""

    @property
    def digests(self) -> list[str]:
        """That of every simulation, run by run, for each seed by seed."""

    @property
    def experiment(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def seeds(self) -> list[int]: ...
    @property
    def folder(self) -> str | PathLike[str] | None:
        """Where they are saved, if they are."""

    @property
    def points(self) -> list[dict[str, Any]]:
        """The parameters of every point."""

    @property
    def metrics(self) -> Table:
        """A row for each point: its parameters, and the mean of every metric over seeds."""

    @property
    def metrics_by_seed(self) -> Table:
        """A row for each point and seed."""

    @property
    def intervals(self) -> Table:
        """A row for each point and metric: `metric`, `unit`, `mean`, `ci95_low`, `ci95_high`."""

    @property
    def requests(self) -> Table:
        """A row for each request, if the run kept them; times are milliseconds."""

    def value(self, metric: str, at: Mapping[str, Any] | None = None) -> float | None:
        """The mean of one metric at the one point that `at` fits."""

    def plot(self, *metrics: str, x: str | None = None, ax: Any = None) -> Any:
        """A `Figure` of one metric, or of statistics of one kind, along a swept key `x`.

        With `ax`, axes of matplotlib, one metric is drawn there, and `ax` is given back.
        """

    def figures(self) -> list[Figure]:
        """The figures that a report shows."""

    def report(self) -> Report:
        """The answer, figures, tables and settings as a page that needs no network."""

    def text(self, *, width: int = ...) -> str:
        """What `sim run` prints; `str(results)` is the same."""

    def explain(
        self,
        request: int | None = None,
        *,
        worst: Literal["ttft", "queue", "e2e"] | str | None = None,
        quantile: float = 1.0,
        policy: str | None = None,
        at: Mapping[str, Any] | None = None,
        seed: int | None = None,
    ) -> str:
        """Why a request went to its worker, and what it found there.

        The simulation runs again, and must give the same digest. The request has this
        number, or the longest time of this kind (or the one at this quantile).
        """

@final
class Table:
    """A table in Arrow's memory, which leaves by the C stream interface without a copy."""

    @property
    def num_rows(self) -> int: ...
    @property
    def column_names(self) -> list[str]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, name: str, /) -> list[Any]: ...
    def to_pydict(self) -> dict[str, list[Any]]: ...
    def to_pandas(self) -> Any:
        """A data frame of pandas, which must be installed."""

    def __arrow_c_schema__(self) -> Any: ...
    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any: ...

@final
class Figure:
    """A figure, shown inline by Jupyter."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def alt(self) -> str:
        """The same in words."""

    @property
    def svg(self) -> str: ...
    def save(self, file: _Path) -> None:
        """Writes it as SVG or PNG, as the name of the file ends."""

    def _repr_svg_(self) -> str: ...

@final
class Report:
    """A page of HTML that needs no network."""

    @property
    def html(self) -> str: ...
    def save(self, file: _Path) -> None: ...
    def _repr_html_(self) -> str: ...

@final
class Comparison:
    """What changed between two sets of results, the surest first."""

    def text(self, *, width: int = ...) -> str: ...
    def markdown(self) -> str: ...
    def to_dict(self) -> dict[str, Any]: ...
    def _repr_markdown_(self) -> str: ...

def compare(
    before: Results,
    after: Results,
    *,
    metrics: Sequence[str] = ...,
    all: bool = False,
    ignore: Sequence[str] = ...,
    names: tuple[str, str] = ...,
) -> Comparison:
    """Compares two sets of results: the main metrics, these, or all.

    Points need not agree in the keys to `ignore`.
    """

@final
class Frontier:
    """Up to which load a policy beats another or meets its targets."""

    def text(self, *, width: int = ...) -> str: ...
    def to_dict(self) -> dict[str, Any]: ...

def frontier(
    experiment: Experiment,
    *,
    metrics: Sequence[str] = ...,
    within: Mapping[str, Any] | None = None,
    load: str | None = None,
    loads: tuple[float, float, float] | None = None,
    jobs: int | None = None,
) -> Frontier:
    """Searches the largest load at which each policy beats another, or meets its targets.

    `metrics` are those on which a policy must win; `within` are targets, as
    `{"ttft_ms_p95": "600ms"}`, or `{"slo": True}` for those of `[slo]`. `loads` are the
    first, the last and their step, of the key `load`; by default what is swept.
    """

@final
class _Gathered:
    """Parts of an experiment that other machines simulate, as they come."""

    @property
    def done(self) -> int: ...
    def missing(self, of: int) -> list[int]: ...
    def take(self, number: int, of: int, journal: bytes) -> int: ...
    def finish(self, *, out: _Path | None, figures: bool, jobs: int | None) -> Results: ...
    def leave(self) -> None: ...

def _defect(simulation: Simulation | None = None) -> None: ...
def policies() -> dict[str, str]:
    """The policies that come with the simulator, each with its rule."""

@final
class Simulation:
    """A simulation at some moment of its time; times are seconds.

    Cut into whatever steps, it is the same simulation. It runs on a thread of its own:
    the GIL is free while time passes, and Ctrl-C stops it at the moment it has come to.
    Its observers, policies and workload run on that thread: to ask it from there raises a
    `RuntimeError`.
    """

    @property
    def now(self) -> float: ...
    @property
    def seed(self) -> int: ...
    @property
    def digest(self) -> str:
        """SHA-256 over what could be seen from outside so far."""

    @property
    def applied(self) -> str:
        """What was steered so far, as the text of an experiment that does the same."""

    def step(self, seconds: float) -> bool:
        """Puts time in. True once the simulation is over."""

    def step_until(self, at: float) -> bool:
        """Puts time in, up to a moment. True once the simulation is over."""

    def run(self) -> None:
        """Lets it run to its end."""

    def steer(self, what: str, **keys: Any) -> None:
        """Changes it now: `what`, and the keys that `[[control]]` of an experiment has."""

    def watch(self, seconds: float) -> None:
        """From now on snapshots say what happened in so many seconds before them."""

    def snapshot(self) -> dict[str, Any]:
        """What a dashboard would show now."""

    def observe(self, observer: Callable[[dict[str, Any]], object]) -> None:
        """Calls `observer` with everything that happens from now on."""

    def finish(self) -> list[dict[str, float | None]]:
        """Ends it, and gives the metrics of each measured window that has ended."""

@final
class Request:
    """A request of a workload of one's own.

    `at` is when it reaches the router, in seconds. `blocks` are numbers of the blocks that
    its text begins with, prompt first, each of which stands for the block and all before
    it: requests that share a number share the text up to there. What follows is its own.
    """

    def __new__(
        cls,
        at: float,
        prompt_tokens: int,
        output_tokens: int,
        *,
        blocks: Sequence[int] = ...,
        conversation: int | None = None,
        turn: int = 0,
        max_tokens: int | None = None,
        priority: int = 0,
        first_token_within: float | None = None,
        answer_within: float | None = None,
    ) -> Request: ...
    @property
    def at(self) -> float: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def output_tokens(self) -> int: ...
    @property
    def blocks(self) -> list[int]: ...
    @property
    def conversation(self) -> int | None: ...
    @property
    def turn(self) -> int: ...
    @property
    def max_tokens(self) -> int | None: ...
    @property
    def priority(self) -> int:
        """Its rank where workers schedule by priority: lower ones go first."""

    @property
    def first_token_within(self) -> float | None: ...
    @property
    def answer_within(self) -> float | None: ...

@final
class RouteRequest:
    """What a router may see of a request: no output length, because no router has one."""

    @property
    def id(self) -> int: ...
    @property
    def conversation(self) -> int: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def prefilled(self) -> bool:
        """Its prompt has been computed elsewhere: it goes to a worker that decodes."""

    @property
    def num_blocks(self) -> int:
        """Full blocks of its prompt."""

    @property
    def blocks(self) -> list[int]:
        """Their numbers; only during the call that the request came with."""

    @property
    def block_runs(self) -> list[tuple[int, int]]:
        """The same as runs of consecutive numbers: the first one, and how many."""

@final
class Reported:
    """Gauges as a worker last reported them; `at` in seconds."""

    @property
    def at(self) -> float: ...
    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def used_blocks(self) -> int: ...

@final
class ClusterView:
    """The workers as a policy sees them, during the call that it came with.

    It is a window into the simulator's memory: each question copies what it asks for, and
    nothing else is copied.
    """

    def __len__(self) -> int:
        """Workers that there can ever be, with numbers from 0."""

    @property
    def available(self) -> list[int]:
        """Those that take requests, in order."""

    @property
    def available_count(self) -> int: ...
    def nth_available(self, n: int) -> int:
        """The n-th of them, from 0."""

    @property
    def least_inflight(self) -> int:
        """The fewest requests in flight on a worker that takes requests."""

    @property
    def most_inflight(self) -> int: ...
    @property
    def total_inflight(self) -> int: ...
    @property
    def least_loaded(self) -> list[int]:
        """Those that take requests and have the fewest in flight, in order."""

    def is_available(self, worker: int) -> bool: ...
    def inflight(self, worker: int) -> int:
        """Requests that this router sent there and that have not ended."""

    def reported(self, worker: int) -> Reported | None:
        """Its last gauges, if the policy has a `report_period`."""

    def array(self, name: str) -> Any:
        """A number of every worker as an array of NumPy, which must be installed.

        `name` is `inflight`, `available`, or, of the last gauges, `running`, `waiting` or
        `used_blocks` (-1 where there are none).
        """

@final
class Fleet:
    """The facts about the workers that a policy routes to."""

    @property
    def workers(self) -> int:
        """How many there can ever be, with numbers from 0."""

    @property
    def block_size(self) -> int:
        """Tokens in a block."""

    @property
    def role(self) -> str:
        """`both`, `prefill` or `decode`."""

    def kv_blocks(self, worker: int) -> int: ...
    def max_num_seqs(self, worker: int) -> int: ...
    def max_num_batched_tokens(self, worker: int) -> int: ...

@final
class WorkerEvent:
    """A change in the life of a request that its worker makes visible.

    `kind` is `scheduled`, `cache_hit`, `prefilled`, `kv_received`, `loaded`, `preempted`,
    `first_token`, `output_block`, `finished`, `rejected`, `aborted` or `failed`.
    """

    @property
    def kind(self) -> str: ...
    @property
    def worker(self) -> int: ...
    @property
    def request(self) -> int: ...
    @property
    def cached_tokens(self) -> int | None: ...
    @property
    def output_tokens(self) -> int | None: ...
    @property
    def reason(self) -> str | None: ...

@final
class KvEvent:
    """A change of a worker's prefix cache, as its engine publishes it.

    `kind` is `stored` or `removed`, `medium` is `gpu` or the tier below it.
    """

    @property
    def kind(self) -> str: ...
    @property
    def medium(self) -> str: ...
    @property
    def group(self) -> int | None: ...
    @property
    def parent(self) -> int | None: ...
    @property
    def first(self) -> int: ...
    @property
    def blocks(self) -> list[int]: ...
    def __len__(self) -> int: ...

def command(arguments: Sequence[str]) -> int:
    """Does what arguments of `sim` say, the first its name; gives the exit code."""

def loaded_from(file: _Path) -> None:
    """Says which file this code was loaded from."""

