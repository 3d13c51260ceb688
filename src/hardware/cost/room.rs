//! Room: which placement each layer gets where all of them together have to fit.

/// By how much sums in another order may differ, relative to them.
pub(super) const ROUNDING: f64 = 1e-12;

/// Halvings of the price of room.
const HALVINGS: usize = 20;

/// Gains below this part of the sum aren't traded for.
const LITTLE: f64 = 1e-3;

/// For each layer the number of a placement, so that all fit and the sum of their shares is small; none where none was found.
///
/// `shares[layer][placement]` is made small, `held[layer][placement]` is the room that it takes. Room has a price, the least one at which all fit
/// (Everett, *Generalized Lagrange multiplier method*, 1963); or no layer may take more than a limit, the largest one at which all fit. What room is left then goes to
/// layers, those first that gain most, and others give up what loses less than that gains.
pub(super) fn least_that_fits(
    shares: &[Vec<f64>],
    held: &[Vec<f64>],
    mut fits: impl FnMut(&[usize]) -> bool,
) -> Option<Vec<usize>> {
    let free = cheapest(shares, |_, _| 0.0);
    if fits(&free) {
        return Some(free);
    }
    let found = [priced(shares, held, &mut fits), limited(shares, held, &mut fits)];
    let found = found.into_iter().flatten().map(|chosen| {
        let filled = with_what_is_left(chosen, shares, &mut fits);
        traded(filled, shares, held, &mut fits)
    });
    found.min_by(|a, b| sum(shares, a).total_cmp(&sum(shares, b)))
}

/// The sum over layers of what is chosen.
fn sum(of: &[Vec<f64>], chosen: &[usize]) -> f64 {
    of.iter().zip(chosen).map(|(layer, placement)| layer[*placement]).sum()
}

/// Of each layer the placement with the least share and `charge` together.
fn cheapest(shares: &[Vec<f64>], charge: impl Fn(usize, usize) -> f64) -> Vec<usize> {
    let of_layer = |(layer, shares): (usize, &Vec<f64>)| {
        let cost = |placement: &usize| shares[*placement] + charge(layer, *placement);
        (0..shares.len()).min_by(|a, b| cost(a).total_cmp(&cost(b))).expect("each layer has a placement")
    };
    shares.iter().enumerate().map(of_layer).collect()
}

/// What is cheapest at the least price of room at which all fit.
fn priced(shares: &[Vec<f64>], held: &[Vec<f64>], mut fits: impl FnMut(&[usize]) -> bool) -> Option<Vec<usize>> {
    let at_price = |price: f64| cheapest(shares, |layer, placement| price * held[layer][placement]);
    // At this price no gain is worth one more access.
    let (mut low, mut high) = (0.0, shares.iter().flatten().sum::<f64>().max(f64::MIN_POSITIVE));
    let mut chosen = at_price(high);
    if !fits(&chosen) {
        return None;
    }
    for _ in 0..HALVINGS {
        let price = (low + high) / 2.0;
        let cheaper = at_price(price);
        if cheaper == chosen || fits(&cheaper) {
            (high, chosen) = (price, cheaper);
        } else {
            low = price;
        }
    }
    Some(chosen)
}

/// What is cheapest where no layer takes more room than a limit, the largest one at which all fit.
fn limited(shares: &[Vec<f64>], held: &[Vec<f64>], mut fits: impl FnMut(&[usize]) -> bool) -> Option<Vec<usize>> {
    let least: Vec<f64> = held.iter().map(|held| held.iter().copied().fold(f64::INFINITY, f64::min)).collect();
    let mut limits: Vec<f64> = held.iter().flatten().copied().collect();
    limits.sort_by(f64::total_cmp);
    limits.dedup();
    let at_limit = |limit: f64| {
        cheapest(
            shares,
            |layer, placement| {
                if held[layer][placement] <= limit.max(least[layer]) { 0.0 } else { f64::INFINITY }
            },
        )
    };
    // The limits below `fit` fit, as far as what fits a limit fits any smaller one.
    let (mut fit, mut too_large) = (0, limits.len());
    let mut chosen = None;
    while fit < too_large {
        let middle = (fit + too_large) / 2;
        let candidate = at_limit(limits[middle]);
        if fits(&candidate) {
            (fit, chosen) = (middle + 1, Some(candidate));
        } else {
            too_large = middle;
        }
    }
    chosen
}

/// What room is left goes to layers, those first that gain most.
fn with_what_is_left(
    mut chosen: Vec<usize>,
    shares: &[Vec<f64>],
    mut fits: impl FnMut(&[usize]) -> bool,
) -> Vec<usize> {
    let gain = |layer: usize, from: usize, to: usize| shares[layer][from] - shares[layer][to];
    let all = shares.iter().enumerate().flat_map(|(layer, shares)| (0..shares.len()).map(move |to| (layer, to)));
    let mut gains: Vec<(f64, usize, usize)> =
        all.map(|(layer, to)| (gain(layer, chosen[layer], to), layer, to)).filter(|(gain, ..)| *gain > 0.0).collect();
    gains.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (_, layer, to) in gains {
        let from = chosen[layer];
        if gain(layer, from, to) > 0.0 {
            chosen[layer] = to;
            if !fits(&chosen) {
                chosen[layer] = from;
            }
        }
    }
    chosen
}

/// Layers get what gains most, and others give up for it what loses less, until nothing is gained by that any more.
fn traded(
    mut chosen: Vec<usize>,
    shares: &[Vec<f64>],
    held: &[Vec<f64>],
    mut fits: impl FnMut(&[usize]) -> bool,
) -> Vec<usize> {
    let trade = Trade { shares, held, worthwhile: worthwhile(shares, held) };
    loop {
        let little = LITTLE * sum(shares, &chosen);
        let gain = |chosen: &[usize], choice: Choice| -trade.loss(chosen, choice);
        let is_much = |chosen: &[usize], choice: Choice| gain(chosen, choice) > little;
        let mut wanted = trade.worthwhile.clone();
        wanted.retain(|choice| is_much(&chosen, *choice));
        wanted.sort_by(|a, b| gain(&chosen, *b).total_cmp(&gain(&chosen, *a)));
        let mut better = false;
        for wanted in wanted {
            if is_much(&chosen, wanted)
                && let Some(traded) = trade.with(&chosen, wanted, &mut fits)
            {
                (chosen, better) = (traded, true);
            }
        }
        if !better {
            return chosen;
        }
    }
}

/// A layer and a placement of it.
type Choice = (usize, usize);

/// Each layer's placements but those that another one of it beats in room without losing, or equals.
fn worthwhile(shares: &[Vec<f64>], held: &[Vec<f64>]) -> Vec<Choice> {
    let mut all = Vec::new();
    for (layer, (shares, held)) in shares.iter().zip(held).enumerate() {
        let rank = |placement: &usize| (shares[*placement], held[*placement]);
        let mut by_share: Vec<usize> = (0..shares.len()).collect();
        by_share.sort_by(|a, b| rank(a).partial_cmp(&rank(b)).expect("shares are numbers"));
        let mut least = f64::INFINITY;
        for placement in by_share {
            if held[placement] < least {
                least = held[placement];
                all.push((layer, placement));
            }
        }
    }
    all
}

struct Trade<'a> {
    shares: &'a [Vec<f64>],
    held: &'a [Vec<f64>],
    worthwhile: Vec<Choice>,
}

impl Trade<'_> {
    fn loss(&self, chosen: &[usize], (layer, to): Choice) -> f64 {
        self.shares[layer][to] - self.shares[layer][chosen[layer]]
    }

    /// What of other layers takes less room, with that.
    fn smaller(&self, chosen: &[usize], layer: usize) -> impl Iterator<Item = (f64, Choice)> {
        let freed = |(layer, to): Choice| self.held[layer][chosen[layer]] - self.held[layer][to];
        let freed = self.worthwhile.iter().map(move |choice| (freed(*choice), *choice));
        freed.filter(move |(freed, choice)| choice.0 != layer && *freed > 0.0)
    }

    /// The same with what is wanted, where that fits or others give up enough for less than it gains.
    fn with(&self, chosen: &[usize], wanted: Choice, mut fits: impl FnMut(&[usize]) -> bool) -> Option<Vec<usize>> {
        // What others may lose. Less than rounding is no gain: the same trade would be one both ways.
        let mut left = -self.loss(chosen, wanted) - ROUNDING * sum(self.shares, chosen);
        let mut trial = chosen.to_vec();
        trial[wanted.0] = wanted.1;
        if fits(&trial) {
            return Some(trial);
        }
        // One layer that gives up enough.
        let smaller = self.smaller(chosen, wanted.0).map(|(_, choice)| (self.loss(chosen, choice), choice));
        let mut smaller: Vec<(f64, Choice)> = smaller.filter(|(loss, _)| *loss < left).collect();
        smaller.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (_, (layer, to)) in smaller {
            trial[layer] = to;
            if fits(&trial) {
                return Some(trial);
            }
            trial[layer] = chosen[layer];
        }
        // Several, each what loses least for its room.
        loop {
            let prices =
                self.smaller(&trial, wanted.0).map(|(freed, choice)| (self.loss(&trial, choice) / freed, choice));
            let (_, choice) = prices.min_by(|a, b| a.0.total_cmp(&b.0))?;
            left -= self.loss(&trial, choice);
            trial[choice.0] = choice.1;
            if left <= 0.0 {
                return None;
            }
            if fits(&trial) {
                return Some(trial);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every way to choose.
    fn all(layers: usize, placements: usize) -> Vec<Vec<usize>> {
        let mut all = vec![Vec::new()];
        for _ in 0..layers {
            let with = |chosen: Vec<usize>| (0..placements).map(move |it| [chosen.clone(), vec![it]].concat());
            all = all.into_iter().flat_map(with).collect();
        }
        all
    }

    /// At the price at which the first layer would get what gains it most the others get nothing, and below it they leave it too little.
    #[test]
    fn a_layer_that_gains_much_takes_room_from_others() {
        let shares = [vec![vec![5219.0, 1127.0]], vec![vec![1797.0, 772.0]; 6]].concat();
        let held = [vec![vec![6.0, 18.0]], vec![vec![12.0, 15.0]; 6]].concat();
        let fits = |chosen: &[usize]| sum(&held, chosen) <= 103.0;
        let chosen = least_that_fits(&shares, &held, fits).unwrap();
        assert_eq!((chosen[0], chosen[1..].iter().sum::<usize>()), (1, 4));
    }

    proptest! {
        /// Sums that are the same but for rounding are no reason to trade, back and forth.
        #[test]
        fn trading_ends(
            table in prop::collection::vec(prop::collection::vec((0u32..8, 0u32..8), 4), 4..9),
            room in 0u32..40,
        ) {
            let column = |of: fn(&(u32, u32)) -> f64| -> Vec<Vec<f64>> {
                table.iter().map(|layer| layer.iter().map(of).collect()).collect()
            };
            let (shares, held) = (column(|it| f64::from(it.0) * 0.1), column(|it| f64::from(it.1)));
            let fits = |chosen: &[usize]| sum(&held, chosen) <= f64::from(room);
            prop_assert!(least_that_fits(&shares, &held, fits).is_none_or(|chosen| fits(&chosen)));
        }

        /// Something is chosen wherever that is possible, and takes the layers that gain most alone as far as there is room.
        #[test]
        fn what_is_chosen_fits_and_is_near_the_best(
            table in prop::collection::vec(prop::collection::vec((0u32..100, 0u32..100), 3), 1..5),
            room in 0u32..300,
        ) {
            let column = |of: fn(&(u32, u32)) -> u32| -> Vec<Vec<f64>> {
                table.iter().map(|layer| layer.iter().map(|it| f64::from(of(it))).collect()).collect()
            };
            let (shares, held) = (column(|it| it.0), column(|it| it.1));
            let fits = |chosen: &[usize]| sum(&held, chosen) <= f64::from(room);
            let sums = all(table.len(), 3).into_iter().filter(|it| fits(it)).map(|it| sum(&shares, &it));
            let best = sums.fold(f64::INFINITY, f64::min);
            match least_that_fits(&shares, &held, fits) {
                None => prop_assert!(best.is_infinite()),
                Some(chosen) => {
                    prop_assert!(fits(&chosen));
                    // The price alone is off by at most what one layer gains; layers gain at most 100 here.
                    let found = sum(&shares, &chosen);
                    prop_assert!((best..best + 100.0).contains(&found), "{found}, the best is {best}");
                }
            }
        }
    }
}
