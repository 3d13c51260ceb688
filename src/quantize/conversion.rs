//! What a chip's conversions make of a convolution's sums: for evaluation with fake quantizers, and for training that knows the converter.
//!
//! `chip(x) = conv(x, stored_weights) + sum of conversion_error`, where an error is saturation, rounding and noise of one partial sum. This
//! module computes only the second term, with bit-serial products: partial sums are popcounts of inputs AND weights. The macro execution,
//! which adds up what converters make of sums (dot products of bytes, or counts that a table converts), shares the mapping and the numbers
//! of conversions with it and nothing else.

use rayon::prelude::*;

use crate::engine::{Digits, digit_sums};
use crate::error::Result;
use crate::hardware::{ConvMapping, ConversionNoise, ConversionNumbers, Converter, Hardware, stuck_weights};
use crate::integer::IntegerConv;
use crate::network::{Conv, ConvShape, MapShape};
use crate::simd::{LANES, Word, vectorized};

/// Bits of a word.
const WORD: usize = Word::BITS as usize;

/// The weights that the cells hold: those that are stuck hold their own; groups that aren't mapped have none.
pub(crate) fn cells(conv: &Conv, integer: &IntegerConv, hardware: &Hardware) -> Result<Vec<i8>> {
    let Some(noise) = hardware.noise.filter(|noise| noise.has_stuck_cells()) else {
        return Ok(integer.weights.clone());
    };
    let mapping = ConvMapping::new(&conv.name, conv.shape, integer, hardware)?;
    let kept = mapping.grid.kept(&integer.weights);
    let mut weights = stuck_weights(&noise, &integer.weights, mapping.precision.weight_bits, conv.id);
    for (index, weight) in weights.iter_mut().enumerate().filter(|(index, _)| !kept[mapping.grid.group_of(*index)]) {
        debug_assert!(integer.weights[index] == 0);
        *weight = 0;
    }
    Ok(weights)
}

/// The conversions of one convolution.
pub(crate) struct Conversions {
    shape: ConvShape,
    /// What borders of the input hold, a value a channel.
    padding: Vec<u8>,
    /// Channels and filters of a group.
    block: usize,
    set: usize,
    slices: Vec<Slice>,
    /// Digits of a bundle but for its words.
    digits: Digits,
    numbers: ConversionNumbers,
    noise: Option<ConversionNoise>,
    /// Blocks of a pixel, and words of a block.
    blocks: usize,
    block_words: usize,
    /// Of each filter set, in their order.
    bundles: Vec<Vec<Bundle>>,
}

/// A digit of the weights.
struct Slice {
    place: i32,
    conversion: Conversion,
}

/// Groups that share the word lines.
struct Bundle {
    words: usize,
    pieces: Vec<Piece>,
    /// For each vector of lanes `[bit][word]`.
    weights: Vec<Vec<[Word; LANES]>>,
}

/// A word of a block's inputs, and its place on the word lines.
struct Piece {
    /// From the window's start.
    offset: usize,
    word: usize,
    shift: usize,
}

/// What a converter makes of a sum.
#[derive(Clone, Copy)]
enum Conversion {
    /// Sums stay as they are.
    Exact,
    /// Between `low` and `high`, `low` and the multiple of `step` that is nearest to the rest, of two the upper one.
    ///
    /// With `n = 2 (sum - low) + step` that is `low + floor(n / 2 step) step`; the quotient is `n factor >> shift`.
    Rounded { low: i32, high: i32, step: i32, factor: u32, shift: u32 },
    /// The same where those products need more than 32 bits.
    Divided { low: i32, high: i32, step: i32 },
}

impl Conversion {
    fn new(converter: Converter, signed: bool) -> Self {
        let (low, high, step) = match converter {
            Converter::Ideal | Converter::AdderTree => return Self::Exact,
            Converter::Clipping { range } => (-range, range, 1),
            Converter::Bits { bits, step } => {
                let lowest = if signed { -(1 << (bits - 1)) } else { 0 };
                (lowest * step, (lowest + (1 << bits) - 1) * step, step)
            }
        };
        let divisor = 2 * step as u64;
        let largest = 2 * (i64::from(high) - i64::from(low)) as u64 + step as u64;
        // `factor = ceil(2^shift / divisor)` is too large by `excess / divisor`; the quotient stays right while `n excess < 2^shift`
        // (Granlund and Montgomery, *Division by invariant integers using multiplication*, PLDI 1994).
        let exact = (0..u32::BITS).find_map(|shift| {
            let factor = (1u64 << shift).div_ceil(divisor);
            let excess = factor * divisor - (1 << shift);
            let fits = largest * factor <= u32::MAX.into() && largest * excess < 1 << shift;
            fits.then_some((factor as u32, shift))
        });
        match exact {
            Some((factor, shift)) => Self::Rounded { low, high, step, factor, shift },
            None => Self::Divided { low, high, step },
        }
    }

    #[inline(always)]
    fn apply(self, mut sums: [i32; LANES]) -> [i32; LANES] {
        match self {
            Self::Exact => {}
            Self::Rounded { low, high, step, factor, shift } => {
                for sum in &mut sums {
                    let rest = (*sum).clamp(low, high).wrapping_sub(low) as u32;
                    let code = ((2 * rest + step as u32) * factor) >> shift;
                    *sum = low.wrapping_add(code.wrapping_mul(step as u32) as i32);
                }
            }
            Self::Divided { low, high, step } => {
                for sum in &mut sums {
                    let rest = i64::from((*sum).clamp(low, high)) - i64::from(low);
                    let code = (2 * rest + i64::from(step)) / (2 * i64::from(step));
                    *sum = (i64::from(low) + code * i64::from(step)) as i32;
                }
            }
        }
        sums
    }
}

impl Conversions {
    /// The conversions of a convolution whose cells hold `cells`; `None` where they lose nothing.
    ///
    /// # Errors
    /// Weights wider than the macro's.
    pub(crate) fn new(
        conv: &Conv,
        integer: &IntegerConv,
        cells: &[i8],
        padding: Vec<u8>,
        hardware: &Hardware,
    ) -> Result<Option<Self>> {
        let noise = hardware.noise.and_then(|noise| ConversionNoise::new(&noise, hardware.converter, conv.id));
        if noise.is_none() && hardware.converter.is_exact() {
            return Ok(None);
        }
        let mapping = ConvMapping::new(&conv.name, conv.shape, integer, hardware)?;
        let slice_bits = usize::from(hardware.weight_slice_bits);
        let digits = Digits {
            words: 0,
            slices: mapping.precision.slices,
            slice_bits,
            phases: mapping.precision.phases,
            phase_bits: hardware.input_bits_per_cycle.into(),
        };
        let slice = |index: usize| {
            let top = index + 1 == digits.slices;
            let place = 1i32 << (index * slice_bits);
            Slice {
                place: if top && slice_bits == 1 { -place } else { place },
                conversion: Conversion::new(hardware.converter, top && slice_bits > 1),
            }
        };
        let mut conversions = Self {
            shape: conv.shape,
            padding,
            block: hardware.group.channels,
            set: hardware.group.filters,
            slices: (0..digits.slices).map(slice).collect(),
            digits,
            numbers: mapping.precision.conversion_numbers(),
            noise,
            blocks: mapping.grid.channel_blocks(),
            block_words: hardware.group.channels.div_ceil(WORD),
            bundles: Vec::new(),
        };
        let bundle = |(set, groups): (usize, &[usize])| conversions.load(&mapping, set, groups, cells);
        let sets = mapping.sets.iter().enumerate();
        let bundles = sets.map(|(set, kept)| kept.groups.chunks(mapping.sections).map(|g| bundle((set, g))).collect());
        let bundles = bundles.collect();
        conversions.bundles = bundles;
        Ok(Some(conversions))
    }

    /// Rows of the input with its border, and pixels of one.
    fn bordered(&self) -> [usize; 2] {
        self.shape.window.bordered([self.shape.input.height, self.shape.input.width])
    }

    fn row(&self) -> usize {
        self.bordered()[1]
    }

    fn pixel_words(&self) -> usize {
        self.blocks * self.block_words
    }

    /// Lays a bundle's weights out as its word lines see them.
    fn load(&self, mapping: &ConvMapping, set: usize, groups: &[usize], cells: &[i8]) -> Bundle {
        let grid = &mapping.grid;
        let per_word = (WORD / self.block).max(1);
        let mut bundle = Bundle { words: 0, pieces: Vec::new(), weights: Vec::new() };
        for (section, group) in groups.iter().enumerate() {
            let (block, tap) = grid.place(set, *group);
            let [y, x] = self.shape.tap(tap);
            for part in 0..self.block_words {
                bundle.pieces.push(Piece {
                    offset: (y * self.row() + x) * self.pixel_words() + block * self.block_words + part,
                    word: section / per_word * self.block_words + part,
                    shift: section % per_word * self.block,
                });
            }
        }
        bundle.words = bundle.pieces.iter().map(|piece| piece.word + 1).max().unwrap_or(0);
        let filters = mapping.set_filters(set);
        let bits = self.digits.slices * self.digits.slice_bits;
        for first in filters.clone().step_by(LANES) {
            let mut weights = vec![[0; LANES]; bits * bundle.words];
            for (section, group) in groups.iter().enumerate() {
                let (block, tap) = grid.place(set, *group);
                for (lane, filter) in (first..filters.end.min(first + LANES)).enumerate() {
                    let reads = grid.reads(filter);
                    let channels = grid.block_channels(block).enumerate();
                    for (row, channel) in channels.filter(|(_, channel)| reads.contains(channel)) {
                        let weight = cells[grid.weight(filter, channel, tap)];
                        let piece = &bundle.pieces[section * self.block_words + row / WORD];
                        for bit in 0..bits {
                            // The sign fills the bits above the weight's own.
                            let one = (weight >> bit.min(7) & 1) as u8;
                            weights[bit * bundle.words + piece.word][lane] |=
                                Word::from(one) << (piece.shift + row % WORD);
                        }
                    }
                }
            }
            bundle.weights.push(weights);
        }
        bundle
    }

    /// What the conversions add to the sums `[image][pixel][filter]` of inputs `[image][pixel][channel]`; `first` is the number of the
    /// first image, from which noise follows.
    pub(crate) fn errors(&self, first: u64, inputs: &[u8]) -> Vec<i32> {
        let mut errors = vec![0; inputs.len() / self.shape.input.len() * self.shape.output.len()];
        let images = inputs.par_chunks_exact(self.shape.input.len());
        images.zip(errors.par_chunks_exact_mut(self.shape.output.len())).enumerate().for_each_init(
            Vec::new,
            |planes, (index, (input, errors))| {
                self.spread(input, planes);
                self.image(first + index as u64, planes, errors);
            },
        );
        errors
    }

    /// The input's bits, with its border: `[bit][row][column][block][word]`.
    fn spread(&self, input: &[u8], planes: &mut Vec<Word>) {
        let MapShape { channels, height, width } = self.shape.input;
        let ([rows, row], pixel_words) = (self.bordered(), self.pixel_words());
        let [[top, _], [left, _]] = self.shape.window.padding;
        let bits = self.digits.phases * self.digits.phase_bits;
        planes.clear();
        planes.resize(bits * self.plane(), 0);
        for y in 0..rows {
            for x in 0..row {
                let inside = (top..top + height).contains(&y) && (left..left + width).contains(&x);
                let values = match inside {
                    true => &input[((y - top) * width + x - left) * channels..][..channels],
                    false => &self.padding,
                };
                for (channel, value) in values.iter().enumerate().filter(|(_, value)| **value != 0) {
                    let in_block = channel % self.block;
                    let word = (y * row + x) * pixel_words + channel / self.block * self.block_words + in_block / WORD;
                    for bit in 0..bits.min(8) {
                        planes[bit * self.plane() + word] |= Word::from(value >> bit & 1) << (in_block % WORD);
                    }
                }
            }
        }
    }

    /// Words of one bit of the input.
    fn plane(&self) -> usize {
        let [rows, row] = self.bordered();
        rows * row * self.pixel_words()
    }

    fn image(&self, image: u64, planes: &[Word], errors: &mut [i32]) {
        let (pixels, filters, width) = (self.shape.output.pixels(), self.shape.filters(), self.shape.output.width);
        let start = |pixel: usize| {
            let [y, x] = [pixel / width, pixel % width];
            let [down, right] = self.shape.window.stride;
            (y * down * self.row() + x * right) * self.pixel_words()
        };
        let mut inputs = Vec::new();
        let mut partial = vec![[[0; LANES]; 2]; self.digits.slices * self.digits.phases];
        for (set, bundles) in self.bundles.iter().enumerate() {
            let end = filters.min((set + 1) * self.set);
            for (vector, filter) in (set * self.set..end).step_by(LANES).enumerate() {
                let stream = self.noise.map(|noise| noise.stream(image, set, vector));
                for pixel in (0..pixels).step_by(2) {
                    // A last pixel without a neighbor stands for two.
                    let pair = [pixel, (pixel + 1).min(pixels - 1)];
                    let mut sums = [[0; LANES]; 2];
                    for (number, bundle) in bundles.iter().enumerate() {
                        self.gather(bundle, pair.map(start), planes, &mut inputs);
                        let digits = Digits { words: bundle.words, ..self.digits };
                        digit_sums(digits, &inputs, &bundle.weights[vector], &mut partial);
                        let noise = self.noise.zip(stream).map(|(noise, stream)| Draw {
                            noise,
                            stream,
                            pixels: (pixel / 2) as u32,
                            numbers: self.numbers,
                            bundle: number,
                        });
                        add_errors(&self.slices, digits, &partial, noise, &mut sums);
                    }
                    for (pixel, sums) in (pixel..pixels).zip(&sums) {
                        let count = (end - filter).min(LANES);
                        errors[pixel * filters + filter..][..count].copy_from_slice(&sums[..count]);
                    }
                }
            }
        }
    }

    /// What the word lines take for two pixels, `[pixel][bit][word]`.
    fn gather(&self, bundle: &Bundle, starts: [usize; 2], planes: &[Word], inputs: &mut Vec<Word>) {
        inputs.clear();
        inputs.resize(2 * self.digits.phases * self.digits.phase_bits * bundle.words, 0);
        let mut rows = inputs.chunks_exact_mut(bundle.words);
        for start in starts {
            for (plane, row) in planes.chunks_exact(self.plane()).zip(&mut rows) {
                for piece in &bundle.pieces {
                    row[piece.word] |= plane[start + piece.offset] << piece.shift;
                }
            }
        }
    }
}

/// The noise of an access.
#[derive(Clone, Copy)]
struct Draw {
    noise: ConversionNoise,
    stream: [u32; 2],
    /// Number of the two pixels.
    pixels: u32,
    numbers: ConversionNumbers,
    /// Number of its bundle.
    bundle: usize,
}

vectorized! {
    /// Adds what the conversions of an access change in the sums of two pixels.
    fn add_errors(
        slices: &[Slice],
        digits: Digits,
        partial: &[[[i32; LANES]; 2]],
        noise: Option<Draw>,
        sums: &mut [[i32; LANES]; 2],
    ) {
        for (index, (slice, partial)) in slices.iter().zip(partial.chunks_exact(digits.phases)).enumerate() {
            for (phase, partial) in partial.iter().enumerate() {
                let place = slice.place << (phase * digits.phase_bits);
                let mut disturbed = *partial;
                if let Some(Draw { noise, stream, pixels, numbers, bundle }) = noise {
                    let noise = noise.pair(stream, pixels, numbers.of(bundle, index, phase) as u32);
                    for pixel in 0..2 {
                        for lane in 0..LANES {
                            disturbed[pixel][lane] += noise[pixel][lane];
                        }
                    }
                }
                for pixel in 0..2 {
                    let converted = slice.conversion.apply(disturbed[pixel]);
                    for lane in 0..LANES {
                        sums[pixel][lane] += (converted[lane] - partial[pixel][lane]) * place;
                    }
                }
            }
        }
    }
}
