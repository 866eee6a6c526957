//! What is said about a result set, in three parts, each of which uses only
//! those before it: a [`view`] of the results, arranged for reading;
//! [judgements](judge) made from a view; and their [rendering](render) as text,
//! tables, pages and files.
//!
//! Everything here is made from saved results alone, a
//! [`Summary`](crate::experiment::results::Summary) above all, so that a report
//! can be made again without running anything.

#[cfg(test)]
pub(crate) mod example;
pub mod judge;
pub mod render;
pub mod view;
