//! The laws of the simulator and the realities it is held to, one module each.

mod accuracy;
mod cache_size;
mod calibrate;
mod errors;
mod fast_forward;
mod little;
mod lives;
mod model_files;
mod one_worker;
mod prefix_oracle;
mod program;
mod queueing_theory;
mod relabelling;
mod rig;
mod runs;
mod same_bytes;
mod script;
mod source_rules;
mod step_time;
mod trtllm_cache;
mod trtllm_timing;
mod vllm_cache;
mod vllm_runs;
mod work_conserving;
