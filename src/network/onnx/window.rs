//! The windows of convolutions and pooling layers, out of a node's attributes.

use super::model::OnnxNode;
use super::refusal::{Said, refuse};
use crate::network::window::Window;

/// A window with the distance of its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub window: Window,
    pub dilation: [usize; 2],
}

/// Larger windows, strides and borders than any network has.
const MOST: usize = 1 << 16;
/// No border on any side.
pub(super) const NO_BORDER: [[usize; 2]; 2] = [[0; 2]; 2];

impl Placed {
    /// Reads a window over maps that have a border already; `kernel` is that of the weights, where there are any.
    ///
    /// # Errors
    /// What no layer has: a size that is rounded up.
    pub fn read(node: &OnnxNode, kernel: Option<[usize; 2]>, map: [usize; 2], border: [[usize; 2]; 2]) -> Said<Self> {
        let sizes = |name: &str| -> Said<Option<Vec<usize>>> {
            let Some(attribute) = node.attribute(name)? else { return Ok(None) };
            let sizes: Option<Vec<usize>> = attribute
                .integers
                .into_iter()
                .map(|size| usize::try_from(size).ok().filter(|size| *size <= MOST))
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
        let bare = Self { window: Window { kernel, stride, padding: NO_BORDER }, dilation };
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
        let rounds_up = node.attribute("ceil_mode")?.and_then(|attribute| attribute.integer).unwrap_or(0) != 0;
        let bordered = placed.window.bordered(map);
        let is_whole = |side: usize| {
            let room = bordered[side].checked_sub(placed.span()[side]);
            room.is_some_and(|room| room.is_multiple_of(stride[side]))
        };
        if rounds_up && !(is_whole(0) && is_whole(1)) {
            return refuse(
                "its output's size is rounded up (ceil_mode)",
                "sizes are rounded down: use ceil_mode=False and train anew",
            );
        }
        Ok(placed)
    }

    fn span(&self) -> [usize; 2] {
        [0, 1].map(|side| (self.window.kernel[side] - 1) * self.dilation[side] + 1)
    }

    /// The window of a pooling layer.
    ///
    /// # Errors
    /// One that is dilated.
    pub fn dense(self) -> Said<Window> {
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
