//! How long a step of several ranks takes, and for how long that stays a straight line.
//!
//! In every layer the ranks meet twice, before the experts and behind them. What each does
//! alone lies between those meetings, and all layers are alike: so a step takes what the
//! slowest rank does alone and what all do together. A rank with nothing to do comes along
//! and delays no other.
//!
//! While all decode, what each does alone grows evenly, and what they do together does not
//! change. The slowest stays the slowest until one that grows faster has caught up: a plan
//! ends there.

use super::rank::{Rank, RankTime};
use smallvec::SmallVec;

/// The time of the step that `ranks` have just formed, one of which has something in it,
/// how it grows, and for how many steps. `with_prefill`: one of them computes prompt tokens.
pub(super) fn of(ranks: &mut [Rank], with_prefill: bool) -> RankTime {
    if let [rank] = ranks {
        return rank.step_time(with_prefill);
    }
    let tokens = ranks.iter().map(|rank| rank.step_tokens(with_prefill)).sum();
    let together = ranks[0].core.together(tokens);
    let look_ahead = ranks.iter().all(Rank::may_look_ahead);
    let busy = ranks.iter_mut().filter(|rank| rank.has_step());
    let times: SmallVec<[RankTime; 8]> = busy.map(|rank| rank.step_time(with_prefill)).collect();
    let slowest = times.iter().max_by_key(|time| (time.gpu, time.growth));
    let slowest = *slowest.expect("a step holds something");
    let ends = times.iter().map(|time| time.steps.min(steps_behind(*time, slowest)));
    let steps = if look_ahead { ends.min().unwrap_or(1) } else { 1 };
    RankTime { gpu: slowest.gpu + together, steps, ..slowest }
}

/// For how many steps `other`, which is no slower now, is no slower than `slowest`.
fn steps_behind(other: RankTime, slowest: RankTime) -> u64 {
    let lead = slowest.gpu - other.gpu;
    let nears_ps = other.growth.as_ps().saturating_sub(slowest.growth.as_ps());
    lead.as_ps().checked_div(nears_ps).map_or(u64::MAX, |steps| steps.saturating_add(1))
}
