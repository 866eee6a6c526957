//! From values to places on an axis, and where the ticks go.

/// An axis of a panel: linear or logarithmic, with its ticks.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scale {
    is_log: bool,
    low: f64,
    high: f64,
    /// Values to label, ascending, all within the scale.
    pub(super) ticks: Vec<Tick>,
}

/// A labelled value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tick {
    pub(super) value: f64,
    pub(super) label: String,
}

/// Values further from zero cannot be drawn: differences of them overflow.
const LARGEST: f64 = 1e100;
/// What is on an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScaleKind {
    /// Milliseconds or seconds: may span orders of magnitude.
    Time,
    /// Percent, at most 100.
    Ratio,
    /// Counts and rates, which grow in proportion: a line of them stays a line.
    Amount,
}

/// A logarithmic axis of times from this ratio of largest to smallest value on (assumed).
const LOG_FROM: f64 = 5.0;
/// The same for swept values (assumed), if their distances grow too: values at even
/// distances stay so.
const LOG_X_FROM: f64 = 20.0;
/// By how much the distances of neighbours differ at least on a logarithmic axis (assumed).
const LOG_X_GROWTH: f64 = 4.0;

/// True for values that a scale can place.
pub(super) fn is_drawable(value: f64) -> bool {
    value.abs() <= LARGEST
}

impl Scale {
    /// For values of a metric. Times are logarithmic if they span a factor of five;
    /// all else is linear, from zero if the smallest is below half of the largest.
    pub(super) fn for_y(values: impl Iterator<Item = f64>, kind: ScaleKind) -> Self {
        let Some((low, high)) = extent(values) else { return Self::linear(0.0, 1.0) };
        let is_ratio = kind == ScaleKind::Ratio;
        if kind == ScaleKind::Time && low > 1e-12 && high / low >= LOG_FROM && high / low < 1e12 {
            return Self::logarithmic(low / 1.12, high * 1.12);
        }
        let from = if low >= 0.0 && low < 0.5 * high { 0.0 } else { low };
        let scale = Self::linear(from, high).trimmed(from, high);
        // A hit ratio cannot be above 100 %.
        if is_ratio && high <= 100.0 { scale.capped(100.0) } else { scale }
    }

    /// The same scale, at least `span` wide around its middle: differences that are
    /// smaller than their error should not fill it. On a logarithmic scale `span` is
    /// a factor.
    pub(super) fn at_least(self, span: f64) -> Self {
        if self.is_log {
            let (middle, factor) = ((self.low * self.high).sqrt(), span.max(1.0).sqrt());
            if self.high / self.low < span && span.is_finite() {
                return Self::logarithmic(middle / factor, middle * factor);
            }
            return self;
        }
        if self.high - self.low >= span || !is_drawable(span) {
            return self;
        }
        let middle = (self.low + self.high) / 2.0;
        let low =
            if self.low >= 0.0 { (middle - span / 2.0).max(0.0) } else { middle - span / 2.0 };
        Self::linear(low, low + span)
    }

    /// For bars: linear, with zero on it.
    pub(super) fn for_bars(values: impl Iterator<Item = f64>) -> Self {
        let Some((low, high)) = extent(values) else { return Self::linear(0.0, 1.0) };
        Self::linear(low.min(0.0), high.max(0.0))
    }

    /// For the values of an axis, which are also the ticks as long as they are few.
    pub(super) fn for_x(values: &[f64]) -> Self {
        let Some((low, high)) = extent(values.iter().copied()) else {
            return Self::linear(0.0, 1.0);
        };
        let gaps = || values.windows(2).map(|pair| pair[1] - pair[0]).filter(|gap| *gap > 0.0);
        let grows = extent(gaps()).is_some_and(|(least, most)| most >= LOG_X_GROWTH * least);
        let is_log = low > 1e-12 && high / low >= LOG_X_FROM && (grows || values.len() < 3);
        let mut scale = if is_log {
            Self::logarithmic(low / 1.1, high * 1.1)
        } else {
            let (low, high) = widened(low, high);
            let margin = 0.04 * (high - low);
            let ticks = Self::linear(low, high).ticks;
            let (low, high) = (low - margin, high + margin);
            let ticks = ticks.into_iter().filter(|t| t.value >= low && t.value <= high).collect();
            Self { is_log: false, low, high, ticks }
        };
        if values.len() <= 12 {
            let drawable = values.iter().copied().filter(|v| is_drawable(*v));
            scale.ticks = drawable.map(|value| Tick { value, label: plain(value) }).collect();
        }
        scale
    }

    /// For the time from `begin` to `end`, without any margin.
    pub(super) fn for_time(begin: f64, end: f64) -> Self {
        let (low, high) = widened(begin, end);
        let ticks = Self::linear(low, high).ticks;
        let ticks = ticks.into_iter().filter(|t| t.value >= low && t.value <= high).collect();
        Self { is_log: false, low, high, ticks }
    }

    /// The same scale with its labels multiplied: values in ms, labels in seconds.
    pub(super) fn labelled_by(mut self, factor: f64) -> Self {
        if factor != 1.0 {
            self.ticks.iter_mut().for_each(|tick| tick.label = plain(tick.value * factor));
        }
        self
    }

    /// Place of a value, 0 at the low end and 1 at the high end; values outside
    /// are moved to the nearer end.
    pub(super) fn place(&self, value: f64) -> f64 {
        let f = |v: f64| if self.is_log { v.max(f64::MIN_POSITIVE).log10() } else { v };
        let place = (f(value) - f(self.low)) / (f(self.high) - f(self.low));
        if place.is_nan() { 0.5 } else { place.clamp(0.0, 1.0) }
    }

    /// The value at a place from 0 to 1.
    pub(super) fn at(&self, place: f64) -> f64 {
        let between = |low: f64, high: f64| low + place * (high - low);
        if self.is_log {
            10f64.powf(between(self.low.log10(), self.high.log10()))
        } else {
            between(self.low, self.high)
        }
    }

    /// True for a logarithmic scale.
    pub(super) fn is_log(&self) -> bool {
        self.is_log
    }

    fn linear(low: f64, high: f64) -> Self {
        let (low, high) = widened(low, high);
        let step = nice_step((high - low) / 5.0);
        let first = (low / step).floor();
        let count = ((high / step).ceil() - first).clamp(1.0, 12.0);
        let decimals = decimals_of(step);
        let mut ticks = Vec::new();
        let mut i = 0.0;
        while i <= count {
            let value = (first + i) * step;
            let label = if value.abs() >= 1e7 || step < 1e-6 {
                format!("{value:.1e}")
            } else {
                format!("{value:.decimals$}")
            };
            ticks.push(Tick { value, label });
            i += 1.0;
        }
        let high = ((first + count) * step).max(high);
        Self { is_log: false, low: (first * step).min(low), high, ticks }
    }

    /// Ticks at 1, 2 and 5 of every decade, or at finer or coarser ones so
    /// that there are between three and nine.
    fn logarithmic(low: f64, high: f64) -> Self {
        const DIGITS: [&[f64]; 4] = [
            &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0],
            &[1.0, 2.0, 3.0, 5.0],
            &[1.0, 2.0, 5.0],
            &[1.0],
        ];
        let ticks_of = |digits: &[f64]| -> Vec<Tick> {
            let mut exponent = low.log10().floor();
            let mut ticks = Vec::new();
            while exponent <= high.log10() {
                for digit in digits {
                    let value = digit * 10f64.powf(exponent);
                    if value >= low && value <= high {
                        ticks.push(Tick { value, label: plain(value) });
                    }
                }
                exponent += 1.0;
            }
            ticks
        };
        let candidates = DIGITS.map(ticks_of);
        let ticks = candidates.iter().find(|t| t.len() <= 9).or(candidates.last()).cloned();
        Self { is_log: true, low, high, ticks: ticks.unwrap_or_default() }
    }

    /// Takes away what is empty beyond the values at both ends, if it is more
    /// than half of a step.
    fn trimmed(mut self, low: f64, high: f64) -> Self {
        let (low, high) = widened(low, high);
        let room = 0.05 * (high - low);
        let step = match self.ticks.as_slice() {
            [first, second, ..] => second.value - first.value,
            _ => return self,
        };
        if self.high - high > 0.5 * step {
            self.high = high + room;
        }
        if low - self.low > 0.5 * step {
            self.low = low - room;
        }
        let (low, high) = (self.low, self.high);
        self.ticks.retain(|tick| tick.value >= low && tick.value <= high);
        self
    }

    fn capped(mut self, cap: f64) -> Self {
        self.high = self.high.min(cap);
        self.ticks.retain(|tick| tick.value <= cap);
        self
    }
}

/// Smallest and largest of the values that can be drawn.
pub(super) fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|v| is_drawable(*v)).fold(None, |extent, v| match extent {
        None => Some((v, v)),
        Some((low, high)) => Some((low.min(v), high.max(v))),
    })
}

/// Makes room around values that are all the same, or the same but for rounding.
fn widened(low: f64, high: f64) -> (f64, f64) {
    let size = low.abs().max(high.abs());
    if high - low > (size * 1e-9).max(1e-12) {
        return (low, high);
    }
    let room = if size > 1e-6 { 0.1 * size } else { 0.5 };
    let low_end = if low >= 0.0 { (low - room).max(0.0) } else { low - room };
    (low_end, high + room)
}

/// The next of 1, 2, 2.5 and 5 times a power of ten.
fn nice_step(rough: f64) -> f64 {
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 2.5, 5.0].into_iter().find(|f| f * power >= rough * 0.999);
    factor.unwrap_or(10.0) * power
}

/// Decimals that multiples of `step` need.
fn decimals_of(step: f64) -> usize {
    (0..8)
        .find(|d| {
            let scaled = step * 10f64.powi(*d);
            (scaled - scaled.round()).abs() < 1e-6 * scaled
        })
        .map_or(8, |d| usize::try_from(d).unwrap_or(8))
}

/// A tick in the fewest digits: powers of ten come with rounding errors.
fn plain(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e7).contains(&size) {
        return format!("{value:.1e}");
    }
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(scale: &Scale) -> Vec<&str> {
        scale.ticks.iter().map(|tick| tick.label.as_str()).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(
            labels(&Scale::for_y([249.0, 472.0].into_iter(), ScaleKind::Time)),
            ["250", "300", "350", "400", "450"]
        );
        assert_eq!(
            labels(&Scale::for_y([83.9, 96.1].into_iter(), ScaleKind::Ratio)),
            ["85.0", "87.5", "90.0", "92.5", "95.0"]
        );
        assert_eq!(
            labels(&Scale::for_y([446.0, 3143.0].into_iter(), ScaleKind::Time)),
            ["400", "500", "600", "800", "1000", "1500", "2000", "3000"]
        );
        assert_eq!(labels(&Scale::for_x(&[60.0, 80.0, 100.0])), ["60", "80", "100"]);
        assert_eq!(
            labels(&Scale::for_y([0.0, 0.0].into_iter(), ScaleKind::Time)),
            ["0.0", "0.1", "0.2", "0.3", "0.4", "0.5"]
        );
    }

    #[test]
    fn a_wide_range_of_times_is_logarithmic_and_nothing_else_is() {
        assert!(Scale::for_y([446.0, 3143.0].into_iter(), ScaleKind::Time).is_log());
        assert!(!Scale::for_y([249.0, 472.0].into_iter(), ScaleKind::Time).is_log());
        assert!(!Scale::for_y([0.0, 472.0].into_iter(), ScaleKind::Time).is_log());
        assert!(!Scale::for_y([5.0, 95.0].into_iter(), ScaleKind::Ratio).is_log());
        assert!(!Scale::for_y([500.0, 9000.0].into_iter(), ScaleKind::Amount).is_log());
        let evenly: Vec<f64> = (1..=30).map(f64::from).collect();
        assert!(!Scale::for_x(&evenly).is_log());
        assert!(Scale::for_x(&[1.0, 10.0, 100.0, 1000.0]).is_log());
    }

    #[test]
    fn a_scale_is_as_wide_as_it_has_to_be() {
        let scale = |low: f64, high: f64| Scale::for_y([low, high].into_iter(), ScaleKind::Time);
        let wide = scale(400.0, 410.0).at_least(200.0);
        assert!(wide.high - wide.low >= 200.0 && wide.place(405.0) > 0.3, "{wide:?}");
        assert_eq!(scale(400.0, 700.0).at_least(20.0), scale(400.0, 700.0));
        assert!(scale(400.0, 4000.0).at_least(100.0).is_log());
    }

    proptest! {
        #[test]
        fn every_scale_has_few_ticks_in_order_and_keeps_the_order_of_values(
            mut values in prop::collection::vec(
                prop_oneof![any::<f64>(), 0.0..1e4f64, Just(0.0)], 0..8),
            kind in prop_oneof![Just(ScaleKind::Time), Just(ScaleKind::Ratio), Just(ScaleKind::Amount)],
        ) {
            values.sort_by(f64::total_cmp);
            for scale in [
                Scale::for_y(values.iter().copied(), kind),
                Scale::for_y(values.iter().copied(), kind).at_least(700.0),
                Scale::for_bars(values.iter().copied()),
                Scale::for_x(&values),
            ] {
                prop_assert!(scale.ticks.len() <= 13, "{scale:?}");
                prop_assert!(scale.low < scale.high, "{scale:?}");
                let drawable = values.iter().filter(|v| is_drawable(**v));
                let places: Vec<f64> = drawable.map(|v| scale.place(*v)).collect();
                prop_assert!(places.iter().all(|p| (0.0..=1.0).contains(p)));
                prop_assert!(places.windows(2).all(|pair| pair[0] <= pair[1]));
            }
        }
    }
}
