//! The laws of the simulator and the realities it is held to, one module each.

mod accuracy;
mod cache_size;
mod calibrate;
mod checks;
mod errors;
mod explain;
mod fast_forward;
mod front_ends;
mod little;
#[cfg(feature = "live")]
mod live;
mod lives;
mod model_files;
mod one_worker;
mod output_blocks;
mod prefix_oracle;
mod program;
mod queueing_theory;
mod relabelling;
mod reports;
mod rig;
mod runs;
mod same_bytes;
mod script;
mod source_rules;
mod step_time;
mod sweeps;
mod trtllm_cache;
mod trtllm_timing;
mod vllm_cache;
mod vllm_runs;
mod why;
mod work_conserving;
