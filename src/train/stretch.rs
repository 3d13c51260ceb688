//! Scales of a network that was quantized before, for other bits.

use super::calibrate::Scales;
use super::recipe::Recipe;
use crate::integer::BitPlan;
use crate::network::{ConvId, Graph, ParamId, Role, Source, Weights};
use crate::quantize::{value_codes, weight_limit};

/// The scales of a network that was quantized by the recipe `before`, by the names of files, for the bits of the recipe `now`: each quantizer keeps the range
/// that its codes span. None where `now` shares scales, folds batch norms or normalizes images otherwise, or where a
/// scale is missing or of another size.
pub(super) fn stretched(graph: &Graph, scales: &Weights, before: &Recipe, now: &Recipe) -> Option<Scales> {
    let kind = |recipe: &Recipe| (recipe.quantize.fusion, recipe.quantize.weight_scale, recipe.normalization.clone());
    if kind(before) != kind(now) {
        return None;
    }
    let plans = [before, now].map(|recipe| BitPlan::new(graph, &recipe.quantize));
    let read = |conv: ConvId, role: Role, length: usize, ranges: [f64; 2]| -> Option<Vec<f32>> {
        let [before, now] = ranges;
        let array = scales.find(&ParamId { conv, role }.name(graph))?;
        // A layer that is trained anew may have had another size.
        let fits = array.values.len() == length && array.values.iter().all(|scale| scale.is_finite() && *scale > 0.0);
        fits.then_some(())?;
        Some(array.values.iter().map(|scale| (f64::from(*scale) * before / now) as f32).collect())
    };
    let weights = graph.convs().map(|conv| {
        let bits = plans.each_ref().map(|plan| plan.nodes[conv.id.node()].conv().map(|bits| bits.weights));
        let [Some(old), Some(new)] = bits else { return None };
        let length = if now.quantize.weight_scale.is_per_filter(conv.logits) { conv.shape.filters() } else { 1 };
        Some((conv.id, read(conv.id, Role::WeightScale, length, [weight_limit(old), weight_limit(new)])?))
    });
    let quantized = |node: &usize| graph.scale_node(*node) == *node && !plans[0].nodes[*node].forms.is_empty();
    let outputs = (0..graph.nodes().len()).filter(quantized).map(|node| {
        let source = Source::Node(node);
        let is_signed = graph.is_signed(source);
        let ranges = plans.each_ref().map(|plan| f64::from(*value_codes(plan.narrowest(source), is_signed).end()));
        Some((node, read(ConvId::Own(node), Role::OutputScale, 1, ranges)?[0]))
    });
    Some(Scales { weights: weights.collect::<Option<_>>()?, outputs: outputs.collect::<Option<_>>()? })
}
