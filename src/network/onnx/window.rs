//! The windows of convolutions and pooling layers, out of a node's attributes.

use super::model::OnnxNode;
use super::refusal::{Said, refuse};

/// A square window over a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// Height and width.
    pub kernel: [usize; 2],
    pub stride: usize,
    /// Border on each side.
    pub padding: usize,
}

/// Larger windows, strides and borders than any network has.
const MOST: usize = 1 << 16;

impl Window {
    /// Reads a window over maps whose border is `border` wide already; `kernel` is that of the weights, where there are any.
    ///
    /// # Errors
    /// What no layer has: two strides, borders that differ, dilation, a size that is rounded up.
    pub fn read(node: &OnnxNode, kernel: Option<[usize; 2]>, map: [usize; 2], border: usize) -> Said<Self> {
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
        let auto_pad = node.attribute("auto_pad")?.map_or(&b""[..], |attribute| attribute.text);
        if !matches!(auto_pad, b"" | b"NOTSET" | b"VALID") {
            let kind = String::from_utf8_lossy(auto_pad);
            return refuse(format!("auto_pad = {kind}"), "export borders as numbers (pads)");
        }
        if pair("dilations")?.is_some_and(|dilations| dilations != [1, 1]) {
            return refuse("its kernel is dilated", "kernels are dense here: use one without dilation and train anew");
        }
        let strides = pair("strides")?.unwrap_or([1, 1]);
        let pads = match auto_pad {
            b"VALID" => vec![0; 4],
            _ => sizes("pads")?.unwrap_or_else(|| vec![0; 4]),
        };
        let [top, left, bottom, right] = pads[..] else {
            return Err("its pads aren't those of a map with two sides".into());
        };
        let whole_map = kernel == map && border == 0 && pads == [0; 4];
        if strides[0] != strides[1] && !whole_map {
            return refuse(format!("its strides {strides:?} differ"), "a layer has one stride for both sides");
        }
        if [left, bottom, right] != [top; 3] {
            return refuse(
                format!("its borders {pads:?} differ"),
                "a layer has the same border on all sides: pad evenly and train anew",
            );
        }
        let window = Self { kernel, stride: strides[0], padding: top + border };
        if node.attribute("ceil_mode")?.and_then(|attribute| attribute.integer).unwrap_or(0) != 0 {
            let is_whole = |side: usize| {
                let kernel = kernel[side];
                (map[side] + 2 * window.padding)
                    .checked_sub(kernel)
                    .is_some_and(|room| room.is_multiple_of(window.stride))
            };
            if !(is_whole(0) && is_whole(1)) {
                return refuse(
                    "its output's size is rounded up (ceil_mode)",
                    "sizes are rounded down: use ceil_mode=False and train anew",
                );
            }
        }
        Ok(window)
    }

    /// The side of a square kernel.
    ///
    /// # Errors
    /// Another kernel.
    pub fn side(&self) -> Said<usize> {
        match self.kernel {
            [height, width] if height == width => Ok(height),
            [height, width] => refuse(
                format!("its kernel of {height} x {width} isn't square"),
                "kernels are square here: use a square one and train anew",
            ),
        }
    }

    /// Height and width of the output over a map.
    ///
    /// # Errors
    /// A map that is smaller than the kernel.
    pub fn output(&self, map: [usize; 2]) -> Said<[usize; 2]> {
        let extent = |side: usize| {
            let room = (map[side] + 2 * self.padding).checked_sub(self.kernel[side]);
            room.map(|room| room / self.stride + 1).ok_or("its kernel is larger than the map")
        };
        Ok([extent(0)?, extent(1)?])
    }
}
