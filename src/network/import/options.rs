//! What a user says about a checkpoint.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Error, Result};

/// What a user says about a checkpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImportOptions<'a> {
    /// Module of a layer, or of a layer's batch norm as `LAYER.norm`.
    pub names: Option<&'a BTreeMap<String, String>>,
    /// Layers of the network, or modules of the checkpoint, that are trained anew.
    pub fresh: &'a [String],
    /// Modules of the checkpoint that aren't read, with all that lies in them.
    pub ignore: &'a [String],
    /// Seed of the weights of what is trained anew.
    pub seed: u64,
}

impl<'a> ImportOptions<'a> {
    /// What of `ignore` an array lies in, with or without a prefix: its own name, or that of a module around it.
    pub(super) fn ignoring(&self, array: &str, prefix: &str) -> Option<&'a String> {
        self.ignore.iter().find(|module| lies_in(array, prefix, module))
    }

    /// Refuses to ignore what isn't among the names of a file's arrays, with or without a prefix.
    ///
    /// # Errors
    /// Names the module.
    pub(super) fn check_ignored<'n>(
        &self,
        path: &Path,
        names: impl IntoIterator<Item = &'n str>,
        prefix: &str,
    ) -> Result<()> {
        let mut missing: Vec<&String> = self.ignore.iter().collect();
        for name in names {
            missing.retain(|module| !lies_in(name, prefix, module));
        }
        match missing.first() {
            None => Ok(()),
            Some(module) => Err(Error::file(path, format!("it has no `{module}`, which `ignore` names"))),
        }
    }
}

/// Whether an array, with or without a prefix, has this name or lies in a module of this name.
fn lies_in(array: &str, prefix: &str, module: &str) -> bool {
    let mut names = [Some(array), array.strip_prefix(prefix)].into_iter().flatten();
    names.any(|name| name.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}
