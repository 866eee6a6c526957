//! Results and judgements as text, tables, pages and files.

pub mod aiperf;
pub mod by_pool;
pub(crate) mod columns;
pub mod compared;
pub mod explain;
pub mod html;
pub mod requests;
pub mod save;
pub mod table;
pub mod timeline;
pub mod why;
