//! What a run will cost, before it costs time.

use std::fmt::{Display, Formatter};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::Result;
use crate::report::text::count;
use crate::system::used_memory;
use crate::train::Training;

/// The last second of the year 9999, from 1970 on.
const LAST_SECOND: u64 = 253_402_300_799;
/// Steps that are measured, behind the first.
const STEPS: usize = 3;

/// What a run is expected to take.
#[derive(Clone, Debug, PartialEq)]
pub struct Forecast {
    /// For each phase its name, its epochs and the seconds of one; none where it has no epochs.
    pub phases: Vec<(&'static str, usize, Option<f64>)>,
    /// Memory that is in use after the steps, which keep theirs for the next ones, in bytes, where the system tells.
    pub memory: Option<u64>,
    /// Bytes of the run folder's checkpoints, the one that is being written among them, and of the network that it learns from.
    pub disk: u64,
    /// Whether groups are chosen by what they cost on the chip, which takes time that isn't measured.
    pub chooses_by_cost: bool,
    /// When it was measured.
    pub measured: SystemTime,
}

impl Forecast {
    /// Measures a few steps of each phase; the run folder has `teacher` bytes beside the checkpoints.
    ///
    /// # Errors
    /// A training that diverges, a network that cannot be exported.
    pub(super) fn measured(mut training: Training, teacher: u64) -> Result<Self> {
        let phases = training.recipe().phases.clone();
        let mut largest = 0;
        let measured = (0..).zip(&phases).map(|(number, phase)| {
            let seconds = training.measure_epoch(number, STEPS)?;
            largest = largest.max(training.checkpoint().bytes());
            Ok((phase.kind.name(), phase.epochs, seconds))
        });
        let measured = measured.collect::<Result<_>>()?;
        // The last one and the one that takes its place, and one for each phase.
        let checkpoints = 2 + phases.len() as u64;
        Ok(Self {
            phases: measured,
            memory: used_memory(),
            chooses_by_cost: training.recipe().chooses_by_cost(),
            disk: checkpoints * largest + teacher,
            measured: SystemTime::now(),
        })
    }

    /// Seconds of all epochs.
    pub fn seconds(&self) -> f64 {
        self.phases.iter().map(|(_, epochs, seconds)| *epochs as f64 * seconds.unwrap_or(0.0)).sum()
    }

    /// When the epochs end of a run that begins when this was measured; none where that is beyond the year 9999.
    pub fn end(&self) -> Option<SystemTime> {
        let end = self.measured.checked_add(Duration::try_from_secs_f64(self.seconds()).ok()?)?;
        end.duration_since(UNIX_EPOCH).is_ok_and(|end| end.as_secs() <= LAST_SECOND).then_some(end)
    }
}

impl Display for Forecast {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        for (name, epochs, seconds) in &self.phases {
            match seconds {
                Some(seconds) => writeln!(f, "{name:<9} {} of {}", count(*epochs, "epoch"), duration(*seconds))?,
                None => writeln!(f, "{name:<9} no epochs")?,
            }
        }
        let end = self.end().map(|end| format!(", to {} if it begins now", humantime::format_rfc3339_seconds(end)));
        let end = end.unwrap_or_default();
        let choice = if self.chooses_by_cost { "the choice of groups by their cost, " } else { "" };
        let together = duration(self.seconds());
        writeln!(f, "together  {together}{end}; beside it what {choice}export and the hardware model take")?;
        if let Some(bytes) = self.memory {
            writeln!(f, "memory    {}", size(bytes))?;
        }
        writeln!(f, "disk      {}", size(self.disk))
    }
}

fn duration(seconds: f64) -> String {
    match seconds {
        ..100.0 => format!("{seconds:.1} s"),
        100.0..6000.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}

/// Bytes for people.
pub(super) fn size(bytes: u64) -> String {
    const MIB: f64 = (1u64 << 20) as f64;
    match bytes as f64 {
        bytes @ ..1e9 => format!("{:.1} MiB", bytes / MIB),
        bytes => format!("{:.1} GiB", bytes / MIB / 1024.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_add_up() {
        let phases = vec![("float", 30, Some(60.0)), ("sparsify", 2, Some(90.5)), ("quantize", 0, None)];
        let (memory, disk, measured) = (Some(3 << 29), 5 << 20, SystemTime::UNIX_EPOCH);
        let text = Forecast { phases, memory, disk, chooses_by_cost: false, measured }.to_string();
        let expected = "float     30 epochs of 60.0 s\nsparsify  2 epochs of 90.5 s\nquantize  no epochs\n\
                        together  33 min, to 1970-01-01T00:33:01Z if it begins now; beside it what export and the hardware model take\n\
                        memory    1.5 GiB\ndisk      5.0 MiB\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn an_end_beyond_the_calendar_is_not_told() {
        // 31,700 years.
        let phases = vec![("float", 1_000_000_000, Some(1000.0))];
        let forecast =
            Forecast { phases, memory: None, disk: 0, chooses_by_cost: true, measured: SystemTime::UNIX_EPOCH };
        let text = forecast.to_string();
        assert!(!text.contains("if it begins now"), "{text}");
        assert!(text.contains("beside it what the choice of groups by their cost, export and"), "{text}");
    }
}
