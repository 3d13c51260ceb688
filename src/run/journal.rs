//! What a run writes while it trains: checkpoints, and a line of `metrics.jsonl` for each epoch.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use crate::error::{Error, Result};
use crate::files::{read_if_present, write_atomically};
use crate::observer::{Observer, StopSignal};
use crate::run_folder::{CHECKPOINTS, LAST, METRICS};
use crate::train::{Budget, EpochReport, Event, PhaseKind, Position, ScalesFrom, SparsityConfig, StepReport, Training};

/// Follows a training into a run folder.
pub(super) struct Journal<'a> {
    folder: &'a Path,
    /// Name of the device that the training computes on.
    pub device: &'a str,
}

impl<'a> Journal<'a> {
    pub fn new(folder: &'a Path, device: &'a str) -> Self {
        Self { folder, device }
    }

    /// Runs the recipe to its end; false where the signal stopped it, with a checkpoint to go on from.
    ///
    /// # Errors
    /// A training that diverges (the last good checkpoint stays), a file that cannot be written.
    pub fn follow(&self, training: &mut Training, observer: &dyn Observer, stop: &StopSignal) -> Result<bool> {
        let ended = self.follow_events(training, observer, stop);
        if ended.is_err() {
            observer.ends(None);
        }
        ended
    }

    fn follow_events(&self, training: &mut Training, observer: &dyn Observer, stop: &StopSignal) -> Result<bool> {
        let mut shows_epoch = false;
        loop {
            if let Some((title, steps)) = training.next_epoch().filter(|_| !shows_epoch) {
                observer.begins(&title, steps, training.position().step);
                shows_epoch = true;
            }
            match training.advance()? {
                Event::PhaseBegan { float, scales, .. } => {
                    if let Some(float) = float {
                        let (images, accuracy) = (float.images, float.accuracy);
                        observer
                            .notice(&format!("float accuracy on {images} images before quantization: {accuracy:.2} %"));
                    }
                    match scales {
                        None => {}
                        Some(ScalesFrom::Checkpoint) => {
                            observer.notice("quantizers begin with the checkpoint's scales: their loss is lower than that of calibrated ones");
                        }
                        Some(ScalesFrom::Calibration) => {
                            observer.notice("quantizers begin with calibrated scales: their loss is not above that of the checkpoint's");
                        }
                    }
                    self.save(training)?;
                    if stop.is_stopped() {
                        return Ok(false);
                    }
                }
                Event::Step(report) => {
                    observer.advances(report.step, &|| step_line(&report));
                    if stop.is_stopped() {
                        training.check_finite()?;
                        observer.ends(Some("interrupted"));
                        self.save(training)?;
                        return Ok(false);
                    }
                }
                Event::Epoch(report) => {
                    observer.ends(Some(&epoch_line(&report)));
                    shows_epoch = false;
                    // On the disk before the checkpoint that counts it.
                    self.append(&report)?;
                    self.save(training)?;
                    if stop.is_stopped() {
                        return Ok(false);
                    }
                }
                Event::PhaseEnded { phase } => {
                    missed_target(training, phase).iter().for_each(|remark| observer.notice(remark));
                    // The last checkpoint is the phase's last state.
                    let last = self.folder.join(LAST);
                    let state = std::fs::read(&last).map_err(Error::io(&last))?;
                    let kind = training.recipe().phases[phase].kind.name();
                    write_atomically(
                        &self.folder.join(CHECKPOINTS).join(format!("{phase}-{kind}.safetensors")),
                        &state,
                    )?;
                    self.save(training)?;
                    if stop.is_stopped() {
                        return Ok(false);
                    }
                }
                Event::Finished => return Ok(true),
            }
        }
    }

    fn save(&self, training: &Training) -> Result<()> {
        let mut checkpoint = training.checkpoint();
        checkpoint.state.device = Some(self.device.into());
        checkpoint.save(&self.folder.join(LAST), training.graph())
    }

    fn append(&self, report: &EpochReport) -> Result<()> {
        let path = self.folder.join(METRICS);
        let line = serde_json::to_string(report).map_err(|error| Error::file(&path, error.to_string()))?;
        let file = OpenOptions::new().create(true).append(true).open(&path);
        file.and_then(|mut file| writeln!(file, "{line}").and_then(|()| file.sync_data())).map_err(Error::io(&path))
    }

    /// The lines of epochs that a checkpoint knows, without one that was cut off; none where there is no file. The checkpoint learns where lines are gone
    /// that it counts.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn known_metrics(&self, position: &mut Position) -> Result<Option<String>> {
        let Some(text) = read_if_present(&self.folder.join(METRICS))? else {
            position.metric_lines = 0;
            return Ok(None);
        };
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let lines: Vec<&str> = whole.take(position.metric_lines).collect();
        position.metric_lines = lines.len();
        Ok(Some(lines.concat()))
    }

    /// Replaces `metrics.jsonl`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_metrics(&self, lines: &str) -> Result<()> {
        write_atomically(&self.folder.join(METRICS), lines.as_bytes())
    }
}

fn step_line(report: &StepReport) -> String {
    let StepReport { epoch_loss, epoch_accuracy, images_per_second, .. } = report;
    format!("loss {epoch_loss:.4} accuracy {epoch_accuracy:.2} % {images_per_second:.0} images/s")
}

/// What to say where a sparsify phase leaves more zero than it was to, or less: by a percent, or by more than rounding to whole groups.
fn missed_target(training: &Training, phase: usize) -> Option<String> {
    let (recipe, zero) = (training.recipe(), training.masked_share());
    let SparsityConfig { lambda, budget, target, .. } = recipe.sparsity;
    let counts_groups = matches!(budget, Budget::Groups | Budget::GroupsPerLayer);
    if recipe.phases[phase].kind != PhaseKind::Sparsify || !counts_groups {
        return None;
    }
    // The shares are rounded themselves.
    let rounding = training.group_rounding() + 1e-9;
    let why = if zero > target + rounding {
        let penalty =
            if lambda > 0.0 { format!(", or became so by sparsity.lambda = {lambda}") } else { String::new() };
        format!("more were so, or have filters that give constants{penalty}")
    } else if zero < target - rounding {
        "each layer keeps a group, and layers of few groups stay below it".into()
    } else {
        return None;
    };
    Some(format!(
        "{:.1} % of the groups are zero, sparsity.target = {target} asks for {:.1} %: {why}",
        100.0 * zero,
        100.0 * target
    ))
}

fn epoch_line(report: &EpochReport) -> String {
    let measured = |name: &str, accuracy: Option<f64>| {
        accuracy.map(|accuracy| format!(" {name} {accuracy:.2} %")).unwrap_or_default()
    };
    format!(
        "loss {:.4} train {:.2} %{}{} zero groups {:.1} % {:.0} images/s {:.0} s",
        report.loss,
        report.train_accuracy,
        measured("validation", report.validation_accuracy),
        measured("test", report.test_accuracy),
        100.0 * report.group_sparsity,
        report.images_per_second,
        report.seconds
    )
}
