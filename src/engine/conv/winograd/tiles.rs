//! Maps cut into tiles, and the matrices of transformed tiles.
//!
//! Matrices are kept in *panels* of [`panel`] columns, `[columns / panel][rows][panel]`, so that the products read them in order.

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use super::transform::{PATCH, POINTS, TILE, Transform, transform};
use crate::engine::conv::product::{Axis, COLUMNS};
use crate::simd::{Floats, Kernel, Simd, dispatch};

/// Floats between two matrices, so that those of one tile don't fall on the same lines of the cache.
const GAP: usize = 16;

/// Columns of a panel for matrices of `columns` columns.
pub(super) fn panel(columns: usize) -> usize {
    let wide = 2 * COLUMNS;
    if columns.is_multiple_of(wide) { wide } else { COLUMNS }
}

/// Maps `[image][height][width][channels]` cut into tiles, `TILE` apart.
#[derive(Clone, Copy)]
pub(super) struct Map {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

impl Map {
    fn tile_columns(&self) -> usize {
        self.width.div_ceil(TILE)
    }

    pub(super) fn tiles(&self) -> usize {
        self.height.div_ceil(TILE) * self.tile_columns()
    }

    pub(super) fn len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Image and corner of the patch of a tile, `origin` before the tile's.
    fn corner(&self, tile: usize, origin: usize) -> (usize, isize, isize) {
        let (image, tile) = (tile / self.tiles(), tile % self.tiles());
        let at = |index: usize| (index * TILE) as isize - origin as isize;
        (image, at(tile / self.tile_columns()), at(tile % self.tile_columns()))
    }

    /// For the `I` by `I` pixels from a corner on what `at` makes of the place of their first floats, `outside` of those that aren't on the map.
    #[inline(always)]
    fn pixels<P: Copy, const I: usize>(
        &self,
        (y, x): (isize, isize),
        outside: P,
        at: impl Fn(usize) -> P,
    ) -> [[P; I]; I] {
        let mut pixels = [[outside; I]; I];
        let inside = |first: isize, size: usize| first >= 0 && first as usize + I <= size;
        if inside(y, self.height) && inside(x, self.width) {
            let corner = y as usize * self.width + x as usize;
            for (i, row) in pixels.iter_mut().enumerate() {
                for (j, pixel) in row.iter_mut().enumerate() {
                    *pixel = at((corner + i * self.width + j) * self.channels);
                }
            }
            return pixels;
        }
        for (i, row) in pixels.iter_mut().enumerate() {
            let Some(y) = usize::try_from(y + i as isize).ok().filter(|y| *y < self.height) else { continue };
            for (j, pixel) in row.iter_mut().enumerate() {
                if let Some(x) = usize::try_from(x + j as isize).ok().filter(|x| *x < self.width) {
                    *pixel = at((y * self.width + x) * self.channels);
                }
            }
        }
        pixels
    }
}

/// Where the transformed tiles of a block lie: `[POINTS]` matrices of `tiles` rows and `channels` columns, in panels.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub tiles: usize,
    pub channels: usize,
    pub panel: usize,
}

impl Block {
    pub(super) fn new(tiles: usize, channels: usize) -> Self {
        Self { tiles, channels, panel: panel(channels) }
    }

    /// Of some panels of a map's channels.
    pub(super) fn of_panels(tiles: usize, panels: usize, panel: usize) -> Self {
        Self { tiles, channels: panels * panel, panel }
    }

    /// From the matrix of a point to the next one's.
    pub(super) fn stride(&self) -> usize {
        self.tiles * self.channels + GAP
    }

    pub(super) fn len(&self) -> usize {
        POINTS * self.stride()
    }

    fn offset(&self, tile: usize, channel: usize) -> usize {
        channel / self.panel * self.tiles * self.panel + tile * self.panel + channel % self.panel
    }

    /// Numbers of the panels.
    pub(super) fn panels(&self) -> Vec<usize> {
        (0..self.channels / self.panel).collect()
    }

    /// Columns of these panels as an index of a product.
    pub(super) fn columns<'a>(&self, panels: &'a [usize]) -> Axis<'a> {
        Axis { starts: panels, unit: self.tiles * self.panel, len: self.panel, step: 1 }
    }

    pub(super) fn rows(&self) -> Axis<'static> {
        Axis::line(self.tiles, self.panel)
    }
}

/// Transforms the patches of tiles `first..` of maps into a block of the channels from `start` on; outside of a map there are zeros.
struct Gather<'a, T, const I: usize> {
    transform: PhantomData<T>,
    map: Map,
    origin: usize,
    start: usize,
    images: &'a [f32],
    first: usize,
    block: Block,
    out: &'a mut [f32],
}

impl<T: Transform<I, PATCH>, const I: usize> Kernel for Gather<'_, T, I> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Gather { map, origin, start, images, first, block, out, .. } = self;
        let channels = block.channels;
        assert!(channels.is_multiple_of(S::F32::LANES) && out.len() >= block.len());
        assert!(start + channels <= map.channels);
        let zeros = vec![0.0; channels];
        for tile in 0..block.tiles {
            let (image, y, x) = map.corner(first + tile, origin);
            let image = &images[image * map.len()..][..map.len()];
            let image = image[start..].as_ptr();
            let pixels: [[_; I]; I] = map.pixels((y, x), zeros.as_ptr(), |place| image.wrapping_add(place));
            for channel in (0..channels).step_by(S::F32::LANES) {
                // SAFETY: each pixel has `channels` floats from `start` on; writes end before `block.len()`, checked above.
                unsafe {
                    let mut d = [[simd.splat(0.0); I]; I];
                    for (d, pixels) in d.iter_mut().zip(&pixels) {
                        for (column, (d, pixel)) in d.iter_mut().zip(pixels).enumerate() {
                            *d = simd.load(pixel.add(channel));
                            // Those of the next tile that aren't of this one.
                            if column >= I - TILE {
                                simd.prefetch(pixel.wrapping_add(channel + TILE * map.channels));
                            }
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

/// Maps that a block is transformed back into.
pub(super) enum Target<'a> {
    /// Whose tiles touch: they are written.
    Tiles(&'a mut [MaybeUninit<f32>]),
    /// Whose patches overlap: they are added.
    Patches(&'a mut [f32]),
}

/// Transforms a block back into maps.
struct Scatter<'a, T, const O: usize> {
    transform: PhantomData<T>,
    map: Map,
    origin: usize,
    target: Target<'a>,
    first: usize,
    block: Block,
    values: &'a [f32],
}

impl<T: Transform<PATCH, O>, const O: usize> Kernel for Scatter<'_, T, O> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Scatter { map, origin, target, first, block, values, .. } = self;
        let channels = map.channels;
        assert!(channels.is_multiple_of(S::F32::LANES) && channels == block.channels && values.len() >= block.len());
        let (images, len, add) = match target {
            Target::Tiles(images) => (images.as_mut_ptr().cast(), images.len(), false),
            Target::Patches(images) => (images.as_mut_ptr(), images.len(), true),
        };
        assert!(first + block.tiles <= len / map.len() * map.tiles());
        // Takes what isn't on the map.
        let mut nowhere = vec![0.0; channels];
        for tile in 0..block.tiles {
            let (image, y, x) = map.corner(first + tile, origin);
            let image = images.wrapping_add(image * map.len());
            let pixels: [[_; O]; O] = map.pixels((y, x), nowhere.as_mut_ptr(), |place| image.wrapping_add(place));
            for channel in (0..channels).step_by(S::F32::LANES) {
                // SAFETY: each pixel has `channels` floats of one of the images; reads end before `block.len()`, checked above.
                unsafe {
                    let from = values.as_ptr().add(block.offset(tile, channel));
                    let mut m = [[simd.splat(0.0); PATCH]; PATCH];
                    for (i, m) in m.iter_mut().enumerate() {
                        for (j, m) in m.iter_mut().enumerate() {
                            let from = from.add((i * PATCH + j) * block.stride());
                            *m = simd.load(from);
                            // Of the next tile: matrices are more than the machine's own prefetching follows.
                            simd.prefetch(from.wrapping_add(block.panel));
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

pub(super) fn gather<T: Transform<I, PATCH>, const I: usize>(
    map: Map,
    origin: usize,
    start: usize,
    images: &[f32],
    first: usize,
    block: Block,
    out: &mut [f32],
) {
    dispatch(Gather::<T, I> { transform: PhantomData, map, origin, start, images, first, block, out });
}

pub(super) fn scatter<T: Transform<PATCH, O>, const O: usize>(
    map: Map,
    origin: usize,
    target: Target,
    first: usize,
    block: Block,
    values: &[f32],
) {
    dispatch(Scatter::<T, O> { transform: PhantomData, map, origin, target, first, block, values });
}
