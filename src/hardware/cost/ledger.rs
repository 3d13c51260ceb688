//! What a network costs while its groups are pruned: the hardware model's own mapping, programs and energy, asked again for each change.
//!
//! Layers lie as [`Policy::FilterSets`] lays them, whatever the chip's policy: a search for the best placement of every candidate would
//! take hours. It knows nothing of how much a group matters; `prune::budget` does.

use std::collections::BTreeSet;
use std::fmt::{Display, Formatter};
use std::sync::Arc;

use super::plan::fixed;
use crate::error::Result;
use crate::groups::GroupGrid;
use crate::hardware::chip::{Hardware, Policy};
use crate::hardware::mapping::{
    ConvMapping, FilterSet, Layer, LiveValues, Sets, node_workload, sets_of, sets_of_cores,
};
use crate::integer::IntegerNetwork;
use crate::network::Conv;

/// What a budget counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Bits of the kept weights and of the index codes.
    StoredBits,
    /// Cycles of a frame, weight reload included.
    Cycles,
    /// Energy of a frame in microjoules, weight reload included.
    Energy,
}

impl Display for Resource {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::StoredBits => "stored bits",
            Self::Cycles => "cycles",
            Self::Energy => "energy",
        })
    }
}

/// A group of weights of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId {
    /// Its convolution, in the order of [`IntegerNetwork::convs`].
    pub conv: usize,
    /// Its filter set.
    pub set: usize,
    /// Its number in the set: `block * taps + tap`.
    pub index: usize,
}

/// Some groups of a filter set, whichever they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetGroups {
    /// The filter set.
    pub set: usize,
    /// How many groups.
    pub groups: usize,
}

/// The smallest pruning step that can lower a convolution's cost.
///
/// Pruning one alternative from *every* list lowers the cost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruningStep {
    /// Lists of alternatives.
    pub alternatives: Vec<Vec<SetGroups>>,
}

/// The groups that were left at some time.
#[derive(Clone, Debug)]
pub struct Snapshot(Vec<Sets>);

/// A network on a chip with the groups that are left, and what it costs.
#[derive(Debug)]
pub struct Ledger<'a> {
    network: &'a IntegerNetwork,
    live: LiveValues,
    hardware: Hardware,
    resource: Resource,
    /// Node of each convolution, in the order of [`IntegerNetwork::convs`].
    nodes: Vec<usize>,
    kept: Vec<Sets>,
    layers: Vec<Layer>,
    /// Where each node's layers start.
    starts: Vec<usize>,
}

impl<'a> Ledger<'a> {
    /// A network of which the groups `kept` are left, one list for each convolution, as far as they exist; its weights don't matter.
    ///
    /// # Errors
    /// A chip or a network that isn't valid, weights wider than the macro can hold.
    pub fn new(
        network: &'a IntegerNetwork,
        hardware: &Hardware,
        resource: Resource,
        kept: &[Vec<bool>],
    ) -> Result<Self> {
        hardware.validate()?;
        network.validate()?;
        let nodes = (0..network.layers.len())
            .flat_map(|node| network.graph.node_convs(node).into_iter().flatten().map(move |_| node));
        let sets = |((conv, _), kept): ((Conv, _), &Vec<bool>)| {
            let grid = GroupGrid::new(hardware.group, &conv.shape);
            sets_of(&grid, |group| kept[group] && grid.exists(group))
        };
        let mut ledger = Self {
            network,
            live: LiveValues::new(network),
            hardware: hardware.clone(),
            resource,
            nodes: nodes.collect(),
            kept: network.convs().zip(kept).map(sets).collect(),
            layers: Vec::new(),
            starts: Vec::new(),
        };
        for node in 0..network.layers.len() {
            ledger.starts.push(ledger.layers.len());
            let layers = ledger.node(node)?;
            ledger.layers.extend(layers);
        }
        Ok(ledger)
    }

    /// Filter sets of a convolution.
    pub fn sets(&self, conv: usize) -> &[FilterSet] {
        &self.kept[conv]
    }

    /// Convolutions.
    pub fn convs(&self) -> usize {
        self.nodes.len()
    }

    /// The groups that are left now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.kept.clone())
    }

    /// Goes back to the groups of a snapshot.
    pub fn rewind(&mut self, snapshot: &Snapshot) {
        for (conv, sets) in snapshot.0.iter().enumerate() {
            if !Arc::ptr_eq(sets, &self.kept[conv]) {
                self.set(conv, sets.clone());
            }
        }
    }

    /// What the network costs.
    pub fn total(&self) -> f64 {
        let expense = || fixed(&self.layers, &self.hardware, Policy::FilterSets).whole_expense(&self.hardware);
        match self.resource {
            Resource::StoredBits => (0..self.convs()).map(|conv| self.conv_bits(conv)).sum::<u64>() as f64,
            Resource::Cycles => expense().cycles as f64,
            Resource::Energy => expense().energy_uj,
        }
    }

    /// How much less the network costs without `groups`.
    pub fn saving(&mut self, groups: &[GroupId]) -> f64 {
        let convs: BTreeSet<usize> = groups.iter().map(|group| group.conv).collect();
        let cost = |ledger: &Self| match ledger.resource {
            // Bits are a sum over convolutions.
            Resource::StoredBits => convs.iter().map(|conv| ledger.conv_bits(*conv)).sum::<u64>() as f64,
            Resource::Cycles | Resource::Energy => ledger.total(),
        };
        let before = cost(self);
        let kept: Vec<(usize, Sets)> = convs.iter().map(|conv| (*conv, self.kept[*conv].clone())).collect();
        self.prune(groups);
        let after = cost(self);
        kept.into_iter().for_each(|(conv, sets)| self.set(conv, sets));
        before - after
    }

    /// Drops groups.
    pub fn prune(&mut self, groups: &[GroupId]) {
        let convs: BTreeSet<usize> = groups.iter().map(|group| group.conv).collect();
        for conv in convs {
            let mut sets = self.kept_groups(conv);
            for group in groups.iter().filter(|group| group.conv == conv) {
                sets[group.set].retain(|kept| *kept != group.index);
            }
            self.replace(conv, sets);
        }
    }

    /// Takes a group back that was pruned; one that is kept stays as it is.
    pub fn restore(&mut self, group: GroupId) {
        let mut sets = self.kept_groups(group.conv);
        let set = &mut sets[group.set];
        if let Err(place) = set.binary_search(&group.index) {
            set.insert(place, group.index);
            self.replace(group.conv, sets);
        }
    }

    /// The kept groups of each filter set of a convolution.
    fn kept_groups(&self, conv: usize) -> Vec<Vec<usize>> {
        self.sets(conv).iter().map(|set| set.groups.clone()).collect()
    }

    /// The next pruning steps of a convolution.
    ///
    /// Bits fall with each group, energy with each access of a set, cycles when every core that has most accesses makes one less.
    pub fn steps(&self, conv: usize) -> Vec<PruningStep> {
        let sets = self.sets(conv);
        // What the last bundle of a set holds.
        let access =
            |set: usize| SetGroups { set, groups: (sets[set].groups.len() - 1) % self.hardware.sections() + 1 };
        let alone = |groups: SetGroups| PruningStep { alternatives: vec![vec![groups]] };
        let alive = |set: &usize| !sets[*set].groups.is_empty();
        match self.resource {
            Resource::StoredBits => {
                (0..sets.len()).filter(alive).map(|set| alone(SetGroups { set, groups: 1 })).collect()
            }
            Resource::Energy => (0..sets.len()).filter(alive).map(|set| alone(access(set))).collect(),
            Resource::Cycles => {
                let mapping = self.mapping(conv);
                let load = |sets: &[usize]| sets.iter().map(|set| mapping.set_accesses(*set)).sum::<usize>();
                let cores = sets_of_cores(mapping, &self.hardware);
                let most = cores.iter().map(|sets| load(sets)).max().unwrap_or(0);
                let slowest = cores.iter().filter(|sets| most > 0 && load(sets) == most);
                let of_core = |sets: &Vec<usize>| sets.iter().copied().filter(alive).map(access).collect();
                let alternatives: Vec<Vec<SetGroups>> = slowest.map(of_core).collect();
                if alternatives.is_empty() { Vec::new() } else { vec![PruningStep { alternatives }] }
            }
        }
    }

    fn conv_bits(&self, conv: usize) -> u64 {
        let mapping = self.mapping(conv);
        let index: u64 = mapping.sets.iter().map(|set| set.index_bits).sum();
        mapping.kept_weights() * u64::from(mapping.weight_bits) + index
    }

    fn mapping(&self, conv: usize) -> &ConvMapping {
        let node = self.nodes[conv];
        let first = self.nodes.partition_point(|other| *other < node);
        let layer = &self.layers[self.starts[node] + conv - first];
        layer.conv.as_ref().expect("a convolution's layer has its mapping")
    }

    fn replace(&mut self, conv: usize, sets: Vec<Vec<usize>>) {
        let grid = self.mapping(conv).grid;
        self.set(conv, Arc::new(sets.into_iter().map(|groups| FilterSet::new(&grid, groups)).collect()));
    }

    fn set(&mut self, conv: usize, sets: Sets) {
        self.kept[conv] = sets;
        let node = self.nodes[conv];
        let layers = self.node(node).expect("what fitted the macros before fits them still");
        let start = self.starts[node];
        self.layers.splice(start..start + layers.len(), layers);
    }

    fn node(&self, node: usize) -> Result<Vec<Layer>> {
        let first = self.nodes.partition_point(|other| *other < node);
        node_workload(self.network, &self.live, &self.hardware, node, &mut self.kept[first..].iter().cloned())
    }
}
