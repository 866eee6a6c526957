//! Identifiers: small integers that index tables, one type per kind of thing.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident(u32), an index) => {
        id! { $(#[$doc])* $name(u32) }
        impl $name {
            /// As an index of a table.
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
    ($(#[$doc:meta])* $name:ident($repr:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $repr);
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A serving engine of the fleet, numbered from 0.
    WorkerId(u32), an index
}
id! {
    /// A request, numbered from 0 in the order in which the workload makes them.
    RequestId(u32), an index
}
id! {
    /// A conversation (or a trace session); its turns share it.
    ConversationId(u32), an index
}
id! {
    /// A block of tokens *together with everything before it*: two prompts that
    /// hold the same `BlockId` at some position agree on all tokens up to the
    /// end of that block. So a set of ids is a prefix tree, and a lookup needs
    /// no parent.
    BlockId(u64)
}

impl WorkerId {
    /// The worker at `index` of a list in order of id.
    #[expect(clippy::cast_possible_truncation, reason = "worker ids are u32")]
    pub const fn at(index: usize) -> Self {
        Self(index as u32)
    }
}

impl BlockId {
    /// The id `n` places after this one in its run.
    pub const fn offset(self, n: u32) -> Self {
        Self(self.0 + n as u64)
    }
}

/// Where a router sends a request: a rank of a worker.
///
/// Engines with data-parallel attention are several ranks that step together, each with a
/// queue and a cache of its own, and routers see every rank as a target (Dynamo's
/// `WorkerWithDpRank`). Such workers are not modelled: each has the rank 0 alone. So
/// verdicts of routers, what is submitted to a fleet, and the sources of KV events name targets; whatever is
/// counted by worker (views, limits, records) does not yet tell ranks apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Target {
    /// The worker.
    pub worker: WorkerId,
    /// Its rank, from 0.
    pub rank: u32,
}

impl From<WorkerId> for Target {
    fn from(worker: WorkerId) -> Self {
        Self { worker, rank: 0 }
    }
}
