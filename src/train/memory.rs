//! The allocator of programs that train.

use std::ffi::{c_int, c_long};

/// For `#[global_allocator]`: memory that one step gives back serves the next one.
pub use mimalloc::MiMalloc as Allocator;

/// `mi_option_purge_delay` of mimalloc 3, whose Rust interface leaves it out.
const PURGE_DELAY: c_int = 15;

unsafe extern "C" {
    safe fn mi_option_set(option: c_int, value: c_long);
}

/// Keeps what is given back for later steps: by default the allocator returns to the system, once a second, what is free at that
/// moment, and clearing it again took up to a tenth of a step.
pub fn keep_memory() {
    mi_option_set(PURGE_DELAY, -1);
}
