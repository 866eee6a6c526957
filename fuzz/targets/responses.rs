#![no_main]
//! Whatever a server sends is understood or refused.

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| kv_router_sim::fleet::servers::take_anything(bytes));
