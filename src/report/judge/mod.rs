//! Judgements about results: whether points kept up, whether policies differ, which setting is best,
//! what changed between two result sets, whether a baseline still holds, and how
//! far the simulation is from published numbers.

pub mod answer;
pub mod baseline;
pub mod change;
pub mod check;
pub mod gains;
pub mod published;
pub mod state;
pub mod terms;
pub mod tuning;
