//! What a run will cost, before it costs time.

use std::fmt::{Display, Formatter};

use crate::error::Result;
use crate::train::Training;

/// Steps that are measured, behind the first.
const STEPS: usize = 3;

/// What a run is expected to take.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// For each phase its name, its epochs and the seconds of one; none where it has no epochs.
    pub phases: Vec<(&'static str, usize, Option<f64>)>,
    /// Most memory so far, in bytes, where the system tells.
    pub memory: Option<u64>,
}

impl Estimate {
    /// Measures a few steps of each phase.
    ///
    /// # Errors
    /// A training that diverges, a network that cannot be exported.
    pub(super) fn measured(mut training: Training) -> Result<Self> {
        let phases = training.recipe().phases.clone();
        let phases = (0..)
            .zip(phases)
            .map(|(number, phase)| Ok((phase.kind.name(), phase.epochs, training.measure_epoch(number, STEPS)?)));
        Ok(Self { phases: phases.collect::<Result<_>>()?, memory: peak_memory() })
    }

    /// Seconds of all epochs.
    pub fn seconds(&self) -> f64 {
        self.phases.iter().map(|(_, epochs, seconds)| *epochs as f64 * seconds.unwrap_or(0.0)).sum()
    }
}

impl Display for Estimate {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        for (name, epochs, seconds) in &self.phases {
            match seconds {
                Some(seconds) => writeln!(f, "{name:<9} {epochs} epochs of {}", duration(*seconds))?,
                None => writeln!(f, "{name:<9} no epochs")?,
            }
        }
        writeln!(f, "together  {}, and what export and the hardware model take", duration(self.seconds()))?;
        match self.memory {
            Some(bytes) => writeln!(f, "memory    {:.1} GiB", bytes as f64 / (1u64 << 30) as f64),
            None => Ok(()),
        }
    }
}

fn duration(seconds: f64) -> String {
    match seconds {
        ..100.0 => format!("{seconds:.1} s"),
        100.0..6000.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}

/// Most memory that this process has had, in bytes, as Linux tells it.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(1024 * line.trim().split(' ').next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_add_up() {
        let phases = vec![("float", 30, Some(60.0)), ("sparsify", 2, Some(90.5)), ("quantize", 0, None)];
        let text = Estimate { phases, memory: Some(3 << 29) }.to_string();
        let expected = "float     30 epochs of 60.0 s\nsparsify  2 epochs of 90.5 s\nquantize  no epochs\n\
                        together  33 min, and what export and the hardware model take\nmemory    1.5 GiB\n";
        assert_eq!(text, expected);
    }
}
