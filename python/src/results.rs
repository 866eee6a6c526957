//! Results: tables, figures, reports, comparisons.

use crate::errors::{OrRaise, plain};
use crate::table::{Columns, Table};
use crate::values::{to_python, to_toml};
use crate::wait::work;
use arrow_array::{Float64Array, Int64Array, StringArray, UInt32Array, UInt64Array};
use kv_router_sim::experiment::explain::{self, DecisionQuery, Latency, Pick};
use kv_router_sim::metrics::{Metric, check_name};
use kv_router_sim::plot::{self, DrawnFor, FigureOptions};
use kv_router_sim::report::judge::published::Comparison as Published;
use kv_router_sim::report::judge::terms::Terms;
use kv_router_sim::report::render::{self, table};
use kv_router_sim::report::view::View;
use kv_router_sim::results::{SEEDS_COLUMNS, SUMMARY_COLUMNS, read_columns};
use kv_router_sim::{
    self as sim, End, Point, ReadError, RequestId, RequestRecord, SimTime, SimulationRequests,
    Stop, Summary,
};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde_json::Value as Json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a run has found.
#[pyclass(frozen, module = "kv_router_sim")]
pub(crate) struct Results {
    all: Arc<sim::Results>,
    folder: Option<PathBuf>,
    experiment: Option<Arc<sim::Experiment>>,
    requests: Option<Vec<SimulationRequests>>,
    /// How many points are columns of files in the folder, if they are.
    in_columns: Option<usize>,
}

impl Results {
    pub(crate) fn new(
        all: sim::Results,
        folder: Option<PathBuf>,
        experiment: Option<Arc<sim::Experiment>>,
        requests: Option<Vec<SimulationRequests>>,
    ) -> Self {
        Self { all: Arc::new(all), folder, experiment, requests, in_columns: None }
    }

    /// With so many points that are columns, if they are.
    pub(crate) fn in_columns(self, points: Option<usize>) -> Self {
        Self { in_columns: points, ..self }
    }

    /// What a file of columns has of those that are wanted, if the points are columns.
    fn columns(&self, file: &str, wanted: impl Fn(&str) -> bool) -> PyResult<Option<Table>> {
        let (Some(_), Some(folder)) = (self.in_columns, &self.folder) else { return Ok(None) };
        let batches = read_columns(&folder.join(file), wanted).or_raise()?;
        Table::of(&batches).map(Some)
    }

    /// Refuses what is made of points in memory.
    fn in_memory(&self, what: &str) -> PyResult<&sim::Results> {
        match self.in_columns {
            None => Ok(&self.all),
            Some(points) => Err(plain(&format!(
                "{what}: these {points} points are columns of a file: metrics and \
                 metrics_by_seed read them; run fewer points for the rest"
            ))),
        }
    }

    fn summary(&self) -> &Summary {
        &self.all.summary
    }

    /// Adds a column for each parameter, with a row for each of these points.
    fn add_params<'a>(columns: &mut Columns, rows: impl Iterator<Item = &'a sim::Params> + Clone) {
        let keys: BTreeSet<&String> = rows.clone().flat_map(|params| params.keys()).collect();
        for key in keys {
            let values: Vec<Option<&Json>> = rows.clone().map(|params| params.get(key)).collect();
            columns.add_json(key, &values);
        }
    }

    fn metric_names(&self) -> BTreeSet<&String> {
        self.summary().points.iter().flat_map(|point| point.metrics.keys()).collect()
    }

    fn figure(&self, py: Python<'_>, metrics: Vec<String>, x: Option<String>) -> PyResult<Figure> {
        if metrics.is_empty() {
            return Err(plain("plot takes the name of a metric, as \"ttft_ms_p95\""));
        }
        let targets = plot::targets(&Terms::of(&self.all.details));
        let choice = FigureOptions { x, metrics, targets };
        let drawn = py.detach(|| self.draw(&choice, DrawnFor::Page))?;
        let count = drawn.len();
        let Ok([figure]) = <[plot::Figure; 1]>::try_from(drawn) else {
            return Err(plain(&format!(
                "these metrics make {count} figures: must be of one kind, as ttft_ms_p50 and \
                 ttft_ms_p95 are"
            )));
        };
        Ok(Figure { figure, redraw: Some((Arc::clone(&self.all), choice)) })
    }

    fn draw(&self, choice: &FigureOptions, drawn_for: DrawnFor) -> PyResult<Vec<plot::Figure>> {
        let published = self.all.details.published.as_ref();
        plot::figures(self.summary(), published, choice, drawn_for).or_raise()
    }
}

#[pymethods]
impl Results {
    #[staticmethod]
    fn load(folder: PathBuf) -> PyResult<Self> {
        match sim::Results::load(&folder) {
            Err(ReadError::Columns { points, .. }) => {
                let (results, _) = sim::Results::load_in_columns(&folder).or_raise()?;
                Ok(Self::new(results, Some(folder), None, None).in_columns(Some(points)))
            }
            loaded => Ok(Self::new(loaded.or_raise()?, Some(folder), None, None)),
        }
    }

    /// SHA-256 over all that could be seen from outside, hexadecimal.
    #[getter]
    fn digest(&self) -> &str {
        &self.summary().provenance.digest
    }

    /// That of every simulation, run by run, for each seed by seed.
    #[getter]
    fn digests(&self) -> Vec<String> {
        self.all.runs.digests.clone()
    }

    #[getter]
    fn experiment(&self) -> &str {
        &self.summary().provenance.experiment
    }

    #[getter]
    fn version(&self) -> &str {
        &self.summary().provenance.version
    }

    #[getter]
    fn seeds(&self) -> Vec<u64> {
        self.summary().provenance.seeds.clone()
    }

    #[getter]
    fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    #[getter]
    fn points<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let points = self.in_memory("points")?.summary.points.iter();
        points.map(|point| to_python(py, &serde_json::json!(point.params))).collect()
    }

    /// A row for each point: its parameters, and the mean of every metric over the seeds.
    #[getter]
    fn metrics(&self) -> PyResult<Table> {
        let is_mean = |name: &str| !name.ends_with("_ci95_low") && !name.ends_with("_ci95_high");
        if let Some(table) = self.columns(SUMMARY_COLUMNS, is_mean)? {
            return Ok(table);
        }
        let points = &self.summary().points;
        let mut columns = Columns::default();
        Self::add_params(&mut columns, points.iter().map(|point| &point.params));
        for name in self.metric_names() {
            let mean = |point: &Point| point.metrics.get(name).and_then(|metric| metric.mean);
            columns.add(name, points.iter().map(mean).collect::<Float64Array>());
        }
        columns.table()
    }

    /// A row for each point and seed: parameters, seed, metrics.
    #[getter]
    fn metrics_by_seed(&self) -> PyResult<Table> {
        if let Some(table) = self.columns(SEEDS_COLUMNS, |_| true)? {
            return Ok(table);
        }
        let (points, seeds) = (&self.summary().points, &self.summary().provenance.seeds);
        let rows = || points.iter().flat_map(|point| (0..seeds.len()).map(move |at| (point, at)));
        let mut columns = Columns::default();
        let params: Vec<&sim::Params> = rows().map(|(point, _)| &point.params).collect();
        Self::add_params(&mut columns, params.iter().copied());
        columns.add("seed", rows().map(|(_, at)| Some(seeds[at])).collect::<UInt64Array>());
        for name in self.metric_names() {
            let value = |(point, at): (&Point, usize)| {
                point.metrics.get(name).and_then(|metric| *metric.per_seed.get(at)?)
            };
            columns.add(name, rows().map(value).collect::<Float64Array>());
        }
        columns.table()
    }

    /// A row for each point and metric: parameters, metric, unit, mean, and the bounds of
    /// its 95 % interval over the seeds.
    #[getter]
    fn intervals(&self) -> PyResult<Table> {
        let points = &self.in_memory("intervals")?.summary.points;
        let rows: Vec<_> = points
            .iter()
            .flat_map(|point| point.metrics.iter().map(move |metric| (point, metric)))
            .collect();
        let mut columns = Columns::default();
        let params: Vec<&sim::Params> = rows.iter().map(|(point, _)| &point.params).collect();
        Self::add_params(&mut columns, params.iter().copied());
        let names = || rows.iter().map(|(_, (name, _))| Some(name.as_str()));
        let unit = |name: Option<&str>| name.map(|name| Metric::of(name).unit);
        let number = |of: &dyn Fn(&sim::MetricValue) -> Option<f64>| -> Float64Array {
            rows.iter().map(|(_, (_, metric))| of(metric)).collect()
        };
        columns.add("metric", names().collect::<StringArray>());
        columns.add("unit", names().map(unit).collect::<StringArray>());
        columns.add("mean", number(&|metric| metric.mean));
        columns.add("ci95_low", number(&|metric| metric.ci95.map(|[low, _]| low)));
        columns.add("ci95_high", number(&|metric| metric.ci95.map(|[_, high]| high)));
        columns.table()
    }

    /// A row for each request of each simulation; times are milliseconds of the simulation.
    #[getter]
    fn requests(&self) -> PyResult<Table> {
        let Some(simulations) = &self.requests else {
            let folder = match &self.folder {
                Some(folder) => format!("; {} has them as requests.csv", folder.display()),
                None => String::new(),
            };
            return Err(plain(&format!(
                "the requests of this run were not kept: run it with requests=True{folder}"
            )));
        };
        requests_table(simulations)
    }

    /// One metric of a point, the mean over the seeds; keywords are its swept values.
    #[pyo3(signature = (metric, at=None))]
    fn value(&self, metric: &str, at: Option<&Bound<'_, PyDict>>) -> PyResult<Option<f64>> {
        let mut wanted: Vec<(String, Json)> = Vec::new();
        for (key, value) in at.into_iter().flatten() {
            wanted.push((key.extract()?, serde_json::json!(to_toml(&value)?)));
        }
        let fits = |point: &&Point| {
            wanted.iter().all(|(key, value)| {
                point.params.get(key).is_some_and(|own| sim::settings::same(own, value))
            })
        };
        let points = &self.in_memory("value")?.summary.points;
        let found: Vec<&Point> = points.iter().filter(fits).collect();
        let [point] = found[..] else {
            return Err(plain(&format!(
                "at= fits {} of {} points: it must fit one",
                found.len(),
                self.summary().points.len()
            )));
        };
        match point.metrics.get(metric) {
            Some(value) => Ok(value.mean),
            None => {
                check_name("metric", metric).or_raise()?;
                Err(plain(&format!("{metric}: must be a metric that these results have")))
            }
        }
    }

    /// A figure of one metric, or of several statistics of one; or one metric on axes of
    /// matplotlib.
    #[pyo3(signature = (*metrics, x=None, ax=None))]
    fn plot<'py>(
        slf: &Bound<'py, Self>,
        metrics: Vec<String>,
        x: Option<String>,
        ax: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        slf.get().in_memory("plot")?;
        for metric in &metrics {
            check_name("metric", metric).or_raise()?;
        }
        let Some(ax) = ax else {
            return Ok(Bound::new(py, slf.get().figure(py, metrics, x)?)?.into_any());
        };
        let [metric] = &metrics[..] else {
            return Err(plain("axes of matplotlib take one metric at a time"));
        };
        py.import("kv_router_sim._axes")?.call_method1("draw", (slf, metric, ax, x))
    }

    /// The figures that a report shows.
    fn figures(&self, py: Python<'_>) -> PyResult<Vec<Figure>> {
        let of = self.in_memory("figures")?;
        let all = py.detach(|| of.figures(DrawnFor::Files).or_raise())?;
        Ok(all.into_iter().map(|figure| Figure { figure, redraw: None }).collect())
    }

    /// The report as a page of HTML that needs no network.
    fn report(&self, py: Python<'_>) -> PyResult<Report> {
        let of = self.in_memory("report")?;
        let html = py.detach(|| {
            let figures = of.figures(DrawnFor::Page).or_raise()?;
            of.report(&figures).or_raise()
        })?;
        Ok(Report { html })
    }

    /// What `sim run` prints.
    #[pyo3(signature = (*, width=table::WIDTH))]
    fn text(&self, width: usize) -> PyResult<String> {
        if let Some(points) = self.in_columns {
            let sim::Provenance { experiment, seeds, digest, .. } = &self.summary().provenance;
            let seeds = seeds.len();
            return Ok(format!(
                "{experiment}: {points} points, {seeds} seeds, in columns\n\ndigest {digest}\n"
            ));
        }
        let sim::Results { summary, details, .. } = &*self.all;
        let view = View::new(summary, None).or_raise()?;
        let published = details.published.as_ref();
        let comparison = published.map(|published| Published::new(&view, published));
        let text = table::report(&view, &Terms::of(details), comparison.as_ref(), width);
        Ok(format!("{text}digest {}\n", summary.provenance.digest))
    }

    /// Why a request went to its worker, and what it found there.
    #[pyo3(signature = (request=None, *, worst=None, quantile=1.0, policy=None, at=None, seed=None))]
    #[expect(clippy::too_many_arguments, reason = "keywords, in Python")]
    fn explain(
        &self,
        py: Python<'_>,
        request: Option<u32>,
        worst: Option<&str>,
        quantile: f64,
        policy: Option<String>,
        at: Option<&Bound<'_, PyDict>>,
        seed: Option<u64>,
    ) -> PyResult<String> {
        let pick = match (request, worst) {
            (Some(request), None) => Pick::Request(RequestId(request)),
            (None, Some(time)) => {
                let latency = match time {
                    "ttft" => Latency::Ttft,
                    "queue" => Latency::Queue,
                    "e2e" => Latency::EndToEnd,
                    _ => {
                        return Err(plain(&format!(
                            "worst = {time:?}: must be one of \"ttft\", \"queue\", \"e2e\""
                        )));
                    }
                };
                if !(0.0..=1.0).contains(&quantile) {
                    return Err(plain(&format!(
                        "quantile = {quantile}: must be a number from 0 to 1"
                    )));
                }
                Pick::Quantile(latency, quantile)
            }
            _ => return Err(plain("explain takes the number of a request, or worst=")),
        };
        let mut wanted: Vec<(String, String)> = Vec::new();
        for (key, value) in at.into_iter().flatten() {
            let value = serde_json::json!(to_toml(&value)?);
            wanted.push((key.extract()?, sim::report::view::plain(&value)));
        }
        wanted.extend(policy.map(|name| ("router.policy".to_owned(), name)));
        let query = DecisionQuery { pick, at: wanted, seed };
        let explain = || {
            let experiment = match (&self.experiment, &self.folder) {
                (Some(experiment), _) => Arc::clone(experiment),
                (None, folder) => {
                    let folder = folder.as_deref().unwrap_or(Path::new(""));
                    Arc::new(self.all.experiment(folder, None, traces_folder()).or_raise()?)
                }
            };
            let explained = explain::explain(&experiment, &self.all.runs, &query).or_raise()?;
            Ok(render::explain::report(&explained, table::WIDTH))
        };
        work(py, &Stop::default(), |_| Ok(()), explain)?
    }

    fn __str__(&self) -> PyResult<String> {
        self.text(table::WIDTH)
    }

    fn __repr__(&self) -> String {
        let Summary { provenance, points, .. } = self.summary();
        let points = self.in_columns.unwrap_or(points.len());
        let (name, seeds) = (&provenance.experiment, provenance.seeds.len());
        let digest = &provenance.digest[..12];
        format!("<Results of {name}: {points} points, {seeds} seeds, digest {digest}>")
    }
}

/// The folder of public traces that the environment names, as for the command line: an
/// empty name is none.
pub(crate) fn traces_folder() -> Option<PathBuf> {
    let named = std::env::var_os("SIM_TRACES").filter(|folder| !folder.is_empty());
    named.map(PathBuf::from)
}

/// As `requests.csv` has them.
fn requests_table(simulations: &[SimulationRequests]) -> PyResult<Table> {
    let rows = || simulations.iter().flat_map(|s| s.records.iter().map(move |record| (s, record)));
    let mut columns = Columns::default();
    let params: Vec<&sim::Params> = rows().map(|(simulation, _)| &simulation.params).collect();
    Results::add_params(&mut columns, params.iter().copied());
    let whole = |of: &dyn Fn(&RequestRecord) -> Option<u32>| -> UInt32Array {
        rows().map(|(_, record)| of(record)).collect()
    };
    let ms = |of: &dyn Fn(&RequestRecord) -> Option<SimTime>| -> Float64Array {
        rows().map(|(_, record)| of(record).map(SimTime::as_millis)).collect()
    };
    let end = |record: &RequestRecord| match record.end {
        Some((_, End::Finished { .. })) => "finished",
        Some((_, End::Rejected(_))) => "rejected",
        Some((_, End::Failed)) => "failed",
        Some((_, End::GivenUp)) => "given up",
        Some(_) => "other",
        None => "unfinished",
    };
    columns.add("seed", rows().map(|(s, _)| Some(s.seed)).collect::<UInt64Array>());
    columns.add("request", whole(&|record| Some(record.request.0)));
    columns.add("conversation", whole(&|record| Some(record.conversation)));
    columns.add("turn", whole(&|record| Some(record.turn)));
    let priorities = rows().map(|(_, record)| Some(i64::from(record.priority)));
    columns.add("priority", priorities.collect::<Int64Array>());
    columns.add("worker", whole(&|record| record.dispatched.map(|(_, worker)| worker.0)));
    columns.add("end", rows().map(|(_, record)| Some(end(record))).collect::<StringArray>());
    columns.add("prompt_tokens", whole(&|record| Some(record.prompt_tokens)));
    columns.add("cached_tokens", whole(&|record| Some(record.cached_tokens)));
    columns.add(
        "output_tokens",
        whole(&|record| match record.end {
            Some((_, End::Finished { output_tokens })) => Some(output_tokens),
            _ => None,
        }),
    );
    columns.add("preemptions", whole(&|record| Some(record.preemptions)));
    columns.add("sent_ms", ms(&|record| Some(record.sent)));
    columns.add("first_dispatched_ms", ms(&|record| record.first_dispatched));
    columns.add("last_dispatched_ms", ms(&|record| record.stay().map(|(at, _)| at)));
    columns.add("scheduled_ms", ms(&|record| record.first_scheduled));
    columns.add("first_token_ms", ms(&|record| record.first_token));
    columns.add("end_ms", ms(&|record| record.end.map(|(at, _)| at)));
    columns.table()
}

/// A figure, shown inline by Jupyter.
#[pyclass(frozen, module = "kv_router_sim")]
pub(crate) struct Figure {
    figure: plot::Figure,
    redraw: Option<(Arc<sim::Results>, FigureOptions)>,
}

#[pymethods]
impl Figure {
    #[getter]
    fn name(&self) -> &str {
        &self.figure.name
    }

    #[getter]
    fn title(&self) -> &str {
        &self.figure.title
    }

    /// The same in words, for those who cannot see it.
    #[getter]
    fn alt(&self) -> &str {
        &self.figure.alt
    }

    #[getter]
    fn svg(&self) -> &str {
        &self.figure.svg
    }

    fn _repr_svg_(&self) -> &str {
        &self.figure.svg
    }

    /// Writes it as SVG or PNG, as the name of the file ends.
    fn save(&self, py: Python<'_>, file: PathBuf) -> PyResult<()> {
        let kind = file.extension().and_then(|kind| kind.to_str()).unwrap_or_default();
        let bytes = match kind {
            "svg" => self.figure.svg.as_bytes().to_owned(),
            "png" => {
                let redrawn = self.redraw.as_ref().map(|(results, choice)| {
                    let published = results.details.published.as_ref();
                    let draw =
                        || plot::figures(&results.summary, published, choice, DrawnFor::Files);
                    py.detach(draw).or_raise()
                });
                let redrawn = redrawn.transpose()?.and_then(|figures| figures.into_iter().next());
                let png = redrawn.map_or(self.figure.png.clone(), |figure| figure.png);
                png.ok_or_else(|| plain("this figure has no PNG"))?
            }
            _ => {
                return Err(plain(&format!("{}: must end with .svg or .png", file.display())));
            }
        };
        sim::experiment::write_file(&file, &bytes).or_raise()
    }

    fn __repr__(&self) -> String {
        format!("<Figure {}: {}>", self.figure.name, self.figure.title)
    }
}

/// A page of HTML that needs no network.
#[pyclass(frozen, module = "kv_router_sim")]
pub(crate) struct Report {
    #[pyo3(get)]
    html: String,
}

#[pymethods]
impl Report {
    fn save(&self, file: PathBuf) -> PyResult<()> {
        sim::experiment::write_file(&file, self.html.as_bytes()).or_raise()
    }

    /// In a frame of its own: it has a style sheet for the whole page.
    fn _repr_html_(&self) -> String {
        let page = self.html.replace('&', "&amp;").replace('"', "&quot;");
        format!("<iframe srcdoc=\"{page}\" width=\"100%\" height=\"600\"></iframe>")
    }

    fn __repr__(&self) -> String {
        format!("<Report of {} bytes>", self.html.len())
    }
}

/// What changed between two sets of results.
#[pyclass(frozen, module = "kv_router_sim")]
pub(crate) struct Comparison(render::compared::Compared);

#[pymethods]
impl Comparison {
    #[pyo3(signature = (*, width=table::WIDTH))]
    fn text(&self, width: usize) -> String {
        self.0.text(width)
    }

    fn markdown(&self) -> String {
        self.0.markdown()
    }

    fn _repr_markdown_(&self) -> String {
        self.0.markdown()
    }

    /// Every change, the surest first.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let json: Json =
            serde_json::from_str(&self.0.json()).map_err(|error| plain(&error.to_string()))?;
        to_python(py, &json)
    }

    fn __str__(&self) -> String {
        self.0.text(table::WIDTH)
    }

    fn __repr__(&self) -> String {
        format!("<Comparison: {}>", self.0.text(usize::MAX).lines().next().unwrap_or_default())
    }
}

/// Compares two sets of results: what changed, most certain first.
#[pyfunction]
#[pyo3(signature = (before, after, *, metrics=Vec::new(), all=false, ignore=Vec::new(), names=("before".to_owned(), "after".to_owned())))]
pub(crate) fn compare(
    before: &Results,
    after: &Results,
    metrics: Vec<String>,
    all: bool,
    ignore: Vec<String>,
    names: (String, String),
) -> PyResult<Comparison> {
    for metric in &metrics {
        check_name("metrics", metric).or_raise()?;
    }
    let metrics: Vec<&str> = match metrics.as_slice() {
        _ if all => Vec::new(),
        [] => sim::metrics::MAIN.to_vec(),
        asked => asked.iter().map(String::as_str).collect(),
    };
    before.in_memory("compare")?;
    after.in_memory("compare")?;
    let sides = [(before.summary(), names.0.as_str()), (after.summary(), names.1.as_str())];
    let compared = render::compared::Compared::new(sides[0], sides[1], &metrics, &ignore)
        .map_err(|unclear| plain(&unclear.to_string()))?;
    if compared.is_empty() {
        return Err(plain(
            "nothing to compare: no point and metric is in both results; ignore=[KEY] pairs \
             points that differ in a key",
        ));
    }
    Ok(Comparison(compared))
}
