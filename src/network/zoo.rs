//! The networks that the project knows by name, for 3x32x32 images.

use super::spec::{Activation, BATCH_NORM_EPSILON, LayerSpec, NetworkSpec, Shortcut, SkipSpec};

/// Names that [`zoo`] knows.
pub const ZOO: [&str; 15] = [
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet18",
    "resnet18_imagenet",
    "resnet50",
    "resnet50_imagenet",
    "vgg8",
    "vgg16",
    "vgg16_imagenet",
    "mobilenetv2",
    "mobilenetv2_half",
    "mobilenetv2_imagenet",
    "squeezenet",
];

/// A network of the zoo with `classes` outputs; `None` for a name that isn't in [`ZOO`].
///
/// * `resnet20/32/44/56`: He et al. 2015 for CIFAR, 16-32-64 channels, identity shortcuts with zero-padded channels.
/// * `resnet18`: 64-128-256-512 channels, 1x1 projections, 3x3 stem.
/// * `resnet18_imagenet`: the same as torchvision has it, with a 7x7 stem of stride 2 and a maximum behind it.
/// * `resnet50`, `resnet50_imagenet`: the same stems, then 3-4-6-3 bottlenecks of 1x1, 3x3 (with the stride, as torchvision has it) and 1x1
///   convolutions, 256-512-1024-2048 channels.
/// * `vgg16`: 13 convolutions with batch norm and one linear layer.
/// * `vgg16_imagenet`: the same convolutions with three linear layers, as torchvision's `vgg16_bn` has them for images of 224 x 224.
/// * `vgg8`: 6 convolutions (64-64-128-128-256-256) with batch norm and one linear layer.
/// * `mobilenetv2_imagenet`: Sandler et al., *MobileNetV2: Inverted Residuals and Linear Bottlenecks*, CVPR 2018, table 2, as torchvision has and
///   names it.
/// * `mobilenetv2`, `mobilenetv2_half`: the same with a stride of 1 instead of 2 in the stem and in the second stage, for images of 32 x 32, as
///   github.com/kuangliu/pytorch-cifar has it (whose blocks project where channels differ; these don't, as the paper's); the second one with half
///   of the channels.
/// * `squeezenet`: Iandola et al., *SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size*, arXiv 1602.07360, with the fire
///   modules of torchvision's `squeezenet1_1`. For images of 32 x 32 its stem has a stride of 1 and no maximum behind it; every convolution has
///   a batch norm; the mean comes before the last layer, which has no ReLU, instead of behind it.
pub fn zoo(name: &str, classes: usize) -> Option<NetworkSpec> {
    let layers = match name {
        "resnet20" => resnet_cifar(3),
        "resnet32" => resnet_cifar(5),
        "resnet44" => resnet_cifar(7),
        "resnet56" => resnet_cifar(9),
        "resnet18" => resnet(vec![conv3x3("conv1".into(), 64, 1, None)], &RESNET18, 2, Shortcut::Projection),
        "resnet18_imagenet" => resnet(imagenet_stem(), &RESNET18, 2, Shortcut::Projection),
        "vgg8" => vgg(&[&[64, 64], &[128, 128], &[256, 256]]),
        "vgg16" => vgg(&VGG16),
        "vgg16_imagenet" => {
            let mut layers = vgg(&VGG16);
            layers.extend(["linear1", "linear2"].map(|name| linear(name, 4096)));
            layers
        }
        "resnet50" => bottleneck_resnet(vec![conv3x3("conv1".into(), 64, 1, None)]),
        "resnet50_imagenet" => bottleneck_resnet(imagenet_stem()),
        "mobilenetv2" => mobilenet(1.0, [1, 1]),
        "mobilenetv2_half" => mobilenet(0.5, [1, 1]),
        "mobilenetv2_imagenet" => mobilenet(1.0, [2, 2]),
        "squeezenet" => squeezenet(),
        _ => return None,
    };
    let mut spec =
        NetworkSpec { name: name.into(), input: [3, 32, 32], classes, batch_norm_epsilon: BATCH_NORM_EPSILON, layers };
    spec.layers.push(linear("linear", classes));
    Some(spec)
}

fn linear(name: &str, filters: usize) -> LayerSpec {
    LayerSpec::Linear {
        name: name.into(),
        input: None,
        filters,
        batch_norm: false,
        batch_norm_epsilon: None,
        activation: Activation::Relu,
    }
}

/// A convolution with batch norm and a ReLU, whose border keeps the map's size at a stride of 1.
fn conv(name: String, filters: usize, kernel: usize, stride: usize) -> LayerSpec {
    LayerSpec::Conv {
        name,
        input: None,
        filters,
        kernel: kernel.into(),
        stride: stride.into(),
        padding: (kernel / 2).into(),
        dilation: 1.into(),
        groups: 1,
        batch_norm: true,
        batch_norm_epsilon: None,
        add: None,
        activation: Activation::Relu,
        clip: None,
    }
}

fn conv3x3(name: String, filters: usize, stride: usize, add: Option<SkipSpec>) -> LayerSpec {
    with_sum(conv(name, filters, 3, stride), add)
}

/// The same convolution with a value that joins it.
fn with_sum(mut layer: LayerSpec, skip: Option<SkipSpec>) -> LayerSpec {
    if let LayerSpec::Conv { add, .. } = &mut layer {
        *add = skip;
    }
    layer
}

/// Over the whole map.
fn mean() -> LayerSpec {
    LayerSpec::AvgPool { name: "pool".into(), input: None, kernel: None, stride: None, padding: 0.into() }
}

/// Of every second window.
fn max_pool(name: String, kernel: usize, padding: usize) -> LayerSpec {
    LayerSpec::MaxPool { name, input: None, kernel: kernel.into(), stride: 2.into(), padding: padding.into() }
}

fn resnet_cifar(blocks: usize) -> Vec<LayerSpec> {
    let stem = conv3x3("conv1".into(), 16, 1, None);
    resnet(vec![stem], &[(16, 1), (32, 2), (64, 2)], blocks, Shortcut::Identity)
}

const VGG16: [&[usize]; 5] = [&[64, 64], &[128, 128], &[256; 3], &[512; 3], &[512; 3]];
const RESNET18: [(usize, usize); 4] = [(64, 1), (128, 2), (256, 2), (512, 2)];
/// Filters of the 3x3 convolutions, stride of the first block, blocks.
const RESNET50: [(usize, usize, usize); 4] = [(64, 1, 3), (128, 2, 4), (256, 2, 6), (512, 2, 3)];
/// Expansion, channels, blocks and stride of the first block; that of the second stage is given.
const MOBILENETV2: [(usize, usize, usize, Option<usize>); 7] = [
    (1, 16, 1, Some(1)),
    (6, 24, 2, None),
    (6, 32, 3, Some(2)),
    (6, 64, 4, Some(2)),
    (6, 96, 3, Some(1)),
    (6, 160, 3, Some(2)),
    (6, 320, 1, Some(1)),
];

/// Filters of a fire module's squeeze convolution, and of each of its two expand convolutions.
const FIRES: [(usize, usize); 8] =
    [(16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256)];

fn imagenet_stem() -> Vec<LayerSpec> {
    vec![conv("conv1".into(), 64, 7, 2), max_pool("maxpool".into(), 3, 1)]
}

/// Behind a stem of 64 channels ResNet-50's bottlenecks.
fn bottleneck_resnet(stem: Vec<LayerSpec>) -> Vec<LayerSpec> {
    let mut layers = stem;
    let mut from = layers.last().map_or("image", LayerSpec::name).to_string();
    for (stage, (filters, first_stride, blocks)) in (1..).zip(RESNET50) {
        for block in 0..blocks {
            let stride = if block == 0 { first_stride } else { 1 };
            let shortcut = if block == 0 { Shortcut::Projection } else { Shortcut::Identity };
            let add = SkipSpec { from, shortcut, stride, batch_norm: true };
            let name = |number| format!("layer{stage}.{block}.conv{number}");
            from = name(3);
            layers.push(conv(name(1), filters, 1, 1));
            layers.push(conv(name(2), filters, 3, stride));
            layers.push(with_sum(conv(name(3), 4 * filters, 1, 1), Some(add)));
        }
    }
    layers.push(mean());
    layers
}

/// MobileNetV2 with a share of its channels; `strides` are those of the stem and of the second stage.
fn mobilenet(width: f64, strides: [usize; 2]) -> Vec<LayerSpec> {
    /// A convolution with a ReLU6, in so many groups.
    fn relu6(name: String, filters: usize, kernel: usize, stride: usize, in_groups: usize) -> LayerSpec {
        let mut layer = conv(name, filters, kernel, stride);
        if let LayerSpec::Conv { groups, clip, .. } = &mut layer {
            (*groups, *clip) = (in_groups, Some(6.0));
        }
        layer
    }
    let mut channels = share(32, width);
    let mut from = "features.0.0".to_string();
    let mut layers = vec![relu6(from.clone(), channels, 3, strides[0], 1)];
    let mut number = 1;
    for (expansion, filters, blocks, stride) in MOBILENETV2 {
        let filters = share(filters, width);
        for block in 0..blocks {
            let stride = if block == 0 { stride.unwrap_or(strides[1]) } else { 1 };
            let wide = expansion * channels;
            let mut part = 0;
            let mut name = |inner: &str| {
                part += 1;
                format!("features.{number}.conv.{}{inner}", part - 1)
            };
            if expansion > 1 {
                layers.push(relu6(name(".0"), wide, 1, 1, 1));
            }
            layers.push(relu6(name(".0"), wide, 3, stride, wide));
            let bottleneck = name("");
            let mut layer = conv(bottleneck.clone(), filters, 1, 1);
            if let LayerSpec::Conv { activation, add, .. } = &mut layer {
                *activation = Activation::None;
                let skip = SkipSpec { from, shortcut: Shortcut::Identity, stride: 1, batch_norm: true };
                *add = (stride == 1 && channels == filters).then_some(skip);
            }
            layers.push(layer);
            (from, channels) = (bottleneck, filters);
            number += 1;
        }
    }
    layers.push(relu6(format!("features.{number}.0"), share(1280, width.max(1.0)), 1, 1, 1));
    layers.push(mean());
    layers
}

/// A stem and SqueezeNet's fire modules, which a 1x1 convolution squeezes and two others expand side by side.
fn squeezenet() -> Vec<LayerSpec> {
    let mut layers = vec![conv3x3("conv1".into(), 64, 1, None)];
    for (number, (squeezed, expanded)) in (2..).zip(FIRES) {
        let name = |part: &str| format!("fire{number}.{part}");
        let squeeze = name("squeeze");
        let mut expand3x3 = conv(name("expand3x3"), expanded, 3, 1);
        if let LayerSpec::Conv { input, .. } = &mut expand3x3 {
            *input = Some(squeeze.clone());
        }
        layers.extend([conv(squeeze, squeezed, 1, 1), conv(name("expand1x1"), expanded, 1, 1), expand3x3]);
        let inputs = vec![name("expand1x1"), name("expand3x3")];
        layers.push(LayerSpec::Concat { name: name("expand"), inputs });
        if matches!(number, 3 | 5) {
            layers.push(max_pool(format!("pool{number}"), 3, 1));
        }
    }
    layers.push(mean());
    layers
}

/// A share of channels in whole eights, not much less than it, as the authors round.
fn share(channels: usize, width: f64) -> usize {
    let exact = channels as f64 * width;
    let eights = 8 * ((exact / 8.0 + 0.5) as usize).max(1);
    if (eights as f64) < 0.9 * exact { eights + 8 } else { eights }
}

/// Behind a stem, which gives as many channels as the first stage, `stages` of (filters, stride of the first block), each of `blocks` basic
/// blocks.
fn resnet(stem: Vec<LayerSpec>, stages: &[(usize, usize)], blocks: usize, shortcut: Shortcut) -> Vec<LayerSpec> {
    let mut channels = stages[0].0;
    let mut layers = stem;
    let mut from = layers.last().map_or("image", LayerSpec::name).to_string();
    for (stage, &(filters, first_stride)) in (1..).zip(stages) {
        for block in 0..blocks {
            let stride = if block == 0 { first_stride } else { 1 };
            let shortcut = if stride == 1 && channels == filters { Shortcut::Identity } else { shortcut };
            let add = SkipSpec { from, shortcut, stride, batch_norm: true };
            let name = format!("layer{stage}.{block}.conv");
            from = format!("{name}2");
            layers.push(conv3x3(format!("{name}1"), filters, stride, None));
            layers.push(conv3x3(from.clone(), filters, 1, Some(add)));
            channels = filters;
        }
    }
    layers.push(mean());
    layers
}

/// Stages of 3x3 convolutions, a 2x2 maximum after each.
fn vgg(stages: &[&[usize]]) -> Vec<LayerSpec> {
    let mut layers = Vec::new();
    for (stage, filters) in (1..).zip(stages) {
        for (index, &filters) in (1..).zip(*filters) {
            layers.push(conv3x3(format!("conv{stage}_{index}"), filters, 1, None));
        }
        layers.push(max_pool(format!("pool{stage}"), 2, 0));
    }
    layers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{Graph, Source};

    fn graph(name: &str) -> Graph {
        Graph::new(zoo(name, 10).unwrap()).unwrap()
    }

    #[test]
    fn every_network_of_the_zoo_is_valid() {
        for name in ZOO {
            assert_eq!(graph(name).nodes().last().unwrap().output.channels, 10, "{name}");
        }
        assert!(zoo("alexnet", 10).is_none());
    }

    /// torchvision's `mobilenet_v2(width_mult=0.5, num_classes=10)` has 681,936 weights; strides change none.
    #[test]
    fn half_of_the_channels_is_rounded_as_the_authors_round() {
        assert_eq!([16, 24, 32, 96, 160].map(|channels| share(channels, 0.5)), [8, 16, 16, 48, 80]);
        let half = graph("mobilenetv2_half");
        assert_eq!(half.weights(), 1_949_136 - 990 * 1280);
        assert_eq!(half.nodes().last().unwrap().source, Source::Node(half.nodes().len() - 2));
        let shape = |name: &str| half.nodes().iter().find(|node| node.name == name).unwrap().output;
        assert_eq!((shape("features.2.conv.2").height, shape("features.18.0").height), (32, 4));
    }

    /// VGG16: 313.2 M and 14.71 M, ResNet18: 555.4 M and 11.16 M in the convolutions; ResNet-20: 40.6 M with the linear layer.
    #[test]
    fn counts_are_those_of_the_literature() {
        let convs = |name| {
            let graph = graph(name);
            let linear = graph.nodes().last().unwrap().conv().unwrap();
            (graph.macs() - linear.macs(), graph.weights() - linear.weights() as u64)
        };
        assert_eq!(convs("vgg16"), (313_196_544, 14_710_464));
        assert_eq!(convs("resnet18"), (555_417_600, 11_159_232));
        assert_eq!(graph("resnet20").macs(), 40_551_040);
        assert_eq!(graph("vgg8").macs(), 152_805_376);
        // The features of torchvision's squeezenet1_1: 722,496 parameters, of which 2,944 are biases.
        assert_eq!(convs("squeezenet"), (88_408_064, 722_496 - 2_944));
        // torchvision's vgg16_bn and resnet18: 138.34 M and 11.68 M weights, 15.47 G and 1.81 G MAC on images of 224 x 224.
        let imagenet = |name| {
            let spec = NetworkSpec { input: [3, 224, 224], ..zoo(name, 1000).unwrap() };
            let graph = Graph::new(spec).unwrap();
            (graph.weights(), graph.macs())
        };
        assert_eq!(imagenet("vgg16_imagenet"), (138_344_128, 15_470_264_320));
        assert_eq!(imagenet("resnet18_imagenet"), (11_678_912, 1_814_073_344));
        // torchvision's resnet50 and mobilenet_v2.
        assert_eq!(imagenet("resnet50_imagenet"), (25_502_912, 4_089_184_256));
        assert_eq!(imagenet("mobilenetv2_imagenet"), (3_469_760, 300_774_272));
    }
}
