//! Laws and golden histories of the KV policy.

mod active;
mod golden;
mod index;
mod laws;
