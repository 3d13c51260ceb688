//! Devices that training runs on.

use burn::tensor::Device;

use crate::error::{Error, Result};

/// Devices by the name that `--device` takes.
pub const DEVICES: &[&str] = &[
    "flex",
    "ndarray",
    #[cfg(feature = "cuda")]
    "cuda",
    #[cfg(feature = "wgpu")]
    "wgpu",
];

/// The one that is taken where none is named.
pub const DEFAULT_DEVICE: &str = DEVICES[0];

/// The device that is taken where none is named.
pub(super) fn default_device() -> Device {
    Device::flex()
}

/// Whether layers are computed by `engine`'s kernels there, and not by burn's own operations.
pub(super) fn has_our_kernels(device: &Device) -> bool {
    *device == default_device()
}

/// The device of a name.
///
/// # Errors
/// Lists those that this build has; a GPU that doesn't compute.
pub fn device(name: &str) -> Result<Device> {
    match name {
        "flex" => Ok(default_device()),
        "ndarray" => Ok(ndarray_device()),
        #[cfg(feature = "cuda")]
        "cuda" => usable(name, || Device::cuda(0)),
        #[cfg(feature = "wgpu")]
        "wgpu" => usable(name, || Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
        _ => Err(Error::Setting(format!(
            "there is no device `{name}` in this build, which has: {}; cuda and wgpu need --features cuda or wgpu",
            DEVICES.join(", ")
        ))),
    }
}

/// A device that computes something: burn panics where there is no GPU, driver or runtime compiler, mostly on a thread of its own.
///
/// # Errors
/// The device with what burn said.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn usable(name: &str, device: fn() -> Device) -> Result<Device> {
    use std::panic::{catch_unwind, set_hook, take_hook};
    use std::sync::{Arc, Mutex, PoisonError};

    // One at a time: the hook is the process's.
    static PROBE: Mutex<()> = Mutex::new(());
    let _one = PROBE.lock().unwrap_or_else(PoisonError::into_inner);
    let said = Arc::new(Mutex::new(Vec::new()));
    let hook = take_hook();
    let heard = said.clone();
    set_hook(Box::new(move |panic| {
        let message = panic.payload_as_str().unwrap_or("a panic").to_string();
        heard.lock().unwrap_or_else(PoisonError::into_inner).push(message);
    }));
    let found = catch_unwind(|| {
        let device = device();
        let sum = burn::tensor::Tensor::<1>::ones([2], &device).sum();
        (sum.into_data().try_to_vec::<f32>().ok()? == [2.0]).then_some(device)
    });
    set_hook(hook);
    found.ok().flatten().ok_or_else(|| {
        let said = said.lock().unwrap_or_else(PoisonError::into_inner).first().cloned();
        // What follows is a list of all names that were tried.
        let clause = said.as_deref().and_then(|said| said.lines().next()?.split(" - ").next());
        let reason = clause.map_or(String::new(), |clause| format!(": {clause}"));
        Error::Setting(format!(
            "device `{name}` doesn't compute{reason}; see that the GPU and its driver are there, or leave `--device` out"
        ))
    })
}

// Burn has deprecated it; it stays as the slow cross-check of the others.
#[allow(deprecated)]
fn ndarray_device() -> Device {
    Device::ndarray()
}
