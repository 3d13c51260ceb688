//! A network's parameters by convolution and role.
//!
//! `T` is what stands for a parameter: an array on the host, a tensor, its gradient, its momentum.

use super::graph::Graph;
use super::node::{Conv, ConvId};
use super::role::Role;
use super::weights::{Array, Weights};
use crate::error::{Error, Result};

/// Which parameter of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParamId {
    /// Its convolution; of an output scale its node's own, whether the node has one or not.
    pub conv: ConvId,
    /// What it is.
    pub role: Role,
}

impl ParamId {
    /// Name of the layer that it belongs to.
    pub fn layer(self, graph: &Graph) -> String {
        match self.conv {
            ConvId::Own(node) => graph.nodes()[node].name.clone(),
            ConvId::Projection(node) => graph.nodes()[node].projection_name(),
        }
    }

    /// Name of its array in files.
    pub fn name(self, graph: &Graph) -> String {
        self.role.array_name(&self.layer(graph))
    }

    /// Shape of its array, which has `values` values.
    pub fn shape(self, graph: &Graph, values: usize) -> Vec<usize> {
        let mut convs = graph.node_convs(self.conv.node()).into_iter().flatten();
        match convs.find(|conv| conv.id == self.conv) {
            Some(conv) if self.role == Role::Weight => conv.shape.weight_shape(),
            Some(_) | None => vec![values],
        }
    }
}

/// A batch norm.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchNorm<T> {
    /// Factor.
    pub gamma: T,
    /// Offset.
    pub beta: T,
    /// Running mean.
    pub mean: T,
    /// Running variance, as PyTorch has it: of the unbiased variances of batches.
    pub variance: T,
    /// What is added to the variance before its root.
    pub epsilon: f64,
}

/// What follows the sums of a convolution.
#[derive(Clone, Debug, PartialEq)]
pub enum Norm<T> {
    /// A bias for each filter.
    Bias(T),
    /// Batch norm.
    Batch(BatchNorm<T>),
}

/// The parameters of a convolution.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvParams<T> {
    /// Weights.
    pub weight: T,
    /// Bias or batch norm.
    pub norm: Norm<T>,
    /// Scale of the weights, once they are quantized.
    pub weight_scale: Option<T>,
}

impl<T> ConvParams<T> {
    /// The batch norm, if there is one.
    pub fn batch_norm(&self) -> Option<&BatchNorm<T>> {
        match &self.norm {
            Norm::Batch(norm) => Some(norm),
            Norm::Bias(_) => None,
        }
    }

    /// What is added to each filter last: the bias, or the batch norm's offset.
    pub fn offset_mut(&mut self) -> &mut T {
        match &mut self.norm {
            Norm::Bias(bias) => bias,
            Norm::Batch(norm) => &mut norm.beta,
        }
    }

    fn as_ref(&self) -> ConvParams<&T> {
        ConvParams {
            weight: &self.weight,
            norm: match &self.norm {
                Norm::Bias(bias) => Norm::Bias(bias),
                Norm::Batch(BatchNorm { gamma, beta, mean, variance, epsilon }) => {
                    Norm::Batch(BatchNorm { gamma, beta, mean, variance, epsilon: *epsilon })
                }
            },
            weight_scale: self.weight_scale.as_ref(),
        }
    }

    fn as_mut(&mut self) -> ConvParams<&mut T> {
        ConvParams {
            weight: &mut self.weight,
            norm: match &mut self.norm {
                Norm::Bias(bias) => Norm::Bias(bias),
                Norm::Batch(BatchNorm { gamma, beta, mean, variance, epsilon }) => {
                    Norm::Batch(BatchNorm { gamma, beta, mean, variance, epsilon: *epsilon })
                }
            },
            weight_scale: self.weight_scale.as_mut(),
        }
    }

    fn map<U>(self, conv: ConvId, f: &mut impl FnMut(ParamId, T) -> U) -> ConvParams<U> {
        let mut one = |role, value| f(ParamId { conv, role }, value);
        ConvParams {
            weight: one(Role::Weight, self.weight),
            norm: match self.norm {
                Norm::Bias(bias) => Norm::Bias(one(Role::Bias, bias)),
                Norm::Batch(BatchNorm { gamma, beta, mean, variance, epsilon }) => Norm::Batch(BatchNorm {
                    gamma: one(Role::Gamma, gamma),
                    beta: one(Role::Beta, beta),
                    mean: one(Role::Mean, mean),
                    variance: one(Role::Variance, variance),
                    epsilon,
                }),
            },
            weight_scale: self.weight_scale.map(|scale| one(Role::WeightScale, scale)),
        }
    }
}

/// The parameters of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct Params<T> {
    /// By node: its own convolution and its projection, where it has them.
    convs: Vec<[Option<ConvParams<T>>; 2]>,
    /// By node: the scale of its quantized output, where it has one.
    output_scales: Vec<Option<T>>,
}

impl<T> Params<T> {
    /// The parameters of a convolution.
    ///
    /// # Panics
    /// If the network has no such convolution.
    pub fn conv(&self, id: ConvId) -> &ConvParams<T> {
        let [own, projection] = &self.convs[id.node()];
        let conv = match id {
            ConvId::Own(_) => own,
            ConvId::Projection(_) => projection,
        };
        conv.as_ref().expect("a convolution of the network")
    }

    /// The same, to change.
    ///
    /// # Panics
    /// If the network has no such convolution.
    pub fn conv_mut(&mut self, id: ConvId) -> &mut ConvParams<T> {
        let [own, projection] = &mut self.convs[id.node()];
        let conv = match id {
            ConvId::Own(_) => own,
            ConvId::Projection(_) => projection,
        };
        conv.as_mut().expect("a convolution of the network")
    }

    /// The scale of a node's quantized output, if it has one of its own ([`Graph::scale_node`]).
    pub fn output_scale(&self, node: usize) -> Option<&T> {
        self.output_scales[node].as_ref()
    }

    /// Sets the scale of a node's quantized output.
    pub fn set_output_scale(&mut self, node: usize, scale: T) {
        self.output_scales[node] = Some(scale);
    }

    /// Whether the network has been quantized: its quantizers have scales.
    pub fn has_scales(&self) -> bool {
        self.iter().any(|(id, _)| id.role.is_scale())
    }

    /// The parameters, borrowed.
    pub fn as_ref(&self) -> Params<&T> {
        Params {
            convs: self
                .convs
                .iter()
                .map(|convs| convs.each_ref().map(|conv| conv.as_ref().map(ConvParams::as_ref)))
                .collect(),
            output_scales: self.output_scales.iter().map(Option::as_ref).collect(),
        }
    }

    /// The parameters, borrowed to change.
    pub fn as_mut(&mut self) -> Params<&mut T> {
        Params {
            convs: self
                .convs
                .iter_mut()
                .map(|convs| convs.each_mut().map(|conv| conv.as_mut().map(ConvParams::as_mut)))
                .collect(),
            output_scales: self.output_scales.iter_mut().map(Option::as_mut).collect(),
        }
    }

    /// Parameters of the same structure.
    pub fn map<U>(self, mut f: impl FnMut(ParamId, T) -> U) -> Params<U> {
        let mut of_conv = |id, conv: Option<ConvParams<T>>| conv.map(|conv| conv.map(id, &mut f));
        let convs = (0..).zip(self.convs).map(|(node, [own, projection])| {
            [of_conv(ConvId::Own(node), own), of_conv(ConvId::Projection(node), projection)]
        });
        let convs = convs.collect();
        let scales = (0..).zip(self.output_scales).map(|(node, scale)| {
            let id = ParamId { conv: ConvId::Own(node), role: Role::OutputScale };
            scale.map(|scale| f(id, scale))
        });
        Params { convs, output_scales: scales.collect() }
    }

    /// All parameters: convolution by convolution, then the scales of outputs.
    pub fn iter(&self) -> impl Iterator<Item = (ParamId, &T)> {
        self.as_ref().into_iter()
    }
}

impl<T> IntoIterator for Params<T> {
    type Item = (ParamId, T);
    type IntoIter = std::vec::IntoIter<(ParamId, T)>;

    /// All parameters: convolution by convolution, then the scales of outputs.
    fn into_iter(self) -> Self::IntoIter {
        let mut all = Vec::new();
        self.map(|id, value| all.push((id, value)));
        all.into_iter()
    }
}

impl Params<Array> {
    /// The parameters of a graph out of arrays by name: everything but the scales must be there. Other arrays are left aside.
    ///
    /// # Errors
    /// An array that is missing, has another shape, holds a number that isn't finite, or a variance below 0.
    pub fn from_arrays(graph: &Graph, arrays: &Weights) -> Result<Self> {
        let nodes = 0..graph.nodes().len();
        let read = |conv: Option<Conv>| conv.map(|conv| Self::read_conv(graph, arrays, &conv)).transpose();
        let convs = nodes.clone().map(|node| {
            let [own, projection] = graph.node_convs(node);
            Ok([read(own)?, read(projection)?])
        });
        let convs = convs.collect::<Result<_>>()?;
        let output_scales = nodes.map(|node| {
            let id = ParamId { conv: ConvId::Own(node), role: Role::OutputScale };
            let has_scale = graph.scale_node(node) == node;
            if has_scale { scale(graph, arrays, id, 1) } else { Ok(None) }
        });
        let output_scales = output_scales.collect::<Result<_>>()?;
        Ok(Self { convs, output_scales })
    }

    fn read_conv(graph: &Graph, arrays: &Weights, conv: &Conv) -> Result<ConvParams<Array>> {
        let get = |role| required(graph, arrays, conv, role);
        let weight = get(Role::Weight)?;
        let norm = if conv.batch_norm {
            let [gamma, beta] = [get(Role::Gamma)?, get(Role::Beta)?];
            let [mean, variance] = [get(Role::Mean)?, get(Role::Variance)?];
            Norm::Batch(BatchNorm { gamma, beta, mean, variance, epsilon: conv.epsilon })
        } else {
            Norm::Bias(get(Role::Bias)?)
        };
        let id = ParamId { conv: conv.id, role: Role::WeightScale };
        Ok(ConvParams { weight, norm, weight_scale: scale(graph, arrays, id, conv.shape.filters())? })
    }

    /// The arrays by name, as files hold them.
    pub fn to_arrays(&self, graph: &Graph) -> Weights {
        let mut arrays = Weights::default();
        for (id, array) in self.iter() {
            arrays.insert(id.name(graph), array.clone());
        }
        arrays
    }
}

/// A scale, or one for each of `most` filters, if there are any.
fn scale(graph: &Graph, arrays: &Weights, id: ParamId, most: usize) -> Result<Option<Array>> {
    let name = id.name(graph);
    let Some(array) = arrays.find(&name) else { return Ok(None) };
    if array.values.len() != 1 {
        array.check_shape(&name, &[most], graph)?;
    }
    array.check_finite(&name)?;
    Ok(Some(array.clone()))
}

fn required(graph: &Graph, arrays: &Weights, conv: &Conv, role: Role) -> Result<Array> {
    let name = ParamId { conv: conv.id, role }.name(graph);
    let array = arrays.get(&name)?;
    array.check_shape(&name, &role.shape(&conv.shape), graph)?;
    array.check_finite(&name)?;
    if let Some(value) = array.values.iter().find(|value| role == Role::Variance && **value < 0.0) {
        return Err(Error::Setting(format!("`{name}` holds {value}: no variance is below 0")));
    }
    Ok(array.clone())
}
