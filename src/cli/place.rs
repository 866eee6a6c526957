//! Files that commands write: none replaces another unasked, and none what is read.

use super::error::CliError;
use kv_router_sim::experiment::{check_writable, is_stream};
use kv_router_sim::settings::Invalid;
use std::path::Path;

/// Finds out before anything runs whether a file that `key` names can be written, and that
/// it replaces no other: one that is there only by `force`, one of `inputs` never.
pub(super) fn check_free(
    key: &str,
    file: &Path,
    force: bool,
    inputs: &[&Path],
) -> Result<(), CliError> {
    let refused = |allowed: String| Err(Invalid::new(key, file.display(), allowed).into());
    if !is_stream(file) && file.is_file() {
        let place = file.canonicalize().ok();
        let is_read = |input: &&&Path| place.is_some() && input.canonicalize().ok() == place;
        if let Some(input) = inputs.iter().find(is_read) {
            return refused(format!("another file than {}, which is read", input.display()));
        }
        if !force {
            return refused(
                "a file that is not there yet; choose another name, or replace the file with \
                 --force"
                    .to_owned(),
            );
        }
    }
    Ok(check_writable(file)?)
}

/// As [`check_free`] for a second file of the same command.
pub(super) fn check_apart(key: &str, file: &Path, other: &Path) -> Result<(), CliError> {
    let place = |file: &Path| file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let is_apart = is_stream(file) || place(file) != place(other);
    let allowed = format!("another file than {}, which is written too", other.display());
    Ok(Invalid::unless(is_apart, key, file.display(), &allowed)?)
}
