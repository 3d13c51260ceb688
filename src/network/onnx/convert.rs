//! From nodes to layers: what each node makes of values, until the last one's are the logits.

use std::path::Path;

use super::integers::{Integers, reshaped, squeezed, unsqueezed};
use super::layers::{Joined, Layers, Normalization, Product, ProductKind, Sums};
use super::model::OnnxNode;
use super::names::Names;
use super::refusal::{Refusal, Said, refuse, unknown_kind};
use super::scope::{Content, Map, RELU, Scope, Value, View};
use super::shapes::compute;
use super::tensor::Tensor;
use super::window::Window;
use crate::network::graph::Source;
use crate::network::weights::Array;

/// What is said about a graph that no exporter of PyTorch's writes.
const PYTORCH: &str = "export with the operations that PyTorch's exporters use";

/// The network so far.
pub(super) struct Converter<'a> {
    scope: Scope<'a>,
    image: [usize; 3],
    names: Names,
    layers: Layers,
}

impl<'a> Converter<'a> {
    /// A network that has read nothing but its image.
    pub fn new(mut scope: Scope<'a>, input: &'a str, image: [usize; 3]) -> Self {
        scope.insert(input, Value::Map(Map::stored(Source::Image, image.to_vec())));
        Self { scope, image, names: Names::default(), layers: Layers::default() }
    }

    /// Computes a node.
    ///
    /// # Errors
    /// What no layer can express.
    pub fn node(&mut self, node: &OnnxNode<'a>) -> Said<()> {
        if !matches!(node.domain, "" | "ai.onnx") {
            return unknown_kind(node.kind, node.domain);
        }
        let value = match node.kind {
            "Constant" => constant(node, self.scope.folder)?,
            "Identity" => self.scope.take(node, 0)?,
            "Shape" => Value::Integers(self.scope.shape(node)?),
            kind => match self.scope.integers(node) {
                Some(inputs) => Value::Integers(
                    compute(node, &inputs, fill(node, self.scope.folder)?).or_else(|reason| refuse(reason, PYTORCH))?,
                ),
                None => match self.scope.constant(node)? {
                    Some(tensor) => Value::Tensor(tensor),
                    None => Value::Map(self.map(node, kind)?),
                },
            },
        };
        let output = *node.outputs.first().ok_or("it has no output")?;
        if let Some(second) = node.outputs.iter().skip(1).find(|name| self.scope.is_read(name)) {
            return refuse(format!("its second output `{second}` is read"), "only the first one has a meaning here");
        }
        self.scope.insert(output, value);
        Ok(())
    }

    /// What a node makes of the image.
    fn map(&mut self, node: &OnnxNode<'a>, kind: &str) -> Said<Map> {
        match kind {
            "Conv" => self.conv(node),
            "Gemm" | "MatMul" => self.linear(node),
            "BatchNormalization" => self.batch_norm(node),
            "Relu" => self.relu(node, None),
            "Clip" => self.clip(node),
            "Add" => self.add(node),
            "MaxPool" => self.max_pool(node),
            "AveragePool" => self.avg_pool(node),
            "GlobalAveragePool" | "ReduceMean" => self.mean(node),
            "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze" => self.reshape(node),
            "Pad" => self.pad(node),
            "Slice" => self.slice(node),
            "Dropout" => self.dropout(node),
            "Softmax" | "LogSoftmax" => self.softmax(node),
            _ => unknown_kind(kind, node.domain),
        }
    }

    /// The network, once all nodes are computed: its layers and classes.
    ///
    /// # Errors
    /// An output that isn't the sums of a layer.
    pub fn finish(self) -> Said<(Layers, usize)> {
        const LAST: &str =
            "a network ends with a convolution or linear layer, behind which nothing but a softmax comes";
        let Some(Value::Map(map)) = self.scope.into_output() else {
            return refuse("its output doesn't depend on its input", LAST);
        };
        let Content::Sums(sums) = map.content else {
            return refuse("its output is what a ReLU or a pooling layer gives", LAST);
        };
        let classes = map.sizes.iter().product();
        if sums.joined.is_some() || !sums.pools.is_empty() || classes != sums.product.filters() {
            return refuse("its output is more than the sums of a layer", LAST);
        }
        let mut layers = self.layers;
        layers.add_product(sums.product, None, None, [classes, 1, 1])?;
        Ok((layers, classes))
    }

    fn conv(&mut self, node: &OnnxNode<'a>) -> Said<Map> {
        let (source, border, [channels, height, width]) = self.scope.stored_map(node)?;
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
        let window = Window::read(node, Some([kernel_height, kernel_width]), [height, width], border)?;
        window.side()?;
        let [height, width] = window.output([height, width])?;
        let bias = node.input(2).map(|_| self.scope.per_filter(node, 2, filters)).transpose()?;
        let name = self.names.layer(title(node), node.kind, Some(tensor.name));
        let product = Product { name, source, weight, bias, norm: None, kind: ProductKind::Conv(window, groups) };
        Ok(Map::sums(product, vec![filters, height, width]))
    }

    fn linear(&mut self, node: &OnnxNode<'a>) -> Said<Map> {
        let (source, border, sizes) = self.scope.stored(node)?;
        let [features] = sizes[..] else {
            let reason = format!("its input has sizes {sizes:?}, not those of a list");
            return refuse(reason, "flatten a map before a linear layer");
        };
        if border > 0 {
            return refuse("its input is padded", "only convolutions and maxima read a value with a border");
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

    fn batch_norm(&mut self, node: &OnnxNode<'a>) -> Said<Map> {
        let Map { sizes, content } = self.scope.map(node)?;
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
    fn clip(&mut self, node: &OnnxNode<'a>) -> Said<Map> {
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
    fn relu(&mut self, node: &OnnxNode<'a>, clip: Option<f64>) -> Said<Map> {
        let Map { sizes, content } = self.scope.map(node)?;
        let source = match content {
            Content::Stored(Source::Image, _) => return refuse("it reads the image", "begin with a convolution"),
            Content::Stored(..) if clip.is_some() => {
                return refuse("it clips a value that is behind a ReLU", "clip where the ReLU is, and train anew");
            }
            // Stored values aren't negative already.
            Content::Stored(..) => return Ok(Map { sizes, content }),
            Content::Sums(sums) => {
                let Sums { product, joined, pools } = *sums;
                let mut map = match product.kind {
                    ProductKind::Linear => [product.filters(), 1, 1],
                    ProductKind::Conv(window, _) => {
                        let [_, height, width] = self.shape_of(product.source);
                        let [height, width] = window.output([height, width])?;
                        [product.filters(), height, width]
                    }
                };
                let mut source = self.layers.add_product(product, joined, clip, map)?;
                for (name, window) in pools {
                    let [height, width] = window.output([map[1], map[2]])?;
                    map = [map[0], height, width];
                    source = self.layers.add_max_pool(name, source, window, map)?;
                }
                source
            }
        };
        Ok(Map::stored(source, sizes))
    }

    fn add(&mut self, node: &OnnxNode<'a>) -> Said<Map> {
        let constant = (0..2).find(|number| {
            node.input(*number)
                .and_then(|name| self.scope.get(name).ok())
                .is_some_and(|value| !matches!(value, Value::Map(_)))
        });
        if let Some(constant) = constant {
            return self.add_bias(node, constant);
        }
        let (a, b) = match (self.scope.take(node, 0)?, self.scope.take(node, 1)?) {
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
        let plain = |sums: &Sums| match sums {
            Sums { product: Product { kind: ProductKind::Conv(..), .. }, joined: None, pools } if pools.is_empty() => {
                Ok(())
            }
            Sums { product, .. } => refuse(
                format!("more than the convolution `{}` comes before it", product.name),
                "a residual sum joins a convolution, right behind its batch norm, once",
            ),
        };
        let sums = match (a.content, b.content) {
            (Content::Sums(mut sums), Content::Stored(source, view))
            | (Content::Stored(source, view), Content::Sums(mut sums)) => {
                plain(&sums)?;
                sums.joined = Some(self.identity(source, view, sums.product.filters())?);
                sums
            }
            (Content::Sums(a), Content::Sums(b)) => {
                plain(&a)?;
                plain(&b)?;
                // The shortcut is the one that begins earlier.
                let (mut main, other) = if a.product.source < b.product.source { (b, a) } else { (a, b) };
                let mut projection = other.product;
                if projection.projects().is_none() {
                    std::mem::swap(&mut main.product, &mut projection);
                }
                if projection.projects().is_none() {
                    return refuse(
                        format!("it adds the sums of `{}` and `{}`", projection.name, main.product.name),
                        "one of two convolutions that are added is a 1x1 convolution without border: put a ReLU behind the other one",
                    );
                }
                main.joined = Some(Joined::Projection(Box::new(projection)));
                main
            }
            (Content::Stored(..), Content::Stored(..)) => {
                return refuse(
                    "both values are behind a ReLU or a pooling layer",
                    "a residual sum joins a convolution before its ReLU: move the ReLU behind the sum and train anew",
                );
            }
        };
        Ok(Map { sizes, content: Content::Sums(sums) })
    }

    /// A stored value that joins a sum of so many channels.
    fn identity(&self, source: Source, view: View, channels: usize) -> Said<Joined> {
        let Source::Node(from) = source else {
            return refuse("the image joins it", "a residual sum takes a layer's output");
        };
        let View { border, skipped: [rows, columns], added: [front, behind] } = view;
        let missing = channels - self.shape_of(source)[0].min(channels);
        if border > 0 || rows != columns || front != missing / 2 || front + behind != missing {
            return refuse(
                format!("what joins it is cut or padded: {view:?}"),
                "a shortcut takes every n-th pixel both ways, and has half of the channels that it lacks in front (rounded down)",
            );
        }
        Ok(Joined::Identity { from, stride: rows + 1 })
    }

    fn add_bias(&mut self, node: &OnnxNode<'a>, constant: usize) -> Said<Map> {
        let Value::Map(Map { sizes, content }) = self.scope.take(node, 1 - constant)? else {
            return refuse("it adds constants", "export them as one");
        };
        let Content::Sums(mut sums) = content else {
            return refuse(
                "it adds a constant to a value that is behind a ReLU",
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

    fn max_pool(&mut self, node: &OnnxNode<'a>) -> Said<Map> {
        let Map { sizes, content } = self.scope.map(node)?;
        let [channels, height, width] = sizes[..] else {
            return Err(format!("its input has sizes {sizes:?}, not those of a map").into());
        };
        let border = match &content {
            Content::Stored(_, view) => view.border,
            Content::Sums(_) => 0,
        };
        let window = Window::read(node, None, [height, width], border)?;
        window.side()?;
        let [height, width] = window.output([height, width])?;
        let output = [channels, height, width];
        let name = self.names.layer(title(node), node.kind, None);
        match content {
            // A border of zeros is one that never wins, since stored values aren't negative.
            Content::Stored(source, View { skipped: [0, 0], added: [0, 0], .. }) => {
                let source = self.layers.add_max_pool(name, source, window, output)?;
                Ok(Map::stored(source, output.to_vec()))
            }
            Content::Stored(..) => {
                refuse("its input is cut or padded along its channels", "only residual sums take such values")
            }
            Content::Sums(mut sums) => {
                sums.pools.push((name, window));
                Ok(Map { sizes: output.to_vec(), content: Content::Sums(sums) })
            }
        }
    }

    fn avg_pool(&mut self, node: &OnnxNode<'a>) -> Said<Map> {
        let (source, border, [channels, height, width]) = self.scope.stored_map(node)?;
        let window = Window::read(node, None, [height, width], border)?;
        let whole_map = window.kernel == [height, width];
        let tiles = height.is_multiple_of(window.kernel[0]) && width.is_multiple_of(window.kernel[1]);
        let apart = whole_map || window.kernel == [window.stride; 2];
        if window.padding > 0 || !tiles || !apart {
            return refuse(
                format!(
                    "its windows of {:?} at stride {} overlap, have a border or leave pixels over",
                    window.kernel, window.stride
                ),
                "a mean is over windows that tile the map, or over the whole map",
            );
        }
        let kernel = if whole_map { None } else { Some(window.side()?) };
        let output = [channels, height / window.kernel[0], width / window.kernel[1]];
        Ok(self.pooled(node, source, kernel, output, output.to_vec()))
    }

    /// A mean over the whole map.
    fn mean(&mut self, node: &OnnxNode<'a>) -> Said<Map> {
        let (source, border, [channels, ..]) = self.scope.stored_map(node)?;
        if border > 0 {
            return refuse("its input is padded", "only convolutions and maxima read a value with a border");
        }
        let mut sizes = vec![channels, 1, 1];
        if node.kind == "ReduceMean" {
            let mut axes = self.scope.axes(node, 1)?.unwrap_or_default();
            axes.iter_mut().filter(|axis| **axis < 0).for_each(|axis| *axis += 4);
            axes.sort_unstable();
            if axes != [2, 3] {
                return refuse(format!("it is over the axes {axes:?}"), "a mean is over rows and columns, together");
            }
            if node.attribute("keepdims")?.and_then(|attribute| attribute.integer) == Some(0) {
                sizes.truncate(1);
            }
        }
        Ok(self.pooled(node, source, None, [channels, 1, 1], sizes))
    }

    fn pooled(
        &mut self,
        node: &OnnxNode<'a>,
        source: Source,
        kernel: Option<usize>,
        output: [usize; 3],
        sizes: Vec<usize>,
    ) -> Map {
        // The mean of one value is that value.
        if self.shape_of(source) == output {
            return Map::stored(source, sizes);
        }
        let name = self.names.layer(title(node), node.kind, None);
        Map::stored(self.layers.add_avg_pool(name, source, kernel, output), sizes)
    }

    fn reshape(&mut self, node: &OnnxNode<'a>) -> Said<Map> {
        let map = self.scope.map(node)?;
        let all: Vec<usize> = std::iter::once(self.scope.batch).chain(map.sizes.iter().copied()).collect();
        let sizes = match node.kind {
            "Flatten" => {
                let axis = node.attribute("axis")?.and_then(|attribute| attribute.integer).unwrap_or(1);
                let axis = if axis < 0 { axis + all.len() as i64 } else { axis };
                if axis != 1 {
                    return refuse(
                        format!("it flattens from axis {axis} on"),
                        "all but the batch is flattened: axis 1",
                    );
                }
                vec![self.scope.batch, map.sizes.iter().product()]
            }
            "Reshape" => {
                let literal = node.attribute("allowzero")?.and_then(|attribute| attribute.integer).unwrap_or(0) != 0;
                let sizes = self.scope.whole(node, 1)?.ok_or("it has no sizes")?;
                reshaped(&self.scope.all_sizes(&map.sizes), &sizes, literal)?
            }
            "Squeeze" => {
                let axes = self.scope.axes(node, 1)?.unwrap_or_default();
                if axes.is_empty() {
                    return refuse("it names no axes", "name the axes that are dropped");
                }
                squeezed(&all, &axes)?
            }
            _ => unsqueezed(&all, &self.scope.axes(node, 1)?.unwrap_or_default())?,
        };
        let flat = [map.sizes.iter().product()];
        let point = [flat[0], 1, 1];
        let fits = match sizes.split_first() {
            Some((batch, sizes)) if *batch == self.scope.batch => {
                sizes == map.sizes || sizes == flat || sizes == point && map.sizes[1..].iter().all(|size| *size == 1)
            }
            Some(_) | None => false,
        };
        if !fits {
            return refuse(
                format!("it makes {sizes:?} of {all:?}"),
                "a map is flattened whole: channels, rows, pixels",
            );
        }
        if let Content::Stored(_, view) = &map.content
            && *view != View::default()
        {
            return refuse(
                "its input is cut or padded",
                "only convolutions, maxima and residual sums take such values",
            );
        }
        Ok(Map { sizes: sizes[1..].to_vec(), content: map.content })
    }

    fn pad(&mut self, node: &OnnxNode<'a>) -> Said<Map> {
        let Map { sizes, content } = self.scope.map(node)?;
        let mode = node.attribute("mode")?.map_or(&b""[..], |attribute| attribute.text);
        if !matches!(mode, b"" | b"constant") {
            let reason = format!("its border is made by {}", String::from_utf8_lossy(mode));
            return refuse(reason, "borders hold zeros: pad with constants and train anew");
        }
        let value = match node.input(2) {
            Some(_) => self.scope.float(node, 2)?,
            None => node.attribute("value")?.and_then(|attribute| attribute.float).unwrap_or(0.0),
        };
        if value != 0.0 {
            return refuse(format!("its border holds {value}"), "borders hold zeros: pad with zeros and train anew");
        }
        if node.input(3).is_some() {
            return refuse("it names its axes", "export the borders of all axes");
        }
        let pads = match node.attribute("pads")? {
            Some(attribute) => attribute.integers,
            None => self.scope.whole(node, 1)?.ok_or("it has no pads")?,
        };
        let pads: Option<Vec<usize>> =
            pads.iter().map(|pad| usize::try_from(*pad).ok().filter(|pad| *pad < 1 << 16)).collect();
        let Some([0, front, top, left, 0, behind, bottom, right]) = pads.as_deref() else {
            return refuse(
                "its borders aren't those of a map, or cut something off",
                "a border is added around a map's rows and columns",
            );
        };
        let (Content::Stored(source, mut view), [channels, height, width]) = (content, &sizes[..]) else {
            return refuse("its input isn't a map behind a ReLU", RELU);
        };
        if [left, bottom, right].into_iter().any(|pad| pad != top) {
            return refuse(
                format!("its borders {pads:?} differ"),
                "a border is the same on all sides: pad evenly and train anew",
            );
        }
        // Its sizes stay those without the border, which the layer that reads it adds.
        view.border += top;
        view.added = [view.added[0] + front, view.added[1] + behind];
        let sizes = vec![channels + front + behind, *height, *width];
        Ok(Map { sizes, content: Content::Stored(source, view) })
    }

    /// Every n-th row or column.
    fn slice(&mut self, node: &OnnxNode<'a>) -> Said<Map> {
        const WAY_OUT: &str = "a shortcut takes every n-th pixel, from the first one on; nothing else is cut";
        let Map { mut sizes, content } = self.scope.map(node)?;
        let Content::Stored(source, mut view) = content else {
            return refuse("its input has no ReLU before it", RELU);
        };
        let list = |number: usize| self.scope.whole(node, number);
        let (Some(starts), Some(ends)) = (list(1)?, list(2)?) else {
            return refuse("its places are attributes, as in old versions of ONNX", "export with opset 11 or later");
        };
        let axes = list(3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = list(4)?.unwrap_or_else(|| vec![1; starts.len()]);
        if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] || sizes.len() != 3 || view.border > 0 {
            return refuse("its input is no map, or its places aren't", WAY_OUT);
        }
        for (((start, end), axis), step) in starts.into_iter().zip(ends).zip(axes).zip(steps) {
            let axis = if axis < 0 { axis + 4 } else { axis };
            let size = match axis {
                0 => self.scope.batch,
                1..=3 => sizes[axis as usize - 1],
                _ => return refuse(format!("it cuts along axis {axis}"), WAY_OUT),
            };
            let whole = start == 0 && end >= size as i64;
            match (axis, usize::try_from(step)) {
                (_, Ok(1)) if whole => {}
                (2 | 3, Ok(step)) if whole && (1..1 << 16).contains(&step) => {
                    let side = axis as usize - 2;
                    view.skipped[side] = (view.skipped[side] + 1) * step - 1;
                    sizes[side + 1] = size.div_ceil(step);
                    if view.skipped[side] >= 1 << 16 {
                        return refuse("it leaves nearly nothing", WAY_OUT);
                    }
                }
                _ => return refuse(format!("it takes {start}..{end} at step {step} along axis {axis}"), WAY_OUT),
            }
        }
        Ok(Map { sizes, content: Content::Stored(source, view) })
    }

    fn dropout(&mut self, node: &OnnxNode<'a>) -> Said<Map> {
        if self.scope.whole(node, 2)?.is_some_and(|training| training != [0]) {
            return refuse("it drops values", "export the network in evaluation mode: model.eval()");
        }
        self.scope.map(node)
    }

    /// A softmax at the end changes no prediction.
    fn softmax(&mut self, node: &OnnxNode<'a>) -> Said<Map> {
        let map = self.scope.map(node)?;
        let axis = node.attribute("axis")?.and_then(|attribute| attribute.integer).unwrap_or(-1);
        let is_last = node.outputs.first() == Some(&self.scope.output) && !self.scope.is_read(self.scope.output);
        if !is_last
            || map.sizes[1..].iter().any(|size| *size != 1)
            || !(axis == 1 || axis == -1 && map.sizes.len() == 1)
        {
            return refuse("it isn't over the classes at the network's end", "a softmax comes last, over the classes");
        }
        Ok(map)
    }

    fn shape_of(&self, source: Source) -> [usize; 3] {
        match source {
            Source::Image => self.image,
            Source::Node(index) => self.layers.shapes[index],
        }
    }
}

/// What a node is called; its output tells where it has no name.
pub(super) fn title<'a>(node: &OnnxNode<'a>) -> &'a str {
    match node.name {
        "" => node.outputs.first().copied().unwrap_or_default(),
        name => name,
    }
}

/// The whole number of which a node makes a tensor.
fn fill(node: &OnnxNode, folder: &Path) -> Said<i64> {
    let tensor = match node.attribute("value")?.and_then(|attribute| attribute.tensor) {
        Some(tensor) if node.kind == "ConstantOfShape" => Tensor::read(tensor)?,
        Some(_) | None => return Ok(0),
    };
    match tensor.integers(folder)? {
        Some(Integers { values, .. }) if values.len() == 1 => Ok(values[0]),
        Some(_) | None => refuse("it makes a tensor of what is no whole number", PYTORCH),
    }
}

/// The value of a `Constant`; `folder` is that of the file.
fn constant<'a>(node: &OnnxNode<'a>, folder: &Path) -> Said<Value<'a>> {
    if let Some(tensor) = node.attribute("value")?.and_then(|attribute| attribute.tensor) {
        let tensor = Tensor::read(tensor)?;
        // A constant has the name of its node's output.
        return Value::of(tensor.named(node.outputs.first().copied().unwrap_or_default()), folder);
    }
    if let Some(integer) = node.attribute("value_int")?.and_then(|attribute| attribute.integer) {
        return Ok(Value::Integers(Integers { sizes: Vec::new(), values: vec![integer] }));
    }
    if let Some(float) = node.attribute("value_float")?.and_then(|attribute| attribute.float) {
        let name = node.outputs.first().copied().unwrap_or_default();
        return Ok(Value::Tensor(Tensor::filled(name, Vec::new(), float).expect("one value is none too many")));
    }
    match node.attribute("value_ints")? {
        Some(list) if list.integers.len() <= Integers::MOST => Ok(Value::Integers(Integers::list(list.integers))),
        Some(_) | None => refuse("it is neither a tensor nor whole numbers", "export constants as tensors"),
    }
}
