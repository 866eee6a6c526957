//! Laws and golden histories of the KV policy.

mod active;
mod approximate;
mod golden;
mod index;
mod laws;
mod overload;
mod stale;
