//! A loop of one's own around the step: it stops where the loss hasn't fallen for a while, and goes on from a checkpoint in memory.
//!
//! ```text
//! cargo run --release --example own_loop
//! ```

use mars::data::{DataOptions, Dataset};
use mars::hardware::Hardware;
use mars::network::zoo;
use mars::train::{Event, Phase, PhaseKind, Recipe, Training};

/// Steps without a new least loss after which the loop gives up.
const PATIENCE: usize = 15;

fn main() -> mars::Result<()> {
    let data = Dataset::load("cifar10-mini", &DataOptions::default())?;
    let network = zoo("resnet20", data.classes.len()).expect("a network of the zoo");
    let phase = Phase { warmup_epochs: 0.5, ..Phase::new(PhaseKind::Float, 3, 0.1) };
    let recipe = Recipe { phases: vec![phase, Phase::new(PhaseKind::Quantize, 0, 0.01)], ..Recipe::default() };
    let mut training = Training::new(recipe.clone(), network.clone(), data.clone(), Hardware::mars())?;
    let (mut least, mut since, mut steps) = (f64::INFINITY, 0, 0);
    loop {
        match training.advance()? {
            Event::PhaseBegan { phase, .. } => println!("phase {phase} begins"),
            Event::Step(step) => {
                steps += 1;
                since += 1;
                if step.epoch_loss < least {
                    (least, since) = (step.epoch_loss, 0);
                }
                if since > PATIENCE {
                    println!("step {steps}: no progress for {PATIENCE} steps");
                    break;
                }
            }
            Event::Epoch(epoch) => {
                println!("epoch {}: loss {:.4}, train {:.1} %", epoch.epoch, epoch.loss, epoch.train_accuracy);
            }
            Event::PhaseEnded { phase } => println!("phase {phase} ends"),
            Event::Finished => break,
        }
    }
    // A checkpoint holds everything: the same steps follow, bit for bit.
    let checkpoint = training.checkpoint();
    let again = Training::new(recipe, network, data, Hardware::mars())?;
    let mut again = again.resumed(checkpoint).expect("a checkpoint of the same recipe");
    let [first, second] = [training.step()?, again.step()?].map(|step| step.map(|step| step.loss));
    assert_eq!(first, second);
    println!("least loss {least:.4}; the next step's is {first:?} in both");
    Ok(())
}
