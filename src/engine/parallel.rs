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
    let mut out = Vec::with_capacity(len);
    let uninitialized = &mut out.spare_capacity_mut()[..len];
    let results = uninitialized
        .par_chunks_mut(part)
        .enumerate()
        .map_init(scratch, |scratch, (index, part)| make(scratch, index, zeroed(part)))
        .collect();
    // SAFETY: each part was initialized.
    unsafe { out.set_len(len) };
    (out, results)
}

fn zeroed(part: &mut [MaybeUninit<f32>]) -> &mut [f32] {
    part.fill(MaybeUninit::new(0.0));
    // SAFETY: just initialized; the layout is the same.
    unsafe { &mut *(std::ptr::from_mut(part) as *mut [f32]) }
}
