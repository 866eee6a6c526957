//! Finds where a noisy margin stops being good, with an interval for the place.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Places that are looked at before any bisection, both ends included: a
/// margin that is good, bad and good again is noticed if a stretch is longer
/// than the distance between them.
const FIRST_LOOK: usize = 7;

/// By how far something is missed: up to 0 is good, above is bad.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Margin {
    /// The best that the seeds allow for.
    pub(super) low: f64,
    /// The mean over the seeds.
    pub(super) mean: f64,
    /// The worst that the seeds allow for.
    pub(super) high: f64,
}

impl Margin {
    /// Bad beyond any doubt: nothing could be measured.
    pub(super) const HOPELESS: Self =
        Self { low: f64::INFINITY, mean: f64::INFINITY, high: f64::INFINITY };
}

/// Where a margin stops being good, among places 0 to `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edge {
    /// It is bad at the first place already.
    Before,
    /// This is the last good place, the next one is bad.
    After(usize),
    /// It is still good at the last place.
    Beyond,
}

/// The edge of the mean, and the places between which it lies with the
/// confidence of the margins: up to the first every place that was looked at is
/// good even at the worst that the seeds allow for; beyond the second none is
/// good even at the best.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) edge: Edge,
    pub(super) interval: [Edge; 2],
    /// Places before the edge whose mean is bad all the same.
    pub(super) exceptions: Vec<usize>,
}

/// Looks for the last edge among places 0 to `last`, with an eye on the places
/// `seen` whatever they are. `margin` is asked once per place.
pub(super) fn search<E>(
    last: usize,
    seen: impl IntoIterator<Item = usize>,
    mut margin: impl FnMut(usize) -> Result<Margin, E>,
) -> Result<Found, E> {
    let mut known: BTreeMap<usize, Margin> = BTreeMap::new();
    let steps = FIRST_LOOK.min(last + 1).max(2) - 1;
    for place in (0..=steps).map(|step| step * last / steps).chain(seen) {
        if let Entry::Vacant(unknown) = known.entry(place) {
            unknown.insert(margin(place)?);
        }
    }
    // Closes in on the edge behind the first or the last good stretch.
    let mut edge = |value: fn(&Margin) -> f64, which: Which| -> Result<Edge, E> {
        let is_good = |margin: &Margin| value(margin) <= 0.0;
        let places = || known.iter().map(|(place, margin)| (*place, is_good(margin)));
        let (good, bad) = match which {
            Which::First => {
                let bad = places().find(|(_, is_good)| !is_good).map(|(place, _)| place);
                let good = places().take_while(|(_, is_good)| *is_good).last();
                (good.map(|(place, _)| place), bad)
            }
            Which::Last => {
                let good = places().rev().find(|(_, is_good)| *is_good).map(|(place, _)| place);
                let bad = good.and_then(|good| places().find(|(place, _)| *place > good));
                (good, bad.map(|(place, _)| place))
            }
        };
        let Some(mut good) = good else { return Ok(Edge::Before) };
        let Some(mut bad) = bad else { return Ok(Edge::Beyond) };
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            let found = margin(middle)?;
            known.insert(middle, found);
            (good, bad) = if is_good(&found) { (middle, bad) } else { (good, middle) };
        }
        Ok(Edge::After(good))
    };
    let mean = edge(|margin| margin.mean, Which::Last)?;
    let high = edge(|margin| margin.low, Which::Last)?;
    // After all others: whatever they looked at counts.
    let low = edge(|margin| margin.high, Which::First)?;
    let before = match mean {
        Edge::Before => 0,
        Edge::After(place) => place,
        Edge::Beyond => last,
    };
    let exceptions = known.range(..before).filter(|(_, margin)| margin.mean > 0.0);
    let exceptions = exceptions.map(|(place, _)| *place).collect();
    Ok(Found { edge: mean, interval: [low, high], exceptions })
}

/// Which of several edges.
#[derive(Clone, Copy)]
enum Which {
    First,
    Last,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    /// Searches a margin that is good up to and including `good` places (0: none),
    /// and counts how often it is asked.
    fn find(last: usize, goods: [usize; 3]) -> (Found, usize) {
        let mut asked = Vec::new();
        let found = search(last, [], |place| {
            assert!(!asked.contains(&place), "{place} is asked twice");
            asked.push(place);
            let value = |goods: usize| if place < goods { -1.0 } else { 1.0 };
            let [high, mean, low] = goods.map(value);
            Ok::<_, Infallible>(Margin { low, mean, high })
        });
        (found.expect("nothing fails"), asked.len())
    }

    proptest! {
        /// A naive model: walk up from the first place.
        #[test]
        fn one_edge_is_found_exactly(
            last in 0usize..300, mut goods in prop::array::uniform3(0usize..310)
        ) {
            goods.sort_unstable();
            let edge = |goods: usize| match goods {
                0 => Edge::Before,
                goods if goods > last => Edge::Beyond,
                goods => Edge::After(goods - 1),
            };
            let (found, asked) = find(last, goods);
            prop_assert_eq!(found.edge, edge(goods[1]));
            prop_assert_eq!(found.interval, [edge(goods[0]), edge(goods[2])]);
            prop_assert!(found.exceptions.is_empty());
            prop_assert!(asked <= 7 + 3 * 6, "{} places", asked);
        }
    }

    #[test]
    fn a_bad_stretch_before_the_edge_is_reported() {
        let found = search(60, [], |place| {
            let mean = if (15..25).contains(&place) || place > 47 { 1.0 } else { -1.0 };
            Ok::<_, Infallible>(Margin { low: mean, mean, high: mean })
        });
        let found = found.expect("nothing fails");
        assert_eq!(found.edge, Edge::After(47));
        assert_eq!(found.exceptions, [15, 20]);
        // Not all loads up to 47 are good beyond doubt.
        assert_eq!(found.interval, [Edge::After(14), Edge::After(47)]);
    }

    proptest! {
        /// Whatever the noise, all places looked at up to the low end are good
        /// beyond doubt, and none beyond the high end may be good.
        #[test]
        fn the_interval_keeps_what_it_says(
            means in prop::collection::vec(-1.0..1.0f64, 1..80),
            doubt in 0.0..0.5f64,
            seen in prop::collection::vec(0usize..80, 0..5),
        ) {
            let last = means.len() - 1;
            let seen: Vec<usize> = seen.into_iter().filter(|place| *place <= last).collect();
            let mut looked_at = Vec::new();
            let found = search(last, seen.clone(), |place| {
                looked_at.push(place);
                let mean = means[place] + place as f64 / 40.0 - 1.0;
                Ok::<_, Infallible>(Margin { low: mean - doubt, mean, high: mean + doubt })
            });
            let found = found.expect("nothing fails");
            prop_assert!(seen.iter().all(|place| looked_at.contains(place)));
            let is_within = |place: usize, edge: Edge| match edge {
                Edge::Before => false,
                Edge::After(end) => place <= end,
                Edge::Beyond => true,
            };
            let [low, high] = found.interval;
            for place in looked_at {
                let mean = means[place] + place as f64 / 40.0 - 1.0;
                prop_assert!(!is_within(place, low) || mean + doubt <= 0.0);
                prop_assert!(is_within(place, high) || mean - doubt > 0.0);
                prop_assert!(!is_within(place, low) || is_within(place, found.edge));
                prop_assert!(!is_within(place, found.edge) || is_within(place, high));
            }
        }
    }
}
