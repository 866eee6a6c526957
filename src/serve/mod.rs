//! Simulated workers behind vLLM's HTTP interface, in real time: a client or a
//! router that speaks to vLLM can be tried out without a GPU.
//!
//! One thread owns the workers and lives on the clock of the wall
//! (`engine`); HTTP and ZMQ are tasks around it. A prompt is its tokens, so
//! prefixes are shared as they would be; answers are words without meaning, the
//! same for the same prompt.

// The wall clock is what this is about.
#![allow(clippy::disallowed_methods)]

mod desk;
mod engine;
mod publisher;
mod routes;
mod words;

use crate::engine::config::EngineConfig;
use crate::experiment::{Settings, front_ends, simulated_fleet};
use crate::fleet::SimulatedFleet;
use crate::id::WorkerId;
use crate::settings::Invalid;
use engine::{Ask, Clock, Engine, Halt};
use publisher::{Publication, Publisher, publish_all};
use routes::{Port, routes};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, mpsc};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// KV events of the worker on port p are on port p + this; and, again as much
/// further, its replay socket.
const EVENTS_APART: u16 = 1000;

/// How to serve.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// The address to listen on.
    pub host: IpAddr,
    /// Whether it may be one that other machines reach: there is no access control.
    pub allow_remote: bool,
    /// The port of worker 0, the others follow; or of the router. 0: any that are free.
    pub port: u16,
    /// One port, behind the experiment's router, in place of one per worker.
    pub behind_router: bool,
    /// Simulated seconds in one of the wall's.
    pub speed: f64,
    /// The name of the model.
    pub model: String,
    /// Whether to publish KV events; not behind the router.
    pub events: bool,
    /// Seed of the router.
    pub seed: u64,
}

/// What cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A setting will not do.
    #[error(transparent)]
    Setting(#[from] Invalid),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the operating system says.
        reason: String,
    },
    /// KV events cannot be published.
    #[error("{0}")]
    Events(String),
    /// The operating system gives no threads.
    #[error("cannot start: {0}")]
    Start(String),
}

/// Simulated workers that are being served, until this is dropped.
#[derive(Debug)]
pub struct Served {
    addresses: Vec<SocketAddr>,
    runtime: Option<Runtime>,
}

impl Served {
    /// Where they listen: in order of workers, or the one of the router.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Serves the workers of `settings`.
///
/// # Errors
/// If a setting will not do, or an address is taken.
pub fn serve(settings: &Settings, options: &ServeOptions) -> Result<Served, ServeError> {
    let ServeOptions { speed, behind_router, events, .. } = *options;
    let is_own = options.host.to_canonical().is_loopback();
    let allowed =
        "a loopback address like 127.0.0.1, unless other machines are allowed to reach it";
    Invalid::unless(is_own || options.allow_remote, "host", options.host, allowed)?;
    settings.check_plain(
        "served workers stay as they are, and each does all the work: no KV moves between them",
    )?;
    Invalid::unless(speed.is_finite() && speed > 0.0, "speed", speed, "a finite number above 0")?;
    let policy = settings.policy.name();
    let allowed = "any other policy: this router is shown no truth";
    let wants_truth = behind_router && settings.policy.wants().truth;
    Invalid::unless(!wants_truth, "router.policy", format!("{policy:?}"), allowed)?;
    let replicas = settings.router.replicas;
    let allowed = "1: all requests reach one front end here";
    Invalid::unless(!behind_router || replicas == 1, "router.replicas", replicas, allowed)?;
    let has_gate = behind_router && settings.router.admission.is_some();
    let allowed = "left out: served workers have no gate in front of their router";
    Invalid::unless(!has_gate, "router.admission", "given", allowed)?;

    let start = |error: std::io::Error| ServeError::Start(error.to_string());
    let runtime =
        Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(start)?;
    // Clients hear of tokens one by one.
    let mut settings = settings.clone();
    Arc::make_mut(&mut settings.pools).change_engines(|engine| engine.fast_forward = false);
    let (ask, asks) = mpsc::channel();
    let listeners = runtime.block_on(listen(options, settings.pools.workers()))?;
    let addresses: Vec<SocketAddr> = listeners.iter().map(|(address, _)| *address).collect();
    let endpoints = addresses.iter().map(|address| endpoints(*address));
    let endpoints: Option<Vec<[String; 2]>> =
        events.then(|| endpoints.collect::<Result<_, _>>()).transpose()?;
    let publish = endpoints.as_ref().map(|all| runtime.block_on(publish(all))).transpose()?;
    let clock = Clock::new(speed);
    let thread = std::thread::Builder::new().name("sim-engine".to_owned());
    let (of_thread, seed) = (settings.clone(), options.seed);
    // Policies need not be Send, so the thread makes its own.
    let halt = Halt::default();
    let (of_engine, model) = (Arc::clone(&halt), options.model.clone());
    let engine = move || {
        let engine = engine(of_thread, (behind_router, seed), (clock, model), asks, publish);
        engine.run(&of_engine);
    };
    thread.spawn(engine).map_err(start)?;
    for (id, (_, listener)) in (0..).map(WorkerId).zip(listeners) {
        let events = endpoints.as_ref().map(|all| all[id.index()].clone());
        let worker = (!behind_router).then_some(id);
        let line = (ask.clone(), Arc::clone(&halt));
        // Behind a router: what any worker takes.
        let mut engine = EngineConfig::clone(&settings.pools.of(id).engine);
        if behind_router {
            let limits = settings.pools.pools().iter().map(|pool| pool.engine.max_model_len);
            engine.max_model_len = limits.min().unwrap_or(engine.max_model_len);
        }
        let port = Port::new(engine, &options.model, worker, events, line);
        runtime.spawn(crate::http::serve(listener, routes(port)));
    }
    Ok(Served { addresses, runtime: Some(runtime) })
}

/// The workers of `settings`, and their router if there is to be one.
fn engine(
    settings: Settings,
    (behind_router, seed): (bool, u64),
    clock: (Clock, String),
    asks: mpsc::Receiver<Ask>,
    publish: Option<UnboundedSender<Publication>>,
) -> Engine {
    let ends =
        if behind_router { front_ends(&settings, seed, |policy| policy) } else { Vec::new() };
    let fleet = match publish {
        Some(_) => SimulatedFleet::of_pools(&settings.pools, true),
        None => simulated_fleet(&settings, &ends, false),
    };
    Engine::new(settings, fleet, ends.into_iter().next(), clock, (asks, publish))
}

async fn listen(
    options: &ServeOptions,
    workers: u32,
) -> Result<Vec<(SocketAddr, TcpListener)>, ServeError> {
    let count = if options.behind_router { 1 } else { workers };
    let mut listeners = Vec::new();
    for at in 0..count {
        let port = if options.port == 0 { Some(0) } else { u16::try_from(at).ok() };
        let port = port.and_then(|at| options.port.checked_add(at));
        let allowed = format!(
            "at most {}: {count} workers need as many ports in a row",
            65_535 - count.saturating_sub(1).min(65_535)
        );
        let port = port.ok_or_else(|| Invalid::new("port", options.port, allowed))?;
        let address = SocketAddr::new(options.host, port);
        if options.events {
            endpoints(address)?;
        }
        let wrong =
            |error: std::io::Error| ServeError::Listen { address, reason: error.to_string() };
        let listener = TcpListener::bind(address).await.map_err(wrong)?;
        listeners.push((listener.local_addr().map_err(wrong)?, listener));
    }
    Ok(listeners)
}

/// Where the worker at `address` publishes, and says it again.
fn endpoints(address: SocketAddr) -> Result<[String; 2], Invalid> {
    let further = |times: u16| {
        let port = address.port().checked_add(EVENTS_APART * times)?;
        Some(format!("tcp://{}", SocketAddr::new(address.ip(), port)))
    };
    further(1).zip(further(2)).map(Into::into).ok_or_else(|| {
        let most = u16::MAX - 2 * EVENTS_APART;
        let allowed = format!(
            "at most {most} for every worker that publishes KV events: they are {EVENTS_APART} and \
             {} ports further",
            2 * EVENTS_APART
        );
        Invalid::new("port", address.port(), allowed)
    })
}

/// Publishers of all workers; what is given to the sender is published.
async fn publish(endpoints: &[[String; 2]]) -> Result<UnboundedSender<Publication>, ServeError> {
    let mut publishers = Vec::new();
    for (id, endpoints) in (0..).map(WorkerId).zip(endpoints) {
        let publisher = Publisher::bind(id, endpoints.clone()).await;
        publishers.push(publisher.map_err(ServeError::Events)?);
    }
    let (publish, publications) = unbounded_channel();
    tokio::spawn(publish_all(publishers, publications));
    Ok(publish)
}
