//! The inner product of the array execution, for the vector units that a computer may have. The hardware model's only file with `unsafe`.
//!
//! All variants give the same bits: products of an unsigned and a signed byte are added in 32 bits, and nothing saturates
//! below `2^31`.

/// Outputs that are computed side by side.
pub(super) const LANES: usize = 16;
/// Rows whose weights lie side by side for each output.
pub(super) const QUAD: usize = 4;

/// The weights of four rows for all lanes: `[lane][row]`.
pub(super) type Weights = [i8; LANES * QUAD];
/// The inputs of four rows.
pub(super) type Inputs = [u8; QUAD];

/// What adds up products of weights and inputs.
pub(super) trait Dot: Copy {
    /// What the sums are then.
    type Sums;
    /// All zero.
    fn zero() -> Self;
    /// Adds four rows to each lane.
    fn dot(self, weights: &Weights, inputs: Inputs) -> Self;
    /// The sums.
    fn sums(self) -> Self::Sums;
}

/// Magnitude that a sum over two of the four rows may reach in [`Sums::Narrow`].
pub(super) const NARROW_LIMIT: i32 = i16::MAX as i32;

/// A vector of [`LANES`] sums. Its functions are only called through [`dispatch`], which checks that the unit is there.
pub(super) trait Sums: Dot<Sums = Self> {
    /// Sums for products so small that those of the first two rows of all quads stay within [`NARROW_LIMIT`], and those of the
    /// last two as well; a unit may add them up in 16 bits.
    type Narrow: Dot<Sums = Self>;
    /// Adds `other * factor` to each lane.
    fn add_product(self, other: Self, factor: i32) -> Self;
    /// Adds a number to each lane.
    fn plus(self, number: i32) -> Self;
    /// The low 32 bits of each lane times a number.
    fn times(self, number: i32) -> Self;
    /// Shifts each lane, taken without sign.
    fn shift_right(self, bits: u32) -> Self;
    /// Saturates each lane.
    fn clamp(self, low: i32, high: i32) -> Self;
    /// True if a lane is below `low` or above `high`.
    fn beyond(self, low: i32, high: i32) -> bool;
    /// The sums as numbers.
    fn lanes(self) -> [i32; LANES];
    /// Numbers as sums.
    fn from_lanes(lanes: [i32; LANES]) -> Self;
}

/// Work that can run on any vector unit. Implementations mark `run` `#[inline(always)]`.
pub(super) trait Task {
    /// What it gives.
    type Output;
    /// Does it.
    fn run<S: Sums>(self) -> Self::Output;
}

/// Runs a task on the best vector unit of this computer.
pub(super) fn dispatch<T: Task>(task: T) -> T::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
        {
            // SAFETY: the features of `on_avx512` were just detected.
            return unsafe { x86::on_avx512(task) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature of `on_avx2` was just detected.
            return unsafe { x86::on_avx2(task) };
        }
    }
    task.run::<Portable>()
}

/// Plain Rust.
#[derive(Clone, Copy)]
pub(super) struct Portable([i32; LANES]);

impl Dot for Portable {
    type Sums = Self;

    #[inline(always)]
    fn zero() -> Self {
        Self([0; LANES])
    }

    #[inline(always)]
    fn dot(mut self, weights: &Weights, inputs: Inputs) -> Self {
        for (sum, weights) in self.0.iter_mut().zip(weights.chunks_exact(QUAD)) {
            for (weight, input) in weights.iter().zip(inputs) {
                *sum += i32::from(*weight) * i32::from(input);
            }
        }
        self
    }

    #[inline(always)]
    fn sums(self) -> Self {
        self
    }
}

impl Sums for Portable {
    type Narrow = Self;

    #[inline(always)]
    fn add_product(mut self, other: Self, factor: i32) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(sum, other)| *sum += other * factor);
        self
    }

    #[inline(always)]
    fn plus(mut self, number: i32) -> Self {
        self.0.iter_mut().for_each(|sum| *sum += number);
        self
    }

    #[inline(always)]
    fn times(mut self, number: i32) -> Self {
        self.0.iter_mut().for_each(|sum| *sum = sum.wrapping_mul(number));
        self
    }

    #[inline(always)]
    fn shift_right(mut self, bits: u32) -> Self {
        self.0.iter_mut().for_each(|sum| *sum = (*sum as u32 >> bits) as i32);
        self
    }

    #[inline(always)]
    fn clamp(mut self, low: i32, high: i32) -> Self {
        self.0.iter_mut().for_each(|sum| *sum = (*sum).clamp(low, high));
        self
    }

    #[inline(always)]
    fn beyond(self, low: i32, high: i32) -> bool {
        self.0.iter().any(|sum| !(low..=high).contains(sum))
    }

    #[inline(always)]
    fn lanes(self) -> [i32; LANES] {
        self.0
    }

    #[inline(always)]
    fn from_lanes(lanes: [i32; LANES]) -> Self {
        Self(lanes)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Dot, Inputs, LANES, Sums, Task, Weights};

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn on_avx512<T: Task>(task: T) -> T::Output {
        task.run::<Avx512>()
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn on_avx2<T: Task>(task: T) -> T::Output {
        task.run::<Avx2>()
    }

    /// One register of 16 sums; VNNI multiplies and adds four rows at once.
    #[derive(Clone, Copy)]
    pub(super) struct Avx512(__m512i);

    impl Dot for Avx512 {
        type Sums = Self;

        #[inline(always)]
        fn zero() -> Self {
            // SAFETY: only reached through `dispatch`, which detected the features.
            Self(unsafe { _mm512_setzero_si512() })
        }

        #[inline(always)]
        fn dot(self, weights: &Weights, inputs: Inputs) -> Self {
            // SAFETY: features as in `zero`; the load reads the 64 bytes of `weights`, without alignment.
            unsafe {
                let weights = _mm512_loadu_si512(weights.as_ptr().cast());
                let inputs = _mm512_set1_epi32(i32::from_le_bytes(inputs));
                Self(_mm512_dpbusd_epi32(self.0, inputs, weights))
            }
        }

        #[inline(always)]
        fn sums(self) -> Self {
            self
        }
    }

    impl Sums for Avx512 {
        type Narrow = Self;

        #[inline(always)]
        fn add_product(self, other: Self, factor: i32) -> Self {
            // SAFETY: features as in `zero`.
            Self(unsafe { _mm512_add_epi32(self.0, _mm512_mullo_epi32(other.0, _mm512_set1_epi32(factor))) })
        }

        #[inline(always)]
        fn plus(self, number: i32) -> Self {
            // SAFETY: features as in `zero`.
            Self(unsafe { _mm512_add_epi32(self.0, _mm512_set1_epi32(number)) })
        }

        #[inline(always)]
        fn times(self, number: i32) -> Self {
            // SAFETY: features as in `zero`.
            Self(unsafe { _mm512_mullo_epi32(self.0, _mm512_set1_epi32(number)) })
        }

        #[inline(always)]
        fn shift_right(self, bits: u32) -> Self {
            // SAFETY: features as in `zero`.
            Self(unsafe { _mm512_srl_epi32(self.0, _mm_cvtsi32_si128(bits as i32)) })
        }

        #[inline(always)]
        fn clamp(self, low: i32, high: i32) -> Self {
            // SAFETY: features as in `zero`.
            unsafe {
                let raised = _mm512_max_epi32(self.0, _mm512_set1_epi32(low));
                Self(_mm512_min_epi32(raised, _mm512_set1_epi32(high)))
            }
        }

        #[inline(always)]
        fn beyond(self, low: i32, high: i32) -> bool {
            // SAFETY: features as in `zero`.
            unsafe {
                let below = _mm512_cmplt_epi32_mask(self.0, _mm512_set1_epi32(low));
                let above = _mm512_cmpgt_epi32_mask(self.0, _mm512_set1_epi32(high));
                below | above != 0
            }
        }

        #[inline(always)]
        fn lanes(self) -> [i32; LANES] {
            // SAFETY: both types are 64 bytes of integers.
            unsafe { std::mem::transmute(self.0) }
        }

        #[inline(always)]
        fn from_lanes(lanes: [i32; LANES]) -> Self {
            // SAFETY: both types are 64 bytes of integers.
            Self(unsafe { std::mem::transmute::<[i32; LANES], __m512i>(lanes) })
        }
    }

    /// Two registers of 8 sums. Even and odd rows are widened to 16 bits and multiplied apart, so that no pair saturates.
    #[derive(Clone, Copy)]
    pub(super) struct Avx2([__m256i; 2]);

    impl Dot for Avx2 {
        type Sums = Self;

        #[inline(always)]
        fn zero() -> Self {
            // SAFETY: only reached through `dispatch`, which detected the feature.
            Self(unsafe { [_mm256_setzero_si256(); 2] })
        }

        #[inline(always)]
        fn dot(mut self, weights: &Weights, inputs: Inputs) -> Self {
            // SAFETY: feature as in `zero`; the two loads read the two halves of the 64 bytes of `weights`, without alignment.
            unsafe {
                let inputs = _mm256_set1_epi32(i32::from_le_bytes(inputs));
                let even_inputs = _mm256_and_si256(inputs, _mm256_set1_epi16(0xff));
                let odd_inputs = _mm256_srli_epi16::<8>(inputs);
                for (half, sum) in self.0.iter_mut().enumerate() {
                    let weights = _mm256_loadu_si256(weights.as_ptr().add(32 * half).cast());
                    let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(weights));
                    let odd = _mm256_srai_epi16::<8>(weights);
                    let products =
                        _mm256_add_epi32(_mm256_madd_epi16(even, even_inputs), _mm256_madd_epi16(odd, odd_inputs));
                    *sum = _mm256_add_epi32(*sum, products);
                }
            }
            self
        }

        #[inline(always)]
        fn sums(self) -> Self {
            self
        }
    }

    /// Two registers of 8 lanes, each of two 16-bit sums.
    #[derive(Clone, Copy)]
    pub(super) struct NarrowAvx2([__m256i; 2]);

    impl Dot for NarrowAvx2 {
        type Sums = Avx2;

        #[inline(always)]
        fn zero() -> Self {
            // SAFETY: only reached through `dispatch`, which detected the feature.
            Self(unsafe { [_mm256_setzero_si256(); 2] })
        }

        #[inline(always)]
        fn dot(mut self, weights: &Weights, inputs: Inputs) -> Self {
            // SAFETY: feature as in `zero`; the two loads read the two halves of the 64 bytes of `weights`, without alignment.
            unsafe {
                let inputs = _mm256_set1_epi32(i32::from_le_bytes(inputs));
                for (half, sum) in self.0.iter_mut().enumerate() {
                    let weights = _mm256_loadu_si256(weights.as_ptr().add(32 * half).cast());
                    *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(inputs, weights));
                }
            }
            self
        }

        #[inline(always)]
        fn sums(mut self) -> Avx2 {
            for sum in &mut self.0 {
                // SAFETY: feature as in `zero`.
                *sum = unsafe { _mm256_madd_epi16(*sum, _mm256_set1_epi16(1)) };
            }
            Avx2(self.0)
        }
    }

    impl Sums for Avx2 {
        type Narrow = NarrowAvx2;

        #[inline(always)]
        fn add_product(mut self, other: Self, factor: i32) -> Self {
            for (sum, other) in self.0.iter_mut().zip(other.0) {
                // SAFETY: feature as in `zero`.
                *sum = unsafe { _mm256_add_epi32(*sum, _mm256_mullo_epi32(other, _mm256_set1_epi32(factor))) };
            }
            self
        }

        #[inline(always)]
        fn plus(mut self, number: i32) -> Self {
            for sum in &mut self.0 {
                // SAFETY: feature as in `zero`.
                *sum = unsafe { _mm256_add_epi32(*sum, _mm256_set1_epi32(number)) };
            }
            self
        }

        #[inline(always)]
        fn times(mut self, number: i32) -> Self {
            for sum in &mut self.0 {
                // SAFETY: feature as in `zero`.
                *sum = unsafe { _mm256_mullo_epi32(*sum, _mm256_set1_epi32(number)) };
            }
            self
        }

        #[inline(always)]
        fn shift_right(mut self, bits: u32) -> Self {
            for sum in &mut self.0 {
                // SAFETY: feature as in `zero`.
                *sum = unsafe { _mm256_srl_epi32(*sum, _mm_cvtsi32_si128(bits as i32)) };
            }
            self
        }

        #[inline(always)]
        fn clamp(mut self, low: i32, high: i32) -> Self {
            for sum in &mut self.0 {
                // SAFETY: feature as in `zero`.
                *sum = unsafe {
                    let raised = _mm256_max_epi32(*sum, _mm256_set1_epi32(low));
                    _mm256_min_epi32(raised, _mm256_set1_epi32(high))
                };
            }
            self
        }

        #[inline(always)]
        fn beyond(self, low: i32, high: i32) -> bool {
            self.0.into_iter().any(|sums| {
                // SAFETY: feature as in `zero`.
                unsafe {
                    let below = _mm256_cmpgt_epi32(_mm256_set1_epi32(low), sums);
                    let above = _mm256_cmpgt_epi32(sums, _mm256_set1_epi32(high));
                    _mm256_movemask_epi8(_mm256_or_si256(below, above)) != 0
                }
            })
        }

        #[inline(always)]
        fn lanes(self) -> [i32; LANES] {
            // SAFETY: both types are 64 bytes of integers.
            unsafe { std::mem::transmute(self.0) }
        }

        #[inline(always)]
        fn from_lanes(lanes: [i32; LANES]) -> Self {
            // SAFETY: both types are 64 bytes of integers.
            Self(unsafe { std::mem::transmute::<[i32; LANES], [__m256i; 2]>(lanes) })
        }
    }

    #[cfg(test)]
    pub(super) fn run_all<T: Task + Copy>(task: T) -> Vec<T::Output> {
        let mut outputs = Vec::new();
        if is_x86_feature_detected!("avx2") {
            // SAFETY: detected.
            outputs.push(unsafe { on_avx2(task) });
        }
        if is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512bw") {
            // SAFETY: detected; every unit with these two has the other features of `on_avx512`.
            outputs.push(unsafe { on_avx512(task) });
        }
        outputs
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy)]
    struct All<'a>(&'a [(Weights, Inputs)]);

    impl Task for All<'_> {
        type Output = ([i32; LANES], [i32; LANES], [bool; 3], [i32; LANES]);

        #[inline(always)]
        fn run<S: Sums>(self) -> Self::Output {
            let sums = self.0.iter().fold(S::zero(), |sums, (weights, inputs)| sums.dot(weights, *inputs));
            let lanes = sums.lanes();
            let (low, high) = (*lanes.iter().min().unwrap(), *lanes.iter().max().unwrap());
            let beyond = [(low, high), (low + 1, high), (low, high - 1)].map(|(low, high)| sums.beyond(low, high));
            let chain = sums.clamp(-9999, 5000).plus(9999).times(0x0080_4021).shift_right(7);
            (lanes, sums.add_product(S::from_lanes(lanes), -7).lanes(), beyond, chain.lanes())
        }
    }

    fn agree(rows: &[(Weights, Inputs)]) {
        let expected = All(rows).run::<Portable>();
        assert_eq!(expected.1, expected.0.map(|sum| -6 * sum));
        assert_eq!(expected.2, [false, true, true]);
        let chain = |sum: i32| (sum.clamp(-9999, 5000) + 9999) as u32;
        assert_eq!(expected.3, expected.0.map(|sum| (chain(sum).wrapping_mul(0x0080_4021) >> 7) as i32));
        assert_eq!(dispatch(All(rows)), expected);
        #[cfg(target_arch = "x86_64")]
        x86::run_all(All(rows)).into_iter().for_each(|sums| assert_eq!(sums, expected));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn all_vector_units_give_the_same_bits(
            rows in prop::collection::vec(
                (prop::collection::vec(any::<i8>(), 64).prop_map(|w| w.try_into().unwrap()), any::<Inputs>()),
                0..20,
            ),
        ) {
            agree(&rows);
        }
    }

    #[derive(Clone, Copy)]
    struct AllNarrow<'a>(&'a [(Weights, Inputs)]);

    impl Task for AllNarrow<'_> {
        type Output = [i32; LANES];

        #[inline(always)]
        fn run<S: Sums>(self) -> Self::Output {
            let sums = self.0.iter().fold(S::Narrow::zero(), |sums, (weights, inputs)| sums.dot(weights, *inputs));
            sums.sums().lanes()
        }
    }

    /// 12 quads of two products of 1365 stay just below the limit, with either sign.
    #[test]
    fn narrow_sums_are_exact_up_to_their_limit() {
        for (weight, input) in [(105, 13), (-105, 13), (13, 105), (-13, 105)] {
            let mut rows = vec![([weight; LANES * QUAD], [input; QUAD]); 12];
            assert!(2 * 12 * i32::from(weight).abs() * i32::from(input) <= NARROW_LIMIT);
            rows[3].0[7] = 0;
            let expected = All(&rows).run::<Portable>().0;
            assert_eq!(AllNarrow(&rows).run::<Portable>(), expected);
            assert_eq!(dispatch(AllNarrow(&rows)), expected);
            #[cfg(target_arch = "x86_64")]
            x86::run_all(AllNarrow(&rows)).into_iter().for_each(|sums| assert_eq!(sums, expected));
        }
    }

    #[test]
    fn the_largest_products_do_not_saturate() {
        for weight in [i8::MIN, i8::MAX] {
            agree(&[([weight; LANES * QUAD], [255; QUAD]); 16]);
        }
    }
}
