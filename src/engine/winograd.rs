//! 3x3 convolutions by Winograd's minimal filtering, F(4x4, 3x3): a quarter of the products of the direct sum.
//!
//! `Y = A^T [(G w G^T) . (B^T d B)] A` for each 4x4 tile of the output and the 6x6 patch `d` of the input that it reads, with the
//! matrices of Lavin and Gray, *Fast Algorithms for Convolutional Neural Networks*, CVPR 2016. The products of all tiles and channels
//! are 36 matrix products. The gradients are the transposed algorithm: of the input `B [(G w G^T) . (A dY A^T)] B^T`, of the
//! weights `G^T [(B^T d B) . (A dY A^T)] G`.
//!
//! Matrices are kept in *panels* of [`panel`] columns, `[columns / panel][rows][panel]`, so that the products read them in order.
//! The result differs from the direct sum's by rounding, some 1e-6 of the largest product: for training steps only.

use std::marker::PhantomData;
use std::ops::Range;

use super::conv::{Algorithm, Conv, Direction};
use super::parallel::in_parts;
use super::product::{Axis, Product};
use crate::simd::{Floats, Kernel, Simd, dispatch, lanes};

/// Side of an output tile.
const TILE: usize = 4;
/// Side of a patch of the input, and of a transformed tile.
const PATCH: usize = 6;
/// Values of a transformed tile, each of which has its own matrix product.
const POINTS: usize = PATCH * PATCH;
/// Floats between two matrices, so that those of one tile don't fall on the same lines of the cache.
const GAP: usize = 16;
/// One dimension of a transform.
trait Transform<const I: usize, const O: usize> {
    fn apply<S: Simd>(simd: S, d: [S::F32; I]) -> [S::F32; O];
}

/// `B^T`: a patch of the input to the products.
struct Input;
/// `A`: a tile of the output's gradient to the products.
struct OutputGradient;
/// `A^T`: products to a tile of the output.
struct Output;
/// `B`: products to a patch of the input's gradient.
struct InputGradient;
/// `G`: weights to the products.
struct Weights;
/// `G^T`: products to the weights' gradient.
struct WeightGradient;

impl Transform<6, 6> for Input {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, d: [S::F32; 6]) -> [S::F32; 6] {
        let [two, minus_four, minus_five] = [2.0, -4.0, -5.0].map(|factor| simd.splat(factor));
        let (even, odd) = (d[4].add_product(d[2], minus_four), d[3].add_product(d[1], minus_four));
        let (even_2, odd_2) = (d[4] - d[2], (d[3] - d[1]) * two);
        [
            d[4].add_product(d[2], minus_five) - d[0] * minus_four,
            even + odd,
            even - odd,
            even_2 + odd_2,
            even_2 - odd_2,
            d[5].add_product(d[3], minus_five) - d[1] * minus_four,
        ]
    }
}

impl Transform<6, 4> for Output {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, m: [S::F32; 6]) -> [S::F32; 4] {
        let (sum, difference) = (m[1] + m[2], m[1] - m[2]);
        let (sum_2, difference_2) = (m[3] + m[4], m[3] - m[4]);
        [
            m[0] + sum + sum_2,
            difference.add_product(difference_2, simd.splat(2.0)),
            sum.add_product(sum_2, simd.splat(4.0)),
            difference.add_product(difference_2, simd.splat(8.0)) + m[5],
        ]
    }
}

impl Transform<4, 6> for OutputGradient {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, y: [S::F32; 4]) -> [S::F32; 6] {
        let (even, odd) = (y[0] + y[2], y[1] + y[3]);
        let even_2 = y[0].add_product(y[2], simd.splat(4.0));
        let odd_2 = (y[1] * simd.splat(2.0)).add_product(y[3], simd.splat(8.0));
        [y[0], even + odd, even - odd, even_2 + odd_2, even_2 - odd_2, y[3]]
    }
}

impl Transform<6, 6> for InputGradient {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, v: [S::F32; 6]) -> [S::F32; 6] {
        let [two, four, five] = [2.0, 4.0, 5.0].map(|factor| simd.splat(factor));
        let (sum, difference) = (v[1] + v[2], v[1] - v[2]);
        let (sum_2, difference_2) = (v[3] + v[4], v[3] - v[4]);
        [
            v[0] * four,
            (v[5] - difference) * four - difference_2 * two,
            simd.splat(0.0) - ((v[0] * five).add_product(sum, four) + sum_2),
            difference.add_product(difference_2, two) - v[5] * five,
            v[0] + sum + sum_2,
            v[5],
        ]
    }
}

impl Transform<3, 6> for Weights {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, g: [S::F32; 3]) -> [S::F32; 6] {
        let share = |divisor: f32| simd.splat(1.0 / divisor);
        let (outer, middle) = ((g[0] + g[2]) * share(-6.0), g[1] * share(6.0));
        let outer_2 = (g[0] * share(24.0)).add_product(g[2], share(6.0));
        let middle_2 = g[1] * share(12.0);
        [g[0] * share(4.0), outer - middle, outer + middle, outer_2 + middle_2, outer_2 - middle_2, g[2]]
    }
}

impl Transform<6, 3> for WeightGradient {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, u: [S::F32; 6]) -> [S::F32; 3] {
        let share = |divisor: f32| simd.splat(1.0 / divisor);
        let (sum, difference) = (u[1] + u[2], u[2] - u[1]);
        let (sum_2, difference_2) = (u[3] + u[4], u[3] - u[4]);
        [
            (u[0] * share(4.0) - sum * share(6.0)).add_product(sum_2, share(24.0)),
            (difference * share(6.0)).add_product(difference_2, share(12.0)),
            u[5].add_product(sum_2 - sum, share(6.0)),
        ]
    }
}

/// Both dimensions.
#[inline(always)]
fn transform<T: Transform<I, O>, S: Simd, const I: usize, const O: usize>(
    simd: S,
    d: &[[S::F32; I]; I],
) -> [[S::F32; O]; O] {
    let zero = simd.splat(0.0);
    let mut columns = [[zero; I]; O];
    for j in 0..I {
        let column = T::apply(simd, std::array::from_fn(|i| d[i][j]));
        for (row, value) in columns.iter_mut().zip(column) {
            row[j] = value;
        }
    }
    let mut out = [[zero; O]; O];
    for (out, row) in out.iter_mut().zip(columns) {
        *out = T::apply(simd, row);
    }
    out
}

/// Columns of a panel for matrices of `columns` columns.
fn panel(columns: usize) -> usize {
    let wide = 2 * lanes();
    if columns.is_multiple_of(wide) { wide } else { lanes() }
}

/// Maps `[image][height][width][channels]` cut into tiles, `TILE` apart.
#[derive(Clone, Copy)]
struct Map {
    height: usize,
    width: usize,
    channels: usize,
}

impl Map {
    fn tile_columns(&self) -> usize {
        self.width.div_ceil(TILE)
    }

    fn tiles(&self) -> usize {
        self.height.div_ceil(TILE) * self.tile_columns()
    }

    fn len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Image and corner of the patch of a tile, `origin` before the tile's.
    fn corner(&self, tile: usize, origin: usize) -> (usize, isize, isize) {
        let (image, tile) = (tile / self.tiles(), tile % self.tiles());
        let at = |index: usize| (index * TILE) as isize - origin as isize;
        (image, at(tile / self.tile_columns()), at(tile % self.tile_columns()))
    }

    /// The floats of a pixel, if it is on the map.
    #[inline(always)]
    fn pixel(&self, y: isize, x: isize) -> Option<Range<usize>> {
        let row = usize::try_from(y).ok().filter(|row| *row < self.height)?;
        let column = usize::try_from(x).ok().filter(|column| *column < self.width)?;
        let start = (row * self.width + column) * self.channels;
        Some(start..start + self.channels)
    }
}

/// Where the transformed tiles of a block lie: `[POINTS]` matrices of `tiles` rows and `channels` columns, in panels.
#[derive(Clone, Copy)]
struct Block {
    tiles: usize,
    channels: usize,
    panel: usize,
}

impl Block {
    fn new(tiles: usize, channels: usize) -> Self {
        Self { tiles, channels, panel: panel(channels) }
    }

    fn stride(&self) -> usize {
        self.tiles * self.channels + GAP
    }

    fn len(&self) -> usize {
        POINTS * self.stride()
    }

    fn offset(&self, tile: usize, channel: usize) -> usize {
        channel / self.panel * self.tiles * self.panel + tile * self.panel + channel % self.panel
    }

    fn matrix<'a>(&self, point: usize, values: &'a [f32]) -> &'a [f32] {
        &values[point * self.stride()..][..self.tiles * self.channels]
    }

    fn matrix_mut<'a>(&self, point: usize, values: &'a mut [f32]) -> &'a mut [f32] {
        &mut values[point * self.stride()..][..self.tiles * self.channels]
    }

    /// Numbers of the panels.
    fn panels(&self) -> Vec<usize> {
        (0..self.channels / self.panel).collect()
    }

    /// Columns of these panels as an index of a product.
    fn columns<'a>(&self, panels: &'a [usize]) -> Axis<'a> {
        Axis { starts: panels, unit: self.tiles * self.panel, len: self.panel, step: 1 }
    }

    fn rows(&self) -> Axis<'static> {
        Axis::line(self.tiles, self.panel)
    }
}

/// Transforms the patches of tiles `first..` of maps into a block; outside of a map there are zeros.
struct Gather<'a, T, const I: usize> {
    transform: PhantomData<T>,
    map: Map,
    origin: usize,
    images: &'a [f32],
    first: usize,
    block: Block,
    out: &'a mut [f32],
}

impl<T: Transform<I, PATCH>, const I: usize> Kernel for Gather<'_, T, I> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Gather { map, origin, images, first, block, out, .. } = self;
        let channels = map.channels;
        assert!(channels.is_multiple_of(S::F32::LANES) && channels == block.channels && out.len() >= block.len());
        let zeros = vec![0.0; channels];
        for tile in 0..block.tiles {
            let (image, y, x) = map.corner(first + tile, origin);
            let image = &images[image * map.len()..][..map.len()];
            let mut pixels = [[zeros.as_ptr(); I]; I];
            for (i, row) in pixels.iter_mut().enumerate() {
                for (j, pixel) in row.iter_mut().enumerate() {
                    if let Some(place) = map.pixel(y + i as isize, x + j as isize) {
                        *pixel = image[place].as_ptr();
                    }
                }
            }
            for channel in (0..channels).step_by(S::F32::LANES) {
                // SAFETY: each pixel has `channels` floats; writes end before `block.len()`, checked above.
                unsafe {
                    let mut d = [[simd.splat(0.0); I]; I];
                    for (d, pixels) in d.iter_mut().zip(&pixels) {
                        for (d, pixel) in d.iter_mut().zip(pixels) {
                            *d = simd.load(pixel.add(channel));
                        }
                    }
                    let to = out.as_mut_ptr().add(block.offset(tile, channel));
                    let values = transform::<T, S, I, PATCH>(simd, &d);
                    for (i, values) in values.iter().enumerate() {
                        for (j, value) in values.iter().enumerate() {
                            value.store(to.add((i * PATCH + j) * block.stride()));
                        }
                    }
                }
            }
        }
    }
}

/// Transforms a block back into maps: tiles that touch are written, patches that overlap are added.
struct Scatter<'a, T, const O: usize> {
    transform: PhantomData<T>,
    map: Map,
    origin: usize,
    add: bool,
    images: &'a mut [f32],
    first: usize,
    block: Block,
    values: &'a [f32],
}

impl<T: Transform<PATCH, O>, const O: usize> Kernel for Scatter<'_, T, O> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Scatter { map, origin, add, images, first, block, values, .. } = self;
        let channels = map.channels;
        assert!(channels.is_multiple_of(S::F32::LANES) && channels == block.channels && values.len() >= block.len());
        // Takes what isn't on the map.
        let mut nowhere = vec![0.0; channels];
        for tile in 0..block.tiles {
            let (image, y, x) = map.corner(first + tile, origin);
            // One pointer for all pixels: a second borrow of the image would invalidate those that were made before.
            let image = images[image * map.len()..][..map.len()].as_mut_ptr();
            let mut pixels = [[nowhere.as_mut_ptr(); O]; O];
            for (i, row) in pixels.iter_mut().enumerate() {
                for (j, pixel) in row.iter_mut().enumerate() {
                    if let Some(place) = map.pixel(y + i as isize, x + j as isize) {
                        // SAFETY: the pixel is on the map, whose floats the slice was cut to.
                        *pixel = unsafe { image.add(place.start) };
                    }
                }
            }
            for channel in (0..channels).step_by(S::F32::LANES) {
                // SAFETY: each pixel has `channels` floats; reads end before `block.len()`, checked above.
                unsafe {
                    let from = values.as_ptr().add(block.offset(tile, channel));
                    let mut m = [[simd.splat(0.0); PATCH]; PATCH];
                    for (i, m) in m.iter_mut().enumerate() {
                        for (j, m) in m.iter_mut().enumerate() {
                            *m = simd.load(from.add((i * PATCH + j) * block.stride()));
                        }
                    }
                    let out = transform::<T, S, PATCH, O>(simd, &m);
                    for (out, pixels) in out.iter().zip(&pixels) {
                        for (value, pixel) in out.iter().zip(pixels) {
                            let to = pixel.add(channel);
                            if add {
                                (simd.load(to) + *value).store(to);
                            } else {
                                value.store(to);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Weights `[rows][columns]` of 3x3, `row_step` and `column_step` apart, transformed: `[columns / panel][POINTS][rows][panel]`.
struct WeightPanel<'a> {
    weights: &'a [f32],
    rows: usize,
    row_step: usize,
    column_step: usize,
    panel: usize,
    out: &'a mut [f32],
}

impl Kernel for WeightPanel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { weights, rows, row_step, column_step, panel, out } = self;
        assert!(panel.is_multiple_of(S::F32::LANES) && out.len() == POINTS * rows * panel);
        let mut lanes = [[0.0; 16]; 9];
        assert!(S::F32::LANES <= lanes[0].len());
        for row in 0..rows {
            for first in (0..panel).step_by(S::F32::LANES) {
                for lane in 0..S::F32::LANES {
                    let kernel = &weights[row * row_step + (first + lane) * column_step..][..9];
                    for (lanes, weight) in lanes.iter_mut().zip(kernel) {
                        lanes[lane] = *weight;
                    }
                }
                // SAFETY: `lanes` holds a register's floats; writes end before `POINTS * rows * panel`, checked above.
                unsafe {
                    let mut g = [[simd.splat(0.0); 3]; 3];
                    for (i, g) in g.iter_mut().enumerate() {
                        for (j, g) in g.iter_mut().enumerate() {
                            *g = simd.load(lanes[i * 3 + j].as_ptr());
                        }
                    }
                    let values = transform::<Weights, S, 3, PATCH>(simd, &g);
                    let to = out.as_mut_ptr().add(row * panel + first);
                    for (i, values) in values.iter().enumerate() {
                        for (j, value) in values.iter().enumerate() {
                            value.store(to.add((i * PATCH + j) * rows * panel));
                        }
                    }
                }
            }
        }
    }
}

/// The gradients of a panel of filters, `[panel][channels][3][3]`, from `[POINTS][channels][panel]`.
struct WeightGradientPanel<'a> {
    values: &'a [f32],
    channels: usize,
    panel: usize,
    out: &'a mut [f32],
}

impl Kernel for WeightGradientPanel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { values, channels, panel, out } = self;
        assert!(panel.is_multiple_of(S::F32::LANES) && values.len() == POINTS * channels * panel);
        let mut lanes = [[0.0; 16]; 9];
        assert!(S::F32::LANES <= lanes[0].len());
        for channel in 0..channels {
            for first in (0..panel).step_by(S::F32::LANES) {
                // SAFETY: `lanes` holds a register's floats; reads end before `POINTS * channels * panel`, checked above.
                unsafe {
                    let from = values.as_ptr().add(channel * panel + first);
                    let mut u = [[simd.splat(0.0); PATCH]; PATCH];
                    for (i, u) in u.iter_mut().enumerate() {
                        for (j, u) in u.iter_mut().enumerate() {
                            *u = simd.load(from.add((i * PATCH + j) * channels * panel));
                        }
                    }
                    let gradient = transform::<WeightGradient, S, PATCH, 3>(simd, &u);
                    for (i, gradient) in gradient.iter().enumerate() {
                        for (j, value) in gradient.iter().enumerate() {
                            value.store(lanes[i * 3 + j].as_mut_ptr());
                        }
                    }
                }
                for lane in 0..S::F32::LANES {
                    let kernel = &mut out[((first + lane) * channels + channel) * 9..][..9];
                    for (weight, lanes) in kernel.iter_mut().zip(&lanes) {
                        *weight = lanes[lane];
                    }
                }
            }
        }
    }
}

/// A convolution as 36 matrix products.
pub(super) struct Winograd<'a> {
    conv: &'a Conv,
    input: Map,
    output: Map,
    /// `[columns / panel][POINTS][rows][panel]`: channels by filters, transposed for the input's gradient.
    weights: Vec<f32>,
}

impl<'a> Winograd<'a> {
    /// True for convolutions that this algorithm computes, and faster than the direct sum.
    pub(super) fn takes(conv: &Conv) -> bool {
        conv.kernel == [3, 3]
            && conv.stride == 1
            && conv.padding == 1
            && conv.height > 2
            && conv.width > 2
            && conv.channels.is_multiple_of(lanes())
            && conv.filters.is_multiple_of(lanes())
    }

    pub(super) fn new(conv: &'a Conv, w: &[f32], direction: Direction) -> Self {
        let map = |channels| Map { height: conv.height, width: conv.width, channels };
        let (input, output) = (map(conv.channels), map(conv.filters));
        Self { conv, input, output, weights: weights(conv, w, direction) }
    }

    /// Tiles that are worked on together: enough to be worth the reading of the weights, few enough for the cache.
    fn block_tiles(&self) -> usize {
        if self.conv.channels * self.conv.filters > 64 * 64 { 128 } else { 64 }
    }

    /// First tile and number of tiles of each block.
    fn blocks(&self, tiles: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let size = self.block_tiles();
        (0..tiles).step_by(size).map(move |first| (first, size.min(tiles - first)))
    }

    /// `to = from * weights` for each point.
    fn multiply(&self, from: Block, a: &[f32], to: Block, c: &mut [f32]) {
        let panels = from.panels();
        // The panels of `b` lie behind each other.
        let b_rows = Axis { starts: &panels, unit: from.panel * to.panel, len: from.panel, step: to.panel };
        for point in 0..POINTS {
            let a = from.matrix(point, a);
            let c = to.matrix_mut(point, c).chunks_mut(to.tiles * to.panel);
            for (b, c) in self.weights.chunks(POINTS * from.channels * to.panel).zip(c) {
                Product {
                    a,
                    rows: from.rows(),
                    depth: from.columns(&panels),
                    b: &b[point * from.channels * to.panel..][..from.channels * to.panel],
                    b_rows,
                    c,
                    c_rows: to.rows(),
                    width: to.panel,
                    accumulate: false,
                }
                .compute();
            }
        }
    }

    /// Adds the weights' gradient of a block to `sum`, `[filters / panel][POINTS][channels][panel]`.
    fn add_weight_gradient(&self, input: Block, inputs: &[f32], output: Block, gradients: &[f32], sum: &mut [f32]) {
        let panels = input.panels();
        for point in 0..POINTS {
            let a = input.matrix(point, inputs);
            let b = output.matrix(point, gradients).chunks(output.tiles * output.panel);
            for (b, c) in b.zip(sum.chunks_mut(POINTS * input.channels * output.panel)) {
                Product {
                    a,
                    rows: input.columns(&panels),
                    depth: input.rows(),
                    b,
                    b_rows: output.rows(),
                    c: &mut c[point * input.channels * output.panel..][..input.channels * output.panel],
                    c_rows: Axis::line(input.channels, output.panel),
                    width: output.panel,
                    accumulate: true,
                }
                .compute();
            }
        }
    }
}

fn weights(conv: &Conv, w: &[f32], direction: Direction) -> Vec<f32> {
    let Conv { channels, filters, .. } = *conv;
    let (rows, row_step, columns, column_step) = match direction {
        Direction::Forward => (channels, 9, filters, channels * 9),
        Direction::InputGradient => (filters, channels * 9, channels, 9),
    };
    let panel = panel(columns);
    let fill = |_: &mut (), index: usize, out: &mut [f32]| {
        let weights = &w[index * panel * column_step..];
        dispatch(WeightPanel { weights, rows, row_step, column_step, panel, out });
    };
    in_parts(POINTS * rows * columns, POINTS * rows * panel, || (), fill).0
}

impl Algorithm for Winograd<'_> {
    fn images(&self) -> usize {
        self.conv.images_for(self.block_tiles(), self.input.tiles())
    }

    fn forward(&self, buffers: &mut [Vec<f32>; 2], x: &[f32], out: &mut [f32]) {
        let images = x.len() / self.input.len();
        for (first, tiles) in self.blocks(images * self.input.tiles()) {
            let (input, output) = (Block::new(tiles, self.input.channels), Block::new(tiles, self.output.channels));
            let [from, to] = buffers;
            from.resize(input.len(), 0.0);
            to.resize(output.len(), 0.0);
            gather::<Input, PATCH>(self.input, 1, x, first, input, from);
            self.multiply(input, from, output, to);
            scatter::<Output, TILE>(self.output, 0, out, first, output, to);
        }
    }

    fn sum_len(&self) -> usize {
        POINTS * self.input.channels * self.output.channels
    }

    fn backward(
        &self,
        buffers: &mut [Vec<f32>; 2],
        x: &[f32],
        out_gradient: &[f32],
        mut input: Option<&mut [f32]>,
        mut weights: Option<&mut [f32]>,
    ) {
        let images = x.len() / self.input.len();
        for (first, tiles) in self.blocks(images * self.input.tiles()) {
            let (inputs, outputs) = (Block::new(tiles, self.input.channels), Block::new(tiles, self.output.channels));
            let [of_input, of_output] = buffers;
            of_input.resize(inputs.len(), 0.0);
            of_output.resize(outputs.len(), 0.0);
            gather::<OutputGradient, TILE>(self.output, 0, out_gradient, first, outputs, of_output);
            if let Some(input) = &mut input {
                self.multiply(outputs, of_output, inputs, of_input);
                scatter::<InputGradient, PATCH>(self.input, 1, input, first, inputs, of_input);
            }
            if let Some(sum) = &mut weights {
                gather::<Input, PATCH>(self.input, 1, x, first, inputs, of_input);
                self.add_weight_gradient(inputs, of_input, outputs, of_output, sum);
            }
        }
    }

    fn weight_gradient(&self, sums: &[Vec<f32>]) -> Vec<f32> {
        let (channels, panel) = (self.input.channels, panel(self.output.channels));
        let part = panel * channels * 9;
        let fill = |total: &mut Vec<f32>, index: usize, out: &mut [f32]| {
            let range = index * POINTS * channels * panel..(index + 1) * POINTS * channels * panel;
            total.clear();
            total.extend_from_slice(&sums[0][range.clone()]);
            for sum in &sums[1..] {
                for (total, value) in total.iter_mut().zip(&sum[range.clone()]) {
                    *total += value;
                }
            }
            dispatch(WeightGradientPanel { values: total, channels, panel, out });
        };
        in_parts(self.output.channels * channels * 9, part, Vec::new, fill).0
    }
}

fn gather<T: Transform<I, PATCH>, const I: usize>(
    map: Map,
    origin: usize,
    images: &[f32],
    first: usize,
    block: Block,
    out: &mut [f32],
) {
    dispatch(Gather::<T, I> { transform: PhantomData, map, origin, images, first, block, out });
}

fn scatter<T: Transform<PATCH, O>, const O: usize>(
    map: Map,
    origin: usize,
    images: &mut [f32],
    first: usize,
    block: Block,
    values: &[f32],
) {
    // Tiles of the output touch, patches of the input overlap.
    let add = O > TILE;
    dispatch(Scatter::<T, O> { transform: PhantomData, map, origin, add, images, first, block, values });
}
