//! Random numbers that follow from where they are used and from nothing else.
//!
//! A counter-based generator (Threefry-2x32 with 13 rounds: Salmon, Moraes, Dror, Shaw, *Parallel random numbers: as easy as 1,
//! 2, 3*, SC 2011) turns a place into 64 bits, so that threads, batches and order change nothing. Gaussian numbers are those of
//! Box and Muller, in single precision with the operations that IEEE 754 rounds exactly: every vector unit gives the same bits.

/// 64 bits that pick a stream of numbers.
pub(crate) type Key = [u32; 2];

/// No Gaussian number is larger: `sqrt(-2 ln 2^-32)`, rounded up.
pub(super) const LARGEST: f64 = 6.661;

/// Parity of Threefry's key schedule.
const PARITY: u32 = 0x1bd1_1bda;

/// Two random words for a counter.
pub(super) fn threefry(key: Key, counter: [u32; 2]) -> [u32; 2] {
    let [first, second] = threefry_lanes::<1>(key, counter[0], counter[1]);
    [first[0], second[0]]
}

/// Two random words for the counters `[high, low]`, `[high, low + 1]`, ...
#[inline(always)]
pub(super) fn threefry_lanes<const N: usize>(key: Key, high: u32, low: u32) -> [[u32; N]; 2] {
    let keys = [key[0], key[1], PARITY ^ key[0] ^ key[1]];
    let mut x = [high.wrapping_add(keys[0]); N];
    let mut y = [0; N];
    for (lane, y) in y.iter_mut().enumerate() {
        *y = low.wrapping_add(lane as u32).wrapping_add(keys[1]);
    }
    mix([13, 15, 26, 6], &mut x, &mut y);
    inject(keys, 1, &mut x, &mut y);
    mix([17, 29, 16, 24], &mut x, &mut y);
    inject(keys, 2, &mut x, &mut y);
    mix([13, 15, 26, 6], &mut x, &mut y);
    inject(keys, 3, &mut x, &mut y);
    mix([17], &mut x, &mut y);
    [x, y]
}

/// Rounds of Threefry, one for each rotation.
#[inline(always)]
fn mix<const N: usize, const ROUNDS: usize>(rotations: [u32; ROUNDS], x: &mut [u32; N], y: &mut [u32; N]) {
    for rotation in rotations {
        for lane in 0..N {
            x[lane] = x[lane].wrapping_add(y[lane]);
            y[lane] = y[lane].rotate_left(rotation) ^ x[lane];
        }
    }
}

/// Adds the keys of Threefry's schedule.
#[inline(always)]
fn inject<const N: usize>(keys: [u32; 3], number: usize, x: &mut [u32; N], y: &mut [u32; N]) {
    for lane in 0..N {
        x[lane] = x[lane].wrapping_add(keys[number % 3]);
        y[lane] = y[lane].wrapping_add(keys[(number + 1) % 3]).wrapping_add(number as u32);
    }
}

/// Box and Muller: two independent Gaussian numbers of two random words, mean 0, standard deviation 1.
///
/// The first word gives the radius `sqrt(-2 ln u)`, the second the angle: 30 bits within an eighth of a turn to either side, one
/// bit that mirrors and one that turns round.
#[inline(always)]
pub(super) fn normals<const N: usize>([radius, angle]: [[u32; N]; 2]) -> [[f32; N]; 2] {
    let mut normals = [[0.0; N]; 2];
    for lane in 0..N {
        let u = ((radius[lane] >> 1) as i32 as f32 + 0.5) * (1.0 / 2f32.powi(31));
        let length = (-2.0 * ln(u)).max(0.0).sqrt();
        let turned = f32::from_bits(length.to_bits() | angle[lane] & 0x8000_0000);
        let (sin, cos) = sin_cos((angle[lane] << 2) as i32 as f32 * (std::f32::consts::FRAC_PI_4 / 2f32.powi(31)));
        let mirrored = angle[lane] & 0x4000_0000 != 0;
        normals[0][lane] = turned * if mirrored { sin } else { cos };
        normals[1][lane] = turned * if mirrored { cos } else { sin };
    }
    normals
}

/// `ln u` for `0 < u <= 1`, to about a unit of the last place (polynomial: Moshier, Cephes `logf`).
#[inline(always)]
fn ln(u: f32) -> f32 {
    // u = (1 + f) 2^exponent with sqrt(1/2) <= 1 + f < sqrt(2).
    let above = u.to_bits().wrapping_sub(std::f32::consts::FRAC_1_SQRT_2.to_bits()) as i32;
    let exponent = above >> 23;
    let f = f32::from_bits(u.to_bits().wrapping_sub((exponent as u32) << 23)) - 1.0;
    let square = f * f;
    let mut tail = 7.037_683_6e-2;
    for coefficient in [
        -1.151_461e-1,
        1.167_699_9e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_5e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ] {
        tail = tail * f + coefficient;
    }
    exponent as f32 * std::f32::consts::LN_2 + (f * square * tail - 0.5 * square + f)
}

/// Sine and cosine of at most an eighth of a turn to either side (polynomials: Moshier, Cephes `sinf`, `cosf`).
#[inline(always)]
fn sin_cos(x: f32) -> (f32, f32) {
    let square = x * x;
    let sin = ((-1.951_529_6e-4 * square + 8.332_161e-3) * square - 1.666_665_5e-1) * square * x + x;
    let cos = ((2.443_315_7e-5 * square - 1.388_731_6e-3) * square + 4.166_664_6e-2) * square * square;
    (sin, cos - 0.5 * square + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the authors' Random123 (`kat_vectors`).
    #[test]
    fn threefry_gives_its_authors_numbers() {
        let all = u32::MAX;
        assert_eq!(threefry([0, 0], [0, 0]), [0x9d1c_5ec6, 0x8bd5_0731]);
        assert_eq!(threefry([all, all], [all, all]), [0xfd36_d048, 0x2d17_272c]);
        assert_eq!(threefry([0x1319_8a2e, 0x0370_7344], [0x243f_6a88, 0x85a3_08d3]), [0xba3e_4725, 0xf27d_669e]);
    }

    /// Moments and tails of four million numbers, each within four standard errors of the Gaussian's.
    #[test]
    fn numbers_are_gaussian() {
        let count = 1 << 22;
        let mut moments = [0.0; 4];
        let mut product = 0.0;
        let limits = [0.5, 1.0, 2.0, 3.0, 4.0, 5.0];
        // Shares of a Gaussian beyond each limit, one side.
        let shares = [0.308_537_5, 0.158_655_3, 0.022_750_13, 1.349_898e-3, 3.167_124e-5, 2.866_516e-7];
        let mut beyond = [[0.0; 2]; 6];
        for index in 0..count / 32 {
            let [first, second] = normals(threefry_lanes::<16>([1, 2], 3, 16 * index));
            product += first.iter().zip(&second).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            for number in first.into_iter().chain(second).map(f64::from) {
                assert!(number.abs() < LARGEST);
                (1..).zip(&mut moments).for_each(|(power, moment)| *moment += number.powi(power));
                for (limit, [below, above]) in limits.iter().zip(&mut beyond) {
                    *below += f64::from(u8::from(number < -limit));
                    *above += f64::from(u8::from(number > *limit));
                }
            }
        }
        let n = f64::from(count);
        let near = |found: f64, expected: f64, deviation: f64| {
            assert!((found - expected).abs() < 4.0 * deviation / n.sqrt(), "{found} for {expected}");
        };
        // Standard deviations of the powers of a Gaussian number: 1, sqrt(2), sqrt(15), sqrt(96).
        for ((moment, expected), variance) in moments.into_iter().zip([0.0, 1.0, 0.0, 3.0]).zip([1.0, 2.0, 15.0, 96.0])
        {
            near(moment / n, expected, f64::sqrt(variance));
        }
        near(product / n, 0.0, 1.0);
        for (sides, share) in beyond.into_iter().zip(shares) {
            sides.into_iter().for_each(|found| near(found / n, share, f64::sqrt(share)));
        }
    }

    #[test]
    fn the_largest_number_is_the_largest() {
        for word in [0, 1, u32::MAX] {
            for angle in [0, 0x2000_0000, 0xc000_0000] {
                let [[first], [second]] = normals([[word], [angle]]);
                assert!(f64::from(first.hypot(second)) < LARGEST, "{word} {angle}");
            }
        }
    }
}
