//! The Python package `kv_router_sim`: a thin layer over the crate of the same name.
//!
//! What is here turns Python's values into the crate's and back, releases the GIL
//! while the crate works, and reports what is wrong as exceptions. What is easier said
//! in Python is said there, in `kv_router_sim/`.

mod errors;
mod events;
mod experiment;
mod gathered;
mod lent;
mod policy;
mod results;
mod simulation;
mod table;
mod values;
mod view;
mod wait;
mod workload;

/// The command line of `sim`, as the program has it.
#[path = "../../src/cli/mod.rs"]
mod cli;

use kv_router_sim::Stop;
use pyo3::prelude::*;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

/// Does what the arguments of the command `sim` say, the first its name; gives the exit
/// code.
#[pyfunction]
fn command(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
    py.detach(|| {
        let code = cli::main(arguments);
        // The interpreter does not know of what Rust still holds.
        let _ = std::io::stdout().flush();
        code
    })
}

/// Says which file this code was loaded from: runs that other code began are not
/// continued.
#[pyfunction]
fn loaded_from(file: PathBuf) {
    kv_router_sim::results::loaded_from(file);
}

/// Fails as a defect of the simulator would, for the tests of the package: on a thread of
/// its own, or on that of a simulation.
#[pyfunction]
#[pyo3(signature = (simulation=None))]
fn _defect(py: Python<'_>, simulation: Option<&simulation::Simulation>) -> PyResult<()> {
    match simulation {
        Some(simulation) => simulation.fail(py),
        None => wait::work(py, &Stop::default(), |_| Ok(()), || panic!("a defect on purpose")),
    }
}

/// What a defect of the simulator has to say, whether it is raised after that, as in
/// wheels, or ends the process, as in a build of the profile `release`.
fn explain_defects() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        let _ = writeln!(
            std::io::stderr(),
            "kv_router_sim {}: this is a defect of the simulator, not of what was asked for; \
             please report the lines above",
            env!("CARGO_PKG_VERSION")
        );
    }));
}

/// The part of `kv_router_sim` that is written in Rust.
#[pymodule]
mod _native {
    #[pymodule_export]
    use super::errors::SimError;
    #[pymodule_export]
    use super::events::{KvEvent, WorkerEvent};
    #[pymodule_export]
    use super::experiment::{Experiment, Frontier, frontier, policies};
    #[pymodule_export]
    use super::gathered::Gathered;
    #[pymodule_export]
    use super::results::{Comparison, Figure, Report, Results, compare};
    #[pymodule_export]
    use super::simulation::Simulation;
    #[pymodule_export]
    use super::table::Table;
    #[pymodule_export]
    use super::view::{ClusterView, Fleet, Reported, RouteRequest};
    #[pymodule_export]
    use super::workload::Request;
    #[pymodule_export]
    use super::{_defect, command, loaded_from};
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        super::explain_defects();
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
