//! A layer's description with its references resolved and its shapes computed.

use super::node::{Node, Op, SameScale, Skip, Source};
use super::shape::{ConvShape, MAX_EXTENT, MapShape, Reason};
use super::spec::{Activation, LayerSpec, Shortcut, SkipSpec};
use super::window::{Border, Sides, Window};

/// The node of a layer, behind those that are resolved already.
///
/// # Errors
/// Why the layer cannot be there.
pub(super) fn resolve(layer: &LayerSpec, logits: bool, image: MapShape, nodes: &[Node]) -> Reason<Node> {
    let source = match layer.input() {
        Some(name) => find(name, nodes)?,
        None => nodes.len().checked_sub(1).map_or(Source::Image, Source::Node),
    };
    let input = shape_of(source, image, nodes);
    let activation = if logits { Activation::None } else { layer.activation().unwrap_or_default() };
    let op = match layer {
        LayerSpec::Conv { filters, kernel, stride, padding, dilation, groups, batch_norm, add, .. } => {
            let window = Window { kernel: kernel.0, stride: stride.0, padding: padding.0 };
            let conv = ConvShape::new(input, *filters, window, dilation.0, *groups)?;
            let skip = add.as_ref().map(|add| resolve_skip(add, conv.output, image, nodes)).transpose()?;
            if logits && skip.is_some() {
                return Err("the layer that gives the logits cannot have a residual sum".into());
            }
            Op::Conv { conv, batch_norm: *batch_norm, skip, activation, logits }
        }
        LayerSpec::Linear { filters, batch_norm, .. } => {
            let window = Window { kernel: [input.height, input.width], ..Window::square(1, 1, 0) };
            let conv = ConvShape::new(input, *filters, window, [1; 2], 1)?;
            Op::Conv { conv, batch_norm: *batch_norm, skip: None, activation, logits }
        }
        LayerSpec::MaxPool { kernel, stride, padding, .. } => {
            let window = Window { kernel: kernel.0, stride: stride.0, padding: padding.0 };
            check_border(&window)?;
            Op::SameScale(SameScale::MaxPool { window })
        }
        LayerSpec::AvgPool { kernel: None, stride, padding, .. } => {
            if stride.is_some() || !padding.is_none() {
                return Err("a mean over the whole map has neither stride nor padding: give its kernel".into());
            }
            let kernel = [input.height, input.width];
            Op::AvgPool { window: Window { kernel, stride: kernel, padding: padding.0 } }
        }
        LayerSpec::AvgPool { kernel: Some(kernel), stride, padding, .. } => {
            let window = Window { kernel: kernel.0, stride: stride.unwrap_or(*kernel).0, padding: padding.0 };
            check_border(&window)?;
            Op::AvgPool { window }
        }
        LayerSpec::Concat { .. } => Op::SameScale(SameScale::Concat),
    };
    let behind = behind(layer, nodes)?;
    if (source == Source::Image || behind.contains(&Source::Image)) && !matches!(op, Op::Conv { .. }) {
        return Err("only a convolution or linear layer can read the image".into());
    }
    let output = match op {
        Op::Conv { conv, .. } => conv.output,
        Op::SameScale(SameScale::Concat) => concatenated(input, &behind, image, nodes)?,
        Op::SameScale(SameScale::MaxPool { window }) | Op::AvgPool { window } => ConvShape::pooled(input, window)?,
    };
    Ok(Node { name: layer.name().into(), source, behind, input, output, op })
}

/// What a concatenation places behind its input.
fn behind(layer: &LayerSpec, nodes: &[Node]) -> Reason<Vec<Source>> {
    match layer {
        LayerSpec::Concat { inputs, .. } => {
            if inputs.len() < 2 {
                return Err(format!("it joins {} values: `inputs` names two or more", inputs.len()));
            }
            inputs[1..].iter().map(|name| find(name, nodes)).collect()
        }
        LayerSpec::Conv { .. } | LayerSpec::MaxPool { .. } | LayerSpec::AvgPool { .. } | LayerSpec::Linear { .. } => {
            Ok(Vec::new())
        }
    }
}

fn find(name: &str, nodes: &[Node]) -> Reason<Source> {
    if name == "image" {
        return Ok(Source::Image);
    }
    nodes
        .iter()
        .position(|node| node.name == name)
        .map(Source::Node)
        .ok_or_else(|| format!("its input `{name}` is not a layer before it"))
}

fn shape_of(source: Source, image: MapShape, nodes: &[Node]) -> MapShape {
    match source {
        Source::Image => image,
        Source::Node(index) => nodes[index].output,
    }
}

/// For each node the first one that shares a scale with it.
pub(super) fn scales(nodes: &[Node]) -> Vec<usize> {
    let mut scales: Vec<usize> = (0..nodes.len()).collect();
    for (index, node) in nodes.iter().enumerate() {
        match node.op {
            Op::Conv { .. } | Op::AvgPool { .. } => {}
            Op::SameScale(_) => {
                for source in node.sources() {
                    let Source::Node(source) = source else { continue };
                    let (first, second) = (scales[source].min(scales[index]), scales[source].max(scales[index]));
                    scales[..=index].iter_mut().filter(|scale| **scale == second).for_each(|scale| *scale = first);
                }
            }
        }
    }
    scales
}

/// The shape of a map behind whose channels others lie.
fn concatenated(first: MapShape, behind: &[Source], image: MapShape, nodes: &[Node]) -> Reason<MapShape> {
    let mut channels = first.channels;
    for source in behind {
        let map = shape_of(*source, image, nodes);
        if (map.height, map.width) != (first.height, first.width) {
            return Err(format!(
                "it joins maps of {}x{} and {}x{}: rows and columns must be the same",
                first.height, first.width, map.height, map.width
            ));
        }
        channels += map.channels;
    }
    if channels > MAX_EXTENT {
        return Err(format!("it would have {channels} channels; the limit is {MAX_EXTENT}"));
    }
    Ok(MapShape { channels, ..first })
}

fn resolve_skip(add: &SkipSpec, output: MapShape, image: MapShape, nodes: &[Node]) -> Reason<Skip> {
    let SkipSpec { shortcut, stride, batch_norm, .. } = *add;
    let source = find(&add.from, nodes)?;
    let Source::Node(index) = source else {
        return Err("the image cannot join a residual sum".into());
    };
    let from = shape_of(source, image, nodes);
    let conv = ConvShape::new(from, output.channels, Window::square(1, stride, 0), [1; 2], 1)?;
    if conv.output != output {
        return Err(format!(
            "the residual value `{}` gives {}x{} at stride {stride}, the sum needs {}x{}",
            nodes[index].name, conv.output.height, conv.output.width, output.height, output.width
        ));
    }
    match shortcut {
        Shortcut::Projection => Ok(Skip::Projection { source, conv, batch_norm }),
        Shortcut::Identity if !batch_norm => {
            Err("an identity has no batch norm to leave out: drop the key from its `add`".into())
        }
        Shortcut::Identity => {
            let missing = output.channels.checked_sub(from.channels).ok_or_else(|| {
                format!("the residual value has {} channels, the sum only {}", from.channels, output.channels)
            })?;
            Ok(Skip::Identity { source, stride, pad_front: missing / 2 })
        }
    }
}

/// Each window of a pooling layer holds a pixel of the map.
fn check_border(window: &Window) -> Reason<()> {
    let fits = |side: usize| window.padding[side].iter().all(|padding| *padding < window.kernel[side]);
    if fits(0) && fits(1) {
        return Ok(());
    }
    Err(format!("padding {} must be smaller than the window {}", Border(window.padding), Sides(window.kernel)))
}

#[cfg(test)]
mod tests {
    use crate::network::{Graph, NetworkSpec, zoo};

    /// A mean over a map of many channels has no weights to be too many.
    #[test]
    fn the_images_of_a_pooling_layer_may_be_large() {
        let side = |side: usize| {
            let spec = zoo("resnet50_imagenet", 1000).unwrap();
            Graph::new(NetworkSpec { input: [3, side, side], ..spec })
        };
        assert!(side(1056).is_ok());
        let error = side(65_536).unwrap_err().to_string();
        assert!(error.contains("output values; the limit is 4294967296"), "{error}");
    }

    #[test]
    fn a_depthwise_layer_has_the_weights_of_its_groups() {
        let wide = |groups: usize| {
            let layers = format!(
                "name = \"wide\"\ninput = [32768, 2, 2]\nclasses = 2\nlayers = [\
                 {{ op = \"conv\", name = \"a\", filters = 32768, kernel = 3, padding = 1, groups = {groups} }},\
                 {{ op = \"linear\", name = \"b\", filters = 2 }}]"
            );
            Graph::new(toml::from_str(&layers).unwrap())
        };
        wide(32768).unwrap();
        let error = wide(1).unwrap_err().to_string();
        assert!(error.contains("it would have 9663676416 weights"), "{error}");
    }
}
