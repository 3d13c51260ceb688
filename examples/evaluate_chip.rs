//! Reads a package, runs some images on two chips, and says what a frame costs there.
//!
//! ```text
//! cargo run --release --no-default-features --example evaluate_chip
//! ```

use std::path::Path;

use mars::data::{DataOptions, Dataset};
use mars::hardware::Hardware;
use mars::observer::Silent;
use mars::package::Package;
use mars::validation::validate;

const IMAGES: usize = 100;

fn main() -> mars::Result<()> {
    let package = Package::read(Path::new("experiments/results/resnet20/w4a4/model.mars"))?;
    let test = Dataset::load("cifar10-mini", &DataOptions::default())?.test;
    for hardware in [Hardware::mars(), Hardware::load(Path::new("experiments/hardware/adc5.toml"))?] {
        let deployment = validate(&package, &hardware, &test, Some(IMAGES), &Silent)?;
        println!(
            "{:<5} {:.1} % of {IMAGES} images right ({:.1} % without losses), {} cycles and {:.2} uJ a frame",
            hardware.name,
            deployment.accuracy.macro_model,
            deployment.accuracy.integer,
            deployment.evaluation.cost.cycles,
            deployment.evaluation.cost.energy_uj
        );
    }
    Ok(())
}
