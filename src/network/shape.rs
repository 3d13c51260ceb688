//! The sizes of maps and convolutions, and their limits.

use std::ops::Range;

use super::window::{Border, Sides, Window};

/// Why a layer cannot be.
pub(super) type Reason<T> = std::result::Result<T, String>;

/// Largest side, channel count or filter count that a description may ask for.
pub(crate) const MAX_EXTENT: usize = 1 << 16;
/// Most layers of a network.
pub(crate) const MAX_LAYERS: usize = 1 << 12;
/// Most weights of a network: nothing asks for more memory than the largest real one.
pub(crate) const MAX_WEIGHTS: usize = 1 << 28;
/// Most weights of a layer, and most values of a map.
const MAX_VALUES: u128 = 1 << 32;

/// Channels, height and width of a feature map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapShape {
    /// Channels.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Pixels a row.
    pub width: usize,
}

impl MapShape {
    /// Pixels of one channel.
    pub fn pixels(&self) -> usize {
        self.height * self.width
    }

    /// All values.
    pub fn len(&self) -> usize {
        self.channels * self.pixels()
    }

    /// True for a map without values, which a valid graph never has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Geometry of a pooling layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolShape {
    /// Input map.
    pub input: MapShape,
    /// Output map.
    pub output: MapShape,
    /// Its windows, which move over the input.
    pub window: Window,
}

/// Geometry of a convolution; a linear layer has the whole input map as its kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Input map.
    pub input: MapShape,
    /// Output map; its channels are the filters.
    pub output: MapShape,
    /// Its kernel, which moves over the input.
    pub window: Window,
    /// Pixels from one value of the kernel to the next, of rows and of columns.
    pub dilation: [usize; 2],
    /// Groups of channels, each of which is read by as many filters.
    pub groups: usize,
}

/// The channels that a filter reads where groups of so many filters read as many channels each.
pub(crate) fn channels_read(filter: usize, filters: usize, channels: usize) -> Range<usize> {
    let first = filter / filters * channels;
    first..first + channels
}

impl ConvShape {
    /// The convolution of a map, whose channels are in so many groups.
    ///
    /// # Errors
    /// Says which size is out of range or does not fit.
    pub(super) fn new(
        input: MapShape,
        filters: usize,
        window: Window,
        dilation: [usize; 2],
        groups: usize,
    ) -> Reason<Self> {
        let channels = input.channels;
        let conv = Self { groups, ..Self::moved(input, filters, window, dilation)? };
        if groups == 0 || !channels.is_multiple_of(groups) || !filters.is_multiple_of(groups) {
            return Err(format!("{channels} channels and {filters} filters do not divide into {groups} groups"));
        }
        let weights = product([filters, conv.depth(), window.kernel[0], window.kernel[1]]);
        if weights > MAX_VALUES {
            return Err(format!("it would have {weights} weights; the limit is {MAX_VALUES}"));
        }
        Ok(conv)
    }

    /// The map that windows give which move over each channel of another one.
    ///
    /// # Errors
    /// Says which size is out of range or does not fit.
    pub(super) fn pooled(input: MapShape, window: Window) -> Reason<MapShape> {
        Ok(Self::moved(input, input.channels, window, [1; 2])?.output)
    }

    /// A window that moves over a map.
    fn moved(input: MapShape, filters: usize, window: Window, dilation: [usize; 2]) -> Reason<Self> {
        let Window { kernel, stride, padding } = window;
        let sizes = [("filters", &[filters][..]), ("kernel", &kernel), ("stride", &stride), ("dilation", &dilation)];
        for (key, sizes) in sizes {
            if let Some(size) = sizes.iter().find(|size| !(1..=MAX_EXTENT).contains(*size)) {
                return Err(format!("{key} = {size}: it must be from 1 to {MAX_EXTENT}"));
            }
        }
        if let Some(size) = padding.as_flattened().iter().find(|size| **size > MAX_EXTENT) {
            return Err(format!("padding = {size}: it must be from 0 to {MAX_EXTENT}"));
        }
        let span = span(kernel, dilation);
        let [height, width] =
            Window { kernel: span, ..window }.windows([input.height, input.width]).ok_or_else(|| {
                format!(
                    "a kernel of {} does not fit a map of {} with padding {}",
                    Sides(span),
                    Sides([input.height, input.width]),
                    Border(padding)
                )
            })?;
        let output = MapShape { channels: filters, height, width };
        let values = product([filters, output.height, output.width, 1]);
        if values > MAX_VALUES {
            return Err(format!("it would have {values} output values; the limit is {MAX_VALUES}"));
        }
        let [height, width] = window.bordered([input.height, input.width]);
        let bordered = product([input.channels, height, width, 1]);
        if bordered > MAX_VALUES {
            return Err(format!(
                "its input has {bordered} values with the border of {}; the limit is {MAX_VALUES}",
                Border(padding)
            ));
        }
        Ok(Self { input, output, window, dilation, groups: 1 })
    }

    /// Shape of its weights: filters, depth, height and width of the kernel.
    pub(super) fn weight_shape(&self) -> Vec<usize> {
        let [height, width] = self.window.kernel;
        vec![self.filters(), self.depth(), height, width]
    }

    /// Output channels.
    pub fn filters(&self) -> usize {
        self.output.channels
    }

    /// Input channels.
    pub fn channels(&self) -> usize {
        self.input.channels
    }

    /// Input channels that a filter reads: all, or those of its group.
    pub fn depth(&self) -> usize {
        self.channels() / self.groups
    }

    /// The input channels that this filter reads.
    pub fn reads(&self, filter: usize) -> Range<usize> {
        channels_read(filter, self.filters() / self.groups, self.depth())
    }

    /// Kernel positions.
    pub fn taps(&self) -> usize {
        self.window.taps()
    }

    /// Row and column of the input, from the window's first one, that a kernel position reads.
    pub fn tap(&self, tap: usize) -> [usize; 2] {
        let width = self.window.kernel[1];
        [tap / width * self.dilation[0], tap % width * self.dilation[1]]
    }

    /// Rows and columns of the input that a window spans.
    pub fn span(&self) -> [usize; 2] {
        span(self.window.kernel, self.dilation)
    }

    /// Weights `[filters, depth, kernel height, kernel width]`.
    pub fn weights(&self) -> usize {
        self.filters() * self.depth() * self.taps()
    }

    /// Multiply-accumulates of one image, borders included.
    pub fn macs(&self) -> u64 {
        self.weights() as u64 * self.output.pixels() as u64
    }
}

fn product(sizes: [usize; 4]) -> u128 {
    sizes.iter().map(|&size| size as u128).product()
}

/// Pixels that a kernel spans whose values are `dilation` apart.
fn span(kernel: [usize; 2], dilation: [usize; 2]) -> [usize; 2] {
    [0, 1].map(|side| (kernel[side] - 1) * dilation[side] + 1)
}
