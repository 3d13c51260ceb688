//! A block from burn's own operations, for the devices that our kernels don't serve.

use burn::tensor::activation::relu;
use burn::tensor::module::{batch_norm_train, conv2d};
use burn::tensor::{Int, Tensor};

use super::super::fake::fake_quantize;
use super::super::moments::Moments;
use super::operands::{BlockOutput, Norm, Shortcut};
use super::rounding::Forms;
use crate::engine::conv::ConvOptions;

/// `[batch, filters, height, width]`.
pub(super) fn burn_conv(
    x: Tensor<4>,
    weight: Tensor<4>,
    ConvOptions { stride, padding, dilation, groups }: ConvOptions,
) -> Tensor<4> {
    let padding = padding.map(|[before, behind]| (before, behind));
    let options = burn::tensor::ops::ConvOptions::new_with_padding(stride, padding, dilation, groups);
    conv2d(x.permute([0, 3, 1, 2]), weight, None, options)
}

/// A block by the same rules.
pub(super) fn composed(
    x: Tensor<4>,
    weight: Tensor<4>,
    conv: ConvOptions,
    norm: Norm,
    shortcut: Option<Shortcut>,
    with_relu: bool,
) -> BlockOutput {
    let sums = burn_conv(x, weight, conv);
    let [batch, filters, height, width] = sums.dims();
    let (mut value, statistics) = match norm {
        Norm::Batch { gamma, beta, epsilon } => {
            let normalized = batch_norm_train(sums, gamma, beta, epsilon);
            let statistics = Moments { mean: normalized.mean.detach(), variance: normalized.variance.detach() };
            (normalized.output, Some(statistics))
        }
        Norm::Bias(bias) => (sums + bias.reshape([1, filters, 1, 1]), None),
        Norm::Absent => (sums, None),
    };
    value = value.permute([0, 2, 3, 1]);
    if let Some(Shortcut { value: mut skip, stride, front }) = shortcut {
        if stride > 1 {
            let every = |size: usize| Tensor::<1, Int>::arange_step(0..size as i64, stride, &skip.device());
            let [_, rows, columns, _] = skip.dims();
            let (rows, columns) = (every(rows), every(columns));
            skip = skip.select(1, rows).select(2, columns);
        }
        let own = skip.dims()[3];
        let zeros = |channels: usize| Tensor::zeros([batch, height, width, channels], &skip.device());
        let mut parts = vec![zeros(front), skip.clone(), zeros(filters - own - front)];
        parts.retain(|part| part.dims()[3] > 0);
        value = value + Tensor::cat(parts, 3);
    }
    BlockOutput { value: if with_relu { relu(value) } else { value }, statistics }
}

/// A block whose values are rounded, by the same rules.
pub(super) fn composed_forms(
    x: Tensor<4>,
    weight: Tensor<4>,
    conv: ConvOptions,
    norm: Norm,
    shortcut: Option<Shortcut>,
    Forms { scale, forms }: Forms,
) -> BlockOutput<Vec<Tensor<4>>> {
    let BlockOutput { value, statistics } = composed(x, weight, conv, norm, shortcut, false);
    let rounded = forms.iter().map(|form| fake_quantize(value.clone(), scale.clone() / form.divisor, form.grid));
    BlockOutput { value: rounded.collect(), statistics }
}
