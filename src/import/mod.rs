//! Clusters as people have them, as experiments, and changes back out.
//!
//! Manifests of Kubernetes (`DynamoGraphDeployment`s, `Deployment`s with
//! `vllm serve` or `trtllm-serve`, configurations of llm-d's router), files of options and
//! lines of a shell become the text of an experiment ([`import`]). Every value in it says
//! which file and path gave it, or that it is assumed; what is given but not used is listed.
//! What is changed in the experiment becomes a change of what was imported ([`patch()`]).
//!
//! Nothing here reads or writes files but the parts of models, to know that they fit.

mod arguments;
mod engines;
mod fleet;
mod images;
mod manifests;
mod models;
mod patch;
mod request;
mod routers;
mod said;
#[cfg(test)]
mod tests;
mod text;
mod words;
mod worker;

pub use patch::{
    PatchError, PatchFile, Patched, PatchedPart, deployed, is_fact, is_same, patch, patch_part,
};
pub use request::{ImportError, Imported, Log, Request, Source};
pub use text::import;
