//! Scales of a network that was quantized before, for other bits.

use super::calibrate::Scales;
use super::recipe::Recipe;
use crate::integer::BitPlan;
use crate::network::{ConvId, Graph, ParamId, Role, Source, Weights};
use crate::quantize::{value_codes, weight_limit};

/// The scales of a network that was quantized by the recipe `before`, by the names of files, for the bits of the recipe `now`: each quantizer keeps the range
/// that its codes span. Those of layers that `now` trains anew are left out.
///
/// # Errors
/// Says what doesn't fit: `now` shares scales, folds batch norms or normalizes images otherwise; a scale is missing, of another size or none.
pub(crate) fn stretched(
    graph: &Graph,
    scales: &Weights,
    before: &Recipe,
    now: &Recipe,
) -> std::result::Result<Scales, String> {
    before.check().map_err(|error| format!("of the recipe beside them: {error}"))?;
    let same = [
        ("quantize.fusion", before.quantize.fusion == now.quantize.fusion),
        ("quantize.weight_scale", before.quantize.weight_scale == now.quantize.weight_scale),
        ("normalization", before.normalization == now.normalization),
    ];
    if let Some((key, _)) = same.iter().find(|(_, same)| !same) {
        return Err(format!("`{key}` was another one"));
    }
    let plans = [before, now].map(|recipe| BitPlan::new(graph, &recipe.quantize));
    let read = |id: ParamId, length: usize, [before, now]: [f64; 2]| {
        let name = id.name(graph);
        let array = scales.find(&name).ok_or_else(|| format!("there is no `{name}`"))?;
        if array.values.len() != length || !array.values.iter().all(|scale| scale.is_finite() && *scale > 0.0) {
            return Err(format!("`{name}` is not {length} positive numbers"));
        }
        Ok(array.values.iter().map(|scale| (f64::from(*scale) * before / now) as f32).collect::<Vec<f32>>())
    };
    let is_fresh = |id: ParamId| now.fresh.contains(&id.layer(graph));
    let mut found = Scales::default();
    for conv in graph.convs() {
        let id = ParamId { conv: conv.id, role: Role::WeightScale };
        let bits = plans.each_ref().map(|plan| plan.nodes[conv.id.node()].conv().map(|bits| bits.weights));
        let [Some(old), Some(new)] = bits else { continue };
        if !is_fresh(id) {
            let length = if now.quantize.weight_scale.is_per_filter(conv.logits) { conv.shape.filters() } else { 1 };
            found.weights.push((conv.id, read(id, length, [weight_limit(old), weight_limit(new)])?));
        }
    }
    for node in 0..graph.nodes().len() {
        let id = ParamId { conv: ConvId::Own(node), role: Role::OutputScale };
        let is_quantized = graph.scale_node(node) == node && !plans[0].nodes[node].forms.is_empty();
        if is_quantized && !is_fresh(id) {
            let source = Source::Node(node);
            let is_signed = graph.is_signed(source);
            let ranges = plans.each_ref().map(|plan| f64::from(*value_codes(plan.narrowest(source), is_signed).end()));
            found.outputs.push((node, read(id, 1, ranges)?[0]));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::integer::WeightScale;
    use crate::network::{Array, zoo};
    use crate::train::{Phase, PhaseKind};

    fn recipe(bits: u8) -> Recipe {
        let mut recipe = Recipe { phases: vec![Phase::new(PhaseKind::Quantize, 1, 0.1)], ..Recipe::default() };
        (recipe.quantize.weight_bits, recipe.quantize.activation_bits) = (bits, bits);
        recipe.quantize.weight_scale = WeightScale::Column;
        recipe
    }

    /// A scale for each filter of all layers but the last one, and for each output.
    fn scales(graph: &Graph) -> Weights {
        let mut scales = Weights::default();
        let mut insert = |conv, role, count: usize| {
            let values = (1..=count).map(|place| 0.01 * place as f32).collect();
            scales.insert(ParamId { conv, role }.name(graph), Array { shape: vec![count], values });
        };
        for conv in graph.convs() {
            insert(conv.id, Role::WeightScale, if conv.logits { 1 } else { conv.shape.filters() });
        }
        (0..graph.nodes().len()).for_each(|node| insert(ConvId::Own(node), Role::OutputScale, 1));
        scales
    }

    /// What the largest code stands for is what it stood for, for weights, values without a sign and values with one.
    #[test]
    fn quantizers_keep_their_range() {
        let graph = Graph::new(zoo("mobilenetv2", 10).unwrap()).unwrap();
        let (before, now) = (recipe(4), recipe(2));
        let found = stretched(&graph, &scales(&graph), &before, &now).unwrap();
        let plans = [&before, &now].map(|recipe| BitPlan::new(&graph, &recipe.quantize));
        let mut narrowed = 0;
        for (conv, scales) in &found.weights {
            let [old, new] = plans.each_ref().map(|plan| plan.nodes[conv.node()].conv().unwrap().weights);
            narrowed += usize::from(old != new);
            for (place, scale) in (1..).zip(scales) {
                let range = 0.01 * f64::from(place) * weight_limit(old);
                assert!((f64::from(*scale) * weight_limit(new) / range - 1.0).abs() < 1e-6, "{conv:?} {place}");
            }
        }
        assert!(narrowed > 40 && found.weights.len() == graph.convs().count());
        let mut signs = [0, 0];
        for (node, scale) in &found.outputs {
            let source = Source::Node(*node);
            let is_signed = graph.is_signed(source);
            signs[usize::from(is_signed)] += 1;
            let [old, new] =
                plans.each_ref().map(|plan| f64::from(*value_codes(plan.narrowest(source), is_signed).end()));
            assert!((f64::from(*scale) * new / (0.01 * old) - 1.0).abs() < 1e-6, "{node}");
        }
        assert!(signs.iter().all(|count| *count > 5), "{signs:?}");
    }

    #[test]
    fn scales_that_do_not_fit_are_told() {
        let graph = Graph::new(zoo("resnet20", 10).unwrap()).unwrap();
        let (known, before) = (scales(&graph), recipe(4));
        let refused = |scales: &Weights, before: &Recipe, now: &Recipe, what: &str| {
            let message = stretched(&graph, scales, before, now).unwrap_err();
            assert!(message.contains(what), "{message}");
        };
        let now = recipe(3);
        let mut layer = now.clone();
        layer.quantize.weight_scale = WeightScale::Layer;
        refused(&known, &before, &layer, "`quantize.weight_scale` was another one");
        let none = Recipe { phases: Vec::new(), ..before.clone() };
        refused(&known, &none, &now, "recipe beside them: phases");
        let name = ParamId { conv: ConvId::Own(1), role: Role::WeightScale }.name(&graph);
        let mut other = known.clone();
        other.insert(name.clone(), Array { shape: vec![1], values: vec![0.1] });
        refused(&other, &before, &now, &format!("`{name}` is not 16 positive numbers"));
        // A layer that is trained anew has scales of its own.
        let fresh = Recipe { fresh: vec![graph.nodes()[1].name.clone()], ..now };
        let found = stretched(&graph, &other, &before, &fresh).unwrap();
        assert!(found.weights.iter().all(|(conv, _)| *conv != ConvId::Own(1)));
        assert!(found.outputs.iter().all(|(node, _)| *node != 1));
        assert_eq!(found.weights.len(), graph.convs().count() - 1);
    }
}
