//! What a step minimizes.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};

use super::recipe::DistillationConfig;

/// A teacher's logits `[images, classes]` of the same images, and how they count.
pub(super) struct Lesson<'a> {
    pub logits: Tensor<2>,
    pub config: &'a DistillationConfig,
}

/// Cross entropy; with a lesson `(1 - weight) * cross entropy + weight * temperature^2 * KL(teacher || student)`
/// (Hinton et al., *Distilling the Knowledge in a Neural Network*, 2015). `logits` are `[images, classes]`.
pub(super) fn loss(logits: Tensor<2>, labels: &[u16], label_smoothing: f64, lesson: Option<Lesson>) -> Tensor<1> {
    let labelled = cross_entropy(logits.clone(), labels, label_smoothing);
    match lesson {
        None => labelled,
        Some(Lesson { logits: teacher, config: &DistillationConfig { weight, temperature, .. } }) => {
            let taught = divergence(teacher, logits, temperature);
            labelled * (1.0 - weight) + taught * (weight * temperature * temperature)
        }
    }
}

/// The loss of logits that are all the same, at most, of `classes` classes; that of the labels alone where the teacher's part is less.
pub(super) fn loss_of_guess(classes: usize, config: Option<&DistillationConfig>) -> f64 {
    let weight = config.map_or(1.0, |DistillationConfig { weight, temperature, .. }| {
        1.0 - weight + weight * temperature * temperature
    });
    (classes as f64).ln() * weight.max(1.0)
}

/// Mean over the images of `-ln(softmax(logits)[label])`; with `smoothing` s of `-sum_c t_c ln(softmax(logits)[c])`, where `t` is `1 - s + s / classes` for
/// the label and `s / classes` for each other class (Szegedy et al., *Rethinking the Inception Architecture*, CVPR 2016, section 7).
pub(super) fn cross_entropy(logits: Tensor<2>, labels: &[u16], smoothing: f64) -> Tensor<1> {
    let labels: Vec<i64> = labels.iter().map(|label| i64::from(*label)).collect();
    let labels = Tensor::<2, Int>::from_data(TensorData::new(labels, [logits.dims()[0], 1]), &logits.device());
    let logarithms = log_softmax(logits, 1);
    let labelled = logarithms.clone().gather(1, labels).neg().mean();
    if smoothing == 0.0 {
        return labelled;
    }
    labelled * (1.0 - smoothing) + logarithms.neg().mean() * smoothing
}

/// Mean over the images of `KL(teacher || student)`, both softened by `temperature`.
fn divergence(teacher: Tensor<2>, student: Tensor<2>, temperature: f64) -> Tensor<1> {
    let (teacher, student) = (log_softmax(teacher / temperature, 1), log_softmax(student / temperature, 1));
    (teacher.clone().exp() * (teacher - student)).sum_dim(1).mean()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::super::tensors::to_host;
    use super::*;

    /// `KL(p || q) = sum p ln(p / q)`, here with `p = (3/4, 1/4)` and `q = (1/2, 1/2)` after the temperature.
    #[test]
    fn the_divergence_is_that_of_the_softened_classes() {
        let device = Device::flex();
        let temperature = 2.0;
        let teacher = Tensor::<2>::from_floats([[temperature * 3f32.ln(), 0.0], [1.0, 1.0]], &device);
        let student = Tensor::<2>::from_floats([[5.0, 5.0], [-2.0, -2.0]], &device);
        let found = to_host(divergence(teacher, student, f64::from(temperature)))[0];
        let expected = 0.5 * (0.75 * 1.5f32.ln() + 0.25 * 0.5f32.ln());
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }

    #[test]
    fn labels_and_teacher_share_the_loss() {
        let device = Device::flex();
        let student = Tensor::<2>::from_floats([[2.0, -1.0]], &device);
        let teacher = Tensor::<2>::from_floats([[0.5, 0.25]], &device);
        let labelled = to_host(cross_entropy(student.clone(), &[1], 0.0))[0];
        assert_eq!(to_host(loss(student.clone(), &[1], 0.0, None))[0], labelled);
        let softened = to_host(divergence(teacher.clone(), student.clone(), 3.0))[0];
        for (weight, expected) in [(0.0, labelled), (0.25, 0.75 * labelled + 2.25 * softened), (1.0, 9.0 * softened)] {
            let config = DistillationConfig { weight, temperature: 3.0, teacher: None };
            let lesson = Lesson { logits: teacher.clone(), config: &config };
            let found = to_host(loss(student.clone(), &[1], 0.0, Some(lesson)))[0];
            assert!((found - expected).abs() < 1e-5, "{weight}: {found} {expected}");
        }
    }

    /// Logits whose softmax is (1/8, 3/4, 1/8), so that each class's share of the loss is known.
    #[test]
    fn label_smoothing_asks_for_the_other_classes_too() {
        let logits = Tensor::<2>::from_floats([[1f32.ln(), 6f32.ln(), 1f32.ln()]], &Device::flex());
        let found = to_host(cross_entropy(logits, &[1], 0.3))[0];
        let (label, other) = (-(0.75f32.ln()), -(0.125f32.ln()));
        assert!((found - (0.8 * label + 0.1 * other + 0.1 * other)).abs() < 1e-6, "{found}");
    }
}
