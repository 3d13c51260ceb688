//! Float weights by name, as checkpoints hold them.
//!
//! An array's name is that of its convolution (`L.projection` for the projection of layer `L`) and of its [`Role`].

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;

use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::graph::Graph;
use super::node::Conv;
use super::role::Role;
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::seal::{NO_CHECKSUM, checksum, seal};

/// Key of the metadata in files that MARS writes.
pub(super) const METADATA: &str = "mars";
/// Key of a run's position in checkpoints from before they had a checksum.
const UNSEALED: &str = "position";

/// How the names of the arrays begin that a run's checkpoint holds beside the parameters.
#[cfg(feature = "train")]
pub(crate) mod state {
    pub(crate) const MOMENTUM: &str = "momentum:";
    pub(crate) const AVERAGE: &str = "average:";
    pub(crate) const FLOAT: &str = "float:";
    pub(crate) const KEPT: &str = "kept:";
    pub(crate) const SALIENCY: &str = "effects:";
    /// All of them.
    pub(crate) const PREFIXES: [&str; 5] = [MOMENTUM, AVERAGE, FLOAT, KEPT, SALIENCY];
}

/// What a file says beside its arrays, as JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    /// Of the whole file, made with zeros in its place.
    sha256: String,
    /// Whatever else belongs to the arrays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<Value>,
}

/// An array on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Sizes.
    pub shape: Vec<usize>,
    /// Values, last index fastest.
    pub values: Vec<f32>,
}

impl Array {
    /// A one-dimensional array.
    pub fn vector(values: Vec<f32>) -> Self {
        Self { shape: vec![values.len()], values }
    }

    /// Refuses another shape than that which `graph` asks for.
    pub(crate) fn check_shape(&self, name: &str, shape: &[usize], graph: &Graph) -> Result<()> {
        if self.shape == shape {
            return Ok(());
        }
        let network = graph.spec().name.clone();
        Err(Error::Shape { array: name.into(), found: self.shape.clone(), network, expected: shape.into() })
    }

    /// Refuses values that aren't finite.
    pub(crate) fn check_finite(&self, name: &str) -> Result<()> {
        match self.values.iter().find(|value| !value.is_finite()) {
            Some(value) => Err(Error::Setting(format!("`{name}` holds {value}"))),
            None => Ok(()),
        }
    }
}

/// Arrays by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weights {
    arrays: BTreeMap<String, Array>,
}

impl Weights {
    /// Random weights: He et al. 2015, normal with variance `2 / (depth * taps)`; batch norm as identity, biases zero.
    pub fn random(graph: &Graph, seed: u64) -> Self {
        Self::drawn(graph, ChaCha8Rng::seed_from_u64(seed))
    }

    /// Others for layers that join a checkpoint's, which may have begun with those of the same seed.
    #[cfg(feature = "train")]
    pub(crate) fn fresh(graph: &Graph, seed: u64) -> Self {
        Self::drawn(graph, ChaCha8Rng::seed_from_u64(!seed))
    }

    fn drawn(graph: &Graph, mut rng: ChaCha8Rng) -> Self {
        let mut weights = Self::default();
        for conv in graph.convs() {
            let Conv { name, shape, .. } = &conv;
            let deviation = (2.0 / (shape.depth() * shape.taps()) as f64).sqrt();
            for role in Role::of_float(&conv) {
                let values = match role {
                    Role::Weight => {
                        let normal = StandardNormal.sample_iter(&mut rng).take(shape.weights());
                        normal.map(|z: f64| (deviation * z) as f32).collect()
                    }
                    Role::Gamma | Role::Variance => vec![1.0; shape.filters()],
                    _ => vec![0.0; shape.filters()],
                };
                weights.insert(role.array_name(name), Array { shape: role.shape(shape), values });
            }
        }
        weights
    }

    /// Bytes of all values.
    pub fn bytes(&self) -> u64 {
        let values: usize = self.arrays.values().map(|array| array.values.len()).sum();
        (values * size_of::<f32>()) as u64
    }

    /// The array of a name.
    ///
    /// # Errors
    /// Names what is missing.
    pub fn get(&self, name: &str) -> Result<&Array> {
        self.arrays.get(name).ok_or_else(|| Error::Setting(format!("the checkpoint has no array `{name}`")))
    }

    /// The array of a name, if there is one.
    pub fn find(&self, name: &str) -> Option<&Array> {
        self.arrays.get(name)
    }

    /// The arrays whose names begin with `prefix`, without it.
    pub fn with_prefix(&self, prefix: &str) -> Self {
        let arrays =
            self.arrays.iter().filter_map(|(name, array)| Some((name.strip_prefix(prefix)?.into(), array.clone())));
        Self { arrays: arrays.collect() }
    }

    /// True without arrays.
    pub fn is_empty(&self) -> bool {
        self.arrays.is_empty()
    }

    /// Adds or replaces an array.
    pub fn insert(&mut self, name: String, array: Array) {
        self.arrays.insert(name, array);
    }

    /// All arrays in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Array)> {
        self.arrays.iter().map(|(name, array)| (name.as_str(), array))
    }

    /// Reads a safetensors file, and the state that [`save`](Self::save) was given.
    ///
    /// # Errors
    /// A missing, cut-off or foreign file; one of MARS's that has changed since it was written; an array that isn't `f32`.
    pub fn load(path: &Path) -> Result<(Self, Option<Value>)> {
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        let damaged = |error| Error::file(path, format!("not a readable safetensors file ({error})"));
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
        let file = SafeTensors::deserialize(&bytes).map_err(damaged)?;
        let mut weights = Self::default();
        for (name, view) in file.iter() {
            // PyTorch counts the batches that a batch norm has seen, as an integer.
            if name.ends_with("num_batches_tracked") {
                continue;
            }
            if view.dtype() != Dtype::F32 {
                return Err(Error::file(path, format!("`{name}` is {:?}, expected F32", view.dtype())));
            }
            let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            weights.insert(name.into(), Array { shape: view.shape().to_vec(), values });
        }
        let metadata = header.metadata().clone().unwrap_or_default();
        let json = |text: &String| -> Result<Value> {
            serde_json::from_str(text).map_err(|error| Error::file(path, format!("its metadata: {error}")))
        };
        let state = match metadata.get(METADATA) {
            Some(text) => unsealed(&bytes, text).map_err(|message| Error::file(path, message))?,
            None => metadata.get(UNSEALED).map(json).transpose()?.map(|position| json!({ UNSEALED: position })),
        };
        Ok((weights, state))
    }

    /// Writes a safetensors file with a checksum, and with a state beside the arrays, beside its place first.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path, state: Option<Value>) -> Result<()> {
        let failed = |error: &dyn Display| Error::file(path, error.to_string());
        let header = Header { sha256: NO_CHECKSUM.into(), state };
        let header = serde_json::to_string(&header).map_err(|error| failed(&error))?;
        let bytes: Vec<(&String, &Array, Vec<u8>)> = self
            .arrays
            .iter()
            .map(|(name, array)| (name, array, array.values.iter().flat_map(|value| value.to_le_bytes()).collect()))
            .collect();
        let views = bytes
            .iter()
            .map(|(name, array, bytes)| Ok((name.as_str(), TensorView::new(Dtype::F32, array.shape.clone(), bytes)?)))
            .collect::<std::result::Result<Vec<_>, safetensors::SafeTensorError>>();
        let mut file = views
            .and_then(|views| safetensors::serialize(views, Some([(METADATA.to_owned(), header)].into())))
            .map_err(|error| failed(&error))?;
        // The metadata comes first in the file, and the checksum first in them.
        seal(&mut file).expect("zeros in the place of the checksum");
        write_atomically(path, &file)
    }
}

/// The state in the metadata of a file, if nothing in the file has changed.
pub(super) fn unsealed(bytes: &[u8], metadata: &str) -> std::result::Result<Option<Value>, String> {
    /// What a package says under the same key.
    #[derive(Deserialize)]
    struct Package {
        #[serde(rename = "version")]
        _version: u64,
    }
    let header = serde_json::from_str(metadata);
    let Header { sha256, state } = header.map_err(|error| match serde_json::from_str::<Package>(metadata) {
        Ok(_) => "it is a package, which holds integers: name checkpoints/last.safetensors of its run, or start from the whole of it as a file that ends in .mars".into(),
        Err(_) => format!("its metadata: {error}"),
    })?;
    match checksum(bytes, &sha256) {
        Some(found) if found == sha256 => Ok(state),
        _ => Err("its checksum is another one than its content's: the file is damaged".into()),
    }
}
