//! Shapes of a convolution.

/// How a kernel moves over the map. What has two sides is for rows first, then for columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvOptions {
    /// Pixels from one position of the kernel to the next.
    pub stride: [usize; 2],
    /// Zeros around the map, in pixels: `[[top, bottom], [left, right]]`.
    pub padding: [[usize; 2]; 2],
    /// Pixels from one value of the kernel to the next.
    pub dilation: [usize; 2],
    /// Groups of channels, each with filters of its own.
    pub groups: usize,
}

impl ConvOptions {
    /// A dense kernel over all channels that moves the same both ways.
    pub fn square(stride: usize, padding: usize) -> Self {
        Self { stride: [stride; 2], padding: [[padding; 2]; 2], dilation: [1; 2], groups: 1 }
    }
}

/// Shapes of the convolution of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConvGeometry {
    pub batch: usize,
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    pub filters: usize,
    /// Height and width.
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    /// `[[top, bottom], [left, right]]`.
    pub padding: [[usize; 2]; 2],
    pub dilation: [usize; 2],
    /// Groups of channels, each with filters of its own.
    pub groups: usize,
}

impl ConvGeometry {
    /// Of inputs `[batch, height, width, channels]` and weights `[filters, channels of a group, kernel height, kernel width]`.
    ///
    /// # Panics
    /// If the shapes don't fit each other.
    pub(crate) fn new(x: [usize; 4], weight: [usize; 4], options: ConvOptions) -> Self {
        let ConvOptions { stride, padding, dilation, groups } = options;
        let [batch, height, width, channels] = x;
        let [filters, weight_channels, kernel_height, kernel_width] = weight;
        assert_eq!(channels, groups * weight_channels, "input channels of the image and of the weights");
        assert!(filters.is_multiple_of(groups), "each group has as many filters");
        let kernel = [kernel_height, kernel_width];
        let conv = Self { batch, channels, height, width, filters, kernel, stride, padding, dilation, groups };
        assert!((0..2).all(|side| conv.bordered(side) >= conv.span(side)), "kernel larger than the map");
        conv
    }

    /// Rows or columns of the map with its border.
    pub(crate) fn bordered(&self, side: usize) -> usize {
        [self.height, self.width][side] + self.padding[side][0] + self.padding[side][1]
    }

    /// Rows or columns that the kernel spans.
    fn span(&self, side: usize) -> usize {
        (self.kernel[side] - 1) * self.dilation[side] + 1
    }

    fn positions(&self, side: usize) -> usize {
        (self.bordered(side) - self.span(side)) / self.stride[side] + 1
    }

    pub(crate) fn out_height(&self) -> usize {
        self.positions(0)
    }

    pub(crate) fn out_width(&self) -> usize {
        self.positions(1)
    }

    /// Row and column that a kernel position reads, from the first one.
    pub(crate) fn tap(&self, tap: usize) -> [usize; 2] {
        [tap / self.kernel[1] * self.dilation[0], tap % self.kernel[1] * self.dilation[1]]
    }

    pub(crate) fn out_pixels(&self) -> usize {
        self.out_height() * self.out_width()
    }

    /// Kernel positions.
    pub(crate) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Channels that a filter reads.
    pub(crate) fn group_channels(&self) -> usize {
        self.channels / self.groups
    }

    /// Products that an output adds up.
    pub(crate) fn depth(&self) -> usize {
        self.taps() * self.group_channels()
    }

    /// Floats of an input.
    pub(crate) fn in_len(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Floats of an output.
    pub(crate) fn out_len(&self) -> usize {
        self.filters * self.out_pixels()
    }

    /// Images that give `rows` rows of a matrix with `rows_of_image` rows for each.
    pub(crate) fn images_for(&self, rows: usize, rows_of_image: usize) -> usize {
        (rows / rows_of_image).clamp(1, self.batch.max(1))
    }
}
