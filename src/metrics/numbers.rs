//! Numbers as reports show them.

/// A number with about three significant digits, for tables: `3143`, `274`, `28.4`, `2.57`.
pub fn short(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        "0".to_owned()
    } else if !(1e-3..1e9).contains(&size) {
        format!("{value:.2e}")
    } else if size >= 99.95 {
        format!("{value:.0}")
    } else if size >= 9.995 {
        format!("{value:.1}")
    } else if size >= 0.9995 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

/// Shows a mean and the bounds of its interval, rounded to what they are worth: to
/// three significant digits of the mean, and to two of half the interval where
/// that leaves fewer.
pub fn rounded(mean: f64, half: f64) -> impl Fn(f64) -> String {
    let text = short(mean);
    let decimals = text.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    let is_scientific = text.contains('e');
    // 1455 with an error of 664 is 1460 with one of 660.
    let step = if half >= 100.0 { 10f64.powf(half.log10().floor() - 1.0) } else { 1.0 };
    move |value| match () {
        () if is_scientific || !half.is_finite() => short(value),
        () if decimals > 0 => format!("{value:.decimals$}"),
        () if step <= 1.0 => format!("{value:.0}"),
        () => format!("{:.0}", (value / step).round() * step),
    }
}

/// A signed difference: `+3.1`, `-24`, `0.0`. Whole numbers from 10 on, three digits of
/// them from 1,000 on.
pub fn signed(value: f64) -> String {
    let size = value.abs();
    let step =
        if size >= 1e3 && size.is_finite() { 10f64.powf(size.log10().floor() - 2.0) } else { 1.0 };
    let value = if step > 1.0 { (value / step).round() * step } else { value };
    let text = if value.abs() >= 9.95 { format!("{value:+.0}") } else { format!("{value:+.1}") };
    // "-0.0" would claim a direction that rounding has removed.
    if text == "+0.0" || text == "-0.0" { "0.0".to_owned() } else { text }
}
