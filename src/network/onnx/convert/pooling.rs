//! Nodes that a pooling layer does: maxima and means.

use super::{Converter, title};
use crate::network::node::Source;
use crate::network::onnx::model::OnnxNode;
use crate::network::onnx::refusal::{READ_BY_WINDOWS, Said, refuse};
use crate::network::onnx::scope::{Content, Map, View};
use crate::network::onnx::window::{NO_BORDER, Placed};
use crate::network::window::Window;

impl<'a> Converter<'a> {
    pub(super) fn max_pool(&mut self, node: &OnnxNode<'a>) -> Said<Map> {
        let Map { sizes, content } = self.take_map(node)?;
        let [channels, height, width] = sizes[..] else {
            return Err(format!("its input has sizes {sizes:?}, not those of a map").into());
        };
        let border = match &content {
            Content::Stored(_, view) => view.border,
            Content::Sums(_) => NO_BORDER,
        };
        let window = match node.kind {
            "GlobalMaxPool" => whole([height, width], border),
            _ => Placed::read(node, None, [height, width], border)?.of_maximum(node, [height, width])?,
        };
        // The largest of one value is that value.
        if window == Window::square(1, 1, 0) {
            return Ok(Map { sizes, content });
        }
        let [height, width] = window.windows([height, width]).ok_or("its window is larger than the map")?;
        let output = [channels, height, width];
        let name = self.names.layer(title(node), node.kind, None);
        match content {
            Content::Stored(source, _) if border != NO_BORDER && self.layers.may_be_negative(source) => refuse(
                "its input has a sign and a border of zeros, which may win",
                "give the maximum the border: its own never wins",
            ),
            // A border of zeros is one that never wins where values aren't negative.
            Content::Stored(source, View { skipped: [0, 0], added: [0, 0], .. }) => {
                let source = self.layers.add_max_pool(name, source, window, output);
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

    pub(super) fn avg_pool(&mut self, node: &OnnxNode<'a>) -> Said<Map> {
        let (source, border, [channels, height, width]) = self.stored_map(node)?;
        let placed = Placed::read(node, None, [height, width], border)?;
        let window = placed.of_mean(node, [height, width])?;
        let counts = node.attribute("count_include_pad")?.and_then(|attribute| attribute.integer).unwrap_or(0) != 0;
        if !counts && window.padding != border {
            return refuse(
                "its means at the border are of fewer values (count_include_pad=False)",
                "each mean is of as many values, zeros of the border among them: use count_include_pad=True and train anew",
            );
        }
        let [rows, columns] = placed.output([height, width])?;
        let output = [channels, rows, columns];
        let is_whole = window.kernel == [height, width] && !window.has_border();
        Ok(self.pooled(node, source, (!is_whole).then_some(window), output, output.to_vec()))
    }

    /// A mean over the whole map.
    pub(super) fn mean(&mut self, node: &OnnxNode<'a>) -> Said<Map> {
        let (source, border, [channels, ..]) = self.stored_map(node)?;
        if border != NO_BORDER {
            return refuse("its input is padded", READ_BY_WINDOWS);
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
        window: Option<Window>,
        output: [usize; 3],
        sizes: Vec<usize>,
    ) -> Map {
        // The mean of one value is that value.
        let is_single = window.map_or(self.shape_of(source) == output, |window| window == Window::square(1, 1, 0));
        if is_single {
            return Map::stored(source, sizes);
        }
        let name = self.names.layer(title(node), node.kind, None);
        Map::stored(self.layers.add_avg_pool(name, source, window, output), sizes)
    }
}

/// The window of a whole map with its border.
fn whole(map: [usize; 2], border: [[usize; 2]; 2]) -> Window {
    let pixel = Window { padding: border, ..Window::square(1, 1, 0) };
    let kernel = pixel.bordered(map);
    Window { kernel, stride: kernel, ..pixel }
}
