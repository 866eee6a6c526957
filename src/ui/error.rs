//! What cannot be shown.

use crate::experiment::ExperimentError;
use crate::live::LiveError;
use crate::report::view::published::PublishedError;
use crate::settings::Invalid;
use std::net::SocketAddr;

/// What cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum UiError {
    /// The experiment of the session is wrong.
    #[error(transparent)]
    Experiment(#[from] ExperimentError),
    /// The published numbers are.
    #[error(transparent)]
    Published(#[from] PublishedError),
    /// A setting will not do.
    #[error(transparent)]
    Setting(#[from] Invalid),
    /// Real servers cannot be used.
    #[error(transparent)]
    Live(#[from] LiveError),
    /// The port cannot be listened on.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the operating system says.
        reason: String,
    },
    /// The operating system gives no threads.
    #[error("cannot start: {0}")]
    Start(String),
}
