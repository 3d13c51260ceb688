//! Nodes that change how a value is looked at, or nothing: shapes, borders, cuts, dropout, a softmax.

use super::Converter;
use crate::network::onnx::integers::{reshaped, squeezed, unsqueezed};
use crate::network::onnx::model::OnnxNode;
use crate::network::onnx::refusal::{Said, refuse};
use crate::network::onnx::scope::{Content, Map, Value, View};
use crate::network::onnx::window::NO_BORDER;

impl<'a> Converter<'a> {
    pub(super) fn reshape(&mut self, node: &OnnxNode<'a>) -> Said<Map> {
        let map = self.take_map(node)?;
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
        // What was flattened has lost its pixels, but still lies in them.
        let channels = match &map.content {
            Content::Stored(source, _) => self.shape_of(*source)[0],
            Content::Sums(sums) => sums.product.filters(),
        };
        let fits = match sizes.split_first() {
            Some((batch, sizes)) if *batch == self.scope.batch => {
                sizes == map.sizes || sizes == flat || sizes == point && channels == flat[0]
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

    pub(super) fn pad(&mut self, node: &OnnxNode<'a>) -> Said<Map> {
        let (source, mut view, sizes) = self.viewed(node)?;
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
        let [channels, height, width] = &sizes[..] else {
            return refuse("its input isn't a map", "a border is added around a map's rows and columns");
        };
        // Its sizes stay those without the border, which the layer that reads it adds.
        let [rows, columns] = view.border;
        view.border = [[rows[0] + top, rows[1] + bottom], [columns[0] + left, columns[1] + right]];
        view.added = [view.added[0] + front, view.added[1] + behind];
        let sizes = vec![channels + front + behind, *height, *width];
        Ok(Map { sizes, content: Content::Stored(source, view) })
    }

    /// Every n-th row or column.
    pub(super) fn slice(&mut self, node: &OnnxNode<'a>) -> Said<Map> {
        const WAY_OUT: &str = "a shortcut takes every n-th pixel, from the first one on; nothing else is cut";
        let (source, mut view, mut sizes) = self.viewed(node)?;
        let list = |number: usize| self.scope.whole(node, number);
        let (Some(starts), Some(ends)) = (list(1)?, list(2)?) else {
            return refuse("its places are attributes, as in old versions of ONNX", "export with opset 11 or later");
        };
        let axes = list(3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = list(4)?.unwrap_or_else(|| vec![1; starts.len()]);
        if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] || sizes.len() != 3 || view.border != NO_BORDER {
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

    /// Values of a network have no kind of number before they are quantized: a cast to another kind of floats changes nothing.
    pub(super) fn cast(&mut self, node: &OnnxNode<'a>) -> Said<Map> {
        // FLOAT, FLOAT16, DOUBLE and BFLOAT16 of `TensorProto.DataType`.
        let to_floats = match node.kind {
            "Cast" => matches!(node.attribute("to")?.and_then(|to| to.integer), Some(1 | 10 | 11 | 16)),
            _ => !node.input(1).is_some_and(|name| matches!(self.scope.get(name), Ok(Value::Integers(_)))),
        };
        match to_floats {
            true => self.take_map(node),
            false => refuse(
                "it makes whole numbers or small floats of values",
                "export the float network: its values are quantized here",
            ),
        }
    }

    pub(super) fn dropout(&mut self, node: &OnnxNode<'a>) -> Said<Map> {
        if self.scope.whole(node, 2)?.is_some_and(|training| training != [0]) {
            return refuse("it drops values", "export the network in evaluation mode: model.eval()");
        }
        self.take_map(node)
    }

    /// A softmax at the end changes no prediction.
    pub(super) fn softmax(&mut self, node: &OnnxNode<'a>) -> Said<Map> {
        let map = self.take_map(node)?;
        let axis = node.attribute("axis")?.and_then(|attribute| attribute.integer).unwrap_or(-1);
        let is_last = node.outputs.first().is_some_and(|name| self.scope.is_end(name));
        if !is_last
            || map.sizes[1..].iter().any(|size| *size != 1)
            || !(axis == 1 || axis == -1 && map.sizes.len() == 1)
        {
            return refuse("it isn't over the classes at the network's end", "a softmax comes last, over the classes");
        }
        Ok(map)
    }
}
