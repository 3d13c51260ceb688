//! The windows of convolutions and pooling layers, out of a node's attributes.

use super::model::OnnxNode;
use super::refusal::{Said, refuse};
use crate::network::shape::MAX_EXTENT;
use crate::network::window::Window;

/// A window with the distance of its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub window: Window,
    pub dilation: [usize; 2],
    /// Pixels of the border that lie below the map and on its right before the node adds its own: they count as the map's where sizes are rounded up.
    below: [usize; 2],
}

/// No border on any side.
pub(super) const NO_BORDER: [[usize; 2]; 2] = [[0; 2]; 2];

impl Placed {
    /// Reads a window over maps that have a border already; `kernel` is that of the weights, where there are any.
    ///
    /// # Errors
    /// What a node cannot have.
    pub fn read(node: &OnnxNode, kernel: Option<[usize; 2]>, map: [usize; 2], border: [[usize; 2]; 2]) -> Said<Self> {
        let sizes = |name: &str| -> Said<Option<Vec<usize>>> {
            let Some(attribute) = node.attribute(name)? else { return Ok(None) };
            let sizes: Option<Vec<usize>> = attribute
                .integers
                .into_iter()
                .map(|size| usize::try_from(size).ok().filter(|size| *size <= MAX_EXTENT))
                .collect();
            sizes.map(Some).ok_or_else(|| format!("its {name} cannot be").into())
        };
        let pair = |name: &str| -> Said<Option<[usize; 2]>> {
            let Some(sizes) = sizes(name)? else { return Ok(None) };
            let pair = <[usize; 2]>::try_from(sizes).ok().filter(|pair| !pair.contains(&0));
            pair.map(Some).ok_or_else(|| format!("its {name} isn't that of a map with two sides").into())
        };
        let named = pair("kernel_shape")?;
        let kernel = kernel.or(named).ok_or("it has no kernel_shape")?;
        if named.is_some_and(|named| named != kernel) {
            return Err("its kernel_shape isn't that of its weights".into());
        }
        let dilations = pair("dilations")?.unwrap_or([1, 1]);
        // A single value has no distance.
        let dilation = [0, 1].map(|side| if kernel[side] == 1 { 1 } else { dilations[side] });
        let stride = pair("strides")?.unwrap_or([1, 1]);
        let below = border.map(|[_, below]| below);
        let bare = Self { window: Window { kernel, stride, padding: NO_BORDER }, dilation, below };
        let auto_pad = node.attribute("auto_pad")?.map_or(&b""[..], |attribute| attribute.text);
        let pads = match auto_pad {
            b"" | b"NOTSET" => match sizes("pads")?.as_deref() {
                None => NO_BORDER,
                Some(&[top, left, bottom, right]) => [[top, bottom], [left, right]],
                Some(_) => return Err("its pads aren't those of a map with two sides".into()),
            },
            b"VALID" => NO_BORDER,
            b"SAME_UPPER" | b"SAME_LOWER" => [0, 1].map(|side| {
                let [size, stride] = [map[side] + border[side][0] + border[side][1], stride[side]];
                let windows = size.div_ceil(stride).max(1);
                let pads = ((windows - 1) * stride + bare.span()[side]).saturating_sub(size);
                match auto_pad {
                    b"SAME_UPPER" => [pads / 2, pads.div_ceil(2)],
                    _ => [pads.div_ceil(2), pads / 2],
                }
            }),
            _ => return Err(format!("its auto_pad is {}", String::from_utf8_lossy(auto_pad)).into()),
        };
        let add = |[a, b]: [usize; 2], [c, d]: [usize; 2]| [a + c, b + d];
        let padding = [add(pads[0], border[0]), add(pads[1], border[1])];
        let placed = Self { window: Window { padding, ..bare.window }, ..bare };
        Ok(placed)
    }

    /// Windows of a maximum. Where the number of windows is rounded up, a border below and on the right, which never wins, makes room for them.
    ///
    /// # Errors
    /// A window that is dilated.
    pub fn of_maximum(self, node: &OnnxNode, map: [usize; 2]) -> Said<Window> {
        let mut window = self.dense()?;
        for side in 0..2 {
            if let Some(missing) = self.missing(node, map, side)? {
                window.padding[side][1] += missing;
            }
        }
        Ok(window)
    }

    /// Windows of a mean.
    ///
    /// # Errors
    /// A window that is dilated; windows beyond the border.
    pub fn of_mean(self, node: &OnnxNode, map: [usize; 2]) -> Said<Window> {
        if self.missing(node, map, 0)?.is_some() || self.missing(node, map, 1)?.is_some() {
            return refuse(
                "its output's size is rounded up (ceil_mode)",
                "sizes of means are rounded down: use ceil_mode=False and train anew",
            );
        }
        self.dense()
    }

    /// Pixels that the last window along a side lacks, where the number of windows is rounded up and it begins on the map or before it.
    fn missing(&self, node: &OnnxNode, map: [usize; 2], side: usize) -> Said<Option<usize>> {
        if node.attribute("ceil_mode")?.and_then(|attribute| attribute.integer).unwrap_or(0) == 0 {
            return Ok(None);
        }
        let Window { kernel, stride, padding } = self.window;
        let bordered = self.window.bordered(map)[side];
        let last = bordered.saturating_sub(kernel[side]).div_ceil(stride[side]) * stride[side];
        let begins_before = last < map[side] + padding[side][0] + self.below[side];
        let missing = (last + kernel[side]).checked_sub(bordered).filter(|missing| *missing > 0);
        Ok(missing.filter(|_| begins_before))
    }

    fn span(&self) -> [usize; 2] {
        [0, 1].map(|side| (self.window.kernel[side] - 1) * self.dilation[side] + 1)
    }

    /// The window of a pooling layer.
    ///
    /// # Errors
    /// One that is dilated.
    fn dense(self) -> Said<Window> {
        match self.dilation {
            [1, 1] => Ok(self.window),
            _ => refuse(
                "its window is dilated",
                "windows of pooling layers are dense: use one without dilation and train anew",
            ),
        }
    }

    /// Height and width of the output over a map.
    ///
    /// # Errors
    /// A map that is smaller than the kernel.
    pub fn output(&self, map: [usize; 2]) -> Said<[usize; 2]> {
        let span = Window { kernel: self.span(), ..self.window };
        Ok(span.windows(map).ok_or("its kernel is larger than the map")?)
    }
}
