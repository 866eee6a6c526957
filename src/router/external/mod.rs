//! Routers in other languages: a policy that asks a process, in simulated time.
//!
//! The process gets what a policy in Rust gets, as lines of JSON ([`wire`]), and only when
//! its turn comes: at a request, with all that was heard since the last one. So it runs
//! as long as it likes without a moment of simulated time, and a run costs two context
//! switches a decision. What wall time does is to end a process that does not answer.
//!
//! Whatever is wrong with an answer ends the simulation, with the line that was asked, the
//! line that came and the last that the process printed.

pub mod conformance;
#[cfg(not(unix))]
mod no_process;
mod params;
mod policy;
#[cfg(unix)]
mod process;
#[cfg(all(test, unix))]
mod tests;
pub mod wire;

#[cfg(not(unix))]
use no_process as process;
pub use params::ExternalParams;
pub use policy::External;
pub use process::end_all;

/// The beginning of a line, for a message.
fn shown(line: &str) -> String {
    const MOST: usize = 400;
    let line = line.trim_end();
    match line.char_indices().nth(MOST) {
        None => format!("`{line}`"),
        Some((end, _)) => format!("`{}...` ({} bytes)", &line[..end], line.len()),
    }
}
