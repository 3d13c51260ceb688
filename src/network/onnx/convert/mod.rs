//! From nodes to layers: what each node makes of values, until the last one's are the logits.

mod concat;
mod layers;
mod pooling;
mod views;

use std::path::Path;

use super::integers::Integers;
use super::layers::{Layers, ProductKind, Sums};
use super::model::OnnxNode;
use super::names::Names;
use super::refusal::{Reads, Said, refuse, unknown_kind};
use super::scope::{Content, Map, Scope, Value, View};
use super::shapes::compute;
use super::tensor::Tensor;
use crate::network::node::Source;
use crate::network::spec::Activation;

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
            return refuse(format!("an operation of `{}`", node.domain), "export with ONNX's own operations alone");
        }
        let value = match node.kind {
            "Constant" => constant(node, self.scope.folder)?,
            "Identity" => self.take(node, 0)?,
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
            "Add" | "Sum" => self.add(node),
            "Concat" => self.concat(node),
            "MaxPool" | "GlobalMaxPool" => self.max_pool(node),
            "AveragePool" => self.avg_pool(node),
            "GlobalAveragePool" | "ReduceMean" => self.mean(node),
            "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze" => self.reshape(node),
            "Pad" => self.pad(node),
            "Slice" => self.slice(node),
            "Cast" | "CastLike" => self.cast(node),
            "Dropout" => self.dropout(node),
            "Softmax" | "LogSoftmax" => self.softmax(node),
            _ => unknown_kind(kind, self.reads(node)),
        }
    }

    fn reads(&self, node: &OnnxNode<'a>) -> Reads {
        let mut maps = node.inputs.iter().filter_map(|name| match self.scope.get(name) {
            Ok(Value::Map(map)) => Some(&map.content),
            Ok(Value::Tensor(_) | Value::Integers(_)) | Err(_) => None,
        });
        match maps.next() {
            None => Reads::Constants,
            Some(Content::Stored(Source::Image, _)) => Reads::Image,
            Some(Content::Stored(Source::Node(_), _) | Content::Sums(_)) => Reads::Layers,
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
            return refuse("its output is what an activation or a pooling layer gives", LAST);
        };
        let classes = map.sizes.iter().product();
        if sums.joined.is_some() || !sums.pools.is_empty() || classes != sums.product.filters() {
            return refuse("its output is more than the sums of a layer", LAST);
        }
        let mut layers = self.layers;
        layers.add_product(sums.product, None, Activation::Relu, None, [classes, 1, 1])?;
        Ok((layers, classes))
    }

    /// What an input stands for. Sums that other nodes read, too, are stored without an activation.
    fn take(&mut self, node: &OnnxNode<'a>, number: usize) -> Said<Value<'a>> {
        let value = self.scope.take(node, number)?;
        match (value, node.input(number)) {
            (Value::Map(Map { sizes, content: Content::Sums(sums) }), Some(name))
                if self.scope.is_shared(node, number) =>
            {
                let map = Value::Map(Map::stored(self.store(*sums, Activation::None, None)?, sizes));
                self.scope.insert(name, map.clone());
                Ok(map)
            }
            (value, _) => Ok(value),
        }
    }

    /// What becomes of the image, as a node's first input.
    fn take_map(&mut self, node: &OnnxNode<'a>) -> Said<Map> {
        match self.take(node, 0)? {
            Value::Map(map) => Ok(map),
            Value::Tensor(_) | Value::Integers(_) => {
                refuse("its input doesn't depend on the image", "export such values as constants")
            }
        }
    }

    /// A stored value as it is looked at, and its sizes. Sums are stored without an activation.
    fn viewed(&mut self, node: &OnnxNode<'a>) -> Said<(Source, View, Vec<usize>)> {
        let Map { sizes, content } = self.take_map(node)?;
        match content {
            Content::Stored(source, view) => Ok((source, view, sizes)),
            Content::Sums(sums) => Ok((self.store(*sums, Activation::None, None)?, View::default(), sizes)),
        }
    }

    /// A stored value with its border: what layers read.
    fn stored(&mut self, node: &OnnxNode<'a>) -> Said<(Source, [[usize; 2]; 2], Vec<usize>)> {
        match self.viewed(node)? {
            (source, View { border, skipped: [0, 0], added: [0, 0] }, sizes) => Ok((source, border, sizes)),
            _ => refuse(
                "its input is cut or padded along its channels",
                "only residual sums take such values: begin with a layer",
            ),
        }
    }

    /// The same of a map with height and width.
    fn stored_map(&mut self, node: &OnnxNode<'a>) -> Said<(Source, [[usize; 2]; 2], [usize; 3])> {
        let (source, border, sizes) = self.stored(node)?;
        let sizes = sizes.try_into().map_err(|sizes| format!("its input has sizes {sizes:?}, not those of a map"))?;
        Ok((source, border, sizes))
    }

    /// Adds the layer of sums with its activation, which may be clipped, and the maxima behind it.
    fn store(&mut self, sums: Sums, activation: Activation, clip: Option<f64>) -> Said<Source> {
        let Sums { product, joined, pools } = sums;
        let mut map = match product.kind {
            ProductKind::Linear => [product.filters(), 1, 1],
            ProductKind::Conv(window, _) => {
                let [_, height, width] = self.shape_of(product.source);
                let [height, width] = window.output([height, width])?;
                [product.filters(), height, width]
            }
        };
        let mut source = self.layers.add_product(product, joined, activation, clip, map)?;
        for (name, window) in pools {
            let [height, width] = window.windows([map[1], map[2]]).expect("it was read over this map");
            map = [map[0], height, width];
            source = self.layers.add_max_pool(name, source, window, map);
        }
        Ok(source)
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
