//! Results made in parts by all threads.

use std::mem::MaybeUninit;

use rayon::prelude::*;

/// A vector of `len` floats made in parts of `part` floats (the last one may be shorter), and what `make` gives for each. `make`
/// gets a thread's scratch, a part's index and the part, all zeros, while it is in the cache.
pub(super) fn in_parts<S: Send, R: Send>(
    len: usize,
    part: usize,
    scratch: impl Fn() -> S + Sync + Send,
    make: impl Fn(&mut S, usize, &mut [f32]) -> R + Sync + Send,
) -> (Vec<f32>, Vec<R>) {
    written_in_parts(len, part, scratch, |scratch, index, part| {
        let part = zeroed(part);
        let result = make(scratch, index, part);
        (part, result)
    })
}

/// The same without the zeros: `make` writes its part and gives it back with its result.
///
/// # Panics
/// If `make` gives back other floats.
pub(super) fn written_in_parts<S: Send, R: Send>(
    len: usize,
    part: usize,
    scratch: impl Fn() -> S + Sync + Send,
    make: impl for<'p> Fn(&mut S, usize, &'p mut [MaybeUninit<f32>]) -> (&'p mut [f32], R) + Sync + Send,
) -> (Vec<f32>, Vec<R>) {
    let ([out], results) = all_written_in_parts(len, part, scratch, |scratch, index, [part]| {
        let (written, result) = make(scratch, index, part);
        ([written], result)
    });
    (out, results)
}

/// The same of several vectors at a time, whose parts of one index are made together.
///
/// # Panics
/// If `make` gives back other floats.
pub(super) fn all_written_in_parts<const N: usize, S: Send, R: Send>(
    len: usize,
    part: usize,
    scratch: impl Fn() -> S + Sync + Send,
    make: impl for<'p> Fn(&mut S, usize, [&'p mut [MaybeUninit<f32>]; N]) -> ([&'p mut [f32]; N], R) + Sync + Send,
) -> ([Vec<f32>; N], Vec<R>) {
    let mut outs = std::array::from_fn(|_| Vec::with_capacity(len));
    let mut chunks = outs.each_mut().map(|out| out.spare_capacity_mut()[..len].chunks_mut(part));
    let next = |_| chunks.each_mut().map(|chunks| chunks.next().expect("all have as many"));
    let parts: Vec<[&mut [MaybeUninit<f32>]; N]> = (0..len.div_ceil(part)).map(next).collect();
    let results = parts
        .into_par_iter()
        .enumerate()
        .map_init(scratch, |scratch, (index, parts)| {
            let places = parts.each_ref().map(|part| (part.as_ptr().cast(), part.len()));
            let (written, result) = make(scratch, index, parts);
            assert!(written.map(|part| (part.as_ptr(), part.len())) == places, "a part was written elsewhere");
            result
        })
        .collect();
    for out in &mut outs {
        // SAFETY: each part came back as floats.
        unsafe { out.set_len(len) };
    }
    (outs, results)
}

/// Zeros in place of what isn't initialized.
pub(super) fn zeroed(part: &mut [MaybeUninit<f32>]) -> &mut [f32] {
    part.fill(MaybeUninit::new(0.0));
    // SAFETY: just initialized.
    unsafe { part.assume_init_mut() }
}
