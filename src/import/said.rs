//! Values with what says so.

use toml::Value;

/// A value with what says so: a place among those of the fleet, or an assumption.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Said {
    pub(super) value: Value,
    pub(super) by: By,
}

/// What says so.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum By {
    /// As written, at a place.
    Place(usize, String),
    /// Nothing in the files: why this is taken.
    Assumed(String),
}

/// Keys with what says so, in the order in which they are written.
pub(super) type Keys = Vec<(&'static str, Said)>;
