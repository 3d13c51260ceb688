//! What a chip's conversions make of a convolution's sums: for evaluation with fake quantizers, and for training that knows the converter.
//!
//! A convolution on the chip is that of the weights that its cells hold, plus what each conversion of a partial sum adds: saturation,
//! rounding and noise. Only the latter is computed here, from the numbers of ones that inputs and weights have in common. The macro
//! execution, which multiplies bytes and adds up converted sums, shares the mapping and the noise's numbers with it and nothing else.

use rayon::prelude::*;

use crate::deploy::integer::IntegerConv;
use crate::engine::{Digits, LANES, digit_sums};
use crate::error::Result;
use crate::hardware::{ConvMapping, ConversionNoise, Converter, Hardware, stuck_weights};
use crate::network::{ConvShape, MapShape};

/// Bits of a word.
const WORD: usize = u64::BITS as usize;
/// Largest table of a converter.
const TABLE: i64 = 1 << 16;

/// The weights that the cells hold: those that are stuck hold their own; groups that aren't mapped have none.
pub(crate) fn cells(
    layer: u32,
    name: &str,
    shape: ConvShape,
    conv: &IntegerConv,
    hardware: &Hardware,
) -> Result<Vec<i8>> {
    let Some(noise) = hardware.noise.filter(|noise| noise.has_stuck_cells()) else {
        return Ok(conv.weights.clone());
    };
    let mapping = ConvMapping::new(name, shape, conv, hardware)?;
    let kept = mapping.grid.kept(&conv.weights);
    let mut weights = stuck_weights(&noise, &conv.weights, mapping.precision.weight_bits, layer);
    for (index, weight) in weights.iter_mut().enumerate().filter(|(index, _)| !kept[mapping.grid.group_of(*index)]) {
        debug_assert!(conv.weights[index] == 0);
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
    weights: Vec<Vec<[u64; LANES]>>,
}

/// A word of a block's inputs, and its place on the word lines.
struct Piece {
    /// From the window's start.
    offset: usize,
    word: usize,
    shift: usize,
}

/// What a converter makes of a sum.
enum Conversion {
    Exact,
    /// Every code between the saturated ends.
    Table {
        low: i32,
        values: Vec<i32>,
    },
    Clamp {
        low: i32,
        high: i32,
    },
    Divide {
        converter: Converter,
        signed: bool,
    },
}

impl Conversion {
    fn new(converter: Converter, signed: bool) -> Self {
        match converter {
            Converter::Ideal => Self::Exact,
            Converter::Clipping { range } => Self::Clamp { low: -range, high: range },
            Converter::Bits { bits, step } => {
                let [low, high] = codes(bits, signed).map(|code| code * i64::from(step));
                if high - low >= TABLE {
                    return Self::Divide { converter, signed };
                }
                let values = (low..=high).map(|sum| convert(converter, signed, sum as i32)).collect();
                Self::Table { low: low as i32, values }
            }
        }
    }

    fn apply(&self, sum: i32) -> i32 {
        match self {
            Self::Exact => sum,
            Self::Clamp { low, high } => sum.clamp(*low, *high),
            Self::Table { low, values } => values[(sum.max(*low) - low).min(values.len() as i32 - 1) as usize],
            Self::Divide { converter, signed } => convert(*converter, *signed, sum),
        }
    }
}

/// The least and the largest code.
fn codes(bits: u8, signed: bool) -> [i64; 2] {
    let low = if signed { -(1i64 << (bits - 1)) } else { 0 };
    [low, low + (1 << bits) - 1]
}

/// `round_half_up(sum / step)`, saturated to the codes, times `step`.
fn convert(converter: Converter, signed: bool, sum: i32) -> i32 {
    let Converter::Bits { bits, step } = converter else { unreachable!("other converters have no codes") };
    let [low, high] = codes(bits, signed);
    let (sum, step) = (i64::from(sum), i64::from(step));
    let code = (2 * sum + step).div_euclid(2 * step).clamp(low, high);
    (code * step) as i32
}

impl Conversions {
    /// The conversions of layer number `layer`, whose cells hold `cells`; `None` where they lose nothing.
    ///
    /// # Errors
    /// Weights wider than the macro's.
    pub(crate) fn new(
        layer: u32,
        name: &str,
        shape: ConvShape,
        conv: &IntegerConv,
        cells: &[i8],
        padding: Vec<u8>,
        hardware: &Hardware,
    ) -> Result<Option<Self>> {
        let noise = hardware.noise.and_then(|noise| ConversionNoise::new(&noise, hardware.converter, layer));
        if noise.is_none() && hardware.converter == Converter::Ideal {
            return Ok(None);
        }
        let mapping = ConvMapping::new(name, shape, conv, hardware)?;
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
            shape,
            padding,
            block: hardware.group.channels,
            set: hardware.group.filters,
            slices: (0..digits.slices).map(slice).collect(),
            digits,
            noise,
            blocks: mapping.grid.blocks(),
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

    fn row(&self) -> usize {
        self.shape.input.width + 2 * self.shape.padding
    }

    fn pixel_words(&self) -> usize {
        self.blocks * self.block_words
    }

    /// Lays a bundle's weights out as its word lines see them.
    fn load(&self, mapping: &ConvMapping, set: usize, groups: &[usize], cells: &[i8]) -> Bundle {
        let (taps, channels) = (mapping.grid.taps, mapping.grid.channels);
        let per_word = (WORD / self.block).max(1);
        let mut bundle = Bundle { words: 0, pieces: Vec::new(), weights: Vec::new() };
        for (section, group) in groups.iter().enumerate() {
            let (tap, block) = (group % taps, group / taps);
            let [y, x] = [tap / self.shape.kernel[1], tap % self.shape.kernel[1]];
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
                let (tap, block) = (group % taps, group / taps);
                for (lane, filter) in (first..filters.end.min(first + LANES)).enumerate() {
                    for (row, channel) in (block * self.block..channels.min((block + 1) * self.block)).enumerate() {
                        let weight = cells[(filter * channels + channel) * taps + tap];
                        let piece = &bundle.pieces[section * self.block_words + row / WORD];
                        for bit in 0..bits {
                            // The sign fills the bits above the weight's own.
                            let one = (weight >> bit.min(7) & 1) as u8;
                            weights[bit * bundle.words + piece.word][lane] |=
                                u64::from(one) << (piece.shift + row % WORD);
                        }
                    }
                }
            }
            bundle.weights.push(weights);
        }
        bundle
    }

    /// What the conversions add to the sums `[image][pixel][filter]` of inputs `[image][pixel][channel]`; `first` is the number of the
    /// first picture, from which noise follows.
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
    fn spread(&self, input: &[u8], planes: &mut Vec<u64>) {
        let MapShape { channels, height, width } = self.shape.input;
        let (padding, row, pixel_words) = (self.shape.padding, self.row(), self.pixel_words());
        let bits = self.digits.phases * self.digits.phase_bits;
        planes.clear();
        planes.resize(bits * self.plane(), 0);
        for y in 0..height + 2 * padding {
            for x in 0..row {
                let inside = (padding..padding + height).contains(&y) && (padding..padding + width).contains(&x);
                let values = match inside {
                    true => &input[((y - padding) * width + x - padding) * channels..][..channels],
                    false => &self.padding,
                };
                for (channel, value) in values.iter().enumerate().filter(|(_, value)| **value != 0) {
                    let in_block = channel % self.block;
                    let word = (y * row + x) * pixel_words + channel / self.block * self.block_words + in_block / WORD;
                    for bit in 0..bits.min(8) {
                        planes[bit * self.plane() + word] |= u64::from(value >> bit & 1) << (in_block % WORD);
                    }
                }
            }
        }
    }

    /// Words of one bit of the input.
    fn plane(&self) -> usize {
        (self.shape.input.height + 2 * self.shape.padding) * self.row() * self.pixel_words()
    }

    fn image(&self, image: u64, planes: &[u64], errors: &mut [i32]) {
        let (pixels, filters, width) = (self.shape.output.pixels(), self.shape.filters(), self.shape.output.width);
        let start = |pixel: usize| {
            let [y, x] = [pixel / width, pixel % width];
            (y * self.shape.stride * self.row() + x * self.shape.stride) * self.pixel_words()
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
                        for (index, partial) in partial.iter().enumerate() {
                            let (slice, phase) = (index / self.digits.phases, index % self.digits.phases);
                            let noise = self.noise.zip(stream).map(|(noise, stream)| {
                                let number = number * partial_len(&self.digits) + index;
                                noise.pair(stream, (pixel / 2) as u32, number as u32)
                            });
                            let Slice { place, conversion } = &self.slices[slice];
                            let place = place << (phase * self.digits.phase_bits);
                            add_errors(conversion, place, partial, noise, &mut sums);
                        }
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
    fn gather(&self, bundle: &Bundle, starts: [usize; 2], planes: &[u64], inputs: &mut Vec<u64>) {
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

/// Conversions of an access.
fn partial_len(digits: &Digits) -> usize {
    digits.slices * digits.phases
}

/// Adds what the conversion of each partial sum changes, at its place.
fn add_errors(
    conversion: &Conversion,
    place: i32,
    partial: &[[i32; LANES]; 2],
    noise: Option<[[i32; LANES]; 2]>,
    sums: &mut [[i32; LANES]; 2],
) {
    let mut disturbed = *partial;
    for (sum, noise) in disturbed.as_flattened_mut().iter_mut().zip(noise.iter().flatten().flatten()) {
        *sum += noise;
    }
    let all = sums.as_flattened_mut().iter_mut().zip(disturbed.as_flattened()).zip(partial.as_flattened());
    match conversion {
        // The usual one, without a decision in the loop.
        Conversion::Table { low, values } => {
            let last = values.len() as i32 - 1;
            for ((sum, disturbed), partial) in all {
                *sum += (values[(disturbed - low).clamp(0, last) as usize] - partial) * place;
            }
        }
        _ => {
            for ((sum, disturbed), partial) in all {
                *sum += (conversion.apply(*disturbed) - partial) * place;
            }
        }
    }
}
