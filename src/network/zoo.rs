//! The networks that the project knows by name, for 3x32x32 images.

use super::spec::{Activation, BATCH_NORM_EPSILON, LayerSpec, NetworkSpec, Shortcut, SkipSpec};

/// Names that [`zoo`] knows.
pub const ZOO: [&str; 9] = [
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet18",
    "resnet18_imagenet",
    "vgg8",
    "vgg16",
    "vgg16_imagenet",
];

/// A network of the zoo with `classes` outputs; `None` for a name that isn't in [`ZOO`].
///
/// * `resnet20/32/44/56`: He et al. 2015 for CIFAR, 16-32-64 channels, identity shortcuts with zero-padded channels.
/// * `resnet18`: 64-128-256-512 channels, 1x1 projections, 3x3 stem.
/// * `resnet18_imagenet`: the same as torchvision has it, with a 7x7 stem of stride 2 and a maximum behind it.
/// * `vgg16`: 13 convolutions with batch norm and one linear layer.
/// * `vgg16_imagenet`: the same convolutions with three linear layers, as torchvision's `vgg16_bn` has them for images of 224 x 224.
/// * `vgg8`: 6 convolutions (64-64-128-128-256-256) with batch norm and one linear layer.
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

fn conv3x3(name: String, filters: usize, stride: usize, add: Option<SkipSpec>) -> LayerSpec {
    LayerSpec::Conv {
        name,
        input: None,
        filters,
        kernel: 3,
        stride,
        padding: 1,
        groups: 1,
        batch_norm: true,
        batch_norm_epsilon: None,
        add,
        activation: Activation::Relu,
        clip: None,
    }
}

fn resnet_cifar(blocks: usize) -> Vec<LayerSpec> {
    let stem = conv3x3("conv1".into(), 16, 1, None);
    resnet(vec![stem], &[(16, 1), (32, 2), (64, 2)], blocks, Shortcut::Identity)
}

const VGG16: [&[usize]; 5] = [&[64, 64], &[128, 128], &[256; 3], &[512; 3], &[512; 3]];
const RESNET18: [(usize, usize); 4] = [(64, 1), (128, 2), (256, 2), (512, 2)];

fn imagenet_stem() -> Vec<LayerSpec> {
    let (name, input, batch_norm_epsilon) = ("conv1".into(), None, None);
    vec![
        LayerSpec::Conv {
            name,
            input,
            filters: 64,
            kernel: 7,
            stride: 2,
            padding: 3,
            groups: 1,
            batch_norm: true,
            batch_norm_epsilon,
            add: None,
            activation: Activation::Relu,
            clip: None,
        },
        LayerSpec::MaxPool { name: "maxpool".into(), input: None, kernel: 3, stride: 2, padding: 1 },
    ]
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
    layers.push(LayerSpec::AvgPool { name: "pool".into(), input: None, kernel: None });
    layers
}

/// Stages of 3x3 convolutions, a 2x2 maximum after each.
fn vgg(stages: &[&[usize]]) -> Vec<LayerSpec> {
    let mut layers = Vec::new();
    for (stage, filters) in (1..).zip(stages) {
        for (index, &filters) in (1..).zip(*filters) {
            layers.push(conv3x3(format!("conv{stage}_{index}"), filters, 1, None));
        }
        layers.push(LayerSpec::MaxPool { name: format!("pool{stage}"), input: None, kernel: 2, stride: 2, padding: 0 });
    }
    layers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Graph;

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
        // torchvision's vgg16_bn and resnet18: 138.34 M and 11.68 M weights, 15.47 G and 1.81 G MAC on images of 224 x 224.
        let imagenet = |name| {
            let spec = NetworkSpec { input: [3, 224, 224], ..zoo(name, 1000).unwrap() };
            let graph = Graph::new(spec).unwrap();
            (graph.weights(), graph.macs())
        };
        assert_eq!(imagenet("vgg16_imagenet"), (138_344_128, 15_470_264_320));
        assert_eq!(imagenet("resnet18_imagenet"), (11_678_912, 1_814_073_344));
    }
}
