//! The KV policy on the histories of the production router.

use super::super::{KvPolicy, Semantics};
use crate::router::testing::cluster;
use crate::router::testing::golden::{Setup, check_histories};

fn policy(semantics: Semantics, setup: Setup) -> KvPolicy {
    KvPolicy::new(setup.params(semantics), &cluster(setup.workers, setup.block_size), 42)
}

#[test]
fn version_1_6_costs_what_the_production_router_says() {
    check_histories(|setup| policy(Semantics::V1_6, setup));
}

/// The formulas are the same with defaults, and these histories tell no
/// difference between the two indexes: the hole is in a prefix that no other
/// worker holds, which 0.9 forgets too.
#[test]
fn version_0_9_costs_the_same() {
    check_histories(|setup| policy(Semantics::V0_9, setup));
}
