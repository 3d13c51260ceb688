//! Trains on images that a program made itself: gray, 12 x 12, three classes.
//!
//! ```text
//! cargo run --release --example own_images
//! ```

use mars::data::{Dataset, ImageShape, Split};
use mars::hardware::Hardware;
use mars::network::NetworkSpec;
use mars::train::{Phase, PhaseKind, Recipe, Training};

const SHAPE: ImageShape = ImageShape { channels: 1, height: 12, width: 12 };

/// Bright bars: lying, standing or leaning, at any place, on a dark ground with some noise.
fn bars(images: usize, seed: usize) -> Split {
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    let mut noise = seed;
    for image in 0..images {
        let (class, place) = (image % 3, image / 3 % SHAPE.width);
        for pixel in 0..SHAPE.len() {
            let (y, x) = (pixel / SHAPE.width, pixel % SHAPE.width);
            let along = [y, x, (x + y) % SHAPE.width][class];
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            pixels.push((noise >> 58) as u8 + if along == place { 180 } else { 20 });
        }
        labels.push(class as u16);
    }
    Split { shape: SHAPE, images: pixels.into(), labels }
}

fn network() -> NetworkSpec {
    let toml = r#"
        name = "bars"
        input = [1, 12, 12]
        classes = 3
        layers = [
            { op = "conv", name = "conv1", filters = 16, kernel = 3, padding = 1 },
            { op = "conv", name = "conv2", filters = 16, kernel = 3, padding = 1, stride = 2 },
            { op = "avg_pool", name = "pool" },
            { op = "linear", name = "classifier", filters = 3 },
        ]
    "#;
    toml::from_str(toml).expect("a valid description")
}

fn main() -> mars::Result<()> {
    let classes = ["lying", "standing", "leaning"].map(String::from).to_vec();
    let (train, test) = (bars(1200, 1), bars(300, 2));
    let validation = Split { shape: SHAPE, ..Split::default() };
    let data = Dataset { name: "bars".into(), classes, train, validation, test };
    let recipe = Recipe {
        batch_size: 32,
        // A bar that leans would be mirrored into one that leans the other way.
        augment: false,
        phases: vec![
            Phase::new(PhaseKind::Float, 4, 0.05),
            Phase::new(PhaseKind::Sparsify, 2, 0.02),
            Phase::new(PhaseKind::Quantize, 2, 0.01),
        ],
        ..Recipe::default()
    };
    let mut training = Training::new(recipe, network(), data, Hardware::mars())?;
    while let Some(epoch) = training.epoch()? {
        let accuracy = epoch.test_accuracy.unwrap_or(f64::NAN);
        println!("{:<9} {} loss {:.4} test {accuracy:.1} %", epoch.phase.name(), epoch.epoch, epoch.loss);
    }
    let package = training.package()?;
    println!("the package takes {} bytes", package.to_bytes()?.len());
    Ok(())
}
