//! Layers as they are built up: a convolution waits for its batch norm, residual sum and activation.

use super::refusal::{Said, refuse};
use super::window::Placed;
use crate::network::node::Source;
use crate::network::role::Role;
use crate::network::spec::{Activation, BATCH_NORM_EPSILON, LayerSpec, NetworkSpec, Shortcut, SkipSpec};
use crate::network::weights::{Array, Weights};
use crate::network::window::{Border, Sides, Window};

/// A convolution or linear layer without what follows it.
#[derive(Clone, Debug)]
pub(super) struct Product {
    pub name: String,
    pub source: Source,
    /// `[filters, depth, kernel height, kernel width]`.
    pub weight: Array,
    pub bias: Option<Vec<f32>>,
    pub norm: Option<Normalization>,
    pub kind: ProductKind,
}

/// What a product is to the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProductKind {
    /// Its window and its groups.
    Conv(Placed, usize),
    Linear,
}

/// A batch norm: gamma, beta, mean and variance of each filter.
#[derive(Clone, Debug)]
pub(super) struct Normalization {
    pub parts: [Vec<f32>; 4],
    pub epsilon: f64,
}

/// A convolution with what follows it, before its activation.
#[derive(Clone, Debug)]
pub(super) struct Sums {
    pub product: Product,
    pub joined: Option<Joined>,
    /// Maxima between it and its ReLU, which may as well come behind: the larger of two values stays the larger one.
    pub pools: Vec<(String, Window)>,
}

/// What joins a residual sum.
#[derive(Clone, Debug)]
pub(super) enum Joined {
    Identity { from: usize, stride: usize },
    Projection(Box<Product>),
}

impl Product {
    pub fn filters(&self) -> usize {
        self.weight.shape[0]
    }

    /// Adds to its bias, or to what its batch norm adds.
    pub fn shift(&mut self, values: impl Fn(usize) -> f32) {
        let filters = self.filters();
        let into = match &mut self.norm {
            Some(norm) => &mut norm.parts[1],
            None => self.bias.get_or_insert_with(|| vec![0.0; filters]),
        };
        into.iter_mut().enumerate().for_each(|(filter, value)| *value += values(filter));
    }

    /// Stride and filters of a 1x1 convolution, which can be a projection.
    pub fn projects(&self) -> Option<usize> {
        match self.kind {
            ProductKind::Conv(Placed { window, .. }, 1) => {
                let stride = window.stride[0];
                (window == Window::square(1, stride, 0)).then_some(stride)
            }
            ProductKind::Conv(..) | ProductKind::Linear => None,
        }
    }
}

/// The layers and weights so far.
#[derive(Default)]
pub(super) struct Layers {
    pub layers: Vec<LayerSpec>,
    /// Shape of each layer's output.
    pub shapes: Vec<[usize; 3]>,
    /// Whether its values have a sign.
    signs: Vec<bool>,
    pub weights: Weights,
}

/// What the batch norms of a layer add to variances.
fn common_epsilon(product: &Product, joined: Option<&Joined>) -> Said<Option<f64>> {
    let epsilon = |product: &Product| product.norm.as_ref().map(|norm| norm.epsilon);
    let own = epsilon(product);
    let other = match joined {
        Some(Joined::Projection(projection)) => epsilon(projection),
        Some(Joined::Identity { .. }) | None => None,
    };
    match own.zip(other).is_some_and(|(own, other)| own != other) {
        true => refuse(
            "the batch norms of both sums add different numbers (epsilon) to variances",
            "use one epsilon for both",
        ),
        false => Ok(own.or(other)),
    }
}

impl Layers {
    /// Adds a layer of a convolution with its activation, which may be clipped; `shape` is that of its output.
    ///
    /// # Errors
    /// Two batch norms of one layer that add different numbers to variances.
    pub fn add_product(
        &mut self,
        product: Product,
        joined: Option<Joined>,
        activation: Activation,
        clip: Option<f64>,
        shape: [usize; 3],
    ) -> Said<Source> {
        let add = joined.as_ref().map(|joined| self.skip_spec(joined));
        let epsilon = common_epsilon(&product, joined.as_ref())?;
        let (name, input) = (product.name.clone(), self.input(product.source));
        let (filters, batch_norm, batch_norm_epsilon) = (product.filters(), product.norm.is_some(), epsilon);
        self.layers.push(match product.kind {
            ProductKind::Linear if clip.is_some() => {
                return refuse(
                    format!("it clips the linear layer `{name}`"),
                    "a linear layer ends in a plain ReLU: put one in its place and train anew",
                );
            }
            ProductKind::Linear => {
                LayerSpec::Linear { name, input, filters, batch_norm, batch_norm_epsilon, activation }
            }
            ProductKind::Conv(Placed { window, dilation, .. }, groups) => LayerSpec::Conv {
                name,
                input,
                filters,
                kernel: Sides(window.kernel),
                stride: Sides(window.stride),
                padding: Border(window.padding),
                dilation: Sides(dilation),
                groups,
                batch_norm,
                batch_norm_epsilon,
                add,
                activation,
                clip,
            },
        });
        if let Some(Joined::Projection(projection)) = joined {
            self.add_weights(Product { name: format!("{}.projection", product.name), ..*projection });
        }
        self.add_weights(product);
        Ok(self.stored(shape, activation == Activation::None))
    }

    /// How a description writes a residual sum.
    fn skip_spec(&self, joined: &Joined) -> SkipSpec {
        match joined {
            Joined::Identity { from, stride } => SkipSpec {
                from: self.layers[*from].name().into(),
                shortcut: Shortcut::Identity,
                stride: *stride,
                batch_norm: true,
            },
            Joined::Projection(projection) => {
                let Source::Node(from) = projection.source else {
                    unreachable!("a convolution of the image is stored before it joins a sum")
                };
                SkipSpec {
                    from: self.layers[from].name().into(),
                    shortcut: Shortcut::Projection,
                    stride: projection.projects().expect("a projection is a 1x1 convolution"),
                    batch_norm: projection.norm.is_some(),
                }
            }
        }
    }

    /// Adds a maximum.
    pub fn add_max_pool(&mut self, name: String, source: Source, window: Window, shape: [usize; 3]) -> Source {
        let Window { kernel, stride, padding } = window;
        let input = self.input(source);
        let (kernel, stride, padding) = (Sides(kernel), Sides(stride), Border(padding));
        self.layers.push(LayerSpec::MaxPool { name, input, kernel, stride, padding });
        self.stored(shape, self.may_be_negative(source))
    }

    /// Adds a mean, over the whole map without a window.
    pub fn add_avg_pool(&mut self, name: String, source: Source, window: Option<Window>, shape: [usize; 3]) -> Source {
        let input = self.input(source);
        let kernel = window.map(|window| Sides(window.kernel));
        let stride = window.filter(|window| window.stride != window.kernel).map(|window| Sides(window.stride));
        let padding = window.map_or(Border::default(), |window| Border(window.padding));
        self.layers.push(LayerSpec::AvgPool { name, input, kernel, stride, padding });
        self.stored(shape, self.may_be_negative(source))
    }

    /// Adds maps behind each other, all of them outputs of layers.
    pub fn add_concat(&mut self, name: String, sources: &[Source], shape: [usize; 3]) -> Source {
        let inputs = sources.iter().filter_map(|source| match source {
            Source::Image => None,
            Source::Node(index) => Some(self.layers[*index].name().into()),
        });
        self.layers.push(LayerSpec::Concat { name, inputs: inputs.collect() });
        self.stored(shape, self.may_be_negative(sources[0]))
    }

    /// Whether a value can be below 0: the image can, less its mean.
    pub fn may_be_negative(&self, source: Source) -> bool {
        match source {
            Source::Image => true,
            Source::Node(index) => self.signs[index],
        }
    }

    /// The output of the layer that was added.
    fn stored(&mut self, shape: [usize; 3], is_signed: bool) -> Source {
        self.shapes.push(shape);
        self.signs.push(is_signed);
        Source::Node(self.shapes.len() - 1)
    }

    /// The description; what most batch norms add to a variance is the network's.
    pub fn into_network(self, name: String, input: [usize; 3], classes: usize) -> (NetworkSpec, Weights) {
        let mut layers = self.layers;
        let mut epsilons: Vec<f64> = layers.iter().filter_map(LayerSpec::batch_norm_epsilon).collect();
        epsilons.sort_by(f64::total_cmp);
        let most = epsilons.chunk_by(|a, b| a == b).max_by_key(|same| same.len());
        let usual = most.map_or(BATCH_NORM_EPSILON, |same| same[0]);
        for layer in &mut layers {
            if let LayerSpec::Conv { batch_norm_epsilon, .. } | LayerSpec::Linear { batch_norm_epsilon, .. } = layer {
                *batch_norm_epsilon = batch_norm_epsilon.filter(|epsilon| *epsilon != usual);
            }
        }
        (NetworkSpec { name, input, classes, batch_norm_epsilon: usual, layers }, self.weights)
    }

    /// What a layer says about its input: nothing, where that is the layer before it.
    fn input(&self, source: Source) -> Option<String> {
        match source {
            Source::Image => (!self.layers.is_empty()).then(|| "image".into()),
            Source::Node(index) => (index + 1 != self.layers.len()).then(|| self.layers[index].name().into()),
        }
    }

    fn add_weights(&mut self, product: Product) {
        let Product { name, weight, bias, norm, .. } = product;
        let filters = weight.shape[0];
        let mut add = |role: Role, array| self.weights.insert(role.array_name(&name), array);
        add(Role::Weight, weight);
        let Some(Normalization { parts: [gamma, beta, mut mean, variance], .. }) = norm else {
            add(Role::Bias, Array::vector(bias.unwrap_or_else(|| vec![0.0; filters])));
            return;
        };
        // A bias before a batch norm moves into its mean.
        for (mean, bias) in mean.iter_mut().zip(bias.into_iter().flatten()) {
            *mean -= bias;
        }
        for (role, values) in [(Role::Gamma, gamma), (Role::Beta, beta), (Role::Mean, mean), (Role::Variance, variance)]
        {
            add(role, Array::vector(values));
        }
    }
}
