//! HTTP: the page, its events, and what it may ask.

use super::engine::{BETWEEN_FRAMES, Engine, Line};
use super::guard::{self, Guard};
use super::hub::{Cursor, Hub};
use super::plan::{Move, Plan};
use super::servers::why;
use crate::experiment::explain::{DecisionQuery, Pick, explain};
use crate::experiment::results::{SCHEMA_VERSION, SavedRuns};
use crate::id::RequestId;
use crate::report::render::{explain as words, table};
use crate::results::{ResultFolder, RunInto, run_into};
use crate::settings::{Invalid, parse_duration, plain};
use crate::simulation::ControlSettings;
use crate::time::{SimDuration, SimTime};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use futures_util::stream::{Stream, unfold};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// The page: what `web/` is built to.
const PAGE: &str = include_str!("page.html");

/// Browsers that may look at the same time.
const MOST_READERS: usize = 64;

/// A link to a session of an hour at the slider is smaller.
const MOST_BYTES: usize = 8 << 20;

/// Sessions that simulate again at the same time, for explanations and result folders.
const MOST_REPLAYS: usize = 1;

/// What all requests share.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) line: Line,
    pub(super) hub: Arc<Hub>,
    readers: Arc<Semaphore>,
    replays: Arc<Semaphore>,
}

/// Why something is not done.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

impl From<Invalid> for Refusal {
    fn from(wrong: Invalid) -> Self {
        Self(StatusCode::BAD_REQUEST, wrong.to_string())
    }
}

/// The answer where the engine is gone.
fn gone<T>(_: T) -> Refusal {
    Refusal(StatusCode::SERVICE_UNAVAILABLE, "the session has ended".to_owned())
}

fn bad(problem: impl ToString) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, problem.to_string())
}

impl Desk {
    pub(super) fn new(line: Line, hub: Arc<Hub>) -> Self {
        let readers = Arc::new(Semaphore::new(MOST_READERS));
        let replays = Arc::new(Semaphore::new(MOST_REPLAYS));
        Self { line, hub, readers, replays }
    }

    async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Engine) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        self.line.ask(ask).await.ok_or(()).map_err(gone)
    }
}

pub(super) fn router(desk: Desk, guard: Guard) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/api/events", get(events))
        .route("/api/do", post(act))
        .route("/api/experiment.toml", get(experiment))
        .route("/api/link", get(link))
        .route("/api/explain", get(explanation))
        .route("/api/results", post(results))
        .route("/metrics", get(exposition))
        .layer(DefaultBodyLimit::max(MOST_BYTES))
        .layer(middleware::from_fn_with_state(guard, guard::check))
        .with_state(desk)
}

async fn page() -> Response {
    ([(CONTENT_TYPE, "text/html; charset=utf-8")], PAGE).into_response()
}

/// One browser that looks.
struct Reader {
    desk: Desk,
    changes: tokio::sync::watch::Receiver<u64>,
    cursor: Cursor,
    unsent: VecDeque<(&'static str, String)>,
    sent: Option<Instant>,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

async fn events(
    State(desk): State<Desk>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refusal> {
    let permit = Arc::clone(&desk.readers).try_acquire_owned().map_err(|_| {
        let problem = format!("{MOST_READERS} pages are open already: close one");
        Refusal(StatusCode::SERVICE_UNAVAILABLE, problem)
    })?;
    let reader = Reader {
        changes: desk.hub.changes(),
        desk,
        cursor: Cursor::default(),
        unsent: VecDeque::new(),
        sent: None,
        _permit: permit,
    };
    let stream = unfold(reader, |mut reader| async {
        loop {
            if let Some((name, data)) = reader.unsent.pop_front() {
                return Some((Ok(Event::default().event(name).data(data)), reader));
            }
            if let Some(sent) = reader.sent {
                reader.changes.changed().await.ok()?;
                tokio::time::sleep_until(sent + BETWEEN_FRAMES).await;
            }
            reader.changes.mark_unchanged();
            reader.sent = Some(Instant::now());
            reader.unsent = reader.desk.hub.read(&mut reader.cursor).into();
        }
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()))
}

/// What a page may ask.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
enum Action {
    /// A `[[control]]` now, without its time; for all arms or one.
    Control {
        #[serde(default)]
        arm: Option<usize>,
        control: Value,
    },
    /// Simulated seconds a second; as fast as it goes if not given.
    Pace {
        speed: Option<f64>,
    },
    Pause {},
    Run {},
    /// A time like `"1s"`, then paused.
    Step {
        by: String,
    },
    /// The time that rolling numbers cover.
    Window {
        over: String,
    },
    /// The moves of a preset.
    Preset {
        name: String,
    },
    /// Forgets the moves of a preset that are to come.
    Stop {},
    /// A session from the start, without moves.
    Restart {
        #[serde(default)]
        seed: Option<u64>,
    },
    /// A session again, as [`link`] gives it.
    Restore {
        seed: u64,
        at: String,
        moves: Vec<Value>,
    },
}

async fn act(State(desk): State<Desk>, body: String) -> Result<Json<Value>, Refusal> {
    let action: Action = serde_json::from_str(&body).map_err(bad)?;
    let done = desk.ask(move |engine| perform(engine, action)).await?;
    done.map(Json)
}

/// Why `action` cannot be done where an arm is real, if it cannot.
fn unreal(action: &Action) -> Option<&'static str> {
    match action {
        Action::Pace { .. }
        | Action::Pause {}
        | Action::Run {}
        | Action::Step { .. }
        | Action::Restart { .. }
        | Action::Restore { .. } => Some(why::TIME),
        Action::Preset { name } if name == "worker-dies" => Some(why::WORKERS),
        Action::Control { .. }
        | Action::Window { .. }
        | Action::Preset { .. }
        | Action::Stop {} => None,
    }
}

fn perform(engine: &mut Engine, action: Action) -> Result<Value, Refusal> {
    if engine.session.servers.is_some()
        && let Some(why) = unreal(&action)
    {
        return Err(bad(why));
    }
    match action {
        Action::Control { arm, control } => {
            let control = written(control)?.control()?;
            let refused = engine.apply(arm, &control)?;
            let refused = refused.iter().map(|(arm, why)| {
                let name = engine.session.name(*arm);
                json!({ "arm": arm, "why": format!("{name}: {why}") })
            });
            return Ok(json!({ "refused": refused.collect::<Vec<Value>>() }));
        }
        Action::Pace { speed } => {
            let fits = speed.is_none_or(|speed| (0.01..=1e6).contains(&speed));
            let shown = speed.unwrap_or_default();
            Invalid::unless(fits, "speed", shown, "a number from 0.01 to 1000000, or null")?;
            engine.set_pace(speed);
        }
        Action::Pause {} => engine.pause(true),
        Action::Run {} => engine.pause(false),
        Action::Step { by } => engine.step_by(time("by", &by, 1e-3..=86_400.0)?),
        Action::Window { over } => {
            let over = time("over", &over, 1.0..=3_600.0)?;
            engine.session.set_window(over);
        }
        Action::Preset { name } => {
            let moves = engine
                .session
                .preset(&name)
                .ok_or_else(|| bad(format!("{name:?} is no preset of a workload like this one")))?;
            engine.session.follow(moves);
            engine.pause(false);
        }
        Action::Stop {} => engine.session.follow_no_more(),
        Action::Restart { seed } => {
            let seed = seed.unwrap_or(engine.session.seed);
            engine.restart(seed, Vec::new(), None);
        }
        Action::Restore { seed, at, moves } => {
            let read = |mut step: Value| -> Result<Move, Refusal> {
                let arm = step.as_object_mut().and_then(|step| step.remove("arm"));
                let arm: Option<usize> = serde_json::from_value(arm.unwrap_or_default())
                    .map_err(|error| bad(format!("arm: {error}")))?;
                arm.map_or(Ok(()), |arm| engine.session.check_arm(arm))?;
                let settings = written(step)?;
                let control = settings.control()?;
                Ok(Move { at: SimTime::ZERO + settings.at, arm, control })
            };
            let moves = moves.into_iter().map(read).collect::<Result<Vec<Move>, Refusal>>()?;
            let at = time("at", &at, 0.0..=100.0 * 86_400.0)?;
            engine.restart(seed, moves, Some(SimTime::ZERO + at));
        }
    }
    Ok(json!({ "refused": [] }))
}

/// A control as an experiment has it; one that comes now has no time.
fn written(mut control: Value) -> Result<ControlSettings, Refusal> {
    if let Some(control) = control.as_object_mut() {
        control.entry("at").or_insert(json!("0s"));
    }
    serde_json::from_value(control).map_err(bad)
}

fn time(
    key: &str,
    text: &str,
    seconds: std::ops::RangeInclusive<f64>,
) -> Result<SimDuration, Refusal> {
    let time = parse_duration(text).map_err(|wrong| bad(format!("{key}: {wrong}")))?;
    let allowed = format!("from {} s to {} s", seconds.start(), seconds.end());
    Invalid::unless(seconds.contains(&time.as_secs()), key, format!("{text:?}"), &allowed)?;
    Ok(time)
}

async fn experiment(State(desk): State<Desk>) -> Result<Response, Refusal> {
    let text = desk.ask(|engine| engine.session.saved()).await??;
    let headers = [
        (CONTENT_TYPE.as_str(), "application/toml; charset=utf-8"),
        ("content-disposition", "attachment; filename=\"session.toml\""),
    ];
    Ok((headers, text).into_response())
}

/// All it takes to come back to this moment: [`Action::Restore`].
async fn link(State(desk): State<Desk>) -> Result<Json<Value>, Refusal> {
    let link = desk.ask(|engine| {
        let session = &engine.session;
        if session.servers.is_some() {
            return Err(bad(why::REPLAY));
        }
        let moves = session.moves().iter().map(|step| {
            let mut written = json!(ControlSettings::of(step.at, &step.control));
            if let Some(arm) = step.arm {
                written["arm"] = json!(arm);
            }
            written
        });
        Ok(json!({
            "seed": session.seed,
            "at": session.now() - SimTime::ZERO,
            "moves": moves.collect::<Vec<Value>>(),
        }))
    });
    Ok(Json(link.await??))
}

/// A session that is to be simulated again.
struct Replay {
    plan: Plan,
    text: String,
    digest: String,
    digests: Vec<String>,
    seed: u64,
}

impl Replay {
    async fn of(desk: &Desk) -> Result<Self, Refusal> {
        let replay = desk.ask(|engine| {
            let session = &mut engine.session;
            let text = session.saved()?;
            let (digest, digests) = (session.digest(), session.digests());
            Ok::<_, Invalid>(Self {
                plan: session.plan.clone(),
                text,
                digest,
                digests,
                seed: session.seed,
            })
        });
        Ok(replay.await??)
    }
}

/// Does `work` on a thread of its own, if no other work of this kind is being done.
async fn replayed<T: Send + 'static>(
    desk: &Desk,
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, Refusal> {
    let permit = Arc::clone(&desk.replays).try_acquire_owned().map_err(|_| {
        let problem = "another request is being explained or saved: wait for it".to_owned();
        Refusal(StatusCode::CONFLICT, problem)
    })?;
    let work = move || {
        let _permit = permit;
        work()
    };
    tokio::task::spawn_blocking(work).await.map_err(gone)?.map_err(bad)
}

#[derive(Debug, Deserialize)]
struct Which {
    arm: usize,
    request: u32,
}

/// Why a request went where it went.
async fn explanation(
    State(desk): State<Desk>,
    Query(Which { arm, request }): Query<Which>,
) -> Result<String, Refusal> {
    let Replay { plan, text, digests, seed, .. } = Replay::of(&desk).await?;
    replayed(&desk, move || {
        let experiment = plan.read(&text).map_err(|wrong| wrong.to_string())?;
        let is_real = plan.beside_servers && arm == plan.arms.len();
        let none = if is_real { why::REPLAY } else { "there is no such arm" };
        let point = experiment.points.get(arm).ok_or(none)?;
        let at = point.iter().map(|(key, value)| (key.clone(), plain(value))).collect();
        let (schema_version, overrides) = (SCHEMA_VERSION, Vec::new());
        let saved = SavedRuns { schema_version, experiment: plan.name.clone(), overrides, digests };
        let pick = Pick::Request(RequestId(request));
        let query = DecisionQuery { pick, at, seed: Some(seed) };
        let explained = explain(&experiment, &saved, &query).map_err(|wrong| wrong.to_string())?;
        Ok(words::report(&explained, table::WIDTH))
    })
    .await
}

/// Writes a result folder of the session so far, and says where.
async fn results(State(desk): State<Desk>) -> Result<Json<Value>, Refusal> {
    let Replay { plan, text, digest, .. } = Replay::of(&desk).await?;
    let (folder, file, found) = replayed(&desk, move || {
        let experiment = plan.read(&text).map_err(|wrong| wrong.to_string())?;
        let name = format!("{}-{}", experiment.name, &digest[..12]);
        let folder: PathBuf = ResultFolder::default_path(&name);
        let file = plan.place().join(format!("{name}.toml"));
        crate::experiment::write_file(&file, text.as_bytes()).map_err(|wrong| wrong.to_string())?;
        let into = ResultFolder::resume(&folder, &experiment).map_err(|wrong| wrong.to_string())?;
        let saved = run_into(into, &experiment, &RunInto::new(&file, Vec::new()).jobs(1))
            .map_err(|wrong| wrong.to_string())?;
        Ok((folder, file, saved.results.summary.provenance.digest))
    })
    .await?;
    let (folder, file) = (folder.display().to_string(), file.display().to_string());
    Ok(Json(json!({ "folder": folder, "file": file, "digest": found })))
}

async fn exposition(State(desk): State<Desk>) -> Result<Response, Refusal> {
    let text = desk.ask(|engine| engine.session.metrics()).await?;
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(CONTENT_TYPE, kind)], text).into_response())
}
