//! `sim schema`.

use super::error::CliError;
use super::talk::print;
use kv_router_sim::experiment::schema;
use kv_router_sim::report::{render::save, view::published::PublishedSettings};

/// Print the JSON Schema of experiment files, for editors
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim schema > experiment.schema.json

An editor with Taplo (Even Better TOML) completes and checks a file that begins with
  #:schema ./experiment.schema.json")]
pub(crate) struct SchemaArgs {}

/// Prints the schema.
pub(super) fn run(_: &SchemaArgs) -> Result<(), CliError> {
    print(&save::json(&schema::<PublishedSettings>()))
}
