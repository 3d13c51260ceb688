//! Axes: round numbers that cover what is drawn, and where they lie.

use maud::{Markup, html};

use super::geometry::{px, text_width};
use crate::report::text::grouped;

/// The next of 1, 2, 5, 10, 20, ... from `least` on.
fn nice_step(least: f64) -> f64 {
    if !least.is_normal() || least < 1e-6 {
        return 1.0;
    }
    let power = 10f64.powi(least.log10().floor() as i32);
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= least);
    factor.unwrap_or(10.0) * power
}

/// The numbers that an axis covers, and those that are written beside it.
pub(super) struct Scale {
    logarithmic: bool,
    /// Ends, as logarithms on a logarithmic scale.
    range: [f64; 2],
    ticks: Vec<f64>,
    /// Decimals of the ticks' numbers; none: as many as each needs.
    decimals: Option<usize>,
}

impl Scale {
    /// From one multiple of a round step to another, so that all values lie between; about `intervals` steps, none below `least`.
    pub(super) fn covering(values: impl IntoIterator<Item = f64>, intervals: f64, least: f64) -> Self {
        let [low, high] = ends(values);
        let span = if high > low { high - low } else { 0.01 * high.abs() };
        let step = nice_step((span / intervals).max(least));
        let first = (low / step).floor() as i64;
        let last = ((high / step).ceil() as i64).max(first + 1);
        Self {
            logarithmic: false,
            range: [first as f64 * step, last as f64 * step],
            ticks: (first..=last).map(|tick| tick as f64 * step).collect(),
            decimals: Some(decimals(step)),
        }
    }

    /// From `low` to `high`, with ticks at the multiples of a round step that lie there; about `intervals` whole steps.
    pub(super) fn within([low, high]: [u64; 2], intervals: u64) -> Self {
        let step = nice_step((high - low) as f64 / intervals as f64).max(1.0) as u64;
        Self {
            logarithmic: false,
            range: [low as f64, high.max(low + 1) as f64],
            ticks: (low.div_ceil(step)..=high / step).map(|tick| (tick * step) as f64).collect(),
            decimals: Some(0),
        }
    }

    /// Positive values by their logarithms; ticks are 1, 2 and 5 times powers of ten, over many decades powers of ten, and closer where there is
    /// less than one.
    pub(super) fn logarithmic(values: impl IntoIterator<Item = f64>) -> Self {
        let [low, high] = ends(values);
        let even = Self::covering([low, high], 6.0, 0.0);
        if 0.0 < even.range[0] && high <= 2.0 * low {
            return Self { logarithmic: true, range: even.range.map(f64::log10), decimals: None, ..even };
        }
        let powers = low.log10().floor() as i32..=high.log10().ceil() as i32;
        let digits: &[f64] = match powers.end() - powers.start() {
            _ if high <= 10.0 * low => &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0],
            ..=3 => &[1.0, 2.0, 5.0],
            _ => &[1.0],
        };
        let all = powers.flat_map(|power| digits.iter().map(move |digit| digit * 10f64.powi(power)));
        let mut ticks: Vec<f64> = all.collect();
        // From the last tick that is not above all values to the first one that is not below.
        let first = ticks.iter().rposition(|tick| *tick <= low).unwrap_or(0);
        let last = ticks.iter().position(|tick| *tick >= high).unwrap_or(ticks.len() - 1);
        ticks.truncate(last.max(first + 1) + 1);
        ticks.drain(..first);
        Self { logarithmic: true, range: ends(ticks.iter().copied()).map(f64::log10), ticks, decimals: None }
    }

    /// The least and the largest value that it covers.
    pub(super) fn ends(&self) -> [f64; 2] {
        self.range.map(|end| if self.logarithmic { 10f64.powf(end) } else { end })
    }

    /// Where a value lies between the ends, from 0 to 1.
    fn share(&self, value: f64) -> f64 {
        let value = if self.logarithmic { value.log10() } else { value };
        let [low, high] = self.range;
        (value - low) / (high - low).max(f64::MIN_POSITIVE)
    }

    fn number(&self, tick: f64) -> String {
        match self.decimals {
            Some(0) | None if tick >= 1e3 => grouped(tick.round() as u64),
            Some(decimals) => format!("{tick:.decimals$}"),
            None => ((tick * 1e6).round() / 1e6).to_string(),
        }
    }
}

/// The least and the largest of finite values.
fn ends(values: impl IntoIterator<Item = f64>) -> [f64; 2] {
    let span = values.into_iter().map(|value| [value, value]).reduce(|[low, high], [a, b]| [low.min(a), high.max(b)]);
    span.unwrap_or([0.0, 1.0])
}

/// How many decimals tell multiples of a step apart.
fn decimals(step: f64) -> usize {
    (0..6).find(|&digits| step * 10f64.powi(digits) >= 0.999).unwrap_or(6) as usize
}

/// A scale along a stretch of a drawing.
pub(super) struct Axis {
    pub scale: Scale,
    /// Where the scale begins and ends.
    pub span: [f64; 2],
}

impl Axis {
    /// Where a value lies.
    pub(super) fn at(&self, value: f64) -> f64 {
        let [from, to] = self.span;
        from + self.scale.share(value) * (to - from)
    }

    /// An axis along the bottom of a plot: its rules reach up to `top`, or are marks below it. A number that would touch the one before
    /// is left out.
    pub(super) fn horizontal(&self, bottom: f64, top: Option<f64>) -> Markup {
        let mut right = f64::NEG_INFINITY;
        let mut fits = |x: f64, number: &str| {
            let half = text_width(number) / 2.0;
            let fits = x - half > right;
            right = if fits { x + half } else { right };
            fits
        };
        html! {
            @for tick in &self.scale.ticks {
                @let (x, number) = (self.at(*tick), self.scale.number(*tick));
                path.rule d={ "M" (px(x)) " " (bottom) "V" (top.unwrap_or(bottom + 5.0)) } {}
                @if fits(x, &number) { text.middle x=(px(x)) y=(bottom + 17.0) { (number) } }
            }
        }
    }

    /// An axis along the left side of a plot, with rules up to `right`.
    pub(super) fn vertical(&self, left: f64, right: f64) -> Markup {
        html! {
            @for tick in &self.scale.ticks {
                @let y = self.at(*tick);
                path.rule d={ "M" (left) " " (px(y)) "H" (right) } {}
                text.end x=(left - 6.0) y=(px(y + 4.0)) { (self.scale.number(*tick)) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_numbers() {
        assert_eq!([0.03, 0.9, 1.0, 1.1, 30.0, 600.0].map(nice_step), [0.05, 1.0, 1.0, 2.0, 50.0, 1000.0]);
        assert_eq!([0.0, f64::NAN, f64::INFINITY].map(nice_step), [1.0; 3]);
    }

    #[test]
    fn an_axis_covers_all_values_with_few_round_ticks() {
        let all =
            [&[][..], &[91.72], &[88.2, 91.72], &[10.0, 99.9], &[91.7, 91.71], &[50.0, 50.0], &[-3.0, 4.0], &[0.0]];
        for values in all {
            let scale = Scale::covering(values.iter().copied(), 7.0, 0.1);
            assert!((2..=9).contains(&scale.ticks.len()), "{values:?}: {:?}", scale.ticks);
            assert!(
                values.iter().all(|value| (0.0..=1.0).contains(&scale.share(*value))),
                "{values:?}: {:?}",
                scale.ticks
            );
        }
        for values in [
            &[1.0][..],
            &[0.3, 0.300001],
            &[1e-4, 1e-4],
            &[4.2, 4.9],
            &[14.0, 30.0],
            &[95.0, 120.0],
            &[0.013, 0.9, 44.0],
            &[5.0, 50.0],
            &[7e-5, 1e9],
        ] {
            let scale = Scale::logarithmic(values.iter().copied());
            assert!((2..=16).contains(&scale.ticks.len()), "{values:?}: {:?}", scale.ticks);
            assert!(
                values.iter().all(|value| (0.0..=1.0).contains(&scale.share(*value))),
                "{values:?}: {:?}",
                scale.ticks
            );
        }
    }

    #[test]
    fn numbers_have_the_decimals_that_tell_ticks_apart() {
        let numbers = |scale: Scale| scale.ticks.iter().map(|tick| scale.number(*tick)).collect::<Vec<_>>();
        assert_eq!(numbers(Scale::covering([91.02, 91.08], 2.0, 0.0)), ["91.00", "91.05", "91.10"]);
        assert_eq!(numbers(Scale::covering([900.0, 2100.0], 2.0, 0.0)), ["0", "1,000", "2,000", "3,000"]);
        assert_eq!(numbers(Scale::logarithmic([0.3, 1500.0])), ["0.1", "1", "10", "100", "1,000", "10,000"]);
        assert_eq!(numbers(Scale::logarithmic([4.2, 4.9])), ["4.2", "4.4", "4.6", "4.8", "5"]);
        assert_eq!(numbers(Scale::logarithmic([14.0, 47.0])), ["10", "15", "20", "30", "40", "50"]);
        assert_eq!(numbers(Scale::within([7, 31], 3)), ["10", "20", "30"]);
    }

    /// Numbers of a narrow axis are left out rather than drawn over each other.
    #[test]
    fn numbers_do_not_touch() {
        let axis = Axis { scale: Scale::logarithmic([1e6, 9e8]), span: [0.0, 200.0] };
        let svg = axis.horizontal(0.0, None).0;
        assert_eq!(svg.matches("<path").count(), axis.scale.ticks.len());
        let texts: Vec<(f64, &str)> = svg
            .split("<text class=\"middle\" x=\"")
            .skip(1)
            .map(|text| {
                let (x, text) = text.split_once('"').unwrap();
                (x.parse().unwrap(), text.split(['>', '<']).nth(1).unwrap())
            })
            .collect();
        assert!((2..axis.scale.ticks.len()).contains(&texts.len()), "{texts:?}");
        for pair in texts.windows(2) {
            assert!(pair[1].0 - pair[0].0 >= (text_width(pair[0].1) + text_width(pair[1].1)) / 2.0, "{texts:?}");
        }
    }
}
