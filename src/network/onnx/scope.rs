//! What names stand for: tensors, shapes, and what becomes of the image.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::integers::Integers;
use super::layers::{Product, Sums};
use super::model::{OnnxGraph, OnnxNode};
use super::refusal::{READ_BY_WINDOWS, Said, refuse};
use super::shapes::turns;
use super::tensor::Tensor;
use super::window::NO_BORDER;
use crate::network::node::Source;
use crate::network::shape::MAX_WEIGHTS;

/// What a name stands for.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    /// Numbers that don't depend on the image.
    Tensor(Tensor<'a>),
    /// A few whole ones: a shape, or places in one.
    Integers(Integers),
    /// What becomes of the image.
    Map(Map),
}

/// What becomes of a batch of images.
#[derive(Clone, Debug)]
pub(super) struct Map {
    /// Of one image: channels, height and width, or features.
    pub sizes: Vec<usize>,
    pub content: Content,
}

#[derive(Clone, Debug)]
pub(super) enum Content {
    /// The image or a layer's output, as it is stored.
    Stored(Source, View),
    /// Sums before their activation.
    Sums(Box<Sums>),
}

/// How a stored value is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    /// A border of zeros, which the map's sizes don't count: `[[top, bottom], [left, right]]`.
    pub border: [[usize; 2]; 2],
    /// Distance of the pixels that are taken, less one.
    pub skipped: [usize; 2],
    /// Channels of zeros before and behind.
    pub added: [usize; 2],
}

/// All names, and who reads them.
pub(super) struct Scope<'a> {
    pub folder: &'a Path,
    pub batch: usize,
    pub output: &'a str,
    /// The output, unless nodes read it, and names that nothing but casts makes the output of.
    ends: BTreeSet<&'a str>,
    values: BTreeMap<&'a str, Value<'a>>,
    /// How many nodes read what a name stands for; a shape is no reader.
    readers: BTreeMap<&'a str, usize>,
    /// Sizes of the sums that a node has taken, whose shape may still be asked for.
    gone: BTreeMap<&'a str, Vec<usize>>,
    /// Weights that belong to a layer, by the name of their tensor: a node may read them under another one.
    taken: BTreeSet<&'a str>,
    /// How many those are.
    weights: usize,
}

impl<'a> Scope<'a> {
    /// The file's tensors that nodes read, and `batch` images.
    ///
    /// # Errors
    /// Whole numbers that cannot be read.
    pub fn new(graph: &OnnxGraph<'a>, nodes: &[&OnnxNode<'a>], folder: &'a Path, batch: usize) -> Said<Self> {
        let mut scope = Self {
            folder,
            batch,
            output: graph.outputs[0],
            ends: BTreeSet::new(),
            values: BTreeMap::new(),
            readers: BTreeMap::new(),
            gone: BTreeMap::new(),
            taken: BTreeSet::new(),
            weights: 0,
        };
        // Neither who asks for a shape nor who asks for a kind of number reads a value.
        let read = |node: &&OnnxNode<'a>| match node.kind {
            "Shape" => 0,
            "CastLike" => 1,
            _ => usize::MAX,
        };
        for name in nodes.iter().flat_map(|node| node.inputs.iter().take(read(node))) {
            *scope.readers.entry(name).or_default() += 1;
        }
        if !scope.is_read(scope.output) {
            scope.ends.insert(scope.output);
        }
        for node in nodes.iter().rev().filter(|node| matches!(node.kind, "Cast" | "CastLike" | "Identity")) {
            if node.outputs.first().is_some_and(|name| scope.ends.contains(name)) {
                scope.ends.extend(node.input(0));
            }
        }
        for name in nodes.iter().flat_map(|node| &node.inputs) {
            if let Some(tensor) = graph.tensors.get(name) {
                scope.values.insert(name, Value::of(tensor.clone(), folder)?);
            }
        }
        Ok(scope)
    }

    pub fn insert(&mut self, name: &'a str, value: Value<'a>) {
        self.values.insert(name, value);
    }

    pub fn get(&self, name: &str) -> Said<&Value<'a>> {
        self.values.get(name).ok_or_else(|| format!("nothing before it gives `{name}`").into())
    }

    /// What the network's output stands for.
    pub fn into_output(mut self) -> Option<Value<'a>> {
        self.values.remove(self.output)
    }

    /// Whether nothing but casts makes the output of it.
    pub fn is_end(&self, name: &str) -> bool {
        self.ends.contains(name)
    }

    pub fn is_read(&self, name: &str) -> bool {
        self.readers.contains_key(name)
    }

    /// What an input stands for. Sums are taken out, since they are part of the layer that reads them.
    pub fn take(&mut self, node: &OnnxNode<'a>, number: usize) -> Said<Value<'a>> {
        let name = node.input(number).ok_or_else(|| format!("its input {number} is missing"))?;
        let value = self.get(name)?;
        let Value::Map(Map { content: Content::Sums(sums), sizes }) = value else { return Ok(value.clone()) };
        if name == self.output {
            let layer = &sums.product.name;
            return refuse(format!("it reads `{layer}`, which is the network's output"), "nothing reads the logits");
        }
        let sizes = sizes.clone();
        self.gone.insert(name, sizes);
        Ok(self.values.remove(name).expect("it was there"))
    }

    /// Whether several nodes read an input.
    pub fn is_shared(&self, node: &OnnxNode<'a>, number: usize) -> bool {
        node.input(number).and_then(|name| self.readers.get(name)).is_some_and(|count| *count > 1)
    }

    /// An input that doesn't depend on the image.
    pub fn tensor(&self, node: &OnnxNode<'a>, number: usize) -> Said<Tensor<'a>> {
        let name = node.input(number).ok_or_else(|| format!("its input {number} is missing"))?;
        match self.get(name)? {
            Value::Tensor(tensor) => Ok(tensor.clone()),
            Value::Map(_) => refuse(format!("`{name}` depends on the image"), "weights must be constants of the file"),
            Value::Integers(_) => Err(format!("`{name}` holds whole numbers").into()),
        }
    }

    /// One float for each filter.
    pub fn per_filter(&self, node: &OnnxNode<'a>, number: usize, filters: usize) -> Said<Vec<f32>> {
        let tensor = self.tensor(node, number)?;
        match tensor.len() == filters {
            true => Ok(tensor.floats(self.folder)?),
            false => Err(format!("`{}` has {} values for {filters} filters", tensor.name, tensor.len()).into()),
        }
    }

    /// A float.
    pub fn float(&self, node: &OnnxNode<'a>, number: usize) -> Said<f32> {
        Ok(self.per_filter(node, number, 1)?[0])
    }

    /// Floats that are the same at all pixels of a map of these sizes, one for each channel.
    pub fn broadcast(&self, node: &OnnxNode<'a>, number: usize, sizes: &[usize]) -> Said<Vec<f32>> {
        let tensor = self.tensor(node, number)?;
        // Sizes are compared from the last one on, and missing ones are 1.
        let mut channel = sizes.to_vec();
        channel[1..].fill(1);
        let without_ones = |sizes: &[usize]| {
            sizes.iter().position(|size| *size != 1).map_or(Vec::new(), |first| sizes[first..].to_vec())
        };
        if tensor.len() == 1 {
            return Ok(vec![tensor.floats(self.folder)?[0]; sizes[0]]);
        }
        match without_ones(&tensor.sizes) == without_ones(&channel) {
            true => Ok(tensor.floats(self.folder)?),
            false => refuse(
                format!("`{}` of sizes {:?} isn't one number for each channel", tensor.name, tensor.sizes),
                "a layer has one bias for each filter",
            ),
        }
    }

    /// A layer's weights: the name and sizes in the file, and the values. No layer takes another's.
    pub fn weights(&mut self, node: &OnnxNode<'a>) -> Said<(Tensor<'a>, Vec<f32>)> {
        let tensor = self.tensor(node, 1)?;
        if tensor.is_filled() {
            return refuse(
                format!("its weights `{}` are computed", tensor.name),
                "weights must be constants of the file",
            );
        }
        if tensor.len() == 0 {
            return Err(format!("its weights `{}` are empty", tensor.name).into());
        }
        if !self.taken.insert(tensor.name) {
            return refuse(
                format!("its weights `{}` are another layer's too", tensor.name),
                "each layer has weights of its own",
            );
        }
        self.weights = self.weights.saturating_add(tensor.len());
        if self.weights > MAX_WEIGHTS {
            return refuse(
                format!("with it the network has more than {MAX_WEIGHTS} weights"),
                "no package holds more: export a smaller network",
            );
        }
        let values = tensor.floats(self.folder)?;
        Ok((tensor, values))
    }

    /// The whole numbers of an input, if it is there.
    pub fn whole(&self, node: &OnnxNode<'a>, number: usize) -> Said<Option<Vec<i64>>> {
        let Some(name) = node.input(number) else { return Ok(None) };
        match self.get(name)? {
            Value::Integers(list) => Ok(Some(list.values.clone())),
            Value::Tensor(_) => Err(format!("`{name}` isn't a short list of whole numbers").into()),
            Value::Map(_) => {
                refuse(format!("`{name}` depends on the image's content"), "shapes must follow from shapes")
            }
        }
    }

    /// The axes of a node: an attribute, or in later versions of ONNX an input.
    pub fn axes(&self, node: &OnnxNode<'a>, number: usize) -> Said<Option<Vec<i64>>> {
        match node.attribute("axes")? {
            Some(attribute) => Ok(Some(attribute.integers)),
            None => self.whole(node, number),
        }
    }

    /// The sizes of a value with those of its batch.
    pub fn all_sizes(&self, sizes: &[usize]) -> Vec<i64> {
        std::iter::once(self.batch).chain(sizes.iter().copied()).map(|size| size as i64).collect()
    }

    /// The sizes of what a node reads.
    pub fn shape(&self, node: &OnnxNode<'a>) -> Said<Integers> {
        let name = node.input(0).ok_or("it has no input")?;
        let sizes = match self.gone.get(name) {
            Some(sizes) => self.all_sizes(sizes),
            None => self.sizes_of(name)?,
        };
        let place = |name: &str, usual: usize| -> Said<usize> {
            let place = node.attribute(name)?.and_then(|attribute| attribute.integer);
            let from_end = |place: i64| if place < 0 { place.saturating_add(sizes.len() as i64) } else { place };
            Ok(place.map_or(usual, |place| from_end(place).clamp(0, sizes.len() as i64) as usize))
        };
        let (start, end) = (place("start", 0)?, place("end", sizes.len())?);
        Ok(Integers::list(sizes.get(start..end).unwrap_or_default().to_vec()))
    }

    /// The sizes of what a name stands for, with those of a batch.
    fn sizes_of(&self, name: &str) -> Said<Vec<i64>> {
        Ok(match self.get(name)? {
            Value::Map(Map { content: Content::Stored(_, View { border, .. }), .. }) if *border != NO_BORDER => {
                return refuse("it takes the shape of a padded value", READ_BY_WINDOWS);
            }
            Value::Map(map) => self.all_sizes(&map.sizes),
            Value::Tensor(Tensor { sizes, .. }) | Value::Integers(Integers { sizes, .. }) => {
                sizes.iter().map(|size| *size as i64).collect()
            }
        })
    }

    /// What a node makes of floats that don't depend on the image; none for another node. An exporter that leaves its graph alone makes
    /// biases of zeros so.
    pub fn constant(&self, node: &OnnxNode<'a>) -> Said<Option<Tensor<'a>>> {
        let Some(Ok(Value::Tensor(tensor))) = node.input(0).map(|name| self.get(name)) else { return Ok(None) };
        let tensor = tensor.clone();
        match node.kind {
            "Cast" | "CastLike" => Ok(Some(tensor)),
            "Transpose" => match turns(node, tensor.sizes.len()) {
                Ok(false) => Ok(Some(tensor)),
                Ok(true) => Ok(tensor.transposed()),
                Err(reason) => refuse(reason, "export weights as layers read them"),
            },
            "Expand" => {
                let sizes = self.whole(node, 1)?.ok_or("it has no sizes")?;
                let sizes: Option<Vec<usize>> = sizes.into_iter().map(|size| usize::try_from(size).ok()).collect();
                let value = self.float(node, 0)?;
                let filled = sizes.and_then(|sizes| Tensor::filled(tensor.name, sizes, value));
                filled.map(Some).ok_or_else(|| "its sizes cannot be".into())
            }
            _ => Ok(None),
        }
    }

    /// The inputs of a node that computes with whole numbers alone; none for another node. An input that is left out is none.
    pub fn integers(&self, node: &OnnxNode<'a>) -> Option<Vec<Option<&Integers>>> {
        let read = |name: &&'a str| match self.values.get(*name) {
            _ if name.is_empty() => Some(None),
            Some(Value::Integers(list)) => Some(Some(list)),
            Some(Value::Tensor(_) | Value::Map(_)) | None => None,
        };
        node.inputs.iter().map(read).collect::<Option<Vec<_>>>().filter(|inputs| inputs.iter().any(Option::is_some))
    }
}

impl<'a> Value<'a> {
    /// The value of a tensor; `folder` is that of the file.
    ///
    /// # Errors
    /// Whole numbers that cannot be read.
    pub fn of(tensor: Tensor<'a>, folder: &Path) -> Said<Self> {
        Ok(tensor.integers(folder)?.map_or(Self::Tensor(tensor), Self::Integers))
    }
}

impl Map {
    /// The sums of a layer.
    pub fn sums(product: Product, sizes: Vec<usize>) -> Self {
        let sums = Sums { product, joined: None, pools: Vec::new() };
        Self { sizes, content: Content::Sums(Box::new(sums)) }
    }

    /// A value as it is stored.
    pub fn stored(source: Source, sizes: Vec<usize>) -> Self {
        Self { sizes, content: Content::Stored(source, View::default()) }
    }
}
