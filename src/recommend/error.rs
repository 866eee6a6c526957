//! What can be in the way of a recommendation.

use crate::accuracy::AccuracyError;
use crate::experiment::{ExperimentError, RunError};
use crate::settings::Invalid;

/// Why there is no recommendation.
#[derive(Debug, thiserror::Error)]
pub enum RecommendError {
    /// What is asked for makes no sense.
    #[error(transparent)]
    Asked(#[from] Invalid),
    /// The experiment cannot have a load that is tried.
    #[error(transparent)]
    Experiment(#[from] ExperimentError),
    /// A simulation gave no result.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The errors of the model cannot be read.
    #[error(transparent)]
    Accuracy(#[from] AccuracyError),
}
