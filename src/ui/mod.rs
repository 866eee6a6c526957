//! The live page: an experiment's policies side by side, in a browser, while load, routers
//! and workers are changed by hand.
//!
//! One thread owns the simulations (`engine`) and puts time into all of them in lock step
//! (`session`). It leaves what is to be seen in one place (`hub`), from where browsers are
//! served, however slowly they read. A session is the text of an experiment (`plan`): what
//! was done in it is kept as `[[control]]`, so that it can be run again.

// The clock of the wall is what a live page goes by.
#![allow(clippy::disallowed_methods)]

mod arm;
mod baselines;
mod engine;
mod error;
mod guard;
mod hub;
mod plan;
mod routes;
mod servers;
mod session;
#[cfg(test)]
mod tests;

pub use error::UiError;

use crate::experiment::Experiment;
use crate::live::LiveOptions;
use crate::report::view::published::Published;
use crate::results::ResultFolder;
use engine::{Engine, FIRST_WINDOW, Line};
use guard::Guard;
use hub::Hub;
use plan::Plan;
use routes::{Desk, router};
use servers::Servers;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

/// How to show a session.
#[derive(Clone, Debug, Default)]
pub struct UiOptions {
    /// The port on this machine; 0: one that is free.
    pub port: u16,
    /// Folder of public traces.
    pub traces: Option<PathBuf>,
    /// Real servers that are to be an arm too.
    pub servers: Option<LiveOptions>,
}

/// A session that is being shown, until this is dropped.
#[derive(Debug)]
pub struct Shown {
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Shown {
    /// Where the page is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Shows a session of `experiment`: the arms are what it sweeps beside the load.
///
/// # Errors
/// If it cannot be one, or the port is taken.
pub fn show(experiment: &Experiment, options: &UiOptions) -> Result<Shown, UiError> {
    let file = experiment.file().to_owned();
    let plan = Plan::new(experiment, file, options.traces.clone(), options.servers.is_some())?;
    let published = Published::of(experiment)?;
    let start = |error: std::io::Error| UiError::Start(error.to_string());
    let runtime =
        Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(start)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, options.port));
    let taken = |error: std::io::Error| UiError::Listen { address, reason: error.to_string() };
    let listener = runtime.block_on(TcpListener::bind(address)).map_err(taken)?;
    let address = listener.local_addr().map_err(taken)?;
    let hub = Arc::new(Hub::new());
    let (asks, heard) = mpsc::channel();
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    let begin = |servers: &LiveOptions| {
        let run = plan.arms[0].run.clone();
        Servers::begin(run, plan.first_seed(), FIRST_WINDOW, servers.clone())
    };
    let servers = options.servers.as_ref().map(begin).transpose()?;
    let (of_engine, of_baselines) = (Arc::clone(&hub), Arc::clone(&hub));
    let swept = plan.clone();
    // Policies need not be Send, so the thread makes its own.
    thread("sim-session")
        .spawn(move || Engine::new(plan, published, of_engine, servers).run(&heard))
        .map_err(start)?;
    thread("sim-baselines")
        .spawn(move || {
            let folder = ResultFolder::default_path(&swept.name);
            of_baselines.set_baselines(baselines::baselines(&swept, &folder));
        })
        .map_err(start)?;
    let app = router(Desk::new(Line::new(asks), hub), Guard::of(address));
    runtime.spawn(crate::http::serve(listener, app));
    Ok(Shown { address, runtime: Some(runtime) })
}
