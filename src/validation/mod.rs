//! Validation of a package on a data set: integer reference against the macro model, accuracy and cost; and what each layer stores for an image.

mod images;
mod vectors;

use std::path::Path;

use serde::{Deserialize, Serialize};

use self::images::check_images;
pub use self::vectors::{Vector, Vectors, vectors};
use crate::data::{Batches, Split};
use crate::error::{Error, Result};
use crate::files::to_json;
use crate::hardware::{Evaluation, Hardware, MacroNetwork, PartialSumsOfNetwork, evaluate};
use crate::integer::{IntegerNetwork, Reference, predict};
use crate::observer::{Observer, StopSignal, Work};
use crate::package::Package;

/// Images that run at a time.
const BATCH: usize = 200;
/// Classes from which on accuracy among the five best guesses is told, as CIFAR-100's and ImageNet's papers do.
const TOP5_CLASSES: usize = 50;

/// What `deploy.json` holds.
#[derive(Clone, Debug, Serialize)]
pub struct Deployment {
    /// Name of the network.
    pub network: String,
    /// Images that were run.
    pub images: usize,
    /// SHA-256 of the whole test split.
    pub data_sha256: String,
    /// Name of the data set, where the caller says it.
    #[serde(skip)]
    pub dataset: Option<String>,
    /// Shares of right predictions, in percent; null where not known.
    pub accuracy: Accuracy,
    /// Images or logits in which two executions differ; null where one is missing.
    pub mismatches: Mismatches,
    /// What it costs.
    #[serde(flatten)]
    pub evaluation: Evaluation,
    /// The package, for the report.
    #[serde(skip)]
    pub package: Package,
}

/// Accuracy of each execution, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Accuracy {
    /// The float network before quantization.
    pub float: Option<f64>,
    /// Through the tensor library, from the checkpoint.
    pub fake_quant: Option<f64>,
    /// The integer reference, from the package.
    pub integer: f64,
    /// The macro model, access by access.
    #[serde(rename = "macro")]
    pub macro_model: f64,
    /// Share of images whose class is among the five largest logits of the macro model, where there are classes enough for that to say something.
    #[serde(rename = "macro_top5", skip_serializing_if = "Option::is_none")]
    pub macro_model_top5: Option<f64>,
}

/// Where executions differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mismatches {
    /// Images.
    pub fake_quant_vs_integer_predictions: Option<usize>,
    /// Logits.
    pub integer_vs_macro_logits: usize,
    /// Images.
    pub fake_quant_vs_macro_predictions: Option<usize>,
}

/// Whether the executions agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// All of them, on every prediction and logit.
    All,
    /// Integer reference and macro model; fake-quant predictions for these images are missing.
    Partly,
    /// Fake-quant and the macro model, whose chip loses something.
    OnChip,
    /// All but the macro model, whose chip loses something.
    Lossy,
    /// Nobody knows of fake-quant predictions for these images; the macro model's chip loses something.
    LossyPartly,
    /// Fake-quant predictions are those of another chip, which loses something.
    OtherChip,
    /// Some differ that shouldn't.
    No,
}

/// Runs the first `images` test images (all for `None`) through both executions.
///
/// # Errors
/// A network that doesn't fit the hardware; a partial sum beyond the converter's range; images of another shape.
pub fn validate(
    package: &Package,
    hardware: &Hardware,
    test: &Split,
    images: Option<usize>,
    observer: &dyn Observer,
) -> Result<Deployment> {
    let deployment = validate_until(package, hardware, test, images, observer, &StopSignal::default())?;
    Ok(deployment.expect("nobody stops it"))
}

/// The same, or nothing where it is stopped before its end.
///
/// # Errors
/// Those of [`validate`].
pub fn validate_until(
    package: &Package,
    hardware: &Hardware,
    test: &Split,
    images: Option<usize>,
    observer: &dyn Observer,
    stop: &StopSignal,
) -> Result<Option<Deployment>> {
    let network = &package.network;
    let evaluation = evaluate(network, hardware)?;
    let images = check_images(network, test, images)?;
    let reference = Reference::new(network)?;
    let chip = MacroNetwork::new(network, hardware)?;
    let work = Work::begin(observer, "validating", images);
    let classes = network.classes.len();
    let (mut integer, mut macros, mut logit_mismatches, mut among_five) = (Vec::new(), Vec::new(), 0, 0);
    for batch in Batches::in_order(test, BATCH).first(images) {
        if stop.is_stopped() {
            return Ok(None);
        }
        let expected = reference.logits(&batch.images);
        let found = chip.run(integer.len(), &batch.images)?.logits;
        logit_mismatches += expected.iter().zip(&found).filter(|(a, b)| a != b).count();
        let labels = found.chunks(classes).zip(&batch.labels);
        among_five += labels.filter(|(logits, label)| place(logits, usize::from(**label)) < 5).count();
        integer.extend(predictions(&expected, classes));
        macros.extend(predictions(&found, classes));
        work.advances(integer.len());
    }
    drop(work);
    let data_sha256 = test.sha256();
    let known = package.predictions.as_ref();
    let fake_quant = known.filter(|known| known.data_sha256 == data_sha256 && known.classes.len() == test.len());
    let fake_quant = fake_quant.map(|predictions| &predictions.classes[..images]);
    let differences = |a: &[u16], b: &[u16]| a.iter().zip(b).filter(|(a, b)| a != b).count();
    // The float network's accuracy is known for the whole split only.
    let same_data = package.provenance.data_sha256 == data_sha256 && images == test.len();
    Ok(Some(Deployment {
        network: network.graph.spec().name.clone(),
        images,
        accuracy: Accuracy {
            float: package.provenance.float_accuracy.filter(|_| same_data),
            fake_quant: fake_quant.map(|predictions| test.accuracy(predictions)),
            integer: test.accuracy(&integer),
            macro_model: test.accuracy(&macros),
            macro_model_top5: (classes >= TOP5_CLASSES).then(|| 100.0 * among_five as f64 / images as f64),
        },
        mismatches: Mismatches {
            fake_quant_vs_integer_predictions: fake_quant.map(|fake| differences(fake, &integer)),
            integer_vs_macro_logits: logit_mismatches,
            fake_quant_vs_macro_predictions: fake_quant.map(|fake| differences(fake, &macros)),
        },
        data_sha256,
        dataset: None,
        evaluation,
        package: package.clone(),
    }))
}

/// Accuracy of the macro model on the first `images` test images (all for `None`), in percent.
///
/// # Errors
/// Those of [`validate`].
pub(crate) fn macro_accuracy(
    network: &IntegerNetwork,
    hardware: &Hardware,
    test: &Split,
    images: Option<usize>,
) -> Result<f64> {
    let images = check_images(network, test, images)?;
    let logits = MacroNetwork::new(network, hardware)?.logits(&test.images[..images * test.shape.len()])?;
    let found: Vec<u16> = predictions(&logits, network.classes.len()).collect();
    Ok(test.accuracy(&found))
}

/// How the partial sums of a network are distributed over images.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartialSumsOnImages {
    /// Name of the network.
    pub network: String,
    /// Name of the hardware.
    pub hardware: String,
    /// Images that were run.
    pub images: usize,
    /// What the converters saw.
    #[serde(flatten)]
    pub partial_sums: PartialSumsOfNetwork,
}

/// How the partial sums of the first `images` test images (all for `None`) are distributed.
///
/// # Errors
/// Those of [`validate`].
pub fn partial_sums(
    network: &IntegerNetwork,
    hardware: &Hardware,
    test: &Split,
    images: Option<usize>,
    observer: &dyn Observer,
) -> Result<PartialSumsOnImages> {
    let images = check_images(network, test, images)?;
    let chip = MacroNetwork::new(network, hardware)?;
    let work = Work::begin(observer, "counting", images);
    let partial_sums = chip.partial_sums(&test.images[..images * test.shape.len()], |done| work.advances(done))?;
    drop(work);
    let (network, hardware) = (network.graph.spec().name.clone(), hardware.name.clone());
    Ok(PartialSumsOnImages { network, hardware, images, partial_sums })
}

fn predictions(logits: &[i32], classes: usize) -> impl Iterator<Item = u16> {
    logits.chunks(classes).map(|logits| predict(logits) as u16)
}

/// How many classes are guessed before one: those with a larger logit, and of equal ones those with a lower number.
fn place(logits: &[i32], class: usize) -> usize {
    let before = |(other, logit): &(usize, &i32)| **logit > logits[class] || **logit == logits[class] && *other < class;
    logits.iter().enumerate().filter(before).count()
}

impl Deployment {
    /// Whether the executions agree, as far as the chip and the one that fake-quant evaluation saw let them.
    pub fn agreement(&self) -> Agreement {
        let Mismatches {
            fake_quant_vs_integer_predictions: from_integer,
            integer_vs_macro_logits,
            fake_quant_vs_macro_predictions: from_macro,
        } = self.mismatches;
        let chip = &self.evaluation.chip.description;
        let is_lossy = !self.evaluation.losses.is_empty();
        let seen = self.package.predictions.as_ref().and_then(|predictions| predictions.chip_sha256.as_ref());
        let saw_another = seen.is_some_and(|seen| !chip.computes_like(seen));
        match (is_lossy, from_integer.zip(from_macro)) {
            (false, _) if integer_vs_macro_logits > 0 => Agreement::No,
            (false, None) => Agreement::Partly,
            (true, None) => Agreement::LossyPartly,
            (false, Some((0, _))) => Agreement::All,
            (true, Some((_, 0))) if seen.is_some() && !saw_another => Agreement::OnChip,
            (true, Some((0, _))) if seen.is_none() => Agreement::Lossy,
            (_, Some(_)) if saw_another => Agreement::OtherChip,
            _ => Agreement::No,
        }
    }

    /// Refuses a result on which the executions don't agree, though nothing explains it.
    ///
    /// # Errors
    /// They differ; the error names the package.
    pub fn check_agreement(&self, package: &Path) -> Result<()> {
        match self.agreement() {
            Agreement::No => {
                let message = "its executions differ, which no converter and no noise explains: don't rely on its accuracy. Export the package again \
                               with this version of mars; if that one wrote it, this is a bug to report";
                Err(Error::file(package, message))
            }
            Agreement::All
            | Agreement::Partly
            | Agreement::OnChip
            | Agreement::Lossy
            | Agreement::LossyPartly
            | Agreement::OtherChip => Ok(()),
        }
    }

    /// The text of `deploy.json`.
    ///
    /// # Errors
    /// None that is known: every field has a form in JSON.
    pub fn to_json(&self) -> Result<String> {
        to_json(self)
    }
}

impl PartialSumsOnImages {
    /// The text of a JSON file.
    ///
    /// # Errors
    /// None that is known: every field has a form in JSON.
    pub fn to_json(&self) -> Result<String> {
        to_json(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_place_is_the_prediction() {
        let logits = [3, 9, -2, 9, 0];
        let places: Vec<usize> = (0..5).map(|class| place(&logits, class)).collect();
        assert_eq!(places, [2, 0, 4, 1, 3]);
        assert_eq!(predictions(&logits, 5).collect::<Vec<_>>(), [1]);
    }
}
