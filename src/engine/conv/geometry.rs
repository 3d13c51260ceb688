//! Shapes of a convolution.

/// How a kernel moves over the map, the same both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvOptions {
    /// Pixels from one position of the kernel to the next.
    pub stride: usize,
    /// Zeros around the map, in pixels.
    pub padding: usize,
    /// Groups of channels, each with filters of its own.
    pub groups: usize,
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
    pub stride: usize,
    pub padding: usize,
    /// Groups of channels, each with filters of its own.
    pub groups: usize,
}

impl ConvGeometry {
    /// Of inputs `[batch, height, width, channels]` and weights `[filters, channels of a group, kernel height, kernel width]`.
    ///
    /// # Panics
    /// If the shapes don't fit each other.
    pub(crate) fn new(x: [usize; 4], weight: [usize; 4], ConvOptions { stride, padding, groups }: ConvOptions) -> Self {
        let [batch, height, width, channels] = x;
        let [filters, weight_channels, kernel_height, kernel_width] = weight;
        assert_eq!(channels, groups * weight_channels, "input channels of the image and of the weights");
        assert!(filters.is_multiple_of(groups), "each group has as many filters");
        assert!(
            height + 2 * padding >= kernel_height && width + 2 * padding >= kernel_width,
            "kernel larger than the map"
        );
        Self { batch, channels, height, width, filters, kernel: [kernel_height, kernel_width], stride, padding, groups }
    }

    pub(crate) fn out_height(&self) -> usize {
        (self.height + 2 * self.padding - self.kernel[0]) / self.stride + 1
    }

    pub(crate) fn out_width(&self) -> usize {
        (self.width + 2 * self.padding - self.kernel[1]) / self.stride + 1
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

    /// Images that give `rows` rows of a matrix with `rows_of_image` rows for each, but in two parts of the batch at least.
    pub(crate) fn images_for(&self, rows: usize, rows_of_image: usize) -> usize {
        (rows / rows_of_image).clamp(1, self.batch.div_ceil(2))
    }
}
