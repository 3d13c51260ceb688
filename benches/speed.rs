//! Speed of what people wait for: `cargo bench`.
//!
//! Convolutions, forward and backward, ours beside burn's own on the device `flex`; the integer reference and the macro model in
//! images a second. Medians; random weights and pictures.

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use burn::tensor::module::conv2d as burn_conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Distribution, Tensor};
use mars::deploy::integer::IntegerNetwork;
use mars::deploy::{FoldOptions, PictureScale, Reference, fold};
use mars::engine::conv2d;
use mars::hardware::{Hardware, MacroNetwork};
use mars::network::{Array, Graph, Op, Weights, zoo};
use mars::quantize::{BitPlan, QuantizeConfig};

const REPEATS: usize = 7;

fn main() {
    convolutions();
    executions();
}

/// Median seconds of `run` after a warm-up.
fn median(mut run: impl FnMut()) -> f64 {
    run();
    let mut seconds: Vec<f64> = (0..REPEATS)
        .map(|_| {
            let started = Instant::now();
            run();
            started.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[REPEATS / 2]
}

fn convolutions() {
    println!("3x3 convolutions, GFLOP/s               ours: forward  backward   burn: forward  backward");
    let device = Device::flex().autodiff();
    for (batch, channels, side, filters, stride) in
        [(64, 16, 32, 16, 1), (64, 64, 16, 64, 1), (32, 128, 16, 128, 1), (32, 512, 4, 512, 1), (128, 16, 32, 32, 2)]
    {
        let x = Tensor::<4>::random([batch, channels, side, side], Distribution::Default, &device).require_grad();
        let w = Tensor::<4>::random([filters, channels, 3, 3], Distribution::Default, &device).require_grad();
        let flops = 2.0 * (batch * channels * filters * 9 * (side / stride) * (side / stride)) as f64;
        let options = ConvOptions::new([stride; 2], [1; 2], [1; 2], 1);
        let ours = || conv2d(x.clone(), w.clone(), stride, 1);
        let burns = || burn_conv2d(x.clone(), w.clone(), None, options.clone());
        let speeds = |conv: &dyn Fn() -> Tensor<4>| {
            let forward = median(|| drop(black_box(conv())));
            let both = median(|| drop(black_box(conv().sum().backward())));
            [flops / forward / 1e9, 2.0 * flops / (both - forward) / 1e9]
        };
        let ([forward, backward], [burn_forward, burn_backward]) = (speeds(&ours), speeds(&burns));
        println!(
            "{batch:>4} x {channels:>3} x {side:>2}x{side:<2} -> {filters:>3} stride {stride}        \
             {forward:>13.1}{backward:>10.1}{burn_forward:>16.1}{burn_backward:>10.1}"
        );
    }
}

fn executions() {
    println!("\nexecutions, images/s                            macro   integer reference");
    let adc5 = Hardware::load(Path::new("experiments/hardware/adc5.toml")).expect("a shipped hardware file");
    for (name, bits, images, hardware) in
        [("resnet20", 4, 1000, Hardware::mars()), ("vgg16", 8, 50, Hardware::mars()), ("resnet20", 4, 100, adc5)]
    {
        let network = network(name, bits, &hardware);
        let pictures: Vec<u8> =
            (0..3072 * images).map(|i: usize| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let chip = MacroNetwork::new(&network, &hardware).expect("a network that fits");
        let reference = Reference::new(&network).expect("a valid network");
        let speed = |seconds: f64| images as f64 / seconds;
        let of_macros = speed(median(|| drop(black_box(chip.logits(&pictures).expect("sums in range")))));
        let of_reference = speed(median(|| drop(black_box(reference.logits(&pictures)))));
        let title = format!("{name} W{bits}A{bits} on {}", hardware.name);
        println!("{title:<40}{of_macros:>13.0}{of_reference:>20.0}");
    }
}

/// A network of the zoo with random weights.
fn network(name: &str, bits: u8, hardware: &Hardware) -> IntegerNetwork {
    let graph = Graph::new(zoo(name, 10).expect("a network of the zoo")).expect("a valid network");
    let quantize = QuantizeConfig { weight_bits: bits, activation_bits: bits, ..QuantizeConfig::default() };
    let mut weights = Weights::random(&graph, 0);
    let steps: Vec<(String, f32)> = weights
        .iter()
        .filter_map(|(name, array)| Some((name.strip_suffix(".weight")?, array)))
        .map(|(name, array)| {
            let largest = array.values.iter().fold(0.0f32, |largest, weight| largest.max(weight.abs()));
            (format!("{name}.weight_step"), largest / f32::from((1u8 << (bits - 1)) - 1))
        })
        .collect();
    let plan = BitPlan::new(&graph, &quantize);
    let outputs = graph.nodes().iter().zip(&plan.nodes).filter(|(node, _)| !matches!(node.op, Op::MaxPool { .. }));
    let outputs = outputs.filter_map(|(node, bits)| {
        let levels = (1u32 << bits.forms.first()?) - 1;
        Some((format!("{}.output_step", node.name), 4.0 / levels as f32))
    });
    for (name, step) in steps.into_iter().chain(outputs) {
        weights.insert(name, Array::vector(vec![step]));
    }
    let picture = PictureScale { zero_points: vec![124, 116, 104], std: vec![0.229, 0.224, 0.225] };
    let classes: Vec<String> = (0..10).map(|class| class.to_string()).collect();
    let options = FoldOptions { quantize: &quantize, picture: &picture, group: hardware.group, classes: &classes };
    fold(&graph, &weights, &options).expect("weights that fold")
}
