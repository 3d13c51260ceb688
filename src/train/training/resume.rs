//! A training as a checkpoint, and one that goes on from a checkpoint.

use super::Training;
use crate::network::Array;
use crate::simd::Arithmetic;
use crate::train::checkpoint::{Checkpoint, Position, State};
use crate::train::model::to_arrays;
use crate::train::optimizer::{Average, Sgd};
use crate::train::recipe::{Phase, PhaseKind, Recipe};
use crate::train::tensors::{to_device, to_host};

impl Training {
    /// The same from a checkpoint on: it goes on bit for bit as if it had never stopped.
    ///
    /// # Errors
    /// Says what of the checkpoint doesn't fit the recipe or the chip.
    pub fn resumed(mut self, checkpoint: Checkpoint) -> std::result::Result<Self, String> {
        let Checkpoint { params, momentum, average, kept, saliency, float, state } = checkpoint;
        let State { position, recipe, .. } = state;
        self.check_position(&position)?;
        recipe.map_or(Ok(()), |before| check_recipe(&before, &self.recipe, &position))?;
        self.model = self.model(&params);
        let place = |array: Array| to_device(&array.values, &self.model.device);
        self.optimizer = Sgd { momentum: momentum.map(|_, array| array.map(place)) };
        self.average = average.map(|average| Average { params: average.map(|_, array| place(array)) });
        if let Some(phase) = self.recipe.phases.get(position.phase).filter(|_| position.begun)
            && phase.average_decay.is_some()
            && self.average.is_none()
            && position.epoch < phase.epochs
        {
            return Err(format!(
                "phases.{0} has ended with the average of its weights: phases.{0}.epochs stays {1}, what is to come may change",
                position.phase, position.epoch
            ));
        }
        self.pruner.restore(kept, saliency)?;
        let kind = self.recipe.phases.get(position.phase).map(|phase| phase.kind);
        if position.begun && kind == Some(PhaseKind::Quantize) && !self.model.params.has_scales() {
            return Err(
                "it ends in a phase of another kind than the recipe's: what has begun stays in recipe.toml as it was"
                    .into(),
            );
        }
        (self.position, self.float) = (position, float);
        Ok(self)
    }

    /// Everything that is needed to go on from here.
    pub fn checkpoint(&self) -> Checkpoint {
        let momentum = self.optimizer.momentum.as_ref().map(|id, momentum| {
            let values = to_host(momentum.clone()?);
            Some(Array { shape: id.shape(&self.graph, values.len()), values })
        });
        Checkpoint {
            params: self.model.params_on_host(),
            momentum,
            average: self.average.as_ref().map(|average| to_arrays(&average.params, &self.graph)),
            kept: self.pruner.kept(),
            saliency: self.pruner.saliency(),
            float: self.float.clone(),
            state: State {
                position: self.position.clone(),
                arithmetic: Some(Arithmetic::here()),
                device: None,
                recipe: Some(Box::new(self.recipe.clone())),
            },
        }
    }

    /// Refuses a position that the recipe and the data don't have.
    fn check_position(&self, position: &Position) -> std::result::Result<(), String> {
        let Position { phase, begun, epoch, step, tally, metric_lines, .. } = *position;
        let epochs = |phases: &[Phase]| -> usize { phases.iter().map(|phase| phase.epochs).sum() };
        let phases = &self.recipe.phases;
        let ours = match phases.get(phase) {
            Some(current) if begun => {
                epoch < current.epochs && step <= self.steps_per_epoch() || epoch == current.epochs && step == 0
            }
            Some(_) => epoch == 0 && step == 0,
            None => phase == phases.len() && !begun && epoch == 0 && step == 0,
        };
        // A power cut may have taken lines of metrics, of which none is made twice.
        let done = epochs(&phases[..phase.min(phases.len())]).saturating_add(epoch);
        let counted = metric_lines <= done && tally.correct <= tally.images;
        let fewer = phases.get(phase).map(|current| current.epochs).filter(|epochs| begun && epoch > *epochs);
        if let Some(epochs) = fewer {
            return Err(format!(
                "phases.{phase}.epochs is {epochs}, and {epoch} are done: it cannot be less than that"
            ));
        }
        match ours && counted && tally.images <= self.data.train.labels.len() {
            true => Ok(()),
            false => Err(format!(
                "its position (phase {phase}, epoch {epoch}, step {step}) is none of this recipe and data: what has begun stays in recipe.toml as it was"
            )),
        }
    }
}

/// Refuses a recipe `now` that says something else than `before` of what has run. Where files lie, and what is to come, may change.
pub(crate) fn check_recipe(before: &Recipe, now: &Recipe, position: &Position) -> std::result::Result<(), String> {
    let begun = &before.phases[..before.phases.len().min(position.phase + usize::from(position.begun))];
    let has_run = |kinds: &[PhaseKind]| begun.iter().any(|phase| kinds.contains(&phase.kind));
    let may_change = |key: &str| match key {
        // Their content is compared on its own; phases are below.
        "dataset" | "hardware" | "model" | "evaluate_every" | "phases" => true,
        // Groups that are zero were kept so from the start, or not.
        "sparsity" => {
            let is_kept = before.sparsity.keep_zero_groups == now.sparsity.keep_zero_groups;
            !has_run(&[PhaseKind::Sparsify]) && (is_kept || begun.is_empty())
        }
        "quantize" | "calibration_images" => !has_run(&[PhaseKind::Sparsify, PhaseKind::Quantize]),
        _ => begun.is_empty(),
    };
    let table = |recipe: &Recipe| toml::Table::try_from(recipe).map_err(|error| error.to_string());
    let (before_keys, keys) = (table(before)?, table(now)?);
    let changed = |key: &&String| before_keys.get(*key) != keys.get(*key) && !may_change(key);
    if let Some(key) = before_keys.keys().chain(keys.keys()).find(changed) {
        return Err(format!("`{key}` of recipe.toml is another one than what has run had: put it back"));
    }
    let phases = now.phases.iter().map(Some).chain(std::iter::repeat(None));
    for (index, (before, now)) in before.phases.iter().zip(phases).enumerate() {
        let is_over = index < position.phase;
        let is_under_way = index == position.phase && position.begun;
        // An average is of all steps of its phase or of none.
        let fixed = |phase: &Phase| (phase.kind, phase.average_decay);
        let ended_early = |phase: &&Phase| phase.epochs == position.epoch && before.epochs > position.epoch;
        if let Some(phase) = now.filter(|_| is_under_way).filter(ended_early) {
            return Err(format!(
                "phases.{index}.epochs is {0}, and as many are done: what ends a phase comes with its last epoch, so that {1} is the least now",
                phase.epochs,
                phase.epochs + 1
            ));
        }
        if is_over && now != Some(before) || is_under_way && now.map(fixed) != Some(fixed(before)) {
            return Err(format!(
                "phases.{index} of recipe.toml has run otherwise: put it back, what is to come may change"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::recipe::SparsityConfig;

    fn recipe(epochs: usize) -> Recipe {
        let phases = vec![Phase::new(PhaseKind::Float, epochs, 0.1), Phase::new(PhaseKind::Quantize, 1, 0.01)];
        Recipe { phases, ..Recipe::default() }
    }

    /// The end of a phase takes its average and freezes its groups: it comes with the last epoch, and isn't made up for later.
    #[test]
    fn a_phase_ends_with_an_epoch_that_is_still_to_come() {
        let position = Position { begun: true, epoch: 2, ..Position::default() };
        let error = check_recipe(&recipe(5), &recipe(2), &position).unwrap_err();
        assert!(error.starts_with("phases.0.epochs is 2") && error.ends_with("3 is the least now"), "{error}");
        for epochs in [3, 5, 9] {
            check_recipe(&recipe(5), &recipe(epochs), &position).unwrap();
        }
        // One that has ended.
        check_recipe(&recipe(2), &recipe(2), &position).unwrap();
    }

    /// Which groups stay zero is decided before the first phase, how many are to be zero in those that sparsify.
    #[test]
    fn zero_groups_are_kept_from_the_start_or_not() {
        let position = Position { begun: true, ..Position::default() };
        let now = |change: fn(&mut SparsityConfig)| {
            let mut now = recipe(5);
            change(&mut now.sparsity);
            check_recipe(&recipe(5), &now, &position)
        };
        now(|sparsity| sparsity.target = 0.25).unwrap();
        assert!(
            now(|sparsity| sparsity.keep_zero_groups = false).unwrap_err().starts_with("`sparsity` of recipe.toml")
        );
    }
}
