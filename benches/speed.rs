//! Speed of what people wait for.
//!
//! * `cargo bench`: everything below;
//! * `cargo bench --bench speed -- convolutions`: each convolution of ResNet-20, VGG16 and ResNet18, forward and backward;
//! * `cargo bench --bench speed -- step NET BATCH MODE`, with MODE `float`, `w4a4-FUSION` or `inference`: a training step (batch,
//!   augmentation, forward, backward, optimizer) or a forward pass, and one line of JSON that `benches/peers/compare.py` reads;
//! * `cargo bench --bench speed -- executions`: the integer reference and the macro model;
//! * `cargo bench --bench speed -- peak`: what the machine gives a matrix product, as one line of JSON.
//!
//! Medians; random weights; GFLOP/s count the products and sums of the plain algorithm, whatever is computed: Winograd's algorithm does a
//! quarter of them, so that a share of the peak may be above 1.

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use gemmkit::{MatMut, MatRef, Parallelism};
use mars::data::{DataOptions, Dataset};
use mars::engine::{ConvOptions, Norm, conv_block};
use mars::hardware::{Hardware, MacroNetwork, evaluate};
use mars::integer::{BitPlan, FoldOptions, Fusion, ImageScale, IntegerNetwork, QuantizeConfig, Reference, fold};
use mars::network::{Array, Conv, Graph, NetworkSpec, Op, Params, Weights, Window, zoo};
use mars::train::{Allocator, Phase, PhaseKind, Recipe, Training, inference_seconds, keep_memory};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

const REPEATS: usize = 9;
const WARM_UP: usize = 3;
const USAGE: &str = "arguments: [convolutions | executions | peak | step NET BATCH float|w4a4-FUSION|inference]";
const QUANTIZED: [(&str, Fusion); 3] =
    [("w4a4-frozen", Fusion::Frozen), ("w4a4-ema", Fusion::Ema), ("w4a4-batch", Fusion::Batch)];

fn main() {
    keep_memory();
    // Cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => {
            convolutions();
            for (net, batch) in [("resnet20", 128), ("vgg16", 64), ("resnet18", 64), ("vgg8", 128)] {
                let quantized = QUANTIZED.map(|(mode, _)| mode);
                for mode in ["float", "inference"].into_iter().chain(quantized) {
                    step(net, batch, mode);
                }
            }
            executions();
        }
        ["convolutions"] => convolutions(),
        ["executions"] => executions(),
        ["peak"] => println!("{{\"peak_gflops\":{:.1}}}", peak()),
        ["step", net, batch, mode] => step(net, batch.parse().expect(USAGE), mode),
        _ => panic!("{USAGE}"),
    }
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

/// Median seconds of `run` after a warm-up.
fn time(mut run: impl FnMut()) -> f64 {
    run();
    let once = || {
        let started = Instant::now();
        run();
        started.elapsed().as_secs_f64()
    };
    median(std::iter::repeat_with(once).take(REPEATS).collect())
}

/// GFLOP/s of the machine on all threads: the fastest of some products of 1024 x 1024 matrices by a library that takes the widest
/// instructions there are.
fn peak() -> f64 {
    const SIZE: usize = 1024;
    let [left, right] = [0.5f32, 0.25].map(|value| vec![value; SIZE * SIZE]);
    let mut product = vec![0.0; SIZE * SIZE];
    let product_seconds = || {
        let [left, right] = [&left, &right].map(|values| MatRef::from_row_major(values, SIZE, SIZE));
        let started = Instant::now();
        gemmkit::gemm(1.0, left, right, 0.0, MatMut::from_row_major(&mut product, SIZE, SIZE), Parallelism::Rayon(0));
        started.elapsed().as_secs_f64()
    };
    let fastest = std::iter::repeat_with(product_seconds).take(4 * REPEATS).fold(f64::INFINITY, f64::min);
    2.0 * (SIZE as f64).powi(3) / fastest / 1e9
}

fn graph(name: &str) -> Graph {
    Graph::new(zoo(name, 10).unwrap_or_else(|| panic!("there is no network `{name}`"))).expect("a valid network")
}

fn convolutions() {
    let peak = peak();
    println!("peak of the machine: {peak:.1} GFLOP/s\n");
    println!("{:<44}{:>32}{:>32}", "convolutions", "forward, share of the peak", "backward, share of the peak");
    let device = Device::flex().autodiff();
    for (name, batch) in [("resnet20", 128), ("vgg16", 64), ("resnet18", 64)] {
        let mut seen = Vec::new();
        for Conv { shape: conv, .. } in graph(name).convs() {
            if seen.contains(&conv) {
                continue;
            }
            seen.push(conv);
            let map = conv.input;
            let x = Tensor::<4>::random([batch, map.height, map.width, map.channels], Distribution::Default, &device);
            let [height, width] = conv.window.kernel;
            let shape = [conv.filters(), conv.depth(), height, width];
            let w = Tensor::<4>::random(shape, Distribution::Default, &device).require_grad();
            // The first layer's input needs no gradient.
            let x = if map.channels > 3 { x.require_grad() } else { x };
            let run = || {
                let bias = Norm::Bias(Tensor::zeros([conv.filters()], &device));
                let Window { stride, padding, .. } = conv.window;
                let options = ConvOptions { stride, padding, dilation: conv.dilation, groups: conv.groups };
                conv_block(x.clone(), w.clone(), options, bias, None, false).value
            };
            let forward = time(|| drop(black_box(run())));
            let both = time(|| drop(black_box(run().sum().backward())));
            let flops = 2.0 * (conv.macs() * batch as u64) as f64 / 1e9;
            let of_backward = if map.channels > 3 { 2.0 } else { 1.0 } * flops;
            let title = format!(
                "{name} {batch} x {}x{}x{} -> {} {height}x{width}/{}",
                map.channels,
                map.height,
                map.width,
                conv.filters(),
                conv.window.stride[0]
            );
            println!(
                "{title:<44}{}{}",
                pass(forward, flops / forward, peak),
                pass(both - forward, of_backward / (both - forward), peak)
            );
        }
    }
}

/// One pass of a convolution as columns of its line.
fn pass(seconds: f64, gflops: f64, peak: f64) -> String {
    format!("{:>9.2} ms {gflops:>6.1} GFLOP/s {:>5.2}", 1e3 * seconds, gflops / peak)
}

/// A training step or a forward pass, as one line of JSON.
fn step(net: &str, batch: usize, mode: &str) {
    let fusion = QUANTIZED.iter().find(|(name, _)| *name == mode).map(|(_, fusion)| *fusion);
    let kind = if fusion.is_some() { PhaseKind::Quantize } else { PhaseKind::Float };
    let fusion = fusion.unwrap_or_default();
    let mut phases = vec![Phase::new(kind, WARM_UP + REPEATS, 0.001)];
    if kind == PhaseKind::Float {
        // A recipe ends with what is deployed; no step gets there.
        phases.push(Phase::new(PhaseKind::Quantize, 0, 0.001));
    }
    let recipe = Recipe {
        model: net.into(),
        batch_size: batch,
        quantize: QuantizeConfig { weight_bits: 4, activation_bits: 4, fusion, ..QuantizeConfig::default() },
        phases,
        ..Recipe::default()
    };
    let dataset = Dataset::load("cifar10-mini", &DataOptions::default()).expect("the embedded data set");
    let spec = zoo(net, dataset.classes.len()).expect("a network of the zoo");
    let seconds = match mode {
        "inference" => inference_seconds(&recipe, spec, &dataset, &Device::flex(), WARM_UP + REPEATS),
        _ if mode == "float" || kind == PhaseKind::Quantize => step_seconds(recipe, spec, dataset),
        _ => panic!("{USAGE}"),
    };
    let seconds = seconds.expect("a network that fits");
    let speed = batch as f64 / median(seconds[WARM_UP..].to_vec());
    let passes = if mode == "inference" { 2.0 } else { 6.0 };
    let gflops = passes * graph(net).macs() as f64 * speed / 1e9;
    // Before the product's matrices.
    let memory = peak_memory_mib();
    println!(
        "{{\"net\":\"{net}\",\"mode\":\"{mode}\",\"batch\":{batch},\"threads\":{},\"images_per_second\":{speed:.1},\
         \"gflops\":{gflops:.1},\"share_of_peak\":{:.2},\"peak_rss_mib\":{memory}}}",
        rayon::current_num_threads(),
        gflops / peak()
    );
}

/// Seconds of each training step from random weights: batch, augmentation, forward, backward, optimizer.
fn step_seconds(recipe: Recipe, network: NetworkSpec, dataset: Dataset) -> mars::Result<Vec<f64>> {
    let batch = recipe.batch_size;
    let mut training = Training::new(recipe, network, dataset, Hardware::mars())?;
    let mut seconds = Vec::new();
    while seconds.len() < WARM_UP + REPEATS {
        let step = training.step()?.expect("the recipe has more steps");
        // The last step of an epoch may have fewer images.
        if step.images == batch {
            seconds.push(step.seconds);
        }
    }
    Ok(seconds)
}

/// Largest resident memory of this process so far; 0 where the system doesn't tell.
fn peak_memory_mib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok()).unwrap_or(0) / 1024
}

/// The macro model and the integer reference, with what the macros did in a second: partial sums, each seen by a converter, and products
/// of single bits on the word lines that are on.
fn executions() {
    println!(
        "\nexecutions, images/s                            macro   integer reference   partial sums/s   bit-MAC/s"
    );
    let adc5 = Hardware::load(Path::new("experiments/hardware/adc5.toml")).expect("a shipped hardware file");
    for (name, bits, count, hardware) in
        [("resnet20", 4, 1000, Hardware::mars()), ("vgg16", 8, 50, Hardware::mars()), ("resnet20", 4, 100, adc5)]
    {
        let network = network(name, bits, &hardware);
        let images: Vec<u8> = (0..3072 * count).map(|i: usize| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let chip = MacroNetwork::new(&network, &hardware).expect("a network that fits");
        let reference = Reference::new(&network).expect("a valid network");
        let speed = |seconds: f64| count as f64 / seconds;
        let of_macros = speed(time(|| drop(black_box(chip.logits(&images).expect("sums in range")))));
        let of_reference = speed(time(|| drop(black_box(reference.logits(&images)))));
        let evaluation = evaluate(&network, &hardware).expect("a network that fits");
        let layers = evaluation.layers.iter().filter(|layer| layer.mapping.is_some());
        let [mut partial_sums, mut bit_macs] = [0.0; 2];
        for (layer, (_, conv)) in layers.zip(network.convs()) {
            let precision = hardware.precision(conv.weight_bits, conv.input_bits).expect("weights that fit");
            let outputs = (layer.accesses * precision.outputs as u64) as f64;
            partial_sums += outputs * (precision.slices * precision.phases) as f64;
            let bits = u32::from(precision.weight_bits) * u32::from(conv.input_bits);
            bit_macs += outputs * hardware.rows_on as f64 * f64::from(bits);
        }
        let title = format!("{name} W{bits}A{bits} on {}", hardware.name);
        let [partial_sums, bit_macs] = [partial_sums, bit_macs].map(|of_image| of_macros * of_image);
        println!("{title:<40}{of_macros:>13.0}{of_reference:>20.0}{partial_sums:>17.2e}{bit_macs:>12.2e}");
    }
}

/// A network of the zoo with random weights.
fn network(name: &str, bits: u8, hardware: &Hardware) -> IntegerNetwork {
    let graph = graph(name);
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
    let outputs = graph.nodes().iter().zip(&plan.nodes).filter(|(node, _)| !matches!(node.op, Op::SameScale(_)));
    let outputs = outputs.filter_map(|(node, bits)| {
        let levels = (1u32 << bits.forms.first()?) - 1;
        Some((format!("{}.output_step", node.name), 4.0 / levels as f32))
    });
    for (name, step) in steps.into_iter().chain(outputs) {
        weights.insert(name, Array::vector(vec![step]));
    }
    let image_scale = ImageScale { zero_points: vec![124, 116, 104], std: vec![0.229, 0.224, 0.225] };
    let classes: Vec<String> = (0..10).map(|class| class.to_string()).collect();
    let options =
        FoldOptions { quantize: &quantize, image_scale: &image_scale, group: hardware.group, classes: &classes };
    let params = Params::from_arrays(&graph, &weights).expect("the arrays of the network");
    fold(&graph, &params, &options).expect("weights that fold")
}
