//! Maps behind each other, along their channels.

use super::{Converter, title};
use crate::network::node::Source;
use crate::network::onnx::model::OnnxNode;
use crate::network::onnx::refusal::{Said, refuse};
use crate::network::onnx::scope::{Content, Map, Value, View};
use crate::network::spec::Activation;

impl<'a> Converter<'a> {
    pub(super) fn concat(&mut self, node: &OnnxNode<'a>) -> Said<Map> {
        let axis = node.attribute("axis")?.and_then(|attribute| attribute.integer).ok_or("it has no axis")?;
        let mut parts = Vec::new();
        for number in 0..node.inputs.len() {
            parts.push(self.part(node, number)?);
        }
        let Some(((first, first_sizes), others)) = parts.split_first() else { return Err("it joins nothing".into()) };
        let rank = 1 + first_sizes.len() as i64;
        if ![1, 1 - rank].contains(&axis) {
            return refuse(format!("it joins along axis {axis}"), "values are joined along their channels: axis 1");
        }
        let mut sizes = first_sizes.clone();
        let [mut channels, height, width] = self.shape_of(*first);
        for (source, other) in others {
            let map = self.shape_of(*source);
            if other.len() != sizes.len() || other[1..] != sizes[1..] || map[1..] != [height, width] {
                let reason = format!(
                    "it joins values of sizes {sizes:?} and {other:?}, of maps {height} x {width} and {} x {}",
                    map[1], map[2]
                );
                return refuse(reason, "what is joined has the same rows and columns");
            }
            if self.layers.may_be_negative(*source) != self.layers.may_be_negative(*first) {
                return refuse(
                    "some of what it joins is behind a ReLU and some isn't",
                    "what is joined shares a quantizer: put a ReLU behind all of it, or behind none, and train anew",
                );
            }
            sizes[0] += other[0];
            channels += map[0];
        }
        if others.is_empty() {
            return Ok(Map::stored(*first, sizes));
        }
        let name = self.names.layer(title(node), node.kind, None);
        let sources: Vec<Source> = parts.iter().map(|(source, _)| *source).collect();
        Ok(Map::stored(self.layers.add_concat(name, &sources, [channels, height, width]), sizes))
    }

    /// One of the values, and its sizes. Sums are stored without an activation.
    fn part(&mut self, node: &OnnxNode<'a>, number: usize) -> Said<(Source, Vec<usize>)> {
        match self.take(node, number)? {
            Value::Map(Map { content: Content::Stored(Source::Image, _), .. }) => {
                refuse("the image is part of it", "begin with a convolution")
            }
            Value::Map(Map { sizes, content: Content::Stored(source, view) }) if view == View::default() => {
                Ok((source, sizes))
            }
            Value::Map(Map { sizes, content: Content::Sums(sums) }) => {
                Ok((self.store(*sums, Activation::None, None)?, sizes))
            }
            Value::Map(_) => refuse("one of its inputs is cut or padded", "join values as layers give them"),
            Value::Tensor(_) | Value::Integers(_) => {
                refuse("one of its inputs doesn't depend on the image", "join values that layers give")
            }
        }
    }
}
