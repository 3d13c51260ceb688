//! Noise of the conversions and stuck cells: random numbers that follow from where they are used and from nothing else.

use super::random::{Key, LARGEST, normals, threefry, threefry_lanes};
use crate::hardware::chip::{Converter, Noise};
use crate::network::ConvId;
use crate::simd::LANES;

/// Streams of a seed.
const CONVERSIONS: u32 = 0;
const CELLS: u32 = 1;

/// Noise on the conversions of one convolution.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConversionNoise {
    key: Key,
    /// Standard deviation, as a sum.
    sigma: f32,
    /// What is added before rounding, so that the converter's rounding decides as it would on the unrounded sum.
    offset: f32,
}

impl ConversionNoise {
    /// The noise of a convolution, `None` if there is none.
    pub(crate) fn new(noise: &Noise, converter: Converter, conv: ConvId) -> Option<Self> {
        let step = converter.lsb();
        // A code is floor((sum + noise + step / 2) / step). For whole sums and an odd step this is
        // floor((sum + round(noise) + (step - 1) / 2) / step), for an even one floor((sum + round(noise - 1/2) + step / 2) / step).
        let offset = if step % 2 == 1 { 0.0 } else { -0.5 };
        let key = threefry(seed_key(noise.seed), [CONVERSIONS, conv.number()]);
        (noise.sigma > 0.0).then_some(Self { key, sigma: (noise.sigma * f64::from(step)) as f32, offset })
    }

    /// No conversion has more noise than this, as a sum.
    pub(super) fn largest(&self) -> i32 {
        (LARGEST * f64::from(self.sigma)).ceil() as i32 + 1
    }

    /// The stream of an image's conversions by one vector of lanes of a filter set.
    pub(crate) fn stream(&self, image: u64, set: usize, vector: usize) -> Key {
        let image = threefry(self.key, [image as u32, (image >> 32) as u32]);
        threefry(image, [set as u32, vector as u32])
    }

    /// The noise of two neighboring pixels for conversion `number` of a stream, rounded to whole sums.
    #[inline(always)]
    pub(crate) fn pair(&self, stream: Key, pixels: u32, number: u32) -> [[i32; LANES]; 2] {
        let words = threefry_lanes::<LANES>(stream, pixels, number * LANES as u32);
        // Loops over arrays instead of iterators with closures, which are compiled apart and without the vector unit.
        let normals = normals(words);
        let mut noise = [[0; LANES]; 2];
        for (noise, normals) in noise.iter_mut().zip(normals) {
            for lane in 0..LANES {
                noise[lane] = round(normals[lane] * self.sigma + self.offset);
            }
        }
        noise
    }
}

/// The nearest whole number of at most `2^22`: those behind the point of `1.5 * 2^23 + x` are lost.
#[inline(always)]
fn round(x: f32) -> i32 {
    const SHIFTED: f32 = 12_582_912.0;
    (x + SHIFTED).to_bits().wrapping_sub(SHIFTED.to_bits()) as i32
}

/// Conversions that one stream numbers apart.
pub(super) const STREAM_CONVERSIONS: usize = u32::MAX as usize / LANES;

/// Weights of a convolution as the cells hold them: `bits` cells each, some of which are stuck.
///
/// `weights` in `[filters, depth, taps]` order; each weight of a layer has cells of its own.
pub(crate) fn stuck_weights(noise: &Noise, weights: &[i8], bits: u8, conv: ConvId) -> Vec<i8> {
    let key = threefry(seed_key(noise.seed), [CELLS, conv.number()]);
    // Of the 2^32 numbers, the lowest stand for a cell stuck at zero, the next ones for one stuck at one.
    let numbers = |share: f64| (share * 2f64.powi(32)).round() as u64;
    let (zero, stuck) = (numbers(noise.stuck_at_zero), numbers(noise.stuck_at_zero + noise.stuck_at_one));
    let weight = |(index, &weight): (usize, &i8)| {
        let mut cells = weight as u8;
        for pair in 0..bits.div_ceil(2) {
            let drawn = threefry(key, [index as u32, u32::from(pair)]);
            for (bit, number) in (2 * pair..bits).zip(drawn.map(u64::from)) {
                match number {
                    _ if number < zero => cells &= !(1 << bit),
                    _ if number < stuck => cells |= 1 << bit,
                    _ => {}
                }
            }
        }
        // The highest cell is the sign.
        (cells << (8 - bits)) as i8 >> (8 - bits)
    };
    weights.iter().enumerate().map(weight).collect()
}

fn seed_key(seed: u64) -> Key {
    [seed as u32, (seed >> 32) as u32]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{IntegerKernel, IntegerSimd, dispatch_integers, on_each_isa};

    #[derive(Clone, Copy)]
    struct Draw(ConversionNoise);

    impl IntegerKernel for Draw {
        type Output = Vec<[[i32; LANES]; 2]>;

        #[inline(always)]
        fn run<S: IntegerSimd>(self, _: S) -> Self::Output {
            let mut drawn = Vec::new();
            for number in 0..2000 {
                drawn.push(self.0.pair([5, 6], 7, number));
            }
            drawn
        }
    }

    #[test]
    fn every_instruction_set_draws_the_same_noise() {
        let noise = Noise { sigma: 37.3, ..Noise::default() };
        let noise = ConversionNoise::new(&noise, Converter::Ideal, ConvId::Projection(1)).unwrap();
        let portable = (0..2000).map(|number| noise.pair([5, 6], 7, number)).collect::<Vec<_>>();
        for (isa, drawn) in on_each_isa(|| dispatch_integers(Draw(noise))) {
            assert_eq!(drawn, portable, "{isa:?}");
        }
        let largest = portable.iter().flatten().flatten().map(|noise| noise.abs()).max().unwrap();
        assert!((120..=noise.largest()).contains(&largest), "{largest}");
    }

    /// The converter decides on the rounded noise as it would on the noise itself.
    #[test]
    fn rounding_the_noise_changes_no_code() {
        for step in 1..=5 {
            let noise = Noise { sigma: 1.7, ..Noise::default() };
            let noise = ConversionNoise::new(&noise, Converter::Bits { bits: 8, step }, ConvId::Own(0)).unwrap();
            for number in 0..50 {
                let exact = normals(threefry_lanes::<LANES>([1, 1], 0, number * LANES as u32))[0];
                let rounded = noise.pair([1, 1], 0, number)[0];
                for (exact, rounded) in exact.into_iter().zip(rounded) {
                    for sum in -9..9 {
                        let step = f64::from(step);
                        let code = |sum: f64| (sum / step + 0.5).floor();
                        let exact = f64::from(sum) + f64::from(exact * noise.sigma);
                        assert_eq!(code(exact), code(f64::from(sum + rounded)), "step {step}, sum {exact}");
                    }
                }
            }
        }
    }

    #[test]
    fn cells_stick_as_often_as_they_should() {
        let noise = Noise { stuck_at_zero: 0.01, stuck_at_one: 0.03, ..Noise::default() };
        let cells = |weight: i8, bits: u8| {
            let weights = stuck_weights(&noise, &vec![weight; 100_000], bits, ConvId::Own(2));
            weights.iter().map(|found| (found ^ weight).count_ones()).sum::<u32>()
        };
        // 8 cells of 100,000 weights; the standard deviation is 89 and 152.
        assert!((8000u32).abs_diff(cells(-1, 8)) < 360);
        assert!((24_000u32).abs_diff(cells(0, 8)) < 610);
        // With 4 cells the sign is the fourth one: it fills the byte's upper half.
        let weights =
            stuck_weights(&Noise { stuck_at_one: 1.0, stuck_at_zero: 0.0, ..noise }, &[0, 5, -8], 4, ConvId::Own(0));
        assert_eq!(weights, [-1; 3]);
        assert_eq!(
            stuck_weights(&Noise { stuck_at_zero: 1.0, stuck_at_one: 0.0, ..noise }, &[7, -1, -8], 4, ConvId::Own(0)),
            [0; 3]
        );
        let [own, projection] =
            [ConvId::Own(0), ConvId::Projection(0)].map(|conv| stuck_weights(&noise, &[0; 999], 8, conv));
        assert_ne!(own, projection);
    }
}
