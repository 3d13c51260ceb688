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
    let mut out = Vec::with_capacity(len);
    let uninitialized = &mut out.spare_capacity_mut()[..len];
    let results = uninitialized
        .par_chunks_mut(part)
        .enumerate()
        .map_init(scratch, |scratch, (index, part)| {
            let place = (part.as_ptr().cast(), part.len());
            let (written, result) = make(scratch, index, part);
            assert!((written.as_ptr(), written.len()) == place, "a part was written elsewhere");
            result
        })
        .collect();
    // SAFETY: each part came back as floats.
    unsafe { out.set_len(len) };
    (out, results)
}

/// Zeros in place of what isn't initialized.
pub(super) fn zeroed(part: &mut [MaybeUninit<f32>]) -> &mut [f32] {
    part.fill(MaybeUninit::new(0.0));
    // SAFETY: just initialized.
    unsafe { part.assume_init_mut() }
}
