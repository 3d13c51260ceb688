//! Shares: which bundles of which filter sets each core has.

use std::cmp::Reverse;
use std::ops::Range;

use super::accesses::ConvMapping;
use crate::hardware::chip::Hardware;

/// The bundles of a filter set that a core has.
#[derive(Clone, Debug)]
pub(super) struct Share {
    pub(super) set: usize,
    pub(super) bundles: Range<usize>,
    /// Whether other cores have the rest of the set, so that partial sums are added at the end of the layer.
    pub(super) partial: bool,
}

impl Share {
    /// Its accesses, numbered within the filter set, where a bundle takes `parts` of them.
    pub(super) fn accesses(&self, parts: usize) -> Range<usize> {
        self.bundles.start * parts..self.bundles.end * parts
    }
}

/// A core's shares, each with the numbers of its accesses within the core.
pub(super) fn numbered(shares: &[Share], parts: usize) -> impl Iterator<Item = (&Share, Range<usize>)> {
    shares.iter().scan(0, move |next, share| {
        let first = *next;
        *next += share.accesses(parts).len();
        Some((share, first..*next))
    })
}

/// The filter sets of each core where whole sets are divided and the layer is on the chip once.
pub(crate) fn sets_of_cores(mapping: &ConvMapping, hardware: &Hardware) -> Vec<Vec<usize>> {
    let shares = sets_over_cores(mapping, hardware.cores);
    shares.into_iter().map(|shares| shares.into_iter().map(|share| share.set).collect()).collect()
}

/// Whole sets: the longest first, each to the core with the fewest accesses so far.
pub(super) fn sets_over_cores(mapping: &ConvMapping, cores: usize) -> Vec<Vec<Share>> {
    let mut order: Vec<usize> = (0..mapping.sets.len()).collect();
    order.sort_by_key(|&set| (Reverse(mapping.set_bundles(set)), set));
    let mut shares = vec![Vec::new(); cores];
    let mut loads = vec![0; cores];
    for set in order {
        let core = (0..cores).min_by_key(|&core| loads[core]).expect("a chip has cores");
        loads[core] += mapping.set_bundles(set);
        shares[core].push(Share { set, bundles: 0..mapping.set_bundles(set), partial: false });
    }
    shares
}

/// Each set's bundles in even parts; the first part of set `s` goes to core `s % cores`, the next ones to the cores after it.
pub(super) fn channels_over_cores(mapping: &ConvMapping, cores: usize) -> Vec<Vec<Share>> {
    let mut shares = vec![Vec::new(); cores];
    for set in 0..mapping.sets.len() {
        let bundles = mapping.set_bundles(set);
        let partial = bundles.min(cores) > 1;
        for part in 0..cores {
            let bundles = bundles * part / cores..bundles * (part + 1) / cores;
            // A set without accesses still has values to store.
            if !bundles.is_empty() || (mapping.set_bundles(set) == 0 && part == 0) {
                shares[(set + part) % cores].push(Share { set, bundles, partial });
            }
        }
    }
    shares
}
