//! A sweep in code: what a network costs on chips with more and more cores.
//!
//! ```text
//! cargo run --release --no-default-features --example sweep
//! ```

use std::path::Path;

use mars::hardware::{Evaluator, Hardware};
use mars::package::Package;

fn main() -> mars::Result<()> {
    let package = Package::read(Path::new("experiments/results/resnet20/w4a4/model.mars"))?;
    // What doesn't depend on the chip is worked out once.
    let evaluator = Evaluator::new(&package.network)?;
    println!("cores  macros a core    cycles  energy, uJ");
    for cores in [1, 2, 4, 8] {
        for macros_per_core in [1, 2, 4] {
            let hardware = Hardware { cores, macros_per_core, ..Hardware::mars() };
            let cost = evaluator.evaluate(&hardware)?.cost;
            println!("{cores:>5}{macros_per_core:>15}{:>10}{:>12.2}", cost.cycles, cost.energy_uj);
        }
    }
    Ok(())
}
