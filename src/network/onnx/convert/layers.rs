//! Nodes that a convolution or linear layer does: itself, its batch norm, its bias, its residual sum, its activation.

use super::{Converter, title};
use crate::network::node::Source;
use crate::network::onnx::layers::{Joined, Normalization, Product, ProductKind, Sums};
use crate::network::onnx::model::OnnxNode;
use crate::network::onnx::refusal::{READ_BY_WINDOWS, Refusal, Said, refuse};
use crate::network::onnx::scope::{Content, Map, Value, View};
use crate::network::onnx::window::{NO_BORDER, Placed};
use crate::network::spec::Activation;
use crate::network::weights::Array;

impl<'a> Converter<'a> {
    pub(super) fn conv(&mut self, node: &OnnxNode<'a>) -> Said<Map> {
        let (source, border, [channels, height, width]) = self.stored_map(node)?;
        let (tensor, values) = self.scope.weights(node)?;
        let groups = node.attribute("group")?.and_then(|attribute| attribute.integer).unwrap_or(1);
        let groups = usize::try_from(groups).ok().filter(|groups| (1..=channels).contains(groups));
        let groups = groups.ok_or_else(|| format!("its group is no number of groups of {channels} channels"))?;
        let weight = Array { shape: tensor.sizes.clone(), values };
        let [filters, depth, kernel_height, kernel_width] = weight.shape[..] else {
            return Err(
                format!("its weights have sizes {:?}, four are those of a map's convolution", weight.shape).into()
            );
        };
        if depth.checked_mul(groups) != Some(channels) || filters == 0 {
            let reason = format!("its weights are for {groups} groups of {depth} channels, its input has {channels}");
            return Err(reason.into());
        }
        let window = Placed::read(node, Some([kernel_height, kernel_width]), [height, width], border)?;
        let [height, width] = window.output([height, width])?;
        let bias = node.input(2).map(|_| self.scope.per_filter(node, 2, filters)).transpose()?;
        let name = self.names.layer(title(node), node.kind, Some(tensor.name));
        let product = Product { name, source, weight, bias, norm: None, kind: ProductKind::Conv(window, groups) };
        Ok(Map::sums(product, vec![filters, height, width]))
    }

    pub(super) fn linear(&mut self, node: &OnnxNode<'a>) -> Said<Map> {
        let (source, border, sizes) = self.stored(node)?;
        let [features] = sizes[..] else {
            let reason = format!("its input has sizes {sizes:?}, not those of a list");
            return refuse(reason, "flatten a map before a linear layer");
        };
        if border != NO_BORDER {
            return refuse("its input is padded", READ_BY_WINDOWS);
        }
        let float =
            |name: &str| Ok::<_, Refusal>(node.attribute(name)?.and_then(|attribute| attribute.float).unwrap_or(1.0));
        let flag = |name: &str| {
            Ok::<_, Refusal>(node.attribute(name)?.and_then(|attribute| attribute.integer).unwrap_or(0) != 0)
        };
        if flag("transA")? {
            return refuse("its input is transposed", "features come second in a linear layer");
        }
        let (alpha, beta, rows_are_filters) = (float("alpha")?, float("beta")?, flag("transB")?);
        let (tensor, mut values) = self.scope.weights(node)?;
        let [rows, columns] = tensor.sizes[..] else {
            return Err(format!("its weights have sizes {:?}, a linear layer's are two", tensor.sizes).into());
        };
        let (filters, depth) = if rows_are_filters { (rows, columns) } else { (columns, rows) };
        if depth != features || filters == 0 {
            return Err(format!("its weights are for {depth} features, its input has {features}").into());
        }
        if !rows_are_filters {
            values = (0..filters)
                .flat_map(|filter| (0..depth).map(move |row| row * filters + filter))
                .map(|i| values[i])
                .collect();
        }
        values.iter_mut().for_each(|value| *value *= alpha);
        let [channels, height, width] = self.shape_of(source);
        let weight = Array { shape: vec![filters, channels, height, width], values };
        let name = self.names.layer(title(node), node.kind, Some(tensor.name));
        let mut product = Product { name, source, weight, bias: None, norm: None, kind: ProductKind::Linear };
        if node.input(2).is_some() {
            let bias = self.scope.broadcast(node, 2, &[filters])?;
            product.shift(|filter| beta * bias[filter]);
        }
        Ok(Map::sums(product, vec![filters]))
    }

    pub(super) fn batch_norm(&mut self, node: &OnnxNode<'a>) -> Said<Map> {
        let Map { sizes, content } = self.take_map(node)?;
        let Content::Sums(mut sums) = content else {
            return refuse("no convolution comes right before it", "batch norm is folded into the weights before it");
        };
        if sums.product.norm.is_some() || sums.joined.is_some() || !sums.pools.is_empty() {
            return refuse(
                format!("more than the convolution `{}` comes before it", sums.product.name),
                "a layer has one batch norm, right behind its convolution",
            );
        }
        if node.attribute("training_mode")?.and_then(|attribute| attribute.integer).unwrap_or(0) != 0 {
            return refuse("it uses the batch's statistics", "export the network in evaluation mode: model.eval()");
        }
        let epsilon = node.attribute("epsilon")?.and_then(|attribute| attribute.float).unwrap_or(1e-5);
        let filters = sums.product.filters();
        let part = |number| self.scope.per_filter(node, number, filters);
        let parts = [part(1)?, part(2)?, part(3)?, part(4)?];
        if let Some(variance) = parts[3].iter().find(|variance| **variance < 0.0) {
            return Err(format!("a variance is {variance}").into());
        }
        // The number that was meant: 1e-5 is 0.0000099999997 as a float of 32 bits.
        let epsilon = epsilon.to_string().parse().expect("a float's own text");
        sums.product.norm = Some(Normalization { parts, epsilon });
        Ok(Map { sizes, content: Content::Sums(sums) })
    }

    /// A ReLU, or one that is clipped, as ReLU6 is.
    pub(super) fn clip(&mut self, node: &OnnxNode<'a>) -> Said<Map> {
        let bound = |number: usize, name: &str| -> Said<Option<f32>> {
            match node.input(number) {
                Some(_) => self.scope.float(node, number).map(Some),
                None => Ok(node.attribute(name)?.and_then(|attribute| attribute.float)),
            }
        };
        let (low, high) = (bound(1, "min")?, bound(2, "max")?);
        if low != Some(0.0) {
            let reason = format!("it clips at {}", low.map_or("nothing".into(), |low| low.to_string()));
            return refuse(reason, "a layer ends in a ReLU: clip at 0 and train anew");
        }
        // The number that was meant.
        self.relu(node, high.map(|high| high.to_string().parse().expect("a float's own text")))
    }

    /// A ReLU; `clip` is the largest value that it gives, if there is one.
    pub(super) fn relu(&mut self, node: &OnnxNode<'a>, clip: Option<f64>) -> Said<Map> {
        let Map { sizes, content } = self.take_map(node)?;
        let source = match content {
            Content::Stored(Source::Image, _) => return refuse("it reads the image", "begin with a convolution"),
            Content::Stored(source, _) if self.layers.may_be_negative(source) => {
                return refuse(
                    "it reads a value that is stored before its activation",
                    "a ReLU comes right behind the sums of a layer, or a maximum of them, and alone reads them: move it and train anew",
                );
            }
            Content::Stored(..) if clip.is_some() => {
                return refuse("it clips a value that is behind a ReLU", "clip where the ReLU is, and train anew");
            }
            // Values behind a ReLU stay as they are.
            Content::Stored(..) => return Ok(Map { sizes, content }),
            Content::Sums(sums) => self.store(*sums, Activation::Relu, clip)?,
        };
        Ok(Map::stored(source, sizes))
    }

    pub(super) fn add(&mut self, node: &OnnxNode<'a>) -> Said<Map> {
        if node.inputs.len() != 2 {
            return refuse(
                format!("it adds up {} inputs instead of two", node.inputs.len()),
                "a residual sum joins two values: add two at a time",
            );
        }
        let constant = (0..2).find(|number| {
            node.input(*number)
                .and_then(|name| self.scope.get(name).ok())
                .is_some_and(|value| !matches!(value, Value::Map(_)))
        });
        if let Some(constant) = constant {
            return self.add_bias(node, constant);
        }
        let (a, b) = match (self.take(node, 0)?, self.take(node, 1)?) {
            (Value::Map(a), Value::Map(b)) => (a, b),
            _ => unreachable!("constants were looked for"),
        };
        if a.sizes != b.sizes {
            return refuse(
                format!("it adds values of sizes {:?} and {:?}", a.sizes, b.sizes),
                "values of a sum have the same sizes",
            );
        }
        let sizes = a.sizes;
        let sums = match (a.content, b.content) {
            (Content::Sums(mut sums), Content::Stored(source, view))
            | (Content::Stored(source, view), Content::Sums(mut sums)) => {
                check_plain(&sums)?;
                sums.joined = Some(self.identity(source, view, sums.product.filters())?);
                sums
            }
            (Content::Sums(a), Content::Sums(b)) => Box::new(self.sum(*a, *b)?),
            (Content::Stored(..), Content::Stored(..)) => {
                return refuse(
                    "both values are stored: behind an activation or a pooling layer, or read by other nodes, too",
                    "a residual sum joins a convolution before its activation, alone: move the activation behind the sum and train anew",
                );
            }
        };
        Ok(Map { sizes, content: Content::Sums(sums) })
    }

    /// The sum of two layers' sums: a 1x1 convolution joins as a projection; else one of them is stored without an activation.
    fn sum(&mut self, a: Sums, b: Sums) -> Said<Sums> {
        // The shortcut is the one that begins earlier.
        let (mut main, mut other) = if a.product.source < b.product.source { (b, a) } else { (a, b) };
        if check_plain(&main).is_err() {
            std::mem::swap(&mut main, &mut other);
        }
        check_plain(&main)?;
        let projects = |Sums { product, .. }: &Sums| product.projects().is_some() && product.source != Source::Image;
        let both = check_plain(&other).is_ok();
        if both && !projects(&other) && projects(&main) {
            std::mem::swap(&mut main, &mut other);
        }
        main.joined = Some(match both && projects(&other) {
            true => Joined::Projection(Box::new(other.product)),
            false => {
                let source = self.store(other, Activation::None, None)?;
                self.identity(source, View::default(), main.product.filters())?
            }
        });
        Ok(main)
    }

    /// A stored value that joins a sum of so many channels.
    fn identity(&self, source: Source, view: View, channels: usize) -> Said<Joined> {
        let Source::Node(from) = source else {
            return refuse("the image joins it", "a residual sum takes a layer's output");
        };
        let View { border, skipped: [rows, columns], added: [front, behind] } = view;
        let missing = channels - self.shape_of(source)[0].min(channels);
        if border != NO_BORDER || rows != columns || front != missing / 2 || front + behind != missing {
            return refuse(
                format!("what joins it is cut or padded: {view:?}"),
                "a shortcut takes every n-th pixel both ways, and has half of the channels that it lacks in front (rounded down)",
            );
        }
        Ok(Joined::Identity { from, stride: rows + 1 })
    }

    fn add_bias(&mut self, node: &OnnxNode<'a>, constant: usize) -> Said<Map> {
        let Value::Map(Map { sizes, content }) = self.take(node, 1 - constant)? else {
            return refuse("it adds constants", "export them as one");
        };
        let Content::Sums(mut sums) = content else {
            return refuse(
                "it adds a constant to a value that is stored: behind an activation, or read by other nodes, too",
                "a constant is the bias of a convolution or linear layer",
            );
        };
        if !sums.pools.is_empty() {
            return refuse(
                "it adds a constant behind a maximum",
                "a constant is the bias of a convolution, right behind it",
            );
        }
        if sizes[0] != sums.product.filters() {
            return refuse(
                "it adds a constant behind a flatten",
                "a constant is the bias of a convolution, right behind it",
            );
        }
        let bias = self.scope.broadcast(node, constant, &sizes)?;
        sums.product.shift(|filter| bias[filter]);
        Ok(Map { sizes, content: Content::Sums(sums) })
    }
}

/// Checks that a residual value may join these sums.
fn check_plain(sums: &Sums) -> Said<()> {
    match sums {
        Sums { product: Product { kind: ProductKind::Conv(..), .. }, joined: None, pools } if pools.is_empty() => {
            Ok(())
        }
        Sums { product: Product { kind: ProductKind::Linear, name, .. }, .. } => refuse(
            format!("a residual sum joins a convolution, and `{name}` is a linear layer"),
            "a linear layer has the sums of a 1x1 convolution over a map of one pixel: put one in its place",
        ),
        Sums { product, .. } => refuse(
            format!("more than the convolution `{}` comes before it", product.name),
            "a residual sum joins a convolution, right behind its batch norm, once",
        ),
    }
}
