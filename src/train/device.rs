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

/// The device of a name.
///
/// # Errors
/// Lists those that this build has.
pub fn device(name: &str) -> Result<Device> {
    match name {
        "flex" => Ok(default_device()),
        "ndarray" => Ok(ndarray_device()),
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Device::cuda(0)),
        #[cfg(feature = "wgpu")]
        "wgpu" => Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
        _ => Err(Error::Setting(format!(
            "there is no device `{name}` in this build, which has: {}; cuda and wgpu need --features cuda or wgpu",
            DEVICES.join(", ")
        ))),
    }
}

// Burn has deprecated it; it stays as the slow cross-check of the others.
#[allow(deprecated)]
fn ndarray_device() -> Device {
    Device::ndarray()
}
