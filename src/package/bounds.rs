//! Bounds of the format: what is refused before it is unpacked.

use safetensors::SafeTensorError;

use crate::error::PackageError;
use crate::network::{ConvShape, Graph, MAX_EXTENT, MAX_LAYERS, MAX_WEIGHTS, NetworkSpec};
use crate::seal::NO_CHECKSUM;

// Bounds that keep a hostile file from asking for more memory or time than the largest real network.
pub(super) const MAX_FILE_BYTES: u64 = 1 << 30;
const MAX_KERNEL: usize = 1 << 8;
/// Values of all feature maps, which have a byte for each form.
const MAX_VALUES: usize = 1 << 26;
/// Values of the largest feature map, whose sums have 20 bytes.
const MAX_MAP: usize = 1 << 24;
/// Inputs of all filters of a layer, which the reference gathers.
const MAX_INPUTS: usize = 1 << 26;

pub(super) type Checked<T> = std::result::Result<T, PackageError>;

/// Whether a package can hold a network.
///
/// # Errors
/// Names what is above which bound of the format.
pub(crate) fn check_bounds(graph: &Graph) -> Checked<()> {
    check_description(graph.spec())?;
    check_extents(graph)
}

/// Bounds that a description must keep before its shapes are computed.
pub(super) fn check_description(spec: &NetworkSpec) -> Checked<()> {
    if spec.input.iter().any(|&size| size > MAX_EXTENT) {
        return Err(PackageError::field("network.input", format!("{:?} has a size above {MAX_EXTENT}", spec.input)));
    }
    if spec.layers.len() > MAX_LAYERS {
        return Err(PackageError::field(
            "network.layers",
            format!("{} layers, at most {MAX_LAYERS} are read", spec.layers.len()),
        ));
    }
    for (number, layer) in spec.layers.iter().enumerate() {
        for (key, sides) in [("kernel", layer.kernel()), ("dilation", layer.dilation())] {
            let mut sides = sides.into_iter().flat_map(|sides| sides.0);
            if let Some(side) = sides.find(|side| *side > MAX_KERNEL) {
                let field = format!("network.layers[{number}].{key}");
                return Err(PackageError::field(field, format!("{side} is above {MAX_KERNEL}")));
            }
        }
    }
    Ok(())
}

/// Bounds on what a network takes when it is unpacked.
pub(super) fn check_extents(graph: &Graph) -> Checked<()> {
    type Extents = Vec<[usize; 4]>;
    let maps = std::iter::once(graph.image()).chain(graph.nodes().iter().map(|node| node.output));
    let maps: Extents = maps.map(|map| [map.channels, map.height, map.width, 1]).collect();
    let of_convs =
        |extent: fn(ConvShape) -> [usize; 4]| graph.convs().map(|conv| extent(conv.shape)).collect::<Extents>();
    let weights = of_convs(|conv| [conv.filters(), conv.depth(), conv.window.kernel[0], conv.window.kernel[1]]);
    // What the reference gathers, and a map with its border.
    let products = of_convs(|conv| [conv.channels(), conv.taps(), conv.output.height, conv.output.width]);
    let bordered = of_convs(|conv| {
        let [height, width] = conv.window.bordered([conv.input.height, conv.input.width]);
        [conv.channels(), height, width, 1]
    });
    let all = |extents: &[[usize; 4]], limit: usize| total(extents).is_some_and(|total| total <= limit);
    let each = |extents: &Extents, limit: usize| extents.chunks(1).all(|extent| all(extent, limit));
    for (fits, limit, what) in [
        (all(&maps, MAX_VALUES), MAX_VALUES, "its layers have more values than"),
        (each(&maps, MAX_MAP), MAX_MAP, "a layer has more values than"),
        (all(&weights, MAX_WEIGHTS), MAX_WEIGHTS, "its layers have more weights than"),
        (all(&bordered, MAX_VALUES), MAX_VALUES, "its layers have more values with their borders than"),
        (each(&products, MAX_INPUTS), MAX_INPUTS, "a layer has more inputs of filters than"),
    ] {
        if !fits {
            return Err(PackageError::field("network", format!("{what} {limit}")));
        }
    }
    Ok(())
}

/// Sum of products, unless it overflows.
fn total(extents: &[[usize; 4]]) -> Option<usize> {
    extents.iter().try_fold(0usize, |sum, extent| {
        let product = extent.iter().try_fold(1usize, |product, n| product.checked_mul(*n))?;
        sum.checked_add(product)
    })
}

pub(super) fn check_sha256(field: &str, text: &str) -> Checked<()> {
    if text.len() == NO_CHECKSUM.len() && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(());
    }
    Err(PackageError::field(field, "a SHA-256 has 64 digits from 0 to f, in lower case"))
}

pub(super) fn network_error(error: crate::Error) -> PackageError {
    PackageError::Network(error.to_string())
}

pub(super) fn container_error(error: SafeTensorError) -> PackageError {
    PackageError::Container(error.to_string())
}
