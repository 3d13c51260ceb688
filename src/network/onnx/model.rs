//! The messages of `onnx.proto3` that a network needs, as views into the file's bytes.

use std::collections::{BTreeMap, BTreeSet};

use super::tensor::Tensor;
use super::wire::{Damage, fields};

/// Most nodes of a graph: ten times those of the deepest networks.
const MAX_NODES: usize = 1 << 14;
/// Most tensors, inputs and outputs.
const MAX_NAMES: usize = 1 << 16;
/// Most inputs, outputs and attributes of all nodes together: each takes two bytes of the file at least, and sixteen of memory.
const MAX_PARTS: usize = 1 << 20;

/// What a file computes.
pub(super) struct OnnxGraph<'a> {
    pub nodes: Vec<OnnxNode<'a>>,
    pub tensors: BTreeMap<&'a str, Tensor<'a>>,
    pub inputs: Vec<Input<'a>>,
    pub outputs: Vec<&'a str>,
}

/// An operation.
pub(super) struct OnnxNode<'a> {
    pub name: &'a str,
    /// What it computes.
    pub kind: &'a str,
    /// Whose operation it is; empty for ONNX's own.
    pub domain: &'a str,
    /// An input that is left out has an empty name.
    pub inputs: Vec<&'a str>,
    pub outputs: Vec<&'a str>,
    attributes: Vec<&'a [u8]>,
}

/// An input of the graph.
pub(super) struct Input<'a> {
    pub name: &'a str,
    /// None for a size that is open.
    pub shape: Vec<Option<usize>>,
}

/// FLOAT and INT of `AttributeProto.AttributeType`.
const FLOAT: i64 = 1;
const INT: i64 = 2;

/// An attribute of a node; those of other kinds are empty.
#[derive(Clone, Debug, Default)]
pub(super) struct Attribute<'a> {
    pub float: Option<f32>,
    pub integer: Option<i64>,
    pub text: &'a [u8],
    pub tensor: Option<&'a [u8]>,
    pub integers: Vec<i64>,
}

impl<'a> OnnxGraph<'a> {
    /// Reads a model.
    ///
    /// # Errors
    /// What is damaged, or more than a network can have.
    pub fn read(model: &'a [u8]) -> Result<Self, Damage> {
        let mut graph = None;
        for field in fields(model) {
            let field = field?;
            if field.number == 7 {
                graph = Some(field.bytes()?);
            }
        }
        let mut read = Self { nodes: Vec::new(), tensors: BTreeMap::new(), inputs: Vec::new(), outputs: Vec::new() };
        let mut parts = 0;
        for field in fields(graph.ok_or("it holds no graph")?) {
            let field = field?;
            match field.number {
                1 => {
                    room(read.nodes.len(), MAX_NODES)?;
                    read.nodes.push(OnnxNode::read(field.bytes()?, &mut parts)?);
                }
                5 => {
                    room(read.tensors.len(), MAX_NAMES)?;
                    let tensor = Tensor::read(field.bytes()?)?;
                    if read.tensors.insert(tensor.name, tensor).is_some() {
                        return Err("two tensors of one name");
                    }
                }
                11 => {
                    room(read.inputs.len(), MAX_NAMES)?;
                    read.inputs.push(Input::read(field.bytes()?)?);
                }
                12 => {
                    room(read.outputs.len(), MAX_NAMES)?;
                    read.outputs.push(Input::read(field.bytes()?)?.name);
                }
                _ => {}
            }
        }
        let mut given = BTreeSet::new();
        let outputs = read.nodes.iter().flat_map(|node| &node.outputs).filter(|name| !name.is_empty());
        match outputs.into_iter().all(|name| given.insert(name)) {
            true => Ok(read),
            false => Err("two outputs of one name"),
        }
    }
}

impl<'a> OnnxNode<'a> {
    /// Reads a node and counts its `parts`.
    fn read(message: &'a [u8], parts: &mut usize) -> Result<Self, Damage> {
        let mut node = Self { name: "", kind: "", domain: "", inputs: vec![], outputs: vec![], attributes: Vec::new() };
        for field in fields(message) {
            let field = field?;
            match field.number {
                1 => {
                    *parts += 1;
                    node.inputs.push(field.text()?);
                }
                2 => {
                    *parts += 1;
                    node.outputs.push(field.text()?);
                }
                3 => node.name = field.text()?,
                4 => node.kind = field.text()?,
                5 => {
                    *parts += 1;
                    node.attributes.push(field.bytes()?);
                }
                7 => node.domain = field.text()?,
                _ => {}
            }
            room(*parts, MAX_PARTS)?;
        }
        Ok(node)
    }

    /// An input, unless it is left out.
    pub fn input(&self, number: usize) -> Option<&'a str> {
        self.inputs.get(number).copied().filter(|name| !name.is_empty())
    }

    /// The attribute of a name, if it is there.
    ///
    /// # Errors
    /// A damaged one.
    pub fn attribute(&self, name: &str) -> Result<Option<Attribute<'a>>, Damage> {
        for message in &self.attributes {
            let first = fields(message).find(|field| field.is_ok_and(|field| field.number == 1));
            if first.is_some_and(|field| field.and_then(|field| field.text()) == Ok(name)) {
                return Attribute::read(message).map(Some);
            }
        }
        Ok(None)
    }
}

impl<'a> Attribute<'a> {
    fn read(message: &'a [u8]) -> Result<Self, Damage> {
        let (mut attribute, mut kind) = (Self::default(), 0);
        for field in fields(message) {
            let field = field?;
            match field.number {
                2 => attribute.float = Some(field.float()?),
                3 => attribute.integer = Some(field.integer()?),
                4 => attribute.text = field.bytes()?,
                5 => attribute.tensor = Some(field.bytes()?),
                8 => field.integers(&mut attribute.integers)?,
                20 => kind = field.integer()?,
                _ => {}
            }
        }
        // Writers of proto3 leave out a value that is 0.
        match kind {
            FLOAT => attribute.float = attribute.float.or(Some(0.0)),
            INT => attribute.integer = attribute.integer.or(Some(0)),
            _ => {}
        }
        Ok(attribute)
    }
}

impl<'a> Input<'a> {
    fn read(message: &'a [u8]) -> Result<Self, Damage> {
        let mut input = Self { name: "", shape: Vec::new() };
        for field in fields(message) {
            let field = field?;
            match field.number {
                1 => input.name = field.text()?,
                2 => input.shape = shape(field.bytes()?)?,
                _ => {}
            }
        }
        Ok(input)
    }
}

/// The sizes of a type: those of `tensor_type.shape.dim`, where they have a `dim_value`.
fn shape(kind: &[u8]) -> Result<Vec<Option<usize>>, Damage> {
    let mut sizes = Vec::new();
    for tensor in within(kind, 1)? {
        for shape in within(tensor, 2)? {
            for size in within(shape, 1)? {
                let value = fields(size).find(|field| field.is_ok_and(|field| field.number == 1)).transpose()?;
                let value = value.map(|field| field.integer()).transpose()?;
                sizes.push(value.and_then(|value| usize::try_from(value).ok()).filter(|value| *value > 0));
            }
        }
    }
    Ok(sizes)
}

/// The messages in a field of a message.
fn within(message: &[u8], number: u64) -> Result<Vec<&[u8]>, Damage> {
    let fields = fields(message).filter(|field| field.is_err() || field.is_ok_and(|field| field.number == number));
    fields.map(|field| field?.bytes()).collect()
}

fn room(count: usize, limit: usize) -> Result<(), Damage> {
    if count < limit { Ok(()) } else { Err("it has more nodes or tensors than any network") }
}
