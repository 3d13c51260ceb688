//! What a training that diverged says.

use std::fmt::{Display, Formatter};

/// Where a training diverged, and how that shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diverged {
    /// Number of the phase in the recipe, from 0.
    pub phase: usize,
    /// Number of the epoch in the phase, from 1.
    pub epoch: usize,
    /// Number of the step in the epoch, from 1.
    pub step: usize,
    /// The layer, where one is to blame.
    pub layer: Option<String>,
    /// What shows it.
    pub what: String,
    /// Whether the run has a checkpoint from before.
    pub resumable: bool,
}

impl Display for Diverged {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { phase, epoch, step, layer, what, resumable } = self;
        if let Some(layer) = layer {
            write!(f, "layer `{layer}`: ")?;
        }
        write!(f, "{what} in phase {phase}, epoch {epoch}, step {step}: ")?;
        if (*epoch, *step) == (1, 1) {
            // Nothing has moved yet, or once: a lower rate may not help.
            return write!(
                f,
                "look at the images (normalization) and at what the phase begins with, or lower phases.{phase}.learning_rate"
            );
        }
        write!(f, "lower phases.{phase}.learning_rate")?;
        match resumable {
            true => write!(f, " in the run's recipe.toml and go on from the last good checkpoint with --resume"),
            false => Ok(()),
        }
    }
}

impl std::error::Error for Diverged {}
