//! Rules: what a hardware file decides about single layers, held against a network before it is trained.

use super::mapper::{KnownParts, check_layers, map};
use crate::error::Result;
use crate::groups::GroupGrid;
use crate::hardware::chip::Hardware;
use crate::hardware::mapping::{Sets, kept_sets, sets_of, workload};
use crate::integer::{IntegerConv, IntegerNetwork};
use crate::network::Conv;

/// Refuses what a hardware file decides about single layers of a network whatever groups are left: a pattern of no layer, and a placement that
/// no layer without weights has.
///
/// # Errors
/// Names the pattern or the layer.
pub(crate) fn check_rules(network: &IntegerNetwork, hardware: &Hardware) -> Result<()> {
    if hardware.mapping.layers.is_empty() {
        return Ok(());
    }
    let none = |(conv, _): (Conv, &IntegerConv)| sets_of(&GroupGrid::new(hardware.group, &conv.shape), |_| false);
    let kept: Vec<Sets> = network.convs().map(none).collect();
    check_layers(&workload(network, hardware, &kept)?, hardware)
}

/// Refuses it of a network with the groups that it has, as [`evaluate`](super::evaluate) does.
///
/// # Errors
/// Names the pattern or the layer.
pub(crate) fn check_placements(network: &IntegerNetwork, hardware: &Hardware) -> Result<()> {
    if hardware.mapping.layers.is_empty() {
        return Ok(());
    }
    let kept = |(conv, integer): (Conv, &IntegerConv)| {
        kept_sets(&GroupGrid::new(hardware.group, &conv.shape), &integer.weights)
    };
    let kept: Vec<Sets> = network.convs().map(kept).collect();
    map(&workload(network, hardware, &kept)?, hardware, &KnownParts::default()).map(drop)
}
