//! Rules: what a hardware file decides about single layers, held against a network before it is trained.

use super::evaluator::Evaluator;
use super::mapper::check_layers;
use crate::error::Result;
use crate::groups::GroupGrid;
use crate::hardware::chip::Hardware;
use crate::hardware::mapping::{Sets, sets_of, workload};
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

/// Refuses it of a network with the groups that it has.
///
/// # Errors
/// Names the pattern or the layer.
pub(crate) fn check_placements(network: &IntegerNetwork, hardware: &Hardware) -> Result<()> {
    if hardware.mapping.layers.is_empty() {
        return Ok(());
    }
    Evaluator::new(network)?.placements(hardware).map(drop)
}
