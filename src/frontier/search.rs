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
/// confidence of the margins: where the worst and the best that the seeds allow
/// for have their edges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) edge: Edge,
    pub(super) interval: [Edge; 2],
    /// Places before the edge whose mean is bad all the same.
    pub(super) exceptions: Vec<usize>,
}

/// Looks for the last edge among places 0 to `last`. `margin` is asked once per place.
pub(super) fn search<E>(
    last: usize,
    mut margin: impl FnMut(usize) -> Result<Margin, E>,
) -> Result<Found, E> {
    let mut known: BTreeMap<usize, Margin> = BTreeMap::new();
    let steps = FIRST_LOOK.min(last + 1).max(2) - 1;
    for step in 0..=steps {
        let place = step * last / steps;
        if let Entry::Vacant(unknown) = known.entry(place) {
            unknown.insert(margin(place)?);
        }
    }
    let mut edge = |value: fn(&Margin) -> f64| -> Result<Edge, E> {
        let is_good = |margin: &Margin| value(margin) <= 0.0;
        // The last bad place that follows a good one, among those looked at.
        let Some(mut good) = known.iter().rev().find(|(_, m)| is_good(m)).map(|(place, _)| *place)
        else {
            return Ok(Edge::Before);
        };
        let Some(mut bad) = known.range(good + 1..).next().map(|(place, _)| *place) else {
            return Ok(Edge::Beyond);
        };
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            let found = margin(middle)?;
            known.insert(middle, found);
            (good, bad) = if is_good(&found) { (middle, bad) } else { (good, middle) };
        }
        Ok(Edge::After(good))
    };
    let mean = edge(|margin| margin.mean)?;
    let interval = [edge(|margin| margin.high)?, edge(|margin| margin.low)?];
    let before = match mean {
        Edge::Before => 0,
        Edge::After(place) => place,
        Edge::Beyond => last,
    };
    let exceptions = known.range(..before).filter(|(_, margin)| margin.mean > 0.0);
    Ok(Found { edge: mean, interval, exceptions: exceptions.map(|(place, _)| *place).collect() })
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
        let found = search(last, |place| {
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
        let found = search(60, |place| {
            let mean = if (15..25).contains(&place) || place > 47 { 1.0 } else { -1.0 };
            Ok::<_, Infallible>(Margin { low: mean, mean, high: mean })
        });
        let found = found.expect("nothing fails");
        assert_eq!(found.edge, Edge::After(47));
        assert_eq!(found.exceptions, [20]);
    }
}
